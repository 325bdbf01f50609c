"""Could these runs have shown an effect at all? The positive control, the noise floor, the paper's signs of failure.

A setting in which SimCLR does not clearly beat what needs no training can say nothing about heads (ICH E10 calls it
assay sensitivity): its verdicts are void, whatever their intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from headstart.study import metrics
from headstart.study.claims.contrasts import Contrast, arm, paired_effects, sentence
from headstart.study.claims.paper import DEFAULT, PRETRAINED, arms, between
from headstart.study.claims.verdict import BETTER, WORSE, Effect, hull, outcome
from headstart.study.protocols import groups
from headstart.study.reconstruction import poor_autoencoder
from headstart.study.rows import SCORE, arm_name
from headstart.study.writing import counted, span

PERMUTED = ("autoencoder_permuted", True)  # a second draw of the same layer: an A/A pair
# What a baseline depends on: rows that agree in these have the same
_SAME_START = ["dataset", "protocol", "seed", "backbone", "standardize"]


@dataclass(frozen=True)
class Gain:
    """SimCLR minus what needs no training, in points, over the runs of one arm.

    baseline: a key of metrics.BASELINES; level: its mean score, a fraction, NaN where the rows do not hold it; low,
    high: the widest interval, NaN where there is none.
    """

    baseline: str
    level: float
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    num_seeds: int = 0

    @property
    def known(self) -> bool:
        """Whether the rows hold this baseline."""
        return not math.isnan(self.level)


@dataclass(frozen=True)
class Assay:
    """Whether the runs of a dataset and protocol can tell: `passes` is None where no baseline is known.

    place: the dataset, with what tells its protocols apart; arm: whose runs stand for SimCLR; level: their mean score;
    gains: over each baseline; noise: the A/A pair's mean difference with its widest interval, None without such a pair;
    reason: a sentence.
    """

    dataset: str
    protocol: str
    place: str
    score: str
    margin: float
    arm: str
    level: float
    gains: tuple[Gain, ...]
    noise: Effect | None
    passes: bool | None
    reason: str

    @property
    def able(self) -> str:
        """Whether the runs can tell: yes, no or unknown."""
        return {True: "yes", False: "no", None: "unknown"}[self.passes]


def assays(runs: pd.DataFrame, score: str, margin: float) -> list[Assay]:
    """Return an assay per dataset and protocol of finished runs, as rows.judged_by gives them."""
    filled = _with_known_baselines(runs)
    places = filled.assign(place=groups(filled)).groupby(["dataset", "place", "protocol"], sort=True)
    return [
        _assay(str(dataset), str(protocol), str(place), own, score, margin)
        for (dataset, place, protocol), own in places
    ]


def _with_known_baselines(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, each with the baselines that any run of the same start has."""
    columns = [f"probe_{name}_{score}" for name in metrics.BASELINES for score in metrics.SCORES]
    columns = [name for name in columns if name in runs]
    return runs.assign(**{name: runs.groupby(_SAME_START)[name].transform("max") for name in columns})


def _assay(dataset: str, protocol: str, place: str, runs: pd.DataFrame, score: str, margin: float) -> Assay:
    own = arm(runs, *DEFAULT)
    name, own = (arm_name(*DEFAULT), own) if len(own) else ("all runs", runs)
    gains = tuple(_gain(own, baseline, score) for baseline in metrics.BASELINES)
    pair = paired_effects(between(runs, PRETRAINED, PERMUTED))
    noise = _widest(pair) if pair else None
    passes, reason = _judge(gains, margin)
    level = float(own[SCORE].mean())
    told = f"{place}, {score}: {reason}"
    return Assay(dataset, protocol, place, score, margin, name, level, gains, noise, passes, told)


def _gain(runs: pd.DataFrame, baseline: str, score: str) -> Gain:
    column = f"probe_{baseline}_{score}"
    known = runs[runs[column].notna()] if column in runs else runs[:0]
    if known.empty:
        return Gain(baseline, math.nan)
    pairs = known.assign(
        difference=100 * (known[SCORE] - known[column]), checkpoint="", row_first=known.index, row_second=known.index
    )
    effects = paired_effects(Contrast(baseline, pairs))
    low, high = hull(effects, baseline)
    return Gain(baseline, float(known[column].mean()), effects[0].value, low, high, int(known["seed"].nunique()))


def _widest(effects: Sequence[Effect]) -> Effect:
    low, high = hull(effects, effects[0].contrast)
    return replace(effects[0], low=low, high=high)


def highest(gains: Sequence[Gain]) -> Gain | None:
    """Return the gain over the highest baseline that the rows hold, None where they hold none."""
    return max((gain for gain in gains if gain.known), key=lambda gain: gain.level, default=None)


def _judge(gains: Sequence[Gain], margin: float) -> tuple[bool | None, str]:
    least = highest(gains)
    lacking = [metrics.BASELINES[gain.baseline] for gain in gains if not gain.known]
    lack = f" The rows do not hold: {', '.join(lacking)}." if lacking else ""
    if least is None:
        return None, f"whether these runs can tell is unknown.{lack}"
    name = metrics.BASELINES[least.baseline]
    words = f"SimCLR minus {name}, the highest of what needs no training: {span(least.value, least.low, least.high)}"
    if math.isnan(least.low):
        return False, f"{words} points from {counted(least.num_seeds, 'seed')}: no interval.{lack}"
    if least.low > margin:
        return True, f"{words} points, above the margin of {margin:g}.{lack}"
    return False, f"{words} points, not above the margin of {margin:g}.{lack}"


def signs_of_failure(runs: pd.DataFrame, margin: float) -> list[tuple[bool, str]]:
    """Return (there, sentence) for the paper's three signs that no benefit is to be expected, with their numbers.

    A poor autoencoder, by its test error against that of the mean image; a gap between frozen and trainable layer; an
    arm that is worse than the random head. Sorted as named; a sign for which the rows hold no number says so.
    """
    return [*_poor_autoencoders(runs), *_gaps(runs, margin), *_worse_arms(runs, margin)]


def _poor_autoencoders(runs: pd.DataFrame) -> list[tuple[bool, str]]:
    own = runs[(runs["projector_init"] == PRETRAINED[0]) & runs["autoencoder_test_mse"].notna()]
    if own.empty:
        return [(False, "Autoencoder: no test error in these rows.")]
    found = []
    for dataset, part in own.groupby("dataset"):
        error, mean = part["autoencoder_test_mse"].mean(), part["autoencoder_mean_image_mse"].mean()
        if math.isnan(mean):
            found.append(
                (False, f"Autoencoder of {dataset}: test MSE {error:.4f}; the mean image's is not in these rows.")
            )
            continue
        found.append(poor_autoencoder(str(dataset), float(error), float(mean)))
    return found


def _gaps(runs: pd.DataFrame, margin: float) -> list[tuple[bool, str]]:
    found = []
    for init in sorted({init for init, _ in arms(runs)}):
        contrast = between(runs, (init, True), (init, False))
        if effects := paired_effects(contrast):
            low, high = hull(effects, contrast.name)
            found.append(
                (outcome(low, high, margin) in (BETTER, WORSE), f"Gap {sentence(effects, contrast.name, margin)}")
            )
    return found or [(False, "Gap between frozen and trainable layer: no matched runs.")]


def _worse_arms(runs: pd.DataFrame, margin: float) -> list[tuple[bool, str]]:
    found = []
    for which in arms(runs):
        contrast = between(runs, which, DEFAULT)
        effects = paired_effects(contrast) if which != DEFAULT else []
        if effects and outcome(*hull(effects, contrast.name), margin) == WORSE:
            found.append((True, f"Worse than the random head: {sentence(effects, contrast.name, margin)}"))
    return found or [(False, "No arm is worse than the random head, as far as these runs tell.")]
