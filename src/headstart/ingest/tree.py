"""The layout of a folder or archive of images: which member is an image of which split and class, and what is no image.

Nothing is left out in silence: what is passed over stands in `Layout.passed`, and what could be meant in two ways is
refused with the lines to choose from.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest.archives import Member
from headstart.ingest.decode import FORMATS
from headstart.ingest.spelling import Spelling, same_name, split_of

SHOWN = 12  # names that a line holds
CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information")
# names without suffix that stand beside images and are none
NOTES = ("readme", "license", "licence", "copying", "notice", "authors", "changelog", "makefile", "md5sums")
Parts = tuple[str, ...]  # of a name, between its slashes
Ask = Callable[[str], str]  # `key: value` of a decoder's argument -> how a command gives it


@dataclass(frozen=True)
class Entry:
    """One image: its split, its class ("": unlabelled), its member's name."""

    split: str
    label: str
    name: str


@dataclass(frozen=True)
class Reading:
    """How a user wants a tree to be read, beyond what its names say.

    class_level: which level of folders, from 1 below the root or a split's folder, names the class; 0: none, so that no
    image has a label; None: the only one. splits: top folder -> split, empty where no folder is a split's; None: by
    their names. other_files: `skip` or `stop` at what is no image. ask(argument): how a command gives one of these.
    """

    class_level: int | None = None
    splits: Mapping[str, str] | None = None
    other_files: str = "skip"
    ask: Ask = "give its decoder {{{}}}".format


PLAIN = Reading()


@dataclass(frozen=True)
class Layout:
    """What a tree holds: images in the order of `in_order`, and what is passed over.

    notes: how names were understood where that is not plain. passed: top folder, top file or kind of files -> how many
    (images, other files); clutter: what operating systems and tools left, by name.
    """

    entries: list[Entry]
    notes: list[str] = field(default_factory=list)
    passed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    clutter: Mapping[str, int] = field(default_factory=dict)

    def told(self) -> str:
        """Return in one line how names were understood and what is passed over, "" where all is plain."""
        words = [_counted(name, *counts) for name, counts in self.passed.items()]
        if self.clutter:
            words.append(f"{sum(self.clutter.values())} hidden or of the system ({some(sorted(self.clutter))})")
        return "; ".join([*self.notes, *([f"passed over: {some(words)}"] if words else [])])


def _counted(name: str, images: int, others: int) -> str:
    if not name.endswith(("/", " files")):
        return name
    counts = [f"{number} {what}" for number, what in ((images, "images"), (others, "other files")) if number]
    return f"{others} {name}" if name.endswith(" files") else f"{name} ({', '.join(counts)})"


def some(words: Sequence[str]) -> str:
    """Return the first of some words, and how many more there are."""
    more = [f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return ", ".join([*words[:SHOWN], *more])


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries as the arrays hold them: by split, labelled ones first, by class and name."""
    return sorted(entries, key=lambda entry: (entry.split, not entry.label, entry.label, entry.name))


def settle(entries: list[Entry], notes: list[str]) -> list[Entry]:
    """Return entries whose splits and labels can be used; what changes is noted.

    One class tells nothing apart and becomes none; a val without a test is the test split; unlabelled images beside
    labelled ones are train's.
    """
    entries, splits = _told_apart(entries, notes), {entry.split for entry in entries}
    labels = {entry.label for entry in entries} - {""}
    if "val" in splits and "test" not in splits:
        notes.append("val is the test split, for want of another")
        entries = [replace(entry, split="test") if entry.split == "val" else entry for entry in entries]
    free = sum(not entry.label for entry in entries)
    if free and labels:
        notes.append(f"{free} of {len(entries)} images are unlabelled")
        entries = [replace(entry, split=entry.split if entry.label else "train") for entry in entries]
    return [replace(entry, split="train") if entry.split == UNLABELLED else entry for entry in entries]


def _told_apart(entries: list[Entry], notes: list[str]) -> list[Entry]:
    """Return entries without their label where all have the same one, which is noted."""
    labels = {entry.label for entry in entries} - {""}
    if len(labels) != 1:
        return entries
    notes.append(f"one class, {min(labels)!r}, tells nothing apart: its images are unlabelled")
    return [replace(entry, label="") for entry in entries]


def is_clutter(name: str) -> bool:
    """Whether an operating system or a tool left this file beside the images: hidden ones, __MACOSX, Thumbs.db, ..."""
    return any(_is_clutter(part) for part in name.split("/"))


def _is_clutter(part: str) -> bool:
    return part[0] == "." or part in CLUTTER


def is_image(parts: Parts) -> bool:
    """Whether a file is an image by its name: by its suffix; without one if it lies in a folder and is no note."""
    kind = PurePosixPath(parts[-1]).suffix.lower()
    if not kind:
        return len(parts) > 1 and parts[-1].lower() not in NOTES
    return Image.registered_extensions().get(kind) in FORMATS


def has_images(folder: Path) -> bool:
    """Whether a file below a folder has an image's suffix."""
    names = (Path(root, name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return any(name.suffix and is_image(name.parts) and not is_clutter(name.as_posix()) for name in names)


def kind_of(parts: Parts) -> str:
    """Return what kind of file a message counts a file as: its suffix, without one its name."""
    return PurePosixPath(parts[-1]).suffix.lower() or parts[-1]


def find_images(source: str, members: Iterable[Member], reading: Reading = PLAIN) -> Layout:
    """Return the layout of `members`: train/<class>/* and, where there are any, val/, test/<class>/* and unlabelled/*.

    Folders of splits are known by their names, as spelling.split_of tells. A val/ without a test/ is what ImageNet and
    its like publish for testing, and becomes the test split. Without any of them class folders at the root are the
    train split; images that lie in no folder, or all in one, are unlabelled. Seen through: folders around it all, and
    around the classes of a split.
    Raises UserError, which begins with `source`, for an empty class folder, images beside class folders, classes that
    differ between splits, levels of folders either of which could be the classes, and no images at all.
    """
    files, folders, clutter = list[Parts](), list[Parts](), Counter[str]()
    for member in members:
        parts = tuple(member.name.split("/"))
        if hidden := next(filter(_is_clutter, parts), ""):
            clutter[hidden] += 1
        else:
            (folders if member.is_folder else files).append(parts)
    tree = _Tree(source, reading, files, folders)
    base, chosen, entries, notes = tree.read()
    used = {entry.name for entry in entries}
    filled = {parts[:-1] for parts in files if "/".join(parts) in used}
    passed: dict[str, tuple[int, int]] = {}
    for parts in files:
        if "/".join(parts) not in used:
            place = _place(parts, base, chosen, filled)
            images, others = passed.get(place, (0, 0))
            passed[place] = (images + 1, others) if is_image(parts) else (images, others + 1)
    if reading.other_files == "stop" and (found := [place for place, counts in sorted(passed.items()) if counts[1]]):
        raise tree.error(f"holds what is no image: {some(found)}", "other_files: skip")
    return Layout(in_order(entries), notes, dict(sorted(passed.items())), dict(clutter))


def _place(parts: Parts, base: Parts, chosen: Mapping[str, str], filled: set[Parts]) -> str:
    """What a message calls a file that is passed over: its top folder, itself, or the kind of files that it is of."""
    same = 0
    while same < min(len(base), len(parts)) and parts[same] == base[same]:
        same += 1
    if same == len(base) and len(parts) > same + 1 and (not chosen or parts[same] in chosen):
        beside_images = any(parts[:depth] in filled for depth in range(1, len(parts)))
        return f"{kind_of(parts)} files" if beside_images else "/".join(parts[:-1]) + "/"
    return "/".join(parts[: same + 1]) + ("/" if len(parts) > same + 1 else "")


def _below(images: Iterable[Parts], folder: Parts) -> list[Parts]:
    return [parts for parts in images if len(parts) > len(folder) and parts[: len(folder)] == folder]


def _is_flat(images: Iterable[Parts], folder: Parts) -> bool:
    return all(len(parts) == len(folder) + 1 for parts in images)


@dataclass(frozen=True)
class _Tree:
    """One tree, by the parts of its names, without clutter."""

    source: str
    reading: Reading
    files: list[Parts]
    folders: list[Parts]

    def error(self, words: str, *choices: str) -> UserError:
        asked = " or ".join(self.reading.ask(choice) for choice in choices)
        return UserError(f"{self.source}: {words}{'; ' if asked else ''}{asked}")

    def read(self) -> tuple[Parts, dict[str, str], list[Entry], list[str]]:
        """Return the folder that holds all, its folders that are splits, the images, and how that was understood."""
        images = [parts for parts in self.files if is_image(parts)]
        if not images:
            kinds = Counter(map(kind_of, self.files)).most_common()
            more = f" ({some([f'{count} {kind}' for kind, count in kinds])})" if kinds else ""
            raise self.error(
                f"holds no images{more}; expected train/<class>/* and, where there are any, test/<class>/*"
            )
        base = self._enclosing(images, (), whole=True)
        images = _below(images, base)
        chosen = self._splits(images, base)
        free = {top for top, split in chosen.items() if split == UNLABELLED}
        folders = {split: (*base, top) for top, split in chosen.items() if split != UNLABELLED} or {"train": base}
        rest = [parts for parts in images if parts[len(base)] not in free]
        entries = [Entry("train", "", "/".join(parts)) for parts in images if parts[len(base)] in free]
        instead = {"val": "the test split, for want of another"} if "test" not in folders else {}
        means = {top: instead.get(split, split) for top, split in chosen.items()}
        notes = [f"{top}/ is {meaning}" for top, meaning in means.items() if top.lower() != meaning]
        if rest:
            entries += self._labelled(folders, rest, notes)
        if instead:
            entries = [replace(entry, split="test") if entry.split == "val" else entry for entry in entries]
        return base, chosen, entries, notes

    def _enclosing(self, images: list[Parts], base: Parts, whole: bool = False) -> Parts:
        """The innermost folder around all images that itself holds folders of images; whole: splits are not entered."""
        while len({parts[len(base)] for parts in images}) == 1:
            inner = images[0][: len(base) + 1]
            spelling = split_of(inner[-1]) if whole and self.reading.splits is None else None
            is_split = spelling is not None and (spelling.exact or spelling.split == "train")
            is_chosen = whole and inner[-1] in (self.reading.splits or {})
            if inner in images or _is_flat(images, inner) or is_split or is_chosen or self._empty(base, 1):
                break
            base = inner
        return base

    def _empty(self, base: Parts, level: int) -> list[Parts]:
        """The folders so many levels below `base` in which no file lies, clutter apart."""
        depth = len(base) + level
        inside = {parts[:depth] for parts in _below(self.folders, base) if len(parts) >= depth}
        return sorted(inside - {parts[:depth] for parts in self.files if len(parts) > depth})

    # ---- splits

    def _splits(self, images: list[Parts], base: Parts) -> dict[str, str]:
        """Return top folder -> split, or UNLABELLED; empty where the top folders are classes, or there are none."""
        full = {parts[len(base)] for parts in images if len(parts) > len(base) + 1}
        tops = full | {parts[len(base)] for parts in _below(self.folders, base)}
        if self.reading.splits is not None:
            return self._given(dict(self.reading.splits), tops)
        spelt = {top: spelling for top in sorted(tops) if (spelling := split_of(top))}
        free = {top: UNLABELLED for top, (split, _) in spelt.items() if split == UNLABELLED}
        chosen = {split: self._choose(split, spelt, full - set(spelt)) for split in SPLITS}
        if chosen["train"] is None:
            if exact := [top for top, spelling in spelt.items() if spelling.exact and top not in free]:
                raise self.error(
                    f"has {exact[0]}/ but no train/<class>/ folders", "splits: {FOLDER: train, ..}", "splits: {}"
                )
            return free
        only, others = chosen["train"], sorted(full - set(spelt))
        if others and not (chosen["val"] or chosen["test"]) and _is_flat(_below(images, (*base, only)), (*base, only)):
            words = f"{only}/ holds images and no class folders, beside {some(others)}: is it a class or a split"
            raise self.error(words, "splits: {}", f"splits: {{{only}: train}}")
        return {top: split for split, top in chosen.items() if top is not None} | free

    def _given(self, splits: dict[str, str], tops: set[str]) -> dict[str, str]:
        """Return the folders that a user names for splits, one for each."""
        if missing := sorted(set(splits) - tops):
            raise self.error(f"has no folder {missing[0]!r}, which splits names; it has {some(sorted(tops))}")
        named = [split for split in splits.values() if split != UNLABELLED]
        if len(set(named)) < len(named) or (named and "train" not in named):
            raise self.error("splits must name one folder for train, and at most one for each of val and test")
        return splits

    def _choose(self, split: str, spelt: Mapping[str, Spelling], unspelt: set[str]) -> str | None:
        """The one top folder that is a split's: by its name, or by a part of that where all are splits'."""
        own = {top: spelling.exact for top, spelling in spelt.items() if spelling.split == split}
        exact = [top for top, is_exact in own.items() if is_exact]
        trained = any(spelling == ("train", True) for spelling in spelt.values())
        found = exact or ([] if unspelt and not trained else list(own))
        if len(found) > 1:
            words = f"{some([f'{top}/' for top in found])}: each could be the {split} split; choose"
            others = {top: spelling.split for top, spelling in spelt.items() if spelling.split != split}
            given = ", ".join(f"{top}: {meant}" for top, meant in ({found[0]: split} | others).items())
            raise self.error(words, f"splits: {{{given}}}", "splits: {}")
        return found[0] if found else None

    # ---- classes

    def _labelled(self, folders: Mapping[str, Parts], images: list[Parts], notes: list[str]) -> list[Entry]:
        """Return the images of splits, each with its class; a single class tells nothing apart and becomes none."""
        own = {split: _below(images, folder) for split, folder in folders.items()}
        if self.reading.class_level == 0:
            return [Entry(split, "", "/".join(parts)) for split in own for parts in own[split]]
        flat = [split for split, parts in own.items() if parts and _is_flat(parts, folders[split])]
        if flat and len(flat) == len([split for split in own if own[split]]):
            if empty := [split for split in own if not own[split]]:
                raise self.error(f"{folders[empty[0]][-1]}/ holds no images")
            return [Entry(split, "", "/".join(parts)) for split in own for parts in own[split]]
        entries = [entry for split in own for entry in self._classes(split, folders[split], own[split])]
        for split in folders:
            self._check_classes(split, folders, entries)
        return _told_apart(entries, notes)

    def _classes(self, split: str, folder: Parts, images: list[Parts]) -> list[Entry]:
        inner = self._enclosing(images, folder)
        level = self.reading.class_level or self._level(images, inner)
        depth = len(inner) + level
        if stray := sorted(parts for parts in images if len(parts) <= depth):
            name = "/".join(stray[0])
            words = f"{name!r} lies in no class folder; move it into one, or into unlabelled/, or give its label"
            raise self.error(words, "labels: FILE.csv")
        if empty := self._empty(inner, level):
            raise self.error(f"class folder {'/'.join(empty[0]) + '/'!r} is empty; fill or remove it")
        return [Entry(split, _label(parts[depth - 1], split), "/".join(parts)) for parts in images]

    def _level(self, images: list[Parts], inner: Parts) -> int:
        """1, or an error where folders of images lie in folders without images of their own, and either is a class."""
        depth = len(inner)
        direct = {parts[depth] for parts in images if len(parts) == depth + 2}
        deeper = {parts[depth : depth + 2] for parts in images if len(parts) > depth + 2 and parts[depth] not in direct}
        lower = sorted({parts[1] for parts in deeper})
        if not deeper or (len(lower) == 1 and not direct):  # as n01440764/images/* of Tiny ImageNet
            return 1
        upper = sorted({parts[depth] for parts in images})
        first = sorted(deeper)[0][0]
        words = f"{first}/ holds folders of images ({_few(lower)}): "
        words += f"the classes are {_few(upper)}, the inner folders, or none"
        raise self.error(words, "class_level: 1", "class_level: 2", "class_level: 0")

    def _check_classes(self, split: str, folders: Mapping[str, Parts], entries: list[Entry]) -> None:
        """Raise UserError where a split and train have not the same classes."""
        own, train = ({e.label for e in entries if e.split == name} - {""} for name in (split, "train"))
        if len(own) == 1 and not own & train and len(train) > 1:
            words = f"{folders[split][-1]}/ has one folder of images, {min(own)!r}, and not the classes of"
            words += f" {folders['train'][-1]}/; sort them, or give their labels, or move them to unlabelled/"
            raise self.error(words, "labels: FILE.csv")
        for classes, others, here, there in ((own, train, split, "train"), (train, own, "train", split)):
            if missing := sorted(classes - others):
                names = [f"{folders[name][-1]}/" for name in (here, there)]
                alike = [other for other in others if other.casefold() == missing[0].casefold()]
                hint = f" ({alike[0]!r} is: capitals tell names apart)" if alike else ""
                words = f"class {missing[0]!r} is in {names[0]} but not in {names[1]}{hint}; it must be in both"
                raise self.error(words)


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *([".."] if len(names) > 3 else [])])


def _label(name: str, split: str) -> str:
    """The class that a folder names; none in train/unlabelled/."""
    spelling = split_of(name)
    free = split == "train" and spelling == (UNLABELLED, True)
    return "" if free else same_name(name)
