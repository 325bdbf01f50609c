"""List the datasets that params.yaml knows: what they hold, what they weigh, their licence, what is here of them."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from headstart.data.table import KINDS
from headstart.errors import UserError
from headstart.run import paths

SPLITS = ("train", "val", "test", "unlabelled")


def datasets(options: argparse.Namespace) -> None:
    """Print one line per dataset; raises UserError where params.yaml cannot be read."""
    print(FORMATS[options.format](read_rows(Path("params.yaml"))))


def read_rows(params: Path) -> list[dict[str, Any]]:
    """Return what is known about each row of `data`; the file is not validated, as that takes torch and seconds.

    num_images: by split as published; num_bytes: to download, None where unknown; here: "no", "raw" or "prepared".
    """
    try:
        data = yaml.safe_load(params.read_text(encoding="utf-8"))["data"]
        rows = {name: row["kind"] for name, row in data.items() if isinstance(row, dict)}
    except OSError as error:
        raise UserError(f"{params}: {error.strerror}; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{params}: no rows of datasets in it: {' '.join(str(error).split())}") from None
    return [_describe(name, kind) for name, kind in rows.items()]


def _describe(name: str, kind_name: str) -> dict[str, Any]:
    if kind_name not in KINDS:
        raise UserError(f"params.yaml: data.{name}.kind: {kind_name!r} must be one of {', '.join(KINDS)}")
    kind = KINDS[kind_name]
    sizes = [archive.num_bytes for archive in kind.archives]
    prepared = (paths.prepared(name) / "meta.json").is_file()
    row: dict[str, Any] = {
        "name": name,
        "kind": kind_name,
        "title": "your own images",
        "classes": None,
        "num_images": {},
        "image_size": None,
        "num_bytes": None if None in sizes else sum(size for size in sizes if size),
        "licence": "yours",
        "citation": None,
        "homepage": None,
        "files": [archive.file for archive in kind.archives],
        "here": "prepared" if prepared else "raw" if paths.raw(name).is_dir() else "no",
    }
    if about := kind.about:
        row |= {"title": about.title, "classes": about.classes, "num_images": about.num_images}
        row |= {"image_size": about.image_size, "licence": about.licence}
        row |= {"citation": about.citation, "homepage": about.homepage}
    return row


def to_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of at most 120 columns."""
    lines = [("dataset", "classes", "train", "val", "test", "unlabelled", "download", "here", "licence")]
    for row in rows:
        counts = [f"{row['num_images'][split]:,}" if split in row["num_images"] else "" for split in SPLITS]
        size = "?" if row["num_bytes"] is None else "-" if not row["files"] else _bytes(row["num_bytes"])
        lines.append((row["name"], str(row["classes"] or "?"), *counts, size, row["here"], row["licence"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = (0, 7, 8)
    table = [
        "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = [
        "",
        "dataset: a row of params.yaml, for -S 'datasets=[NAME]'. Images by split as published: a val or test that is",
        "missing is split off train. here: no, raw (downloaded) or prepared. Citations, pages, files: --format json.",
    ]
    return "\n".join(line.rstrip() for line in [*table, *notes])


def _bytes(num: int) -> str:
    """Return a size in kB, MB or GB of powers of ten."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if num >= size:
            return f"{num / size:.1f} {unit}"
    return f"{num / 1000:.1f} kB"


def to_json(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a JSON list."""
    return json.dumps(rows, indent=1)


FORMATS: dict[str, Callable[[list[dict[str, Any]]], str]] = {"text": to_text, "json": to_json}
