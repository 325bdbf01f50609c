"""A listing of images -> one uint8 array per split, in bounded memory, the same bytes for the same input and seed."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import joblib  # its workers do not import the main script
import numpy as np

from headstart.data import SPLITS, UNLABELLED
from headstart.data.arrays import NAMES, array_path
from headstart.errors import UserError
from headstart.ingest.damage import DamagedError
from headstart.ingest.decode import Encoded, Job, Stored, decode_whole, histogram, measure, quiet, store, store_quietly
from headstart.ingest.formats import Listing, single
from headstart.memory import allocate
from headstart.randomness import numpy_generator

CHUNK_IMAGES, CHUNK_BYTES = 64, 2**22
# Below this, starting worker processes (half a second each) takes longer than they save
SERIAL_IMAGES, SERIAL_BYTES = 3000, 2**24
DIGEST_BYTES = 2**23
HELD_OUT = 1000  # at most, of images without labels for val and for test: the others pretrain
WHOLE = "full"  # stored_size: images are kept at full resolution too, for views to be cut from
# Of an encoded image, on average: below this, threads wait for each other's Python more than they decode
THREADS_BYTES = 2**13


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a listing is packed.

    image_size: what models are trained on; stored_size: see `stored_side`, or WHOLE; fractions: of each class, for the
    splits that the dataset does not bring along; seed: of those splits.
    """

    image_size: int
    stored_size: int | Literal["full"] | None
    val_fraction: float
    test_fraction: float
    seed: int
    skip_unreadable: bool

    @classmethod
    def of(cls, options: Any, dataset: str, image_size: int, seed: int) -> "Packing":
        """Return the packing of a dataset; options: the settings of `data` that bear this class's names.

        Raises UserError where images would be stored smaller than they are trained on.
        """
        if isinstance(options.stored_size, int) and options.stored_size < image_size:
            raise UserError(
                f"params.yaml: data.stored_size: {options.stored_size} must be null or at least the image_size of "
                f"{dataset} in datasets.yaml, {image_size}"
            )
        names = ("stored_size", "val_fraction", "test_fraction", "skip_unreadable")
        return cls(image_size=image_size, seed=seed, **{name: getattr(options, name) for name in names})


def pack(listing: Listing, folder: Path, packing: Packing, on_progress: Callable[[int], object]) -> dict[str, Any]:
    """Write {train,val,test}_{images,labels,sizes}.npy into `folder` and return what is known about them.

    Unlabelled images have labels -1 and stand last in their split; where they pretrain in train's place, there are
    unlabelled_*.npy too. Where images of the three splits are unlabelled, names.json tells all images' names by split.

    images: (N, S, S, 3) uint8; labels: (N,) int64; sizes: (N, 2) int64 original height and width. With stored_size
    WHOLE, where images are larger than they are trained on, also whole and starts of all splits but test: see
    data.arrays.Whole. Returned: classes, num_images by split, image_size, stored_size (S), crop_bottom (rows cut off),
    mean and std per channel of the stored train pixels in [0, 1], skipped (names of the unreadable images left out),
    hash of all arrays, and where there are any num_unlabelled by split. Leaving images out changes nothing else: the
    arrays are those of a dataset without them. Raises UserError for unreadable images unless
    they may be skipped, for what makes a split impossible, and for a full disk. on_progress: called with the number of
    images done (negative before some are done again).
    """
    kept = np.arange(len(listing.names))
    skipped: dict[int, str] = {}
    side = stored_side(_first_sizes(listing), packing)
    names = _split_names(listing)
    # once, unless the first images misled about the side or some turn out to be unreadable
    while True:
        splits = assign_splits(listing, kept, packing)
        stored = _store_all(listing, kept, splits, folder, side, on_progress)
        right = stored_side(list(stored.sizes.values()), packing)
        if not stored.unreadable and side == right:
            break
        if stored.unreadable and not packing.skip_unreadable:
            rows = [(listing.names[index], stored.unreadable[index]) for index in sorted(stored.unreadable)]
            raise DamagedError(listing.source, rows, "repair or remove them, or set data.skip_unreadable")
        skipped |= stored.unreadable
        on_progress(-len(kept))
        kept, side = np.setdiff1d(kept, list(stored.unreadable)), right
    sizes = np.array([stored.sizes[index] for index in kept.tolist()], dtype=np.int64)
    for split in names:
        np.save(array_path(folder, split, "labels"), listing.labels[kept][splits == split])
        np.save(array_path(folder, split, "sizes"), sizes[splits == split])
    unlabelled = {split: int((listing.labels[kept][splits == split] < 0).sum()) for split in SPLITS}
    if any(unlabelled.values()):  # whose features are wanted by name
        called = {split: [listing.names[index] for index in kept[splits == split].tolist()] for split in SPLITS}
        (folder / NAMES).write_text(json.dumps(called, ensure_ascii=True) + "\n", encoding="utf-8")
    whole = packing.stored_size == WHOLE and side > packing.image_size
    if whole:
        _store_whole(listing, kept, splits, sizes, folder)
    mean, std = _moments(stored.histogram)
    return {
        "classes": listing.classes,
        "num_images": {split: int((splits == split).sum()) for split in names},
        "image_size": packing.image_size,
        "stored_size": side,
        "crop_bottom": listing.crop_bottom,
        "mean": mean,
        "std": std,
        "skipped": [listing.names[index] for index in sorted(skipped)],
        "hash": digest_arrays(folder, names, whole),
        # what all others are without: their meta.json, and so their arrays' digest, stays as it was
        **({"num_unlabelled": unlabelled} if any(unlabelled.values()) else {}),
    }


def _split_names(listing: Listing) -> list[str]:
    return [*SPLITS, *([UNLABELLED] if UNLABELLED in listing.splits else [])]


def _cut_from(splits: Sequence[str]) -> list[str]:
    """The splits that views are cut from: all but test."""
    return [split for split in splits if split != "test"]


def _first_sizes(listing: Listing) -> list[tuple[int, int]]:
    sizes = []
    for index, data in islice(listing.read(), CHUNK_IMAGES):
        if isinstance(index, range):
            assert isinstance(data, np.ndarray)
            return [data.shape[1:3]]  # all of a block are of one size
        sizes.append(measure(data, listing.crop_bottom))
    return [size for size in sizes if size]


def stored_side(sizes: list[tuple[int, int]], packing: Packing) -> int:
    """Return S for images of these original (height, width).

    The training size if no short side exceeds it; else the stored size (default, and beside whole images: twice the
    training size), but no more than the largest short side there is.
    """
    largest = max((min(size) for size in sizes), default=0)
    if largest <= packing.image_size:
        return packing.image_size
    wanted = packing.stored_size if isinstance(packing.stored_size, int) else 2 * packing.image_size
    return min(wanted, largest)


def assign_splits(listing: Listing, kept: np.ndarray, packing: Packing) -> np.ndarray:
    """Return the split of each kept image: the official one, and a seeded share of train for a missing one.

    kept: indices into the listing. Shares are taken class by class, rounded to whole images, at least one, and leave at
    least one; unlabelled images stay where they are, but where all are unlabelled these are one class, and a share is
    HELD_OUT images at most. Raises UserError for a class too small to be split (an image for each split) or without an
    image in some split.
    """
    labels, splits = listing.labels[kept], listing.splits[kept].astype("U10")
    if not listing.classes:
        labels = np.where(splits == UNLABELLED, -1, 0)
    classes = [f"class {name!r}" for name in listing.classes] or ["it"]
    made = [split for split in ("test", "val") if split not in listing.splits]
    for name, count in zip(classes, _counts(classes, labels[splits == "train"]), strict=True):
        if made and count <= len(made):
            raise UserError(
                f"{listing.source}: {name} has {count} usable train images, at least {1 + len(made)} are needed to "
                f"split off {' and '.join(made)}; add images{' or remove the class' if listing.classes else ''}"
            )
    for split in made:
        fraction = packing.test_fraction if split == "test" else packing.val_fraction
        random = numpy_generator(packing.seed, "split", split)
        for label in range(len(classes)):
            rows = np.flatnonzero((splits == "train") & (labels == label))
            most = len(rows) - len(made) + made.index(split)
            most = most if listing.classes else min(most, HELD_OUT)
            splits[random.permutation(rows)[: min(max(1, round(fraction * len(rows))), most)]] = split
    for split in SPLITS:
        for name, count in zip(classes, _counts(classes, labels[splits == split]), strict=True):
            if not count:
                raise UserError(f"{listing.source}: {name} has no usable image in {split}; add some or drop it")
    return splits


def _counts(classes: list[str], labels: np.ndarray) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()


def _store_all(
    listing: Listing,
    kept: np.ndarray,
    splits: np.ndarray,
    folder: Path,
    side: int,
    on_progress: Callable[[int], object],
) -> Stored:
    """Decode the kept images into the arrays of their splits, on all cores where there are many."""
    need, free = len(kept) * side * side * 3, shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{listing.source}: prepared, it takes {need} bytes, {free} are free; lower data.stored_size")
    # absolute: a worker process that is used again may stand in another folder
    files = {split: array_path(folder, split, "images").absolute() for split in _split_names(listing)}
    rows = np.full(len(listing.names), -1)
    of = np.full(len(listing.names), "", dtype="U10")
    of[kept] = splits
    for split, file in files.items():
        mask = of == split
        rows[mask] = np.arange(mask.sum())
        _create(file, (int(mask.sum()), side, side, 3))
    total = Stored({}, {}, np.zeros((3, 256), dtype=np.int64))

    def add(part: Stored) -> None:
        total.sizes.update(part.sizes)
        total.unreadable.update(part.unreadable)
        total.histogram[:] += part.histogram
        on_progress(len(part.sizes) + len(part.unreadable))

    def on_block(index: range, block: np.ndarray) -> None:
        add(_store_block(index, block, of, rows, files))

    failures = list[Exception]()
    chunks = _until_failure(_chunks(_jobs(listing, of, rows, side, on_block)), failures)
    with quiet(), _workers(listing, len(kept)) as (parallel, work):
        for part in parallel(joblib.delayed(work)(chunk, files, side, listing.crop_bottom) for chunk in chunks):
            add(part)
    if failures:
        raise failures[0]
    return total


def _store_whole(listing: Listing, kept: np.ndarray, splits: np.ndarray, sizes: np.ndarray, folder: Path) -> None:
    """Decode the kept images of all splits but test once more, at full resolution, one after the other."""
    places = np.full(len(listing.names), -1)
    of = np.full(len(listing.names), "", dtype="U10")
    arrays = {}
    for split in _cut_from(_split_names(listing)):
        mask = splits == split
        lengths = 3 * sizes[mask].prod(1)
        starts = np.cumsum(lengths) - lengths
        need, free = int(lengths.sum()), shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"{listing.source}: the {split} images at full resolution take {need} bytes, {free} are free; give "
                "data.stored_size pixels"
            )
        np.save(array_path(folder, split, "starts"), starts.astype(np.int64))
        arrays[split] = _create(array_path(folder, split, "whole"), (need,))
        places[kept[mask]], of[kept[mask]] = starts, split

    def write(index: int, data: Encoded) -> None:
        pixels = decode_whole(data, listing.crop_bottom)
        arrays[str(of[index])][places[index] : places[index] + pixels.size] = pixels.reshape(-1)

    images = (one for item in listing.read() for one in single(*item))
    with quiet():
        # order does not matter; few are read ahead
        for _ in joblib.Parallel(-1, backend="threading", return_as="generator_unordered")(
            joblib.delayed(write)(one, image) for one, image in images if places[one] >= 0
        ):
            pass
    for array in arrays.values():
        array.flush()


def _create(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """Make a mapped array of bytes that has its room on the disk: on a full one, writing would end the process."""
    array = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    with file.open("rb+") as opened:
        allocate(opened.fileno(), file.stat().st_size)
    return array


def _until_failure(chunks: Iterator[list[Job]], failures: list[Exception]) -> Iterator[list[Job]]:
    """Yield chunks; what reading raises ends them and is kept: joblib may ask in a thread whose errors go nowhere."""
    try:
        yield from chunks
    except Exception as error:
        failures.append(error)


def _jobs(
    listing: Listing, of: np.ndarray, rows: np.ndarray, side: int, on_block: Callable[[range, np.ndarray], None]
) -> Iterator[Job]:
    """Yield what must be decoded; blocks that have the stored size already go to `on_block` instead."""
    for index, data in listing.read():
        if isinstance(index, range) and isinstance(data, np.ndarray) and data.shape[1:3] == (side, side):
            on_block(index, data)
            continue
        for one, image in single(index, data):
            if rows[one] >= 0:
                yield Job(one, str(of[one]), int(rows[one]), image)


@contextlib.contextmanager
def _workers(listing: Listing, num: int) -> Iterator[tuple[joblib.Parallel, Callable[..., Stored]]]:
    """Choose how to decode: by threads, but by processes where images are too small to leave Python's lock for long."""
    few = num < SERIAL_IMAGES and listing.num_bytes < SERIAL_BYTES
    threads = listing.num_bytes >= THREADS_BYTES * num
    backend, work = ("threading", store) if few or threads else ("loky", store_quietly)
    with joblib.parallel_config(backend=backend):
        yield joblib.Parallel(1 if few else -1, return_as="generator_unordered", batch_size=1, max_nbytes=None), work


def _store_block(index: range, block: np.ndarray, of: np.ndarray, rows: np.ndarray, files: dict[str, Path]) -> Stored:
    """Write images that have the stored size already; block: (n, S, S) or (n, S, S, 3)."""
    here = slice(index.start, index.stop)
    stored = Stored(dict.fromkeys(index, block.shape[1:3]), {}, np.zeros((3, 256), dtype=np.int64))
    block = block if block.ndim == 4 else block[..., None]
    for split in np.unique(of[here]):
        mask = of[here] == split
        array = np.lib.format.open_memmap(files[split], mode="r+")
        array[rows[here][mask]] = block[mask]
        if split == "train":
            stored.histogram[:] = histogram(array[rows[here][mask]])
    return stored


def _chunks(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    chunk, num_bytes = list[Job](), 0
    for job in jobs:
        chunk.append(job)
        num_bytes += _num_bytes(job.data)
        if len(chunk) == CHUNK_IMAGES or num_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _num_bytes(data: Encoded) -> int:
    if isinstance(data, np.ndarray):
        return data.nbytes
    return 0 if isinstance(data, Exception) else len(data)


def _moments(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and population standard deviation of each channel, exact but for the last rounding."""
    values = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), std.tolist()


def digest_arrays(folder: Path, splits: Sequence[str], whole: bool) -> str:
    """Return a digest of all arrays: of their blocks' digests, so that all cores take part."""
    files = [array_path(folder, split, part) for split in splits for part in ("images", "labels", "sizes")]
    if whole:
        files += [array_path(folder, split, part) for split in _cut_from(splits) for part in ("whole", "starts")]
    blocks = [(file, start) for file in files for start in range(0, file.stat().st_size, DIGEST_BYTES)]
    digest = hashlib.sha256()
    parallel = joblib.Parallel(-1, backend="threading", return_as="generator")
    for part in parallel(joblib.delayed(_digest_block)(file, start) for file, start in blocks):
        digest.update(part)
    return digest.hexdigest()[:32]


def _digest_block(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return hashlib.sha256(opened.read(DIGEST_BYTES)).digest()
