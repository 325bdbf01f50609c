"""Plan, run and watch a sweep."""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headstart.errors import UserError
from headstart.history import git
from headstart.knobs import nearest
from headstart.run.stage import say
from headstart.sweep.cells import load_cells, make_cells, save_cells
from headstart.sweep.engines import DEFAULT, ENGINES, GONE
from headstart.sweep.grid import Grid, read_grid
from headstart.sweep.ledger import Ledger
from headstart.sweep.options import EngineOptions
from headstart.sweep.plan import Plan, make_plan
from headstart.sweep.state import FAILED, SweepState
from headstart.sweep.view import describe, show

CODE = ("params.yaml", "datasets.yaml", "dvc.yaml", "src", "stages")
STOP_SECONDS = 60.0
KEPT = ("jobs", "devices", "attempts", "address", "gpus_per_run", "cpus_per_run", "checkpoints")


def sweep(options: argparse.Namespace) -> None:
    """Do what the command line says; raises UserError for what a user can mend."""
    root = Path().resolve()
    grid = read_grid(options.file)
    states = SweepState(root, grid.name)
    if options.action == "plan":
        print_plan(grid, root, options.jobs or 1, options.cells)
    elif options.action == "status":
        show_status(grid, root, states, once=options.once or not sys.stdout.isatty())
    elif options.action == "stop":
        stop(states)
    elif options.action == "rows":
        from headstart.commands.rows import write_rows

        write_rows(grid, root, states, options.out)
    else:
        drive(grid, root, states, options)


def drive(grid: Grid, root: Path, states: SweepState, options: argparse.Namespace) -> None:
    """Run what is missing; exits with status 1 where cells failed."""
    engine, how = engine_options(options, states.driver() if options.action != "run" else {})
    cells = make_cells(grid, root)
    revision = committed(root)
    plan = make_plan(cells, Ledger(root).read())
    with states.driving(file=str(grid.path), engine=engine, revision=revision, options=asdict(how)):
        save_cells(cells, states.folder / "cells.json")
        for name in plan.done:
            states.done(name)
        if options.action == "retry":
            for cell in plan.todo:
                if states.get(cell.name).state == FAILED:
                    states.retry(cell.name)
        todo = [cell for cell in plan.todo if states.get(cell.name).state != FAILED]
        left_out = len(plan.todo) - len(todo)
        again = f"; {left_out} failed before: sweep retry {grid.name} --failed" if left_out else ""
        say(f"{grid.name}: {len(cells)} cells, {len(plan.done)} done, {len(todo)} to run{again}")
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            if todo:
                ENGINES[engine](root, revision, todo, states, how)
            if states.stop_requested():
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise UserError(f"{grid.name}: stopped; to go on: python -m headstart sweep resume {grid.path}") from None
        finally:
            signal.signal(signal.SIGTERM, before)
    done = len(make_plan(cells, Ledger(root).read()).done)
    failed = [cell for cell in cells if states.get(cell.name).state == FAILED]
    say(f"{grid.name}: {done} of {len(cells)} cells done, {len(failed)} failed")
    if failed:
        raise UserError(f"{grid.name}: {len(failed)} failed: python -m headstart sweep status {grid.path} tells why")


def engine_options(options: argparse.Namespace, last: dict[str, Any]) -> tuple[str, EngineOptions]:
    """Return the engine's name and options: the command line's, else those of the last time, else the defaults."""
    before = last.get("engine", DEFAULT)
    before = DEFAULT if before in GONE else before
    engine = options.engine or before
    if engine not in ENGINES:
        known = f"must be one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}"
        raise UserError(f"--engine {engine}: {GONE.get(engine, known)}")
    kept = last.get("options", {}) if engine == before else {}
    given = {name: getattr(options, name) for name in KEPT if getattr(options, name) is not None}
    if "devices" in given:
        given["devices"] = tuple(filter(None, given["devices"].split(",")))
    how = replace(EngineOptions(), **{**kept, **given})
    for name in ("jobs", "attempts"):
        if getattr(how, name) < 1:
            raise UserError(f"--{name} {getattr(how, name)}: must be at least 1")
    return engine, replace(how, devices=tuple(how.devices))


def committed(root: Path) -> str:
    """Return the commit that the sweep runs; raises UserError where the code or params.yaml differ from it."""

    try:
        prefix = git(root, "rev-parse", "--show-prefix").strip()
        lines = git(root, "status", "--porcelain", "--", *CODE).splitlines()
        changed = [line[3:].removeprefix(prefix) for line in lines]
        if changed:
            raise UserError(
                f"{', '.join(changed[:3])}: not committed; experiments belong to a commit: git commit -a, or "
                f"git checkout {changed[0]}"
            )
        return git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"{root}: no git repository with a commit; sweeps need one") from None


def stop(states: SweepState) -> None:
    """Ask the process that drives the sweep to end, and wait; end what a killed one left."""
    from headstart.sweep.pool import end_processes

    if states.is_driven():
        states.request_stop()
        for _ in range(int(STOP_SECONDS)):
            if not states.is_driven():
                break
            time.sleep(1)
        else:
            raise UserError(
                f"{states.sweep}: process {states.driver()['pid']} has not ended within {STOP_SECONDS:.0f} s"
            )
    end_processes(states.folder)
    say(f"{states.sweep}: stopped; to go on: python -m headstart sweep resume {states.sweep}")


def print_plan(grid: Grid, root: Path, jobs: int, every_cell: bool) -> None:
    """Print what is done, what would run, and what that costs."""
    cells = make_cells(grid, root)
    plan = make_plan(cells, Ledger(root).read())
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, soft_wrap=True)
    if grid.description:
        console.print(grid.description)
    autoencoders = {cell.autoencoder for cell in plan.todo} - {None} - plan.made
    shared = f", with {len(autoencoders)} autoencoders to train once each" if autoencoders else ""
    console.print(f"{len(cells)} cells: {len(plan.done)} done, {len(plan.todo)} to run{shared}")
    console.print(costs(plan, root, jobs))
    console.print(f"disk free: {_size(shutil.disk_usage(root).free)}")
    if every_cell:
        for cell in plan.todo:
            console.print(f"{cell.name}  {describe(cell, plan.cells)}")


def costs(plan: Plan, root: Path, jobs: int) -> Table:
    """Return hours and disk of what is to run, by dataset; `unknown` where nothing tells."""
    from headstart.sweep.estimate import bytes_of_weights, estimate

    finished = [cell.work for cell in plan.cells if cell.name in plan.done and cell.work]
    works = {cell.work for cell in plan.todo if cell.work}
    estimates = estimate(works, root, finished, _experiment(root) if works & set(finished) else "")
    sizes = {cell.work: plan.done[cell.name].num_bytes for cell in plan.cells if cell.name in plan.done}
    table = Table(box=box.SIMPLE)
    for name in ("dataset", "cells", "done", "to run", f"hours at {jobs} job{'s' * (jobs > 1)}", "disk", "hours from"):
        table.add_column(name, justify="left" if name in ("dataset", "hours from") else "right")
    total_seconds, total_bytes, unknown = 0.0, 0, 0
    for dataset in dict.fromkeys(cell.dataset for cell in plan.cells):
        own = [cell for cell in plan.cells if cell.dataset == dataset]
        todo = [cell for cell in plan.todo if cell.dataset == dataset and cell.work]
        known = [estimates[cell.work].seconds for cell in todo if cell.work]
        seconds = [value for value in known if value is not None]
        added = sum(sizes.get(cell.work) or bytes_of_weights(cell.work) for cell in todo if cell.work)
        sources = ", ".join(sorted({estimates[cell.work].source for cell in todo if cell.work}))
        hours = _hours(sum(seconds) / jobs) if len(seconds) == len(todo) else "unknown"
        done = sum(cell.name in plan.done for cell in own)
        table.add_row(dataset, *map(str, (len(own), done, len(own) - done)), hours, _size(added), sources)
        total_seconds, total_bytes = total_seconds + sum(seconds), total_bytes + added
        unknown += len(todo) - len(seconds)
    hours = _hours(total_seconds / jobs)
    if unknown:
        hours = f"{hours} + {unknown} cells unknown" if total_seconds else "unknown"
    counts = len(plan.cells), len(plan.done), len(plan.todo)
    table.add_row("all", *map(str, counts), hours, _size(total_bytes), "", style="bold")
    return table


def show_status(grid: Grid, root: Path, states: SweepState, once: bool) -> None:
    """Show the table, again each second until the sweep is over or, with `once`, not at all."""
    # as it was begun: the code may have changed since
    cells = load_cells(states.folder / "cells.json") or make_cells(grid, root)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    show(console, cells, Ledger(root), states, once)


def _experiment(root: Path) -> str:
    from headstart.run.params import load_params

    return load_params(root).tracking.experiment


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}" if seconds >= 360 else f"{seconds / 3600:.3f}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.0f} MB"


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
