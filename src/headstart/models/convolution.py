"""Convolutions on maps of a few pixels, where torch's CPU kernels are slow and, in bfloat16, wrong.

Where every output pixel sees every input pixel (1x1 and 2x2 maps under a 3x3 kernel), a convolution is one Linear over
the flattened map. Torch's CPU kernels do not know, and their weight gradient on such maps, the last stages of a ResNet
on small images, is slow: on 2 cores with AVX2 a ResNet-18 step at 16 px takes half the time with this shortcut.

Where some of a kernel's weights meet nothing but padding (a 3x3 kernel of stride 2 on one pixel), their gradient is 0;
the bfloat16 kernels for AMX (torch 2.14.1, oneDNN's brgconv_bwd_w) leave there what the memory held, NaN at times.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def use_small_map_convolutions(network: nn.Module) -> None:
    """Let every zero-padded Conv2d of `network` compute small maps well; parameters and state dict stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = SmallMapConv2d


class SmallMapConv2d(nn.Conv2d):
    """nn.Conv2d that on the CPU computes small maps by `dense_convolution` where it can, and never takes a gradient
    from weights that see padding alone."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what nn.Conv2d returns, up to rounding."""
        if x_BCHW.device.type != "cpu":
            return super().forward(x_BCHW)
        height, width = x_BCHW.shape[-2:]
        if height == width <= 2 and _is_plain(self):
            padding = int(self.padding[0])
            if covers(height, self.kernel_size[0], padding):
                return dense_convolution(x_BCHW, self.weight, self.stride[0], padding)
        rows, columns = (
            seen(size, self.kernel_size[axis], self.stride[axis], int(self.padding[axis]), self.dilation[axis])
            for axis, size in enumerate((height, width))
        )
        if all(rows) and all(columns):
            return super().forward(x_BCHW)
        weight = torch.where(torch.tensor(rows)[:, None] & torch.tensor(columns), self.weight, 0)
        return self._conv_forward(x_BCHW, weight, self.bias)


def _is_plain(conv: nn.Conv2d) -> bool:
    simple = conv.groups == 1 and conv.dilation == (1, 1) and conv.bias is None
    return simple and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))


def covers(size: int, kernel: int, padding: int) -> bool:
    """Return whether each output pixel of a square map sees each input pixel, whatever the stride."""
    return padding + size <= kernel


@cache
def seen(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[bool, ...]:
    """Return, for each of a kernel's weights along one axis, whether it ever meets a pixel of a map of `size`."""
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    corners = [stride * pixel - padding for pixel in range(out)]
    return tuple(any(0 <= corner + dilation * tap < size for corner in corners) for tap in range(kernel))


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
