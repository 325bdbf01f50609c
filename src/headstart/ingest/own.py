"""A user's own images, whatever they come as: a folder, a zip or tar archive, or a CSV that names them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest.download import Ask, Progress, copy_archive, pack_folder, pack_list
from headstart.ingest.formats import Listing, image_archive
from headstart.ingest.tree import Layout, Reading
from headstart.knobs import OneOf, Range

LISTS = (".csv", ".tsv")
Splits = Mapping[str, Annotated[str, OneOf((*SPLITS, UNLABELLED))]]


def images(
    folder: Path,
    labels: str | None = None,
    class_level: Annotated[int, Range(1)] | None = None,
    splits: Splits | None = None,
    other_files: Literal["skip", "stop"] = "skip",
) -> Listing:
    """Return the images that `fetch` left in a folder, which has listed them; the arguments are fetch's."""
    return image_archive(folder)


def fetch(
    path: Path | None,
    folder: Path,
    on_progress: Progress,
    ask: Ask,
    labels: str | None = None,
    class_level: int | None = None,
    splits: Mapping[str, str] | None = None,
    other_files: str = "skip",
) -> str:
    """Leave a user's images in `folder`, as one file and a list, and return what is to be told of how they were read.

    labels: a CSV of file,label for a part of them or all; the other arguments: see tree.Reading. on_progress: called
    with bytes.
    """
    assert path is not None
    if path.is_file() and path.suffix.lower() in LISTS:
        if labels is not None:
            raise UserError(f"{path}: is a list of images itself; leave the decoder's argument labels out")
        return pack_list(path, folder, on_progress).told()
    bring = pack_folder if path.is_dir() else copy_archive
    layout: Layout = bring(path, folder, on_progress, Reading(class_level, splits, other_files, ask), labels)
    return layout.told()
