"""What runs of equal settings have in common: means over seeds with their spread, as a table and a figure."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.study import writing
from headstart.study.gains import ARM, level, with_arm
from headstart.study.metrics import heading, is_share
from headstart.study.rows import COLUMNS

# Okabe and Ito's, colour-blind safe, grey in place of their yellow; as many marks as activations
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
MARKS = "osD^vPX*"
LABEL = 28  # characters of a line beside an axis


def means(runs: pd.DataFrame, by: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """Return a row per values of the columns `by`: runs (their number), and mean, least and greatest of each score.

    Columns: by ..., runs, then <score>, <score>_least, <score>_greatest. Accuracies become percent. Raises UserError
    for an unknown column and for a score that no run has.
    """
    table = with_arm(runs)
    for name in (*by, *scores):
        if name not in table.columns:
            raise UserError(f"{name}: no column of the rows{nearest(name, [ARM, *COLUMNS])}")
    for name in scores:
        if not pd.api.types.is_numeric_dtype(table[name]) or table[name].isna().all():
            raise UserError(f"{name}: the rows hold no such number")
    factors = {name: 100.0 if is_share(name) else 1.0 for name in scores}
    table = table.assign(**{name: table[name] * factor for name, factor in factors.items()})
    groups = table.groupby(list(by), sort=False)
    parts = {"runs": groups.size()}
    for name in scores:
        parts |= {
            name: groups[name].mean(),
            f"{name}_least": groups[name].min(),
            f"{name}_greatest": groups[name].max(),
        }
    return pd.DataFrame(parts).reset_index().sort_values(list(by), ignore_index=True)


def markdown(table: pd.DataFrame, by: Sequence[str], scores: Sequence[str]) -> str:
    """Return the means as a Markdown table, least and greatest behind them."""
    heads = [*map(heading, by), "runs", *map(heading, scores)]
    lines = []
    for row in table.to_dict("records"):
        cells = [_cell(*(row[f"{name}{end}"] for end in ("", "_least", "_greatest"))) for name in scores]
        lines.append([*(level(row[name], name) for name in by), str(row["runs"]), *cells])
    return writing.markdown(heads, lines) + "\n"


def _cell(mean: float, least: float, greatest: float) -> str:
    return "" if pd.isna(mean) else f"{mean:.4g} ({least:.4g} to {greatest:.4g})"


def picture(path: Path, table: pd.DataFrame, by: Sequence[str], scores: Sequence[str], title: str) -> None:
    """Write the means as a PNG, a row of panels per score.

    Of `by` the last is the axis, the last but one tells lines apart, what is before them panels. Bars go from least to
    greatest; a line joins the values of a number. A score above 0 that spans more than a decade has a logarithmic axis.
    """
    from matplotlib.figure import Figure

    *panels, colour, axis = by
    names = table[panels].astype(str).agg(", ".join, axis=1) if panels else pd.Series("", table.index)
    columns, lines = list(dict.fromkeys(names)), list(dict.fromkeys(table[colour]))
    places = list(dict.fromkeys(table[axis]))
    words = [level(place, axis) for place in places]
    width = max(3.6, 0.8 + 0.085 * max(map(len, words)) * len(words))  # inches in which the words stand side by side
    size = (max(5.0, width * len(columns)) + 1.8, 0.6 + 2.8 * len(scores))  # the legend beside them
    figure = Figure(figsize=size, layout="constrained")
    joined = "-" if pd.api.types.is_numeric_dtype(table[axis]) else "none"
    grid = figure.subplots(len(scores), len(columns), squeeze=False, sharex=True, sharey="row")
    for (i, score), (j, column) in [(a, b) for a in enumerate(scores) for b in enumerate(columns)]:
        axes = grid[i][j]
        for number, line in enumerate(lines):
            own = table[(names == column) & (table[colour] == line)]
            x = [places.index(value) + 0.06 * (number - len(lines) / 2) for value in own[axis]]
            spread = [own[score] - own[f"{score}_least"], own[f"{score}_greatest"] - own[score]]
            style = {"linestyle": joined, "linewidth": 1.2, "markersize": 4, "capsize": 2, **_look(number)}
            label = level(line, colour) if i == j == 0 else None
            axes.errorbar(x, own[score], spread, label=label, **style)
        axes.set_xticks(range(len(places)), words)
        axes.grid(alpha=0.3)
        least, greatest = table[f"{score}_least"].min(), table[f"{score}_greatest"].max()
        if 0 < least * 10 < greatest and not is_share(score):
            axes.set_yscale("log")
        if i == 0:
            axes.set_title(column, fontsize=10)
        if i == len(scores) - 1:
            axes.set_xlabel(heading(axis))
        if j == 0:
            axes.set_ylabel(textwrap.fill(heading(score), LABEL))
    figure.legend(title=heading(colour), fontsize=8, loc="outside right upper")  # beside the data, not on it
    figure.suptitle(f"{title}: means, least to greatest", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _look(number: int) -> dict[str, Any]:
    """Mark and colour of the n-th line, from 0."""
    return {"marker": MARKS[number % len(MARKS)], "color": COLOURS[number % len(COLOURS)]}
