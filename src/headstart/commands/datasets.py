"""List the datasets that datasets.yaml knows: what they hold, what they weigh, their licence, what is here of them."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest.about import About
from headstart.ingest.decoders import KnownDecoder, name_of
from headstart.run import paths
from headstart.run.stage import say
from headstart.settings import DATASETS, RECIPES, SAME, of_recipe
from headstart.yaml_files import read_yaml


def datasets(options: argparse.Namespace) -> None:
    """Print one line per dataset; raises UserError where datasets.yaml cannot be read."""
    say(FORMATS[options.format](read_rows(Path(DATASETS))))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return what is known about each block of datasets.yaml; it is not validated whole, which takes torch and seconds.

    num_images: by split as published; num_bytes: to download, None where unknown; here: "no", "raw" or "prepared".
    """
    return [_describe(path, name, block) for name, block in read_yaml(path).items() if name != SAME]


def _describe(path: Path, name: str, block: Any) -> dict[str, Any]:
    if not isinstance(block, dict):
        raise UserError(f"{path}: {name}: {block!r} is no block of a dataset")
    for key in ("decoder", "archives", "about"):
        if key not in block:
            raise UserError(f"{path}: {name}.{key}: missing key")
    try:
        # recipes give a decoder other arguments, never another decoder
        chosen = of_recipe(block["decoder"], RECIPES[0], str(path), f"{name}.decoder")
        decoder = name_of(KnownDecoder().check(chosen))
    except ValueError as error:
        raise UserError(f"{path}: {name}.decoder: {block['decoder']!r} {error}") from None
    otherwise: dict[str, Any] = {"title": "your own images", "num_images": {}, "licence": "yours"}
    try:
        archives, about = block["archives"] or [], otherwise | dict(block["about"] or {})
        sizes, files = [archive.get("num_bytes") for archive in archives], [archive["file"] for archive in archives]
        num_bytes = None if None in sizes else sum(sizes)
        about["num_images"] = {split: int(count) for split, count in about["num_images"].items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {name}: no block of a dataset: {' '.join(str(error).split())}") from None
    prepared = (paths.prepared(name) / "meta.json").is_file()
    return {
        "name": name,
        "decoder": decoder,
        **{field.name: about.get(field.name) for field in dataclasses.fields(About)},
        "num_bytes": num_bytes,
        "files": files,
        "here": "prepared" if prepared else "raw" if paths.raw(name).is_dir() else "no",
    }


def to_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of at most 120 columns."""
    lines = [("dataset", "classes", "train", "val", "test", "unlabelled", "download", "here", "licence")]
    for row in rows:
        counts = [
            f"{row['num_images'][split]:,}" if split in row["num_images"] else "" for split in (*SPLITS, UNLABELLED)
        ]
        size = "?" if row["num_bytes"] is None else "-" if not row["files"] else _bytes(row["num_bytes"])
        lines.append((row["name"], str(row["classes"] or "?"), *counts, size, row["here"], str(row["licence"])))
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
        "dataset: a block of datasets.yaml, for -S 'datasets=[NAME]'. Images by split as published: a val or test that",
        "is missing is split off train. here: no, raw (downloaded), prepared. Citations, pages, files: --format json.",
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
