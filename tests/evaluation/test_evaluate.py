"""All numbers of one backbone, on digits' pixels as features."""

import numpy as np
import pytest

from headstart.evaluation.calibration import expected_calibration_error, reliability
from headstart.evaluation.evaluate import evaluate, evaluate_layers, num_fits
from headstart.evaluation.few_labels import few_label_draws, student_interval
from headstart.evaluation.neighbours import nearest_neighbours
from headstart.evaluation.probe import Splits, converged_probe, score
from tests.evaluation.recipe import RECIPE, recipe


@pytest.fixture(scope="module")
def splits(labelled):
    return Splits(labelled(0, 300), labelled(300, 400), labelled(400, 600))


def test_evaluation_reports_the_test_split(splits):
    train, val, test = splits.train, splits.val, splits.test
    fits = []
    evaluation = evaluate(splits, RECIPE, num_classes=10, seed=0, on_fit=lambda: fits.append(1))
    assert evaluation.tested is test
    chosen = converged_probe(train, val, RECIPE.strengths, 10)
    logits = chosen.probe.logits(test.features)
    expected = score(logits, test.labels)
    few = [
        score(
            converged_probe(train.rows(rows), val, RECIPE.strengths, 10, statistics=train).probe.logits(test.features),
            test.labels,
        )["top1"]
        for rows in few_label_draws(train.labels, 3, 4, seed=0)
    ]
    expected |= {"val_top1": chosen.val_top1, "strength": chosen.strength}
    expected |= {"few3": sum(few) / 4, "few3_std": (sum((x - sum(few) / 4) ** 2 for x in few) / 3) ** 0.5}
    for k, classes in nearest_neighbours(train.features, train.labels, test.features, 10, [10, 20, 200]).items():
        expected[f"knn{k}"] = (classes == test.labels).mean()
    expected["ece"] = expected_calibration_error(reliability(logits, test.labels))
    assert evaluation.scores == pytest.approx(expected)
    assert evaluation.scores["top1"] > evaluation.scores["few3"] > 0.3
    low, high = student_interval(np.array(few))
    assert evaluation.details == pytest.approx({"few3_low": low, "few3_high": high})
    assert sum(row.num for row in evaluation.bins) == 200
    assert len(fits) == num_fits(RECIPE) == 5
    assert evaluate(splits, RECIPE, num_classes=10, seed=0).scores == evaluation.scores


def test_other_few_label_probes_leave_the_first_as_it_is(splits):
    alone = evaluate(splits, recipe(few_labels=[5], few_draws=2), num_classes=10, seed=0).scores
    many = recipe(few_labels=[1, 5, 10], few_shares=[0.1], few_draws=2)
    scores = evaluate(splits, many, num_classes=10, seed=0).scores
    assert {name: scores[name] for name in alone} == alone
    assert set(scores) - set(alone) == {
        *("few1", "few1_std", "few10", "few10_std", "few10pct", "few10pct_std"),
    }
    assert scores["few1"] < scores["few5"] < scores["few10"]
    assert num_fits(many) == 9


def test_evaluation_under_the_papers_protocol(splits):
    evaluation = evaluate(splits, recipe(protocol="paper", strengths=[0.01], few_labels=[]), num_classes=10, seed=0)
    assert len(evaluation.tested.labels) == 40
    assert set(evaluation.scores) == {
        *("top1", "top5", "macro_precision", "macro_recall", "macro_f1", "val_top1", "top1_converged"),
        *("ece", "knn10", "knn20", "knn200"),
    }
    converged = converged_probe(splits.train, splits.val, [0.01], 10)
    expected = score(converged.probe.logits(splits.test.features), splits.test.labels)["top1"]
    assert evaluation.scores["top1_converged"] == expected
    assert evaluation.scores["top1"] < evaluation.scores["top1_converged"]  # it does not converge
    assert sum(row.num for row in evaluation.bins) == 40


def test_one_draw_has_no_deviation_and_no_interval(splits):
    found = evaluate(splits, recipe(strengths=[0.01], few_labels=[2], few_draws=1), num_classes=10, seed=0)
    assert found.scores["few2_std"] == 0.0
    assert found.details == {"few2_low": found.scores["few2"], "few2_high": found.scores["few2"]}


def test_each_layer_has_its_own_probe(splits):
    scores, details = evaluate_layers({"hidden": splits, "output": splits}, RECIPE, num_classes=10)
    chosen = converged_probe(splits.train, splits.val, RECIPE.strengths, 10)
    expected = score(chosen.probe.logits(splits.test.features), splits.test.labels)
    assert scores == {"top1_hidden": expected["top1"], "top1_output": expected["top1"]}
    assert details["output_macro_f1"] == expected["macro_f1"]
    assert details["hidden_val_top1"] == chosen.val_top1
