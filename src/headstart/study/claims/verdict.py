"""What a claim returns, and the rules by which intervals become a verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"
CANNOT_TELL = "these runs cannot tell"
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference that matters"
MIN_SEEDS = 3  # with fewer the spread between seeds, and so the verdict, is a guess
MARGIN = 1.0  # points below which a difference does not matter; the published accuracies' standard error is 0.8 to 1.9
ALL = "all"
PAIRED_MEAN = "paired mean"
BY_DATASET = "by dataset"


@dataclass(frozen=True)
class Effect:
    """One number and what it stands on; NaN is unknown. Values and bounds are accuracy points, correlations plain.

    low, high: bounds of `interval` (what was drawn, or "ties" for what breaking ties would make of it);
    wins: share of pairs above zero; standard_error: binomial, of the two accuracies' difference.
    """

    contrast: str
    measure: str
    dataset: str
    value: float
    low: float = math.nan
    high: float = math.nan
    interval: str = ""
    median: float = math.nan
    wins: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    standard_error: float = math.nan
    num_pairs: int = 0
    num_runs: int = 0
    num_seeds: int = 0
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One of the things that a claim asserts: what its numbers point to, in a sentence."""

    points_to: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The answer to a claim.

    points_to: what the numbers at hand say; `verdict` is the same, or undecided where too few seeds or missing runs
    forbid an answer. decide: what would decide it.
    """

    verdict: str
    points_to: str
    reason: str
    decide: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()


def outcome(low: float, high: float, margin: float) -> str:
    """Return what an interval says of a difference, one of four.

    Within the margin it does not matter, wherever zero lies; beyond it "better" or "worse" need zero outside. Where
    there is no interval (NaN) nothing is decided.
    """
    if -margin < low and high < margin:
        return NO_DIFFERENCE
    if low > 0:
        return BETTER
    return WORSE if high < 0 else UNDECIDED


def better(low: float, high: float, margin: float) -> str:
    """Judge "first beats second"."""
    return {BETTER: SUPPORTED, UNDECIDED: UNDECIDED}.get(outcome(low, high, margin), REFUTED)


def not_worse(low: float, high: float, margin: float) -> str:
    """Judge "first matches second": at most `margin` worse."""
    if low > -margin:
        return SUPPORTED
    return REFUTED if high < -margin else UNDECIDED


def equal(low: float, high: float, margin: float) -> str:
    """Judge "makes no difference": within `margin` of zero."""
    if -margin < low and high < margin:
        return SUPPORTED
    return REFUTED if high < -margin or low > margin else UNDECIDED


def hull(effects: Iterable[Effect], contrast: str, dataset: str = ALL) -> tuple[float, float]:
    """Return the widest bounds of a contrast's paired mean: of pairs, of autoencoders, of seeds; NaN without any.

    These decide: no way of clustering may overturn a verdict. What other datasets would give is another question; see
    `over_datasets`.
    """
    rows = [row for row in _means(effects, contrast, dataset) if BY_DATASET not in row.interval]
    return min(row.low for row in rows), max(row.high for row in rows)


def deciding(verdict: Verdict) -> list[str]:
    """Return the contrasts that a verdict rests on: those whose paired mean its reason states."""
    names = dict.fromkeys(row.contrast for row in verdict.effects if row.measure == PAIRED_MEAN)
    return [name for name in names if f"{name}: " in verdict.reason]


def over_datasets(effects: Iterable[Effect], contrast: str) -> tuple[float, float] | None:
    """Return the widest bounds that take the datasets as the sample, or None where they are too few."""
    rows = [row for row in _means(effects, contrast) if BY_DATASET in row.interval]
    if not rows:
        return None
    return min(row.low for row in rows), max(row.high for row in rows)


def _means(effects: Iterable[Effect], contrast: str, dataset: str = ALL) -> list[Effect]:
    return [row for row in effects if (row.contrast, row.measure, row.dataset) == (contrast, PAIRED_MEAN, dataset)]


def all_of(parts: Sequence[Part]) -> str:
    """Return what a conjunction points to: one refuted part refutes it, all supported ones support it."""
    points = {part.points_to for part in parts}
    if REFUTED in points:
        return REFUTED
    return SUPPORTED if points == {SUPPORTED} else UNDECIDED


def conclude(
    parts: Sequence[Part], effects: Sequence[Effect], num_seeds: int, decide: Sequence[str] = (), missing: str = ""
) -> Verdict:
    """Return the verdict of a claim that asserts all `parts`; undecided on too few seeds or where runs are missing."""
    points_to = all_of(parts) if parts else UNDECIDED
    reasons = [part.sentence for part in parts]
    steps = list(decide)
    verdict = points_to
    if missing:
        reasons.append(missing)
        verdict = UNDECIDED if points_to != REFUTED else verdict
    if parts and num_seeds < MIN_SEEDS:
        seeds = "a single seed" if num_seeds == 1 else f"{num_seeds} seeds"
        reasons.append(f"The runs stand on {seeds}: what another seed would give is unknown, so this decides nothing.")
        steps.insert(0, f"at least {MIN_SEEDS} seeds per cell: dvc exp run --queue -S 'seed=range(0,5)' ...")
        verdict = UNDECIDED
    return Verdict(verdict, points_to, " ".join(reasons), tuple(steps), tuple(effects))


def nothing(reason: str, decide: Sequence[str]) -> Verdict:
    """Return the verdict where no number can be had."""
    return Verdict(UNDECIDED, UNDECIDED, reason, tuple(decide))
