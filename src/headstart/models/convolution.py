"""Convolutions on maps of a pixel or two, as the matrix products that they are.

Where every output pixel sees every input pixel (1x1 and 2x2 maps under a 3x3 kernel), a convolution is one Linear over
the flattened map. Torch's CPU kernels do not know, and their weight gradient on such maps, the last stages of a ResNet
on small images, is slow: on 2 cores with AVX2 a ResNet-18 step at 16 px takes half the time with this shortcut.
"""

from typing import Any

import torch
from torch import Tensor, nn


def use_small_map_convolutions(network: nn.Module) -> None:
    """Let every plain square Conv2d of `network` take the shortcut on small maps; parameters and state dict stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv2d


def _is_plain(conv: nn.Conv2d) -> bool:
    simple = conv.groups == 1 and conv.dilation == (1, 1) and conv.bias is None and conv.padding_mode == "zeros"
    # padding may be a word, which is no pair of equals either
    return simple and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))


class SmallMapConv2d(nn.Conv2d):
    """nn.Conv2d (square, no bias, groups or dilation) that on the CPU computes small maps by `dense_convolution`."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what nn.Conv2d returns, up to rounding."""
        if x_BCHW.device.type == "cpu" and x_BCHW.shape[-1] == x_BCHW.shape[-2] <= 2:
            size, padding = x_BCHW.shape[-1], int(self.padding[0])
            if covers(size, self.kernel_size[0], padding):
                return dense_convolution(x_BCHW, self.weight, self.stride[0], padding)
        return super().forward(x_BCHW)


def covers(size: int, kernel: int, padding: int) -> bool:
    """Return whether each output pixel of a square map sees each input pixel, whatever the stride."""
    return padding + size <= kernel


def dense_convolution(x_BCHW: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return conv2d(x, weight) for maps that `covers` admits, as one matrix product; channels_last where x is."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x_BCHW, weight = x_BCHW.to(dtype), weight.to(dtype)
    batch, _, size, _ = x_BCHW.shape
    out = (size + 2 * padding - weight.shape[-1]) // stride + 1
    starts = [padding - stride * row for row in range(out)]
    windows = [(slice(top, top + size), slice(left, left + size)) for top in starts for left in starts]
    y_BPC = _WindowProduct.apply(x_BCHW.permute(0, 2, 3, 1).flatten(1), weight, windows)
    return y_BPC.view(batch, out, out, -1).permute(0, 3, 1, 2)


class _WindowProduct(torch.autograd.Function):
    """(B, S*S*I) pixels by the windows of a kernel (O, I, K, K) that output pixels see: (B, pixels*O).

    Its own backward pass, since autograd would fill and add one whole kernel per window.
    """

    @staticmethod
    def forward(ctx: Any, x_BF: Tensor, weight: Tensor, windows: list[tuple[slice, slice]]) -> Tensor:
        matrix = torch.cat([weight[:, :, rows, columns].permute(0, 2, 3, 1).flatten(1) for rows, columns in windows])
        ctx.save_for_backward(x_BF, weight, matrix)
        ctx.windows = windows
        return x_BF @ matrix.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BF, weight, matrix = ctx.saved_tensors
        grad_x = grads[0] @ matrix if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            parts = (grads[0].T @ x_BF).chunk(len(ctx.windows))
            for (rows, columns), part in zip(ctx.windows, parts, strict=True):
                window = grad_weight[:, :, rows, columns]
                window += part.view(len(weight), *window.shape[2:], -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None
