"""Calibration by hand."""

import numpy as np
import pytest

from headstart.evaluation.calibration import expected_calibration_error, reliability


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities)) + 7  # a shift changes no softmax


def test_bins_and_error_by_hand():
    """Confidences .9, .9 (one right), .57 (right), .55 (wrong): |.5 - .9| * 2/4 + |1 - .57| / 4 + |0 - .55| / 4."""
    logits = logits_of([[0.9, 0.1], [0.1, 0.9], [0.57, 0.43], [0.45, 0.55]])
    bins = reliability(logits, np.array([0, 0, 0, 0]))
    assert len(bins) == 15
    assert [row.num for row in bins] == [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0]
    assert (bins[13].confidence, bins[13].accuracy) == (pytest.approx(0.9), 0.5)
    assert (bins[8].confidence, bins[8].accuracy) == (pytest.approx(0.56), 0.5)
    assert (bins[8].low, bins[8].high) == (pytest.approx(8 / 15), pytest.approx(9 / 15))
    assert expected_calibration_error(bins) == pytest.approx(0.4 * 0.5 + 0.06 * 0.5)
    narrow = reliability(logits, np.array([0, 0, 0, 0]), num_bins=100)
    assert expected_calibration_error(narrow) == pytest.approx(0.4 * 0.5 + 0.43 / 4 + 0.55 / 4)


def test_calibrated_and_sure_probes():
    right = reliability(np.array([[900.0, 0.0], [0.0, 900.0]]), np.array([0, 1]))
    assert right[-1].num == 2 and expected_calibration_error(right) == 0
    wrong = reliability(np.array([[900.0, 0.0], [0.0, 900.0]]), np.array([1, 0]))
    assert expected_calibration_error(wrong) == 1
    even = reliability(np.zeros((4, 4)), np.arange(4))  # a quarter sure, a quarter right
    assert expected_calibration_error(even) == pytest.approx(0)
    assert even[3].num == 4  # (0.2, 0.267]


def test_confidence_on_an_edge_belongs_to_the_lower_bin():
    bins = reliability(np.zeros((1, 2)), np.array([0]), num_bins=2)
    assert [row.num for row in bins] == [1, 0]
