"""Tables and figures of the committed rows: of each grid what its `results` name."""

import argparse
from pathlib import Path

from headstart.commands.rows import FOLDER
from headstart.errors import UserError
from headstart.run.files import write_text
from headstart.run.stage import say
from headstart.study import claims, gains, means, rows, tables
from headstart.sweep.grid import Grid, read_grid

OUT = Path("docs/results")


def results(options: argparse.Namespace) -> None:
    """Write docs/results/NAME.md and its figures for each sweeps/results/NAME.csv: equal rows give equal files."""
    files = sorted(FOLDER.glob("*.csv"))
    if not files:
        raise UserError(f"{FOLDER}: no rows; python -m headstart sweep rows NAME writes those of a sweep")
    for file in files:
        page = OUT / f"{file.stem}.md"
        write_text(page, _page(read_grid(Path("sweeps") / f"{file.stem}.yaml"), file))
        say(str(page))


def _page(grid: Grid, file: Path) -> str:
    table = rows.read_csv(file)
    runs = rows.finished(table, str(file))
    made = "Made by `make results` of [the rows](../../" + f"{file.as_posix()}): {'; '.join(table.attrs['comments'])}."
    parts = [f"# {grid.name}", grid.description, f"{made} {rows.describe(runs)}", rows.against_untrained(runs.runs)]
    parts = [part for part in (*parts, *runs.notes) if part]
    if chosen := grid.results.get("claims"):
        answers = claims.evaluate(runs.runs, chosen)
        parts += ["## Claims", tables.brief(answers), tables.UNITS]
    number = 0
    for make, key in ((_gains, "gains"), (_means, "means")):
        for options in grid.results.get(key, []):
            number += 1
            parts += make(grid, runs, options, f"{grid.name}{'' if number == 1 else f'-{number}'}")
    return "\n\n".join(parts) + "\n"


def _gains(grid: Grid, runs: rows.Table, options: dict[str, str], figure: str) -> list[str]:
    of, against = options.get("of", gains.ARM), options.get("against", gains.BASELINE)
    by = gains.names(options.get("by", ""))
    score = options.get("score", gains.SCORE)
    table = gains.gains(runs.runs, of, against, by, score)
    what = f"{score}: {of} against {against}" + (f", by {', '.join(by)}" if by else "")
    write_text(OUT / f"{figure}.svg", gains.drawing(table, against, f"{grid.name}, {score}"))
    return [
        f"## {what}",
        f"![{what}: {gains.stands_on(table)}]({figure}.svg)",
        gains.markdown(table, of, against).rstrip(),
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
