"""The kinds of dataset. To add one: a function that lists its images (formats.py), and a row of KINDS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headstart.data.download import Progress, copy_archive, pack_folder, record_digits
from headstart.data.formats import Listing, digits, image_archive


@dataclass(frozen=True)
class Kind:
    """How a dataset comes in and how it is read.

    fetch(path, folder, on_progress): leave the source in `folder`; list_images(folder): what is in it. needs_path:
    "file" or "folder" where fetch wants `data.<name>.path` to name one, None where it takes no path.
    """

    fetch: Callable[[Path | None, Path, Progress], None]
    list_images: Callable[[Path], Listing]
    needs_path: str | None = None


KINDS = {
    "digits": Kind(record_digits, digits),
    "image_folder": Kind(pack_folder, image_archive, needs_path="folder"),
    "image_archive": Kind(copy_archive, image_archive, needs_path="file"),
}
