"""Parquet as the Hugging Face hub writes image sets: a row per image, its encoded bytes and its label; by pyarrow."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import UserError, reason
from headstart.ingest.formats import Listing, Read, of_entries
from headstart.ingest.lists import COLUMNS
from headstart.ingest.spelling import same_name, split_of
from headstart.ingest.tree import Ask, Entry, Layout, in_order, settle, some

FOLDER, SUFFIX = "parquet", ".parquet"  # in data/raw/<dataset>
BATCH = 64  # rows read at once
IMAGES, LABELS = ("image", "img", "picture"), (*COLUMNS["label"], "labels")


@dataclass(frozen=True)
class Table:
    """One file: its split ("" where its name tells none), the columns that count, the names of classes by number."""

    path: Path
    split: str
    image: str
    label: str | None
    names: list[str] | None


def read_tables(files: Mapping[str, Path], column: str | None, ask: Ask) -> tuple[list[Table], Layout]:
    """Return parquet files, by name, and the layout of their rows, each called `<file>:<row>`.

    Splits are those of the files' names and folders, as train-00000-of-00001.parquet. column: which one holds labels,
    None: the one that is a ClassLabel or is called label. Raises UserError for what is no table of images.
    """
    tables = {name: _open(path, _split_of(name), column, ask) for name, path in sorted(files.items())}
    spelt = any(table.split for table in tables.values())
    entries, passed = [], {}
    for name, table in tables.items():
        labels = _labels(table)
        if spelt and not table.split:
            passed[f"{name}/"] = (len(labels), 0)
            continue
        entries += [Entry(table.split or "train", label, f"{name}:{row}") for row, label in enumerate(labels)]
    notes: list[str] = []
    return list(tables.values()), Layout(in_order(settle(entries, notes)), notes, passed)


def _split_of(name: str) -> str:
    parts = reversed(name.removesuffix(SUFFIX).split("/"))
    return next((spelling.split for part in parts if (spelling := split_of(part))), "")


def _open(path: Path, split: str, column: str | None, ask: Ask) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: no parquet file, or damaged ({reason(error, 80)})") from None
    known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = known.get("info", {}).get("features", {})
    images = [field.name for field in schema if _holds_bytes(field.type)]
    image = next((name for name in IMAGES if name in images), images[0] if len(images) == 1 else None)
    if image is None:
        raise UserError(f"{path}: no column of encoded images called image among {some(schema.names)}")
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    found = classes or [name for name in LABELS if name in schema.names]
    if column is not None and column not in schema.names:
        raise UserError(f"{path}: has no column {column!r}; it has {some(schema.names)}")
    if column is None and len(found) > 1:
        choices = " or ".join(ask(f"label_column: {name}") for name in found[:2])
        raise UserError(f"{path}: {some(found)} could each be the label; {choices}")
    label = column or (found[0] if found else None)
    return Table(path, split, image, label, features.get(label, {}).get("names") if label else None)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(table: Table) -> list[str]:
    """The label of each row, "" for none."""
    import pyarrow.parquet as pq

    if table.label is None:
        return [""] * int(pq.read_metadata(table.path).num_rows)
    values = pq.read_table(table.path, columns=[table.label])[table.label].to_pylist()
    return [_label(value, table) for value in values]


def _label(value: Any, table: Table) -> str:
    if value is None or value == "" or (isinstance(value, int) and value < 0):  # the hub's -1: not published
        return ""
    if table.names is not None and isinstance(value, int):
        if value >= len(table.names):
            raise UserError(f"{table.path}: label {value}, allowed: -1 to {len(table.names) - 1}")
        return same_name(table.names[value])
    if isinstance(value, str | int):
        return same_name(str(value))
    raise UserError(f"{table.path}: column {table.label!r} must hold numbers or texts, not {type(value).__name__}")


def list_tables(folder: Path, column: str | None) -> Listing:
    """Return the images of the tables that lie in a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob(f"*{SUFFIX}")}
    tables, layout = read_tables(files, column, str)
    index = {entry.name: number for number, entry in enumerate(layout.entries)}
    named = dict(zip(sorted(files), tables, strict=True))
    num_bytes = sum(path.stat().st_size for path in files.values())
    classes = next((table.names for table in tables if table.names), None)
    read = functools.partial(_read, named, index)
    return of_entries(str(folder), layout.entries, num_bytes, read, classes)


def _read(tables: Mapping[str, Table], index: Mapping[str, int]) -> Read:
    for name, table in tables.items():
        for row, data in enumerate(_images(table)):
            if (number := index.get(f"{name}:{row}")) is not None:
                yield number, data


def _images(table: Table) -> Iterator[bytes | Exception]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table.path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=[table.image]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    yield data if data is not None else ValueError("no bytes in its row, a path alone")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{table.path}: damaged ({reason(error, 80)}); get it again") from None
