"""Decode a dataset once, into one uint8 array per split."""

from headstart.ingest.bring import pack_source
from headstart.ingest.pack import Packing
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import progress, run_stage, say
from headstart.tracking import tracking

STAGE = "prepare"


def main(dataset: str) -> None:
    """Leave the arrays and meta.json, which tells what is known about them."""
    inputs = Inputs(STAGE, dataset)
    params, raw = inputs.params, paths.raw(dataset)
    block = params.dataset(dataset)
    packing = Packing.of(params.data, dataset, block.image_size, params.seed)
    if not raw.is_dir():
        raise files.missing(raw, "download")
    with tracking.stage_run(STAGE, dataset, params) as run:
        with files.write_folder(paths.prepared(dataset)) as folder, inputs.leaving(), files.listing_damage(dataset):
            meta = pack_source(dataset, block.decoder, raw, folder, packing, progress, say)
        run.log_dataset(dataset, meta)


if __name__ == "__main__":
    run_stage(main)
