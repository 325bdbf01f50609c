"""The report on many runs: verdicts, figures, cost and the runs themselves, as a page."""

from collections.abc import Sequence

import pandas as pd

from headstart.study import figures, rows, sections, tables, writing
from headstart.study.claims import Answer, sensitivity
from headstart.study.claims.verdict import CANNOT_TELL, REFUTED, SUPPORTED, Verdict
from headstart.study.lines import Line
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
    curves: Sequence[Line] = (),
    pictures: Sequence[Picture] = (),
    flows: Sequence[Line] = (),
) -> Page:
    """Return the page on finished runs and the answers to claims on them.

    source: what the runs are, in words. notes: what was odd about reading them. curves, pictures: where they are at
    hand; the page says what it lacks. flows: of runs that measured them, if there are any.
    """
    runs = data.runs
    found = sections.measured(curves, flows, figures.arm_names(runs))
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
    blocks: list[Block] = [Chips(chips), Text(answer.everything.reason)]
    figure = figures.effects(answer, margin)
    blocks += [figure] if figure else []
    if answer.without_failed and answer.without_failed.reason != answer.everything.reason:
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


def _runs(runs: pd.DataFrame, notes: Sequence[str]) -> tuple[Block, ...]:
    numeric = {"hidden", "out", "seed", "test top-1, %", "val top-1, %", "train loss", "val loss", "hours", "images/s"}
    choose = {"dataset", "init", "first layer", "hidden", "out", "activation", "standardised", "seed", "failed"}
    records = [_run(row) for row in runs.to_dict("records")]
    columns = tuple(Column(title, title in numeric, title in choose) for title in records[0])
    cells = tuple(
        tuple(Chip(cell, "no") if cell == "failed" else cell for cell in record.values()) for record in records
    )
    caption = f"Every finished run. {figures.stands_on(runs)}"
    listed = Table("runs-table", caption, columns, cells, searchable=True, brief=len(records) > 100)
    return (*((Points(tuple(notes)),) if notes else ()), listed)


def _run(row: dict[str, object]) -> dict[str, str]:
    def cell(name: str, style: str, factor: float = 1.0) -> str:
        return writing.number(factor * float(str(row[name])), style)

    return {
        "dataset": str(row["dataset"]),
        "init": str(row["projector_init"]),
        "first layer": "frozen" if row["projector_frozen"] else "trainable",
        "hidden": str(row["projector_hidden_dim"]),
        "out": str(row["projector_out_dim"]),
        "activation": str(row["projector_activation"]),
        "standardised": "yes" if row["standardize"] else "no",
        "seed": str(row["seed"]),
        "test top-1, %": cell("probe_test_top1", ".2f", 100),
        "val top-1, %": cell("probe_val_top1", ".2f", 100),
        "train loss": cell("train_loss", ".3f"),
        "val loss": cell("val_loss", ".3f"),
        "hours": cell("wall_seconds", ".2f", 1 / 3600),
        "images/s": cell("images_per_second", ".0f"),
        "failed": "failed" if row["failed"] else "no",
        "run": str(row["run"]),
    }
