"""Published archives -> one folder: local directory, mirror, upstream, in this order; checked before anything opens."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from headstart.errors import HIDDEN, UserError, masked, of_system
from headstart.ingest.transfer import (
    BLOCK,
    Patience,
    Transfer,
    UnavailableError,
    check_space,
    drop,
    label_of,
    length,
)
from headstart.knobs import Matching, Range

PATIENCE = Patience()
ADVICE = "put {file} into a directory and set data.archives to it, or set data.mirror"


_URL = Matching(r"https?://\S+", "a URL that begins with http:// or https://")
_HASH = Matching(r"(?i:md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})", "md5: or sha256: and the digits of the hash")


@dataclass(frozen=True)
class Archive:
    """One file that a dataset is published as.

    file: its name in data/raw/<dataset>, in a local directory (`data.archives`) and below a mirror (`data.mirror`);
    urls: where it is published, tried in order, upstream first; hash: "md5:<hex>" or "sha256:<hex>" of the file, None
    where none is published; also: further accepted hashes, of the same content in another wrapping; num_bytes: its
    size, None where unknown, and no condition where `also` admits another wrapping.
    """

    file: Annotated[str, Matching(r"(?!\.)[^/\\]+", "the name of a file, without a folder")]
    urls: tuple[Annotated[str, _URL], ...]
    hash: Annotated[str | None, _HASH] = None
    also: tuple[Annotated[str, _HASH], ...] = ()
    num_bytes: Annotated[int | None, Range(1)] = None

    @property
    def size(self) -> int | None:
        """The only size that the file may have, or None."""
        return None if self.also else self.num_bytes


@dataclass(frozen=True)
class Sources:
    """Where archives may come from besides their own URLs.

    parts: the folder for unfinished and shared downloads; local: a directory that may hold them, tried first; mirror: a
    base URL (http, https or file), tried second; dataset: the folder below both that is looked into before themselves.
    """

    parts: Path
    local: Path | None = None
    mirror: str | None = None
    dataset: str = ""


def num_bytes_present(archives: Sequence[Archive], sources: Sources) -> int:
    """Return the bytes of the archives, finished or not, that are in `sources.parts`."""
    return sum(_present(archive, sources) for archive in archives)


def fetch_archives(
    archives: Sequence[Archive],
    folder: Path,
    sources: Sources,
    on_progress: Callable[[int], object],
    on_note: Callable[[str], object] = lambda note: None,
    patience: Patience = PATIENCE,
    advice: str = ADVICE,
) -> None:
    """Leave every archive, whole and checked, in `folder`; raises UserError where one cannot be had.

    Nothing takes an archive's name before its size and hash were right: unfinished downloads are <file>.part, files
    with a wrong hash <file>.bad, both in `sources.parts`, where finished archives stay for others; `folder` gets links
    of them, copies on another disk. One process at a time: hold a lock on `sources.parts`.
    on_progress: called with bytes gained beyond `num_bytes_present`, negative where some are given up; on_note: with a
    line on where each archive came from and on what failed before; advice: how the error ends.
    """
    try:
        sources.parts.mkdir(parents=True, exist_ok=True)
        needed = sum(max(0, (archive.num_bytes or 0) - _present(archive, sources)) for archive in archives)
        check_space(sources.parts, needed, ", ".join(archive.file for archive in archives))
        for archive in archives:
            _Fetch(archive, sources, on_progress, on_note, patience).run(advice.format(file=archive.file))
        for archive in archives:
            _place(sources.parts / archive.file, folder / archive.file)
    except OSError as error:
        raise of_system(error, sources.parts) from None


def _present(archive: Archive, sources: Sources) -> int:
    return length(sources.parts / archive.file) or length(sources.parts / f"{archive.file}.part")


class _Fetch:
    """One archive on its way into `sources.parts`."""

    def __init__(
        self,
        archive: Archive,
        sources: Sources,
        on_progress: Callable[[int], object],
        on_note: Callable[[str], object],
        patience: Patience,
    ):
        self.archive, self.sources, self.patience = archive, sources, patience
        self.on_progress, self.on_note = on_progress, on_note
        self.whole = sources.parts / archive.file
        self.part = sources.parts / f"{archive.file}.part"
        self.bad = sources.parts / f"{archive.file}.bad"
        self.position = _present(archive, sources)

    def run(self, advice: str) -> None:
        """Leave the archive, checked, under its name; raises UserError naming every source and what was wrong there."""
        if self._is_there():
            return
        failures = []
        for source in _places(self.archive, self.sources):
            try:
                if isinstance(source, Path):
                    self._copy(source)
                else:
                    self._download(source)
            except UnavailableError as error:
                failures.append(f"{_shown(source)}: {error}")
                self.on_note(f"{self.archive.file}: not from {failures[-1]}")
                continue
            _sync(self.part)
            self.part.replace(self.whole)
            _sync(self.whole.parent)
            drop(self.part)
            self.on_note(f"{self.archive.file}: from {_shown(source)}")
            self._pin()
            return
        raise UserError(f"{self.archive.file}: no source has it: {'; '.join(failures) or 'none is known'}; {advice}")

    def _is_there(self) -> bool:
        """Whether the archive was finished before, here or by another worker; checked again."""
        if not self.whole.is_file():
            return False
        try:
            _check(self.archive, self.whole)
        except UnavailableError as error:
            self.whole.replace(self.bad)
            self.on_note(f"{self.whole}: {error}; kept as {self.bad.name}")
            return False
        self.on_note(f"{self.archive.file}: already in {self.whole.parent}")
        self._pin()
        return True

    def _pin(self) -> None:
        if self.archive.hash is None and not self.archive.also:
            found = _digest(self.whole, "sha256")
            self.on_note(f"{self.archive.file}: no published hash; sha256 {found} is pinned in dvc.lock")

    def _copy(self, source: Path) -> None:
        """Copy a file of the user's into the part; wrong ones are left as they are, and so is then the part."""
        if not source.is_file():
            raise UnavailableError("no such file")
        try:
            _check(self.archive, source)
            file = source.open("rb")
        except OSError as error:
            raise UnavailableError(error.strerror or str(error)) from None
        with file:
            check_space(self.part.parent, length(source) - length(self.part), self.archive.file)
            label_of(self.part).unlink(missing_ok=True)
            with self.part.open("wb") as target:
                while block := file.read(BLOCK):
                    target.write(block)
                    self._moved(target.tell())
        _check(self.archive, self.part)

    def _download(self, url: str) -> None:
        """Download into the part; a wrong file is kept aside, one made of pieces first tried once more in one piece."""
        archive = self.archive
        hashed = bool(archive.hash or archive.also)
        for last in (False, True):
            transfer = Transfer(url, self.part, archive.size, hashed, self.patience, self._moved)
            transfer.run()
            try:
                _check(archive, self.part)
            except UnavailableError as error:
                if last or not transfer.pieced:
                    self.part.replace(self.bad)
                    drop(self.part)
                    raise UnavailableError(f"{error}, kept as {self.bad}") from None
                self.on_note(f"{archive.file}: {error}; it was put together from several tries: starts anew")
                drop(self.part)
            else:
                return

    def _moved(self, position: int) -> None:
        self.on_progress(position - self.position)
        self.position = position


def _places(archive: Archive, sources: Sources) -> Iterator[Path | str]:
    """Yield where an archive may be, in order: files below the local directory and a file:// mirror, URLs."""
    if sources.local is not None:
        yield from _files(archive, sources.local, sources)
    if sources.mirror is not None:
        if sources.mirror.startswith("file:"):
            yield from _files(archive, Path(url2pathname(urlsplit(sources.mirror).path)), sources)
        else:
            base = sources.mirror.rstrip("/")
            names = [f"{sources.dataset}/{archive.file}"] if sources.dataset else []
            yield from (f"{base}/{quote(name)}" for name in [*names, archive.file])
    yield from archive.urls


def _files(archive: Archive, folder: Path, sources: Sources) -> list[Path]:
    names = [folder / sources.dataset / archive.file, folder / archive.file]
    return list(dict.fromkeys(name for name in names if name.is_file())) or names[1:]


def _shown(source: Path | str) -> str:
    """A source as messages name it: without a password, and without a query, which may hold one."""
    if isinstance(source, Path):
        return str(source)
    return masked(source).replace(f"{HIDDEN}@", "").replace(f"?{HIDDEN}", "").partition("#")[0]


def _check(archive: Archive, path: Path) -> None:
    """Raise UnavailableError where a file is not the archive: its size, a page in its place, its hash."""
    size = length(path)
    if size == 0:
        raise UnavailableError("an empty file")
    if archive.size is not None and size != archive.size:
        raise UnavailableError(f"wrong size: {size} bytes, expected {archive.size}")
    with path.open("rb") as file:
        if file.read(256).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UnavailableError("an HTML page in the archive's place")
    accepted = [known.lower() for known in (archive.hash, *archive.also) if known]
    found = [f"{name}:{_digest(path, name)}" for name in dict.fromkeys(known.partition(":")[0] for known in accepted)]
    if accepted and not set(accepted) & set(found):
        raise UnavailableError(f"wrong hash: found {', '.join(found)}, expected {' or '.join(accepted)}")


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def _place(whole: Path, target: Path) -> None:
    """Link a finished archive to where it is wanted, or copy it there. That DVC may make both read-only harms none."""
    if whole.resolve() == target.resolve():
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(whole)
    except OSError:  # another disk, or one without links
        check_space(target.parent, length(whole), target.name)
        shutil.copyfile(whole, target)


def _sync(path: Path) -> None:
    """Bring a file, or a folder's names, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
