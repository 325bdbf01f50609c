"""Decoders of datasets that are published as archives of image files, sorted by folders or by lists.

Nothing is extracted: an archive is listed, its lists are read, its images come in the archive's order. Members that no
pattern and no list names (annotations, masks, what an operating system left) are passed over.
"""

import csv
import functools
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from headstart.data import SPLITS
from headstart.errors import UserError
from headstart.ingest.archives import list_members, read_files, read_members
from headstart.ingest.formats import Listing, Read
from headstart.ingest.tree import Entry, is_clutter
from headstart.knobs import Marker, OneOf

AUTHORS_SEED = 42  # of the splits of arXiv:2408.14514


@dataclass(frozen=True)
class Images:
    """Images of one archive: the entries that count, their bytes as stored; inner: a tar inside it that holds them."""

    path: Path
    entries: list[Entry]
    num_bytes: int
    inner: str | None = None


def gather(sources: Sequence[Images], classes: Sequence[str]) -> Listing:
    """Return the listing of images, sorted by split, class and name; raises UserError for a label that is no class."""
    source = str(sources[0].path)
    place = {name: number for number, name in enumerate(classes)}
    entries = sorted(
        (
            (place.get(entry.label, -1), number, entry)
            for number, images in enumerate(sources)
            for entry in images.entries
        ),
        key=lambda found: (found[2].split, found[0], found[2].name),
    )
    if unknown := [entry for label, _, entry in entries if label < 0]:
        raise UserError(
            f"{source}: {unknown[0].name!r} is of class {unknown[0].label!r}, none of {len(classes)} classes"
        )
    index = {(number, entry.name): row for row, (_, number, entry) in enumerate(entries)}
    if len(index) < len(entries):
        raise UserError(f"{source}: a list names an image twice; get it again")
    return Listing(
        source=source,
        classes=list(classes),
        names=[entry.name for _, _, entry in entries],
        labels=np.array([label for label, _, _ in entries], dtype=np.int64),
        splits=np.array([entry.split for _, _, entry in entries]),
        num_bytes=sum(images.num_bytes for images in sources),
        read=functools.partial(_read, sources, index),
    )


def _read(sources: Sequence[Images], index: Mapping[tuple[int, str], int]) -> Read:
    for number, images in enumerate(sources):
        seen = set[str]()
        for name, data in read_members(images.path, images.inner):
            if (number, name) in index and name not in seen:
                seen.add(name)
                yield index[number, name], data


def find(path: Path, pattern: str, splits: Mapping[str, str] | None = None, inner: str | None = None) -> Images:
    """Return the images whose whole name matches `pattern`, which has groups `label` and, with `splits`, `split`.

    splits: the archive's name of a split -> ours, others are passed over; without, all are "train". Raises UserError
    where a split is empty.
    """
    if splits and "split" not in re.compile(pattern).groupindex:
        raise UserError(f"{path}: splits are given, but {pattern} has no group that is named split")
    entries, num_bytes = [], 0
    for member in list_members(path, inner, published=True):
        match = None if member.is_folder or is_clutter(member.name) else re.fullmatch(pattern, member.name)
        split = match and (splits.get(match["split"]) if splits else "train")
        if match and split:
            entries.append(Entry(split, match["label"], member.name))
            num_bytes += member.size
    for name, split in (splits or {"": "train"}).items():
        if not any(entry.split == split for entry in entries):
            raise UserError(f"{path}: holds no {name} images named like {pattern}; get it again".replace("  ", " "))
    return Images(path, entries, num_bytes, inner)


def pick(path: Path, listed: Iterable[Entry]) -> Images:
    """Return the images that lists name; raises UserError for one that the archive lacks and for an empty list."""
    entries = list(listed)
    sizes = {member.name: member.size for member in list_members(path, published=True) if not member.is_folder}
    if not entries:
        raise UserError(f"{path}: its lists name no images; get it again")
    for entry in entries:
        if entry.name not in sizes:
            raise UserError(f"{path}: lacks {entry.name!r}, which its {entry.split} list names; get it again")
    return Images(path, entries, sum(sizes[entry.name] for entry in entries))


def _lines(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the non-empty lines of named text files, stripped."""
    try:
        texts = {name: data.decode() for name, data in read_files(path, names).items()}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: one of {', '.join(names)} is no text ({error}); get it again") from None
    return {name: [line.strip() for line in text.splitlines() if line.strip()] for name, text in texts.items()}


def _fields(path: Path, name: str, line: str, num: int, separator: str | None = None) -> list[str]:
    """Return the first `num` fields of a line, the last of them with all that follows if the separator is given."""
    fields = line.split(separator, num - 1) if separator else line.split()[:num]
    if len(fields) < num:
        raise UserError(f"{path}: {name}: {line[:80]!r} must have {num} fields; get it again")
    return fields


def _classes(images: Images) -> list[str]:
    return sorted({entry.label for entry in images.entries})


# ---- sorted by folders


@dataclass(frozen=True)
class Pattern(Marker):
    """A regular expression with a group `label`."""

    def check(self, value: Any) -> Any:
        """Return the pattern, or raise ValueError with what is wrong."""
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        if "label" not in groups:
            raise ValueError("must have a group that is named label")
        return value


def by_folder(
    folder: Path,
    file: str,
    pattern: Annotated[str, Pattern()],
    splits: Mapping[str, Annotated[str, OneOf(SPLITS)]] | None = None,
    inner: str | None = None,
) -> Listing:
    """Return a dataset whose folders are its classes: `find`'s images of `folder`/`file`, classes in sorted order."""
    images = find(folder / file, pattern, splits, inner)
    return gather([images], _classes(images))


IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def imagenette(folder: Path, val: Literal["train", "official"] = "train") -> Listing:
    """Return Imagenette, full size; its published val split is what everyone tests on, the paper's authors too.

    val: cut from `train` as for any other dataset, or, as the authors do, a tenth of the `official` val, drawn with
    their seed, 42; here these images are then no test images.
    """
    pattern = r"imagenette2/(?P<split>train|val)/(?P<label>n\d{8})/[^/]+\.JPEG"
    listing = by_folder(folder, "imagenette2.tgz", pattern, {"train": "train", "val": "test"})
    splits = listing.splits.astype("U5")
    if val == "official":
        from headstart.randomness import numpy_generator  # with torch: seconds that `make datasets` need not pay

        rows = numpy_generator(AUTHORS_SEED, "imagenette", "val").permutation(np.flatnonzero(splits == "test"))
        splits[rows[: len(rows) // 10]] = "val"
    return replace(listing, splits=splits, classes=[IMAGENETTE_CLASSES.get(name, name) for name in listing.classes])


def tiny_imagenet(folder: Path) -> Listing:
    """Return Tiny ImageNet: train, and its val split for testing; the labels of its own test were never published."""
    path = folder / "tiny-imagenet-200.zip"
    train = find(path, r"tiny-imagenet-200/train/(?P<label>n\d{8})/images/[^/]+\.JPEG")
    annotations = "tiny-imagenet-200/val/val_annotations.txt"
    rows = (_fields(path, annotations, line, 3, "\t") for line in _lines(path, [annotations])[annotations])
    test = pick(path, [Entry("test", label, f"tiny-imagenet-200/val/images/{name}") for name, label, _ in rows])
    both = Images(path, train.entries + test.entries, train.num_bytes + test.num_bytes)
    return gather([both], _classes(train))


# ---- sorted by lists


_AIRCRAFT_CLASSES = {"manufacturer": "manufacturers.txt", "family": "families.txt", "variant": "variants.txt"}


def aircraft(
    folder: Path, level: Annotated[str, OneOf(_AIRCRAFT_CLASSES)], splits: Literal["official", "trainval"] = "official"
) -> Listing:
    """Return FGVC-Aircraft, labelled by manufacturer, family or variant.

    splits: the three `official` ones, or train and val together, `trainval`, from which val is then cut anew, as the
    paper's authors do.

    The 20 rows of pixels at the bottom of each image name its photographer and are cut off, as the page asks for.
    """
    path, base = folder / "fgvc-aircraft-2013b.tar.gz", "fgvc-aircraft-2013b/data"
    names = f"{base}/{_AIRCRAFT_CLASSES[level]}"
    lists = {split: f"{base}/images_{level}_{split}.txt" for split in ("train", "val", "test")}
    lines = _lines(path, [names, *lists.values()])
    entries = []
    for split, name in lists.items():
        for line in lines[name]:
            image, label = _fields(path, name, line, 2, " ")
            merged = "train" if splits == "trainval" and split == "val" else split
            entries.append(Entry(merged, label, f"{base}/images/{image}.jpg"))
    return replace(gather([pick(path, entries)], lines[names]), crop_bottom=20)


def dtd(folder: Path) -> Listing:
    """Return the Describable Textures Dataset: its first of ten splits, each image under its key attribute."""
    path = folder / "dtd-r1.0.1.tar.gz"
    lists = {split: f"dtd/labels/{split}1.txt" for split in ("train", "val", "test")}
    lines = _lines(path, list(lists.values()))
    rows = [(split, _fields(path, name, line, 2, "/")) for split, name in lists.items() for line in lines[name]]
    images = pick(path, [Entry(split, label, f"dtd/images/{label}/{name}") for split, (label, name) in rows])
    return gather([images], _classes(images))


def food101(folder: Path) -> Listing:
    """Return Food-101; its val comes from the train images, which were left uncleaned on purpose."""
    path = folder / "food-101.tar.gz"
    lists = {split: f"food-101/meta/{split}.json" for split in ("train", "test")}
    files = read_files(path, list(lists.values()))
    entries = []
    for split, name in lists.items():
        try:
            found = json.loads(files[name])
            for label, images in found.items():
                entries += [Entry(split, label, f"food-101/images/{image}.jpg") for image in images]
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{path}: {name}: no lists of images by class ({error}); get it again") from None
    images = pick(path, entries)
    return gather([images], _classes(images))


def pets(folder: Path) -> Listing:
    """Return the Oxford-IIIT pets: 37 breeds, trainval and test as published, classes in the lists' numbering."""
    lists = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
    path = folder / "annotations.tar.gz"
    list_members(path, published=True)
    lines = _lines(path, list(lists.values()))
    rows = [
        (split, name, _fields(path, name, line, 2))
        for split, name in lists.items()
        for line in lines[name]
        if line[0] != "#"
    ]
    breeds = dict[str, str]()
    for _, name, (image, number) in rows:
        breed = image.rpartition("_")[0]
        if breeds.setdefault(number, breed) != breed:
            raise UserError(f"{path}: {name}: {image!r} has class {number}, as {breeds[number]!r} has; get it again")
    if not all(number.isdigit() for number in breeds):
        raise UserError(f"{path}: {lists['train']}: classes must be numbers; get it again")
    entries = [Entry(split, breeds[number], f"images/{image}.jpg") for split, _, (image, number) in rows]
    return gather([pick(folder / "images.tar.gz", entries)], [breeds[number] for number in sorted(breeds, key=int)])


def gtsrb(folder: Path) -> Listing:
    """Return the German traffic signs: the training set of IJCNN 2011 that torchvision uses, the final test set."""
    train = find(folder / "GTSRB-Training_fixed.zip", r"GTSRB/Training/(?P<label>\d{5})/[^/]+\.ppm")
    path = folder / "GTSRB_Final_Test_GT.zip"
    entries = [
        Entry("test", label, f"GTSRB/Final_Test/Images/{name}")
        for name, label in _gtsrb_rows(path, read_files(path, ["GT-final_test.csv"])["GT-final_test.csv"])
    ]
    return gather([train, pick(folder / "GTSRB_Final_Test_Images.zip", entries)], _classes(train))


def _gtsrb_rows(path: Path, table: bytes) -> Iterator[tuple[str, str]]:
    for row in csv.DictReader(io.StringIO(table.decode("latin-1")), delimiter=";"):
        name, label = row.get("Filename"), row.get("ClassId") or ""
        if not name or not label.isdigit():
            raise UserError(
                f"{path}: GT-final_test.csv: must have columns Filename and ClassId, a number; get it again"
            )
        yield name, f"{int(label):05d}"
