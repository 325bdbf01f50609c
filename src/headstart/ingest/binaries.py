"""Decoders of images stored as plain bytes: IDX (MNIST and its like), STL-10's binaries, MedMNIST's .npz."""

import gzip
import io
import math
import string
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated

import numpy as np

from headstart.data import UNLABELLED
from headstart.errors import UserError
from headstart.ingest.archives import list_members, open_members, read_all, read_files, reading
from headstart.ingest.formats import BLOCK_BYTES, Listing, Part, Tagged, stacked
from headstart.knobs import OneOf

MAX_IMAGES = 10**8  # of an IDX file, whose labels are read at once
MAX_ARRAY_BYTES = 2**30  # of a .npz: the largest of MedMNIST's are 28 px and 0.4 GB

# ---- IDX: a magic number, big-endian sizes, bytes

MNIST_CLASSES = tuple(string.digits)
# of letters whose capital and small forms look alike, by_merge and balanced know one class
_MERGED = [*string.digits, *string.ascii_uppercase, *"abdefghnqrt"]
EMNIST_CLASSES = {
    "byclass": [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase],
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": [*string.ascii_lowercase],
    "digits": [*string.digits],
    "mnist": [*string.digits],
}

Opener = Callable[[], AbstractContextManager[IO[bytes]]]


def mnist(folder: Path, classes: tuple[str, ...] = MNIST_CLASSES) -> Listing:
    """Return MNIST, or what is published in its four files: 60,000 train and 10,000 test images of 28 px, grey."""
    parts = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"
        found = _idx_labels(labels, partial(_open_file, labels))
        parts.append(Part(split, found, partial(_idx_images, images, partial(_open_file, images))))
    return stacked(str(folder), list(classes), parts, 28 * 28)


def emnist(folder: Path, split: Annotated[str, OneOf(EMNIST_CLASSES)]) -> Listing:
    """Return one of EMNIST's six splits, each with its own train and test; 28 px, grey."""
    path, classes = folder / "gzip.zip", EMNIST_CLASSES[split]
    list_members(path, published=True)
    parts = []
    for part in ("train", "test"):
        name = f"gzip/emnist-{split}-{part}-{{}}-ubyte.gz"
        labels = _idx_labels(path, partial(_open_member, path, name.format("labels-idx1")))
        labels = labels - (split == "letters")  # these alone count from 1
        images = partial(_idx_images, path, partial(_open_member, path, name.format("images-idx3")), turned=True)
        parts.append(Part(part, labels, images))
    return stacked(f"{path} ({split})", classes, parts, 28 * 28)


def _open_file(path: Path) -> AbstractContextManager[IO[bytes]]:
    return path.open("rb")


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with closing(open_members(path, [name])) as found:
        yield next(found)[1]


@contextmanager
def _unpacked(path: Path, opener: Opener, num_dims: int) -> Iterator[tuple[gzip.GzipFile, list[int]]]:
    """Open a gzipped IDX file: its bytes after the header, and its sizes; they must be as long as those say."""
    with reading(path), opener() as packed, gzip.GzipFile(fileobj=packed) as file:
        header = file.read(4 + 4 * num_dims)
        sizes = [int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4)]
        if (
            header[:4] != bytes((0, 0, 8, num_dims))
            or len(header) < 4 + 4 * num_dims
            or max(sizes[1:], default=0) > 4096
            or sizes[0] > MAX_IMAGES
        ):
            raise UserError(f"{path}: no IDX file of bytes in {num_dims} dimensions; get it again")
        yield file, sizes
        if file.read(1):
            raise UserError(f"{path}: an IDX file longer than its header says; get it again")


def _idx_labels(path: Path, opener: Opener) -> np.ndarray:
    with _unpacked(path, opener, 1) as (file, sizes):
        data = file.read(sizes[0])
        if len(data) < sizes[0]:
            raise UserError(f"{path}: an IDX file shorter than its header says; get it again")
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)


def _idx_images(path: Path, opener: Opener, turned: bool = False) -> Iterator[np.ndarray]:
    """Yield blocks of images; turned: rows and columns are swapped, as NIST left EMNIST's."""
    with _unpacked(path, opener, 3) as (file, (num, height, width)):
        for block in _blocks(path, file, num, height * width):
            images = block.reshape(-1, height, width)
            yield images.transpose(0, 2, 1) if turned else images


def _blocks(path: Path, file: IO[bytes] | gzip.GzipFile, num: int | None, image_bytes: int) -> Iterator[np.ndarray]:
    """Yield (n, image_bytes) uint8 in blocks until `num` images are read, or to the end of the file."""
    most = max(1, BLOCK_BYTES // max(1, image_bytes))
    while num is None or num > 0:
        count = most if num is None else min(most, num)
        data = file.read(count * image_bytes)
        if len(data) % image_bytes or (num is not None and len(data) < count * image_bytes):
            raise UserError(f"{path}: ends within an image; get it again")
        if not data:
            return
        yield np.frombuffer(data, dtype=np.uint8).reshape(-1, image_bytes)
        num = None if num is None else num - count


# ---- STL-10: planes of colour, columns first, labels from 1


def stl10(folder: Path, unlabelled: bool = False) -> Listing:
    """Return STL-10: 5,000 train and 8,000 test images of 96 px, and with `unlabelled` the 100,000 for pretraining.

    The images without labels are 2.8 GB: they are streamed out of the archive and never held.
    """
    path, base = folder / "stl10_binary.tar.gz", "stl10_binary"
    sizes = {member.name: member.size for member in list_members(path, published=True)}
    files = read_files(path, [f"{base}/class_names.txt", f"{base}/train_y.bin", f"{base}/test_y.bin"])
    classes = files[f"{base}/class_names.txt"].decode("latin-1").split()
    labels = {
        split: np.frombuffer(files[f"{base}/{split}_y.bin"], dtype=np.uint8).astype(np.int64) - 1
        for split in ("train", "test")
    }
    if unlabelled:
        if f"{base}/unlabeled_X.bin" not in sizes:
            raise UserError(f"{path}: lacks '{base}/unlabeled_X.bin'; get it again")
        labels[UNLABELLED] = np.full(sizes[f"{base}/unlabeled_X.bin"] // _STL10_BYTES, -1)
    names = {split: f"{base}/{'unlabeled' if split == UNLABELLED else split}_X.bin" for split in labels}
    parts = [Part(split, found) for split, found in labels.items()]
    return stacked(str(path), classes, parts, _STL10_BYTES, partial(_stl10_images, path, list(names.values())))


_STL10_BYTES = 3 * 96 * 96


def _stl10_images(path: Path, names: list[str]) -> Tagged:
    """Yield the images of all files in one pass: the archive is one compressed stream."""
    with reading(path), closing(open_members(path, names)) as files:
        for name, file in files:
            for block in _blocks(path, file, None, _STL10_BYTES):
                yield names.index(name), block.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)


# ---- MedMNIST: one .npz with six arrays


def medmnist(folder: Path, file: str, classes: tuple[str, ...]) -> Listing:
    """Return a 2-D set of MedMNIST with one label an image: 28 px, grey or colour, splits as published."""
    path = folder / file
    parts = []
    for split in ("train", "val", "test"):
        labels = _npz(path, f"{split}_labels")
        if labels.dtype.kind not in "iu" or not labels.ndim or labels.size != len(labels):
            raise UserError(f"{path}: {split}_labels must be one integer per image; get it again")
        parts.append(Part(split, labels.reshape(-1).astype(np.int64), partial(_npz_images, path, f"{split}_images")))
    return stacked(str(path), list(classes), parts, 28 * 28 * 3)


def _npz(path: Path, name: str) -> np.ndarray:
    """An array of a .npz, whose header must say as many bytes as follow it."""
    if f"{name}.npy" not in {member.name for member in list_members(path, published=True)}:
        raise UserError(f"{path}: lacks {name}; get it again")
    with reading(path), closing(open_members(path, [f"{name}.npy"])) as members:
        data = io.BytesIO(read_all(next(members)[1], MAX_ARRAY_BYTES))
        try:
            return _array(data)
        except Exception as error:  # numpy reads headers as Python, which raises nearly anything
            raise ValueError(str(error) or type(error).__name__) from None


def _array(data: io.BytesIO) -> np.ndarray:
    version = np.lib.format.read_magic(data)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(data)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array whose shape is none")
    # allow_pickle is off: an array of objects would run what it brings along
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data.getvalue()) - data.tell():
        raise ValueError(f"an array of {dtype} and shape {shape[:4]}, which is not what follows")
    data.seek(0)
    return np.asarray(np.lib.format.read_array(data, allow_pickle=False))


def _npz_images(path: Path, name: str) -> Iterator[np.ndarray]:
    images = _npz(path, name)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise UserError(f"{path}: {name} must be (n, height, width) or (n, height, width, 3) bytes; get it again")
    for start in range(0, len(images), 4096):
        yield images[start : start + 4096]
