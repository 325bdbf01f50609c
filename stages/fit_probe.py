"""Fit linear probes on the trained and on the untrained backbone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import torch

from headstart.data.arrays import load_split
from headstart.experiment.judging import Judge, Judgement, majority, per_class
from headstart.experiment.prepared import prepare
from headstart.models.backbone import build_backbone, num_features
from headstart.models.projector import load_projector
from headstart.run import files, paths, tensors
from headstart.run.inputs import Inputs
from headstart.run.processes import pick_device
from headstart.run.stage import progress, run_stage, say
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
    judge = Judge(data, params.probe, params.views_of(dataset), params.seed, tensors.mapped_array, fits)
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, meta)
        # built exactly as train_simclr built it, so `untrained` is where training began
        backbone = build_backbone(params.backbone_here(), params.seed).to(device)
        untrained = judge.evaluate(backbone, None, f"probe {dataset}, untrained")
        state, head = (
            tensors.read_tensors(paths.simclr(dataset) / f"{name}.safetensors", made_by="train_simclr")
            for name in ("backbone", "projector")
        )
        backbone.load_state_dict(state)
        projector = load_projector(params.projector, num_features(params.backbone), head).to(device)
        trained = judge.evaluate(backbone, projector, f"probe {dataset}, trained")
        judged = Judgement(trained, untrained, majority(data))
        counts, classes = judged.confusion(), list(data.classes)
        told = {
            "summary.json": judged.summary(),
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
        for name, scores in (("probe", trained.scores), ("untrained", untrained.scores)):
            run.log_metrics({f"{name}/{key}": value for key, value in scores.items()})
        run.log_figure(made / "confusion.png")
    top1, before = trained.scores["top1"], untrained.scores["top1"]
    say(f"probe {dataset}: top-1 {top1:.4f}, untrained {before:.4f}, majority {judged.majority:.4f}")


@contextmanager
def fits(total: int, what: str) -> Iterator[Callable[[], object]]:
    """Show how many probes are fitted."""
    with progress(total, what, "fit") as bar:
        yield bar.update


if __name__ == "__main__":
    run_stage(main)
