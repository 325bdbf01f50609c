"""The rows of a sweep's finished cells as a small CSV file, for what outlives the repository's experiments."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from headstart import history
from headstart.commands.compare import read
from headstart.errors import UserError
from headstart.machine import processor
from headstart.run.files import write_text
from headstart.run.stage import say
from headstart.study import rows
from headstart.study.writing import counted
from headstart.sweep.cells import Cell, differing, load_cells, make_cells
from headstart.sweep.grid import Grid
from headstart.sweep.ledger import Finished, Ledger, result_of
from headstart.sweep.run_cell import reason
from headstart.sweep.state import DONE, FAILED, SweepState

FOLDER = Path("sweeps/results")


def write_rows(grid: Grid, root: Path, states: SweepState, out: Path | None) -> None:
    """Write the rows of a sweep's finished cells, with the grid, commit and compute that made them in comments above.

    Rows that the file has already and that no experiment here tells of, as in a fresh clone, stay. What failed has no
    row, but a comment. `wall_seconds` is of the whole cell, where it is known. Raises UserError where no cell is
    finished.
    """
    # as it was begun: the code, and with it the identities, may have changed since
    cells = load_cells(states.folder / "cells.json") or make_cells(grid, root)
    finished = Ledger(root).read()
    done = {cell.name: result for cell in cells if (result := result_of(cell, finished))}
    if not done:
        raise UserError(f"{grid.path}: no finished cell; python -m headstart sweep run {grid.path}")
    path = out or FOLDER / f"{grid.name}.csv"
    kept = rows.read_csv(path) if path.is_file() else None
    table = _rows_of(done, states, kept, {cell.identity for cell in cells})
    seconds = table["wall_seconds"].sum()
    told = "".join(kept.attrs["comments"][:1]) if kept is not None else ""
    earlier = re.findall(r"\b[0-9a-f]{10}\b", told.partition(" at commit ")[2].partition(":")[0])
    revisions = ", ".join(dict.fromkeys([*_revisions(root, done), *earlier]))
    comments = [
        f"{grid.path.as_posix()} at commit {revisions}: {len(table)} of {len(cells)} cells; made by "
        f"python -m headstart sweep rows {grid.name}",
        f"{seconds / 3600:.1f} hours of cells{_where(states)}",
        *_failures([cell for cell in cells if cell.name not in done], states),
    ]
    write_text(path, rows.to_csv(table, comments))
    say(f"{path}: {counted(len(table), 'row')}, {path.stat().st_size / 1e3:.0f} kB")


def _rows_of(
    done: Mapping[str, Finished], states: SweepState, kept: pd.DataFrame | None, identities: Collection[str]
) -> pd.DataFrame:
    """The rows of these experiments and branches, and those that only the file tells of, in the order of settings."""
    table, _ = read("dvc", None)
    names = {row.name for row in done.values() if not row.file}
    own = table[table["run"].isin(names) & table["identity"].isin(identities)].copy()
    seconds = {
        done[name].name: state.ended - state.started
        for name, state in states.all().items()
        if name in done and state.state == DONE and state.started
    }
    own["wall_seconds"] = own["run"].map(seconds)
    if kept is not None:
        earlier = kept[kept["identity"].isin(identities) & ~kept["identity"].isin(own["identity"])]
        own = pd.concat([own, earlier], ignore_index=True) if len(earlier) else own
    return own.sort_values([*rows.RUN_KEY, "run"], ignore_index=True)


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


def _revisions(root: Path, done: Mapping[str, Finished]) -> list[str]:
    """The commits whose code the cells ran, that of most cells first."""
    baselines = {revision.name: revision.baseline for revision in history.read_revisions(root)}
    counts = Counter(baselines.get(row.name, row.commit)[:10] for row in done.values() if not row.file)
    return [commit for commit, _ in counts.most_common()]


def _where(states: SweepState) -> str:
    jobs = states.driver().get("options", {}).get("jobs")
    cores = len(os.sched_getaffinity(0))
    return f", {jobs} at once, on {cores} cores of {processor()}" if jobs else ""
