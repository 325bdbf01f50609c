"""The published figures, and verdicts on synthetic runs whose truth is known."""

import functools
import math

import pytest

from headstart.errors import UserError
from headstart.study import published, rows
from headstart.study.claims import CLAIMS, Answer, Verdict, evaluate
from headstart.study.claims.contrasts import paired_effects
from headstart.study.claims.paper import DEFAULT, PRETRAINED, between
from headstart.study.claims.verdict import (
    BETTER,
    NO_DIFFERENCE,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    WORSE,
    Effect,
    better,
    equal,
    not_worse,
    outcome,
)
from tests.study.runs import ARMS, make, needs_paper

PRIMARY = "autoencoder (frozen) - random (trainable)"
CONTROLS = ("random", "random_matched", "autoencoder_shuffled", "autoencoder_untrained", "orthogonal")


@functools.cache
def on_published(claim: str) -> Verdict:
    folder = needs_paper() / "simclr-ae-results"
    table = rows.finished(rows.to_rows(published.read_runs(folder), "published"), "published")
    return CLAIMS[claim](table.runs, 1.0)


def judge(claim: str, runs, margin: float = 1.0) -> Verdict:
    return evaluate(runs, [claim], margin)[0].everything


def effect(verdict: Verdict, contrast: str, measure: str = "paired mean", dataset: str = "all", interval: str = ""):
    """The one effect of that name; `interval` is how its kind begins."""
    named = [row for row in verdict.effects if (row.contrast, row.measure, row.dataset) == (contrast, measure, dataset)]
    assert named, f"no {measure} of {contrast} on {dataset}"
    return next(row for row in named if row.interval.startswith(interval))


def bounds(row: Effect) -> list[float]:
    return [row.low, row.high]


# ---- the published figures -------------------------------------------------------------------------------------------


def test_published_c1_the_headline_is_a_difference_of_maxima():
    best = {"imagenette": 0.38, "stl10": 2.88, "cifar10": 1.70, "fgvc_aircraft": 1.65, "cifar100": 2.10, "all": 1.74}
    for dataset, points in best.items():
        row = effect(on_published("C1"), PRIMARY, "best minus best", dataset)
        assert row.value == pytest.approx(points, abs=0.006), dataset
        assert row.num_runs == (720 if dataset == "all" else 144)
        assert 0 < row.p <= 1


def test_published_c1_the_paired_mean():
    row = effect(on_published("C1"), PRIMARY)
    assert row.value == pytest.approx(2.81, abs=0.005)
    assert bounds(row) == pytest.approx([2.16, 3.47], abs=0.02)
    assert (row.num_pairs, row.num_runs, row.num_seeds) == (360, 720, 1)
    assert row.median == pytest.approx(1.94, abs=0.01) and row.wins == pytest.approx(0.783, abs=0.001)
    imagenette = effect(on_published("C1"), PRIMARY, dataset="imagenette")
    assert imagenette.low < 0 < imagenette.high and imagenette.num_pairs == 72
    for dataset in ("cifar10", "cifar100", "fgvc_aircraft", "stl10"):
        assert effect(on_published("C1"), PRIMARY, dataset=dataset).low > 0
    plain = row.high - row.low
    for kind in ("bootstrap by checkpoint (15)", "bootstrap by dataset (5)", "Student by dataset (5)"):
        clustered = effect(on_published("C1"), PRIMARY, interval=kind)
        assert clustered.high - clustered.low > 1.5 * plain


def test_published_c1_shrinks_where_validation_chooses_and_the_tie_breaks_are_told():
    mean = effect(on_published("C1"), PRIMARY, "best by validation")
    assert mean.value == pytest.approx(0.70, abs=0.005)
    assert bounds(mean) == pytest.approx([0.46, 0.94], abs=0.005)
    words = (
        "fgvc_aircraft has ties on its 333 validation images: an arbitrary tie-break moves the mean between 0.46 and"
    )
    assert words in mean.note and words in on_published("C1").reason
    imagenette = effect(on_published("C1"), PRIMARY, "best by validation", "imagenette")
    assert imagenette.value == pytest.approx(-1.02, abs=0.005) and math.isnan(imagenette.low)
    assert effect(on_published("C1"), PRIMARY, "best by validation", "fgvc_aircraft").interval == "ties"
    assert mean.p > 0.05
    # 785 test images: sqrt(.89 * .11 / 785) each
    best = effect(on_published("C1"), PRIMARY, "best minus best", "imagenette")
    assert best.standard_error == pytest.approx(1.59, abs=0.01)


def test_published_c2_activations():
    relu = {
        ("tanh - relu, autoencoder (frozen)"): (0.31, -0.3, 1.0),
        ("sigmoid - relu, autoencoder (frozen)"): (-1.61, -3.1, -0.25),
    }
    for contrast, (value, low, high) in relu.items():
        row = effect(on_published("C2"), contrast)
        assert row.value == pytest.approx(value, abs=0.006) and row.num_pairs == 90
        assert bounds(row) == pytest.approx([low, high], abs=0.08)
    assert effect(on_published("C2"), "tanh - relu, random (trainable)").value == pytest.approx(-2.87, abs=0.006)
    assert on_published("C2").points_to == REFUTED


def test_published_c3_freezing():
    row = effect(on_published("C3"), "autoencoder (frozen) - autoencoder (trainable)")
    assert row.value == pytest.approx(1.33, abs=0.006) and row.num_pairs == 45
    assert bounds(row) == pytest.approx([-0.9, 3.6], abs=0.08)
    assert on_published("C3").points_to == UNDECIDED
    assert "The pairs cover sigmoid." in on_published("C3").reason


def test_published_c4_widths():
    for contrast, value in (("out 64 - out 128", 0.00), ("out 32 - out 128", -2.29)):
        row = effect(on_published("C4"), f"{contrast}, autoencoder (frozen)")
        assert row.value == pytest.approx(value, abs=0.006) and row.num_pairs == 120
    assert effect(on_published("C4"), f"out 64 - out 128, {PRIMARY}").low > -1
    assert f"hidden 128 - hidden 512, {PRIMARY}" in on_published("C4").reason


def test_published_c5_standardisation():
    for arm, value in (("autoencoder (frozen)", 0.15), ("random (trainable)", -0.11)):
        row = effect(on_published("C5"), f"standardise off - on, {arm}")
        assert row.value == pytest.approx(value, abs=0.006) and row.num_pairs == 180


def test_published_c6_has_one_autoencoder_per_width():
    verdict = on_published("C6")
    row = effect(verdict, "reconstruction error and gain", "rank correlation within datasets")
    assert row.note == "15 autoencoders" and row.p > 0.05
    assert verdict.verdict == UNDECIDED and "changes with the layer's width" in verdict.reason


def test_published_c7_has_no_control_and_so_no_number():
    verdict = on_published("C7")
    assert (verdict.verdict, verdict.effects) == (UNDECIDED, ())
    assert all(f"{init} (frozen)" in verdict.reason for init in CONTROLS)
    assert len(verdict.decide) == 5 and "projector.init=orthogonal -S projector.freeze=true" in verdict.decide[-1]


def test_published_verdicts_are_held_back_for_their_single_seed():
    for claim in ("C1", "C2", "C3", "C4", "C5", "C6", "C8"):
        assert on_published(claim).verdict == UNDECIDED
        assert "The runs stand on a single seed" in on_published(claim).reason
        assert on_published(claim).decide[0].startswith("at least 3 seeds per cell")
    assert on_published("C1").points_to == SUPPORTED
    assert [row.value for row in on_published("C1").effects if row.measure.startswith("detectable")] == sorted(
        (row.value for row in on_published("C1").effects if row.measure.startswith("detectable")), reverse=True
    )


# ---- known truths ----------------------------------------------------------------------------------------------------


def gain(points: float):
    """Accuracy .8, and this much more for the frozen autoencoder layer."""
    return lambda row: 0.8 + points / 100 * ((row["projector_init"], row["projector_frozen"]) == ARMS[0])


@pytest.mark.parametrize(("points", "expected"), [(2.0, SUPPORTED), (-2.0, REFUTED), (0.0, REFUTED)])
def test_c1_finds_a_gain_a_loss_and_nothing(points, expected):
    verdict = judge("C1", make(gain(points)))
    assert (verdict.verdict, verdict.points_to) == (expected, expected)
    row = effect(verdict, PRIMARY, interval="bootstrap by seed (5)")
    assert row.low - 0.1 < points < row.high + 0.1
    assert (row.num_pairs, row.num_runs, row.num_seeds) == (30, 60, 5)


def test_noise_beyond_the_margin_leaves_c1_undecided_and_tells_what_more_seeds_would_find():
    verdict = judge("C1", make(gain(0.0), seeds=range(3), noise=0.05))
    assert verdict.verdict == UNDECIDED
    detectable = [effect(verdict, PRIMARY, f"detectable with {number} seeds").value for number in (3, 5, 10)]
    assert detectable[0] > detectable[1] > detectable[2] > 0


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_too_few_seeds_decide_nothing(seeds):
    verdict = judge("C1", make(gain(2.0), seeds=seeds, hidden=(64, 128, 256)))
    points_to = SUPPORTED if len(seeds) == 1 else UNDECIDED  # two seeds have no interval at all
    assert (verdict.verdict, verdict.points_to) == (UNDECIDED, points_to)
    assert f"stand on {'a single seed' if len(seeds) == 1 else '2 seeds'}" in verdict.reason


def test_seeds_that_disagree_leave_a_verdict_undecided_however_many_pairs_there_are():
    swing = {0: 0.06, 1: -0.02, 2: 0.05, 3: -0.01, 4: 0.02}
    runs = make(lambda row: 0.7 + swing[row["seed"]] * row["projector_frozen"], activations=("relu", "tanh", "silu"))
    verdict = judge("C1", runs)
    plain, by_seed = (effect(verdict, PRIMARY, interval=kind) for kind in ("bootstrap", "Student by seed"))
    assert plain.low > 0 > by_seed.low
    assert verdict.verdict == UNDECIDED


def test_the_seeds_of_the_poorest_dataset_count():
    runs = make(gain(2.0), datasets=("a", "b"))
    assert judge("C1", runs).verdict == SUPPORTED
    assert judge("C1", runs[(runs["dataset"] == "a") | (runs["seed"] == 0)]).verdict == UNDECIDED


def test_only_runs_that_agree_in_all_else_are_paired():
    runs = make(gain(2.0))
    runs.loc[runs["projector_init"] == "random", "protocol"] = "another"
    verdict = judge("C1", runs)
    assert verdict.reason == f"No run of autoencoder (frozen) agrees with one of {PRIMARY[23:]} in all else."
    assert verdict.effects == ()


def test_a_missing_arm_gives_a_sentence():
    verdict = judge("C1", make(gain(2.0), arms=[("autoencoder", True)]))
    assert verdict.reason == "There is no run of random (trainable)."
    assert "dvc exp run -S projector.init=random -S projector.freeze=false" in verdict.decide
    assert judge("C8", make(gain(2.0), arms=[("random", False)])).reason == "There is no run of autoencoder (frozen)."


def test_failed_runs_are_in_one_verdict_and_out_of_the_other():
    runs = make(gain(2.0))
    crashed = (runs["projector_init"] == "autoencoder") & (runs["projector_out_dim"] == 32)
    runs.loc[crashed, "probe_test_top1"] = 0.1
    runs["failed"] = crashed
    answer = evaluate(runs, ["C1"])[0]
    assert isinstance(answer, Answer) and answer.without_failed is not None
    assert effect(answer.everything, PRIMARY).value < -15
    assert effect(answer.without_failed, PRIMARY).value == pytest.approx(2.0, abs=0.2)
    assert (answer.everything.verdict, answer.without_failed.verdict) == (REFUTED, SUPPORTED)
    assert evaluate(make(gain(2.0)), ["C1"])[0].without_failed is None


def by_activation(**points: float):
    return lambda row: 0.8 + points.get(row["projector_activation"], 0.0) / 100


def test_c2_needs_both_activations_in_means_and_peaks():
    # p of exchanging whole seeds: of five never below 2 in 32
    grid = {"activations": ("relu", "sigmoid", "tanh"), "hidden": (128, 256), "seeds": range(8)}
    assert judge("C2", make(by_activation(sigmoid=2, tanh=2), **grid)).verdict == SUPPORTED
    assert judge("C2", make(by_activation(sigmoid=-2, tanh=2), **grid)).verdict == REFUTED
    verdict = judge("C2", make(by_activation(tanh=2)))
    assert verdict.verdict == UNDECIDED
    assert "No pairs of sigmoid with relu, autoencoder (frozen)." in verdict.reason
    assert "projector.activation=relu,sigmoid" in verdict.decide[0]
    assert judge("C2", make(gain(2), activations=("relu",))).effects == ()


def test_c3_compares_freezing_within_the_autoencoder():
    arms = [("autoencoder", True), ("autoencoder", False), ("random", True), ("random", False)]
    verdict = judge("C3", make(lambda row: 0.8 + 0.02 * row["projector_frozen"], arms))
    assert verdict.verdict == SUPPORTED
    assert effect(verdict, "random (frozen) - random (trainable)").value == pytest.approx(2, abs=0.2)
    assert "no run of autoencoder (trainable)" in judge("C3", make(gain(2))).reason


def test_c4_judges_each_pair_of_widths():
    cost = {32: 0.03, 64: 0.0, 128: 0.0}
    verdict = judge("C4", make(lambda row: 0.8 - cost[row["projector_out_dim"]]))
    assert verdict.verdict == REFUTED
    assert f"out 64 - out 128, {PRIMARY}" in verdict.reason
    assert effect(verdict, f"out 32 - out 128, {PRIMARY}").value == pytest.approx(-3, abs=0.2)
    assert judge("C4", make(lambda row: 0.8, out=(64, 128), hidden=(64, 128))).verdict == SUPPORTED
    assert judge("C4", make(lambda row: 0.8, out=(64,))).reason.startswith(
        "No runs that differ in the projector's width"
    )


def test_c5_is_about_sameness():
    grid = {"standardize": (False, True)}
    assert judge("C5", make(lambda row: 0.8, **grid)).verdict == SUPPORTED
    assert judge("C5", make(lambda row: 0.8 + 0.02 * row["standardize"], **grid)).verdict == REFUTED
    assert judge("C5", make(lambda row: 0.8, noise=0.05, **grid)).verdict == UNDECIDED
    assert judge("C5", make(lambda row: 0.8 + 0.005 * row["standardize"], **grid), margin=0.1).verdict == REFUTED
    assert "No runs" in judge("C5", make(gain(2))).reason


def test_c6_ranks_autoencoders_of_one_width():
    def helped(sign):
        return lambda row: 0.8 + 0.02 * row["projector_frozen"] * (1 + sign * row["seed"])

    grid = {"hidden": (128, 256), "noise": 0.0005}
    better_with_less = judge("C6", make(helped(-1), **grid))  # the error rises with the seed in `make`
    row = effect(better_with_less, "reconstruction error and gain", "rank correlation within datasets and widths")
    assert row.value == pytest.approx(-1) and row.note.startswith("10 autoencoders")
    assert better_with_less.verdict == SUPPORTED
    assert judge("C6", make(helped(1), **grid)).verdict == REFUTED
    few = judge("C6", make(helped(1), seeds=(0, 1), hidden=(128,)))
    assert few.reason == "2 autoencoders with a known error; a rank correlation needs 3 of one dataset."


def controls(**points: float):
    """Points above .8 of each init where frozen."""
    return lambda row: 0.8 + points.get(row["projector_init"], 0.0) / 100 * row["projector_frozen"]


def test_c7_holds_only_against_every_control():
    arms = [("autoencoder", True), ("random", False), *((init, True) for init in CONTROLS)]
    assert judge("C7", make(controls(autoencoder=2), arms)).verdict == SUPPORTED
    explained = judge("C7", make(controls(autoencoder=2, random_matched=2), arms))
    assert explained.verdict == REFUTED
    name = "autoencoder (frozen) - random_matched (frozen)"
    assert effect(explained, name).value == pytest.approx(0, abs=0.2)
    assert effect(explained, "random_matched (frozen) - random (trainable)").value == pytest.approx(2, abs=0.2)
    missing = judge("C7", make(controls(autoencoder=2), arms[:-1]))
    assert (missing.verdict, missing.points_to) == (UNDECIDED, SUPPORTED)
    assert "Controls without matching runs: orthogonal (frozen)" in missing.reason
    assert missing.decide == ("dvc exp run -S projector.init=orthogonal -S projector.freeze=true",)
    assert judge("C7", make(controls(), [("random", False)])).reason == "There is no run of autoencoder (frozen)."


def test_c8_compares_at_equal_loss():
    runs = make(gain(2.0), noise=0.01)  # in `make` losses are 5 minus accuracy: the loss explains all
    explained = judge("C8", runs)
    assert explained.verdict == SUPPORTED
    assert effect(explained, PRIMARY, "mean at equal train_loss").value == pytest.approx(0, abs=1e-6)
    unrelated = runs.assign(train_loss=[5 + 0.001 * (number % 7) for number in range(len(runs))])
    verdict = judge("C8", unrelated)
    assert verdict.verdict == REFUTED
    assert effect(verdict, PRIMARY, "mean at equal train_loss").value == pytest.approx(2, abs=0.7)
    assert "no clear gain" in judge("C8", make(gain(0.0), noise=0.01)).reason
    assert "finite training losses" in judge("C8", runs.assign(train_loss=math.inf)).reason


def test_the_rules_of_the_verdicts():
    for low, high, beats, matches, same in (
        (0.1, 5.0, SUPPORTED, SUPPORTED, UNDECIDED),
        (-0.5, 0.5, REFUTED, SUPPORTED, SUPPORTED),
        (-0.5, 5.0, UNDECIDED, SUPPORTED, UNDECIDED),
        (-5.0, 0.5, UNDECIDED, UNDECIDED, UNDECIDED),
        (-5.0, -0.5, REFUTED, UNDECIDED, UNDECIDED),
        (-5.0, -2.0, REFUTED, REFUTED, REFUTED),
        (0.2, 0.8, REFUTED, SUPPORTED, SUPPORTED),
        (math.nan, math.nan, UNDECIDED, UNDECIDED, UNDECIDED),
        (2.0, 5.0, SUPPORTED, SUPPORTED, REFUTED),
    ):
        assert (better(low, high, 1.0), not_worse(low, high, 1.0), equal(low, high, 1.0)) == (beats, matches, same)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.2, 0.8, NO_DIFFERENCE),  # above zero, but too small to matter
        (-0.8, -0.2, NO_DIFFERENCE),
        (0.2, 1.8, BETTER),
        (-1.8, -0.2, WORSE),
        (-0.2, 1.8, UNDECIDED),
        (math.nan, math.nan, UNDECIDED),
    ],
)
def test_a_difference_has_one_of_four_outcomes(low, high, word):
    assert outcome(low, high, 1.0) == word


def test_neither_one_pair_nor_two_clusters_have_an_interval_anywhere():
    def intervals(**grid) -> set[tuple[float, float]]:
        found = paired_effects(between(make(gain(2.0), **grid), PRETRAINED, DEFAULT))
        assert found and all(math.isnan(row.p) for row in found if math.isnan(row.low))
        return {(row.low, row.high) for row in found if not math.isnan(row.low)}

    one = {"out": (32,), "activations": ("relu",)}
    assert not intervals(seeds=(0,), **one), "one pair"
    assert not intervals(seeds=(0, 1), **one), "two pairs"
    assert not intervals(seeds=(0, 1)), "twelve pairs of two seeds"
    assert not intervals(seeds=(0,), hidden=(64, 128)), "two autoencoders"
    assert intervals(seeds=(0, 1, 2), **one)
    # two seeds in one dataset, three in another: each by its own
    runs = make(gain(2.0), datasets=("a", "b"))
    runs = runs[(runs["dataset"] == "a") | (runs["seed"] < 2)]
    found = paired_effects(between(runs, PRETRAINED, DEFAULT))
    assert {row.dataset for row in found if not math.isnan(row.low)} == {"all", "a"}
    judged = judge("C1", make(gain(2.0), seeds=(0, 1), **one))
    assert "+2." in judged.reason and "over 2 pairs of 2 seeds: no interval." in judged.reason


def test_c9_is_freezing_alone_with_the_gain_and_what_is_left_beside_it():
    arms = [("autoencoder", True), ("random", True), ("random", False)]
    frozen = judge("C9", make(lambda row: 0.8 + 0.03 * row["projector_frozen"], arms))
    assert frozen.verdict == SUPPORTED
    assert effect(frozen, "random (frozen) - random (trainable)").value == pytest.approx(3, abs=0.2)
    assert "autoencoder (frozen) - random (frozen): " in frozen.reason and NO_DIFFERENCE in frozen.reason
    assert judge("C9", make(gain(3.0), arms)).verdict == REFUTED
    missing = judge("C9", make(gain(3.0)))
    assert missing.effects == () and missing.decide[0].endswith("projector.init=random -S projector.freeze=true")


def test_an_unknown_claim_is_named():
    with pytest.raises(UserError, match=r"C19: must be one of C1, C2, .* \(nearest: C"):
        evaluate(make(gain(2.0)), ["C19"])
