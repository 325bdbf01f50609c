"""Does a score without labels pick the better backbone? Rank correlations with an accuracy, and pairs of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from headstart.errors import UserError
from headstart.study import forest, svg, writing
from headstart.study.metrics import BETTER, LABEL_FREE, MORE, Metric
from headstart.study.rows import RUN_KEY, SCORE
from headstart.study.statistics import Interval, crossed_weights, percentiles, weighted_rank_correlations
from headstart.study.writing import counted

LEAST_RUNS = 20  # of a dataset; fewer rank nothing
LEAST_SEEDS, LEAST_SETTINGS = 3, 4  # an interval stands on as many, or is none
VAL_TOP1 = Metric("val_top1", "val top-1", column="probe_val_top1", better=MORE)  # what labels could do
NT_XENT = replace(LABEL_FREE["val_loss"], title="val NT-Xent")
_OTHERS = [column for column in LABEL_FREE if column != NT_XENT.column]
SETTING = [name for name in RUN_KEY if name != "seed"]
_OUTPUT, _WITHOUT = "_output", Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Ranked:
    """How a score ranks runs of a dataset by an accuracy.

    rho: Spearman's correlation over all runs, the score turned so that more is better. picks: of pairs of runs of one
    protocol and seed the share of which the score says rightly which is more accurate, equal scores counted half, equal
    accuracies not; NaN without such pairs. The intervals resample seeds and settings, see `statistics.crossed_weights`.
    """

    metric: Metric
    rho: float
    rho_interval: Interval
    picks: float
    picks_interval: Interval
    num_runs: int
    num_seeds: int
    num_settings: int
    num_pairs: int


def pooled(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the runs of several tables that `rows.judged_by` made by one endpoint, each once, without failed ones.

    Of a run that several tables have, the row with scores counts: older rows lack them.
    """
    runs = pd.concat(tables, ignore_index=True)
    runs = runs[~runs["failed"].astype(bool)]
    return pd.concat([_scored(runs), runs]).drop_duplicates(RUN_KEY, ignore_index=True)


def has_scores(runs: pd.DataFrame) -> bool:
    """Return whether enough of the runs have a score without labels, beyond the loss that all runs have."""
    return len(_scored(runs)) >= LEAST_RUNS


def _scored(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs[_OTHERS].notna().any(axis=1)]


def ranked(runs: pd.DataFrame) -> list[Ranked]:
    """Return how each score ranks the finished runs of one dataset, whose accuracy is SCORE, and what labels could do.

    A score that fewer than LEAST_RUNS runs have is left out, and so are runs without any but the loss, where enough
    have others: all stand beside each other. Raises UserError where no score is left.
    """
    runs = _scored(runs) if has_scores(runs) else runs
    free = LABEL_FREE | {NT_XENT.column: NT_XENT}
    own = [metric for column, metric in free.items() if _known(runs, column).sum() >= LEAST_RUNS]
    if not own:
        raise UserError(
            f"{runs['dataset'].iloc[0]}: {counted(len(runs), 'run')} that did not fail, and {LEAST_RUNS} with a score "
            "are needed to rank them"
        )
    labelled = [VAL_TOP1] if _known(runs, VAL_TOP1.column).sum() >= LEAST_RUNS else []
    return [_ranked(runs[_known(runs, metric.column)], metric) for metric in (*own, *labelled)]


def _known(runs: pd.DataFrame, column: str) -> pd.Series:
    """Which runs have the score; values of different losses rank nothing, so that of them NT-Xent alone counts."""
    known = runs[column].abs() < math.inf
    return known & (runs["loss"] == "nt_xent") if column == NT_XENT.column else known


def _ranked(runs: pd.DataFrame, metric: Metric) -> Ranked:
    score = runs[metric.column].map(BETTER[metric.better]).to_numpy(float)
    accuracy = runs[SCORE].to_numpy(float)
    seeds = np.unique(runs["seed"], return_inverse=True)[1]
    settings = runs.groupby(SETTING, dropna=False, sort=False).ngroup().to_numpy()
    counts = int(seeds.max()) + 1, int(settings.max()) + 1
    rho = float(weighted_rank_correlations(score, accuracy, np.ones((1, len(runs))))[0])
    hits, pairs = _pairs(score, accuracy, runs["protocol"].to_numpy(), seeds, settings, counts)
    total = sum(float(matrix.sum()) for matrix in pairs)
    picks = sum(float(matrix.sum()) for matrix in hits) / total if total else math.nan
    intervals = _WITHOUT, _WITHOUT
    if counts[0] >= LEAST_SEEDS and counts[1] >= LEAST_SETTINGS and not math.isnan(rho):
        drawn = crossed_weights(*counts)
        weights = drawn[0][:, seeds] * drawn[1][:, settings]
        picked = percentiles(_shares(hits, pairs, *drawn)) if total else _WITHOUT
        intervals = percentiles(weighted_rank_correlations(score, accuracy, weights)), picked
    return Ranked(metric, rho, intervals[0], picks, intervals[1], len(runs), *counts, round(total / 2))


def _pairs(
    score: np.ndarray,
    accuracy: np.ndarray,
    protocols: np.ndarray,
    seeds: np.ndarray,
    settings: np.ndarray,
    counts: tuple[int, int],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per seed two (settings, settings) matrices: is the pair picked rightly (1, 1/2, 0), and does it count?"""
    hits: list[np.ndarray] = []
    that_count: list[np.ndarray] = []
    for seed in range(counts[0]):
        own = np.flatnonzero(seeds == seed)
        better, more = (np.sign(values[own, None] - values[own]) for values in (accuracy, score))
        there = (better != 0) & (protocols[own, None] == protocols[own])
        place = np.ix_(settings[own], settings[own])
        for kept, values in ((hits, (1 + better * more) / 2 * there), (that_count, there)):
            kept.append(np.zeros((counts[1], counts[1])))
            kept[-1][place] = values
    return hits, that_count


def _shares(
    hits: Sequence[np.ndarray], pairs: Sequence[np.ndarray], seeds: np.ndarray, settings: np.ndarray
) -> np.ndarray:
    """The share of pairs that are picked rightly, for each draw of seeds (draws, S) and settings (draws, A)."""
    right, all_ = (
        sum(seeds[:, seed] * ((settings @ matrix) * settings).sum(1) for seed, matrix in enumerate(matrices))
        for matrices in (hits, pairs)
    )
    return np.divide(right, all_, out=np.full(len(seeds), math.nan), where=all_ > 0)


def by_loss_alone(runs: pd.DataFrame) -> Ranked | None:
    """Return how validation NT-Xent ranks the runs of one dataset; None where too few have it."""
    known = runs[_known(runs, NT_XENT.column)]
    return _ranked(known, NT_XENT) if len(known) >= LEAST_RUNS else None


# ---- as text and drawing ---------------------------------------------------------------------------------------------

EXPLAINED = (
    "Rho is Spearman's rank correlation of a score with the accuracy over all runs, the score turned so that more is "
    "better. Picks: of pairs of runs with one protocol and one seed, the share of which the score says rightly which "
    "is the more accurate, in points above 50 %, which chance has. Brackets hold 95 %: seeds and settings are "
    "resampled, both at once (Owen 2007), which is rather too wide than too narrow. Failed runs are left out. "
    "Validation top-1 needs labels: it shows what is possible."
)


def cells(found: Sequence[Ranked]) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row per score as text."""
    heads = ["score", "better", "rho", "picks, points above chance", "pairs", "runs"]
    lines = [
        [
            row.metric.title,
            row.metric.better,
            writing.gain(row.rho, row.rho_interval.low, row.rho_interval.high),
            writing.gain(*_points(row)),
            str(row.num_pairs),
            str(row.num_runs),
        ]
        for row in found
    ]
    return heads, lines


def markdown_of_losses(found: Mapping[str, Ranked]) -> str:
    """Return what `by_loss_alone` found, by dataset and endpoint, as a Markdown table."""
    heads, lines = cells(list(found.values()))
    records = [[name, *line[2:]] for name, line in zip(found, lines, strict=True)]
    return writing.markdown(["runs of", *heads[2:]], records, numeric=heads[2:])


def _points(row: Ranked) -> tuple[float, float, float]:
    low, high = row.picks_interval.low, row.picks_interval.high
    return 100 * (row.picks - 0.5), 100 * (low - 0.5), 100 * (high - 0.5)


def answer(found: Sequence[Ranked], endpoint: str) -> str:
    """Return in sentences whether a score picks the better backbone by an endpoint."""
    free = [row for row in found if row.metric is not VAL_TOP1]
    above = [row for row in free if row.rho_interval.low > 0]
    below = [row for row in free if row.rho_interval.high < 0]
    first = max(free, key=lambda row: row.rho)
    told = (
        f"{len(above)} rank the runs by {endpoint} better than chance (the interval of rho lies above 0), {len(below)} "
        "the wrong way round"
    )
    if all(math.isnan(row.rho_interval.low) for row in free):
        told = f"none has an interval: that needs {LEAST_SEEDS} seeds and {LEAST_SETTINGS} settings"
    return (
        f"{_stands_on(found)} Of {counted(len(free), 'score')} without labels {told}. The best by its rho is "
        f"{first.metric.title}, {writing.gain(first.rho, first.rho_interval.low, first.rho_interval.high)}."
    )


def markdown(found: Sequence[Ranked]) -> str:
    """Return the scores as a Markdown table."""
    heads, lines = cells(found)
    return writing.markdown(heads, lines, numeric=heads[2:])


def drawing(found: Sequence[Ranked], title: str) -> str:
    """Return the scores as the text of an SVG file: rho, then picks; a row has the features and the head's outputs."""
    places: dict[str, list[Ranked | None]] = {}
    for row in found:
        output = row.metric.key.endswith(_OUTPUT)
        place = places.setdefault(row.metric.key.removesuffix(_OUTPUT), [None, None])
        place[output] = row
    panels = []
    for name, unit, numbers in (
        ("rank correlation with the accuracy", "Spearman's rho", _rho),
        ("picks the better of two runs, points above chance", "points", _points),
    ):
        lines = [
            forest.Row(
                next(row for row in place if row).metric.title.removesuffix(", projector's output"),
                tuple(
                    forest.Estimate(*numbers(row), ("features", "projector's output")[side], side) if row else None
                    for side, row in enumerate(place)
                ),
            )
            for place in places.values()
        ]
        panels.append(forest.panel(name, unit, lines, numbers=True))
    legend = svg.legend(["features", "projector's output"])
    notes = ("Bars hold 95 %; numbers are those of a row's upper mark. Val top-1 needs labels.", _stands_on(found))
    return svg.standalone(title, panels, legend, notes, within=NARROW)


NARROW = 440.0  # one panel beneath the other, so that a telephone can show it


def _rho(row: Ranked) -> tuple[float, float, float]:
    return row.rho, row.rho_interval.low, row.rho_interval.high


def _stands_on(found: Sequence[Ranked]) -> str:
    row = max(found, key=lambda one: one.num_runs)
    return f"{counted(row.num_runs, 'run')}, {counted(row.num_seeds, 'seed')}, {counted(row.num_settings, 'setting')}."
