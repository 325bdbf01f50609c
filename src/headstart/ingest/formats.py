"""What every decoder returns, and the decoders of bundled digits and of archives of images.

A decoder takes the folder that `download` left and lists a dataset's images. Others: own.py (a user's images),
folders.py (images sorted by folders or by lists), pickles.py, binaries.py, matlab.py; decoders.py names them all.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data import UNLABELLED
from headstart.errors import UserError
from headstart.ingest import lists
from headstart.ingest.archives import list_members, read_members
from headstart.ingest.decode import Encoded
from headstart.ingest.tree import PLAIN, Entry, Reading, find_images

Read = Iterator[tuple[int, Encoded] | tuple[range, np.ndarray]]
BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Listing:
    """What a dataset holds before anything is decoded, one entry per image, in the order of the arrays to come.

    source: what messages call it; names: unique; labels: (N,) int64 into classes, -1 for unlabelled; splits: (N,) the
    official split of each image, "train", "val", "test" ("train" for all where there is none), or "unlabelled" for what
    pretrains in train's place; of one split, unlabelled images stand behind labelled ones;
    num_bytes: of all images as stored. read(): yields (index, data) for every image in whatever order is cheap, data
    being an encoded file, a (H, W) or (H, W, 3) uint8 array, or the error that reading gave; or (range of indices,
    block) for consecutive images of one size, block being (n, H, W) or (n, H, W, 3) uint8. crop_bottom: rows of pixels
    to cut off every image.
    """

    source: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    splits: np.ndarray
    num_bytes: int
    read: Callable[[], Read]
    crop_bottom: int = 0


@dataclass(frozen=True)
class Part:
    """Images of one split that are stored as arrays: labels, (n,) integers; blocks(): the images, in their order.

    Parts that must be read in an order of their own have no blocks: see `stacked`.
    """

    split: str
    labels: np.ndarray
    blocks: Callable[[], Iterator[np.ndarray]] = lambda: iter(())


Tagged = Iterator[tuple[int, np.ndarray]]


def stacked(
    source: str,
    classes: list[str],
    parts: list[Part],
    image_bytes: int,
    blocks: Callable[[], Tagged] | None = None,
) -> Listing:
    """Return the listing of arrays of images; raises UserError for labels without a class.

    blocks(): yields (number of the part, block) for all parts, which may be mixed; by default part after part.
    """
    for part in parts:
        low, high = (-1, -1) if part.split == UNLABELLED else (0, len(classes) - 1)
        wrong = np.flatnonzero((part.labels < low) | (part.labels > high))
        if len(wrong):
            raise UserError(
                f"{source}: {part.split} image {wrong[0]} has label {part.labels[wrong[0]]}, allowed: {low} to {high}"
            )
    counts = [len(part.labels) for part in parts]
    return Listing(
        source=source,
        classes=classes,
        names=[f"{part.split} {index}" for part in parts for index in range(len(part.labels))],
        labels=np.concatenate([part.labels for part in parts]).astype(np.int64),
        splits=np.repeat([part.split for part in parts], counts),
        num_bytes=sum(counts) * image_bytes,
        read=functools.partial(_read_parts, source, parts, blocks or functools.partial(_in_turn, parts)),
    )


def _in_turn(parts: list[Part]) -> Tagged:
    for number, part in enumerate(parts):
        for block in part.blocks():
            yield number, block


def _read_parts(source: str, parts: list[Part], blocks: Callable[[], Tagged]) -> Read:
    ends = np.cumsum([len(part.labels) for part in parts]).tolist()
    starts = [end - len(part.labels) for part, end in zip(parts, ends, strict=True)]

    def wrong(number: int) -> UserError:
        part = parts[number]
        return UserError(f"{source}: {part.split} has {len(part.labels)} labels but not as many images; get it again")

    for number, block in blocks():
        start = starts[number]
        starts[number] += len(block)
        if starts[number] > ends[number]:
            raise wrong(number)
        yield range(start, start + len(block)), block
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start < end:
            raise wrong(number)


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


def image_archive(path: Path, reading: Reading = PLAIN) -> Listing:
    """Return the images of a zip or tar archive, or of the only one in the folder `path`, as the list beside it says.

    Without a list: as `find_images` reads the archive.
    """
    listed = path / lists.LIST
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and file != listed]
        if len(files) != 1:
            raise UserError(f"{path}: must hold one archive, holds {len(files)} files; run stage download again")
        path = files[0]
    members = list_members(path)
    entries = lists.read_entries(listed) if listed.is_file() else find_images(str(path), members, reading).entries
    index = {entry.name: number for number, entry in enumerate(entries)}
    num_bytes = sum(member.size for member in members if member.name in index)
    return of_entries(str(path), entries, num_bytes, functools.partial(_read, path, index))


def of_entries(
    source: str,
    entries: Sequence[Entry],
    num_bytes: int,
    read: Callable[[], Read],
    order: Sequence[str] | None = None,
) -> Listing:
    """Return the listing of images whose classes are the labels that there are; "" is none.

    order: of the classes; else sorted, as texts.
    """
    labels = {entry.label for entry in entries} - {""}
    classes = sorted(labels) if order is None else [name for name in order if name in labels]
    places = {name: number for number, name in enumerate(classes)}
    return Listing(
        source=source,
        classes=classes,
        names=[entry.name for entry in entries],
        labels=np.array([places.get(entry.label, -1) for entry in entries], dtype=np.int64),
        splits=np.array([entry.split for entry in entries]),
        num_bytes=num_bytes,
        read=read,
    )


def _read(path: Path, index: dict[str, int]) -> Read:
    for name, data in read_members(path):
        if name in index:
            yield index[name], data


def single(index: int | range, data: Encoded) -> Iterator[tuple[int, Encoded]]:
    """Yield (index, image) of what `Listing.read` yields: of a block each of its images."""
    if isinstance(index, range):
        assert isinstance(data, np.ndarray)
        yield from zip(index, data, strict=True)
    else:
        yield index, data
