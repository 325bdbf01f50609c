"""A dataset's block -> where its images come from -> one folder with them, checked -> their arrays."""

import hashlib
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headstart.errors import PATH, UserError, brief, fitted, of_system, reason
from headstart.ingest import decoders
from headstart.ingest.damage import DamagedError, check
from headstart.ingest.decoders import DECODERS, Chosen
from headstart.ingest.download import num_bytes
from headstart.ingest.pack import Packing, pack
from headstart.ingest.sources import Archive, Sources, fetch_archives, num_bytes_present
from headstart.ingest.tree import some

META = "meta.json"  # what is known about a prepared dataset, beside its arrays


class Block(Protocol):
    """What a block of datasets.yaml says of where the images come from."""

    @property
    def decoder(self) -> Chosen:
        """What reads them."""

    @property
    def archives(self) -> tuple[Archive, ...] | None:
        """What they are published as."""

    @property
    def path(self) -> str | None:
        """Where the user's own lie."""


class Options(Protocol):
    """Where published archives may lie besides their own addresses, and whether unreadable images are left out."""

    @property
    def skip_unreadable(self) -> bool:
        """Whether they are."""

    @property
    def archives(self) -> str | None:
        """Tried first."""

    @property
    def mirror(self) -> str | None:
        """Tried next."""


@dataclass(frozen=True)
class Source:
    """Where a dataset's images come from: published archives, a file or folder of the user's, or a bundled set.

    checked: whether a user's images are all decoded before they are kept, so that the same command sees repaired ones.
    """

    dataset: str
    decoder: Chosen
    archives: tuple[Archive, ...]
    places: Sources | None
    path: Path | None
    checked: bool = False

    @property
    def shared(self) -> Path | None:
        """The folder of downloads that other workers fill too: hold its lock; None where nothing is downloaded."""
        return self.places.parts if self.places else None

    def bring(self, folder: Path, progress: Callable[..., Any], on_note: Callable[[str], object]) -> None:
        """Leave the source in `folder`; raises UserError where it cannot be had, or its layout is none that is read.

        progress: (total, what, unit, initial) -> a context that yields a bar with `update`; on_note: called with lines.
        """
        with progress(self._num_bytes(), f"fetch {self.dataset}", "B", self._present()) as bar:
            if self.places is not None:
                fetch_archives(self.archives, folder, self.places, bar.update, on_note)
                return
            fetch = DECODERS[decoders.name_of(self.decoder)].fetch
            assert fetch is not None
            try:
                told = fetch(self.path, folder, bar.update, self._ask, **decoders.arguments(self.decoder))
            except OSError as error:
                raise UserError(f"{self.dataset}: {of_system(error, self.path)}") from None
        if self.path and self.checked:
            check(decoders.list_images(self.decoder, folder), str(self.path))
        origin = f" from {self.path}, {num_bytes(self.path)} bytes" if self.path else ""
        on_note(f"{self.dataset}: {decoders.name_of(self.decoder)}{origin}{told and '; '}{told}")

    def _ask(self, argument: str) -> str:
        """How a command gives the decoder an argument, `key: value`."""
        key, name = f"datasets.yaml:{self.dataset}.decoder", decoders.name_of(self.decoder)
        if isinstance(self.decoder, str):
            return f"-S '{key}={{{name}: {{{argument}}}}}'"
        return f"-S '{key}.{name}.{argument.replace(': ', '=', 1)}'"

    def _num_bytes(self) -> int:
        """The bytes to bring in all, 0 where that is not known: a bar without remaining time."""
        if self.places is None:
            return num_bytes(self.path) if self.path else 0
        sizes = [archive.num_bytes for archive in self.archives]
        return 0 if None in sizes else sum(filter(None, sizes))

    def _present(self) -> int:
        """Those of earlier downloads, finished or not."""
        return num_bytes_present(self.archives, self.places) if self.places else 0


def find_source(dataset: str, block: Block, options: Options, workspace: Path, downloads: Path) -> Source:
    """Return where a dataset comes from; raises UserError where its block, or the options, name nothing that is there.

    workspace: where relative paths start; downloads: the folder of unfinished and shared downloads. Datasets that are
    published as the same files share them.
    """
    name = decoders.name_of(block.decoder)
    decoder = DECODERS[name]
    key = f"datasets.yaml: {dataset}"
    if decoder.fetch is not None:
        if block.archives:
            other = "; by_folder reads published archives of images" if decoder.needs_path else ""
            raise UserError(f"{key}.archives: must be null for decoder {name}, which downloads nothing{other}")
        path = _own(key, block.path, name, workspace) if decoder.needs_path else None
        return Source(dataset, block.decoder, (), None, path, checked=not options.skip_unreadable)
    if not block.archives:
        raise UserError(f"{key}.archives: must name the files that decoder {name} reads")
    if block.path is not None:
        files = ", ".join(archive.file for archive in block.archives)
        raise UserError(
            f"{key}.path: {block.path!r} must be null for decoder {name}: for its published files ({files}) set "
            "data.archives, for images of your own another decoder"
        )
    folder = None
    if options.archives is not None:
        folder = located("params.yaml: data.archives", options.archives, workspace, "directory")
        if not folder.is_dir():
            raise UserError(f"params.yaml: data.archives: {brief(options.archives)}: no directory, but a file")
    content = json.dumps([[(archive.file, archive.hash) for archive in block.archives]])
    key_of_files = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()[:8]
    parts = downloads / f"{block.archives[0].file}-{key_of_files}"
    return Source(dataset, block.decoder, block.archives, Sources(parts, folder, options.mirror, dataset), None)


def _own(key: str, path: str | None, name: str, workspace: Path) -> Path:
    needed = DECODERS[name].needs_path
    if path is None:
        raise UserError(f"{key}.path: null; decoder {name} needs a {needed} of images: -S {_override(key)}.path=...")
    source = located(f"{key}.path", path, workspace, "file or folder")
    if ("folder" if source.is_dir() else "file") not in str(needed):
        raise UserError(f"{key}.path: {brief(path)} is no {needed}; -S {_override(key)}.decoder=images")
    return source


def located(key: str, given: str, workspace: Path, what: str) -> Path:
    """Return where a user's path leads, a relative one from the workspace on, `~` being a home folder.

    Raises UserError, which begins with `key`, where it leads to nothing or to a device; what: it is of what kind.
    """
    source = Path(given)
    try:
        source = workspace / source.expanduser()
        mode = source.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{key}: {brief(given)}: no such {what} (looked for {fitted(str(source), PATH)})") from None
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a zero byte
        raise UserError(f"{key}: {brief(given)}: {reason(error)}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{key}: {brief(given)}: a device, a pipe or a socket; must be a plain {what}")
    return source


def _override(key: str) -> str:
    return key.replace(": ", ":")


def pack_source(
    dataset: str,
    decoder: Chosen,
    raw: Path,
    folder: Path,
    packing: Packing,
    progress: Callable[..., Any],
    on_note: Callable[[str], object],
) -> dict[str, Any]:
    """Pack what `bring` left in `raw` into `folder`, meta.json among it, and return what that says.

    progress: (total, what, unit) -> a context that yields a bar with `update`; on_note: called with lines of progress.
    """
    listing = decoders.list_images(decoder, raw)
    with progress(len(listing.names), f"prepare {dataset}", "image") as bar:
        try:
            meta = {"dataset": dataset, "decoder": decoders.name_of(decoder)}
            meta |= pack(listing, folder, packing, bar.update)
        except DamagedError as error:
            again = f"repair or remove them and run dvc repro -f download@{dataset}, or set data.skip_unreadable"
            raise DamagedError(error.source, error.rows, again) from None
    (folder / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if skipped := meta["skipped"]:
        on_note(f"{dataset}: skipped {len(skipped)} unreadable images, listed in its {META}")
    on_note(f"{dataset}: {_told(meta)}")
    return meta


def _told(meta: Mapping[str, Any]) -> str:
    """What a dataset holds: images by split, classes by name."""
    counts = ", ".join(f"{count} {split}" for split, count in meta["num_images"].items())
    free, classes = sum(meta.get("num_unlabelled", {}).values()), meta["classes"]
    labels = f" of {len(classes)} classes" if classes else ""
    labels += (f", {free} unlabelled" if classes else ", all unlabelled") if free else ""
    return f"{counts} images{labels}, stored at {meta['stored_size']} px" + (
        f"; classes: {some(classes)}" if classes else ""
    )
