"""The layout of a folder or archive of images: which member is an image of which split and class."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from headstart.data import SPLITS
from headstart.errors import UserError
from headstart.ingest.archives import Member
from headstart.ingest.decode import FORMATS


@dataclass(frozen=True, order=True)
class Entry:
    """One image: its split, its class, its member's name (ending in a slash while it stands for a class folder)."""

    split: str
    label: str
    name: str


def find_images(source: str, members: Iterable[Member]) -> list[Entry]:
    """Return the images among `members`, sorted: train/<class>/* and, where there are any, val/, test/<class>/*.

    A val/ without a test/ is what ImageNet and its like publish for testing, and becomes the test split. Without any of
    the three, class folders at the root are the train split. Tolerated: one folder around it all, folders inside class
    folders, hidden files, __MACOSX. Every other file in a class folder counts as an image.
    Raises UserError, which begins with `source`, for an empty class folder, images outside of class folders, classes
    that differ between splits, fewer than two classes and no images at all.
    """
    named = [(tuple(member.name.split("/")), member) for member in members if not is_clutter(member.name)]
    found = _without_enclosing(named)
    tops = {parts[0].lower() for parts, member in found if len(parts) > 1 or member.is_folder}
    splits = [split for split in SPLITS if split in tops]
    if splits and "train" not in splits:
        raise UserError(f"{source}: has {splits[0]}/ but no train/<class>/ folders")
    entries: list[Entry] = []
    for parts, member in found:
        split = parts[0].lower() if splits else "train"
        inner = parts[1:] if splits else parts
        if split not in SPLITS:
            continue
        if member.is_folder:
            if len(inner) == 1:
                entries.append(Entry(split, inner[0], f"{member.name}/"))
        elif len(inner) > 1:
            entries.append(Entry(split, inner[0], member.name))
        elif _is_image(member.name):
            raise UserError(f"{source}: {member.name!r} lies in no class folder; sort images into train/<class>/")
    _check(source, entries, splits or ["train"])
    as_test = "val" if "test" not in splits else None
    return sorted(
        Entry("test" if e.split == as_test else e.split, e.label, e.name) for e in entries if e.name[-1] != "/"
    )


def is_clutter(name: str) -> bool:
    """Whether an operating system left this file beside the images: hidden ones, __MACOSX, Thumbs.db, desktop.ini."""
    return any(part[0] == "." or part in ("__MACOSX", "Thumbs.db", "desktop.ini") for part in name.split("/"))


def _is_image(name: str) -> bool:
    return Image.registered_extensions().get(PurePosixPath(name).suffix.lower()) in FORMATS


_Found = list[tuple[tuple[str, ...], Member]]


def _without_enclosing(found: _Found) -> _Found:
    """Drop the first part of all names if it is one folder for all, no split, and itself holds folders."""
    nested = [(parts, member) for parts, member in found if len(parts) > 1 or member.is_folder]
    tops = {parts[0] for parts, _ in nested}
    holds_folders = any(len(parts) > 2 or (len(parts) == 2 and member.is_folder) for parts, member in nested)
    if len(tops) != 1 or not holds_folders or tops.pop().lower() in SPLITS:
        return found
    return [(parts[1:], member) for parts, member in nested if len(parts) > 1]


def _check(source: str, entries: list[Entry], splits: list[str]) -> None:
    filled = {(e.split, e.label) for e in entries if e.name[-1] != "/"}
    if not filled:
        raise UserError(f"{source}: holds no images; expected train/<class>/* and, where there are any, test/<class>/*")
    for entry in entries:
        if (entry.split, entry.label) not in filled:
            raise UserError(f"{source}: class folder {entry.name!r} is empty; fill or remove it")
    classes = {split: {label for where, label in filled if where == split} for split in splits}
    if len(classes["train"]) < 2:
        raise UserError(f"{source}: has one class, {min(classes['train'] or ['?'])!r}; two class folders are the least")
    for split in splits:
        for only, other in ((split, "train"), ("train", split)):
            if missing := classes[only] - classes[other]:
                raise UserError(
                    f"{source}: class {min(missing)!r} is in {only}/ but not in {other}/; it must be in both"
                )
