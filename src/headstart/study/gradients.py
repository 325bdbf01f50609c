"""Gradient flow in the first steps of training, as `diagnostics` measured it: of this workspace and of experiments."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from headstart.study.lines import Line, Plot, Points

FLOW = "metrics/plots/gradient_flow.csv"  # as the report stage writes it where steps were measured
FIRST_STEPS = 100
COLUMNS = ("gradient_ratio", "gradient_features", "gradient_loss", "hidden_saturated", "hidden_spread", "output_rankme")


def flow_rows(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """Return the first steps of every dataset's diagnostics.csv as one table, empty cells where one lacks a column."""
    return [
        {"dataset": name, "step": row["step"]} | {column: row.get(column, "") for column in COLUMNS}
        for name, rows in tables.items()
        for row in rows
        if int(row["step"]) < FIRST_STEPS
    ]


def early(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Return dataset -> what `flow_rows` says in one number each, where it says it.

    early_gradient_ratio: the geometric mean of gradient_ratio over the first steps; early_saturated: the mean share of
    saturated units behind the first layer.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        own = found.setdefault(row["dataset"], {"early_gradient_ratio": [], "early_saturated": []})
        if row["gradient_ratio"] and math.isfinite(log := _log(float(row["gradient_ratio"]))):
            own["early_gradient_ratio"].append(log)
        if row["hidden_saturated"]:
            own["early_saturated"].append(float(row["hidden_saturated"]))
    means = {dataset: {name: fmean(values) for name, values in own.items() if values} for dataset, own in found.items()}
    for own_means in means.values():
        if "early_gradient_ratio" in own_means:
            own_means["early_gradient_ratio"] = 10 ** own_means["early_gradient_ratio"]
    return means


def flow(
    run: str, dataset: str, group: str, arm: str, head: str, seed: int, rows: Iterable[Mapping[str, str]]
) -> list[Line]:
    """Return log10 of the ratio by step from 0 of the rows that are of the dataset, none where none is.

    group, head: what tells panels apart, see protocols.groups, and the projector's activation.
    """
    points = {int(row["step"]): _log(float(row["gradient_ratio"])) for row in rows if row["dataset"] == dataset}
    return [Line(run, f"{group}, {head}", arm, seed, points)] if points else []


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def _told(mean: Points) -> str:
    finite = [value for value in mean.values() if math.isfinite(value)]
    return f"ratio {10 ** finite[0]:.3g} at first, {10 ** finite[-1]:.3g} at last" if finite else ""


PLOT = Plot(
    "gradients-figure",
    f"Gradient flow in the first {FIRST_STEPS} steps: the norm of the gradient at the backbone's features over that at "
    "the loss's input, log10; 0 passes it unchanged.",
    *("step", "log10 of the ratio", "Gradient flow over the first steps", "geometric mean", _told),
    shared=True,
)
