"""Fit linear probes on the trained backbone."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headstart.data.arrays import NAMES, load_split
from headstart.experiment.judging import Judge, confused, per_class, summary, unlabelled_summary
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
    """Leave the probe's tensors; summary.json, per_class.csv, reliability.csv and confusion.png beside the metrics.

    Where some images are unlabelled features.npz of all images; without any label that and label-free scores alone.
    """
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
        made = paths.probe_metrics(dataset)
        with files.write_folder(paths.probe(dataset)) as weights, files.write_folder(made) as out, inputs.leaving():
            if data.num_classes:
                scores = probe(dataset, judge, backbone, projector, weights, out)
            else:
                scores = judge.label_free(backbone, projector)
                tensors.write_outs(out, {"summary.json": unlabelled_summary(scores, len(data.test.split.labels))})
            if (arrays / NAMES).is_file():
                names = files.read_json(arrays / NAMES, made_by="prepare")
                tensors.write_features(weights / "features.npz", names, judge.features(backbone))
        run.log_metrics({f"probe/{key}": value for key, value in scores.items()})
        if data.num_classes:
            run.log_figure(made / "confusion.png")
    if data.num_classes:
        say(f"probe {dataset}: top-1 {scores['top1']:.4f}")
    else:
        say(f"probe {dataset}: no labels, so nothing to probe; features of all images in {paths.probe(dataset)}")


def probe(
    dataset: str, judge: Judge, backbone: nn.Module, projector: nn.Sequential, weights: Path, out: Path
) -> dict[str, float]:
    """Fit the probes, leave what they are and what they say in two folders, and return their scores."""
    judged = judge.evaluate(backbone, projector, "trained")
    trained = replace(judged, scores=judged.scores | judge.label_free(backbone, projector))
    counts, classes = confused(trained), judge.data.classes
    told = {
        "summary.json": summary(trained),
        "per_class.csv": per_class(counts, classes),
        "reliability.csv": [asdict(row) for row in trained.bins],
    }
    fitted = {name: torch.from_numpy(np.asarray(value)) for name, value in asdict(trained.probe).items()}
    tensors.write_tensors(weights / "probe.safetensors", fitted)
    tensors.write_outs(out, told)
    title = f"{dataset}: linear probe, {counts.sum()} test images"
    confusion_picture(out / "confusion.png", counts, list(classes), title)
    return trained.scores


if __name__ == "__main__":
    run_stage(main)
