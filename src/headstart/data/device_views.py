"""Views as a network takes them, on any device: `render` on the CPU, and on an accelerator kernels of fixed shapes.

There nothing waits, nothing branches on a drawn number, and so a CUDA graph can hold it: every image is cropped and
blurred by a matrix product (by the identity where it is not blurred), and one Triton kernel does colours and
standardisation. Images lie as (B, S, C, S), a row's channels one after the other: both products of a crop are then
plain batched ones, (B, S*C, S) by columns and (B, S, C*S) by rows, without a copy between them.
"""

import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from headstart.data.arrays import Standardize, constant
from headstart.data.views import (
    ADJUST,
    NEUTRAL,
    Draw,
    Views,
    blur_band,
    odd,
    render,
    rotate,
    to_grey,
    triangle_filter,
)
from headstart.errors import reason

UNCHANGED = Standardize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def network_input(
    images: Tensor,
    drawn: Draw,
    views: Views,
    size: int,
    standardize: Standardize | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return B views, standardised, as (B, 3, size, size), channels last, on the device of images and `drawn`.

    images: (B, S, S, 3) uint8. dtype: that in which the network computes; on the CPU always float32. On an accelerator
    a network in bfloat16 gets views whose matrix products are in float16 (values of whole pixels are exact there, the
    error is at most some tenths of 1/255), else in float32.
    """
    if images.device.type == "cpu":
        x_BCHW = render(images, drawn, views, size)
        if standardize is not None:
            x_BCHW = standardize(x_BCHW)
        return x_BCHW.contiguous(memory_format=torch.channels_last)
    return fixed_shape_views(images, drawn, views, size, standardize, dtype)


def fixed_shape_views(
    images: Tensor,
    drawn: Draw,
    views: Views,
    size: int,
    standardize: Standardize | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return what `network_input` returns on an accelerator; runs on the CPU too."""
    products = torch.float16 if dtype == torch.bfloat16 else torch.float32
    if views.rotate:
        x_BCHW = rotate(images.permute(0, 3, 1, 2).float(), drawn.angle)
        x_BHCW = x_BCHW.permute(0, 2, 1, 3).to(products).contiguous()
    else:
        x_BHCW = images.permute(0, 1, 3, 2).to(products, memory_format=torch.contiguous_format)
    no_flip = torch.zeros_like(drawn.flip)
    rows, columns = (
        crop_filter(drawn.box, flip, axis, images.shape[1 + axis], size, products)
        for axis, flip in enumerate((no_flip, drawn.flip))
    )
    x_BHCW = _both_axes(x_BHCW, rows, columns)
    statistics = standardize or UNCHANGED
    mean, std = list(statistics.mean), list(statistics.divisors)
    x_BHCW = colour(x_BHCW, drawn.factors, drawn.order, drawn.grey, mean, std, 255.0)
    if views.blur:
        band = blur_band(drawn.sigma, odd(views.blur_kernel * size), size, drawn.blurred).to(products)
        x_BHCW = _both_axes(x_BHCW, band, band)
    return x_BHCW.permute(0, 2, 1, 3).to(dtype, memory_format=torch.channels_last)


def _both_axes(x_BHCW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply (B, O, H) to the rows and (B, P, W) to the columns: (B, O, C, P)."""
    num, height, channels, width = x_BHCW.shape
    across = x_BHCW.view(num, height * channels, width) @ columns.mT
    return (rows @ across.view(num, height, -1)).view(num, rows.shape[1], channels, -1)


@torch.library.custom_op("headstart::crop_filter", mutates_args=())
def crop_filter(box: Tensor, flip: Tensor, axis: int, num_in: int, num_out: int, dtype: torch.dtype) -> Tensor:
    """Return (B, num_out, num_in) weights that cut and resample one axis, 0 rows or 1 columns, of each image's box.

    box: (B, 4) shares of the image; flip: (B,) bool, mirrored where set. As views.triangle_filter.
    """
    if (kernels := _kernels(box.device.type)) is not None:
        return kernels.crop_filter(box, flip, axis, num_in, num_out, dtype)
    weights = triangle_filter(box[:, axis] * num_in, box[:, 2 + axis] * num_in, num_in, num_out)
    return torch.where(flip[:, None, None], weights.flip(1), weights).to(dtype)


@crop_filter.register_fake
def _(box: Tensor, flip: Tensor, axis: int, num_in: int, num_out: int, dtype: torch.dtype) -> Tensor:
    return box.new_empty(len(box), num_out, num_in, dtype=dtype)


@torch.library.custom_op("headstart::colour", mutates_args=())
def colour(
    x_BHCW: Tensor,
    factors: Tensor,
    order: Tensor,
    grey: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float,
) -> Tensor:
    """Return images (B, S, 3, S), jittered, grey where drawn, standardised; in x's dtype, computed in float32.

    x: values in [0, scale]; factors, order (B, 4), grey (B,): as in Draw; mean, std: 3 values of pixels in [0, 1].
    """
    if (kernels := _kernels(x_BHCW.device.type)) is not None:
        return kernels.colour(x_BHCW, factors, order, grey, list(mean), list(std), scale)
    x_BCHW = (x_BHCW.permute(0, 2, 1, 3).float() / scale).clamp_(0, 1)
    neutral = constant(NEUTRAL.tolist(), x_BCHW.device)
    for step in range(4):
        for kind, adjust in enumerate(ADJUST):
            chosen = (order[:, step] == kind) & (factors[:, kind] != neutral[kind])
            adjusted = adjust(x_BCHW.clone(), factors[:, kind, None, None, None])
            x_BCHW = torch.where(chosen[:, None, None, None], adjusted, x_BCHW)
    x_BCHW = torch.where(grey[:, None, None, None], to_grey(x_BCHW), x_BCHW)
    x_BCHW = Standardize(tuple(mean), tuple(std))(x_BCHW)
    return x_BCHW.permute(0, 2, 1, 3).to(x_BHCW.dtype).contiguous()


@colour.register_fake
def _(
    x_BHCW: Tensor,
    factors: Tensor,
    order: Tensor,
    grey: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float,
) -> Tensor:
    return torch.empty_like(x_BHCW)


@cache
def _kernels(device: str) -> ModuleType | None:
    """The Triton kernels where they run; where they ought to and do not, one line on stderr says why."""
    if device != "cuda":
        return None
    try:
        from headstart.data import kernels

        kernels.try_out(torch.device(device))
    except Exception as error:  # Triton, its compiler's and the driver's are of many kinds
        print(
            f"warning: views without Triton ({reason(error, 120)}): torch's kernels take some ms a step",
            file=sys.stderr,
        )
        return None
    return kernels
