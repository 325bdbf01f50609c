"""Bring and decode another dataset that autoencoders learn from, or leave a marker that there is none."""

from headstart.ingest.bring import find_source, pack_source
from headstart.ingest.pack import Packing
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import progress, run_stage, say
from headstart.settings import SAME

STAGE = "prepare_source"


def main(source: str) -> None:
    """Leave a dataset's arrays as `prepare` does; none.json for `same` and where no autoencoder is needed."""
    inputs = Inputs(STAGE, source)
    params, out = inputs.params, paths.source(source)
    if source == SAME or not params.projector.needs_autoencoder:
        with files.write_folder(out) as folder, inputs.leaving():
            files.write_json(folder / "none.json", {"source": source})
        return
    block = params.dataset(source)
    origin = find_source(source, block, params.data, paths.main_workspace(), paths.downloads())
    packing = Packing.of(params.data, source, block.image_size, params.seed)
    with (
        files.write_folder(out) as folder,
        inputs.leaving(),
        files.listing_damage(source),
        # not `.<name>.`: write_folder(out) would take it for a killed run's
        files.scratch_folder(out.parent / f".raw-{source}") as raw,
    ):
        with files.locked(origin.shared, STAGE):
            origin.bring(raw, progress, say)
        pack_source(source, block.decoder, raw, folder, packing, progress, say)


if __name__ == "__main__":
    run_stage(main)
