"""NT-Xent against its definition as a loop, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headstart.randomness import generator
from headstart.training import losses
from headstart.training.losses import _is_cold as is_cold
from headstart.training.losses import nt_xent


@pytest.fixture(autouse=True, params=["tiles", "one matrix"])
def form(request, monkeypatch) -> str:
    """The CPU's form; an accelerator's where the matrix of similarities is small."""
    if request.param == "one matrix":
        monkeypatch.setattr(losses, "_as_one_matrix", lambda z, temperature, group: not is_cold(temperature, z.dtype))
    return request.param


def projections(pairs: int, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(2 * pairs, dim, generator=generator(seed, "test"), dtype=torch.float64)


def by_definition(z: np.ndarray, temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, one exponential after the other."""
    num = len(z)

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j]) / math.sqrt(float(z[i] @ z[i])) / math.sqrt(float(z[j] @ z[j])) / temperature

    total = 0.0
    for i in range(num):
        pair = (i + num // 2) % num
        total -= math.log(math.exp(similarity(i, pair)) / sum(math.exp(similarity(i, j)) for j in range(num) if j != i))
    return total / num


def plain(z_ND: Tensor, temperature: float) -> Tensor:
    """The same by autograd through the whole similarity matrix."""
    unit = z_ND / z_ND.norm(dim=1, keepdim=True)
    sims = (unit @ unit.T / temperature).masked_fill(torch.eye(len(z_ND), dtype=torch.bool), -torch.inf)
    return torch.nn.functional.cross_entropy(sims, torch.arange(len(z_ND)).roll(len(z_ND) // 2))


@pytest.mark.parametrize("pairs", [1, 2, 5, 8])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_loss_equals_the_definition(pairs, temperature):
    z_ND = projections(pairs)
    assert nt_xent(z_ND, temperature).item() == pytest.approx(by_definition(z_ND.numpy(), temperature), abs=1e-10)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 13, 14, 15, 2048])
def test_every_block_size_gives_the_definition_and_its_gradient(block):
    z_ND = projections(7).requires_grad_()
    loss = nt_xent(z_ND, 0.3, block)
    assert loss.item() == pytest.approx(by_definition(z_ND.detach().numpy(), 0.3), abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, z_ND)
    (expected,) = torch.autograd.grad(plain(z_ND, 0.3), z_ND)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("block", [3, 2048])
def test_gradient_equals_finite_differences(block):
    z_ND = projections(4, dim=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 2.5 * nt_xent(z, 0.5, block), z_ND)


def test_second_derivatives_are_refused_and_not_wrong():
    z_ND = projections(3).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(nt_xent(z_ND, 0.5), z_ND, create_graph=True)


@pytest.mark.parametrize("pairs", [1, 2, 64])
def test_equal_rows_cost_log_of_the_number_of_others(pairs):
    z_ND = torch.full((2 * pairs, 4), 0.7)
    assert nt_xent(z_ND, 0.1).item() == pytest.approx(math.log(2 * pairs - 1), abs=1e-6)


def test_only_directions_and_pairing_count():
    z_ND = projections(6)
    loss = nt_xent(z_ND, 0.2).item()
    scales = torch.rand(12, 1, generator=generator(1), dtype=torch.float64) * 100 + 0.01
    assert nt_xent(z_ND * scales, 0.2).item() == pytest.approx(loss, abs=1e-12)
    order = torch.randperm(6, generator=generator(2))
    assert nt_xent(z_ND[torch.cat([order, order + 6])], 0.2).item() == pytest.approx(loss, abs=1e-12)
    assert nt_xent(z_ND.roll(6, 0), 0.2).item() == pytest.approx(loss, abs=1e-12)
    other_pairs = torch.cat([torch.arange(6), torch.arange(6).roll(1) + 6])
    assert abs(nt_xent(z_ND[other_pairs], 0.2).item() - loss) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lower_precision_is_raised(dtype):
    z_ND = projections(40).to(dtype).requires_grad_()
    loss = nt_xent(z_ND, 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_definition(z_ND.detach().double().numpy(), 0.05), rel=1e-5)
    loss.backward()
    assert z_ND.grad.dtype == dtype


def test_autocast_does_not_lower_it():
    z_ND = projections(40).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(z_ND, 0.05), nt_xent(z_ND.clone(), 0.05))
        loss = nt_xent(z_ND, 0.05).item()
    assert loss == nt_xent(z_ND, 0.05).item()


@pytest.mark.parametrize("block", [4, 2048])
@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float64, 2e-3), (torch.float32, 0.02)])
def test_temperature_whose_exponentials_underflow(dtype, temperature, block):
    z_ND = projections(7).to(dtype).requires_grad_()
    exact = z_ND.detach().double().requires_grad_()
    loss, expected = nt_xent(z_ND, temperature, block), plain(exact, temperature)
    precision = 1e-10 if dtype == torch.float64 else 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=precision)
    (gradient,) = torch.autograd.grad(loss, z_ND)
    (exact_gradient,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, atol=precision, rtol=precision)


def test_second_backward_pass_gives_the_same():
    z_ND = projections(6).requires_grad_()
    loss = nt_xent(z_ND, 0.5, 5)
    first, second = (torch.autograd.grad(loss, z_ND, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_extreme_temperature_and_zero_rows_stay_finite():
    z_ND = projections(5).float()
    z_ND[0] = 0
    z_ND.requires_grad_()
    loss = nt_xent(z_ND, 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z_ND.grad).all()


class Largest(TorchDispatchMode):
    """Records the most values that any tensor holds that an operation makes, and counts matrix products."""

    def __init__(self):
        super().__init__()
        self.values = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_, torch.ops.aten.addmm)
        if isinstance(out, Tensor):
            self.values = max(self.values, out.numel())
        return out


def test_no_tensor_is_larger_than_a_tile_or_the_projections():
    z_ND = projections(300, dim=4).requires_grad_()
    with Largest() as largest:
        nt_xent(z_ND, 0.5, 16).backward()
    assert largest.values == 600 * 4
    with Largest() as largest:
        nt_xent(z_ND, 0.5, 600).backward()
    assert largest.values == 600 * 600  # the measure sees a whole matrix where there is one


@pytest.mark.parametrize(("kept", "products"), [(600 * 600, 1 + 2), (0, 2 + 2)])
def test_tiles_are_kept_for_the_backward_pass_only_where_they_are_few(monkeypatch, kept, products):
    """Per pair of tiles: one product for similarities, made once or twice, and two for gradients."""
    monkeypatch.setattr(losses, "KEPT", kept)
    z_ND = projections(300, dim=4).requires_grad_()
    with Largest() as largest:
        nt_xent(z_ND, 0.5, 300).backward()
    diagonal, above = 2, 1
    assert largest.products == products * above + (products - 1) * diagonal


class Launches(TorchDispatchMode):
    """Counts operators that are kernels, and how often they read or write a whole matrix of similarities."""

    VIEWS = (
        "t",
        "view",
        "slice",
        "detach",
        "expand",
        "unsqueeze",
        "select",
        "transpose",
        "diagonal",
        "permute",
        "split",
    )

    def __init__(self, num: int):
        super().__init__()
        self.num, self.kernels, self.passes = num, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.name().removeprefix("aten::").split(".")[0] not in self.VIEWS:
            self.kernels += 1
            found = [each for each in tree_leaves((args, result)) if isinstance(each, Tensor)]
            self.passes += sum(each.numel() >= self.num**2 for each in found)
        return result


def test_an_accelerator_launches_fewer_kernels_than_for_the_plain_form(form):
    """And a third of its passes over the matrix: what a step costs there at the paper's sizes."""
    found = {}
    for name, loss in (("ours", nt_xent), ("plain", plain)):
        z_ND = torch.randn(200, 16, requires_grad=True)
        with Launches(200) as found[name]:
            loss(z_ND, 0.5).backward()
    if form == "one matrix":
        assert found["ours"].kernels < found["plain"].kernels
        assert 3 * found["ours"].passes <= found["plain"].passes
