"""Bring a dataset's source into data/raw: checked, as it was published or as one file."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from headstart.data.download import num_bytes
from headstart.data.sources import Archive, Sources, fetch_archives, num_bytes_present
from headstart.data.table import KINDS
from headstart.errors import UserError
from headstart.run import paths, tracking
from headstart.run.artifacts import digest, locked, write_folder
from headstart.run.params import DataOptions, Dataset, Params, load_params
from headstart.run.stage import progress, run_stage, say


def main(dataset: str) -> None:
    """Fetch the source of one dataset."""
    params = load_params()
    work = download(dataset, params, paths.raw(dataset))
    try:
        with tracking.stage_run("download", dataset, params):
            work()
    except OSError as error:
        raise UserError(f"{dataset}: {error}") from None


def download(dataset: str, params: Params, out: Path) -> Callable[[], None]:
    """Return what fetches a dataset's source into `out`, its settings checked."""
    row = params.dataset(dataset)
    kind = KINDS[row.kind]
    if kind.archives:
        return partial(fetch, dataset, kind.archives, find_sources(dataset, row, kind.archives, params.options), out)
    return partial(bring, dataset, row, find_source(dataset, row) if kind.needs_path else None, out)


def fetch(dataset: str, archives: Sequence[Archive], sources: Sources, out: Path) -> None:
    """Download what is published; workers that want the same archives wait, and then find them there."""
    sizes = [archive.num_bytes for archive in archives]
    total = 0 if None in sizes else sum(filter(None, sizes))  # 0: a bar without remaining time
    with (
        locked(sources.parts, "download"),
        write_folder(out) as folder,
        progress(total, f"fetch {dataset}", "B", num_bytes_present(archives, sources)) as bar,
    ):
        fetch_archives(archives, folder, sources, bar.update, say)


def bring(dataset: str, row: Dataset, source: Path | None, out: Path) -> None:
    """Copy or pack the user's images, or write down what is bundled."""
    fetch = KINDS[row.kind].fetch
    assert fetch is not None
    size = num_bytes(source) if source else 0
    with write_folder(out) as folder, progress(size, f"fetch {dataset}", "B") as bar:
        fetch(source, folder, bar.update)
    say(f"{dataset}: {row.kind}" + (f" from {source}, {size} bytes" if source else ""))


def find_sources(dataset: str, row: Dataset, archives: Sequence[Archive], options: DataOptions) -> Sources:
    """Return where archives may come from; kinds that are published as the same files share one folder of parts."""
    if row.path is not None:
        raise UserError(
            f"params.yaml: data.{dataset}.path: {row.path!r} must be null for kind {row.kind}: for its published files "
            f"({', '.join(archive.file for archive in archives)}) set data.archives, for images of your own the kind"
        )
    local = None
    if options.archives is not None:
        local = paths.main_workspace() / Path(options.archives).expanduser()
        if not local.is_dir():
            raise UserError(f"params.yaml: data.archives: {options.archives!r}: no such directory (looked for {local})")
    key = digest([(archive.file, archive.hash) for archive in archives])[:8]
    return Sources(paths.downloads() / f"{archives[0].file}-{key}", local, options.mirror, row.kind)


def find_source(dataset: str, row: Dataset) -> Path:
    """Return the existing file or folder that a row's path names; relative ones start at the main workspace."""
    key, needed = f"params.yaml: data.{dataset}.path", KINDS[row.kind].needs_path
    if row.path is None:
        raise UserError(f"{key}: null; kind {row.kind} needs a {needed} of images: set data.{dataset}.path")
    source = paths.main_workspace() / Path(row.path).expanduser()
    if not source.exists():
        raise UserError(f"{key}: {row.path!r}: no such file or folder (looked for {source})")
    if source.is_dir() != (needed == "folder"):
        fitting = "image_folder" if source.is_dir() else "image_archive"
        raise UserError(f"{key}: {row.path!r} is no {needed}; set data.{dataset}.kind to {fitting}")
    return source


if __name__ == "__main__":
    run_stage(main)
