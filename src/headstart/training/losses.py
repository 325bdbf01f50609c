"""NT-Xent (Chen et al. 2020, equation 1) in O(N * D + block^2) memory, for one process or several."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from headstart.training.distributed import ALONE, Group

# Side of the tiles of the similarity matrix that are held at once: small enough for a core's cache; on a GPU large
# enough that launching kernels costs nothing.
BLOCK = {"cpu": 512, "cuda": 4096}
FIRST_ONLY = "nt_xent has first derivatives only: create_graph must be False"
KEPT = 2**24  # similarities; where there are no more, the backward pass finds its tiles instead of making them anew


def nt_xent(z_ND: Tensor, temperature: float, block: int | None = None, group: Group = ALONE) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of B pairs, a 0-d tensor.

    z_ND: (2B, D) float32 or float64 projections, not normalised; row i and row i + B are the two views of an image. The
    mean over all 2B rows of -log(exp(s(i, pair)) / sum over j != i of exp(s(i, j))), s = cosine / temperature;
    log(2B - 1) where all are equal. Lower precisions are raised to float32. Needs first derivatives only.

    In a `group`, z_ND holds the process's own pairs, as many as every other's. All processes return the loss over the
    rows of all, and the gradient of that loss with respect to their own rows: those of other processes push them, too.
    """
    if z_ND.dtype not in (torch.float32, torch.float64):
        z_ND = z_ND.float()
    with torch.autocast(z_ND.device.type, enabled=False):
        if block is None and _as_one_matrix(z_ND, temperature, group):
            return _OneMatrix.apply(z_ND, temperature)
        z_ND = torch.nn.functional.normalize(z_ND, dim=1)
        return _NTXent.apply(z_ND, temperature, block or BLOCK.get(z_ND.device.type, BLOCK["cuda"]), group)


def _as_one_matrix(z_ND: Tensor, temperature: float, group: Group) -> bool:
    """Whether an accelerator's kernels are to be few and large: all similarities at once."""
    few = len(z_ND) <= BLOCK["cuda"] and not _is_cold(temperature, z_ND.dtype)
    return z_ND.device.type != "cpu" and few and group.size == 1


def _is_cold(temperature: float, dtype: torch.dtype) -> bool:
    """Whether exp of similarities over the temperature, from -1 / t to 1 / t, leaves what the dtype can hold."""
    return 2 / temperature > (80 if dtype == torch.float32 else 700)


class _OneMatrix(torch.autograd.Function):
    """All in one tile, normalisation included: the matrix E of exp(s) is written once and read three times.

    The plain form (benchmarks/nt_xent.py) reads and writes it 22 times and launches more kernels. With r the inverse
    sums of E's rows the gradient needs no softmax of its size: (r_i + r_j) E_ij z_j is r * (E z) + E (r * z).
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, temperature: float) -> Tensor:
        norms = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).clamp_min(1e-12)
        z_ND = x_ND / (norms * temperature**0.5)  # products are similarities over the temperature
        exps = (z_ND @ z_ND.T).exp_()
        exps.diagonal().fill_(0)
        sums = exps.sum(1)
        pairs = (z_ND * z_ND.roll(len(z_ND) // 2, 0)).sum(1)
        ctx.save_for_backward(z_ND, exps, sums, norms)
        ctx.temperature = temperature
        return (sums.log() - pairs).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ONLY)
        z_ND, exps, sums, norms = ctx.saved_tensors
        inverse = sums.reciprocal()[:, None]
        anchors, others = (exps @ torch.cat([z_ND, inverse * z_ND], 1)).chunk(2, 1)
        grad = torch.addcmul(others, inverse, anchors).sub_(z_ND.roll(len(z_ND) // 2, 0), alpha=2)
        # back through the normalisation: what points along z makes it longer, no more
        along = (grad * z_ND).sum(1, keepdim=True)
        grad = torch.addcmul(grad, along, z_ND, value=-ctx.temperature)
        return grad.div_(norms) * (grads[0] / (len(z_ND) * ctx.temperature**0.5)), None


class _NTXent(torch.autograd.Function):
    """The matrix of similarities is symmetric, so a tile of own rows serves its mirror image too.

    The backward pass needs no gradients of other processes: what row i owes to anchor j is a function of their
    similarity and of j's sum over its row, which are gathered in the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, own_ND: Tensor, temperature: float, block: int, group: Group) -> Tensor:
        z_ND = group.gather(own_ND)
        start, stop = group.rank * len(own_ND), (group.rank + 1) * len(own_ND)
        # exp(s - 1 / temperature) is at least exp(-2 / temperature): rows need their maxima only where that underflows
        cold = _is_cold(temperature, z_ND.dtype)
        log_sums = z_ND.new_full((len(z_ND),), float("-inf"))
        kept: list[Tensor] | None = [] if len(own_ND) * len(z_ND) <= KEPT else None
        for rows, columns in _tiles(start, stop, len(z_ND), block):
            tile = _tile(z_ND, rows, columns, temperature, cold)
            log_sums[rows] = torch.logaddexp(log_sums[rows], _log_sum(tile, 1, cold))
            if rows.start < columns.start < stop:
                log_sums[columns] = torch.logaddexp(log_sums[columns], _log_sum(tile, 0, cold))
            if kept is not None:
                kept.append(tile)
        pairs = (own_ND * own_ND.roll(len(own_ND) // 2, 0)).sum(1).sub_(1).div_(temperature)
        log_sums, pairs = group.gather(torch.stack([log_sums[start:stop], pairs], 1)).unbind(1)
        ctx.save_for_backward(z_ND, log_sums)
        ctx.constants, ctx.kept = (temperature, cold, start, stop, block), kept
        return (log_sums - pairs).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ONLY)
        z_ND, log_sums = ctx.saved_tensors
        temperature, cold, start, stop, block = ctx.constants
        grad = torch.zeros_like(z_ND)
        for rows, columns in _tiles(start, stop, len(z_ND), block):
            tile = ctx.kept.pop(0) if ctx.kept else _tile(z_ND, rows, columns, temperature, cold)
            # P + P^T, P the softmax: z_i is anchor in one and negative in the other
            weights = _both_softmaxes(tile, log_sums[rows, None], log_sums[columns], cold)
            grad[rows].addmm_(weights, z_ND[columns])
            if rows.start < columns.start < stop:
                grad[columns].addmm_(weights.T, z_ND[rows])
        own_ND = z_ND[start:stop]
        grad = grad[start:stop] - 2 * own_ND.roll(len(own_ND) // 2, 0)
        return grad * (grads[0] / (len(z_ND) * temperature)), None, None, None


def _tiles(start: int, stop: int, num: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of tiles that cover the rows start..stop of a symmetric matrix (num, num).

    Of two that mirror each other, both in those rows, only the one above the diagonal.
    """

    def cut(first: int, last: int) -> list[slice]:
        return [slice(at, min(at + block, last)) for at in range(first, last, block)]

    own, others = cut(start, stop), cut(0, start) + cut(stop, num)
    for place, rows in enumerate(own):
        for columns in own[place:] + others:
            yield rows, columns


def _tile(z_ND: Tensor, rows: slice, columns: slice, temperature: float, cold: bool) -> Tensor:
    """exp(s - 1 / temperature), or its logarithm where `cold`; a row's similarity with itself does not count."""
    tile = (z_ND[rows] / temperature) @ z_ND[columns].T
    tile.sub_(1 / temperature)
    if rows == columns:
        tile.diagonal().fill_(float("-inf"))
    return tile if cold else tile.exp_()


def _log_sum(tile: Tensor, dim: int, cold: bool) -> Tensor:
    return torch.logsumexp(tile, dim) if cold else tile.sum(dim).log_()


def _both_softmaxes(tile: Tensor, log_sums: Tensor, other_log_sums: Tensor, cold: bool) -> Tensor:
    if cold:
        return (tile - log_sums).exp_().add_((tile - other_log_sums).exp_())
    return tile.mul_((-log_sums).exp() + (-other_log_sums).exp())
