"""A backbone on a dataset that it was not trained on: a probe fitted there; domain shift where classes are the same."""

from collections.abc import Sequence

import numpy as np
import torch

from headstart.evaluation.calibration import expected_calibration_error, reliability
from headstart.evaluation.neighbours import nearest_neighbours
from headstart.evaluation.probe import CPU, Labelled, Linear, Splits, converged_probe, score


def transfer_scores(
    splits: Splits, strengths: Sequence[float], *, num_classes: int, device: torch.device = CPU
) -> dict[str, float]:
    """Return scores on the other dataset's test split of the converged probe on its train split, and of neighbours.

    Those of `score`, `val_top1`, `ece`, `knn20` and `knn200`.
    """
    train, val, test = splits.train, splits.val, splits.test
    fit = converged_probe(train, val, strengths, num_classes, device=device)
    logits = fit.probe.logits(test.features)
    scores = score(logits, test.labels) | {"val_top1": fit.val_top1}
    scores["ece"] = expected_calibration_error(reliability(logits, test.labels))
    found = nearest_neighbours(train.features, train.labels, test.features, num_classes, device=device)
    return scores | {f"knn{k}": float((classes == test.labels).mean()) for k, classes in found.items()}


def same_classes(source: Sequence[str], target: Sequence[str]) -> np.ndarray | None:
    """Return each target class's place among the source's (K,) int64, or None where the names are not the same."""
    if sorted(source) != sorted(target):
        return None
    return np.array([list(source).index(name) for name in target], dtype=np.int64)


def zero_shot_top1(probe: Linear, test: Labelled, places: np.ndarray) -> float:
    """Return the accuracy of the source's probe on the target's test split, whose labels `places` translates."""
    return float((probe.logits(test.features).argmax(1) == places[test.labels]).mean())
