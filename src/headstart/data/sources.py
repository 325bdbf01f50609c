"""Published archives -> one folder: local directory, mirror, upstream, in this order; checked before anything opens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """One file that a dataset is published as.

    file: its name in data/raw/<dataset>, in a local directory (`data.archives`) and below a mirror (`data.mirror`);
    urls: where it is published, tried in order, upstream first; hash: "md5:<hex>" or "sha256:<hex>" of the file, None
    where none is published; also: further accepted hashes, of the same content in another wrapping; num_bytes: its
    size, None where unknown.
    """

    file: str
    urls: tuple[str, ...]
    hash: str | None = None
    also: tuple[str, ...] = ()
    num_bytes: int | None = None


@dataclass(frozen=True)
class Sources:
    """Where archives may come from besides their own URLs.

    parts: the folder for unfinished and shared downloads; local: a directory that may hold them, tried first; mirror: a
    base URL (http, https or file), tried second.
    """

    parts: Path
    local: Path | None = None
    mirror: str | None = None


def fetch_archives(
    archives: Sequence[Archive], folder: Path, sources: Sources, on_progress: Callable[[int], object]
) -> None:
    """Leave every archive, whole and checked, in `folder`; raises UserError where one cannot be had."""
    raise NotImplementedError
