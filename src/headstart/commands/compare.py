"""Judge the claims C1 to C9 on runs, and print the verdicts with their numbers."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.commands import terminal
from headstart.errors import UserError
from headstart.run import files, paths
from headstart.run.stage import say
from headstart.study import claims, published, published_rbf, rows, sections, tables, writing
from headstart.study.claims import sensitivity
from headstart.study.claims.verdict import MARGIN
from headstart.study.experiments import read_dvc, tracked_rows
from headstart.sweep.grid import ENDPOINT, read_grid

SOURCES = {
    "published": "the paper's published runs",
    "published_rbf": "the published runs of RBF heads",
    "dvc": "this repository's branches and DVC experiments",
    "mlflow": "the runs in MLflow",
}


def compare(options: argparse.Namespace) -> None:
    """Print the answers; raises UserError where nothing can be computed."""
    score, margin, said = endpoint(options, [options.rows])
    runs, notes = read(options.rows, options.published_dir)
    if options.save_rows:
        files.write_text(options.save_rows, rows.to_csv(runs))
    source = SOURCES.get(options.rows, options.rows)
    table = rows.finished(runs, source)
    if options.best_learning_rate:
        chosen, said_of = rows.at_best_rate(table.runs)
        table = replace(table, runs=chosen, notes=[*table.notes, *said_of])
    answers = claims.evaluate(table.runs, options.claim, margin, score)
    if not any(answer.everything.effects for answer in answers):
        print(f"{source}: nothing to compare yet; missing:\n{lacking(answers)}", file=sys.stderr)
        raise UserError(f"{source}: nothing to compare yet; what is missing stands above")
    intro = [f"Claims on {source}", said, rows.describe(table), *notes, *table.notes]
    judged = rows.judged_by(table.runs, score)
    found = sensitivity.assays(judged, score, margin), sensitivity.signs_of_failure(judged, margin)
    if options.format is None and terminal.is_terminal():
        draw(answers, intro, *found)
    else:
        say(tables.FORMATS[options.format or "md"](answers, intro, *found), end="")


def lacking(answers: Sequence[claims.Answer]) -> str:
    """Return a line per thing that claims lack, and how to begin."""
    wanting: dict[str, list[str]] = {}
    for answer in answers:
        wanting.setdefault(answer.reason, []).append(answer.claim)
    listed = [f"  {', '.join(names)}: {reason}" for reason, names in wanting.items()]
    return "\n".join([*listed, f"  to begin: {'; '.join(sections.TO_RUN)}"])


def draw(answers: Sequence[claims.Answer], intro: Sequence[str], able: Sequence[Any], signs: tables.Signs) -> None:
    """Print verdicts in short, and whether the runs can tell, for a terminal."""
    terminal.tell(*intro, "", *(f"Can these runs tell? {assay.able}: {assay.reason}" for assay in able))
    terminal.tell(*(f"Sign of failure: {words}" for there, words in signs if there), "")
    terminal.draw(*tables.brief_rows(answers, newline="\n"))
    terminal.tell("Every number: --format md", "")


def endpoint(options: argparse.Namespace, sources: Sequence[str]) -> tuple[str, float, str]:
    """Return the score and the margin that runs are judged by, and a sentence that says so.

    Those of --score and --margin; where they are left out, what the grid of the rows says, if all rows are of one.
    """
    if options.margin is not None and not options.margin > 0:
        raise UserError(f"--margin {options.margin:g}: must be above 0 (points of the score)")
    grids = {grid_of(source) for source in sources}
    path = grids.pop() if len(grids) == 1 else None
    grid = read_grid(path) if path else None
    score = options.score or (grid.endpoint if grid else ENDPOINT)
    margin = options.margin or (grid.margins.get(score, MARGIN) if grid else MARGIN)
    by = f", as {path} says" if path and not (options.score or options.margin) else ""
    told = f"Judged by {score}; a difference below {writing.points(margin)} does not matter{by}."
    return score, float(margin), told


def grid_of(source: str) -> Path | None:
    """Return the file of the grid whose committed rows a source is, or None."""
    path = Path(source)
    grid = path.parent.parent / f"{path.stem}.yaml"
    return grid if path.suffix == ".csv" and path.parent.name == "results" and grid.is_file() else None


def read_mlflow() -> list[dict[str, Any]]:
    """Return a row per dataset of every parent run in the experiment that params.yaml names, with what it took."""
    from headstart.run.params import load_params
    from headstart.tracking.tracked import read_runs

    records = []
    for run in read_runs(load_params().tracking.experiment):
        for row in tracked_rows(run.params, run.metrics, run.facts, run.name):
            train, probe = (run.seconds.get((stage, row["dataset"])) for stage in ("train_simclr", "fit_probe"))
            row |= {"train_seconds": train, "probe_seconds": probe, "images_per_second": run.rates.get(row["dataset"])}
            row["wall_seconds"] = train + probe if train is not None and probe is not None else None
            records.append(row if run.finished else row | {"probe_test_top1": None})
    return records


def read(source: str, published_dir: Path | None, workspace: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of a source (a key of SOURCES or a CSV file) and notes on reading them.

    workspace: dvc's rows hold the workspace's results too.
    """
    if source == "published":
        folder = published_dir or published.download(paths.main_workspace() / ".cache" / "published")
        return rows.to_rows(published.read_runs(folder), source), published.differing(folder)
    if source == "published_rbf":
        cache = paths.main_workspace() / ".cache" / "published_rbf"
        folder = published_dir or published.download(cache, published_rbf.SOURCE, published_rbf.SHA256)
        notes = [published_rbf.NOTE, *published.differing(folder, published_rbf.SHA256)]
        return rows.to_rows(published_rbf.read_runs(folder), source), notes
    if source == "dvc":
        records, notes = read_dvc(Path(), workspace)
        if all(record["probe_test_top1"] is None for record in records):
            raise UserError(
                f"{SOURCES[source]}: none holds finished results of its params.yaml; run dvc exp run, or make repro "
                "and git add dvc.lock metrics && git commit"
            )
        return rows.to_rows(records, source), notes
    if source == "mlflow":
        return rows.to_rows(read_mlflow(), source), []
    if not source.endswith(".csv"):
        raise UserError(f"--rows {source}: must be {', '.join(SOURCES)} or a CSV file of rows")
    table = rows.read_csv(Path(source))
    return table, table.attrs["comments"]
