"""Bring and decode another dataset that backbones are judged on."""

from headstart.ingest.bring import find_source, pack_source
from headstart.ingest.pack import Packing
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import progress, run_stage, say

STAGE = "prepare_target"


def main(target: str) -> None:
    """Leave the dataset's arrays as `prepare` does; its archives are not kept."""
    inputs = Inputs(STAGE, target)
    params, out = inputs.params, paths.target(target)
    block = params.dataset(target)
    origin = find_source(target, block, params.data, paths.main_workspace(), paths.downloads())
    packing = Packing.of(params.data, target, block.image_size, params.seed)
    with (
        files.write_folder(out) as folder,
        inputs.leaving(),
        files.listing_damage(target),
        # not `.<name>.`: write_folder(out) would take it for a killed run's
        files.scratch_folder(out.parent / f".raw-{target}") as raw,
    ):
        with files.locked(origin.shared, STAGE):
            origin.bring(raw, progress, say)
        pack_source(target, block.decoder, raw, folder, packing, progress, say)


if __name__ == "__main__":
    run_stage(main)
