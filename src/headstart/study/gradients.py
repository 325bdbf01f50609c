"""Gradient flow in the first steps of training, as `diagnostics` measured it: of this workspace and of experiments."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from headstart.study import lines
from headstart.study.curves import committed_tables
from headstart.study.page import Figure

FLOW = "metrics/plots/gradient_flow.csv"  # as the report stage writes it where steps were measured
FIRST_STEPS = 100
COLUMNS = ("gradient_ratio", "gradient_features", "gradient_loss", "hidden_saturated", "hidden_spread", "output_rankme")


@dataclass(frozen=True)
class Flow:
    """One run's ratio of the gradient at the backbone's features to that at the loss's input, by step from 0.

    arm: how its projector began; head: what else tells panels apart, its activation.
    """

    run: str
    dataset: str
    arm: str
    head: str
    seed: int
    steps: tuple[int, ...]
    ratio: tuple[float, ...]


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


def flow(run: str, dataset: str, arm: str, head: str, seed: int, rows: Iterable[Mapping[str, str]]) -> Flow:
    """Return the flow of the rows of one dataset."""
    own = [row for row in rows if row["dataset"] == dataset]
    steps = tuple(int(row["step"]) for row in own)
    return Flow(run, dataset, arm, head, seed, steps, tuple(float(row["gradient_ratio"]) for row in own))


def read_experiments(root: Path, runs: Iterable[tuple[str, str, str, str, int]]) -> list[Flow]:
    """Return the flows of experiments and branches whose commits hold one.

    runs: (run, dataset, arm, head, seed); a run is an experiment's name, a branch or a commit, or `workspace`.
    """
    wanted = list(runs)
    tables = committed_tables(root, {run for run, *_ in wanted}, FLOW)
    found = [flow(run, dataset, arm, head, seed, tables[run]) for run, dataset, arm, head, seed in wanted]
    return [item for item in found if item.steps]


def figure(flows: Sequence[Flow], arms: Sequence[str]) -> Figure:
    """Return the ratio over the first steps, a panel per dataset and head: thin lines are runs, thick ones their mean.

    arms: all names, in the order of their colours.
    """
    drawn = [
        lines.Line(
            *(item.run, f"{item.dataset}, {item.head}", item.arm, item.seed),
            dict(zip(item.steps, map(_log, item.ratio), strict=True)),
        )
        for item in flows
    ]
    caption = (
        f"Gradient flow in the first {FIRST_STEPS} steps: the norm of the gradient at the backbone's features "
        "over that at the loss's input, log10; 0 passes it unchanged."
    )
    axes = lines.Axes("step", "log10 of the ratio", "Gradient flow over the first steps", _told, shared=True)
    return lines.figure("gradients-figure", caption, drawn, arms, axes, "geometric mean")


def _told(mean: lines.Points) -> str:
    finite = [value for value in mean.values() if math.isfinite(value)]
    return f"ratio {10 ** finite[0]:.3g} at first, {10 ** finite[-1]:.3g} at last" if finite else ""


def _log(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan
