"""Triton kernels of the views on a GPU; imported only where Triton is installed and a device runs them.

Images are (B, S, C, S), a row's channels one after the other: see device_views.py.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # pixels that a program holds at once: a whole image of 32 px, a sixteenth of one of 128 px
TILE = 4096  # weights of a filter that a program holds at once


@triton.jit
def _clip(x):  # type: ignore[no-untyped-def]
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _grey(red, green, blue):  # type: ignore[no-untyped-def]
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _hue_channel(k, value, chroma):  # type: ignore[no-untyped-def]
    k = k - 6.0 * tl.floor(k / 6.0)
    return value - chroma * _clip(tl.minimum(k, 4.0 - k))


@triton.jit
def _adjust(red, green, blue, kind, factor, mean):  # type: ignore[no-untyped-def]
    """One of views.ADJUST, by its number; mean: of the whole image's grey, which contrast alone needs."""
    if kind == 0:
        red, green, blue = _clip(red * factor), _clip(green * factor), _clip(blue * factor)
    elif kind == 1:
        red = _clip(mean + factor * (red - mean))
        green = _clip(mean + factor * (green - mean))
        blue = _clip(mean + factor * (blue - mean))
    elif kind == 2:
        grey = _grey(red, green, blue)
        red = _clip(grey + factor * (red - grey))
        green = _clip(grey + factor * (green - grey))
        blue = _clip(grey + factor * (blue - grey))
    else:
        value = tl.maximum(tl.maximum(red, green), blue)
        chroma = value - tl.minimum(tl.minimum(red, green), blue)
        safe = tl.maximum(chroma, 1e-12)
        sector = tl.where(
            value == red,
            (green - blue) / safe,
            tl.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
        )
        sector += 6.0 * factor
        red = _hue_channel(sector + 5.0, value, chroma)
        green = _hue_channel(sector + 3.0, value, chroma)
        blue = _hue_channel(sector + 1.0, value, chroma)
    return red, green, blue


@triton.jit
def _load(x, places, size, mask, scale):  # type: ignore[no-untyped-def]
    red = _clip(tl.load(x + places, mask, 0.0).to(tl.float32) / scale)
    green = _clip(tl.load(x + places + size, mask, 0.0).to(tl.float32) / scale)
    blue = _clip(tl.load(x + places + 2 * size, mask, 0.0).to(tl.float32) / scale)
    return red, green, blue


@triton.jit  # type: ignore[untyped-decorator]
def colour_kernel(  # type: ignore[no-untyped-def]
    x, out, factors, orders, greys, size, scale, mean0, mean1, mean2, std0, std1, std2, block: tl.constexpr
):
    """One program per image: its jitter in its own order, grey, standardisation."""
    image = tl.program_id(0).to(tl.int64)
    num_pixels = size * size
    x += image * 3 * num_pixels
    out += image * 3 * num_pixels
    contrast = tl.load(factors + image * 4 + 1)
    mean = 0.0
    if contrast != 1.0:  # the mean of the image as it is when contrast comes: a pass of its own
        total = tl.zeros([block], tl.float32)
        for start in range(0, num_pixels, block):
            pixel = start + tl.arange(0, block)
            mask = pixel < num_pixels
            red, green, blue = _load(x, pixel // size * 3 * size + pixel % size, size, mask, scale)
            reached = 0
            for step in range(4):
                kind = tl.load(orders + image * 4 + step).to(tl.int32)
                factor = tl.load(factors + image * 4 + kind)
                reached = tl.where(kind == 1, 1, reached)
                if (reached == 0) & (factor != tl.where(kind == 3, 0.0, 1.0)):
                    red, green, blue = _adjust(red, green, blue, kind, factor, 0.0)
            total += tl.where(mask, _grey(red, green, blue), 0.0)
        mean = tl.sum(total, 0) / num_pixels
    is_grey = tl.load(greys + image) != 0
    for start in range(0, num_pixels, block):
        pixel = start + tl.arange(0, block)
        mask = pixel < num_pixels
        places = pixel // size * 3 * size + pixel % size
        red, green, blue = _load(x, places, size, mask, scale)
        for step in range(4):
            kind = tl.load(orders + image * 4 + step).to(tl.int32)
            factor = tl.load(factors + image * 4 + kind)
            if factor != tl.where(kind == 3, 0.0, 1.0):
                red, green, blue = _adjust(red, green, blue, kind, factor, mean)
        if is_grey:
            red = _grey(red, green, blue)
            green = red
            blue = red
        tl.store(out + places, ((red - mean0) / std0).to(out.dtype.element_ty), mask)
        tl.store(out + places + size, ((green - mean1) / std1).to(out.dtype.element_ty), mask)
        tl.store(out + places + 2 * size, ((blue - mean2) / std2).to(out.dtype.element_ty), mask)


@triton.jit
def _round(x):  # type: ignore[no-untyped-def]
    """Halves to even, as torch.round; libdevice's would not run in Triton's interpreter."""
    floor = tl.floor(x)
    rest = x - floor
    odd = floor - 2.0 * tl.floor(floor / 2.0) == 1.0
    return floor + tl.where((rest > 0.5) | ((rest == 0.5) & odd), 1.0, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def filter_kernel(  # type: ignore[no-untyped-def]
    boxes, flips, out, axis, num_in, num_out, rows: tl.constexpr, columns: tl.constexpr
):
    """views.triangle_filter of one axis of a box, mirrored where `flips` is set; a program per image and some rows."""
    image = tl.program_id(0).to(tl.int64)
    start = tl.load(boxes + image * 4 + axis) * num_in
    length = tl.load(boxes + image * 4 + 2 + axis) * num_in
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    column = tl.arange(0, columns)
    scale = length / num_out
    first = tl.minimum(_round(start), num_in - 1.0)
    last = tl.maximum(_round(start + length), first + 1.0)
    pixel = column.to(tl.float32) + 0.5
    inside = (pixel > first) & (pixel < last) & (column < num_in)
    centre = start + (row.to(tl.float32) + 0.5) * scale
    weights = 1.0 - tl.abs(pixel[None, :] - centre[:, None]) / tl.maximum(scale, 1.0)
    weights = tl.where(inside[None, :], tl.maximum(weights, 0.0), 0.0)
    weights /= tl.maximum(tl.sum(weights, 1), 1e-12)[:, None]
    mirrored = tl.load(flips + image) != 0
    place = tl.where(mirrored, num_out - 1 - row, row)
    places = (image * num_out + place)[:, None] * num_in + column[None, :]
    tl.store(out + places, weights.to(out.dtype.element_ty), (row < num_out)[:, None] & (column < num_in)[None, :])


def colour(
    x_BHCW: Tensor, factors: Tensor, order: Tensor, grey: Tensor, mean: list[float], std: list[float], scale: float
) -> Tensor:
    """Launch colour_kernel; see device_views.colour."""
    out = torch.empty_like(x_BHCW)
    num, size = x_BHCW.shape[:2]
    warps: Any = {"num_warps": 8 if size * size > BLOCK else 4}
    colour_kernel[(num,)](x_BHCW, out, factors, order, grey, size, scale, *mean, *std, block=BLOCK, **warps)
    return out


def crop_filter(box: Tensor, flip: Tensor, axis: int, num_in: int, num_out: int, dtype: torch.dtype) -> Tensor:
    """Launch filter_kernel; see device_views.crop_filter."""
    out = torch.empty(len(box), num_out, num_in, dtype=dtype, device=box.device)
    columns = triton.next_power_of_2(num_in)
    rows = min(max(TILE // columns, 1), triton.next_power_of_2(num_out))
    filter_kernel[(len(box), triton.cdiv(num_out, rows))](
        box, flip, out, axis, num_in, num_out, rows=rows, columns=columns
    )
    return out


def try_out(device: torch.device) -> None:
    """Compile and launch both kernels once; raises where Triton, a C compiler or the driver is not fit for it."""
    x_BHCW, flip = torch.zeros(1, 2, 3, 2, device=device), torch.zeros(1, dtype=torch.bool, device=device)
    factors, order = torch.zeros(1, 4, device=device), torch.arange(4, device=device)[None]
    colour(x_BHCW, factors, order, flip, [0.0] * 3, [1.0] * 3, 1.0)
    crop_filter(factors, flip, 0, 2, 2, torch.float32)
