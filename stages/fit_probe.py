"""Fit linear probes on the trained backbone."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch

from headstart.data.arrays import load_split
from headstart.experiment.judging import Judge, confused, per_class, summary
from headstart.experiment.prepared import prepare
from headstart.models.backbone import build_backbone, num_features
from headstart.models.projector import load_projector
from headstart.run import files, paths, tensors
from headstart.run.inputs import Inputs
from headstart.run.processes import pick_device
from headstart.run.stage import fits, run_stage, say
from headstart.study.pictures import confusion_picture
from headstart.tracking import tracking

STAGE = "fit_probe"


def main(dataset: str) -> None:
    """Leave the probe's tensors; summary.json, per_class.csv, reliability.csv and confusion.png beside the metrics."""
    inputs = Inputs(STAGE, dataset)
    params, arrays, device = inputs.params, paths.prepared(dataset), pick_device(inputs.params.device)
    meta = files.read_json(arrays / "meta.json", made_by="prepare")
    size, standardize = params.dataset(dataset).image_size, params.data.standardize
    data = prepare(meta, partial(load_split, arrays), size=size, standardize=standardize, device=device)
    shown = partial(fits, f"probe {dataset}")
    judge = Judge(data, params.probe, params.views_of(dataset), params.seed, tensors.mapped_array, shown)
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, meta)
        # whatever it starts from, its weights are replaced
        backbone = build_backbone(replace(params.backbone, weights="none"), params.seed).to(device)
        state, head = (
            tensors.read_tensors(paths.simclr(dataset) / f"{name}.safetensors", made_by="train_simclr")
            for name in ("backbone", "projector")
        )
        backbone.load_state_dict(state)
        projector = load_projector(params.projector, num_features(params.backbone), head).to(device)
        trained = judge.evaluate(backbone, projector, "trained")
        counts, classes = confused(trained), list(data.classes)
        told = {
            "summary.json": summary(trained),
            "per_class.csv": per_class(counts, data.classes),
            "reliability.csv": [asdict(row) for row in trained.bins],
        }
        fitted = {name: torch.from_numpy(np.asarray(value)) for name, value in asdict(trained.probe).items()}
        made = paths.probe_metrics(dataset)
        with files.write_folder(paths.probe(dataset)) as weights, files.write_folder(made) as out, inputs.leaving():
            tensors.write_tensors(weights / "probe.safetensors", fitted)
            tensors.write_outs(out, told)
            title = f"{dataset}: linear probe, {counts.sum()} test images"
            confusion_picture(out / "confusion.png", counts, classes, title)
        run.log_metrics({f"probe/{key}": value for key, value in trained.scores.items()})
        run.log_figure(made / "confusion.png")
    say(f"probe {dataset}: top-1 {trained.scores['top1']:.4f}")


if __name__ == "__main__":
    run_stage(main)
