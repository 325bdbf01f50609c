"""Decoders of datasets with .mat files: SVHN's arrays, the labels and splits of the 102 flowers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from headstart.errors import UserError
from headstart.ingest.archives import reading
from headstart.ingest.flowers import FLOWERS
from headstart.ingest.folders import gather, pick
from headstart.ingest.formats import Listing, Part, stacked
from headstart.ingest.tree import Entry


def svhn(folder: Path) -> Listing:
    """Return SVHN's cropped digits: 73,257 train and 26,032 test images of 32 px; label 10 stands for the digit 0."""
    parts = []
    for split in ("train", "test"):
        path = folder / f"{split}_32x32.mat"
        labels = _integers(path, "y")
        if labels.min(initial=1) < 1:
            raise UserError(f"{path}: labels must be 1 to 10; get it again")
        parts.append(Part(split, np.where(labels == 10, 0, labels), partial(_svhn_images, path)))
    return stacked(str(folder), list("0123456789"), parts, 32 * 32 * 3)


def _svhn_images(path: Path) -> Iterator[np.ndarray]:
    """Yield the images, stored as (32, 32, 3, n)."""
    images = _variable(path, "X")
    if images.dtype != np.uint8 or images.shape[:-1] != (32, 32, 3):
        raise UserError(f"{path}: X must be (32, 32, 3, n) bytes; get it again")
    for start in range(0, images.shape[3], 4096):
        yield images[..., start : start + 4096].transpose(3, 0, 1, 2)


def flowers102(folder: Path) -> Listing:
    """Return the 102 flowers in the published splits: 1,020 train, 1,020 val and 6,149 test images.

    Some swap trnid and tstid to train on more; the page's readme and most papers, and torchvision, do not.
    """
    labels = _integers(folder / "imagelabels.mat", "labels")
    path = folder / "setid.mat"
    entries = []
    for split, name in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        for number in _integers(path, name).tolist():
            if not 1 <= number <= len(labels):
                raise UserError(
                    f"{path}: {name}: image {number}, but there are labels of 1 to {len(labels)}; get it again"
                )
            label = int(labels[number - 1])
            if not 1 <= label <= len(FLOWERS):
                raise UserError(
                    f"{folder / 'imagelabels.mat'}: label {label}, allowed: 1 to {len(FLOWERS)}; get it again"
                )
            entries.append(Entry(split, FLOWERS[label - 1], f"jpg/image_{number:05d}.jpg"))
    return gather([pick(folder / "102flowers.tgz", entries)], FLOWERS)


def _integers(path: Path, name: str) -> np.ndarray:
    values = _variable(path, name).reshape(-1)
    if values.dtype.kind not in "iu":
        raise UserError(f"{path}: {name} must be integers; get it again")
    return values.astype(np.int64)


def _variable(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat  # with scikit-learn; half a second that other datasets do not pay

    with reading(path), path.open("rb") as file:
        try:
            found = loadmat(file, variable_names=[name])
        except Exception as error:  # damage makes scipy's reader raise nearly anything
            raise ValueError(str(error) or type(error).__name__) from None
    if not isinstance(found.get(name), np.ndarray):
        raise UserError(f"{path}: lacks {name}; get it again")
    return found[name]
