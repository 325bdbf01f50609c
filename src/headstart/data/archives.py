"""Zip and tar archives, checked whole and then read in place: nothing is ever extracted to the file system."""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import UserError

# Packed images hardly shrink; what grows a hundredfold and past this is a bomb or holds no photographs
MAX_RATIO = 100
MAX_RATIO_FROM_BYTES = 2**26
MAX_MEMBER_BYTES = 2**29

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
)


@dataclass(frozen=True)
class Member:
    """A file or folder inside an archive; name: relative, with forward slashes; size: bytes unpacked."""

    name: str
    is_folder: bool
    size: int


def list_members(path: Path) -> list[Member]:
    """Return what a zip or tar (plain, gz, bz2, xz) holds, in the archive's order.

    Raises UserError for what is damaged, encrypted or no archive; for absolute names, `..`, links and devices; for two
    members of one name; and for an archive that unpacks to more than MAX_RATIO times its size.
    """
    try:
        listed = _list_zip(path) if _is_zip(path) else _list_tar(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    members = [member for member in listed if member.name]
    names = set[str]()
    for member in members:
        if not member.is_folder and member.name in names:
            raise UserError(f"{path}: holds {member.name!r} twice; repack it")
        names.add(member.name)
    return members


def read_members(path: Path) -> Iterator[tuple[str, bytes | Exception]]:
    """Yield name and content of every file in the archive's order, which is the one cheap order of a compressed tar.

    A damaged member of a zip yields its error. `path` must have passed `list_members`.
    """
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield _clean(entry.filename, path), _read_entry(archive, entry)
        return
    with tarfile.open(path) as tar:
        for info in tar:
            if info.isreg():
                file = tar.extractfile(info)
                small = file is not None and info.size <= MAX_MEMBER_BYTES
                yield _clean(info.name, path), file.read() if file is not None and small else _too_large(info.size)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Exception:
    if entry.file_size > MAX_MEMBER_BYTES:
        return _too_large(entry.file_size)
    try:
        return archive.read(entry)
    except _DAMAGE as error:
        return error


def _too_large(size: int) -> Exception:
    return ValueError(f"{size} bytes, more than {MAX_MEMBER_BYTES}")


def _is_zip(path: Path) -> bool:
    # by its first bytes too, so that a truncated zip, which has lost its directory, is called one
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4" or zipfile.is_zipfile(path)


def _list_zip(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged or truncated zip archive ({error}); get it again") from None
    _check_size(path, sum(entry.file_size for entry in entries))
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    for entry in entries:
        if entry.flag_bits & 1:
            raise UserError(f"{path}: {entry.filename!r} is encrypted; repack without a password")
        if entry.compress_type not in methods:
            raise UserError(f"{path}: {entry.filename!r} has compression {entry.compress_type}; repack with deflate")
        # the upper half is the Unix mode, zero where the zip was made elsewhere
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path}: {entry.filename!r} is a link or a device; repack with plain files")
        yield Member(_clean(entry.filename, path), entry.is_dir(), entry.file_size)


def _list_tar(path: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path) as tar:
            total = end = 0
            for info in tar:
                total += info.size
                _check_size(path, total)
                if not (info.isreg() or info.isdir()):
                    raise UserError(f"{path}: {info.name!r} is a link or a device; repack with plain files")
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                yield Member(_clean(info.name, path), info.isdir(), info.size)
            _check_end(path, tar, end)
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


def _check_size(path: Path, total: int) -> None:
    allowed = max(MAX_RATIO * path.stat().st_size, MAX_RATIO_FROM_BYTES)
    if total > allowed:
        raise UserError(f"{path}: unpacks to {total} bytes, over {MAX_RATIO} times its size; images do not")


def _clean(name: str, path: Path) -> str:
    """Return a member's name with forward slashes; backslashes come from zip tools that ignore the standard."""
    parts = name.replace("\\", "/").split("/")
    if name[:1] in ("/", "\\") or name[1:2] == ":" or ".." in parts or "\0" in name:
        raise UserError(f"{path}: {name!r} leads out of the archive; repack with relative names")
    return "/".join(part for part in parts if part not in ("", "."))
