"""Tables and figures of the committed rows: of each grid what its `results` name."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd

from headstart.commands.rows import FOLDER
from headstart.errors import UserError
from headstart.run.files import write_text
from headstart.run.stage import say
from headstart.study import claims, gains, means, overview, rows, selection, tables, writing
from headstart.study.claims import sensitivity
from headstart.study.claims.verdict import MARGIN
from headstart.sweep.grid import Grid, read_grid

OUT = Path("docs/results")
LABEL_FREE = "label_free"  # the page's name


def results(options: argparse.Namespace) -> None:
    """Write docs/results/NAME.md and its figures for each sweeps/results/NAME.csv: equal rows give equal files."""
    files = sorted(FOLDER.glob("*.csv"))
    if not files:
        raise UserError(f"{FOLDER}: no rows; python -m headstart sweep rows NAME writes those of a sweep")
    grids = [read_grid(Path("sweeps") / f"{file.stem}.yaml") for file in files]
    lines: list[overview.Line] = []
    printed: list[pd.DataFrame] = []
    endpoints: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for grid, file in zip(grids, files, strict=True):
        table = rows.read_csv(file)
        runs = rows.finished(table, str(file))
        changes = [_changes(grid, runs, options) for options in grid.results.get("gains", [])]
        page = OUT / f"{grid.name}.md"
        write_text(page, _page(grid, runs, [file.as_posix(), *table.attrs["comments"]], changes))
        say(str(page))
        printed += [change.table for change in changes]
        for dataset, own in rows.judged_by(runs.runs, grid.endpoint).groupby("dataset"):
            endpoints.setdefault((str(dataset), grid.endpoint), []).append(own)
        for score in grid.scores:
            lines += overview.lines(grid.name, runs.runs, score, _margin(grid, score), score == grid.endpoint)
    write_text(OUT / "README.md", _overview(lines, printed))
    say(str(OUT / "README.md"))
    write_label_free({key: selection.pooled(tables) for key, tables in sorted(endpoints.items())})


def write_label_free(endpoints: Mapping[tuple[str, str], pd.DataFrame]) -> None:
    """Write the page on scores without labels, of (dataset, endpoint) with runs enough; none where there are none."""
    page = OUT / f"{LABEL_FREE}.md"
    found = {key: selection.ranked(runs) for key, runs in endpoints.items() if selection.has_scores(runs)}
    others = {f"{key[0]} by {key[1]}": runs for key, runs in endpoints.items() if key not in found}
    few = f"Fewer than {selection.LEAST_RUNS} runs have scores without labels: {', '.join(others)}."
    if not found:
        say(f"{page}: not made. {few}")
        return
    parts = ["# Does a score without labels pick the better backbone?"]
    parts += ["Made by `make results` of the rows in `sweeps/results`.", selection.EXPLAINED]
    for number, ((dataset, endpoint), scores) in enumerate(found.items(), 1):
        figure = f"{LABEL_FREE}{'' if number == 1 else f'-{number}'}.svg"
        title = f"{dataset}, by {endpoint}"
        write_text(OUT / figure, selection.drawing(scores, title))
        parts += [f"## {title}", selection.answer(scores, endpoint), f"![{title}: rho and picks]({figure})"]
        parts.append(selection.markdown(scores))
    if others:
        parts += ["## Validation NT-Xent alone", few]
        known = {name: row for name, runs in others.items() if (row := selection.by_loss_alone(runs))}
        parts += ["All runs tell their validation loss:", selection.markdown_of_losses(known)] if known else []
    write_text(page, "\n\n".join(parts) + "\n")
    say(str(page))


@dataclass(frozen=True)
class _Change:
    """A table of gains, and what it is of."""

    of: str
    against: str
    by: list[str]
    score: str
    table: pd.DataFrame


def _changes(grid: Grid, runs: rows.Table, options: dict[str, str]) -> _Change:
    of, against = options.get("of", gains.ARM), options.get("against", gains.BASELINE)
    by, score = gains.names(options.get("by", "")), options.get("score", grid.endpoint)
    return _Change(of, against, by, score, gains.gains(runs.runs, of, against, by, score))


def _margin(grid: Grid, score: str) -> float:
    return grid.margins.get(score, MARGIN)


def _overview(lines: Sequence[overview.Line], printed: Sequence[pd.DataFrame]) -> str:
    """All committed rows on one screen: each by its endpoint, and by the other scores that its grid's file names."""
    found = overview.ordered(lines)
    title = "Is it freezing, or content? By their endpoints, the grids that froze a random layer, too, and can tell"
    picture = []
    if drawn := [line for line in found if line.splits_the_gain and line.assay.passes and line.endpoint]:
        write_text(OUT / "overview.svg", overview.drawing(drawn, title))
        picture = ["![The paper's gain, freezing, content and noise of each grid, with intervals](overview.svg)"]
    parts = [
        "# Is it freezing, or content?",
        "Made by `make results` of the rows in `sweeps/results`; each grid's page has all its numbers.",
        overview.EXPLAINED,
        *picture,
        overview.markdown(found),
        "In bold: the endpoint, the score that a grid names beforehand. First stand the grids that tell freezing "
        "from content; of these first those that can tell, that with the narrowest interval of the paper's gain before "
        "others, last those that cannot: there SimCLR does not clearly beat what needs no training, and a difference "
        "means nothing.",
        overview.shared_draws(found),
        _chance(printed),
    ]
    return "\n\n".join(parts) + "\n"


def _chance(printed: Sequence[pd.DataFrame]) -> str:
    """How many of all printed gains leave zero out, and how many would where nothing had any effect."""
    rows_of_all = pd.concat(printed, ignore_index=True).dropna(subset=["low"])
    apart = int(((rows_of_all["low"] > 0) | (rows_of_all["high"] < 0)).sum())
    number = len(rows_of_all)
    return (
        f"Of the {number} gains with an interval that the grids' pages print, {apart} leave zero out; intervals that "
        f"hold 95 % do so in about {number * 0.05:.0f} where nothing has any effect."
    )


def _page(grid: Grid, runs: rows.Table, origin: Sequence[str], changes: Sequence[_Change]) -> str:
    """The page of a grid; origin: its file of rows, and the comments there."""
    file, *comments = origin
    made = f"Made by `make results` of [the rows](../../{file}): {'; '.join(comments)}."
    parts = [f"# {grid.name}", grid.description, f"{made} {rows.describe(runs)}", rows.against_untrained(runs.runs)]
    parts = [part for part in (*parts, *runs.notes) if part]
    for score in grid.scores:
        parts += _judged(grid, runs, score)
    figures = (f"{grid.name}{'' if number == 1 else f'-{number}'}" for number in count(1))
    for change in changes:
        parts += _gains(grid, change, next(figures))
    for options in grid.results.get("means", []):
        parts += _means(grid, runs, options, next(figures))
    return "\n\n".join(parts) + "\n"


def _judged(grid: Grid, runs: rows.Table, score: str) -> list[str]:
    """Whether the runs can tell by a score, and their verdicts; the endpoint comes first."""
    margin = _margin(grid, score)
    judged = rows.judged_by(runs.runs, score)
    able, signs = sensitivity.assays(judged, score, margin), sensitivity.signs_of_failure(judged, margin)
    title = f"## Judged by {score}{', the endpoint' if score == grid.endpoint else ''}, margin {writing.points(margin)}"
    parts = [title, *tables.sensitivity(able, signs, depth=3)]
    if chosen := grid.results.get("claims"):
        parts += ["### Claims", tables.brief(claims.evaluate(runs.runs, chosen, margin, score)), tables.UNITS]
        if judged.groupby("dataset")["learning_rate"].nunique().max() > 1:
            own, notes = rows.at_best_rate(runs.runs)
            answers = claims.evaluate(own, chosen, margin, score)
            parts += ["### Claims, each arm at its own learning rate", *notes, tables.brief(answers)]
    return parts


def _gains(grid: Grid, change: _Change, figure: str) -> list[str]:
    against, table = change.against, change.table
    what = f"{change.score}: {change.of} against {against}" + (f", by {', '.join(change.by)}" if change.by else "")
    write_text(OUT / f"{figure}.svg", gains.drawing(table, against, f"{grid.name}, {change.score}"))
    return [
        f"## {what}",
        f"![{what}: {gains.stands_on(table)}]({figure}.svg)",
        gains.markdown(table, change.of, against).rstrip(),
    ]


def _means(grid: Grid, runs: rows.Table, options: dict[str, str], figure: str) -> list[str]:
    by, scores = gains.names(options["by"]), gains.names(options["score"])
    table = means.means(runs.runs, by, scores)
    means.picture(OUT / f"{figure}.png", table, by, scores, grid.name)
    what = f"{', '.join(scores)} by {', '.join(by)}"
    return [
        f"## {what}",
        f"![{what}: means, least to greatest]({figure}.png)",
        means.markdown(table, by, scores).rstrip(),
    ]
