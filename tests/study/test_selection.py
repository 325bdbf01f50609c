"""Whether a score without labels picks the better backbone: on simulated runs whose truth is known."""

import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from headstart.__main__ import main
from headstart.commands.results import write_label_free
from headstart.errors import UserError
from headstart.study import rows, selection
from headstart.study.statistics import crossed_weights, percentiles, weighted_rank_correlations
from tests.checkouts import ROOT
from tests.study.runs import ARMS, make


def simulated(num_settings: int, num_seeds: int, r: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies (settings, seeds) of effects of setting, seed and noise, and a score whose effects correlate by r."""
    random = np.random.default_rng(seed)
    shapes = (num_settings, 1), (1, num_seeds), (num_settings, num_seeds)
    pairs = zip((0.5, 0.2, 0.3), shapes, strict=True)
    parts = sum(np.sqrt(share) * random.standard_normal((*shape, 2)) for share, shape in pairs)
    return 0.8 + 0.01 * parts[..., 0], 9 + r * parts[..., 0] + math.sqrt(1 - r * r) * parts[..., 1]


def runs_of(num_settings: int = 12, num_seeds: int = 5, **columns) -> pd.DataFrame:
    """Judged runs with `simulated` accuracies and probe_rankme; columns: name -> function of the accuracy."""
    accuracies, other = simulated(num_settings, num_seeds, 0.6, 0)
    records = [
        {
            "dataset": "digits",
            "projector_init": "random",
            "projector_frozen": False,
            "projector_hidden_dim": 16 + setting,
            "projector_out_dim": 8,
            "projector_activation": "relu",
            "standardize": True,
            "seed": number,
            "protocol": "p",
            "train_loss": 1 + accuracy,
            "val_loss": 5 - accuracy,
            "probe_test_top1": accuracy,
            "probe_rankme": other[setting, number],
            **{name: function(accuracy) for name, function in columns.items()},
        }
        for (setting, number), accuracy in np.ndenumerate(accuracies)
    ]
    table = rows.finished(rows.to_rows(records, "simulated"), "simulated")
    return selection.pooled([rows.judged_by(table.runs, "top1")])


def by_column(found) -> dict[str, selection.Ranked]:
    return {row.metric.column: row for row in found}


def test_a_monotone_function_of_the_accuracy_ranks_perfectly_whatever_its_direction():
    table = runs_of(
        probe_lidar=lambda accuracy: math.exp(9 * accuracy),
        probe_alignment=lambda accuracy: 1 - accuracy,  # less is better
        probe_alpha_req=lambda accuracy: 2 - accuracy,  # the nearer to 1 the better
        probe_effective_rank=lambda accuracy: 2 - accuracy,  # more should be better, and is not
    )
    found = by_column(selection.ranked(table))
    for column in ("probe_lidar", "probe_alignment", "probe_alpha_req", "val_loss"):
        row = found[column]
        assert row.rho == pytest.approx(1) and row.picks == 1, column
        assert row.rho_interval.low == pytest.approx(1) and row.picks_interval.low == 1
    assert found["probe_effective_rank"].rho == pytest.approx(-1) and found["probe_effective_rank"].picks == 0
    assert (found["val_loss"].num_runs, found["val_loss"].num_seeds, found["val_loss"].num_settings) == (60, 5, 12)
    assert found["val_loss"].num_pairs == 5 * 12 * 11 / 2


def test_losses_of_other_kinds_are_not_ranked_beside_nt_xent():
    table = runs_of()
    other = table.assign(loss="vicreg", projector_hidden_dim=table["projector_hidden_dim"] + 100, val_loss=20.0)
    found = by_column(selection.ranked(selection.pooled([table, other])))
    assert (found["val_loss"].num_runs, found["probe_rankme"].num_runs) == (60, 120)
    assert found["val_loss"].rho == pytest.approx(1) and found["val_loss"].metric.title == "val NT-Xent"


def test_of_a_run_in_two_tables_the_row_with_scores_counts():
    table = runs_of()
    older = table.assign(probe_rankme=math.nan)
    for tables in ([older, table], [table, older]):
        kept = selection.pooled(tables)
        assert len(kept) == len(table) and kept["probe_rankme"].notna().all()


def test_a_draw_without_any_run_says_nothing():
    nothing = weighted_rank_correlations([1, 2, 3], [1, 3, 2], np.array([[0, 0, 0], [1, 1, 1]]))
    assert math.isnan(nothing[0]) and nothing[1] == pytest.approx(0.5)


def test_a_random_score_covers_chance_and_a_constant_one_says_nothing():
    random = np.random.default_rng(3)
    table = runs_of(probe_lidar=lambda accuracy: random.random(), probe_alignment=lambda accuracy: 0.5)
    found = by_column(selection.ranked(table))
    row = found["probe_lidar"]
    assert row.rho_interval.low < 0 < row.rho_interval.high and row.picks_interval.low < 0.5 < row.picks_interval.high
    assert math.isnan(found["probe_alignment"].rho) and found["probe_alignment"].picks == 0.5
    assert math.isnan(found["probe_alignment"].rho_interval.low)
    assert "–" in selection.markdown([found["probe_alignment"]])


def test_rho_is_scipys_and_pairs_are_counted_one_by_one():
    table = runs_of(num_settings=6, num_seeds=4)
    table.loc[:11, "protocol"] = "q"
    table.loc[3, "score"] = table.loc[0, "score"]
    row = by_column(selection.ranked(table))["probe_rankme"]
    assert row.rho == pytest.approx(spearmanr(table["probe_rankme"], table["score"]).statistic)
    right = number = 0
    for _, own in table.groupby(["protocol", "seed"]):
        pairs = own[["score", "probe_rankme"]].to_numpy()
        for i in range(len(pairs)):
            for j in range(i):
                if pairs[i, 0] != pairs[j, 0]:
                    number += 1
                    right += (pairs[i, 0] > pairs[j, 0]) == (pairs[i, 1] > pairs[j, 1])
    assert row.num_pairs == number and row.picks == pytest.approx(right / number)


def test_weighted_correlations_are_those_of_repeated_points():
    random = np.random.default_rng(1)
    x, y = random.integers(0, 6, 40).astype(float), random.random(40)
    weights = random.integers(0, 4, (20, 40)).astype(float)
    found = weighted_rank_correlations(x, y, weights)
    for value, counts in zip(found, weights.astype(int), strict=True):
        assert value == pytest.approx(spearmanr(np.repeat(x, counts), np.repeat(y, counts)).statistic)
    assert np.isnan(weighted_rank_correlations(np.ones(40), y, weights)).all()


@pytest.mark.parametrize(("num_settings", "num_seeds"), [(4, 3), (12, 5)])
def test_intervals_hold_the_true_correlation_at_least_as_often_as_they_say(num_settings, num_seeds):
    """The true rho of normal effects that all correlate by r; resampling seeds alone holds it far less often."""
    true, times, draws = 6 / math.pi * math.asin(0.6 / 2), 150, 200
    weights = crossed_weights(num_settings, num_seeds, draws)
    crossed = (weights[0][:, :, None] * weights[1][:, None]).reshape(draws, -1)
    of_seeds = np.repeat(weights[1][:, None], num_settings, 1).reshape(draws, -1)
    held = dict.fromkeys(("crossed", "seeds"), 0.0)
    for seed in range(times):
        accuracy, score = (part.ravel() for part in simulated(num_settings, num_seeds, 0.6, seed))
        for name, counts in (("crossed", crossed), ("seeds", of_seeds)):
            interval = percentiles(weighted_rank_correlations(score, accuracy, counts))
            held[name] += (interval.low <= true <= interval.high) / times
    assert held["crossed"] >= 0.93 and held["seeds"] < 0.8


def test_few_clusters_give_no_interval_and_few_runs_no_number():
    two = by_column(selection.ranked(runs_of(num_settings=12, num_seeds=2)))["probe_rankme"]
    three = by_column(selection.ranked(runs_of(num_settings=3, num_seeds=9)))["probe_rankme"]
    for row in (two, three):
        assert not math.isnan(row.rho) and math.isnan(row.rho_interval.low) and math.isnan(row.picks_interval.low)
    assert "no interval" in selection.markdown([two])
    with pytest.raises(UserError, match=r"digits: 12 runs that did not fail, and 20 with a score are needed"):
        selection.ranked(runs_of(num_settings=4, num_seeds=3))


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """`called(*words)`: what a command prints in a folder with a grid of digits."""
    (tmp_path / "sweeps" / "results").mkdir(parents=True)
    shutil.copy(ROOT / "sweeps" / "freezing.yaml", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["headstart", *words])
        main()
        return capsys.readouterr().out

    return call


def write(runs: pd.DataFrame) -> None:
    text = rows.to_csv(runs, ["sweeps/freezing.yaml at commit 0123456789: 60 of 60 cells", "1.0 hours of cells"])
    Path("sweeps/results/freezing.csv").write_text(text)


def three_arms(with_scores: bool = True) -> pd.DataFrame:
    """75 runs of five activations and three arms whose few5 the features' LiDAR follows."""
    arms, activations = (*ARMS, ("random", True)), ("relu", "tanh", "silu", "elu", "gelu")
    runs = make(
        lambda row: 0.8 + 0.004 * row["seed"] + 0.01 * row["projector_frozen"], arms, out=(32,), activations=activations
    )
    runs["probe_few5"], runs["probe_knn20"] = runs["probe_test_top1"] - 0.2, runs["probe_test_top1"]
    if with_scores:
        runs["probe_lidar"], runs["probe_lidar_output"] = 100 * runs["probe_few5"], -runs["probe_few5"] % 1
    return runs


def test_a_page_and_a_figure_are_made_where_rows_have_the_scores(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    key = ("digits", "few5")
    write_label_free({key: selection.pooled([rows.judged_by(three_arms(with_scores=False), "few5")])})
    said = capsys.readouterr().out
    assert "docs/results/label_free.md: not made. Fewer than 20 runs have scores without labels: digits by few5" in said
    assert not Path("docs").exists()
    few, other = rows.judged_by(three_arms(), "few5"), ("x", "top1")
    lossy = rows.judged_by(three_arms(with_scores=False), "knn20")
    write_label_free({key: selection.pooled([few, few, lossy]), other: few[:9], ("y", "knn20"): lossy})
    assert capsys.readouterr().out == "docs/results/label_free.md\n"
    page, drawing = (Path(f"docs/results/label_free.{kind}").read_text() for kind in ("md", "svg"))
    assert "## digits, by few5\n\n75 runs, 5 seeds, 15 settings. Of 3 scores without labels 2 rank" in page
    assert re.search(
        r"^\| LiDAR \| more \| \+1\.00 \[1\.00, 1\.00\] \| \+50\.00 \[50\.00, 50\.00\] \|", page, re.MULTILINE
    )
    assert re.search(r"^\| LiDAR, projector's output \| more \| -1\.00 \[", page, re.MULTILINE)
    width = float(re.search(r'width="(\d+)"', drawing)[1])
    assert width <= 440, "text of 12 px is 10.6 px or more on a telephone 390 px wide"
    assert "\n\nFewer than 20 runs have scores without labels: x by top1, y by knn20.\n\nAll runs" in page
    assert re.search(r"^\| y by knn20 \| .* \| 75 \|$", page, re.MULTILINE)
    assert "LiDAR, features +1.00 [1.00, 1.00]" in drawing and "prefers-color-scheme: dark" in drawing


def test_the_command_prints_a_table_of_any_rows_by_the_grids_endpoint(called):
    write(three_arms())
    shown = called("scores", "--rows", "sweeps/results/freezing.csv")
    assert shown.startswith("# digits, by few5\n\n75 runs") and "| LiDAR | more | +1.00" in shown
    assert "| val top-1 | more |" in shown
    write(three_arms()[:15])
    with pytest.raises(SystemExit) as end:
        called("scores", "--rows", "sweeps/results/freezing.csv", "--score", "few10")
    assert "--score few10: no run has it" in str(end.value.code)
    with pytest.raises(SystemExit) as end:
        called("scores", "--rows", "sweeps/results/freezing.csv")
    assert str(end.value.code).startswith("error: digits: 15 runs that did not fail, and 20 with a score are needed")
