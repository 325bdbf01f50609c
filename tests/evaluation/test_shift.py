"""Other datasets: the same classes in another order, and digits that a probe has not seen."""

import numpy as np
import pytest

from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.probe import Labelled, Linear, Splits
from headstart.evaluation.shift import same_classes, transfer_scores, zero_shot_top1
from tests.evaluation.recipe import recipe


def test_classes_are_matched_by_name():
    assert same_classes(["cat", "dog", "owl"], ["owl", "cat", "dog"]).tolist() == [2, 0, 1]
    assert same_classes(["cat", "dog"], ["cat", "dog", "owl"]) is None
    assert same_classes(["cat", "dog"], ["cat", "dog "]) is None


def test_zero_shot_translates_labels():
    probe = Linear(np.eye(3), np.zeros(3), np.zeros(3), np.ones(3))  # answers the largest feature
    features = np.eye(3, dtype=np.float32)
    places = same_classes(["cat", "dog", "owl"], ["owl", "cat", "dog"])
    assert zero_shot_top1(probe, Labelled(features, np.array([1, 2, 0])), places) == 1
    assert zero_shot_top1(probe, Labelled(features, np.array([1, 2, 2])), places) == pytest.approx(2 / 3)


def test_scores_are_those_of_the_evaluation_at_home(labelled):
    splits = Splits(labelled(0, 300), labelled(300, 400), labelled(400, 600))
    home = evaluate(splits, recipe(few_labels=[]), num_classes=10, seed=0)
    scores = transfer_scores(splits, [0.001, 0.1], num_classes=10)
    assert scores == {name: home.scores[name] for name in scores}
    assert {"top1", "macro_f1", "val_top1", "ece", "knn20", "knn200"} <= set(scores)
    places = same_classes([str(k) for k in range(10)], [str(k) for k in range(10)])
    assert zero_shot_top1(home.probe, splits.test, places) == scores["top1"]
