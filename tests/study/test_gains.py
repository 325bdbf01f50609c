"""What a factor changes, on runs whose truth is known."""

import math
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from headstart.__main__ import main
from headstart.errors import UserError
from headstart.study import gains, rows
from headstart.study.pdf import in_light
from tests.study.runs import make

EFFECTS = {"relu": 0.01, "tanh": 0.03}
ARMS = [("autoencoder", True), ("orthogonal", True), ("random", False)]


def accuracy(row) -> float:
    gain = EFFECTS[row["projector_activation"]] if row["projector_init"] == "autoencoder" else 0.0
    return 0.8 + gain + 0.02 * (row["projector_activation"] == "tanh") + 0.001 * row["seed"]


@pytest.fixture(scope="module")
def runs():
    return make(accuracy, ARMS, noise=0.0)


def test_gains_are_means_of_matched_differences(runs):
    table = gains.gains(runs, by=["projector_activation"]).set_index(["level", "projector_activation"])
    for activation, effect in EFFECTS.items():
        row = table.loc[("autoencoder (frozen)", activation)]
        assert row["gain"] == pytest.approx(100 * effect)
        assert row["first"] - row["second"] == pytest.approx(100 * effect)
        assert (row["num_pairs"], row["num_seeds"]) == (15, 5)  # three widths
        assert table.loc[("orthogonal (frozen)", activation), "gain"] == pytest.approx(0)
    assert len(table) == 4
    whole = gains.gains(runs).set_index("level")
    assert whole.loc["autoencoder (frozen)", "gain"] == pytest.approx(2)


def test_another_factor_is_compared_within_each_arm(runs):
    table = gains.gains(runs, "projector_activation", "relu").set_index("arm")
    assert table.loc["autoencoder (frozen)", "gain"] == pytest.approx(4)
    assert table.loc["random (trainable)", "gain"] == pytest.approx(2)
    assert set(table["level"]) == {"tanh"}


def test_ladders_kinds_and_frozen_layers_are_factors():
    """On runs whose truth is known: 1 point per layer, 3 for radial functions, 2 where layers 1 and 2 are kept."""
    parts = []
    for kind, number in (("mlp", 0), ("mlp", 2), ("mlp", 3), ("rbf", 2)):
        both = [("random", False)] + ([("random", "layers 1+2")] if number else [])
        made = make(
            lambda row, kind=kind, number=number: (
                0.8 + 0.01 * number + 0.03 * (kind == "rbf") + 0.02 * (row["projector_frozen"] == "layers 1+2")
            ),
            both,
            noise=0.0,
        )
        parts.append(made.assign(projector_kind=kind, projector_num_layers=number))
    runs = pd.concat(parts, ignore_index=True)
    ladder = gains.gains(runs, "projector_num_layers", "2").set_index(["arm", "level"])["gain"]
    assert ladder[("random (trainable)", "0")] == pytest.approx(-2)
    assert ladder[("random (layers 1+2 frozen)", "3")] == pytest.approx(1)
    kinds = gains.gains(runs, "projector_kind", "mlp")
    assert kinds["gain"].tolist() == pytest.approx([3, 3]) and set(kinds["level"]) == {"rbf"}
    kept = gains.gains(runs, by=["projector_kind", "projector_num_layers"])
    assert set(kept["level"]) == {"random (layers 1+2 frozen)"} and kept["gain"].tolist() == pytest.approx([2, 2, 2])


def test_the_interval_covers_the_truth_and_a_single_pair_has_none():
    noisy = make(accuracy, ARMS, noise=0.01, seeds=range(8))
    row = gains.gains(noisy).set_index("level").loc["autoencoder (frozen)"]
    assert row["low"] < 2 < row["high"] and row["high"] - row["low"] < 3
    single = gains.gains(make(accuracy, ARMS, seeds=[0], out=[32], activations=["relu"]))
    assert single["low"].isna().all() and single["num_pairs"].eq(1).all()
    assert " no interval |" in gains.markdown(single, gains.ARM, gains.BASELINE)


def test_what_only_one_side_has_may_divide_the_pairs(runs):
    other = runs[runs["projector_init"] == "autoencoder"].assign(autoencoder_arch="conv", autoencoder="other")
    other["probe_test_top1"] += 0.05
    own = runs.assign(autoencoder_arch=np.where(runs["projector_init"] == "autoencoder", "mlp", ""))
    table = gains.gains(pd.concat([own, other], ignore_index=True), by=["autoencoder_arch"])
    found = table[table["level"] == "autoencoder (frozen)"].set_index("autoencoder_arch")["gain"]
    assert found["conv"] - found["mlp"] == pytest.approx(5)


def test_another_score_is_compared_where_it_is_known(runs):
    scored = runs.assign(probe_few5=runs["probe_test_top1"] / 2)
    scored.loc[scored["seed"] == 0, "probe_few5"] = math.nan
    row = gains.gains(scored, score="probe_few5").set_index("level").loc["autoencoder (frozen)"]
    assert row["gain"] == pytest.approx(1) and row["num_seeds"] == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"of": "projector_activatoin"}, "nearest: projector_activation"),
        ({"by": ["sede"]}, "nearest: seed"),
        ({"against": "random (frozen)"}, "no run has it as arm; they have autoencoder"),
        ({"score": "probe_few5"}, "no run has it"),
        ({"score": "train_loss"}, "must be one of top1, few1"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs, options, words):
    with pytest.raises(UserError) as error:
        gains.gains(runs, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_arms_that_never_match_are_told(runs):
    apart = runs.assign(protocol=runs["projector_init"])
    with pytest.raises(UserError, match="nothing to compare"):
        gains.gains(apart)


def test_the_command_prints_the_table_and_draws_the_same_picture_again(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(rows.to_csv(runs, ["made for a test"]))

    def call(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["headstart", "gains", "--rows", "rows.csv", *options])
        main()
        return capsys.readouterr().out

    said = call("--by", "projector_activation", "--figure", "a/gains.svg")
    assert "| tanh | autoencoder (frozen) | 85.20 | 82.20 | +3.00 [" in said and "made for a test" in said
    assert call("--by", "projector_activation", "--figure", "b.svg") == said
    drawn = (tmp_path / "b.svg").read_text()
    assert (tmp_path / "a" / "gains.svg").read_text() == drawn
    label = ElementTree.fromstring(drawn).get("aria-label")
    assert label.startswith("rows.csv points: ") and "autoencoder (frozen), tanh +3.00 [" in label
    assert "orthogonal (frozen), relu +0.00 [" in label
    with pytest.raises(SystemExit, match=r"^error: --figure x\.png: must end in \.svg or \.pdf$"):
        call("--figure", "x.png")


def test_without_further_columns_each_level_is_a_row(runs):
    label = ElementTree.fromstring(gains.drawing(gains.gains(runs), gains.BASELINE, "t")).get("aria-label")
    assert "; orthogonal (frozen) +0.00 [" in label and "autoencoder (frozen) +2.00 [" in label


def test_a_figure_for_a_paper_is_a_pdf_in_light_colours(runs, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cairosvg", reason="make optional, and Debian's libcairo2", exc_type=(ImportError, OSError))
    paper = in_light(gains.drawing(gains.gains(runs), gains.BASELINE, "A title"))
    assert "var(--" not in paper and "@media" not in paper and "#0072b2" in paper
    (tmp_path / "rows.csv").write_text(rows.to_csv(runs))
    words = ["gains", "--rows", str(tmp_path / "rows.csv"), "--format", "latex", "--figure", str(tmp_path / "a.pdf")]
    monkeypatch.setattr(sys, "argv", ["headstart", *words])
    main()
    content = (tmp_path / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(content) > 5000
    assert r"\label{tab:gains-arm}" in capsys.readouterr().out


def test_levels_stand_by_size_and_what_is_missing_is_named(runs):
    sizes = runs.assign(projector_out_dim=runs["projector_out_dim"] * 0 + 8)
    wide = pd.concat([sizes.assign(projector_out_dim=size) for size in (128, 16, 64)], ignore_index=True)
    found = gains.gains(wide, "projector_out_dim", "16")
    assert list(dict.fromkeys(found["level"])) == ["64", "128"]
    assert gains.level("", "autoencoder_arch") == "none" and gains.level("", "autoencoder_dataset") == "own"


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_it_is_a_table_that_fits(runs, tmp_path, monkeypatch, capsys, width):
    (tmp_path / "rows.csv").write_text(rows.to_csv(runs))
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("headstart.commands.terminal.is_terminal", lambda: True)
    monkeypatch.setattr(sys, "argv", ["headstart", "gains", "--rows", str(tmp_path / "rows.csv")])
    main()
    shown = capsys.readouterr().out
    table = shown.partition("Matched runs")[0]
    assert max(map(len, shown.splitlines())) <= width
    assert "pairs" in table and "+2.00 [1.60, 2.33]" in table and ("accuracy" in table) == (width > 100)
