"""NT-Xent (Chen et al. 2020, equation 1) in O(N * block) memory."""

from typing import Any

import torch
from torch import Tensor

BLOCK = 2048  # rows of the similarity matrix held at once: 2048 x 2N floats


def nt_xent(z_ND: Tensor, temperature: float, block: int = BLOCK) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of B pairs, a 0-d tensor.

    z_ND: (2B, D) float32 or float64 projections, not normalised; row i and row i + B are the two views of an image. The
    mean over all 2B rows of -log(exp(s(i, pair)) / sum over j != i of exp(s(i, j))), s = cosine / temperature;
    log(2B - 1) where all are equal. Lower precisions are raised to float32. Needs first derivatives only.
    """
    if z_ND.dtype not in (torch.float32, torch.float64):
        z_ND = z_ND.float()
    with torch.autocast(z_ND.device.type, enabled=False):
        z_ND = torch.nn.functional.normalize(z_ND, dim=1)
        return _NTXent.apply(z_ND, temperature, block)


class _NTXent(torch.autograd.Function):
    """Rows in blocks; the backward pass makes each block of similarities anew instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor, temperature: float, block: int) -> Tensor:
        num = len(z_ND)
        log_sums = torch.empty(num, dtype=z_ND.dtype, device=z_ND.device)
        for start in range(0, num, block):
            sims = _similarities(z_ND, start, block, temperature)
            log_sums[start : start + block] = torch.logsumexp(sims, 1)
        ctx.save_for_backward(z_ND, log_sums)
        ctx.temperature, ctx.block = temperature, block
        pairs = (z_ND * z_ND.roll(num // 2, 0)).sum(1) / temperature
        return (log_sums - pairs).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        z_ND, log_sums = ctx.saved_tensors
        num = len(z_ND)
        grad = torch.empty_like(z_ND)
        for start in range(0, num, ctx.block):
            sims = _similarities(z_ND, start, ctx.block, ctx.temperature)
            # row i of P + P^T, P the softmax: z_i is anchor in one and negative in the other
            weights = torch.exp(sims - log_sums[start : start + ctx.block, None])
            weights += torch.exp(sims - log_sums[None, :])
            grad[start : start + ctx.block] = weights @ z_ND
        grad -= 2 * z_ND.roll(num // 2, 0)
        return grad * (grads[0] / (num * ctx.temperature)), None, None


def _similarities(z_ND: Tensor, start: int, block: int, temperature: float) -> Tensor:
    """(block, N) similarities of a block of rows with all rows, -inf with themselves."""
    rows = z_ND[start : start + block]
    sims = (rows / temperature) @ z_ND.T
    sims.diagonal(start).fill_(float("-inf"))
    return sims
