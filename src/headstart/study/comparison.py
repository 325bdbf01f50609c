"""The report on many runs: verdicts, figures, cost and the runs themselves, as a page."""

from collections.abc import Sequence

import pandas as pd

from headstart.study import figures, protocols, rows, sections, tables, writing
from headstart.study.claims import Answer, sensitivity
from headstart.study.claims.verdict import CANNOT_TELL, REFUTED, SUPPORTED, Verdict
from headstart.study.page import Block, Chip, Chips, Column, Details, Page, Picture, Points, Section, Table, Text, table

NOTHING = {
    "curves": "These rows hold final losses only; curves come with runs of this repository (`--rows dvc`).",
    "views": "No picture of views is at hand for these runs.",
    "reconstruction": "No picture of reconstructions is at hand.",
}


def comparison(
    data: rows.Table,
    answers: Sequence[Answer],
    *,
    source: str,
    score: str,
    margin: float,
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    lines: sections.Measured | None = None,
) -> Page:
    """Return the page on finished runs and the answers to claims on them.

    source: what the runs are, in words. notes: what was odd about reading them. lines, pictures: where they are at
    hand; the page says what it lacks.
    """
    runs = data.runs
    found = sections.measured(lines or sections.Measured(), figures.arm_names(runs))
    shown = sections.pictured(pictures, NOTHING)
    blocks = {
        "sensitivity": _sensitivity(runs, score, margin),
        "verdicts": _verdicts(answers),
        "maps": _maps(runs),
        "distribution": (figures.distribution(runs),),
        "loss": _or(figures.loss_and_accuracy(runs), "No run has a finite loss."),
        "curves": (Text(NOTHING["curves"]),),
        **found,
        **shown,
        "reconstruction": (*_gain(runs), *shown["reconstruction"]),
        "cost": _cost(runs),
        "runs": _runs(runs, [*notes, *data.notes]),
    }
    claims = [_claim(answer, margin) for answer in answers]
    return sections.build(f"Headstart: {source}", _lead(data, answers), blocks, claims)


def _lead(data: rows.Table, answers: Sequence[Answer]) -> str:
    if not any(answer.everything.effects for answer in answers):
        nothing = sections.nothing_to_compare(len(data.runs), data.runs["seed"].nunique())
        return f"{rows.describe(data)} {nothing}"
    words = {verdict: sum(answer.everything.verdict == verdict for answer in answers) for verdict in tables.VERDICTS}
    told = {verdict: number for verdict, number in words.items() if number or verdict != CANNOT_TELL}
    counts = ", ".join(f"{number} {verdict}" for verdict, number in told.items())
    return f"{rows.describe(data)} Of {len(answers)} claims: {counts}."


# ---- whether these runs can tell -----------------------------------------------------------------------------------


def _sensitivity(runs: pd.DataFrame, score: str, margin: float) -> tuple[Block, ...]:
    able = sensitivity.assays(runs, score, margin)
    words = {True: Chip("these runs can tell", "yes"), False: Chip(CANNOT_TELL, "no"), None: Chip("unknown", "open")}
    heads, cells = tables.assay_table(able)
    columns = tuple(Column(title, title not in ("dataset", "score", "of")) for title in heads)
    signs = sensitivity.signs_of_failure(runs, margin)
    return (
        *(block for assay in able for block in (Chips((words[assay.passes],)), Text(assay.reason))),
        Table(
            "sensitivity-table",
            f"SimCLR and what needs no training, by {score}, with 95 % intervals; the A/A pair, the autoencoder's "
            f"layer minus itself with its columns permuted, is noise. {figures.stands_on(runs)}",
            columns,
            tuple(map(tuple, cells)),
        ),
        Text("Signs of failure, the paper's three:"),
        Points(tuple(f"{'Yes: ' if there else ''}{words}" for there, words in signs)),
    )


# ---- verdicts --------------------------------------------------------------------------------------------------------


def chip(verdict: Verdict) -> Chip:
    """Return the verdict as a chip."""
    return Chip(verdict.verdict, {SUPPORTED: "yes", REFUTED: "no"}.get(verdict.verdict, "open"))


def _verdicts(answers: Sequence[Answer]) -> tuple[Block, ...]:
    columns = tuple(
        Column(title) for title in ("claim", "verdict", "the numbers point to", "without failed runs", "statement")
    )
    cells = tuple(
        (
            answer.claim,
            chip(answer.everything),
            answer.everything.points_to,
            chip(answer.without_failed) if answer.without_failed else "no run failed",
            answer.statement,
        )
        for answer in answers
    )
    note = f"{tables.UNITS} A verdict is undecided on fewer than three seeds or without the controls."
    return Table("verdict-table", "What the runs say of each claim.", columns, cells), Text(note, "note")


def _claim(answer: Answer, margin: float) -> Section:
    chips = tuple(
        Chip(
            chip(verdict).words,
            chip(verdict).tone,
            runs if verdict.points_to == verdict.verdict else f"{runs}; the numbers point to: {verdict.points_to}",
        )
        for runs, verdict in answer.verdicts
    )
    held = answer.everything.reason != answer.reason
    told = f"{answer.reason} Which runs cannot tell, and why: the section above." if held else answer.reason
    blocks: list[Block] = [Chips(chips), Text(told)]
    figure = figures.effects(answer, margin)
    blocks += [figure] if figure else []
    if answer.without_failed and not held and answer.without_failed.reason != answer.everything.reason:
        blocks.append(Text(f"Without failed runs: {answer.without_failed.reason}", "note"))
    if answer.everything.decide:
        blocks += [Text("What would decide it:"), Points(tuple(map(_command, answer.everything.decide)))]
    numbers = [
        _numbers(answer, verdict, runs, number)
        for number, (runs, verdict) in enumerate(answer.verdicts)
        if verdict.effects
    ]
    if numbers:
        total = sum(len(block.rows) for block in numbers)
        blocks.append(Details(f"All {total} numbers of {answer.claim}", tuple(numbers)))
    return Section(answer.claim, f"{answer.claim} · {answer.statement}", tuple(blocks), answer.claim, level=3)


def _numbers(answer: Answer, verdict: Verdict, runs: str, number: int) -> Table:
    headings, cells = tables.effect_table(verdict)
    words = {"contrast", "measure", "dataset", "bounds", "of", "note"}
    columns = tuple(Column(title, title not in words) for title in headings)
    return Table(f"{answer.claim}-numbers-{number}", f"{answer.claim}, {runs}.", columns, tuple(map(tuple, cells)))


def _command(step: str) -> str:
    """Set the command in a step as code."""
    start = step.find("dvc exp run")
    return f"{step[:start]}`{step[start:]}`" if start >= 0 else step


# ---- figures ---------------------------------------------------------------------------------------------------------


def _or(figure: Block | None, otherwise: str) -> tuple[Block, ...]:
    return (figure or Text(otherwise),)


def _maps(runs: pd.DataFrame) -> tuple[Block, ...]:
    first, *others = figures.heat_maps(runs)
    blocks: list[Block] = [first[1]]
    if others:
        blocks.append(Details("The same for each dataset", tuple(figure for _, figure in others)))
    return tuple(blocks)


def _gain(runs: pd.DataFrame) -> tuple[Block, ...]:
    nothing = "No autoencoder with a known error has runs beside random ones, so there is no gain to set beside it."
    return _or(figures.reconstruction_and_gain(runs), nothing)


# ---- cost and runs ---------------------------------------------------------------------------------------------------


def _cost(runs: pd.DataFrame) -> tuple[Block, ...]:
    labelled = figures.labelled(runs)
    if labelled[["train_seconds", "probe_seconds"]].isna().all(axis=None):
        return (Text("These rows hold no times; those of MLflow do (`--rows mlflow`)."),)
    groups = [(str(name), part) for name, part in labelled.groupby("group")]
    records = [_cost_row(name, part) for name, part in [*groups, ("all", labelled)]]
    numeric = set(records[0]) - {"dataset"}
    return (
        table(
            "cost-table",
            f"Wall time as recorded; min a run and images/s are medians. {figures.stands_on(runs)}",
            records,
            numeric,
        ),
    )


def _cost_row(name: str, part: pd.DataFrame) -> dict[str, str]:
    seconds = part["train_seconds"].fillna(0) + part["probe_seconds"].fillna(0)
    known = part[["train_seconds", "probe_seconds"]].notna().any(axis=1)
    return {
        "dataset": name,
        "runs": str(len(part)),
        "with times": str(int(known.sum())),
        "training, h": f"{part['train_seconds'].sum() / 3600:.2f}",
        "probe, h": f"{part['probe_seconds'].sum() / 3600:.2f}",
        "min a run": writing.number(seconds[known].median() / 60, ".1f"),
        "images/s": writing.number(part["images_per_second"].median(), ".0f"),
    }


# heading -> column, of what may differ between runs; what is equal in all of them stands in the caption
_AXES = {
    "dataset": "dataset",
    "init": "projector_init",
    "first layer": "first",
    "hidden": "projector_hidden_dim",
    "out": "projector_out_dim",
    "kind": "projector_kind",
    "layers": "projector_num_layers",
    "position": "projector_position",
    "norm": "projector_norm",
    "activation": "projector_activation",
    "autoencoder": "autoencoder_arch",
    "autoencoder of": "autoencoder_dataset",
    "standardised": "standardised",
    "loss": "loss",
    "learning rate": "learning_rate",
    "head's rate": "head_rate",
    "first layer's rate": "first_layer_rate",
    "setting": "setting",
    "seed": "seed",
}
# heading -> column, digits, factor
_NUMBERS = {
    "test top-1, %": ("probe_test_top1", ".2f", 100.0),
    "5 labels, %": ("probe_few5", ".2f", 100.0),
    "20 neighbours, %": ("probe_knn20", ".2f", 100.0),
    "val top-1, %": ("probe_val_top1", ".2f", 100.0),
    "train loss": ("train_loss", ".3f", 1.0),
    "val loss": ("val_loss", ".3f", 1.0),
    "hours": ("wall_seconds", ".2f", 1 / 3600),
    "images/s": ("images_per_second", ".0f", 1.0),
}


def _runs(runs: pd.DataFrame, notes: Sequence[str]) -> tuple[Block, ...]:
    told, common = _axes(runs)
    numbers = {title: row for title, row in _NUMBERS.items() if runs[row[0]].notna().any()}
    numeric = {*numbers, *(title for title in told if pd.api.types.is_numeric_dtype(told[title]))}
    cells = {title: [_axis_word(value) for value in told[title]] for title in told}
    for title, (column, style, factor) in numbers.items():
        cells[title] = [writing.number(factor * float(value), style) for value in runs[column]]
    cells["failed"] = ["failed" if failed else "no" for failed in runs["failed"]]
    columns = tuple(Column(title, title in numeric, title in told or title == "failed") for title in cells)
    named = [str(name) or writing.UNKNOWN for name in runs["run"]]
    lines = zip(named, *cells.values(), strict=True)
    caption = f"Every finished run. {common}{figures.stands_on(runs)}"
    listed = Table(
        "runs-table",
        caption,
        (Column("run"), *columns),
        tuple(tuple(Chip(cell, "no") if cell == "failed" else cell for cell in line) for line in lines),
        searchable=True,
        brief=len(runs) > 100,
    )
    return (*((Points(tuple(notes)),) if notes else ()), listed)


def _axes(runs: pd.DataFrame) -> tuple[dict[str, pd.Series], str]:
    """What differs between runs, by heading, and a sentence on what does not."""
    table = runs.assign(
        first=runs["projector_frozen"].map(rows.freezing),
        standardised=runs["standardize"].map({True: "yes", False: "no"}),
        setting=protocols.groups(runs).str.partition(", ")[2],
    )
    told = {title: table[column] for title, column in _AXES.items()}
    several = {title: values for title, values in told.items() if values.nunique(dropna=False) > 1}
    same = [
        f"{title} {word}"
        for title, values in told.items()
        if title not in several and (word := _axis_word(values.iloc[0])) not in ("", writing.UNKNOWN)
    ]
    return several, f"All: {', '.join(same)}. " if same else ""


def _axis_word(value: object) -> str:
    return writing.number(value, "g") if isinstance(value, float) else str(value)
