"""Whether runs can tell: on synthetic runs whose start is known, and what void controls make of verdicts."""

import math

import numpy as np
import pandas as pd
import pytest

from headstart.study import rows
from headstart.study.claims import evaluate, sensitivity
from headstart.study.claims.verdict import CANNOT_TELL, SUPPORTED
from tests.study.runs import ARMS, make

PERMUTED = ("autoencoder_permuted", True)


def runs_above(untrained: float, calibrated: float, pixels: float, arms=ARMS, **grid) -> pd.DataFrame:
    """Runs of 0.8, two points more for the frozen autoencoder; what needs no training has these levels, and spread."""
    runs = make(lambda row: 0.8 + 0.02 * (row["projector_init"] == "autoencoder"), arms, **grid)
    for name, level in (("untrained", untrained), ("calibrated", calibrated), ("pixels", pixels)):
        runs[f"probe_{name}_top1"] = level + 0.002 * runs["seed"]
    return runs


def the(runs: pd.DataFrame, margin: float = 1.0, score: str = "top1") -> sensitivity.Assay:
    (assay,) = sensitivity.assays(rows.judged_by(runs, score), score, margin)
    return assay


def test_simclr_is_the_random_trainable_arm_and_must_clear_the_highest_of_all_that_needs_no_training():
    assay = the(runs_above(0.7, 0.5, 0.6))
    assert (assay.arm, assay.passes) == ("random (trainable)", True)
    assert assay.level == pytest.approx(0.8, abs=0.002)
    gains = {gain.baseline: gain for gain in assay.gains}
    assert gains["untrained"].level == pytest.approx(0.704)
    assert gains["untrained"].value == pytest.approx(9.6, abs=0.1)
    assert gains["untrained"].low < 9.6 < gains["untrained"].high
    assert "SimCLR minus untrained, the highest of what needs no training: +9." in assay.reason
    for levels, name in (((0.7, 0.5, 0.79), "raw pixels"), ((0.3, 0.81, 0.5), "calibrated")):
        failing = the(runs_above(*levels))
        assert failing.passes is False
        assert f"SimCLR minus {name}, the highest" in failing.reason and "not above the margin of 1" in failing.reason


def test_the_margin_is_of_the_score_and_the_whole_interval_must_lie_above_it():
    runs = runs_above(0.782, 0.5, 0.5)  # 1.4 points below, with a spread between seeds
    assert the(runs, margin=0.3).passes and the(runs, margin=2.0).passes is False
    gain = the(runs).gains[0]
    assert gain.low < 1.4 < gain.high
    assert the(runs, margin=gain.low - 1e-6).passes and the(runs, margin=gain.low + 1e-6).passes is False


def test_two_seeds_have_no_interval_and_so_no_positive_control():
    assay = the(runs_above(0.3, 0.3, 0.3, seeds=(0, 1)))
    assert assay.passes is False and "points from 2 seeds: no interval" in assay.reason
    assert math.isnan(assay.gains[0].low)


def test_what_rows_do_not_hold_is_said_and_where_they_hold_nothing_it_is_unknown():
    partly = runs_above(0.7, 0.5, 0.6).drop(columns=["probe_calibrated_top1", "probe_pixels_top1"])
    assay = the(partly)
    assert assay.passes and assay.reason.endswith("The rows do not hold: calibrated, raw pixels.")
    nothing = the(partly.drop(columns="probe_untrained_top1"))
    assert nothing.passes is None and "whether these runs can tell is unknown" in nothing.reason
    assert evaluate(partly.drop(columns="probe_untrained_top1"), ["C1"])[0].everything.verdict == SUPPORTED


def test_runs_of_one_start_share_its_baselines():
    runs = runs_above(0.7, 0.5, 0.6)
    others = runs["projector_init"] == "autoencoder"
    runs.loc[~others, ["probe_untrained_top1", "probe_calibrated_top1", "probe_pixels_top1"]] = np.nan
    assert the(runs).gains == the(runs_above(0.7, 0.5, 0.6)).gains


def test_the_noise_floor_is_the_pair_of_equal_layers():
    arms = [*ARMS, PERMUTED]
    noise = the(runs_above(0.5, 0.5, 0.5, arms)).noise
    assert noise is not None and noise.contrast == "autoencoder (frozen) - autoencoder_permuted (frozen)"
    assert noise.value == pytest.approx(2.0, abs=0.2) and noise.low < 2.0 < noise.high
    assert the(runs_above(0.5, 0.5, 0.5)).noise is None


def test_a_failing_control_voids_every_verdict_with_its_reason_and_keeps_the_numbers():
    for answer in evaluate(runs_above(0.795, 0.5, 0.5), ["C1", "C9"]):
        assert answer.everything.verdict == CANNOT_TELL
        assert answer.everything.reason.startswith("These runs cannot tell: digits, top1: SimCLR minus untrained")
    (answer,) = evaluate(runs_above(0.795, 0.5, 0.5), ["C1"])
    assert answer.everything.points_to == SUPPORTED and answer.everything.effects
    assert evaluate(runs_above(0.7, 0.5, 0.5), ["C1"])[0].everything.verdict == SUPPORTED


def test_a_dataset_that_cannot_tell_is_left_out_where_another_can():
    runs = pd.concat([runs_above(0.5, 0.5, 0.5), runs_above(0.9, 0.5, 0.5).assign(dataset="easy")], ignore_index=True)
    runs.loc[(runs["dataset"] == "easy") & (runs["projector_init"] == "autoencoder"), "probe_test_top1"] -= 0.2
    (answer,) = evaluate(runs, ["C1"])
    assert (
        answer.everything.verdict == SUPPORTED
        and "Left out: easy, top1: SimCLR minus untrained" in answer.everything.reason
    )
    assert {effect.dataset for effect in answer.everything.effects} == {"all", "digits"}


def test_another_score_has_its_own_control():
    runs = runs_above(0.795, 0.5, 0.5)
    runs["probe_few5"] = runs["probe_test_top1"] - 0.1
    for name in ("untrained", "calibrated", "pixels"):
        runs[f"probe_{name}_few5"] = 0.4
    assert the(runs).passes is False and the(runs, score="few5").passes
    (answer,) = evaluate(runs, ["C1"], score="few5")
    assert (answer.everything.verdict, answer.score) == (SUPPORTED, "few5")


# ---- the paper's three signs of failure ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "poor", "words"), [(0.01, False, "10% (not poor"), (0.06, True, "60% (poor, no benefit")]
)
def test_a_poor_autoencoder_is_known_by_the_mean_images_error(error, poor, words):
    runs = make(lambda row: 0.8).assign(autoencoder_mean_image_mse=0.1)
    runs["autoencoder_test_mse"] = np.where(runs["projector_init"] == "autoencoder", error, np.nan)
    there, sentence = sensitivity.signs_of_failure(runs, 1.0)[0]
    assert there is poor and words in sentence
    unknown = sensitivity.signs_of_failure(runs.assign(autoencoder_mean_image_mse=math.nan), 1.0)[0]
    assert unknown[0] is False and "the mean image's is not in these rows" in unknown[1]


def test_gaps_and_arms_below_the_random_head_are_named_with_their_numbers():
    arms = [("autoencoder", True), ("autoencoder", False), ("random", True), ("random", False)]
    points = {("autoencoder", True): 0.03, ("random", True): -0.04}
    runs = make(lambda row: 0.8 + points.get((row["projector_init"], row["projector_frozen"]), 0.0), arms)
    signs = [words for there, words in sensitivity.signs_of_failure(runs, 1.0) if there]
    assert [sign.partition(":")[0] for sign in signs] == [
        "Gap autoencoder (frozen) - autoencoder (trainable)",
        "Gap random (frozen) - random (trainable)",
        "Worse than the random head",
    ]
    assert "random (frozen) - random (trainable): -3.99" in signs[2] and signs[2].endswith(": worse.")
    calm = sensitivity.signs_of_failure(make(lambda row: 0.8, arms), 1.0)
    assert not any(there for there, _ in calm) and calm[-1][1].startswith("No arm is worse")
    assert "no matched runs" in sensitivity.signs_of_failure(make(lambda row: 0.8), 1.0)[1][1]
