"""Fit the probes that no training precedes: on raw pixels and on the initial backbone. No projector reads them, so that
runs that differ in the projector alone share them."""

from functools import partial

from headstart.data.arrays import load_split
from headstart.experiment.baselines import judge_baselines, unlabelled_baselines
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
        backbone = build_backbone(params.backbone_here(), params.seed).to(device)
        if data.num_classes:
            found = judge_baselines(judge, backbone).summary()
        else:
            found = unlabelled_baselines(judge, backbone)
        with files.write_folder(paths.baselines(dataset)) as out, inputs.leaving():
            files.write_json(out / "summary.json", found)
        for name in ("untrained", "calibrated", "pixels"):
            run.log_metrics({f"{name}/{key}": value for key, value in found[name].items()})
    score, what = ("top1", "top-1") if data.num_classes else ("view_top1", "no labels, so none but view top-1:")
    told = ", ".join(f"{name} {row[score]:.4f}" for name, row in found.items() if name != "details")
    say(f"baselines {dataset}: {what} {told}")


if __name__ == "__main__":
    run_stage(main)
