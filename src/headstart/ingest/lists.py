"""Lists of images as CSV: whose labels they give, as users write them and as `download` leaves them.

The first line names the columns: file and label, and split if there is one; other columns do not count. An empty label
means that the image has none. Separated by commas, semicolons or tabs, as the first line shows.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from headstart.data import UNLABELLED
from headstart.errors import UserError
from headstart.ingest.spelling import same_name, split_of
from headstart.ingest.tree import Entry, Layout, Parts, in_order, is_clutter, is_image, kind_of, settle, some

LIST = "images.csv"  # beside the archive in data/raw/<dataset>
COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "filepath", "image", "image_path", "image_id", "img", "id"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset"),
}


@dataclass(frozen=True)
class Row:
    """A line of a list; label: "" for none; split: "" where the list tells none."""

    file: str
    label: str
    split: str


def read_list(data: bytes, source: str, label: str | None = None) -> list[Row]:
    """Return the rows of a list; label: the column of labels, None: by its name.

    Raises UserError, which begins with `source`, for what is none.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{source}: no text in UTF-8; save it as CSV in UTF-8") from None
    if not lines:
        raise UserError(f"{source}: empty; its first line must be file,label")
    separator = max(",;\t", key=lines[0].count)
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=separator)
    names = _columns([name or "" for name in reader.fieldnames or []], source)
    if label is not None:
        if label not in (reader.fieldnames or []):
            raise UserError(f"{source}: has no column {label!r}; it has {some(list(reader.fieldnames or []))}")
        names["label"] = label
    rows = []
    for line in reader:
        cells = {column: (line.get(name) or "").strip() if name else "" for column, name in names.items()}
        if cells["file"]:
            spelling = split_of(cells["split"]) if cells["split"] else None
            if cells["split"] and spelling is None:
                raise UserError(
                    f"{source}: line {reader.line_num}: split {cells['split']!r} must be train, val or test"
                )
            rows.append(Row(cells["file"], same_name(cells["label"]), spelling.split if spelling else ""))
    if not rows:
        raise UserError(f"{source}: names no images")
    return rows


def _columns(header: Sequence[str], source: str) -> dict[str, str | None]:
    """Return file, label, split -> the column that holds it."""
    known = {name.strip().lower(): name for name in header}
    found = {column: next((known[name] for name in names if name in known), None) for column, names in COLUMNS.items()}
    if any(is_image(("", name.strip())) and "." in name for name in header):
        raise UserError(f"{source}: its first line must name the columns, as file,label, not an image")
    if len(header) == 2 and found["split"] is None:  # as dog breeds' id,breed
        return found | {"file": header[0], "label": header[1]}
    if found["file"] is None:
        raise UserError(f"{source}: its columns are {some(header)}; one must be called file, one label")
    return found


def apply(source: str, rows: Sequence[Row], names: Iterable[str], where: str, whole: bool) -> Layout:
    """Return the layout of images that a list labels; `names`: of all files there.

    A row may name an image by its path or, where only one is called so, by its name or its name without suffix. whole:
    images that no row names are unlabelled, else they are not used. Without a column for splits, a folder train/, val/
    or test/ on an image's way tells its split, else it is train. Unlabelled images beside labelled ones are train's.
    Raises UserError, which begins with `source`, for a row whose image is not there and two rows that disagree; where:
    what is searched.
    """
    known = [name for name in names if not is_clutter(name)]
    images = [name for name in known if is_image(tuple(name.split("/")))] if whole else known
    found = _match(source, rows, images, where)
    entries = [
        Entry((row.split if row else "") or _split_of(tuple(name.split("/"))), row.label if row else "", name)
        for name in images
        if (row := found.get(name)) or whole
    ]
    notes: list[str] = []
    entries = settle(entries, notes)
    used = {entry.name for entry in entries}
    kinds = Counter(f"{kind_of(tuple(name.split('/')))} files" for name in known if name not in used)
    return Layout(in_order(entries), notes, {kind: (0, number) for kind, number in sorted(kinds.items())})


def _match(source: str, rows: Sequence[Row], images: Sequence[str], where: str) -> dict[str, Row]:
    """Return image -> its row."""
    keys = [
        lambda path: str(path),
        lambda path: path.name,
        lambda path: str(path.with_suffix("")),
        lambda path: path.stem,
    ]
    tables: list[dict[str, list[str]]] = [{} for _ in keys]
    for name in images:
        for table, key in zip(tables, keys, strict=True):
            table.setdefault(same_name(key(PurePosixPath(name))), []).append(name)
    found: dict[str, Row] = {}
    missing = []
    for row in rows:
        wanted = same_name(str(PurePosixPath(row.file.replace("\\", "/"))))
        candidates = next((table[wanted] for table in tables if wanted in table), [])
        if len(candidates) > 1:
            raise UserError(f"{source}: {row.file!r} may be {some(candidates[:2])}; give its folder too")
        if not candidates:
            missing.append(row.file)
        elif found.setdefault(candidates[0], row) != row:
            raise UserError(f"{source}: {row.file!r} stands there twice, with other labels or splits")
    if missing:
        raise UserError(f"{source}: {len(missing)} of {len(rows)} files are not in {where}, as {missing[0]!r}")
    return found


def _split_of(parts: Parts) -> str:
    spelt = [spelling.split for part in parts[:-1] if (spelling := split_of(part)) and spelling.exact]
    return spelt[0] if spelt and spelt[0] != UNLABELLED else "train"


def write_entries(entries: Iterable[Entry], path: Path) -> None:
    """Leave the images of a layout as a list that `read_entries` gives back."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label", "split"))
        writer.writerows((entry.name, entry.label, entry.split) for entry in entries)


def read_entries(path: Path) -> list[Entry]:
    """Return what `write_entries` wrote."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [Entry(row["split"], row["label"], row["file"]) for row in csv.DictReader(file)]
