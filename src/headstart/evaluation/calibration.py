"""Calibration: does a probe that is 80 % sure find 80 %? Expected calibration error (Guo et al. 2017, equation 3)."""

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (low, high], the first bin with its low: how many, their mean confidence and
    accuracy (both 0 in an empty bin)."""

    low: float
    high: float
    num: int
    confidence: float
    accuracy: float


def reliability(logits: np.ndarray, labels: np.ndarray, num_bins: int = BINS) -> list[Bin]:
    """Return `num_bins` equally wide bins over [0, 1] of the confidence, the softmax's greatest value.

    logits: (N, K); labels: (N,) int64.
    """
    shifted = logits - logits.max(1, keepdims=True)
    confidence = 1 / np.exp(shifted).sum(1)
    correct = logits.argmax(1) == labels
    edges = np.arange(num_bins + 1) / num_bins
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    bins = []
    for place in range(num_bins):
        own = places == place
        means = (float(values[own].mean()) if own.any() else 0.0 for values in (confidence, correct))
        bins.append(Bin(float(edges[place]), float(edges[place + 1]), int(own.sum()), *means))
    return bins


def expected_calibration_error(bins: list[Bin]) -> float:
    """Return the mean over images of |accuracy - confidence| of their bin, 0 (calibrated) to 1."""
    return sum(row.num * abs(row.accuracy - row.confidence) for row in bins) / sum(row.num for row in bins)
