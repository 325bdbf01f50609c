"""What a head does while it trains, as `diagnostics` measured it: ranks, drift of its first layer, the backbone's share
of the gradient; of this workspace and of experiments."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from headstart.study.lines import Line, Plot, Points

TRAINING = "metrics/plots/training.csv"  # as the report stage writes it where steps were measured
LATE = 0.9  # of the steps: what is measured from there on is the end of the training
# name in diagnostics.csv -> that of its mean over the end of the training
AT_THE_END = {
    "backbone_effective_rank": "late_rank_backbone",
    "hidden_effective_rank": "late_rank_hidden",
    "output_effective_rank": "late_rank_output",
    "projector_1_drift": "late_drift",
    "projector_1_cosine": "late_cosine",
}
SHARE = "gradient_share_backbone"
COLUMNS = (*AT_THE_END, SHARE)


def training_rows(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """Return every dataset's diagnostics.csv as one table of COLUMNS, empty cells where one lacks a column."""
    return [
        {"dataset": name, "step": row["step"]} | {column: row.get(column, "") for column in COLUMNS}
        for name, rows in tables.items()
        for row in rows
    ]


def summarised(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Return dataset -> what `training_rows` says in one number each, where it says it.

    AT_THE_END: means over the steps measured in the last tenth; gradient_share: the mean over the whole training, each
    measured step standing for those around it (trapezoids), since the first steps are measured more often.
    """
    found: dict[str, dict[str, float]] = {}
    for dataset, own in _by_dataset(rows).items():
        points = {column: _points(own, column) for column in COLUMNS}
        last = max(int(row["step"]) for row in own)
        found[dataset] = {}
        for column, name in AT_THE_END.items():
            if values := [value for step, value in points[column].items() if step >= LATE * last]:
                found[dataset][name] = fmean(values)
        if points[SHARE]:
            found[dataset]["gradient_share"] = _mean(points[SHARE])
    return found


def line(
    column: str, run: str, dataset: str, group: str, arm: str, head: str, seed: int, rows: Iterable[Mapping[str, str]]
) -> list[Line]:
    """Return a column of the dataset's rows by step, none where it was not measured; see gradients.flow."""
    points = _points(_by_dataset(rows).get(dataset, []), column)
    return [Line(run, f"{group}, {head}", arm, seed, points)] if points else []


def _by_dataset(rows: Iterable[Mapping[str, str]]) -> dict[str, list[Mapping[str, str]]]:
    found: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault(row["dataset"], []).append(row)
    return found


def _points(rows: Iterable[Mapping[str, str]], column: str) -> Points:
    return {int(row["step"]): float(row[column]) for row in rows if row.get(column)}


def _mean(points: Points) -> float:
    ordered = sorted(points.items())
    if len(ordered) == 1:
        return ordered[0][1]
    areas = [(b - a) * (first + second) / 2 for (a, first), (b, second) in itertools.pairwise(ordered)]
    return sum(areas) / (ordered[-1][0] - ordered[0][0])


def _told(mean: Points) -> str:
    values = list(mean.values())
    return f"{values[0]:.3g} at first, {values[-1]:.3g} at last" if values else ""


def _plot(name: str, caption: str, y: str, start: str) -> Plot:
    return Plot(name, caption, "step", y, start, "mean", _told)


# the column that is drawn -> how
PLOTS = {
    "hidden_effective_rank": _plot(
        "rank-figure",
        "Effective rank of the head's hidden layer while SimCLR trains: exp of the entropy of the singular values of "
        "its centred outputs (Roy & Vetterli 2007); 1: one direction is left.",
        *("effective rank", "Effective rank of the hidden layer over the steps"),
    ),
    "output_effective_rank": _plot(
        "output-rank-figure",
        "Effective rank of the head's output, in the same way.",
        *("effective rank", "Effective rank of the output over the steps"),
    ),
    "projector_1_drift": _plot(
        "drift-figure",
        "How far the head's first layer is from its start: |W - W0| / |W0|, Frobenius; 0 where it is frozen.",
        *("|W - W0| / |W0|", "Drift of the first layer over the steps"),
    ),
    SHARE: _plot(
        "share-figure",
        "The backbone's share of the squared norm of all trained parameters' gradient; what is frozen has none.",
        *("share", "The backbone's share of the gradient over the steps"),
    ),
}
