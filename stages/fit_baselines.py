"""Fit the probes that no training precedes: on raw pixels and on the initial backbone. No projector reads them, so that
runs that differ in the projector alone share them."""

from functools import partial

from headstart.data.arrays import load_split
from headstart.experiment.baselines import judge_baselines
from headstart.experiment.judging import Judge
from headstart.experiment.prepared import prepare
from headstart.models.backbone import build_backbone
from headstart.run import files, paths, tensors
from headstart.run.inputs import Inputs
from headstart.run.processes import pick_device
from headstart.run.stage import fits, run_stage, say
from headstart.tracking import tracking

STAGE = "fit_baselines"


def main(dataset: str) -> None:
    """Leave summary.json."""
    inputs = Inputs(STAGE, dataset)
    params, arrays, device = inputs.params, paths.prepared(dataset), pick_device(inputs.params.device)
    meta = files.read_json(arrays / "meta.json", made_by="prepare")
    size, standardize = params.dataset(dataset).image_size, params.data.standardize
    data = prepare(meta, partial(load_split, arrays), size=size, standardize=standardize, device=device)
    shown = partial(fits, f"baselines {dataset}")
    judge = Judge(data, params.probe, params.views_of(dataset), params.seed, tensors.mapped_array, shown)
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, meta)
        # built exactly as train_simclr builds it: where training begins
        found = judge_baselines(judge, build_backbone(params.backbone_here(), params.seed).to(device)).summary()
        with files.write_folder(paths.baselines(dataset)) as out, inputs.leaving():
            files.write_json(out / "summary.json", found)
        for name in ("untrained", "calibrated", "pixels"):
            run.log_metrics({f"{name}/{key}": value for key, value in found[name].items()})
    told = ", ".join(f"{name} {found[name]['top1']:.4f}" for name in ("untrained", "calibrated", "pixels", "majority"))
    say(f"baselines {dataset}: top-1 {told}")


if __name__ == "__main__":
    run_stage(main)
