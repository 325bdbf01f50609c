"""Pictures of images and of confusion: PNG, the same bytes for the same input."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """Write a confusion matrix, rows true classes as shares of their row, columns predicted ones, as a PNG.

    Names stand there as they are: nothing in them is taken for mathematics. Their characters come from a font of this
    machine that has them; those that none has are boxes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    num = len(classes)
    side = min(4.0 + 0.3 * num, 20.0)
    plain: dict[str, Any] = {"parse_math": False}
    with rc_context({"font.family": _fonts("".join([title, *classes]))}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.set_title(_one_line(title), **plain)
        if num <= 40:
            names = [_one_line(name) for name in classes]
            axes.set_xticks(range(num), names, rotation=90, **plain)
            axes.set_yticks(range(num), names, **plain)
        if num <= 20:
            for row, column in zip(*np.nonzero(counts), strict=True):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
        figure.savefig(path, dpi=100)


def _one_line(text: str, most: int = 40) -> str:
    """A name as a picture has room for it."""
    return fitted(" ".join(printable(text).split()), most)


def _fonts(text: str) -> list[str]:
    """The usual font and, for characters that it lacks, the fewest of this machine that have them."""
    from matplotlib import font_manager, rcParams
    from matplotlib.ft2font import FT2Font

    fonts = list(rcParams["font.family"])
    usual = font_manager.findfont(font_manager.FontProperties(family=fonts))
    missing = {ord(character) for character in text} - set(FT2Font(usual).get_charmap())
    others = {entry.fname: entry.name for entry in font_manager.fontManager.ttflist} if missing else {}
    for file, name in sorted(others.items(), key=lambda other: (other[1], other[0])):
        try:
            found = missing & set(FT2Font(file).get_charmap())
        except (OSError, RuntimeError):
            continue
        if found and name not in fonts:
            fonts, missing = [*fonts, name], missing - found
    return fonts
