"""Fit linear probes on the trained and on the untrained backbone."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.data.arrays import Split
from headstart.evaluation.calibration import Bin
from headstart.evaluation.evaluate import Evaluation, evaluate, evaluate_layers, num_fits
from headstart.evaluation.features import extract_layers
from headstart.evaluation.finetune import finetune
from headstart.evaluation.probe import Labelled, Linear, Splits, confusion, majority_top1
from headstart.models.backbone import build_backbone, num_features
from headstart.models.projector import load_projector
from headstart.run import artifacts, paths, tracking
from headstart.run.inputs import Prepared, backbone_of, load_prepared, pick_device
from headstart.run.params import Params, load_params
from headstart.run.stage import progress, run_stage, say
from headstart.study.pictures import confusion_picture

STAGE = "fit_probe"


def main(dataset: str) -> None:
    """Leave the probe's tensors; summary.json, per_class.csv, reliability.csv and confusion.png beside the metrics."""
    params = load_params()
    device = pick_device(params.device)
    data = load_prepared(dataset, params, device)
    classes = data.meta["classes"]
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, data.meta)
        # built exactly as train_simclr built it, so `untrained` is where training began
        backbone = build_backbone(backbone_of(params), params.seed).to(device)
        untrained = evaluate_backbone(backbone, None, dataset, params, data)
        state, head = (
            artifacts.read_tensors(paths.simclr(dataset) / f"{name}.safetensors", made_by="train_simclr")
            for name in ("backbone", "projector")
        )
        backbone.load_state_dict(state)
        projector = load_projector(params.projector, num_features(params.backbone), head).to(device)
        trained = evaluate_backbone(backbone, projector, dataset, params, data)
        majority = majority_top1(data.train.labels.numpy(), data.test.labels.numpy())
        summary = {
            "trained": trained.scores,
            "untrained": untrained.scores,
            "majority": {"top1": majority},
            "num_test": len(trained.tested.labels),
            "details": {"trained": trained.details, "untrained": untrained.details},
        }
        counts = confusion(trained.probe.logits(trained.tested.features), trained.tested.labels)
        write_outs(dataset, trained.probe, summary, counts, classes, trained.bins)
        for name, scores in (("probe", trained.scores), ("untrained", untrained.scores)):
            run.log_metrics({f"{name}/{key}": value for key, value in scores.items()})
        run.log_figure(paths.probe_metrics(dataset) / "confusion.png")
    top1, before = trained.scores["top1"], untrained.scores["top1"]
    say(f"probe {dataset}: top-1 {top1:.4f}, untrained {before:.4f}, majority {majority:.4f}")


def evaluate_backbone(
    backbone: nn.Module, projector: nn.Sequential | None, dataset: str, params: Params, data: Prepared
) -> Evaluation:
    """Return the evaluation of the trained backbone with its projector, or of the untrained one (None)."""
    recipe, size = params.probe, params.dataset(dataset).image_size
    # `hidden` names every hidden layer of a deep head
    wanted = tuple(name for name in recipe.layers if name != "backbone")
    head = projector if wanted else None

    def layers_of(split: Split) -> dict[str, Labelled]:
        found = extract_layers(backbone, head, split, size, data.standardize, allocate=artifacts.mapped_array)
        kept = {name: values for name, values in found.items() if name.startswith(("backbone", *wanted))}
        return {name: Labelled(values, split.labels.numpy()) for name, values in kept.items()}

    train, val, test = layers_of(data.train), layers_of(data.val), layers_of(data.test)
    layers = {name: Splits(train[name], val[name], test[name]) for name in train}
    features, num_classes = layers.pop("backbone"), len(data.meta["classes"])
    what = f"probe {dataset}, {'trained' if projector else 'untrained'}"
    with progress(num_fits(recipe) + len(layers) + recipe.finetune_epochs, what, "fit") as bar:
        how: dict[str, Any] = {
            "num_classes": num_classes,
            "on_fit": bar.update,
            "device": data.train.images.device,
        }
        result = evaluate(features, recipe, seed=params.seed, **how)
        scores, details = evaluate_layers(layers, recipe, **how)
        if recipe.finetune_epochs:
            scores["top1_finetuned"] = finetune(
                backbone,
                data.train,
                data.test,
                params.views_of(dataset),
                size,
                data.standardize,
                num_features=num_features(params.backbone),
                num_classes=num_classes,
                epochs=recipe.finetune_epochs,
                seed=params.seed,
                on_epoch=bar.update,
            )
    return replace(result, scores=result.scores | scores, details=result.details | details)


def write_outs(
    dataset: str, probe: Linear, summary: dict[str, Any], counts: np.ndarray, classes: list[str], bins: list[Bin]
) -> None:
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
        artifacts.write_csv(folder / "reliability.csv", [asdict(row) for row in bins])
        confusion_picture(
            folder / "confusion.png", counts, classes, f"{dataset}: linear probe, {counts.sum()} test images"
        )


if __name__ == "__main__":
    run_stage(main)
