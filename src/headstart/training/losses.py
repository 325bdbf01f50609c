"""The losses that SimCLR may be trained with, for one process or several. To add one: one function, one row of LOSSES.

NT-Xent and DCL take O(N * D + block^2) memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.training.distributed import ALONE, Group

# Side of the tiles of the similarity matrix that are held at once: small enough for a core's cache; on a GPU large
# enough that launching kernels costs nothing.
BLOCK = {"cpu": 512, "cuda": 4096}
FIRST_ONLY = "NT-Xent and DCL have first derivatives only: create_graph must be False"
KEPT = 2**24  # similarities; where there are no more, the backward pass finds its tiles instead of making them anew


def nt_xent(z_ND: Tensor, temperature: float, block: int | None = None, group: Group = ALONE) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of B pairs, a 0-d tensor.

    z_ND: (2B, D) float32 or float64 projections, not normalised; row i and row i + B are the two views of an image. The
    mean over all 2B rows of -log(exp(s(i, pair)) / sum over j != i of exp(s(i, j))), s = cosine / temperature;
    log(2B - 1) where all are equal. Lower precisions are raised to float32. Needs first derivatives only.

    In a `group`, z_ND holds the process's own pairs, as many as every other's. All processes return the loss over the
    rows of all, and the gradient of that loss with respect to their own rows: those of other processes push them, too.
    """
    return _contrast(z_ND, temperature, block, group, decoupled=False)


def dcl(z_ND: Tensor, temperature: float, block: int | None = None, group: Group = ALONE) -> Tensor:
    """Return the decoupled contrastive loss of B pairs, at least 2, a 0-d tensor; see nt_xent.

    Yeh et al. 2022, equation 6, unweighted: NT-Xent whose denominator leaves the pair out, so that a row has the 2B - 2
    views of other images as its negatives; log(2B - 2) where all are equal. The mean over all 2B rows, as for NT-Xent:
    half of what github.com/raminnakhli/Decoupled-Contrastive-Learning sums over both views. lightly's DCLLoss is
    another loss: it adds the logarithms of two sums, over the negatives of either view; equation 6 has one of both.
    """
    return _contrast(z_ND, temperature, block, group, decoupled=True)


# VICReg's weights, epsilon and target of the deviations: Bardes et al. 2022, section 4.2, and main_vicreg.py
INVARIANCE, VARIANCE, COVARIANCE, EPSILON, DEVIATION = 25.0, 25.0, 1.0, 1e-4, 1.0


def vicreg(z_ND: Tensor, temperature: float = 1.0, group: Group = ALONE) -> Tensor:
    """Return variance-invariance-covariance regularisation of B pairs, at least 2, a 0-d tensor without a unit.

    z_ND: as for nt_xent, but their length counts: nothing normalises them. temperature: not used.
    25 * mean squared difference of the two views (over images and columns), + 25 * how far the deviation of a column
    falls short of 1, max(0, 1 - sqrt(variance + 1e-4)) (mean over columns and the two views), + the squared covariances
    of different columns (sum over them / D, sum of the two views); variances of B - 1. 24.75 where all are equal.

    Bardes et al. 2022, with the means of github.com/facebookresearch/vicreg, main_vicreg.py, for which the weights were
    chosen: the paper's equations sum the squared difference over columns, and the variance over the views. In a `group`
    value and gradient are as nt_xent's.
    """
    z_ND = _wide(z_ND)
    with torch.autocast(z_ND.device.type, enabled=False):
        everyone = z_ND
        if group.size > 1:  # the other processes' rows are constants here: each pushes its own
            start = group.rank * len(z_ND)
            gathered = group.gather(z_ND)
            everyone = torch.cat([gathered[:start], z_ND, gathered[start + len(z_ND) :]])
        views_VBD = everyone.view(group.size, 2, -1, z_ND.shape[1]).transpose(0, 1).flatten(1, 2)
        centred_VBD = views_VBD - views_VBD.mean(1, keepdim=True)
        covariances_VDD = centred_VBD.mT @ centred_VBD / (centred_VBD.shape[1] - 1)
        variances_VD = covariances_VDD.diagonal(dim1=1, dim2=2)
        invariance = (views_VBD[0] - views_VBD[1]).square().mean()
        variance = torch.relu(DEVIATION - (variances_VD + EPSILON).sqrt()).mean()
        covariance = (covariances_VDD - variances_VD.diag_embed()).square().sum() / z_ND.shape[1]
        return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


@dataclass(frozen=True)
class Loss:
    """A loss of B pairs: function (z_ND, temperature, group=..) -> 0-d tensor.

    collapsed: B -> its value where all projections are equal, which a collapsed head keeps; formula: the same in words.
    """

    function: Callable[..., Tensor]
    collapsed: Callable[[int], float]
    formula: str


LOSSES = {
    "nt_xent": Loss(nt_xent, lambda pairs: math.log(2 * pairs - 1), "log(2B-1)"),
    "dcl": Loss(dcl, lambda pairs: math.log(2 * pairs - 2), "log(2B-2)"),
    "vicreg": Loss(vicreg, lambda pairs: VARIANCE * (DEVIATION - EPSILON**0.5), "25 * 0.99"),
}


# ---- NT-Xent and DCL -------------------------------------------------------------------------------------------------


def _wide(z_ND: Tensor) -> Tensor:
    return z_ND if z_ND.dtype in (torch.float32, torch.float64) else z_ND.float()


def _contrast(z_ND: Tensor, temperature: float, block: int | None, group: Group, decoupled: bool) -> Tensor:
    z_ND = _wide(z_ND)
    with torch.autocast(z_ND.device.type, enabled=False):
        if block is None and _as_one_matrix(z_ND, temperature, group):
            return _OneMatrix.apply(z_ND, temperature, decoupled)
        z_ND = torch.nn.functional.normalize(z_ND, dim=1)
        block = block or BLOCK.get(z_ND.device.type, BLOCK["cuda"])
        return _NTXent.apply(z_ND, temperature, block, group, decoupled)


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
    def forward(ctx: Any, x_ND: Tensor, temperature: float, decoupled: bool) -> Tensor:
        norms = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True).clamp_min(1e-12)
        z_ND = x_ND / (norms * temperature**0.5)  # products are similarities over the temperature
        exps = (z_ND @ z_ND.T).exp_()
        exps.diagonal().fill_(0)
        if decoupled:
            for pair in (len(z_ND) // 2, -(len(z_ND) // 2)):
                exps.diagonal(pair).fill_(0)
        sums = exps.sum(1)
        pairs = (z_ND * z_ND.roll(len(z_ND) // 2, 0)).sum(1)
        ctx.save_for_backward(z_ND, exps, sums, norms)
        ctx.temperature = temperature
        return (sums.log() - pairs).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ONLY)
        z_ND, exps, sums, norms = ctx.saved_tensors
        inverse = sums.reciprocal()[:, None]
        anchors, others = (exps @ torch.cat([z_ND, inverse * z_ND], 1)).chunk(2, 1)
        grad = torch.addcmul(others, inverse, anchors).sub_(z_ND.roll(len(z_ND) // 2, 0), alpha=2)
        # back through the normalisation: what points along z makes it longer, no more
        along = (grad * z_ND).sum(1, keepdim=True)
        grad = torch.addcmul(grad, along, z_ND, value=-ctx.temperature)
        return grad.div_(norms) * (grads[0] / (len(z_ND) * ctx.temperature**0.5)), None, None


class _NTXent(torch.autograd.Function):
    """The matrix of similarities is symmetric, so a tile of own rows serves its mirror image too.

    The backward pass needs no gradients of other processes: what row i owes to anchor j is a function of their
    similarity and of j's sum over its row, which are gathered in the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, own_ND: Tensor, temperature: float, block: int, group: Group, decoupled: bool) -> Tensor:
        z_ND = group.gather(own_ND)
        start, stop = group.rank * len(own_ND), (group.rank + 1) * len(own_ND)
        # exp(s - 1 / temperature) is at least exp(-2 / temperature): rows need their maxima only where that underflows
        cold = _is_cold(temperature, z_ND.dtype)
        log_sums = z_ND.new_full((len(z_ND),), float("-inf"))
        own = (start, stop) if decoupled else None
        kept: list[Tensor] | None = [] if len(own_ND) * len(z_ND) <= KEPT else None
        for rows, columns in _tiles(start, stop, len(z_ND), block):
            tile = _tile(z_ND, rows, columns, temperature, cold, own)
            log_sums[rows] = torch.logaddexp(log_sums[rows], _log_sum(tile, 1, cold))
            if rows.start < columns.start < stop:
                log_sums[columns] = torch.logaddexp(log_sums[columns], _log_sum(tile, 0, cold))
            if kept is not None:
                kept.append(tile)
        pairs = (own_ND * own_ND.roll(len(own_ND) // 2, 0)).sum(1).sub_(1).div_(temperature)
        log_sums, pairs = group.gather(torch.stack([log_sums[start:stop], pairs], 1)).unbind(1)
        ctx.save_for_backward(z_ND, log_sums)
        ctx.constants, ctx.kept = (temperature, cold, start, stop, block, own), kept
        return (log_sums - pairs).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(FIRST_ONLY)
        z_ND, log_sums = ctx.saved_tensors
        temperature, cold, start, stop, block, own = ctx.constants
        grad = torch.zeros_like(z_ND)
        for rows, columns in _tiles(start, stop, len(z_ND), block):
            tile = ctx.kept.pop(0) if ctx.kept else _tile(z_ND, rows, columns, temperature, cold, own)
            # P + P^T, P the softmax: z_i is anchor in one and negative in the other
            weights = _both_softmaxes(tile, log_sums[rows, None], log_sums[columns], cold)
            grad[rows].addmm_(weights, z_ND[columns])
            if rows.start < columns.start < stop:
                grad[columns].addmm_(weights.T, z_ND[rows])
        own_ND = z_ND[start:stop]
        grad = grad[start:stop] - 2 * own_ND.roll(len(own_ND) // 2, 0)
        return grad * (grads[0] / (len(z_ND) * temperature)), None, None, None, None


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


def _tile(
    z_ND: Tensor, rows: slice, columns: slice, temperature: float, cold: bool, own: tuple[int, int] | None
) -> Tensor:
    """exp(s - 1 / temperature), or its logarithm where `cold`; a row's similarity with itself does not count.

    own: where the process's rows begin and end, if similarities with the other view of an image do not count either.
    """
    tile = (z_ND[rows] / temperature) @ z_ND[columns].T
    tile.sub_(1 / temperature)
    if rows == columns:
        tile.diagonal().fill_(float("-inf"))
    if own is not None:
        _leave_pairs_out(tile, rows, columns, *own)
    return tile if cold else tile.exp_()


def _leave_pairs_out(tile: Tensor, rows: slice, columns: slice, start: int, stop: int) -> None:
    half = (stop - start) // 2
    # first views, then second views: their partners' places
    for begin, shift in ((start, half), (start + half, -half)):
        low = max(rows.start, begin, columns.start - shift)
        high = min(rows.stop, begin + half, columns.stop - shift)
        if low < high:
            places = slice(low + shift - columns.start, high + shift - columns.start)
            tile[low - rows.start : high - rows.start, places].diagonal().fill_(float("-inf"))


def _log_sum(tile: Tensor, dim: int, cold: bool) -> Tensor:
    return torch.logsumexp(tile, dim) if cold else tile.sum(dim).log_()


def _both_softmaxes(tile: Tensor, log_sums: Tensor, other_log_sums: Tensor, cold: bool) -> Tensor:
    if cold:
        return (tile - log_sums).exp_().add_((tile - other_log_sums).exp_())
    return tile.mul_((-log_sums).exp() + (-other_log_sums).exp())
