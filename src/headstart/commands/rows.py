"""The rows of a sweep's finished cells as a small CSV file, for what outlives the repository's experiments."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from headstart.commands.compare import read
from headstart.errors import UserError
from headstart.machine import processor
from headstart.run.artifacts import write_text
from headstart.run.stage import say
from headstart.study import rows
from headstart.study.writing import counted
from headstart.sweep.cells import Cell, differing, load_cells, make_cells
from headstart.sweep.clone import experiments
from headstart.sweep.grid import Grid
from headstart.sweep.ledger import Finished, Ledger
from headstart.sweep.node import reason
from headstart.sweep.state import DONE, FAILED, SweepState

FOLDER = Path("sweeps/results")


def write_rows(grid: Grid, root: Path, states: SweepState, out: Path | None) -> None:
    """Write the rows of a sweep's finished cells, with the grid, commit and compute that made them in comments above.

    What failed has no row, but a comment. `wall_seconds` is of the whole cell, where this machine ran it. Raises
    UserError where no cell is finished.
    """
    # as it was begun: the code, and with it the identities, may have changed since
    cells = load_cells(states.folder / "cells.json") or make_cells(grid, root)
    finished = Ledger(root).read()
    done = {cell.name: finished[cell.identity] for cell in cells if cell.identity in finished}
    if not done:
        raise UserError(f"{grid.path}: no finished cell; python -m headstart sweep run {grid.path}")
    table = _rows_of(done)
    seconds = {
        done[name].name: state.ended - state.started
        for name, state in states.all().items()
        if name in done and state.state == DONE and state.started
    }
    table["wall_seconds"] = table["run"].map(seconds)
    path = out or FOLDER / f"{grid.name}.csv"
    comments = [
        f"{grid.path.as_posix()} at commit {_revisions(root, done)}: {len(done)} of {len(cells)} cells; made by "
        f"python -m headstart sweep rows {grid.name}",
        f"{sum(seconds.values()) / 3600:.1f} hours of cells{_where(states)}",
        *_failures([cell for cell in cells if cell.name not in done], states),
    ]
    write_text(path, rows.to_csv(table, comments))
    say(f"{path}: {counted(len(table), 'row')}, {path.stat().st_size / 1e3:.0f} kB")


def _rows_of(done: Mapping[str, Finished]) -> pd.DataFrame:
    """The rows of these experiments and branches, in the order of their settings."""
    table, _ = read("dvc", None)
    names = {row.name for row in done.values()} | {row.commit for row in done.values()}
    own = table[table["run"].isin(names)]
    return own.sort_values([*rows.IDENTITY, "run"], ignore_index=True)


def _failures(cells: Sequence[Cell], states: SweepState) -> list[str]:
    """A sentence per reason why cells failed, with what tells them apart."""
    failed = {cell: state for cell in cells if (state := states.get(cell.name)).state == FAILED}
    if not failed:
        return []
    keys = sorted(differing(list(failed)) or next(iter(failed)).overrides)
    by_reason: dict[str, list[str]] = defaultdict(list)
    for cell, state in failed.items():
        why = re.split(r" = |: | \(", reason(state.error).removeprefix("error: "))[0]
        by_reason[why].append(" ".join(f"{key.rpartition('.')[2]}={cell.overrides.get(key)}" for key in keys))
    return [f"{len(those)} failed and have no row, {why}: {', '.join(those)}" for why, those in by_reason.items()]


def _revisions(root: Path, done: Mapping[str, Finished]) -> str:
    """The commits whose code the cells ran, that of most cells first."""
    baselines = {name: "".join(ref.split("/")[2:4]) for name, ref in experiments(root).items()}
    counts = Counter(baselines.get(row.name, row.commit)[:10] for row in done.values())
    return ", ".join(commit for commit, _ in counts.most_common())


def _where(states: SweepState) -> str:
    jobs = states.driver().get("options", {}).get("jobs")
    cores = len(os.sched_getaffinity(0))
    return f", {jobs} at once, on {cores} cores of {processor()}" if jobs else ""
