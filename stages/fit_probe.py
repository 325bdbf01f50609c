"""Fit linear probes on the trained and on the untrained backbone."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from headstart.data.arrays import Split
from headstart.evaluation.features import extract_features
from headstart.evaluation.probe import Evaluation, Labelled, Linear, confusion, evaluate_probes, majority_top1, num_fits
from headstart.models.backbone import build_backbone
from headstart.run import artifacts, paths, tracking
from headstart.run.inputs import Prepared, backbone_of, load_prepared, pick_device
from headstart.run.params import Params, load_params
from headstart.run.stage import progress, run_stage, say
from headstart.study.pictures import confusion_picture

STAGE = "fit_probe"


def main(dataset: str) -> None:
    """Leave the probe's tensors; summary.json, per_class.csv and confusion.png beside the metrics."""
    params = load_params()
    data = load_prepared(dataset, params, pick_device(params.device))
    classes = data.meta["classes"]
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, data.meta)
        # built exactly as train_simclr built it, so `untrained` is where training began
        backbone = build_backbone(backbone_of(params), params.seed).to(data.train.images.device)
        untrained = evaluate(backbone, "untrained", dataset, params, data)
        state = artifacts.read_tensors(paths.simclr(dataset) / "backbone.safetensors", made_by="train_simclr")
        backbone.load_state_dict(state)
        trained = evaluate(backbone, "trained", dataset, params, data)
        majority = majority_top1(data.train.labels.numpy(), data.test.labels.numpy())
        summary = {
            "trained": trained.scores,
            "untrained": untrained.scores,
            "majority": {"top1": majority},
            "num_test": len(trained.tested.labels),
        }
        counts = confusion(trained.probe.logits(trained.tested.features), trained.tested.labels)
        write_outs(dataset, trained.probe, summary, counts, classes)
        for name, scores in (("probe", trained.scores), ("untrained", untrained.scores)):
            run.log_metrics({f"{name}/{key}": value for key, value in scores.items()})
        run.log_figure(paths.probe_metrics(dataset) / "confusion.png")
    top1, before = trained.scores["top1"], untrained.scores["top1"]
    say(f"probe {dataset}: top-1 {top1:.4f}, untrained {before:.4f}, majority {majority:.4f}")


def evaluate(backbone: torch.nn.Module, which: str, dataset: str, params: Params, data: Prepared) -> Evaluation:
    """Return the probes' evaluation of one backbone, the trained or the untrained one."""
    size = params.dataset(dataset).image_size

    def labelled(split: Split) -> Labelled:
        return Labelled(extract_features(backbone, split, size, data.standardize), split.labels.numpy())

    splits = labelled(data.train), labelled(data.val), labelled(data.test)
    with progress(num_fits(params.probe), f"probe {dataset}, {which}", "fit") as bar:
        num_classes = len(data.meta["classes"])
        device = data.train.images.device
        return evaluate_probes(
            *splits, params.probe, num_classes=num_classes, seed=params.seed, on_fit=bar.update, device=device
        )


def write_outs(dataset: str, probe: Linear, summary: dict[str, Any], counts: np.ndarray, classes: list[str]) -> None:
    """Write what the stage leaves; each of its two folders whole or not at all."""
    with artifacts.write_folder(paths.probe(dataset)) as folder:
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in asdict(probe).items()}
        artifacts.write_tensors(folder / "probe.safetensors", tensors)
    with artifacts.write_folder(paths.probe_metrics(dataset)) as folder:
        artifacts.write_json(folder / "summary.json", summary)
        rows = [
            {"class": name, "num_test": int(row.sum()), "accuracy": round(float(row[k] / max(row.sum(), 1)), 6)}
            for k, (name, row) in enumerate(zip(classes, counts, strict=True))
        ]
        artifacts.write_csv(folder / "per_class.csv", rows)
        confusion_picture(
            folder / "confusion.png", counts, classes, f"{dataset}: linear probe, {counts.sum()} test images"
        )


if __name__ == "__main__":
    run_stage(main)
