"""DCL and VICReg against their definitions as loops, in float64; the table of losses."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from headstart.randomness import generator
from headstart.training import losses
from headstart.training.losses import LOSSES, dcl, nt_xent, vicreg
from headstart.training.losses import _is_cold as is_cold


@pytest.fixture(params=["tiles", "one matrix"])
def form(request, monkeypatch) -> str:
    """The CPU's form; an accelerator's where the matrix of similarities is small."""
    if request.param == "one matrix":
        monkeypatch.setattr(losses, "_as_one_matrix", lambda z, temperature, group: not is_cold(temperature, z.dtype))
    return request.param


def projections(pairs: int, dim: int = 5, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(2 * pairs, dim, generator=generator(pairs, "test"), dtype=torch.float64) + 0.3


# ---- DCL -------------------------------------------------------------------------------------------------------------


def dcl_by_loops(z: np.ndarray, temperature: float) -> float:
    """Equations 5 and 6 of Yeh et al. 2022, the mean over images i and views k."""
    views, num = (z[: len(z) // 2], z[len(z) // 2 :]), len(z) // 2

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b) / math.sqrt(float(a @ a)) / math.sqrt(float(b @ b)) / temperature

    total = 0.0
    for k in (0, 1):
        for i in range(num):
            negatives = [similarity(views[k][i], view[j]) for view in views for j in range(num) if j != i]
            assert len(negatives) == 2 * num - 2
            total += -similarity(views[0][i], views[1][i]) + math.log(sum(map(math.exp, negatives)))
    return total / (2 * num)


def plain_dcl(z_ND: Tensor, temperature: float) -> Tensor:
    """The same by autograd through the whole similarity matrix."""
    unit, num = z_ND / z_ND.norm(dim=1, keepdim=True), len(z_ND)
    sims = unit @ unit.T / temperature
    same = torch.eye(num, dtype=torch.bool)
    same = same | same.roll(num // 2, 0)
    return (torch.logsumexp(sims.masked_fill(same, -torch.inf), 1) - sims.diagonal(num // 2).repeat(2)).mean()


@pytest.mark.parametrize("pairs", [2, 5, 8])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_dcl_equals_its_definition(form, pairs, temperature):
    z_ND = projections(pairs)
    assert dcl(z_ND, temperature).item() == pytest.approx(dcl_by_loops(z_ND.numpy(), temperature), abs=1e-10)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 13, 14, 15, 2048])
@pytest.mark.parametrize("temperature", [0.5, 1e-3])
def test_every_block_size_gives_dcl_and_its_gradient(block, temperature):
    z_ND = projections(7).requires_grad_()
    twin = z_ND.detach().clone().requires_grad_()
    loss, expected = dcl(z_ND, temperature, block), plain_dcl(twin, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-10)
    torch.testing.assert_close(z_ND.grad, twin.grad, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("block", [None, 3])
def test_gradient_of_dcl_by_finite_differences(form, block):
    z_ND = projections(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 2.5 * dcl(z, 0.5, block), z_ND)


def test_dcl_keeps_the_pair_out_of_the_denominator(form):
    """Perfect pairs that are far from all others: NT-Xent is nearly 0, DCL goes on falling (its decoupling)."""
    z_ND = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    assert nt_xent(z_ND, 0.05).item() == pytest.approx(math.log1p(6 * math.exp(-20)), abs=1e-12)
    assert dcl(z_ND, 0.05).item() == pytest.approx(math.log(6) - 20, abs=1e-12)


def test_dcl_too_is_kept_tile_by_tile_or_made_anew(monkeypatch):
    z_ND = projections(20).requires_grad_()
    (kept,) = torch.autograd.grad(dcl(z_ND, 0.2, 8), z_ND)
    monkeypatch.setattr(losses, "KEPT", 0)
    (anew,) = torch.autograd.grad(dcl(z_ND, 0.2, 8), z_ND)
    assert torch.equal(kept, anew)


# ---- VICReg ----------------------------------------------------------------------------------------------------------


def vicreg_by_loops(z: np.ndarray) -> float:
    """Bardes et al. 2022, equations 1 to 6, with the means of main_vicreg.py, number by number."""
    num, width = len(z) // 2, z.shape[1]
    views = z[:num], z[num:]
    invariance = sum((views[0][i][d] - views[1][i][d]) ** 2 for i in range(num) for d in range(width)) / (num * width)
    variance = covariance = 0.0
    for view in views:
        means = [sum(view[i][d] for i in range(num)) / num for d in range(width)]
        for a in range(width):
            for b in range(width):
                products = ((view[i][a] - means[a]) * (view[i][b] - means[b]) for i in range(num))
                value = sum(products) / (num - 1)
                if a == b:
                    variance += max(0.0, 1 - math.sqrt(value + 1e-4)) / width / 2
                else:
                    covariance += value**2 / width
    return 25 * invariance + 25 * variance + covariance


@pytest.mark.parametrize(("pairs", "dim", "scale"), [(2, 3, 1.0), (6, 1, 0.1), (6, 4, 0.3), (9, 4, 2.0), (3, 8, 1.0)])
def test_vicreg_equals_its_definition(pairs, dim, scale):
    z_ND = projections(pairs, dim, scale)
    assert vicreg(z_ND).item() == pytest.approx(vicreg_by_loops(z_ND.numpy()), rel=1e-12)


def test_gradient_of_vicreg_by_finite_differences():
    """Deviations on both sides of the hinge."""
    z_ND = projections(6, 4, 1.0) * torch.tensor([0.1, 0.5, 2.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(vicreg, z_ND.requires_grad_())


def test_vicreg_sees_length_and_no_shift():
    z_ND = projections(6, 4)
    assert vicreg(z_ND + 7).item() == pytest.approx(vicreg(z_ND).item(), rel=1e-10)
    assert abs(vicreg(2 * z_ND).item() - vicreg(z_ND).item()) > 1
    assert vicreg(z_ND, 0.1).item() == vicreg(z_ND, 3.0).item(), "it has no temperature"


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("pairs", [2, 16])
def test_a_collapsed_head_has_the_collapsed_value_and_gets_no_gradient(form, name, pairs):
    z_ND = torch.full((2 * pairs, 5), 0.7, dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name].function(z_ND, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(LOSSES[name].collapsed(pairs), abs=1e-6)
    assert z_ND.grad.abs().max() < 1e-12
    formula = LOSSES[name].formula.replace("2B", f"2*{pairs}")
    assert eval(formula, {"log": math.log}) == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_pairs_have_no_order_and_views_no_rank(form, name):
    value = partial(LOSSES[name].function, temperature=0.2)
    z_ND, order = projections(6), torch.randperm(6, generator=generator(0))
    loss = value(z_ND).item()
    assert value(z_ND[torch.cat([order, order + 6])]).item() == pytest.approx(loss, abs=1e-11)
    assert value(z_ND.roll(6, 0)).item() == pytest.approx(loss, abs=1e-11)
    other_pairs = torch.cat([torch.arange(6), torch.arange(6).roll(1) + 6])
    assert abs(value(z_ND[other_pairs]).item() - loss) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_is_raised(form, name):
    z_ND = projections(6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name].function(z_ND, 0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSSES[name].function(z_ND.double(), 0.2).item(), rel=1e-5)
