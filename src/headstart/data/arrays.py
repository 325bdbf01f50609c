"""The prepared dataset: one uint8 array per split, and what is known about it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    images: (N, S, S, 3) uint8 RGB, squashed to a square; labels: (N,) int64; sizes: (N, 2) int64 original height and
    width.
    """

    images: Tensor
    labels: Tensor
    sizes: Tensor

    def to(self, device: torch.device) -> "Split":
        """Return the split with its images on `device`; labels and sizes stay on the host, where batches are drawn."""
        return Split(self.images.to(device), self.labels, self.sizes)


@dataclass(frozen=True)
class Standardize:
    """Per-channel standardisation with the train split's statistics; mean and std: 3 values of [0, 1] pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Return (x - mean) / std, same shape; a constant channel, of std 0, is only shifted."""
        mean = torch.tensor(self.mean, device=x_BCHW.device)[:, None, None]
        std = torch.tensor(self.std, device=x_BCHW.device)[:, None, None]
        return (x_BCHW - mean) / torch.where(std > 0, std, 1.0)


def array_path(folder: Path, split: str, part: str) -> Path:
    """Return the file of one array of a prepared dataset; part: images, labels or sizes."""
    return folder / f"{split}_{part}.npy"


def load_split(folder: Path, split: str) -> Split:
    """Return one split of a prepared dataset, its images memory-mapped."""
    images = np.load(array_path(folder, split, "images"), mmap_mode="c")
    return Split(
        torch.from_numpy(images),
        torch.from_numpy(np.load(array_path(folder, split, "labels"))).long(),
        torch.from_numpy(np.load(array_path(folder, split, "sizes"))).long(),
    )
