"""Zip and tar archives, checked whole and then read in place: nothing is ever extracted to the file system.

What is read is bounded, whatever an archive declares: bytes unpacked, members, headers, directories.

`inner` names a tar inside a zip, which is read through the zip. `published` archives came by their hash: links in them
are left out instead of refused (nothing follows them, and an image behind one is missing by name), and of two members
of one name the first counts.
"""

import bz2
import contextlib
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from headstart.errors import UserError

# Packed images hardly shrink; what grows a hundredfold and past this is a bomb or holds no photographs
MAX_RATIO = 100
MAX_RATIO_FROM_BYTES = 2**26
MAX_MEMBER_BYTES = 2**29
MAX_MEMBERS = 2 * 10**6  # ImageNet's 1.3 million are the most that anybody trains on here
MAX_HEADER_BYTES = 2**20  # of what tar keeps apart: long names, times
MAX_DIRECTORY_BYTES = 2**28  # of a zip
BLOCK_BYTES = 2**14  # asked for at once: zipfile unpacks what so many packed bytes hold, 100 MB of xz at most

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    ArithmeticError,
    IndexError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True)
class Member:
    """A file or folder inside an archive; name: relative, with forward slashes; size: bytes unpacked."""

    name: str
    is_folder: bool
    size: int


def list_members(path: Path, inner: str | None = None, published: bool = False) -> list[Member]:
    """Return what a zip or tar (plain, gz, bz2, xz) holds, in the archive's order.

    Raises UserError for what is damaged, encrypted or no archive; for absolute names, `..`, links and devices; for two
    members of one name or none; for an archive that unpacks to more than MAX_RATIO times its size, and for more than
    MAX_MEMBERS.
    """
    try:
        listed = _list_zip(path, published) if inner is None and _is_zip(path) else _list_tar(path, inner, published)
        members = [member for member in listed if member.name]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    names = set[str]()
    kept = []
    for member in members:
        if member.is_folder or member.name not in names:
            kept.append(member)
        elif not published:
            raise UserError(f"{path}: holds {member.name!r} twice; repack it")
        names.add(member.name)
    return kept


def read_members(path: Path, inner: str | None = None) -> Iterator[tuple[str, bytes | Exception]]:
    """Yield name and content of every file in the archive's order, which is the one cheap order of a compressed tar.

    A damaged member of a zip yields its error. `path` must have passed `list_members`.
    """
    if inner is None and _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for entry in _files(archive):
                yield _clean(entry.filename, path), _read_entry(archive, entry)
        return
    with _open_tar(path, inner) as tar:
        for info in _infos(tar):
            if info.isreg():
                file = tar.extractfile(info)
                small = file is not None and info.size <= MAX_MEMBER_BYTES
                yield _clean(info.name, path), read_all(file) if file is not None and small else _too_large(info.size)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged bytes raise while they are unpacked into a UserError that names the archive."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run stage download again") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged or truncated ({reason}); get it again") from None


def open_members(path: Path, names: Collection[str]) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Yield name and stream of the named files in the archive's order, each to be read before the next is asked for.

    Raises UserError for a name that the archive lacks. Read the streams under `reading(path)`.
    """
    missing = set(names)
    with contextlib.closing(_streams(path)) as streams:
        for name, file in streams:
            if name in missing:
                missing.remove(name)
                yield name, file
            if not missing:
                return
    raise UserError(f"{path}: lacks {min(missing)!r}; get it again")


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the content of named files, such as lists of images; raises UserError as `open_members` and `reading`."""
    with reading(path):
        return {name: read_all(file) for name, file in open_members(path, names)}


def read_all(file: IO[bytes], most: int = MAX_MEMBER_BYTES) -> bytes:
    """Return what a stream holds, in small blocks: what one call unpacks is bounded by what it asks for, not by what
    is declared. Raises ValueError for more than `most` bytes."""
    blocks, total = [], 0
    while block := file.read(BLOCK_BYTES):
        blocks.append(block)
        total += len(block)
        if total > most:
            raise _too_large(total)
    return b"".join(blocks)


def _streams(path: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for entry in _files(archive):
                with archive.open(entry) as file:
                    yield _clean(entry.filename, path), file
        return
    with _open_tar(path, None) as tar:
        for info in _infos(tar):
            if info.isreg() and (member := tar.extractfile(info)):
                yield _clean(info.name, path), member


@contextlib.contextmanager
def _open_tar(path: Path, inner: str | None) -> Iterator[tarfile.TarFile]:
    with contextlib.ExitStack() as stack:
        if inner is None:
            packed: IO[bytes] = stack.enter_context(path.open("rb"))
        else:
            packed = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(inner))
        unpacked = _Bounded(stack.enter_context(_decompressed(packed)), path)
        try:
            stream = cast("IO[bytes]", unpacked)
            tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r:", tarinfo=_TarInfo))
        except _BadHeaderError:
            raise
        except tarfile.ReadError as error:  # its first header is none
            raise tarfile.ReadError(f"not opened: {error}") from None
        yield tar


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """A stream of what a file holds, by its first bytes: gzip, bzip2, xz, lzma, or itself."""
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start[:3] == b"BZh":
        return cast("IO[bytes]", bz2.BZ2File(file))
    if start == b"\xfd7zXZ\0" or start[:3] == b"\x5d\0\0":
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return file


class _Bounded:
    """A stream that ends a reader who has unpacked more of an archive than its size allows."""

    def __init__(self, file: IO[bytes], path: Path):
        self.file, self.path = file, path
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        most = _allowed(self.path) - self.file.tell() + 1
        data = self.file.read(min(size, most) if size >= 0 else most)
        _check_size(self.path, self.file.tell())
        return data


_KEPT_APART = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _BadHeaderError(tarfile.ReadError):
    """Says why a header is not followed."""


class _TarInfo(tarfile.TarInfo):
    """A member of which no header is larger than MAX_HEADER_BYTES: tarfile reads those whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarInfo":
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _KEPT_APART and info.size > MAX_HEADER_BYTES):
            raise _BadHeaderError(f"a header of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _BadHeaderError("a sparse file")
        return info


def _infos(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members, in order; raises _BadHeaderError for headers that lead back, and for too many."""
    end, number = -1, 0
    while (info := tar.next()) is not None:
        number += 1
        if info.size < 0 or info.offset <= end:
            raise _BadHeaderError(f"a header at byte {info.offset} that leads back")
        if number > MAX_MEMBERS:
            raise _BadHeaderError(f"more than {MAX_MEMBERS} members")
        end = info.offset
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
        yield info


def _files(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    return (entry for entry in archive.infolist() if entry.filename and not entry.is_dir())


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Exception:
    if entry.file_size > MAX_MEMBER_BYTES:
        return _too_large(entry.file_size)
    try:
        with archive.open(entry) as file:
            return read_all(file)
    except _DAMAGE as error:
        return error


def _too_large(size: int) -> Exception:
    return ValueError(f"{size} bytes, more than {MAX_MEMBER_BYTES}")


def _is_zip(path: Path) -> bool:
    # by its first bytes too, so that a truncated zip, which has lost its directory, is called one
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4" or zipfile.is_zipfile(path)


def _list_zip(path: Path, published: bool) -> Iterator[Member]:
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged or truncated zip archive ({error}); get it again") from None
    if len(entries) > MAX_MEMBERS:
        raise UserError(f"{path}: has {len(entries)} members, more than {MAX_MEMBERS}")
    _check_size(path, sum(entry.file_size for entry in entries))
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    for entry in entries:
        if not entry.filename:
            raise UserError(f"{path}: holds a member without a name; repack it")
        if entry.flag_bits & 1:
            raise UserError(f"{path}: {entry.filename!r} is encrypted; repack without a password")
        if entry.compress_type not in methods:
            raise UserError(f"{path}: {entry.filename!r} has compression {entry.compress_type}; repack with deflate")
        # the upper half is the Unix mode, zero where the zip was made elsewhere
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            if published:
                continue
            raise UserError(f"{path}: {entry.filename!r} is a link or a device; repack with plain files")
        yield Member(_clean(entry.filename, path), entry.is_dir(), entry.file_size)


def _list_tar(path: Path, inner: str | None, published: bool) -> Iterator[Member]:
    try:
        with _open_tar(path, inner) as tar:
            total = end = 0
            for info in _infos(tar):
                total += info.size
                _check_size(path, total)
                if not (info.isreg() or info.isdir()) and not published:
                    raise UserError(f"{path}: {info.name!r} is a link or a device; repack with plain files")
                size = info.size if info.isreg() else 0
                end = info.offset_data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if info.isreg() or info.isdir():
                    yield Member(_clean(info.name, path), info.isdir(), info.size)
            _check_end(path, tar, end)
    except KeyError:
        raise UserError(f"{path}: lacks {inner!r}; get it again") from None
    except tarfile.ReadError as error:
        if "opened" in str(error) or "empty" in str(error):
            raise UserError(f"{path}: not a zip or tar archive (plain, gz, bz2 or xz)") from None
        raise UserError(f"{path}: damaged or truncated tar archive ({error}); get it again") from None
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged or truncated tar archive ({error}); get it again") from None


def _check_end(path: Path, tar: tarfile.TarFile, end: int) -> None:
    """tarfile takes a damaged header and a missing end for the end; reading on also checks a compressed file's sum."""
    file = tar.fileobj
    assert file is not None
    if file.tell() < end + tarfile.BLOCKSIZE:
        raise UserError(f"{path}: damaged or truncated tar archive (its end is missing); get it again")
    position = file.tell()
    while block := file.read(2**20):
        position += len(block)
        _check_size(path, position)
        if block.strip(b"\0"):
            raise UserError(f"{path}: damaged tar archive (no header at byte {end}); get it again")


def _check_directory(path: Path) -> None:
    """Raise ValueError where a zip's directory, which zipfile reads whole, is larger than MAX_DIRECTORY_BYTES."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, 2) - 2**16 - 22 - 20)
        file.seek(start)
        end = file.read()
        at = end.rfind(b"PK\5\6")
        if at < 0 or len(end) < at + 22:
            return  # zipfile says so
        (size,) = struct.unpack_from("<L", end, at + 12)
        if size == 0xFFFFFFFF and end[at - 20 : at - 16] == b"PK\6\7":
            file.seek(struct.unpack_from("<Q", end, at - 12)[0])
            found = file.read(48)
            (size,) = struct.unpack_from("<Q", found, 40)
    if size > MAX_DIRECTORY_BYTES:
        raise ValueError(f"a directory of {size} bytes, more than {MAX_DIRECTORY_BYTES}")


def _allowed(path: Path) -> int:
    return max(MAX_RATIO * path.stat().st_size, MAX_RATIO_FROM_BYTES)


def _check_size(path: Path, total: int) -> None:
    if total > _allowed(path):
        raise UserError(f"{path}: unpacks to {total} bytes, over {MAX_RATIO} times its size; images do not")


def _clean(name: str, path: Path) -> str:
    """Return a member's name with forward slashes; backslashes come from zip tools that ignore the standard."""
    parts = name.replace("\\", "/").split("/")
    if name[:1] in ("/", "\\") or name[1:2] == ":" or ".." in parts or "\0" in name:
        raise UserError(f"{path}: {name!r} leads out of the archive; repack with relative names")
    return "/".join(part for part in parts if part not in ("", "."))
