"""Decode a dataset once, into one uint8 array per split."""

from pathlib import Path
from typing import Any

from headstart.data.pack import Packing, pack
from headstart.data.table import KINDS
from headstart.errors import UserError
from headstart.run import paths, tracking
from headstart.run.artifacts import missing, write_folder, write_json
from headstart.run.params import Params, load_params
from headstart.run.stage import progress, run_stage, say


def main(dataset: str) -> None:
    """Prepare one dataset."""
    params = load_params()
    with tracking.stage_run("prepare", dataset, params) as run:
        run.log_dataset(dataset, prepare(dataset, params, paths.raw(dataset), paths.prepared(dataset)))


def prepare(dataset: str, params: Params, raw: Path, out: Path) -> dict[str, Any]:
    """Pack what `download` left in `raw` into `out`, and return what is known about it."""
    row, options = params.dataset(dataset), params.options
    if options.stored_size is not None and options.stored_size < row.image_size:
        raise UserError(
            f"params.yaml: data.stored_size: {options.stored_size} must be null or at least "
            f"data.{dataset}.image_size, {row.image_size}"
        )
    if not raw.is_dir():
        raise missing(raw, "download")
    listing = KINDS[row.kind].list_images(raw)
    packing = Packing(
        row.image_size,
        options.stored_size,
        options.val_fraction,
        options.test_fraction,
        params.seed,
        options.skip_unreadable,
    )
    with write_folder(out) as folder:
        with progress(len(listing.names), f"prepare {dataset}", "image") as bar:
            meta = pack(listing, folder, packing, bar.update)
        write_json(folder / "meta.json", {"dataset": dataset, "kind": row.kind, **meta})
    if skipped := meta["skipped"]:
        say(f"{dataset}: skipped {len(skipped)} unreadable images, listed in {out / 'meta.json'}")
    counts = ", ".join(f"{count} {split}" for split, count in meta["num_images"].items())
    say(f"{dataset}: {counts} images of {len(meta['classes'])} classes, stored at {meta['stored_size']} px")
    return meta


if __name__ == "__main__":
    run_stage(main)
