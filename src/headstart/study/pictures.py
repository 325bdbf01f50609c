"""Pictures of images and of confusion: PNG, the same bytes for the same input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headstart.errors import fitted, printable

GRID_TILE = 64  # pixels; small images are enlarged to about this, by whole factors


def image_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Write rows of equally sized images, each (N, 3, S, S) float in [0, 1], as one PNG."""
    from torchvision.utils import make_grid

    images = torch.cat(list(rows)).cpu()
    factor = max(1, round(GRID_TILE / images.shape[-1]))
    grid = make_grid(images, nrow=len(rows[0]), padding=1, pad_value=1.0)
    pixels = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(path)


def confusion_picture(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Write a confusion matrix, rows true classes as shares of their row, columns predicted ones, as a PNG."""
    from matplotlib.figure import Figure

    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    num = len(classes)
    side = min(4.0 + 0.3 * num, 20.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    if num <= 40:
        names = [fitted(printable(name), 40).replace("$", r"\$") for name in classes]  # $: matplotlib's formulas
        axes.set_xticks(range(num), names, rotation=90)
        axes.set_yticks(range(num), names)
    if num <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    figure.savefig(path, dpi=100)
