"""The recorded step against the same kernel by kernel, and against the CPU."""

import dataclasses

import pytest
import torch
from torch import nn

from headstart import replay
from headstart.data.arrays import Standardize
from headstart.errors import UserError
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import Projector, build_projector
from headstart.run.processes import pick_device
from headstart.training import contrastive, room
from headstart.training.contrastive import Batches, Network, stepping, train_simclr, training_step
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.losses import LOSSES
from headstart.training.optimizers import OPTIMIZERS, build_optimizer
from tests.training.recipe import RECIPE
from tests.training.test_contrastive import KilledError, Memory, equal, head, killed_at, small_network

pytestmark = pytest.mark.filterwarnings("default")
BATCH = 16
STATISTICS = Standardize((0.3, 0.3, 0.3), (0.4, 0.4, 0.0))
VIEWS = {"crop_scale": [0.08, 1.0], "crop_ratio": [0.75, 4 / 3], "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5}
VIEWS |= {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur_kernel": 0.3, "rotate": 10.0}


@pytest.fixture
def batches(split_of, views_of, device) -> tuple[Batches, Batches]:
    parts = [split_of(0, 70), split_of(70, 103)]
    train, val = (Batches(part.to(device), views_of(**VIEWS), 8, STATISTICS) for part in parts)
    return train, val


def trained(batches, device, recipe=RECIPE, backbone=None, **options):
    network, projector = (backbone or small_network()).to(device), head().to(device)
    curve = train_simclr(network, projector, *batches, recipe, batch_size=BATCH, seed=0, **options)
    return nn.Sequential(network, projector), curve


def close(first, second, rel: float = 1e-4) -> None:
    for ours, theirs in zip(first, second, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=rel)
        assert ours.val_loss == pytest.approx(theirs.val_loss, rel=rel)
        assert ours.learning_rate == theirs.learning_rate


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_run_equals_one_kernel_by_kernel(batches, device, recorded, capsys, optimizer, precision):
    """56 steps with warm-up rates, 14 epochs' ends with validation, measured steps in between."""
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, epochs=14, warmup_epochs=3, precision=precision)
    results = []
    for wanted in (True, False):
        recorded(wanted)
        observer = Observer(Diagnostics(every=9, dense_steps=2))
        model, curve = trained(batches, device, recipe, observer=observer)
        results.append((model, curve, observer.rows()))
    close(results[0][1], results[1][1], rel=1e-4 if precision == "fp32" else 2e-2)
    assert [row["step"] for row in results[0][2]] == [row["step"] for row in results[1][2]]
    assert "no CUDA graph" not in capsys.readouterr().err
    if precision == "fp32":
        difference = [
            (a - b).abs().max() for a, b in zip(results[0][0].parameters(), results[1][0].parameters(), strict=True)
        ]
        assert max(difference).item() < 1e-3


def test_a_resumed_run_equals_an_unbroken_one(batches, device, recorded):
    recorded(True)
    model, curve = trained(batches, device)
    for step in (3, 5, 8):
        memory = Memory()
        with pytest.raises(KilledError):
            trained(batches, device, checkpoint=memory, on_step=killed_at(step))
        resumed, again = trained(batches, device, checkpoint=memory)
        assert curve == again and equal(model, resumed)


def test_no_step_makes_the_host_wait(batches, device, recorded, real):
    recorded(True)
    train, _ = batches
    model = Network(small_network(), head()).to(device, memory_format=torch.channels_last).train()
    step = stepping(model, build_optimizer("sgd", model, 0.9, 1e-4), train, RECIPE, calls=100)
    for wanted in (step, step.kernel_by_kernel):
        wanted(0.1, *train.draw(torch.arange(BATCH), "step", 0, seed=0))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for k in range(50):
                wanted(0.1, *train.draw(torch.arange(BATCH), "step", k, seed=0))
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Waits(nn.Module):
    """A backbone whose forward pass reads a value on the host, as some of timm's do."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def forward(self, x_BCHW):
        """Return the features, negated where their sum says so."""
        features = self.inner(x_BCHW)
        return features if features.sum().item() > -1e9 else -features


def test_what_cannot_be_recorded_trains_and_says_so(batches, device, recorded, capsys):
    recorded(True)
    _, curve = trained(batches, device, backbone=Waits())
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in told] == [" SimCLR's step", " validation"]
    assert all(line.startswith("warning: ") and len(line) < 300 for line in told)
    recorded(False)
    close(curve, trained(batches, device, backbone=Waits())[1])


def test_after_a_recording_that_fails_the_device_draws_on(device, recorded, real):
    """The same numbers as if none had been tried; a backbone with dropout needs them."""
    recorded(True)
    torch.manual_seed(3)
    expected = torch.randn(5, device=device)
    torch.manual_seed(3)
    waiting = replay.Replayed(lambda x: x + x.sum().item(), device, name="a wait", calls=100)
    assert waiting(torch.ones(4)).tolist() == [5.0] * 4
    assert torch.equal(torch.randn(5, device=device), expected)
    drawing = replay.Replayed(lambda x: x + torch.rand_like(x), device, name="a draw", calls=100)
    found = [drawing(torch.zeros(1000)).clone() for _ in range(3)]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_several_steps_in_float64_are_the_cpus(batches, device):
    """So what float32's curves differ by is rounding, which training makes greater."""
    train, _ = batches
    losses = []
    for where in (torch.device("cpu"), device):
        backbone = build_backbone(Backbone("resnet18", "stride2", "none"), 0)
        model = Network(backbone, build_projector(Projector("random", False, 16, 8, "relu"), 512, 0))
        model = model.double().to(where, memory_format=torch.channels_last).train()
        optimizer, found = build_optimizer("sgd", model, 0.9, 1e-4), []
        for k in range(5):
            x_BCHW = train.pairs(torch.arange(BATCH * k % 64, BATCH * k % 64 + BATCH), "step", k, seed=0)
            found.append(training_step(model, optimizer, x_BCHW.double().to(where), 0.05, RECIPE).item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("pairs", [5, 1280, 3000])
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_and_gradient_are_the_cpus(device, name, pairs, dtype, precision):
    """All similarities at once, and by tiles."""
    z_ND = torch.randn(2 * pairs, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for where, kind in ((torch.device("cpu"), torch.float64), (device, dtype)):
        leaf = z_ND.to(where, kind, copy=True).requires_grad_()
        loss = LOSSES[name].function(leaf, 0.5)
        loss.backward()
        found.append((loss.item(), leaf.grad.cpu().double()))
    assert found[0][0] == pytest.approx(found[1][0], rel=precision)
    assert (found[0][1] - found[1][1]).norm() < precision * 10 * found[0][1].norm()


def test_float32_is_ieees(device, real):
    """A convolution and a product to float32's precision: TF32 would be off by a thousandth."""
    x, weight = torch.randn(4, 64, 9, 9, device=device), torch.randn(32, 64, 3, 3, device=device)
    pairs = [(nn.functional.conv2d(x, weight), nn.functional.conv2d(x.double(), weight.double()))]
    matrix = torch.randn(256, 256, device=device)
    pairs.append((matrix @ matrix, matrix.double() @ matrix.double()))
    for ours, exact in pairs:
        assert ((ours - exact).norm() / exact.norm()).item() < 1e-6


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_stage_gets_the_device(name, real):
    picked = pick_device(name)
    assert picked == torch.device("cuda:0") and torch.ones(3, device=picked).sum().item() == 3


def test_out_of_memory_names_a_batch_that_fits(device, views_of, split_of, real):
    train = Batches(split_of(0, 64).to(device), views_of(), 128, None)
    model = Network(build_backbone(Backbone("resnet18", "stride2", "none"), 0), head(512)).to(device).train()
    free = 2 * 2**30
    fits = room.fitting_batch(model, train, RECIPE, free)
    assert fits >= 8
    bytes_of_it = room.step_bytes(model, train, RECIPE, fits)
    assert 0.6 * free < bytes_of_it < 1.02 * free
    with pytest.raises(UserError, match="an estimate") as told, room.told_of_memory(model, train, RECIPE, 10**6):
        torch.empty(2**50, device=device)
    assert len(str(told.value)) < 300


def test_a_dataset_at_full_resolution_trains_recorded(batches, device, recorded, monkeypatch):
    """Crops come with the inputs in place of row numbers."""
    train, val = batches
    recorded(True)

    def crops_of(self, rows, *purpose, seed, group=contrastive.ALONE):
        chosen, *drawn = real_draw(self, rows, *purpose, seed=seed, group=group)
        return self.split.images[chosen.to(device)].cpu(), *drawn

    plain = trained((train, val), device)[1]
    real_draw = Batches.draw
    monkeypatch.setattr(Batches, "draw", crops_of)
    close(plain, trained((train, val), device)[1])
