"""The SimCLR loop on real digits: against a plain loop, interrupted and resumed, and where it must give up."""

import copy
import dataclasses
import io
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headstart.data.arrays import Standardize
from headstart.data.views import draw, render
from headstart.errors import UserError
from headstart.models.autoencoder import build_autoencoder
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import PROJECTOR_INITS, Projector, build_projector
from headstart.precision import use_bf16
from headstart.randomness import generator, global_seed
from headstart.training import contrastive
from headstart.training.contrastive import (
    Batches,
    Epoch,
    Network,
    SimCLR,
    _Run,
    train_simclr,
    training_step,
    validation_loss,
)
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.losses import LOSSES, nt_xent
from headstart.training.optimizers import build_optimizer
from headstart.training.reconstruction import Reconstruction, train_autoencoder
from tests.training.recipe import RECIPE

BATCH = 16


def recipe(**changes) -> SimCLR:
    return dataclasses.replace(RECIPE, **changes)


@pytest.fixture(scope="module")
def batches(split_of, views_of):
    """Train batches of 70 digits (4 of 16 and a rest), validation batches of 33; rotations, crops and jitter."""
    views = views_of(
        crop_scale=[0.5, 1.0], crop_ratio=[0.8, 1.25], rotate=15.0, jitter=0.8, brightness=0.4, contrast=0.4
    )
    return Batches(split_of(0, 70), views, 8, None), Batches(split_of(70, 103), views, 8, None)


def small_network() -> nn.Module:
    """A backbone with convolution and batch norm, small enough for a run per test."""
    with global_seed(0, "small network"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def head(features: int = 8, **changes) -> nn.Sequential:
    settings = {"init": "random", "freeze": "auto", "hidden_dim": 16, "out_dim": 8, "activation": "silu", **changes}
    return build_projector(Projector(**settings), features, seed=0)


def run(batches, settings: SimCLR = RECIPE, network=None, projector=None, **options) -> tuple[nn.Module, list[Epoch]]:
    network, projector = network or small_network(), head() if projector is None else projector
    curve = train_simclr(network, projector, *batches, settings, **{"batch_size": BATCH, "seed": 0, **options})
    return nn.Sequential(network, projector), curve


def equal(first: nn.Module | dict, second: nn.Module | dict) -> bool:
    first, second = (part.state_dict() if isinstance(part, nn.Module) else part for part in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Memory:
    """A checkpoint of bytes that is due at every, or every so many, questions."""

    def __init__(self, every: int = 1) -> None:
        self.content: bytes | None = None
        self.every, self.asked = every, 0

    def load(self):
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def due(self) -> bool:
        self.asked += 1
        return self.asked % self.every == 0

    def save(self, state) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.content = file.getvalue()


class KilledError(Exception):
    """What ends a run in the middle."""


def killed_at(step: int):
    def on_step(now: int) -> None:
        if now == step:
            raise KilledError

    return on_step


# --- the step and the epoch ---


def plain_nt_xent(z_ND: Tensor, temperature: float) -> Tensor:
    unit = nn.functional.normalize(z_ND, dim=1)
    sims = (unit @ unit.T / temperature).masked_fill(torch.eye(len(z_ND), dtype=torch.bool), -torch.inf)
    return nn.functional.cross_entropy(sims, torch.arange(len(z_ND)).roll(len(z_ND) // 2))


def test_loop_equals_a_plain_one(batches):
    """Order, views, rates, weight decay, losses and validation, spelt out with torch's own parts."""
    model, curve = run(batches, recipe(schedule="cosine_per_epoch", warmup_epochs=0, epochs=2))
    train, val = batches
    plain = nn.Sequential(small_network(), head())
    optimizer = torch.optim.SGD(plain.parameters(), lr=BATCH / 256, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2, eta_min=0.02 * BATCH / 256)

    def pairs(source: Batches, rows: Tensor, *purpose: str | int) -> Tensor:
        twice = torch.cat([rows, rows])
        drawn = draw(source.views, source.split.sizes[twice], generator(0, *purpose))
        return render(source.split.images[twice], drawn, source.views, 8)

    states, step = [], 0
    for epoch in range(2):
        order, losses = torch.randperm(70, generator=generator(0, "order", epoch)), []
        for rows in order[:64].split(BATCH):
            optimizer.zero_grad()
            loss = plain_nt_xent(plain(pairs(train, rows, "step", step)), 0.5)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        plain.eval()
        with torch.no_grad():
            val_loss = [
                plain_nt_xent(plain(pairs(val, torch.arange(k * BATCH, (k + 1) * BATCH), "validation", k)), 0.5).item()
                for k in range(2)
            ]
        plain.train()
        states.append((sum(val_loss) / 2, copy.deepcopy(plain.state_dict())))
        expected = Epoch(epoch + 1, sum(losses) / 4, sum(val_loss) / 2, scheduler.get_last_lr()[0], 64)
        ours, plain_ones = (dataclasses.asdict(row) for row in (curve[epoch], expected))
        assert ours.pop("monitor") is plain_ones.pop("monitor") is None
        assert ours == pytest.approx(plain_ones, rel=1e-4)
        scheduler.step()
    best = min(states, key=lambda state: state[0])[1]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best[name], atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def run_resnet(batches, split_of):
    """Train a ResNet-18 on 192 digits for 4 epochs of 6 steps."""
    splits = [dataclasses.replace(batches[0], split=split) for split in (split_of(0, 192), split_of(1000, 1128))]
    settings = recipe(epochs=4, learning_rate=0.2, temperature=0.2, warmup_epochs=0)

    def make(**options) -> tuple[nn.Module, list[Epoch]]:
        network = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)
        return run(splits, settings, network, head(512, hidden_dim=32, out_dim=16), batch_size=32, **options)

    return make


@pytest.fixture(scope="module")
def trained_resnet(run_resnet):
    return run_resnet()


def test_resnet_learns_digits(trained_resnet):
    _, curve = trained_resnet
    assert [row.epoch for row in curve] == [1, 2, 3, 4]
    assert curve[0].train_loss == pytest.approx(math.log(63), abs=0.15)
    assert curve[-1].train_loss < curve[0].train_loss - 0.15
    assert curve[-1].val_loss < curve[0].val_loss - 0.15


def test_resnet_resumes_to_the_same_bits(run_resnet, trained_resnet):
    memory, steps = Memory(every=4), []
    with pytest.raises(KilledError):
        run_resnet(checkpoint=memory, on_step=killed_at(11))
    model, curve = run_resnet(checkpoint=memory, on_step=steps.append)
    assert steps == list(range(9, 25))  # from the middle of the second epoch
    assert curve == trained_resnet[1]
    assert equal(model, trained_resnet[0])


def test_two_runs_are_bitwise_equal_and_another_seed_is_not(batches):
    first, second, other = run(batches), run(batches), run(batches, seed=1)
    assert first[1] == second[1]
    assert equal(first[0], second[0])
    assert other[1] != first[1]


@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
@pytest.mark.parametrize("step", [1, 5, 11])
def test_run_with_another_optimiser_resumes_to_the_same_bits(batches, optimizer, step):
    settings, memory = recipe(optimizer=optimizer, learning_rate={"lars": 10.0, "adamw": 0.02}[optimizer]), Memory()

    def make(**options):
        return run(batches, settings, projector=head(norm="batch", num_layers=3), **options)

    model, curve = make()
    assert curve != run(batches, projector=head(norm="batch", num_layers=3))[1], "SGD's is another run"
    with pytest.raises(KilledError):
        make(checkpoint=memory, on_step=killed_at(step))
    resumed, resumed_curve = make(checkpoint=memory)
    assert resumed_curve == curve
    assert equal(resumed, model)


@pytest.mark.parametrize("step", range(1, 13))
def test_run_killed_at_any_step_resumes_to_the_same_bits(batches, step):
    model, curve = run(batches)
    memory, rows = Memory(), []
    with pytest.raises(KilledError):
        run(batches, checkpoint=memory, on_step=killed_at(step), on_epoch=rows.append)
    resumed, resumed_curve = run(batches, checkpoint=memory, on_epoch=rows.append)
    assert resumed_curve == curve
    assert equal(resumed, model)
    assert rows == curve  # no epoch is told twice or left out


def test_finished_run_resumes_without_a_step(batches):
    memory, steps = Memory(), []
    model, curve = run(batches, checkpoint=memory)
    again, again_curve = run(batches, checkpoint=memory, on_step=steps.append)
    assert steps == []
    assert again_curve == curve
    assert equal(again, model)


def test_weights_of_the_lowest_validation_loss_are_kept(batches):
    network, projector, states = small_network(), head(), []
    _, curve = run(
        batches,
        recipe(epochs=8, learning_rate=30.0, schedule="constant", warmup_epochs=0),
        network,
        projector,
        on_epoch=lambda row: states.append(copy.deepcopy(nn.Sequential(network, projector).state_dict())),
    )
    best = min(range(8), key=lambda epoch: curve[epoch].val_loss)
    assert best != 7, "the last epoch is the best: choose another learning rate, this run shows nothing"
    assert equal(nn.Sequential(network, projector), states[best])
    assert not equal(nn.Sequential(network, projector), states[7])


def test_network_left_in_eval_mode_trains_as_any_other(batches):
    expected, curve = run(batches)
    model, again = run(batches, network=small_network().eval())
    assert again == curve
    assert equal(model, expected)


# --- the head ---


@pytest.mark.parametrize("freeze", [True, False])
def test_autoencoder_layer_is_the_trained_one_before_and_if_frozen_after(batches, freeze):
    autoencoder = build_autoencoder("mlp", 8, 8, 16, seed=0)
    train_autoencoder(
        autoencoder,
        batches[0].split,
        batches[1].split,
        Reconstruction(epochs=1, batch_size=35, learning_rate=1e-3, factor=0.5, patience=10),
        image_size=8,
        seed=0,
    )
    embedding = {name: value.detach().clone() for name, value in autoencoder.embedding.named_parameters()}
    projector = build_projector(Projector("autoencoder", freeze, 16, 8, "relu"), 8, 0, embedding)
    second = projector[2].weight.detach().clone()
    for name, value in embedding.items():
        assert torch.equal(projector[0].get_parameter(name), value)
    run(batches, recipe(epochs=1), projector=projector)
    for name, value in embedding.items():
        assert torch.equal(projector[0].get_parameter(name), value) == freeze, name
    assert not torch.equal(projector[2].weight, second)


@pytest.mark.parametrize("init", PROJECTOR_INITS)
def test_frozen_layers_stay_and_all_else_moves(batches, init):
    embedding = {"weight": torch.randn(8, 8, generator=generator(0)), "bias": torch.ones(8)}
    embedding |= {name: torch.randn(20, 8, generator=generator(1, name)) for name in ("features", "units")}
    kind = "rbf" if PROJECTOR_INITS[init].apply_between else "mlp"
    projector = build_projector(Projector(init, True, 8, 8, "tanh", kind=kind), 8, 0, embedding)
    kept = {"1.0.weight", "1.0.bias"} | ({f"1.1.{name}" for name in RBF} if kind == "rbf" else set())
    assert unmoved(batches, projector) == kept


RBF = ("centres", "log_widths", "weight")


def unmoved(batches, projector: nn.Module, **changes) -> set[str]:
    """The names of the weights that an epoch leaves as they are."""
    model = nn.Sequential(small_network(), projector)
    before = copy.deepcopy(model.state_dict())
    run(batches, recipe(epochs=1, **changes), model[0], projector)
    return {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("kind", ["mlp", "rbf"])
@pytest.mark.parametrize("layers", [(), (1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_exactly_the_listed_layers_stay(batches, layers, kind, optimizer):
    head = Projector("random", layers, 8, 4, "tanh", num_layers=3, kind=kind)
    projector = build_projector(head, 8, 0)
    kept = {f"1.{2 * (layer - 1)}.{name}" for layer in layers for name in ("weight", "bias")}
    if kind == "rbf":
        kept |= {f"1.{2 * layer - 1}.{name}" for layer in layers if layer < 3 for name in RBF}
    changes = {"learning_rate": 0.01} if optimizer == "adamw" else {}
    assert unmoved(batches, projector, optimizer=optimizer, **changes) == kept


def test_without_a_head_the_loss_is_that_of_the_features_and_a_killed_run_goes_on(batches):
    model = nn.Sequential(small_network(), nn.Sequential())
    x_BCHW = batches[0].pairs(torch.arange(BATCH), "step", 0, seed=0)
    features = copy.deepcopy(model[0]).train()(x_BCHW)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert training_step(Network(*model), optimizer, x_BCHW, 0.1, RECIPE) == nt_xent(features, RECIPE.temperature)
    empty = {"projector": build_projector(Projector("random", "auto", 16, 8, "relu", num_layers=0), 8, 0)}
    assert not list(empty["projector"].parameters())
    unbroken, curve = run(batches, **empty)
    memory = Memory(every=2)
    with pytest.raises(KilledError):
        run(batches, checkpoint=memory, on_step=killed_at(5), **empty)
    resumed, again = run(batches, checkpoint=memory, **empty)
    assert equal(resumed, unbroken) and again == curve


# --- batches ---


def test_pairs_are_two_views_of_each_image(batches):
    train = batches[0]
    rows = torch.tensor([5, 9, 5])
    x_BCHW = train.pairs(rows, "step", 3, seed=0)
    drawn = draw(train.views, train.split.sizes[rows.repeat(2)], generator(0, "step", 3))
    assert torch.equal(x_BCHW, render(train.split.images[rows.repeat(2)], drawn, train.views, 8))
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert len(x_BCHW.flatten(1).unique(dim=0)) == 6  # each image, each time, each view: its own parameters
    assert not torch.equal(x_BCHW, train.pairs(rows, "step", 4, seed=0))


def test_standardisation_is_applied_to_the_views(batches):
    statistics = Standardize((0.3, 0.4, 0.5), (0.2, 0.25, 0.5))
    rows = torch.arange(4)
    plain = batches[0].pairs(rows, "step", 0, seed=0)
    ours = dataclasses.replace(batches[0], standardize=statistics).pairs(rows, "step", 0, seed=0)
    for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std, strict=True)):
        torch.testing.assert_close(ours[:, channel], (plain[:, channel] - mean) / std)


def test_validation_views_are_augmented_and_never_change(batches):
    val = batches[1]
    model = nn.Sequential(small_network(), head())
    before = copy.deepcopy(model.state_dict())
    first, second = (validation_loss(model, val, RECIPE, BATCH, seed=0) for _ in range(2))
    assert first == second
    assert equal(model, before)  # eval mode: no statistics are touched
    assert model.training
    assert validation_loss(model, val, RECIPE, BATCH, seed=1) != first
    views = val.pairs(torch.arange(BATCH), "validation", 0, seed=0)
    assert not torch.equal(views[:BATCH], views[BATCH:])


def test_validation_split_smaller_than_the_batch_is_one_batch(batches):
    val = batches[1]
    model = nn.Sequential(small_network(), head())
    loss = validation_loss(model, val, RECIPE, 64, seed=0)
    x_BCHW = val.pairs(torch.arange(33), "validation", 0, seed=0)
    assert loss == pytest.approx(plain_nt_xent(model.eval()(x_BCHW), 0.5).item(), rel=1e-5)


# --- precision ---


def test_auto_precision_is_bf16_only_where_the_processor_multiplies_it():
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    assert use_bf16("auto", torch.device("cpu")) == ("avx512_bf16" in flags.read_text().split())


def test_precision_that_is_asked_for_is_used(monkeypatch):
    assert use_bf16("bf16", torch.device("cpu"))
    assert not use_bf16("fp32", torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in torch 2.9, a pin of requirements.txt
    assert not use_bf16("auto", torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projector_computes_in_full_precision_also_under_autocast(dtype):
    network = Network(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Flatten(), nn.Linear(8, 4))).to(dtype)
    x_BCHW = torch.rand(5, 3, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    seen = []
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        z_BD = network(x_BCHW)
    assert seen[0].dtype == (torch.bfloat16 if dtype == torch.float32 else dtype)
    assert z_BD.dtype == dtype
    torch.testing.assert_close(z_BD, network[1](seen[0].to(dtype)), rtol=0, atol=0)
    z_BD.sum().backward()
    assert network[0].weight.grad.abs().sum() > 0


def test_bf16_trains_close_to_fp32(batches):
    exact, rounded = (run(batches, recipe(precision=precision))[1] for precision in ("fp32", "bf16"))
    assert rounded != exact
    assert rounded[-1].train_loss == pytest.approx(exact[-1].train_loss, rel=0.05)


# --- giving up ---


def refused(batches, settings: SimCLR = RECIPE, **options) -> str:
    with pytest.raises(UserError) as error:
        run(batches, settings, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_batch_larger_than_the_split(batches):
    assert "batch_size 71 is larger than the train split of 70 images" in refused(batches, batch_size=71)


def test_loss_that_is_not_finite(batches):
    message = refused(batches, recipe(learning_rate=1e30, epochs=2), projector=head(activation="identity"))
    for words in ("not finite", "step 2", "lr 2.5e+28", "Linear(in_features=8,out_features=16", "simclr.learning_rate"):
        assert words in message


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_collapsed_head(batches, warmup_epochs):
    projector = head()
    projector[2].requires_grad_(False).weight.zero_()  # whatever comes in, the bias goes out
    rows = []
    message = refused(
        batches, recipe(epochs=20, warmup_epochs=warmup_epochs), projector=projector, on_epoch=rows.append
    )
    for words in ("log(2B-1) = 3.4340", f"epoch {5 + warmup_epochs}", "lr 0.0", "Linear(in_features", "warmup_epochs"):
        assert words in message
    assert rows[0].train_loss == pytest.approx(math.log(31), abs=1e-5)
    assert len(rows) == 4 + warmup_epochs


def test_error_tells_the_projector_apart(batches):
    projector = head(hidden_dim=24, activation="tanh")
    projector[2].requires_grad_(False).weight.zero_()
    message = refused(batches, recipe(epochs=20, warmup_epochs=0), projector=projector)
    assert "out_features=24" in message
    assert "Tanh" in message


# --- the paper's step, in plain code of its own ---


def plain_paper_step(model: nn.Module, x_BCHW: torch.Tensor, temperature: float) -> torch.Tensor:
    """The authors' training step as their code has it: two passes, then NT-Xent row by row."""
    first, second = x_BCHW.chunk(2)
    z_ND = torch.cat([model[1](model[0](first)), model[1](model[0](second))])
    losses = []
    for i in range(len(z_ND)):
        similar = [torch.cosine_similarity(z_ND[i], z_ND[j], dim=0) / temperature for j in range(len(z_ND))]
        partner = (i + len(first)) % len(z_ND)
        others = torch.stack([value for j, value in enumerate(similar) if j != i])
        losses.append(torch.logsumexp(others, 0) - similar[partner])
    return torch.stack(losses).mean()


def test_a_step_of_the_papers_recipe_is_that_of_plain_code(batches):
    """Two passes, SGD with momentum and decay on all parameters: losses, weights and statistics of three steps."""
    train, _ = batches
    settings = recipe(forward="apart", weight_decay=1e-2, momentum=0.9)
    models = [nn.Sequential(small_network(), head()).double() for _ in range(2)]
    network = Network(models[0][0], models[0][1], apart=True)
    ours = build_optimizer("sgd", network, 0.9, 1e-2)
    theirs = torch.optim.SGD(models[1].parameters(), lr=0.2, momentum=0.9, weight_decay=1e-2)
    for step in range(3):
        x_BCHW = train.pairs(torch.arange(8 * step, 8 * step + 8), "step", step, seed=0).double()
        loss = training_step(network, ours, x_BCHW, 0.2, settings)
        plain = plain_paper_step(models[1], x_BCHW, settings.temperature)
        theirs.zero_grad()
        plain.backward()
        theirs.step()
        torch.testing.assert_close(loss, plain.detach(), atol=1e-12, rtol=0)
    assert models[0][0][1].num_batches_tracked == 6, "statistics are updated twice a step"
    for name, value in models[1].state_dict().items():
        torch.testing.assert_close(models[0].state_dict()[name], value, atol=1e-10, rtol=1e-9, msg=name)
    joint = Network(small_network(), head()).double()
    together = joint(x_BCHW)
    apart = Network(small_network(), head(), apart=True).double()(x_BCHW)
    assert (together - apart).abs().max() > 1e-3
    torch.testing.assert_close(joint.eval()(x_BCHW), Network(*joint, apart=True).eval()(x_BCHW))


def test_views_that_pass_apart_train_otherwise_and_measured_features_are_those_of_both(batches):
    together, _ = run(batches, recipe(epochs=1))
    observer = Observer(Diagnostics(every=1, dense_steps=0))
    apart, _ = run(batches, recipe(epochs=1, forward="apart"), observer=observer)
    assert not equal(together, apart)
    plain, _ = run(batches, recipe(epochs=1, forward="apart"))
    assert equal(apart, plain), "measuring changes no weight"
    assert all(0 < row["backbone_alignment"] < 4 for row in observer.rows())


def test_the_last_weights_are_kept_on_request(batches, monkeypatch):
    """With validation losses that are lowest after the second of three epochs, which alone tell `best` from `last`."""
    told: list[nn.Module] = []

    def losses(model: nn.Module, *_: object) -> float:
        told.append(copy.deepcopy(model))
        return (2.0, 1.0, 3.0)[len(told) - 1]

    monkeypatch.setattr(contrastive, "validation_loss", losses)
    for keep, epoch in (("best", 2), ("last", 3)):
        told.clear()
        model, _ = run(batches, recipe(epochs=3, keep=keep))
        assert equal(model, nn.Sequential(*told[epoch - 1].children()))
        assert not equal(model, nn.Sequential(*told[4 - epoch].children()))


# --- the losses and the rates of the head ---


def test_every_loss_trains(batches):
    for name, rate in (("dcl", 0.2), ("vicreg", 0.02)):
        _, curve = run(batches, recipe(epochs=6, loss=name, learning_rate=rate, temperature=0.2))
        assert curve[-1].train_loss < curve[0].train_loss - 0.02


@pytest.mark.parametrize("name", LOSSES)
def test_collapsed_head_of_each_loss(batches, name):
    projector = head()
    projector[2].requires_grad_(False).weight.zero_()
    message = refused(batches, recipe(epochs=20, warmup_epochs=0, loss=name), projector=projector)
    assert f"stuck at {LOSSES[name].formula} = {LOSSES[name].collapsed(BATCH):.4f}" in message
    assert ("simclr.temperature" in message) == (name != "vicreg")


def test_head_rates_move_the_head_alone_and_the_default_moves_all_alike(batches):
    """Without momentum and decay the first step of a part is the rate times its gradient."""

    def moved(**rates: float) -> dict[str, float]:
        start = nn.Sequential(small_network(), head()).state_dict()
        model = nn.Sequential(small_network(), head())
        settings = recipe(momentum=0.0, weight_decay=0.0, warmup_epochs=0, schedule="constant", **rates)
        optimizer = _Run(Network(*model), settings, BATCH, 1).optimizer
        training_step(model, optimizer, batches[0].pairs(torch.arange(BATCH), "s", 0, seed=0), 0.5, settings)
        state = model.state_dict()
        keys = {"backbone": "0.0.weight", "first": "1.0.weight", "last": "1.2.weight"}
        return {name: (state[key] - start[key]).norm().item() for name, key in keys.items()}

    plain = moved()
    assert moved(head_learning_rate=1.0, first_layer_learning_rate=1.0) == plain
    for rates, shares in (
        ({"head_learning_rate": 0.1}, (1, 0.1, 0.1)),
        ({"first_layer_learning_rate": 0.1}, (1, 0.1, 1)),
        ({"head_learning_rate": 2.0, "first_layer_learning_rate": 0.5}, (1, 0.5, 2)),
    ):
        found = moved(**rates)
        expected = dict(
            zip(plain, (share * value for share, value in zip(shares, plain.values(), strict=True)), strict=True)
        )
        assert found == pytest.approx(expected, rel=1e-3)


def test_equal_rates_are_one_rate_to_the_bit_and_other_rates_survive_a_kill(batches):
    plain, curve = run(batches)
    same, equal_curve = run(batches, recipe(head_learning_rate=1.0))
    assert equal(plain, same) and curve == equal_curve
    settings = recipe(first_layer_learning_rate=0.1)
    apart, _ = run(batches, settings)
    assert not equal(plain, apart)
    memory = Memory()
    with pytest.raises(KilledError):
        run(batches, settings, checkpoint=memory, on_step=killed_at(5))
    resumed, _ = run(batches, settings, checkpoint=memory)
    assert equal(resumed, apart)


def test_a_rate_for_what_is_not_trained(batches):
    message = refused(batches, recipe(first_layer_learning_rate=0.1), projector=head(freeze=True))
    assert message.startswith("params.yaml: simclr.first_layer_learning_rate: 0.1 must be null")
    message = refused(batches, recipe(head_learning_rate=0.1), projector=nn.Sequential(nn.Identity()))
    assert message.startswith("params.yaml: simclr.head_learning_rate: 0.1 must be null")
