"""Files that are whole or absent: temporary file, fsync, rename. Results shared between workers, and their locks."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from headstart.errors import UserError, reason
from headstart.ingest.damage import DamagedError
from headstart.run import paths
from headstart.run.stage import say


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed.

    What the system refuses meanwhile is an OSError that names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=path.suffix[:20], dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # mkstemp makes files private; an out is as readable as any other file
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Surround the writing of `path`: an OSError then says that this is what cannot be written.

    An error that names a file elsewhere, which was read to write this one, is left alone. safetensors has errors of its
    own for what the system refuses; torch's are turned by who calls it (tensors.FileCheckpoint).
    """
    try:
        yield
    except OSError as error:
        inner = _within(path, error.filename)
        if inner is None:
            raise
        number, why = error.errno, reason(error).removeprefix("cannot be written: ")
        if number is None and re.fullmatch(r"\d+ requested and \d+ written", why):  # numpy's words for a full disk
            number, why = errno.ENOSPC, os.strerror(errno.ENOSPC)
        raise OSError(number, f"cannot be written: {why}", str(inner)) from None


def _within(path: Path, named: Any) -> Path | None:
    """The file below `path` that an error names, which may lie in a temporary one beside it; None for others."""
    if named is None:
        return path
    file = Path(os.fsdecode(named))
    if file == path or file in path.parents:
        return path
    parts = file.relative_to(path.parent).parts if path.parent in file.parents else ("",)
    return path.joinpath(*parts[1:]) if parts[0].startswith(f".{path.name[:100]}.") else None


def remove_debris(path: Path) -> None:
    """Remove the temporary files and folders that a killed writer of `path` left beside it."""
    for stale in path.parent.glob(f".{path.name}.*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in order; refuses NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Return a JSON file, or raise UserError naming the stage that makes it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, made_by, error) from None


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path, made_by: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file as strings, or raise UserError naming the stage that makes it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except (ValueError, csv.Error) as error:
        raise damaged(path, made_by, error) from None


@contextmanager
def listing_damage(dataset: str) -> Iterator[None]:
    """Turn a DamagedError into a UserError that says where all unreadable images are listed."""
    try:
        yield
    except DamagedError as error:
        path = paths.unreadable(dataset)
        write_csv(path, [{"file": name, "reason": reason} for name, reason in error.rows])
        raise UserError(f"{error}; all are listed in {path}") from None


def missing(path: Path, made_by: str) -> UserError:
    """Return the error for an input that is not there."""
    return UserError(f"{path}: no such file; stage {made_by} makes it: dvc repro")


def damaged(path: Path, made_by: str, error: Exception) -> UserError:
    """Return the error for an input that is not what its stage left."""
    return UserError(f"{path}: damaged ({reason(error)}); stage {made_by} makes it: remove it, then dvc repro")


@contextmanager
def shared_result(stage: str, key: str) -> Iterator[Path]:
    """Yield the folder of a finished result, `shared/<stage>/<key>` of the shared folder, locked against other workers.

    Where the folder does not exist yet, the caller makes it (`write_folder`); parallel workers so do the work once.
    Beside it lies the digest of its files. One that is not as it was left is told and set aside, to be made anew.
    """
    folder = paths.shared() / "shared" / stage / key
    seal = folder.with_name(f"{key}.sha256")
    with locked(folder, stage):
        if folder.exists() and seal.is_file() and seal.read_text(encoding="utf-8").strip() != _folder_digest(folder):
            aside = folder.with_name(f"{key}.bad")
            say(f"{stage}: {folder} is damaged; kept as {aside.name}, made anew")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            seal.unlink()
        yield folder
        if folder.exists() and not seal.is_file():
            write_text(seal, f"{_folder_digest(folder)}\n")


def _folder_digest(folder: Path) -> str:
    """The sha256 of the names and contents of a folder's files."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return whole.hexdigest()


@contextmanager
def locked(folder: Path | None, stage: str) -> Iterator[None]:
    """Hold `<folder>.lock` against other workers; the lock of a killed one is free. None: nobody else wants it."""
    if folder is None:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"{stage}: waits for another worker that makes the same")
        lock.acquire()
    with lock:
        lock.release()  # `with` holds it once more
        yield


@contextmanager
def write_folder(folder: Path, mark: str | None = None) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` on success and vanishes on error.

    Raises UserError, before anything is touched, for a folder that is not this pipeline's to replace: one outside of
    `paths.own`, unless it is new, empty, or holds the file `mark`, which all of its kind have.
    """
    _check_ours(folder, mark)
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_debris(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that is removed afterwards; what a killed run left of it is removed before.

    Raises UserError as `write_folder` does.
    """
    _check_ours(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_ours(folder: Path, mark: str | None = None) -> None:
    resolved = folder.resolve()
    if any(top.resolve() in resolved.parents for top in paths.own()):
        return
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if mark is None or not (folder / mark).is_file():
        raise UserError(f"{folder}: is not replaced, since it was not made here; move it away, or choose another")
