"""Answers as Markdown, CSV, JSON or LaTeX."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from headstart.study import writing
from headstart.study.claims import Answer
from headstart.study.claims.sensitivity import Assay
from headstart.study.claims.verdict import (
    ALL,
    CANNOT_TELL,
    PAIRED_MEAN,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Effect,
    Verdict,
    deciding,
    hull,
    outcome,
)
from headstart.study.metrics import BASELINES

Signs = Sequence[tuple[bool, str]]  # of claims.sensitivity.signs_of_failure

VERDICTS = (SUPPORTED, REFUTED, UNDECIDED, CANNOT_TELL)

_blank = partial(writing.number, unknown="")
# heading, and how an Effect's cell reads; columns without any content are left out
_COLUMNS: dict[str, Callable[[Effect], str]] = {
    "contrast": lambda row: row.contrast,
    "measure": lambda row: row.measure,
    "dataset": lambda row: row.dataset,
    "value": lambda row: _blank(row.value, "+.2f"),
    "bounds": lambda row: writing.bounds(row.low, row.high),
    "of": lambda row: row.interval,
    "median": lambda row: _blank(row.median, "+.2f"),
    "wins": lambda row: _blank(row.wins, ".0%"),
    "p": lambda row: _blank(row.p, ".2g"),
    "Holm p": lambda row: _blank(row.p_holm, ".2g"),
    "binomial s.e.": lambda row: _blank(row.standard_error, ".2f"),
    "pairs": lambda row: str(row.num_pairs),
    "runs": lambda row: str(row.num_runs),
    "seeds": lambda row: str(row.num_seeds),
    "note": lambda row: row.note,
}
UNITS = (
    "Differences are accuracy points (percent of the test images); intervals hold 95 %, bootstraps 10,000 draws; "
    "none stands on fewer than three pairs, nor on two seeds or two autoencoders. p of paired means: Student's t of "
    "the means of seeds or autoencoders, Holm over datasets; p of best runs: exchanging the partners of whole seeds or "
    "autoencoders."
)


def markdown(answers: Sequence[Answer], intro: Sequence[str], able: Sequence[Assay], signs: Signs) -> str:
    """Return whether the runs can tell, and a section per claim: verdicts, reasons, what would decide it, all numbers.

    intro: a title and what to say of the rows; able, signs: of claims.sensitivity.
    """
    lines = [f"# {intro[0]}", *intro[1:], UNITS, *sensitivity(able, signs)]
    for answer in answers:
        lines.append(f"## {answer.claim} · {answer.statement}")
        for runs, verdict in answer.verdicts:
            lines.append(f"**{headline(verdict)}** ({runs}). {verdict.reason}")
        if answer.everything.decide:
            lines.append("What would decide it:")
            lines.append("\n".join(f"- {step}" for step in answer.everything.decide))
        for runs, verdict in answer.verdicts:
            if verdict.effects:
                lines.append(f"Numbers, {runs}:")
                lines.append(writing.markdown(*effect_table(verdict), numeric=()))
    return "\n\n".join(lines) + "\n"


def sensitivity(able: Sequence[Assay], signs: Signs, depth: int = 2) -> list[str]:
    """Return in Markdown whether the runs can tell, and the paper's signs of failure; depth: of the heading."""
    return [
        f"{'#' * depth} Can these runs tell?",
        *(f"**{assay.able}** {assay.reason}" for assay in able),
        writing.markdown(*assay_table(able), numeric=()),
        "Signs of failure, the paper's three:",
        "\n".join(f"- {'**yes:** ' if there else ''}{words}" for there, words in signs),
    ]


def assay_table(able: Sequence[Assay]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: of each dataset SimCLR, what needs no training and its difference, and the A/A pair."""
    rows = []
    for assay in able:
        where = [assay.place, assay.score]
        rows.append([*where, f"SimCLR: {assay.arm}", f"{100 * assay.level:.2f}", ""])
        for gain in assay.gains:
            level = _blank(100 * gain.level, ".2f") or writing.UNKNOWN
            rows.append([*where, BASELINES[gain.baseline], level, writing.gain(gain.value, gain.low, gain.high)])
        noise = assay.noise
        pair = writing.gain(noise.value, noise.low, noise.high) if noise else writing.UNKNOWN
        rows.append([*where, "A/A pair, their difference", "", pair])
    return ["dataset", "score", "of", "%", "SimCLR minus it, points"], rows


def brief(answers: Sequence[Answer]) -> str:
    """Return `brief_rows` as a table in Markdown."""
    return writing.markdown(*brief_rows(answers, "<br>"), numeric=())


def brief_rows(answers: Sequence[Answer], newline: str) -> tuple[list[str], list[Sequence[str]]]:
    """Return headings and a row per claim: the verdicts with and without failed runs, and what the first rests on."""
    records: list[Sequence[str]] = []
    for answer in answers:
        words = "; ".join(f"{runs}: {headline(own)}" for runs, own in answer.verdicts)
        numbers = newline.join(_span(answer, name) for name in deciding(answer.everything))
        claim = f"{answer.claim}: {answer.statement}"
        records.append((claim, words.removeprefix("all runs: "), numbers or answer.everything.reason))
    return ["claim", "verdict", "points, with the interval that decides"], records


def _span(answer: Answer, contrast: str) -> str:
    effects, wanted = answer.everything.effects, (contrast, PAIRED_MEAN, ALL)
    row = next(row for row in effects if (row.contrast, row.measure, row.dataset) == wanted)
    low, high = hull(effects, contrast)
    words = f"{contrast}: {writing.gain(row.value, low, high)}, {writing.counted(row.num_pairs, 'pair')}"
    return f"{words}: {outcome(low, high, answer.margin)}"


def latex(answers: Sequence[Answer], intro: Sequence[str], able: Sequence[Assay], signs: Signs) -> str:
    """Return booktabs tables: verdicts in a column's width, whether the runs can tell, and every claim's numbers."""
    parts = [f"% {line}" for line in (*intro, UNITS, *(words for _, words in signs))]
    heads, records = brief_rows(answers, newline=" ")
    title = f"{intro[0]}: verdicts. {UNITS}"
    widths = ("p{0.3\\linewidth}", "p{0.2\\linewidth}", "p{0.38\\linewidth}")
    parts.append(writing.latex(heads, records, caption=title, label="tab:verdicts", columns=widths))
    assays = " ".join(assay.reason for assay in able)
    parts.append(writing.latex(*assay_table(able), caption=assays, label="tab:sensitivity"))
    for answer in answers:
        for number, (runs, verdict) in enumerate(answer.verdicts):
            title = f"{answer.claim}: {answer.statement}. {headline(verdict)} ({runs}). {verdict.reason}"
            if verdict.effects:
                label = f"tab:{answer.claim}{'-without-failed' * number}"
                parts.append(writing.latex(*effect_table(verdict), caption=title, label=label))
            else:
                parts.append(f"% {title}")
    return "\n\n".join(parts) + "\n"


def csv(answers: Sequence[Answer], intro: Sequence[str], able: Sequence[Assay], signs: Signs) -> str:
    """Return a line per number at full precision; a verdict without numbers is one line with its reason as the note."""
    names = [field.name for field in fields(Effect)]
    lines = [
        [answer.claim, runs, verdict.verdict, verdict.points_to, *(row.get(name) for name in names)]
        for answer in answers
        for runs, verdict in answer.verdicts
        for row in [asdict(effect) for effect in verdict.effects] or [{"note": verdict.reason}]
    ]
    return writing.csv(["claim", "over", "verdict", "points_to", *names], lines)


def as_json(answers: Sequence[Answer], intro: Sequence[str], able: Sequence[Assay], signs: Signs) -> str:
    """Return everything as one JSON object; unknown numbers are null."""
    claims = [
        {
            "claim": answer.claim,
            "statement": answer.statement,
            "score": answer.score,
            "margin": answer.margin,
            "verdicts": {runs: asdict(verdict) for runs, verdict in answer.verdicts},
        }
        for answer in answers
    ]
    tree = {
        "notes": [*intro, UNITS],
        "sensitivity": [asdict(assay) for assay in able],
        "signs_of_failure": [{"there": there, "words": words} for there, words in signs],
        "claims": claims,
    }
    return json.dumps(_finite(tree), indent=1, allow_nan=False) + "\n"


def short(answers: Sequence[Answer], intro: Sequence[str], able: Sequence[Assay], signs: Signs) -> str:
    """Return whether the runs can tell, and a table with a line per claim."""
    return "\n\n".join([f"# {intro[0]}", *intro[1:], *sensitivity(able, signs), brief(answers), UNITS]) + "\n"


FORMATS: dict[str, Callable[[Sequence[Answer], Sequence[str], Sequence[Assay], Signs], str]] = {
    "md": markdown,
    "brief": short,
    "csv": csv,
    "json": as_json,
    "latex": latex,
}


def headline(verdict: Verdict) -> str:
    """Return the verdict in words, with what the numbers point to where it is held back."""
    held_back = verdict.points_to != verdict.verdict
    return f"{verdict.verdict}, though the numbers point to: {verdict.points_to}" if held_back else verdict.verdict


def effect_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a verdict's numbers as text; columns without any content are left out."""
    cells = {name: [read(row) for row in verdict.effects] for name, read in _COLUMNS.items()}
    known = {name: column for name, column in cells.items() if any(column)}
    return list(known), [list(row) for row in zip(*known.values(), strict=True)]


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
