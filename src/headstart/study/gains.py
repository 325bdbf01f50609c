"""What one factor changes, setting by setting: matched differences with intervals, as a table and a figure."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.study.claims.contrasts import Contrast, arm_name, match, paired_effects
from headstart.study.claims.paper import DEFAULT
from headstart.study.claims.verdict import ALL, PAIRED_MEAN, hull
from headstart.study.rows import COLUMNS, counted

ARM = "arm"  # the initialisation and whether it is frozen, as one factor
BASELINE = arm_name(*DEFAULT)
SCORE = "probe_test_top1"
# Okabe and Ito's, colour-blind safe, grey in place of their yellow; as many marks as activations
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
MARKS = "osD^vPX*"


def gains(
    runs: pd.DataFrame, of: str = ARM, against: str = BASELINE, by: Sequence[str] = (), score: str = SCORE
) -> pd.DataFrame:
    """Return a row per dataset, values of the columns `by`, and level of the factor `of` but `against`.

    Columns: dataset, by ..., level, first and second (mean scores of the two sides, percent), gain, low, high (points;
    the widest 95 % interval of pairs, autoencoders and seeds, as verdicts take it), num_pairs, num_seeds. Runs are
    matched in all of rows.CELL but the factor, and in the arm (`by` has it then) where that is not the factor. What
    only one side has, as the autoencoder's architecture, may stand in `by`. Raises UserError for an unknown column or
    level, and where nothing matches.
    """
    table = with_arm(runs)
    for name in (of, *by):
        if name not in table.columns:
            raise UserError(f"{name}: no column of the rows{nearest(name, [ARM, *COLUMNS])}")
    if score not in COLUMNS or COLUMNS[score].bounds != COLUMNS[SCORE].bounds or table[score].isna().all():
        known = [name for name, column in COLUMNS.items() if column.bounds == COLUMNS[SCORE].bounds]
        raise UserError(f"{score}: the rows hold no such score{nearest(score, known)}")
    table = table.assign(level=table[of].astype(str), **{SCORE: table[score]}).dropna(subset=[SCORE])
    if against not in set(table["level"]):
        raise UserError(f"{against}: no run has it as {of}; they have {', '.join(sorted(set(table['level'])))}")
    baseline, varied = table[table["level"] == against], [] if of == ARM else [of]
    by = _settings(of, by)
    records = []
    for (dataset, *values, level), first in table[table["level"] != against].groupby(["dataset", *by, "level"]):
        same = baseline if of == ARM else baseline[baseline[ARM] == first[ARM].iloc[0]]
        pairs = match(level, first, same, varied).pairs
        if len(pairs):
            gain = _gain(Contrast(level, pairs))
            records.append({"dataset": dataset, **dict(zip(by, values, strict=True)), "level": level, **gain})
    if not records:
        raise UserError(f"no run of {against} matches one of another {of} in all else: nothing to compare")
    return pd.DataFrame(records)


def _settings(of: str, by: Sequence[str]) -> list[str]:
    """The columns that tell rows of gains apart beside dataset and level."""
    return [*([] if of == ARM or ARM in by else [ARM]), *by]


def names(text: str) -> list[str]:
    """Return the columns that a text names, with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def with_arm(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the column `arm`: the initialisation and whether it is frozen."""
    arms = zip(runs["projector_init"], runs["projector_frozen"], strict=True)
    return runs.assign(**{ARM: [arm_name(*which) for which in arms]})


def _gain(contrast: Contrast) -> dict[str, Any]:
    effects = paired_effects(contrast)
    main = next(row for row in effects if (row.measure, row.dataset) == (PAIRED_MEAN, ALL))
    # the bounds of a single pair are no interval
    low, high = hull(effects, contrast.name) if main.num_pairs > 1 else (math.nan, math.nan)
    means = {side: 100 * contrast.pairs[f"{SCORE}_{side}"].mean() for side in ("first", "second")}
    bounds = {"gain": main.value, "low": low, "high": high}
    return {**means, **bounds, "num_pairs": main.num_pairs, "num_seeds": main.num_seeds}


def markdown(table: pd.DataFrame, of: str, against: str) -> str:
    """Return the gains as a Markdown table and a sentence on what they stand on."""
    keys = _keys(table)
    heads = [*keys, of, "accuracy, %", f"{against}, %", "gain, points", "pairs"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in table.to_dict("records"):
        bounds = "one pair: no interval" if math.isnan(row["low"]) else f"[{row['low']:.2f}, {row['high']:.2f}]"
        span = f"{row['gain']:+.2f} {bounds}"
        numbers = [f"{row['first']:.2f}", f"{row['second']:.2f}", span, str(row["num_pairs"])]
        lines.append(f"| {' | '.join([*(_word(row[key]) for key in keys), row['level'], *numbers])} |")
    return "\n".join(lines) + f"\n\n{stands_on(table)}\n"


def _keys(table: pd.DataFrame) -> list[str]:
    """The columns before `level`, without the dataset where there is but one."""
    keys = list(table.columns[: table.columns.get_loc("level")])
    return keys if table["dataset"].nunique() > 1 else keys[1:]


def stands_on(table: pd.DataFrame) -> str:
    """Return in a sentence what the gains are and how many seeds they stand on."""
    seeds = sorted({*table["num_seeds"]})
    number = counted(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"Matched runs, 95 % intervals (the widest of pairs, autoencoders and seeds), {number}."


def picture(path: Path, table: pd.DataFrame, against: str, title: str) -> None:
    """Write the gains as a PNG: bars of the intervals, a colour and mark per value of the last column of `by`."""
    from matplotlib.figure import Figure

    *rows, last = ["level", *_keys(table)]
    labels = table[rows].map(_word).agg(", ".join, axis=1) if rows else pd.Series("", table.index)
    places, colours = list(dict.fromkeys(labels)), sorted(set(table[last]))
    figure = Figure(figsize=(8.5, 1.6 + 0.16 * len(places) * (1 + len(colours))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for number, value in enumerate(colours):
        own = table[table[last] == value]
        shift = 0.7 * ((number + 0.5) / len(colours) - 0.5)
        y = [places.index(label) + shift for label in labels[own.index]]
        axes.errorbar(
            own["gain"],
            y,
            xerr=[(own["gain"] - own["low"]).fillna(0), (own["high"] - own["gain"]).fillna(0)],
            label=_word(value),
            linestyle="none",
            markersize=5,
            capsize=2,
            **look(number),
        )
    axes.set_yticks(range(len(places)), places)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title)
    figure.supxlabel(f"accuracy minus that of {against}, points\n{stands_on(table)}", fontsize=9)
    axes.legend(title=last.replace("projector_", ""), loc="best", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def look(number: int) -> dict[str, Any]:
    """Return mark and colour of a figure's n-th level, from 0."""
    return {"marker": MARKS[number % len(MARKS)], "color": COLOURS[number % len(COLOURS)]}


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "own"
