"""Each measure against its definition written out, and the observer against autograd, kills and an unwatched run."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headstart.randomness import generator
from headstart.training import diagnostics
from headstart.training.contrastive import training_step
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.losses import nt_xent
from tests.training.recipe import RECIPE
from tests.training.test_contrastive import (
    BATCH,
    KilledError,
    Memory,
    batches,  # noqa: F401 (a fixture)
    equal,
    head,
    killed_at,
    recipe,
    run,
    small_network,
)

EVERY_STEP = Diagnostics(every=1, dense_steps=0)


def features(num: int = 24, width: int = 7, seed: int = 0) -> Tensor:
    """Uneven, off-centre features."""
    source = generator(seed, "features")
    return torch.randn(num, width, generator=source) * torch.logspace(0, -2, width) + 0.3


def unit(z_ND: Tensor) -> np.ndarray:
    rows = z_ND.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- measures ---


def test_alignment_by_a_loop():
    rows = unit(features())
    expected = np.mean([sum((a - b) ** 2 for a, b in zip(rows[i], rows[i + 12], strict=True)) for i in range(12)])
    assert diagnostics.alignment(features()).item() == pytest.approx(expected, rel=1e-5)
    same = features(12).repeat(2, 1)
    assert diagnostics.alignment(same * torch.rand(24, 1)).item() == pytest.approx(0, abs=1e-6)
    opposite = torch.cat([features(12), -features(12)])
    assert diagnostics.alignment(opposite).item() == pytest.approx(4)


def test_uniformity_by_a_loop():
    rows, views = unit(features()), []
    for view in (rows[:12], rows[12:]):
        kernels = [math.exp(-2 * sum((a - b) ** 2)) for a, b in itertools.combinations(view, 2)]
        views.append(math.log(sum(kernels) / len(kernels)))
    assert diagnostics.uniformity(features()).item() == pytest.approx(sum(views) / 2, rel=1e-4)
    assert diagnostics.uniformity(torch.ones(24, 7)).item() == pytest.approx(0, abs=1e-5)  # collapse
    two = torch.eye(2).repeat(2, 1)  # two images at right angles, squared distance 2
    assert diagnostics.uniformity(two).item() == pytest.approx(-4, rel=1e-5)


def test_spread_tells_collapse_from_the_sphere():
    assert diagnostics.spread(features()).item() == pytest.approx(unit(features()).std(0).mean() * 7**0.5, rel=1e-5)
    assert diagnostics.spread(torch.ones(24, 7)).item() == pytest.approx(0, abs=1e-6)
    sphere = torch.randn(20_000, 16, generator=generator(0))
    assert diagnostics.spread(sphere).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("shape", [(24, 7), (6, 40), (8, 8)])
def test_ranks_by_singular_value_decomposition(shape):
    z_ND = features(*shape)
    for measured, matrix, epsilon in (
        (diagnostics.geometry(z_ND)["effective_rank"], z_ND - z_ND.mean(0), 0),
        (diagnostics.geometry(z_ND)["rankme"], z_ND, 1e-7),
    ):
        singular = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
        shares = singular / singular.sum() + epsilon
        shares = shares[shares > 1e-12]
        assert measured.item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_ranks_of_known_matrices():
    assert diagnostics.effective_rank(diagnostics.singular_values(torch.eye(5))).item() == pytest.approx(5)
    line = torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 4))
    assert diagnostics.effective_rank(diagnostics.singular_values(line)).item() == pytest.approx(1, abs=1e-5)
    assert diagnostics.rankme(diagnostics.singular_values(torch.eye(5))).item() == pytest.approx(5, rel=1e-5)
    assert diagnostics.effective_rank(diagnostics.singular_values(torch.zeros(4, 3))).item() == 1
    assert math.isnan(diagnostics.rankme(diagnostics.singular_values(torch.full((4, 3), torch.inf))).item())


@pytest.mark.parametrize(
    ("layer", "inputs", "share"),
    [
        (nn.Tanh(), [[3.0, -3.0], [2.0, 0.0]], 0.5),  # tanh 2.65 = 0.99
        (nn.Sigmoid(), [[5.0, -5.0], [4.0, 0.0]], 0.5),  # logit of 0.99: 4.595
        (nn.ReLU(), [[-1.0, -1.0], [0.0, 2.0]], 0.5),  # the first unit is never on
        (nn.SiLU(), [[-9.0, 1.0], [0.0, 2.0]], None),
    ],
)
def test_saturation_and_pre_activations_by_hand(layer, inputs, share):
    inputs = torch.tensor(inputs)
    found = diagnostics.activation(layer, inputs, layer(inputs))
    assert found["pre_mean"].item() == pytest.approx(inputs.numpy().mean())
    assert found["pre_std"].item() == pytest.approx(inputs.numpy().std())
    assert found.get("saturated") == (None if share is None else pytest.approx(share))


def test_due_steps():
    settings = Diagnostics(every=50, dense_steps=3)
    assert [step for step in range(151) if settings.due(step)] == [0, 1, 2, 50, 100, 150]
    assert not any(Diagnostics(every=0, dense_steps=100).due(step) for step in range(100))


# --- the observer ---


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_row_of_a_step_is_what_autograd_says(batches, activation):  # noqa: F811
    backbone, projector = small_network(), head(activation=activation, freeze=True)
    model = nn.Sequential(backbone, projector).train()
    x_BCHW = batches[0].pairs(torch.arange(BATCH), "step", 0, seed=0)
    twin = copy.deepcopy(model)
    values = [twin[0](x_BCHW)]
    for layer in twin[1]:
        values.append(layer(values[-1]))
    loss = nt_xent(values[-1], 0.5)
    at_features, at_loss = torch.autograd.grad(loss, [values[0], values[-1]], retain_graph=True)
    convolution, norm, second = (
        math.sqrt(sum(each.square().sum().item() for each in torch.autograd.grad(loss, parameters, retain_graph=True)))
        for parameters in (list(twin[0][0].parameters()), list(twin[0][1].parameters()), list(twin[1][2].parameters()))
    )

    observer = Observer(EVERY_STEP)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1.0, weight_decay=0.1)
    with observer.watching(7, backbone, projector):
        training_step(model, optimizer, x_BCHW, 0.5, RECIPE)
    (row,) = observer.rows()
    expected = {"step": 7, "gradient_features": at_features.norm().item(), "gradient_loss": at_loss.norm().item()}
    expected |= {"gradient_ratio": (at_features.norm() / at_loss.norm()).item()}
    squares = {"backbone": convolution**2 + norm**2, "head": second**2}
    expected |= {"gradient_share_backbone": squares["backbone"] / sum(squares.values())}
    expected |= {"gradient_backbone_0": convolution, "gradient_backbone_1": norm, "gradient_projector_2": second}
    for name, layer in (("backbone", 0), ("hidden", 2), ("output", 3)):
        expected |= {f"{name}_{key}": value.item() for key, value in diagnostics.geometry(values[layer]).items()}
    pre = diagnostics.activation(twin[1][1], values[1], values[2])
    expected |= {f"hidden_{key}": value.item() for key, value in pre.items()}
    assert row == pytest.approx(expected, rel=1e-4)
    assert ("hidden_saturated" in row) == (activation == "tanh")
    assert not backbone._forward_hooks and not projector._forward_hooks and not projector[1]._forward_hooks


def test_hidden_layers_of_a_deep_head_are_told_apart():
    projector = nn.Sequential(
        *(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)),
    )
    observer = Observer(EVERY_STEP)
    model = nn.Sequential(small_network(), projector)
    with observer.watching(0, *model):
        nt_xent(model(torch.rand(8, 3, 8, 8, generator=generator(0))), 0.5).backward()
    names = set(observer.rows()[0])
    assert {"hidden_saturated", "hidden2_saturated", "hidden2_rankme", "output_rankme"} <= names
    assert {name for name in names if name.startswith("gradient_projector")} == {
        *("gradient_projector_1", "gradient_projector_2", "gradient_projector_3"),
    }
    groups = diagnostics.layer_groups(*model)
    assert len(groups["projector_1"]) == 4  # the norm goes with the layer before it


def watched(projector: nn.Sequential) -> tuple[dict[str, float], Tensor]:
    """A row of a step through a head, and the features that it gets."""
    observer, model = Observer(EVERY_STEP), nn.Sequential(small_network(), projector)
    x_BCHW = torch.rand(8, 3, 8, 8, generator=generator(0))
    with observer.watching(0, *model):
        nt_xent(model(x_BCHW), 0.5).backward()
    return observer.rows()[0], copy.deepcopy(model[0])(x_BCHW).detach()


def test_without_a_head_features_are_the_output_and_no_gradient_is_lost():
    row, values = watched(head(num_layers=0))
    assert row["gradient_ratio"] == 1 and row["gradient_features"] == row["gradient_loss"] > 0
    for name, value in diagnostics.geometry(values).items():
        assert row[f"backbone_{name}"] == row[f"output_{name}"] == pytest.approx(value.item(), rel=1e-4)
    assert not any(name.startswith(("hidden", "gradient_projector")) for name in row)


def test_networks_of_radial_functions_are_hidden_layers_and_count_to_the_layer_before():
    projector = head(num_layers=3, kind="rbf", freeze=(2,))
    row, values = watched(projector)
    hidden, hidden2 = projector[:2](values), projector[:4](values)
    for name, layer in (("hidden", hidden), ("hidden2", hidden2), ("output", projector(values))):
        expected = diagnostics.geometry(layer)
        assert row[f"{name}_rankme"] == pytest.approx(expected["rankme"].item(), rel=1e-3)
    assert row["hidden_pre_mean"] == pytest.approx(projector[0](values).mean().item(), rel=1e-3)
    assert {name for name in row if name.startswith("gradient_projector")} == {
        *("gradient_projector_1", "gradient_projector_3"),
    }
    groups = diagnostics.layer_groups(small_network(), projector)
    assert [len(groups[f"projector_{place}"]) for place in (1, 3)] == [5, 2]
    kept = nn.Sequential(*(part.requires_grad_(False) for part in head()))
    assert not any(name.startswith("gradient_projector") for name in watched(kept)[0])


@pytest.mark.parametrize("activation", ["silu", "tanh"])
def test_watching_changes_no_bit(batches, activation):  # noqa: F811
    plain, curve = run(batches, projector=head(activation=activation))
    observer = Observer(Diagnostics(every=3, dense_steps=2))
    asked = []
    model, watched = run(
        batches,
        recipe(monitor_epochs=2),
        projector=head(activation=activation),
        observer=observer,
        monitor=lambda backbone: asked.append(backbone.eval()) or 0.5,
    )
    assert equal(model, plain)
    assert [row.monitor for row in watched] == [None, 0.5, None]
    assert asked == [model[0]]
    assert [dataclasses.replace(row, monitor=None) for row in watched] == curve
    assert [row["step"] for row in observer.rows()] == [0, 1, 3, 6, 9]
    assert all(math.isfinite(value) for row in observer.rows() for value in row.values())


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 11, 12])
def test_interrupted_run_has_the_rows_of_an_unbroken_one(batches, step):  # noqa: F811
    settings = Diagnostics(every=2, dense_steps=3)
    unbroken = Observer(settings)
    run(batches, observer=unbroken)
    memory = Memory(every=2)
    with pytest.raises(KilledError):
        run(batches, checkpoint=memory, on_step=killed_at(step), observer=Observer(settings))
    resumed = Observer(settings)
    run(batches, checkpoint=memory, observer=resumed)
    assert resumed.rows() == unbroken.rows()
    assert resumed.rows(2) == unbroken.rows()[2:]


def test_drift_of_each_layer_by_a_loop_and_none_of_a_frozen_one(batches):  # noqa: F811
    """Weights before the step, against those at the start; the last matrix by hand, number by number."""
    observer = Observer(EVERY_STEP)
    start = head(freeze=True).state_dict()
    model, _ = run(batches, recipe(epochs=1), projector=head(freeze=True), observer=observer)
    rows = observer.rows()
    assert [row["projector_1_drift"] for row in rows] == [0] * len(rows)
    assert [row["projector_1_cosine"] for row in rows] == [1] * len(rows)
    assert rows[0]["projector_2_drift"] == 0 and rows[0]["projector_2_cosine"] == 1
    drifts = [row["projector_2_drift"] for row in rows]
    assert drifts == sorted(drifts) and drifts[-1] > 0
    now, then = (state["2.weight"].flatten().tolist() for state in (model[1].state_dict(), start))
    found = diagnostics.drift(model[1][2].weight.detach(), start["2.weight"])
    length = [math.sqrt(sum(x * x for x in values)) for values in (now, then)]
    apart = math.sqrt(sum((a - b) ** 2 for a, b in zip(now, then, strict=True)))
    assert found["drift"].item() == pytest.approx(apart / length[1])
    dot = sum(a * b for a, b in zip(now, then, strict=True))
    assert found["cosine"].item() == pytest.approx(dot / length[0] / length[1])


def test_share_of_a_backbone_whose_head_is_all_frozen_is_one(batches):  # noqa: F811
    observer = Observer(EVERY_STEP)
    projector = head()
    projector.requires_grad_(False)
    run(batches, recipe(epochs=1), projector=projector, observer=observer)
    assert {row["gradient_share_backbone"] for row in observer.rows()} == {1.0}
