"""The table of metrics, and what it makes of summaries as the stages write them."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest

from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.probe import Labelled, Probe, Splits
from headstart.study import gradients, metrics, rows
from tests.study.test_report import BOTH, DIGITS

TEN = "top1 few5 knn20 ece val_loss autoencoder_test_mse top1_untrained top1_calibrated top1_pixels few5_untrained"


def test_numbers_are_metric_major_with_their_mean():
    table = metrics.gather(BOTH)
    assert list(table["top1"]) == ["mean", "digits", "mine"]
    assert table["top1"] == pytest.approx({"mean": 0.71, "digits": 0.96, "mine": 0.46})
    assert table["top1_untrained"] == pytest.approx({"mean": 0.655, "digits": 0.9, "mine": 0.41})
    assert table["top1_majority"] == pytest.approx({"mean": 0.15, "digits": 0.1, "mine": 0.2})
    assert table["val_loss"] == {"mean": 4.0, "digits": 3.25, "mine": 4.75}
    assert list(table) == sorted(table)


def test_numbers_that_a_dataset_lacks_are_left_out_of_it_and_of_the_mean():
    table = metrics.gather(BOTH)
    assert table["autoencoder_test_mse"] == {"mean": 0.02, "digits": 0.02}
    assert table["top5"] == {"mean": 0.9, "mine": 0.9}


def test_numbers_hold_all_that_was_promised():
    """Issue 2: at least these."""
    promised = {"top1", "top1_untrained", "top1_majority", "few5", "few5_untrained", "macro_f1", "train_loss"}
    assert {*promised, "val_loss", "autoencoder_test_mse"} <= set(metrics.gather({"digits": DIGITS}))
    assert all(list(row) == ["digits"] for row in metrics.gather({"digits": DIGITS}).values()), "no mean of one"


def test_what_is_no_result_is_no_metric():
    table = metrics.gather(BOTH)
    assert not {"strength_untrained", "val_top1_untrained", "autoencoder_val_mse"} & set(table)
    summary = copy.deepcopy(DIGITS)
    summary["probe"]["details"] = {"trained": {"few1_low": 0.3}}
    assert set(metrics.gather({"digits": summary})) == set(metrics.gather({"digits": DIGITS}))


def test_every_score_of_an_evaluation_is_in_the_table():
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(6), 20)
    splits = [Labelled(random.standard_normal((120, 3)).astype(np.float32), labels) for _ in range(3)]
    rest = {"layers": [], "datasets": [], "finetune_epochs": 0}
    recipe = Probe(protocol="paper", strengths=(0.1,), few_labels=(1, 5), few_shares=(0.5, 0.125), few_draws=2, **rest)
    scores = evaluate(Splits(*splits), recipe, num_classes=6, seed=0).scores
    assert {"few12_5pct", "few12_5pct_std", "top1_converged", "top5", "knn200", "ece"} <= set(scores)
    table = metrics.gather({"x": {"probe": {"trained": scores}, "baselines": dict.fromkeys(metrics.BASELINES, scores)}})
    assert {name: table[name]["x"] for name in scores} == scores
    judged = {name for name in scores if name not in ("val_top1", "strength")}
    assert set(table) - set(scores) == {f"{name}_{start}" for name in judged for start in metrics.BASELINES}


def test_other_datasets_and_first_steps_are_in_the_table():
    other = {"top1": 0.5, "knn20": 0.4, "top1_zero_shot": 0.3, "macro_f1": 0.2}
    early = gradients.early([{"dataset": "x", "gradient_ratio": "0.1", "hidden_saturated": "0.5"}])["x"]
    transfer = {"digits_m": {"trained": other, "untrained": {"top1": 0.25, "knn20": 0.1}, "num_test": 3}}
    table = metrics.gather({"x": {"transfer": transfer, "early": early}})
    assert {name: row["x"] for name, row in table.items()} == {
        "top1_on_digits_m": 0.5,
        "top1_on_digits_m_untrained": 0.25,
        "knn20_on_digits_m": 0.4,
        "top1_zero_shot_on_digits_m": 0.3,
        "early_gradient_ratio": pytest.approx(0.1),
        "early_saturated": 0.5,
    }


def test_every_name_in_a_metrics_file_is_found_with_its_title():
    for key in metrics.gather(BOTH):
        assert metrics.find(key).key == key
    titles = {
        "few12_5pct_std_untrained": "12.5 % of the labels, deviation over draws, untrained",
        "top1_hidden2": "top-1, hidden layer 2",
        "top1_on_a_untrained": "untrained, on a",
        "knn20_untrained": "20 nearest neighbours, untrained",
        "few5_pixels": "5 labels per class, raw pixels",
        "top1_calibrated": "calibrated",
    }
    assert {key: metrics.find(key).title for key in titles} == titles
    for key in ("top2", "few", "", "wall_seconds"):
        with pytest.raises(KeyError):
            metrics.find(key)


def test_ten_are_watched_and_the_fewest_labels_stand_for_five():
    free = ["rankme", "view_top1", "view_top1_untrained"]  # where there are no labels, and so none of most others
    assert sorted(metric.key for metric in metrics.METRICS if metric.watched) == sorted([*TEN.split(), *free])
    scores = {"few1": 0.1, "few10": 0.2, "few10_std": 0.3, "knn20": 0.4, "macro_f1": 0.5, "ece": 0.6, "top1": 0.7}
    table = metrics.gather({"x": {"probe": {"trained": scores}, "baselines": {"untrained": scores}}})
    assert metrics.watched(table) == ["top1", "few1", "knn20", "ece", "top1_untrained", "few1_untrained"]
    assert set(metrics.watched(metrics.gather(BOTH))) == set(TEN.split()) - {"knn20", "ece"}


def test_scores_without_labels_are_watched_where_there_are_no_others():
    labelled = {"probe": {"trained": {"top1": 0.9, "view_top1": 0.4, "rankme": 7.0, "lidar_output": 3.0}}}
    free = {"probe": {"trained": {"view_top1": 0.5, "rankme": 8.0}}}
    table = metrics.gather({"x": labelled})
    assert metrics.watched(table) == ["top1"] and table["lidar_output"] == {"x": 3.0}
    assert metrics.watched(metrics.gather({"y": free})) == ["view_top1", "rankme"]
    assert metrics.watched(metrics.gather({"x": labelled, "y": free})) == ["top1", "view_top1", "rankme"]


def test_columns_and_names_are_unique_and_rows_have_the_columns():
    keys = [metric.key for metric in metrics.METRICS if metric.key]
    assert len(keys) == len(set(keys)) and all("." not in key for key in keys)
    columns = [metric.column for metric in metrics.METRICS if metric.column]
    assert len(columns) == len(set(columns)) and set(columns) <= set(rows.COLUMNS)
    assert metrics.COLUMNS["probe_test_top1"] == "top1" and metrics.COLUMNS["probe_few10"] == "few10"
    for column in columns:
        bounds = rows.COLUMNS[column].bounds
        assert metrics.is_share(column) == (bounds is not None and (bounds.low, bounds.high) == (0, 1))
    assert not metrics.is_share("wall_seconds") and not metrics.is_share("")


def test_the_table_is_cheap_to_import():
    code = "import sys, headstart.study.metrics; print([name for name in sys.modules if '.' not in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "numpy"} & set(re.findall(r"\w+", done.stdout))
