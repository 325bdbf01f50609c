"""A user's own images, whatever they come as: a folder, an archive, a CSV, parquet, WebDataset shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest import shards, tables
from headstart.ingest.download import Labels, Progress, copy_archive, copy_files, files_below, pack_folder, pack_list
from headstart.ingest.formats import Listing, image_archive
from headstart.ingest.tree import Ask, Layout, Reading, has_images
from headstart.knobs import OneOf, Range

LISTS = (".csv", ".tsv")
Splits = Mapping[str, Annotated[str, OneOf((*SPLITS, UNLABELLED))]]


def images(
    folder: Path,
    labels: str | None = None,
    label_column: str | None = None,
    class_level: Annotated[int, Range(1)] | None = None,
    splits: Splits | None = None,
    other_files: Literal["skip", "stop"] = "skip",
) -> Listing:
    """Return the images that `fetch` left in a folder; the arguments are fetch's."""
    if (folder / tables.FOLDER).is_dir():
        return tables.list_tables(folder / tables.FOLDER, label_column)
    if (folder / shards.FOLDER).is_dir():
        return shards.list_shards(folder / shards.FOLDER)
    return image_archive(folder)


def fetch(
    path: Path | None,
    folder: Path,
    on_progress: Progress,
    ask: Ask,
    labels: str | None = None,
    label_column: str | None = None,
    class_level: int | None = None,
    splits: Mapping[str, str] | None = None,
    other_files: str = "skip",
) -> str:
    """Leave a user's images in `folder`, and return what is to be told of how they were read.

    labels: a CSV of file,label for a part of them or all; label_column: its column of labels, or a table's; the other
    arguments: see tree.Reading. on_progress: called with bytes.
    """
    assert path is not None
    kind = _kind(path)
    if kind and labels is not None:
        raise UserError(f"{path}: {kind} tells labels itself; leave the decoder's argument labels out")
    if kind == "a list":
        return pack_list(path, folder, on_progress, label_column).told()
    if kind == "parquet":
        files = files_below(path, tables.SUFFIX)
        layout = tables.read_tables(files, label_column, ask)[1]
        copy_files(files, folder / tables.FOLDER, on_progress)
        return layout.told()
    if kind == "a shard":
        files = files_below(path, shards.SUFFIX)
        layout = shards.read_shards(files)
        copy_files(files, folder / shards.FOLDER, on_progress)
        return layout.told()
    bring = pack_folder if path.is_dir() else copy_archive
    reading, given = Reading(class_level, splits, other_files, ask), labels and Labels(labels, label_column)
    found: Layout = bring(path, folder, on_progress, reading, given or None)
    return found.told()


def _kind(path: Path) -> str:
    """What a path is that is neither a folder nor an archive of images: a list, parquet, a shard; "" for these."""
    if path.is_file():
        kind = path.suffix.lower()
        if kind in LISTS:
            return "a list"
        if kind == tables.SUFFIX:
            return "parquet"
        return "a shard" if kind == shards.SUFFIX and shards.is_shard(path) else ""
    if has_images(path):
        return ""
    if files_below(path, tables.SUFFIX):
        return "parquet"
    return "a shard" if files_below(path, shards.SUFFIX) else ""
