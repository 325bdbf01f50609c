"""Decoders: from what `download` left in a folder to a listing of a dataset's images.

Another dataset is one function that returns a Listing, and one row of KINDS in table.py.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data.archives import list_members, read_members
from headstart.data.tree import find_images
from headstart.errors import UserError

Encoded = bytes | np.ndarray | Exception


@dataclass(frozen=True)
class Listing:
    """What a dataset holds before anything is decoded, one entry per image, in the order of the arrays to come.

    source: what messages call it; names: unique; labels: (N,) int64 into classes; splits: (N,) the official split of
    each image, "train", "val" or "test" ("train" for all where there is none); num_bytes: of all images as stored.
    read(): yields (index, data) for every image in whatever order is cheap, data being an encoded file, a (H, W) or
    (H, W, 3) uint8 array, or the error that reading gave.
    """

    source: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    splits: np.ndarray
    num_bytes: int
    read: Callable[[], Iterator[tuple[int, Encoded]]]


def digits(folder: Path) -> Listing:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, 17 grey levels spread over 0..255; no official split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Listing(
        source="digits",
        classes=[str(name) for name in bunch.target_names],
        names=[f"digit {number}" for number in range(len(images))],
        labels=bunch.target.astype(np.int64),
        splits=np.full(len(images), "train"),
        num_bytes=images.nbytes,
        read=lambda: enumerate(images),
    )


def image_archive(path: Path) -> Listing:
    """Return the images of a zip or tar archive, or of the only one in the folder `path`; layout: `find_images`."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
        if len(files) != 1:
            raise UserError(f"{path}: must hold one archive, holds {len(files)} files; run stage download again")
        path = files[0]
    members = list_members(path)
    entries = find_images(str(path), members)
    index = {entry.name: number for number, entry in enumerate(entries)}
    classes = sorted({entry.label for entry in entries})
    class_index = {name: number for number, name in enumerate(classes)}
    return Listing(
        source=str(path),
        classes=classes,
        names=[entry.name for entry in entries],
        labels=np.array([class_index[entry.label] for entry in entries], dtype=np.int64),
        splits=np.array([entry.split for entry in entries]),
        num_bytes=sum(member.size for member in members if member.name in index),
        read=functools.partial(_read, path, index),
    )


def _read(path: Path, index: dict[str, int]) -> Iterator[tuple[int, Encoded]]:
    for name, data in read_members(path):
        if name in index:
            yield index[name], data
