"""The prepared dataset: one uint8 array per split, and what is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NAMES = "names.json"  # split -> names of its images, where some of them are unlabelled


@dataclass(frozen=True)
class Whole:
    """Images at full resolution, one after the other, from which crops are cut.

    pixels: uint8, image i from starts[i] on, its rows of (height, width, 3) as `sizes` (N, 2) says; starts: (N,) int64.
    Memory-mapped where they come from a file: only what is cut out is read.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor

    def crops(self, rows: Tensor, box: Tensor, size: int) -> Tensor:
        """Return crops of rows (B,) as (B, size, size, 3) uint8, bilinear with anti-aliasing, as Pillow's 8 bits.

        box: (B, 4) top, left, height, width as shares of each image, which come to whole pixels.
        """
        found = torch.empty(len(rows), size, size, 3, dtype=torch.uint8)
        for number, (row, shares) in enumerate(zip(rows.tolist(), box.double(), strict=True)):
            height, width = self.sizes[row].tolist()
            start = int(self.starts[row])
            image = self.pixels[start : start + 3 * height * width].view(height, width, 3)
            scale = torch.tensor([height, width, height, width], dtype=torch.float64)
            top, left, tall, wide = (shares * scale).round().long().tolist()
            edges = (top, left, top + max(tall, 1), left + max(wide, 1))
            found[number] = cut_8_bit(image, *edges, size).permute(1, 2, 0)
        return found


def cut_8_bit(image: Tensor, top: int, left: int, bottom: int, right: int, size: int) -> Tensor:
    """Return what lies between these pixels of (height, width, 3) uint8 as (3, size, size) uint8.

    Bilinear with anti-aliasing by torch's 8-bit kernel, which rounds as Pillow does.
    """
    crop = image[top:bottom, left:right].permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    images: (N, S, S, 3) uint8 RGB, squashed to a square; labels: (N,) int64; sizes: (N, 2) int64 original height and
    width; whole: the same images at full resolution, where views are cut from these.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor
    whole: Whole | None = None

    def to(self, device: torch.device) -> "Split":
        """Return the split with its images on `device`; all else stays on the host, where batches are drawn."""
        return Split(self.images.to(device), self.labels, self.sizes, self.whole)


@dataclass(frozen=True)
class Standardize:
    """Per-channel standardisation with the train split's statistics; mean and std: 3 values of [0, 1] pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Return (x - mean) / std, same shape; a constant channel, of std 0, is only shifted."""
        mean, std = (constant(values, x_BCHW.device)[:, None, None] for values in (self.mean, self.divisors))
        return (x_BCHW - mean) / std

    @property
    def divisors(self) -> tuple[float, ...]:
        """The deviations, 1 in place of 0."""
        return tuple(std if std > 0 else 1.0 for std in self.std)


def constant(values: Sequence[float], device: torch.device) -> Tensor:
    """Return host numbers as (n,) float32 on a device, written by kernels: a copy would make the host wait for it."""
    return torch.stack([torch.full((), value, device=device) for value in values])


def array_path(folder: Path, split: str, part: str) -> Path:
    """Return the file of one array of a prepared dataset; part: images, labels, sizes, or whole and starts."""
    return folder / f"{split}_{part}.npy"


def load_split(folder: Path, split: str) -> Split:
    """Return one split of a prepared dataset, its images memory-mapped."""
    images, labels, sizes = (_load(folder, split, part) for part in ("images", "labels", "sizes"))
    whole = None
    if array_path(folder, split, "whole").exists():
        whole = Whole(_load(folder, split, "whole"), _load(folder, split, "starts"), sizes.long())
    return Split(images, labels.long(), sizes.long(), whole)


def _load(folder: Path, split: str, part: str) -> Tensor:
    mapped = part in ("images", "whole")
    return torch.from_numpy(np.load(array_path(folder, split, part), mmap_mode="c" if mapped else None))
