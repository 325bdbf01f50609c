"""Random views of a batch of stored images, each image with its own parameters.

`draw` turns a generator into plain numbers, on the host and so the same for every device; `render` turns images and
numbers into views on the CPU (on an accelerator device_views.py does). The steps and distributions are those of
torchvision's RandomResizedCrop, RandomRotation, RandomHorizontalFlip, ColorJitter, RandomGrayscale and GaussianBlur in
SimCLR's order (Chen et al. 2020, appendix A).

Crops are resampled by two matrix products with anti-aliased triangle filters, which equals torchvision's
`resized_crop(..., antialias=True)` and, fed with stored images of another aspect ratio, keeps the original geometry.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated

import torch
from torch import Tensor

from headstart.data.arrays import constant, cut_8_bit
from headstart.knobs import Interval, Range

Probability = Annotated[float, Range(0, 1)]
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision's rgb_to_grayscale
# Of float pixels worked on at once on a CPU: what its last cache holds beside the temporaries, and enough of them that
# starting some hundred kernels a chunk costs little (Xeon, 512 views of 32 px: 20.5 ms in one chunk, 26.1 in two)
CHUNK_BYTES = 2**23
NEUTRAL = torch.tensor([1.0, 1.0, 1.0, 0.0])  # brightness, contrast, saturation, hue that change nothing


@dataclass(frozen=True)
class Views:
    """How a view is drawn; probabilities and strengths as in torchvision's transforms of the same names.

    crop_scale: area share of the crop; crop_ratio: its width over height; rotate: degrees, drawn in [-rotate, rotate];
    brightness, contrast, saturation: factor drawn in [1 - x, 1 + x], hue: shift drawn in [-x, x] turns;
    blur_kernel: odd(blur_kernel * image size) taps; blur_sigma: pixels.
    """

    crop_scale: Annotated[list[float], Interval(0, 1)]
    crop_ratio: Annotated[list[float], Interval(0, 10)]
    rotate: Annotated[float, Range(0, 180)]
    flip: Probability
    jitter: Probability
    brightness: Probability
    contrast: Probability
    saturation: Probability
    hue: Annotated[float, Range(0, 0.5)]
    grey: Probability
    blur: Probability
    blur_kernel: Annotated[float, Range(0, 1, open_low=True)]
    blur_sigma: Annotated[list[float], Interval(0)]


@dataclass(frozen=True)
class Draw:
    """The parameters of B views, on the host: every field has B rows and float32 dtype unless said.

    box: top, left, height, width of the crop as shares of the image; angle: degrees, counter-clockwise; flip, grey,
    blurred: bool; order: (B, 4) int64, the order of brightness, contrast, saturation, hue (0..3); factors: (B, 4),
    NEUTRAL where the image is not jittered; sigma: pixels.
    """

    box: Tensor
    angle: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    blurred: Tensor
    sigma: Tensor

    def rows(self, part: slice | Tensor) -> "Draw":
        """Return the parameters of some of the views: a slice of them, or (M,) int64 indices."""
        return Draw(*(values[part] for values in self.tensors()))

    def to(self, device: torch.device) -> "Draw":
        """Return the parameters on a device."""
        return Draw(*(values.to(device) for values in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the fields in their order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def cropped(self) -> "Draw":
        """Return the parameters of what is left to do with views that are cut out already."""
        return replace(self, box=torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(self.box), 4))


def draw(views: Views, sizes: Tensor, generator: torch.Generator) -> Draw:
    """Draw the parameters of one view per row of `sizes`, (B, 2) original heights and widths in pixels."""
    num = len(sizes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(num, *shape, generator=generator) * (high - low) + low

    def coin(probability: float) -> Tensor:
        return torch.rand(num, generator=generator) < probability

    box = _crop_boxes(views, sizes.float(), generator)
    angle = uniform(-views.rotate, views.rotate)
    flip, jittered = coin(views.flip), coin(views.jitter)
    order = torch.rand(num, 4, generator=generator).argsort(1)
    strength = torch.tensor([views.brightness, views.contrast, views.saturation, views.hue])
    factors = torch.where(jittered[:, None], NEUTRAL + strength * uniform(-1, 1, 4), NEUTRAL)
    grey, blurred = coin(views.grey), coin(views.blur)
    return Draw(box, angle, flip, order, factors, grey, blurred, uniform(views.blur_sigma[0], views.blur_sigma[1]))


def _crop_boxes(views: Views, sizes: Tensor, generator: torch.Generator, attempts: int = 10) -> Tensor:
    """torchvision's RandomResizedCrop.get_params, all attempts of all images at once: (B, 4) shares of the image."""
    num = len(sizes)
    height, width = sizes[:, :1], sizes[:, 1:]
    low, high = views.crop_scale
    area = height * width * (torch.rand(num, attempts, generator=generator) * (high - low) + low)
    log_ratio = [math.log(ratio) for ratio in views.crop_ratio]
    ratio = torch.exp(torch.rand(num, attempts, generator=generator) * (log_ratio[1] - log_ratio[0]) + log_ratio[0])
    crop_w, crop_h = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (crop_w > 0) & (crop_w <= width) & (crop_h > 0) & (crop_h <= height)
    first = fits.int().argmax(1, keepdim=True)
    crop_h, crop_w = crop_h.gather(1, first), crop_w.gather(1, first)
    top = torch.floor(torch.rand(num, 1, generator=generator) * (height - crop_h + 1))
    left = torch.floor(torch.rand(num, 1, generator=generator) * (width - crop_w + 1))
    # no attempt fitted: the largest central crop within the ratio bounds
    full_w = torch.minimum(width, torch.round(height * views.crop_ratio[1]))
    full_h = torch.minimum(height, torch.round(width / views.crop_ratio[0]))
    central = torch.cat([torch.floor((height - full_h) / 2), torch.floor((width - full_w) / 2), full_h, full_w], 1)
    box = torch.where(fits.any(1, keepdim=True), torch.cat([top, left, crop_h, crop_w], 1), central)
    return box / torch.cat([height, width, height, width], 1)


def render(images: Tensor, drawn: Draw, views: Views, size: int) -> Tensor:
    """Return B views: (B, 3, size, size) float32 in [0, 1], on the CPU.

    images: (B, S, S, 3) uint8, whatever the original aspect ratio (the boxes are shares of it). Where S is larger than
    size, crops have edges at whole stored pixels and 8-bit values, as Pillow's have.
    """
    chunk = max(1, CHUNK_BYTES // (12 * size * size))
    parts = [slice(start, start + chunk) for start in range(0, len(images), chunk)]
    return torch.cat([_render(images[part], drawn.rows(part), views, size) for part in parts])


def _render(images: Tensor, drawn: Draw, views: Views, size: int) -> Tensor:
    rotated = bool(drawn.angle.any())
    if images.shape[1] > size and not rotated:
        x_BCHW = _crop_8_bit(images, drawn.box, size, drawn.flip).float().div_(255)
    else:
        x_BCHW = images.permute(0, 3, 1, 2).float().div_(255)
        if rotated:
            x_BCHW = rotate(x_BCHW, drawn.angle)
        x_BCHW = resized_crop(x_BCHW, drawn.box, size, drawn.flip)
    x_BCHW = _jitter(x_BCHW, drawn)
    rows = drawn.grey.nonzero()[:, 0]
    if len(rows):
        x_BCHW[rows] = to_grey(x_BCHW[rows]).expand(-1, 3, -1, -1)
    rows = drawn.blurred.nonzero()[:, 0]
    if len(rows):
        x_BCHW[rows] = gaussian_blur(x_BCHW[rows], drawn.sigma[rows], odd(views.blur_kernel * size))
    return x_BCHW


def _crop_8_bit(images: Tensor, box: Tensor, size: int, flip: Tensor) -> Tensor:
    """`resized_crop` one by one with torch's 8-bit kernel: 9 times as fast on a CPU where 256 px become 128."""
    edges = torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1).mul(images.shape[1]).round().long()
    edges[:, :2].clamp_(max=images.shape[1] - 1)
    edges[:, 2:] = torch.maximum(edges[:, 2:], edges[:, :2] + 1)
    x_BCHW = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for row, (image, (top, left, bottom, right)) in enumerate(zip(images, edges.tolist(), strict=True)):
        x_BCHW[row] = cut_8_bit(image, top, left, bottom, right, size)
    x_BCHW[flip] = x_BCHW[flip].flip(-1)
    return x_BCHW


def resize(images: Tensor, size: int) -> Tensor:
    """Return whole stored images (N, S, S, 3) uint8 as (N, 3, size, size) float32 in [0, 1]; what evaluation sees."""
    x_NCHW = images.permute(0, 3, 1, 2).float().div_(255)
    if x_NCHW.shape[-1] == size:
        return x_NCHW
    box = constant([0.0, 0.0, 1.0, 1.0], images.device).expand(len(images), 4)
    return resized_crop(x_NCHW, box, size)


def odd(value: float) -> int:
    """Return int(value), plus one where that is even (the authors' kernel size)."""
    return int(value) + (int(value) % 2 == 0)


def resized_crop(x_BCHW: Tensor, box: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Return each image's box resampled to (size, size), bilinear with anti-aliasing, mirrored where `flip` is set.

    box: (B, 4) top, left, height, width as shares of the image. Equals torchvision's resized_crop(antialias=True).
    """
    height, width = x_BCHW.shape[-2:]
    rows = triangle_filter(box[:, 0] * height, box[:, 2] * height, height, size)
    columns = triangle_filter(box[:, 1] * width, box[:, 3] * width, width, size)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    return (rows[:, None] @ x_BCHW @ columns[:, None].transpose(-1, -2)).clamp_(0, 1)


def triangle_filter(start: Tensor, length: Tensor, num_in: int, num_out: int) -> Tensor:
    """(B, num_out, num_in) resampling weights of the segment [start, start + length) pixels, rows summing to one."""
    scale = (length / num_out)[:, None, None]
    support = scale.clamp(min=1)
    centre = start[:, None, None] + (torch.arange(num_out, device=start.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(num_in, device=start.device)[None, None, :] + 0.5
    # taps outside the crop count for nothing, as when the crop is cut out first
    first = start.round().clamp(max=num_in - 1)[:, None, None]
    last = torch.maximum((start + length).round()[:, None, None], first + 1)
    inside = (pixel > first) & (pixel < last)
    weights = (1 - (pixel - centre).abs() / support).clamp(min=0) * inside
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)


def rotate(x_BCHW: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the centre, bilinear, black outside; counter-clockwise as torchvision.functional.rotate."""
    radians = torch.deg2rad(degrees)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = torch.nn.functional.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _jitter(x_BCHW: Tensor, drawn: Draw) -> Tensor:
    """Brightness, contrast, saturation and hue in each image's own order, clamped after every step."""
    for step in range(4):
        for kind, adjust in enumerate(ADJUST):
            mask = (drawn.order[:, step] == kind) & (drawn.factors[:, kind] != NEUTRAL[kind])
            rows = mask.nonzero()[:, 0]
            if len(rows):
                x_BCHW[rows] = adjust(x_BCHW[rows], drawn.factors[rows, kind][:, None, None, None])
    return x_BCHW


def to_grey(x_BCHW: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images."""
    red, green, blue = x_BCHW.unbind(1)
    return (GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue)[:, None]


def _brightness(x_BCHW: Tensor, factor: Tensor) -> Tensor:
    return x_BCHW.mul_(factor).clamp_(0, 1)


def _contrast(x_BCHW: Tensor, factor: Tensor) -> Tensor:
    mean = to_grey(x_BCHW).mean((-3, -2, -1), keepdim=True)
    return torch.lerp(mean, x_BCHW, factor).clamp_(0, 1)


def _saturation(x_BCHW: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(to_grey(x_BCHW), x_BCHW, factor).clamp_(0, 1)


def hue_shift(x_BCHW: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of RGB images in [0, 1] by `turns` of the colour circle, (B, 1, 1, 1), through HSV.

    The way back uses f(n) = V - C * clip(min(k, 4 - k), 0, 1), k = (n + 6 hue) mod 6, n = 5, 3, 1.
    """
    red, green, blue = x_BCHW.unbind(1)
    value, low = x_BCHW.amax(1), x_BCHW.amin(1)
    chroma = value - low
    safe = chroma.clamp(min=1e-12)  # where it is 0, so are the differences
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector.add_(6 * turns[:, 0])[:, None]
    offset = torch.arange(5.0, 0.0, -2.0, device=x_BCHW.device)[None, :, None, None]  # 5, 3, 1 without a copy
    k = (sector + offset).remainder_(6)
    return torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma[:, None]).neg_().add_(value[:, None])


ADJUST = (_brightness, _contrast, _saturation, hue_shift)  # by their numbers in Draw.order


def gaussian_blur(x_BCHW: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Blur each image with its own sigma (B,), `taps` odd, reflected borders; as torchvision's gaussian_blur."""
    band = blur_band(sigma, taps, x_BCHW.shape[-1])[:, None]
    return band @ x_BCHW @ band.transpose(-1, -2)


def blur_band(sigma: Tensor, taps: int, size: int, blurred: Tensor | None = None) -> Tensor:
    """Return (B, size, size) matrices that blur along one axis; the identity where `blurred` (B,) is not set."""
    half = min(taps // 2, size - 1)
    offsets = torch.arange(-half, half + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    if blurred is not None:
        kernel = torch.where(blurred[:, None], kernel, (offsets == 0).to(kernel.dtype))
    # a banded (size, size) matrix per image whose taps beyond the border fold back onto their mirror pixel
    source = torch.arange(size, device=sigma.device)[:, None] + offsets
    source = torch.where(source < 0, -source, source)
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    # (size, taps, size); torch's one_hot reads its greatest index on the host
    one_hot = (source[..., None] == torch.arange(size, device=sigma.device)).to(kernel.dtype)
    return torch.einsum("bt,stu->bsu", kernel, one_hot)
