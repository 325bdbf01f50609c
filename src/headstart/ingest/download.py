"""Bring a dataset's source into one folder of the workspace: as one file, since DVC is slow with many."""

import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from headstart.errors import UserError
from headstart.ingest.archives import Member, list_members
from headstart.ingest.tree import find_images, is_clutter

Progress = Callable[[int], object]


def record_digits(path: Path | None, folder: Path, on_progress: Progress) -> None:
    """Write where the bundled digits come from; there is nothing to download."""
    source = {
        "images": "sklearn.datasets.load_digits",
        "origin": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits (test part)",
    }
    (folder / "source.json").write_text(json.dumps(source, indent=1) + "\n")


def copy_archive(path: Path | None, folder: Path, on_progress: Progress) -> None:
    """Copy a zip or tar archive into `folder` after its layout was checked; on_progress: called with bytes copied.

    A copy, never a link: DVC makes what it tracks read-only, and would do so to the user's file.
    """
    assert path is not None
    find_images(str(path), list_members(path))
    with path.open("rb") as source, (folder / path.name).open("wb") as target:
        while block := source.read(2**23):
            target.write(block)
            on_progress(len(block))


def pack_folder(path: Path | None, folder: Path, on_progress: Progress) -> None:
    """Pack a folder of images into `folder`/images.tar after its layout was checked; on_progress: as in copy_archive.

    Uncompressed, names sorted, no owners and times: equal images make equal bytes. Links to files are followed.
    """
    assert path is not None
    members = list(_walk(path))
    find_images(str(path), members)
    with tarfile.open(folder / "images.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            if member.is_folder:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size = member.size
                with (path / member.name).open("rb") as file:
                    tar.addfile(info, file)
            on_progress(member.size)


def num_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder that would be packed."""
    return sum(member.size for member in _walk(path)) if path.is_dir() else path.stat().st_size


def _walk(root: Path) -> Iterator[Member]:
    """Yield what lies below a folder, sorted by name, without what operating systems leave there."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        yield from _visit(root, Path(entry.path))


def _visit(root: Path, path: Path) -> Iterator[Member]:
    name = path.relative_to(root).as_posix()
    if is_clutter(name):
        return
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        yield Member(name, False, path.stat().st_size)
    elif stat.S_ISDIR(mode) and not path.is_symlink():
        yield Member(name, True, 0)
        for child in sorted(path.iterdir()):
            yield from _visit(root, child)
    else:
        raise UserError(f"{path}: a link to a folder, or a device; images must be plain files in plain folders")
