"""`sweep status` on one screen: counts, time left, the best so far of each dataset, failures with their log."""

import shlex
import statistics
import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headstart.sweep.cells import Cell, differing, exp_run_arguments
from headstart.sweep.ledger import Finished, Ledger, result_of
from headstart.sweep.state import DONE, FAILED, RUNNING, CellState, SweepState

REFRESH_SECONDS = 1.0
SHOWN = 8  # running or failed cells


def show(console: Console, cells: Sequence[Cell], ledger: Ledger, states: SweepState, once: bool) -> None:
    """Print the screen once, or keep it up to date until no cell is left to run or the user interrupts."""
    if once:
        console.print(screen(cells, ledger.read(), states))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(screen(cells, ledger.read(), states), refresh=True)
            if not states.is_driven():
                return
            time.sleep(REFRESH_SECONDS)


def screen(cells: Sequence[Cell], finished: Mapping[str, Finished], states: SweepState) -> RenderableType:
    """Return what there is to see of a sweep now."""
    known = states.all()
    rows = {cell.name: known.get(cell.name, CellState(cell.name)) for cell in cells}
    kinds = {cell.name: kind_of(cell, rows[cell.name], finished, states) for cell in cells}
    running = [cell for cell in cells if kinds[cell.name] == RUNNING]
    failed = [cell for cell in cells if kinds[cell.name] == FAILED]
    parts: list[RenderableType] = [_headline(cells, kinds, rows, states, finished), _table(cells, kinds, finished)]
    for cell in running[:SHOWN]:
        since = _clock(time.time() - rows[cell.name].started)
        last = states.tail(cell.name, 1)
        parts.append(
            Text(
                f"running {cell.name} {since}  {describe(cell, cells)}  {' '.join(last)}",
                overflow="ellipsis",
                no_wrap=True,
            )
        )
    parts += [_failure(cell, cells, rows[cell.name]) for cell in failed[:SHOWN]]
    hidden = max(0, len(failed) - SHOWN)
    if hidden:
        parts.append(Text(f"... and {hidden} more that failed"))
    return Group(*parts)


def kind_of(cell: Cell, state: CellState, finished: Mapping[str, Finished], states: SweepState) -> str:
    """Return done, failed, running, lost or waiting: git says what is done, whatever the state's file says."""
    if result_of(cell, finished):
        return DONE
    if states.is_lost(state):
        return "lost"
    return "waiting" if state.state == DONE else state.state  # done, and then removed


def describe(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return a cell's settings where they differ among the cells."""
    differ = differing(cells)
    return ", ".join(
        f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in cell.overrides.items() if key in differ
    )


def rerun(cell: Cell) -> str:
    """Return the command that runs a cell alone; its results count for the sweep."""
    return shlex.join(["dvc", "exp", "run", "--temp", "-n", cell.name, *exp_run_arguments(cell)])


def _headline(
    cells: Sequence[Cell],
    kinds: Mapping[str, str],
    rows: Mapping[str, CellState],
    states: SweepState,
    finished: Mapping[str, Finished],
) -> RenderableType:
    counts = {kind: list(kinds.values()).count(kind) for kind in (DONE, RUNNING, "waiting", FAILED, "lost")}
    by_row = sum(bool((result := result_of(cell, finished)) and result.file) for cell in cells)
    more = {DONE: f" ({by_row} known by their row in sweeps/results only)" if by_row else ""}
    said = ", ".join(
        f"{number} {kind}{more.get(kind, '')}"
        for kind, number in counts.items()
        if number or kind in (DONE, RUNNING, "waiting")
    )
    driver = states.driver()
    about = f"{driver.get('engine')}, process {driver.get('pid')}" if states.is_driven() else "nothing runs it now"
    left = _left(kinds, rows, max(1, counts[RUNNING])) if states.is_driven() else ""
    return Text(f"{states.sweep}: {len(cells)} cells: {said}{left} ({about})", style="bold")


def _left(kinds: Mapping[str, str], rows: Mapping[str, CellState], at_once: int) -> str:
    """The time left, from what finished cells took; nothing where none has."""
    took = [
        rows[name].ended - rows[name].started for name, kind in kinds.items() if kind == DONE and rows[name].started
    ]
    todo = sum(kind in (RUNNING, "waiting", "lost") for kind in kinds.values())
    if not took or not todo:
        return ""
    begun = sum(time.time() - rows[name].started for name, kind in kinds.items() if kind == RUNNING)
    seconds = max(0.0, statistics.median(took) * todo - begun) / at_once
    return f", about {_clock(seconds)} left"


def _table(cells: Sequence[Cell], kinds: Mapping[str, str], finished: Mapping[str, Finished]) -> Table:
    table = Table(box=box.SIMPLE)
    names = (DONE, RUNNING, "waiting", FAILED, "lost")
    table.add_column("dataset")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("best top-1", justify="right")
    table.add_column("of")
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        own = [cell for cell in cells if cell.dataset == dataset]
        counts = [str(sum(kinds[cell.name] == name for cell in own)) for name in names]
        results = [(result.metrics, cell) for cell in own if (result := result_of(cell, finished))]
        done = [(metrics["top1"], cell) for metrics, cell in results if "top1" in metrics]
        value, best = max(done, key=lambda row: row[0], default=(0.0, None))
        top1 = f"{value:.4f}" if best else ""
        table.add_row(dataset, *counts, top1, escape(describe(best, cells)) if best else "")
    return table


def _failure(cell: Cell, cells: Sequence[Cell], state: CellState) -> RenderableType:
    lines = [f"failed  {cell.name}  {describe(cell, cells)}  ({state.attempts} attempts, log: {state.log})"]
    lines += [f"    | {line}" for line in state.error.splitlines()]
    return Text("\n".join([*lines, f"    {rerun(cell)}"]))


def _plain(value: object) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _clock(seconds: float) -> str:
    minutes, hours = int(seconds) // 60 % 60, int(seconds) // 3600
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {int(seconds) % 60:02d} s"
