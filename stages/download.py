"""Bring a dataset's source into data/raw: checked, as one file."""

from pathlib import Path

from headstart.data.download import num_bytes
from headstart.data.table import KINDS
from headstart.errors import UserError
from headstart.run import paths, tracking
from headstart.run.artifacts import write_folder
from headstart.run.params import Dataset, load_params
from headstart.run.stage import progress, run_stage, say


def main(dataset: str) -> None:
    """Fetch the source of one dataset."""
    params = load_params()
    row = params.dataset(dataset)
    kind = KINDS[row.kind]
    source = find_source(dataset, row) if kind.needs_path else None
    size = num_bytes(source) if source else 0
    try:
        with (
            tracking.stage_run("download", dataset, params),
            write_folder(paths.raw(dataset)) as folder,
            progress(size, f"fetch {dataset}", "B") as bar,
        ):
            kind.fetch(source, folder, bar.update)
    except OSError as error:
        raise UserError(f"{dataset}: {error}") from None
    say(f"{dataset}: {row.kind}" + (f" from {source}, {size} bytes" if source else ""))


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
