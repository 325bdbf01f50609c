"""Three processes against one: loss, gradients, batch norm, whole runs and resumed ones, on gloo over loopback."""

import copy
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from headstart.errors import UserError
from headstart.models.projector import Projector, build_projector
from headstart.randomness import generator, global_seed
from headstart.training.contrastive import Batches, Epoch, SimCLR, train_simclr, training_step, validation_loss
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.distributed import ALONE, Group, synchronise_batch_norm
from headstart.training.losses import LOSSES, dcl, nt_xent, vicreg
from tests.training.recipe import RECIPE

SIZE = 3
BATCH = 18
# loss, its temperature and block; 1e-3 is cold
CASES = [(nt_xent, 0.5, None), (nt_xent, 0.07, 3), (nt_xent, 0.5, 5), (nt_xent, 1e-3, 4)]
CASES += [(dcl, 0.5, None), (dcl, 0.07, 3), (dcl, 0.5, 5), (dcl, 1e-3, 1), (vicreg, 1.0)]


class KilledError(Exception):
    """What ends a run in the middle."""


class Memory:
    """A checkpoint due at every other question."""

    def __init__(self) -> None:
        self.state, self.asked = None, 0

    def load(self):
        return copy.deepcopy(self.state)

    def due(self) -> bool:
        self.asked += 1
        return self.asked % 2 == 0

    def save(self, state) -> None:
        self.state = copy.deepcopy(state)


def projections() -> Tensor:
    return torch.randn(24, 5, generator=generator(0, "projections"), dtype=torch.float64)


def share(values: Tensor, group: Group) -> Tensor:
    return values[group.own_pairs(len(values) // 2)]


def loss_and_gradient(case: tuple, group: Group) -> tuple[Tensor, Tensor]:
    function, *options = case
    z_ND = share(projections(), group).requires_grad_()
    loss = function(z_ND, *options, group=group)
    loss.backward()
    return loss.detach(), z_ND.grad


DEEP = Projector("orthogonal", True, 16, 8, "silu", num_layers=3, norm="batch")
OTHERS = {
    "none": Projector("random", False, 16, 8, "silu", num_layers=0),
    "all kept": Projector("random", (1, 2), 16, 8, "silu"),
    "rbf": Projector("random", (1, 3), 16, 8, "silu", num_layers=3, kind="rbf"),
}


def network(head: Projector = DEEP) -> nn.Sequential:
    """A convolution, batch norms of two kinds and a head: a deep one with a frozen first layer and its own norms."""
    with global_seed(0, "network"):
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(8, momentum=None, affine=False),
        )
    return nn.Sequential(backbone, build_projector(head, 8, seed=0))


def norm_outputs(group: Group) -> dict[str, Tensor]:
    """Two training passes of a batch norm over its share of a batch far from zero, and one in evaluation."""
    model = nn.Sequential(nn.BatchNorm2d(3)).double()
    nn.init.uniform_(model[0].weight, generator=generator(0, "weight"))
    if group.size > 1:
        synchronise_batch_norm(model)
    everything = {}
    for number in range(2):
        x_BCHW = torch.randn(12, 3, 2, 2, generator=generator(number, "norm"), dtype=torch.float64) * 3 + 100
        pull = torch.randn(12, 3, 2, 2, generator=generator(number, "pull"), dtype=torch.float64)
        x_BCHW = share(x_BCHW, group).requires_grad_()
        y_BCHW = model(x_BCHW)
        (y_BCHW.sin() * share(pull, group)).sum().backward()
        everything |= {f"{number} out": y_BCHW.detach(), f"{number} in": x_BCHW.grad}
    sums = {name: group.sum(parameter.grad) for name, parameter in model.named_parameters()}
    return everything | {f"grad {name}": value for name, value in sums.items()} | model.state_dict()


def steps(batches: Batches, group: Group, recipe: SimCLR = RECIPE, head: Projector = DEEP) -> dict[str, Tensor]:
    """Three optimiser steps in float64: losses, last gradients and weights, under the names of the plain model."""
    model = network(head).double()
    wrapped = group.wrap(model, True, batches.blank().double())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, momentum=0.9)
    found, rate = {}, 0.01 if recipe.loss == "vicreg" else 0.5
    for step in range(3):
        x_BCHW = batches.pairs(torch.arange(12), "step", step, seed=0, group=group).double()
        found[f"loss {step}"] = training_step(wrapped, optimizer, x_BCHW, rate, recipe, group)
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | gradients | model.state_dict()


def run(batches: tuple[Batches, Batches], group: Group, recipe: SimCLR = RECIPE, **options):
    model = network()
    curve = train_simclr(*model, *batches, recipe, **{"batch_size": BATCH, "seed": 0, "group": group, **options})
    return curve, model.state_dict()


def interrupted_run(batches: tuple[Batches, Batches], group: Group):
    """Killed in the second epoch and resumed."""
    memory = Memory()

    def on_step(step: int) -> None:
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        run(batches, group, checkpoint=memory, on_step=on_step)
    assert (memory.state is not None) == (group.rank == 0)
    done = []
    return *run(batches, group, checkpoint=memory, on_step=done.append), done


def watched_run(batches: tuple[Batches, Batches], group: Group):
    """With an observer on rank 0 and a monitor that every process brings."""
    observer = Observer(Diagnostics(every=4, dense_steps=0)) if group.rank == 0 else None
    recipe = replace(RECIPE, monitor_epochs=2)
    curve, state = run(batches, group, recipe, observer=observer, monitor=lambda backbone: float(group.rank))
    return curve, state, observer.rows() if observer else []


def refusal(batches: tuple[Batches, Batches], group: Group) -> str:
    with pytest.raises(UserError) as error:
        run(batches, group, batch_size=16)
    return str(error.value)


def work(rank: int, port: int, folder: Path, batches: tuple[Batches, Batches]) -> None:
    """All that is asked of one process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=SIZE)
    group = Group(rank, SIZE)
    found = {
        "losses": [loss_and_gradient(case, group) for case in CASES],
        "norm": norm_outputs(group),
        "steps": {name: steps(batches[0], group, replace(RECIPE, loss=name)) for name in LOSSES},
        "other heads": {name: steps(batches[0], group, head=head) for name, head in OTHERS.items()},
        "run": run(batches, group),
        "resumed": interrupted_run(batches, group),
        "watched": watched_run(batches, group),
        "apart": run(batches, group, replace(RECIPE, sync_batchnorm=False)),
        "val": validation_loss(network(), batches[1], RECIPE, BATCH, 0, group),
        "refusal": refusal(batches, group),
        "agreed": group.agree({"rank": rank}),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def batches(split_of, views_of):
    """Train batches of 70 digits, two validation batches; all kinds of views."""
    views = views_of(
        crop_scale=[0.5, 1.0], rotate=15.0, flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, grey=0.5, blur=0.5
    )
    return Batches(split_of(0, 70), views, 8, None), Batches(split_of(70, 120), views, 8, None)


@pytest.fixture(scope="module")
def found(batches, tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, folder, batches), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(SIZE)]


def numbers(row: Epoch) -> dict[str, float]:
    """What an epoch has been given."""
    return {name: value for name, value in vars(row).items() if value is not None}


def whole(parts: list[Tensor]) -> Tensor:
    """Put shares of pairs together: first all first views, then all second views."""
    return torch.cat([part.chunk(2)[view] for view in range(2) for part in parts])


@pytest.mark.parametrize("case", range(len(CASES)))
def test_loss_and_its_gradient_are_those_of_one_process(found, case):
    loss, gradient = loss_and_gradient(CASES[case], ALONE)
    for process in found:
        torch.testing.assert_close(process["losses"][case][0], loss, atol=0, rtol=1e-12)
    gathered = whole([process["losses"][case][1] for process in found])
    torch.testing.assert_close(gathered, gradient, atol=1e-14, rtol=1e-10)


def test_synchronised_batch_norm_is_that_of_the_whole_batch(found):
    expected = norm_outputs(ALONE)
    for name, value in expected.items():
        parts = [process["norm"][name] for process in found]
        if name.endswith((" out", " in")):
            torch.testing.assert_close(whole(parts), value, atol=1e-10, rtol=1e-10)
        else:
            for part in parts:
                torch.testing.assert_close(part, value, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_are_those_of_one_process(found, batches, loss):
    """Gradients, running statistics and weights, one layer frozen; names are the plain model's."""
    expected = steps(batches[0], ALONE, replace(RECIPE, loss=loss))
    for process in found:
        own = process["steps"][loss]
        assert own.keys() == expected.keys()
        assert "grad 1.0.weight" not in expected
        for name, value in expected.items():
            torch.testing.assert_close(own[name], value, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("name", OTHERS)
def test_steps_of_other_heads_are_those_of_one_process(found, batches, name):
    expected = steps(batches[0], ALONE, head=OTHERS[name])
    for process in found:
        assert process["other heads"][name].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(process["other heads"][name][key], value, atol=1e-10, rtol=1e-8, msg=key)


def test_run_is_that_of_one_process(found, batches):
    curve, state = run(batches, ALONE)
    for ours, state_of_group in (process["run"] for process in found):
        assert [numbers(row) for row in ours] == [pytest.approx(numbers(row), rel=1e-5) for row in curve]
        assert state_of_group.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(state_of_group[name], value, atol=1e-4, rtol=1e-3)


def test_observer_and_monitor_of_the_first_process_change_no_bit(found, batches):
    """Gradients of layers are those of one process; at features and loss they are of the first one's share."""
    alone = watched_run(batches, ALONE)[2]
    for process in found:
        curve, state, _ = process["watched"]
        assert [row.monitor for row in curve] == [None, 0.0, None][: len(curve)]
        assert equal(([replace(row, monitor=None) for row in curve], state), process["run"])
    rows = found[0]["watched"][2]
    assert [row["step"] for row in rows] == [row["step"] for row in alone]
    for ours, theirs in zip(rows, alone, strict=True):
        layers = [name for name in theirs if name.startswith(("gradient_backbone", "gradient_projector"))]
        assert {name: ours[name] for name in layers} == pytest.approx({name: theirs[name] for name in layers}, rel=1e-3)
        assert ours["gradient_loss"] < theirs["gradient_loss"] * 1.01
        assert ours["gradient_loss"] / theirs["gradient_loss"] > 0.2
    assert not found[1]["watched"][2]


def equal(first: tuple, second: tuple) -> bool:
    return first[0] == second[0] and all(torch.equal(value, second[1][name]) for name, value in first[1].items())


def test_resumed_run_has_the_bits_of_an_unbroken_one(found):
    for process in found:
        assert process["resumed"][2] == list(range(5, 10))
        assert equal(process["resumed"], process["run"])


def test_processes_end_alike_also_with_statistics_of_their_own(found):
    first, *others = (process["apart"] for process in found)
    assert all(equal(first, other) for other in others)
    assert first[0] != found[0]["run"][0]
    assert first[0][-1].train_loss == pytest.approx(found[0]["run"][0][-1].train_loss, rel=0.05)


def test_validation_is_bitwise_that_of_one_process(found, batches):
    loss = validation_loss(network(), batches[1], RECIPE, BATCH, 0)
    assert {process["val"] for process in found} == {loss}


def test_batch_that_cannot_be_shared_equally(found):
    for process in found:
        assert process["refusal"] == "batch_size 16 is not divisible by 3, the number of processes"
        assert process["agreed"] == {"rank": 0}


def test_shares_are_rows_of_the_whole_batch(batches):
    rows = torch.tensor([4, 9, 2, 30, 31, 32])
    whole_batch = batches[0].pairs(rows, "step", 5, seed=0)
    for rank in range(3):
        group = Group(rank, 3)
        ours = batches[0].pairs(rows, "step", 5, seed=0, group=group)
        torch.testing.assert_close(ours, whole_batch[group.own_pairs(6)], atol=1e-6, rtol=0)
        assert group.own_pairs(6).tolist() == [2 * rank, 2 * rank + 1, 2 * rank + 6, 2 * rank + 7]
