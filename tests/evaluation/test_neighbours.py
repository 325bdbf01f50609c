"""Nearest neighbours against scikit-learn's, on digits and on the ways to cut the work."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from headstart.evaluation import neighbours
from headstart.evaluation.neighbours import nearest_neighbours


def scikit_learns(train, test, k: int) -> np.ndarray:
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    return model.fit(train.features.astype(np.float64), train.labels).predict(test.features.astype(np.float64))


@pytest.mark.parametrize("tile", [1, 7 * 900, 2**24])
def test_neighbours_are_scikit_learns(labelled, monkeypatch, tile):
    monkeypatch.setattr(neighbours, "TILE", tile)
    train, test = labelled(0, 900), labelled(900, 1300)
    found = nearest_neighbours(train.features, train.labels, test.features, 10)
    assert list(found) == [10, 20, 200]
    for k, classes in found.items():
        assert (classes == scikit_learns(train, test, k)).all()
    assert (found[20] != found[200]).any()
    assert (found[20] == test.labels).mean() > 0.95


def test_votes_are_weighted_by_similarity():
    """One neighbour at 0 degrees outvotes two at 30, exp(1 / 0.07) against 2 exp(0.866 / 0.07), and not two at 5."""
    degrees = np.deg2rad([0, 30, -30])
    train = np.stack([np.cos(degrees), np.sin(degrees)], 1).astype(np.float32)
    test = np.array([[2.0, 0.0]], np.float32)  # length does not count
    assert nearest_neighbours(train, np.array([0, 1, 1]), test, 2, [3])[3].tolist() == [0]
    near = np.deg2rad([0, 5, -5])
    train = np.stack([np.cos(near), np.sin(near)], 1).astype(np.float32)
    assert nearest_neighbours(train, np.array([0, 1, 1]), test, 2, [3])[3].tolist() == [1]
    assert nearest_neighbours(train, np.array([0, 1, 1]), test, 2, [1])[1].tolist() == [0]


def test_more_neighbours_than_rows_are_all_rows(labelled):
    train, test = labelled(0, 50), labelled(900, 1000)
    found = nearest_neighbours(train.features, train.labels, test.features, 10, [50, 200])
    assert (found[200] == found[50]).all()
    assert (found[200] == scikit_learns(train, test, 50)).all()


def test_features_of_zeros_are_no_error():
    zeros = np.zeros((4, 3), np.float32)
    assert nearest_neighbours(zeros, np.array([1, 0, 1, 1]), zeros, 2, [4])[4].tolist() == [1] * 4
