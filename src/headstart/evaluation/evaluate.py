"""All that one backbone's frozen features say: probes, neighbours, calibration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from headstart.evaluation.calibration import Bin, expected_calibration_error, reliability
from headstart.evaluation.few_labels import few_label_top1, student_interval
from headstart.evaluation.neighbours import nearest_neighbours
from headstart.evaluation.probe import CPU, Labelled, Linear, Probe, Splits, converged_probe, paper_probe, score


@dataclass(frozen=True)
class Evaluation:
    """A fitted probe, what it was tested on, its scores, further numbers on them, its calibration; see `evaluate`."""

    probe: Linear
    tested: Labelled
    scores: dict[str, float]
    details: dict[str, float]
    bins: list[Bin]


def num_fits(recipe: Probe) -> int:
    """Return how many probes `evaluate` fits on the backbone's features."""
    few = len(recipe.few_labels) + len(recipe.few_shares)
    return 1 + (recipe.protocol == "paper") + few * recipe.few_draws


def evaluate(
    splits: Splits,
    recipe: Probe,
    *,
    num_classes: int,
    seed: int,
    on_fit: Callable[[], object] = lambda: None,
    device: torch.device = CPU,
) -> Evaluation:
    """Return the probe of the recipe's protocol with its test scores.

    scores: those of `score`, `val_top1`, `strength` (converged), `ece` (15 bins); `knn10`, `knn20` and `knn200`; for
    every few-label probe its mean over draws, `few5` or `few10pct`, and standard deviation `few5_std`; under the
    paper's protocol also `top1_converged`, the default probe's. details: the means' 95 % intervals over draws,
    `few5_low` and `few5_high`. on_fit is called `num_fits(recipe)` times.
    """
    train, val, test = splits.train, splits.val, splits.test
    chosen = converged_probe(train, val, recipe.strengths, num_classes, device=device)
    on_fit()
    tested, extra = test, {}
    if recipe.protocol == "paper":
        extra["top1_converged"] = score(chosen.probe.logits(test.features), test.labels)["top1"]
        chosen, tested = paper_probe(test, num_classes, seed, recipe.plateau)
        on_fit()
    logits = chosen.probe.logits(tested.features)
    scores = score(logits, tested.labels) | extra
    scores["val_top1"] = chosen.val_top1
    if chosen.strength is not None:
        scores["strength"] = chosen.strength
    bins = reliability(logits, tested.labels)
    scores["ece"] = expected_calibration_error(bins)
    found = nearest_neighbours(train.features, train.labels, test.features, num_classes, device=device)
    for k, classes in found.items():
        scores[f"knn{k}"] = float((classes == test.labels).mean())
    few = few_label_top1(train, val, test, recipe, num_classes=num_classes, seed=seed, on_fit=on_fit, device=device)
    details: dict[str, float] = {}
    for name, top1 in few.items():
        scores[name] = float(np.mean(top1))
        scores[f"{name}_std"] = float(np.std(top1, ddof=1)) if len(top1) > 1 else 0.0
        details[f"{name}_low"], details[f"{name}_high"] = student_interval(top1)
    return Evaluation(chosen.probe, tested, scores, details, bins)


def evaluate_layers(
    layers: Mapping[str, Splits],
    recipe: Probe,
    *,
    num_classes: int,
    on_fit: Callable[[], object] = lambda: None,
    device: torch.device = CPU,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return (scores, details) of the converged probe on each layer: `top1_hidden`, and all else as `hidden_macro_f1`.

    Layers are projector layers; the backbone's own are the subject of `evaluate`.
    """
    scores: dict[str, float] = {}
    details: dict[str, float] = {}
    for name, splits in layers.items():
        fit = converged_probe(splits.train, splits.val, recipe.strengths, num_classes, device=device)
        found = score(fit.probe.logits(splits.test.features), splits.test.labels)
        scores[f"top1_{name}"] = found.pop("top1")
        details |= {f"{name}_{key}": value for key, value in found.items()} | {f"{name}_val_top1": fit.val_top1}
        on_fit()
    return scores, details
