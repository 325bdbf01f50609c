"""Bring a dataset's source into data/raw: checked, as it was published or as one file."""

from headstart.ingest.bring import find_source
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import progress, run_stage, say
from headstart.tracking import tracking

STAGE = "download"


def main(dataset: str) -> None:
    """Fetch the source of one dataset; workers that want the same archives wait, and then find them there."""
    inputs = Inputs(STAGE, dataset)
    params = inputs.params
    source = find_source(dataset, params.dataset(dataset), params.data, paths.main_workspace(), paths.downloads())
    with (
        tracking.stage_run(STAGE, dataset, params),
        files.locked(source.shared, STAGE),
        files.write_folder(paths.raw(dataset)) as folder,
        inputs.leaving(),
        files.listing_damage(dataset),
    ):
        source.bring(folder, progress, say)


if __name__ == "__main__":
    run_stage(main)
