"""What one factor changes, setting by setting: matched differences with intervals, as a table and a drawing."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.study import forest, svg, writing
from headstart.study.claims.contrasts import Contrast, match, paired_effects
from headstart.study.claims.paper import DEFAULT
from headstart.study.claims.verdict import ALL, PAIRED_MEAN, hull
from headstart.study.metrics import TOP1, heading
from headstart.study.rows import COLUMNS, SCORE, arm_name, judged_by

ARM = "arm"  # the initialisation and whether it is frozen, as one factor
BASELINE = arm_name(*DEFAULT)


def gains(
    runs: pd.DataFrame, of: str = ARM, against: str = BASELINE, by: Sequence[str] = (), score: str = TOP1
) -> pd.DataFrame:
    """Return a row per dataset, values of the columns `by`, and level of the factor `of` but `against`.

    Columns: dataset, by ..., level, first and second (mean scores of the two sides, percent), gain, low, high (points;
    the widest 95 % interval of pairs, autoencoders and seeds, as verdicts take it), num_pairs, num_seeds. Runs are
    matched in all of rows.MATCHED but the factor, and in the arm (`by` has it then) where that is not the factor. What
    only one side has, as the autoencoder's architecture, may stand in `by`. Raises UserError for an unknown column or
    level, and where nothing matches.
    """
    table = with_arm(runs)
    for name in (of, *by):
        if name not in table.columns:
            raise UserError(f"{name}: no column of the rows{nearest(name, [ARM, *COLUMNS])}")
    table = judged_by(table.assign(level=table[of].astype(str)), score)
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
    found = pd.DataFrame(records)
    place = found["level"].map(sorted(set(found["level"]), key=_order).index)
    return found.assign(place=place).sort_values(["dataset", *by, "place"], ignore_index=True).drop(columns="place")


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
    low, high = hull(effects, contrast.name)
    means = {side: 100 * contrast.pairs[f"{SCORE}_{side}"].mean() for side in ("first", "second")}
    bounds = {"gain": main.value, "low": low, "high": high}
    return {**means, **bounds, "num_pairs": main.num_pairs, "num_seeds": main.num_seeds}


def cells(table: pd.DataFrame, of: str, against: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the gains as text."""
    keys = _keys(table)
    heads = [*map(heading, keys), heading(of), "accuracy, %", f"{against}, %", "gain, points", "pairs"]
    lines = []
    for row in table.to_dict("records"):
        gain = writing.gain(row["gain"], row["low"], row["high"])
        numbers = [f"{row['first']:.2f}", f"{row['second']:.2f}", gain, str(row["num_pairs"])]
        lines.append([*(level(row[key], key) for key in keys), row["level"], *numbers])
    return heads, lines


def markdown(table: pd.DataFrame, of: str, against: str) -> str:
    """Return the gains as a Markdown table and a sentence on what they stand on."""
    return f"{writing.markdown(*cells(table, of, against))}\n\n{stands_on(table)}\n"


def latex(table: pd.DataFrame, of: str, against: str, caption: str) -> str:
    """Return the gains as a table in LaTeX."""
    told = f"{caption}. {stands_on(table)}"
    return writing.latex(*cells(table, of, against), caption=told, label=f"tab:gains-{of.replace('_', '-')}") + "\n"


def _keys(table: pd.DataFrame) -> list[str]:
    """The columns before `level`, without the dataset where there is but one."""
    keys = list(table.columns[: table.columns.get_loc("level")])
    return keys if table["dataset"].nunique() > 1 else keys[1:]


def stands_on(table: pd.DataFrame) -> str:
    """Return in a sentence what the gains are and how many seeds they stand on."""
    seeds = sorted({*table["num_seeds"]})
    number = writing.counted(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"Matched runs, 95 % intervals (the widest of pairs, autoencoders and seeds), {number}."


def drawing(table: pd.DataFrame, against: str, title: str) -> str:
    """Return the gains as the text of an SVG file: a colour and mark per value of the last column of `by`."""
    keys = ["level", *_keys(table)]
    last = keys.pop() if len(keys) > 1 else ""
    colours = sorted(set(table[last])) if last else [""]
    places: dict[str, list[forest.Estimate | None]] = {}
    for row in table.to_dict("records"):
        series = colours.index(row[last]) if last else 0
        name = level(row[last], last) if last else ""
        place = places.setdefault(", ".join(level(row[key], key) for key in keys), [None] * len(colours))
        place[series] = forest.Estimate(row["gain"], row["low"], row["high"], name, series)
    panel = forest.panel("", "points", [forest.Row(label, tuple(place)) for label, place in places.items()])
    legend = svg.legend([level(value, last) for value in colours]) if last else ()
    told = f", by {heading(last)}" if last else ""
    notes = (f"accuracy minus that of {against}, points{told}", stands_on(table))
    return svg.standalone(title, [panel], legend, notes)


def level(value: object, column: str) -> str:
    """Return the value of a factor in a word; where there is none: `own` images, `none` of an autoencoder."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or ("own" if column == "autoencoder_dataset" else "none")


def _order(name: str) -> tuple[float, str]:
    """Where a level stands: numbers by size, then words."""
    try:
        return float(name), ""
    except ValueError:
        return math.inf, name
