"""Bring a dataset's source into one folder of the workspace: as one file, since DVC is slow with many."""

import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import UserError
from headstart.ingest import lists
from headstart.ingest.archives import Member, list_members, read_files
from headstart.ingest.tree import PLAIN, Ask, Layout, Reading, find_images, is_clutter

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Labels:
    """A CSV that labels images: its path as a user gives it, the column of labels or None."""

    file: str
    column: str | None = None


def record_digits(path: Path | None, folder: Path, on_progress: Progress, ask: Ask) -> str:
    """Write where the bundled digits come from; there is nothing to download, and nothing to tell."""
    source = {
        "images": "sklearn.datasets.load_digits",
        "origin": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits (test part)",
    }
    (folder / "source.json").write_text(json.dumps(source, indent=1) + "\n")
    return ""


def copy_archive(
    path: Path, folder: Path, on_progress: Progress, reading: Reading = PLAIN, labels: Labels | None = None
) -> Layout:
    """Copy a zip or tar archive into `folder`, its images listed beside it; on_progress: called with bytes copied.

    A copy, never a link: DVC makes what it tracks read-only, and would do so to the user's file.
    """
    members = list_members(path)
    files = [member.name for member in members if not member.is_folder]
    if labels is None:
        layout = find_images(str(path), members, reading)
    else:
        inside = read_files(path, [labels.file])[labels.file] if labels.file in files else None
        layout = _labelled(path, labels, files, inside)
    with path.open("rb") as source, (folder / path.name).open("wb") as target:
        while block := source.read(2**23):
            target.write(block)
            on_progress(len(block))
    lists.write_entries(layout.entries, folder / lists.LIST)
    return layout


def pack_folder(
    path: Path, folder: Path, on_progress: Progress, reading: Reading = PLAIN, labels: Labels | None = None
) -> Layout:
    """Pack the images of a folder into `folder`/images.tar, listed beside it; on_progress: as in copy_archive.

    Uncompressed, names sorted, no owners and times: equal images make equal bytes. Links to files are followed.
    """
    members = list(_walk(path))
    files = [member.name for member in members if not member.is_folder]
    if labels is None:
        layout = find_images(str(path), members, reading)
    else:
        inside = (path / labels.file).read_bytes() if labels.file in files else None
        layout = _labelled(path, labels, files, inside)
    _pack({entry.name: path / entry.name for entry in layout.entries}, folder, on_progress)
    lists.write_entries(layout.entries, folder / lists.LIST)
    return layout


def pack_list(path: Path, folder: Path, on_progress: Progress, column: str | None = None) -> Layout:
    """Pack the images that a CSV names, from the root of the disk or from the CSV's folder on, as pack_folder does."""
    rows = lists.read_list(path.read_bytes(), str(path), column)
    files = {row.file.replace("\\", "/"): path.parent / row.file.replace("\\", "/") for row in rows}
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise UserError(f"{path}: {len(missing)} of {len(files)} files are not there, as {missing[0]!r}")
    names = {name: name.strip("/").replace("../", "").removeprefix("./") for name in files}
    if len(set(names.values())) < len(files):
        raise UserError(f"{path}: names a file in two ways; give each path in one way, once")
    known = [lists.Row(names[row.file.replace("\\", "/")], row.label, row.split) for row in rows]
    layout = lists.apply(str(path), known, names.values(), str(path.parent), whole=False)
    _pack({names[name]: file for name, file in files.items()}, folder, on_progress)
    lists.write_entries(layout.entries, folder / lists.LIST)
    return layout


def _labelled(path: Path, labels: Labels, files: list[str], inside: bytes | None) -> Layout:
    """The layout of files by a list: inside the folder or archive, beside it, or anywhere by an absolute path."""
    name, beside = labels.file, path.parent / Path(labels.file).expanduser()
    if inside is None and not beside.is_file():
        raise UserError(f"{path}: labels: {name!r} is neither in it nor beside it ({beside}); give an absolute path")
    rows = lists.read_list(beside.read_bytes() if inside is None else inside, name, labels.column)
    return lists.apply(name, rows, [file for file in files if file != name], str(path), whole=True)


def _pack(files: Mapping[str, Path], folder: Path, on_progress: Progress) -> None:
    """Write files under their names into `folder`/images.tar, sorted."""
    with tarfile.open(folder / "images.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            with path.open("rb") as file:
                info.size = os.fstat(file.fileno()).st_size
                tar.addfile(info, file)
            on_progress(info.size)


def files_below(path: Path, suffix: str) -> dict[str, Path]:
    """Return name -> path of the files of a suffix in a folder, or of a file itself, by its name."""
    if path.is_file():
        return {path.name: path}
    names = (member.name for member in _walk(path) if not member.is_folder and not is_clutter(member.name))
    return {name: path / name for name in names if name.lower().endswith(suffix)}


def copy_files(files: Mapping[str, Path], folder: Path, on_progress: Progress) -> None:
    """Copy files under their names into a folder; on_progress: called with bytes."""
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        on_progress(path.stat().st_size)


def num_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(member.size for member in _walk(path)) if path.is_dir() else path.stat().st_size


def _walk(root: Path) -> Iterator[Member]:
    """Yield what lies below a folder, sorted by name; of what is hidden or of the system its name alone."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        yield from _visit(root, Path(entry.path))


def _visit(root: Path, path: Path) -> Iterator[Member]:
    name = path.relative_to(root).as_posix()
    if is_clutter(name):
        yield Member(name, False, 0)
        return
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a dangling link, to {path.readlink()}; remove it or bring back what it points to")
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        yield Member(name, False, path.stat().st_size)
    elif stat.S_ISDIR(mode) and not path.is_symlink():
        yield Member(name, True, 0)
        for child in sorted(path.iterdir()):
            yield from _visit(root, child)
    else:
        raise UserError(f"{path}: a link to a folder, or a device; images must be plain files in plain folders")
