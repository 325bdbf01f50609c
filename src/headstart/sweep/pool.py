"""The engine for one machine: `--jobs` cells at once, each in a clone of its own, watched by this process.

Cache, checkpoints, shared autoencoders and MLflow's store are those of the main workspace; finished experiments are
pushed into its repository. A cell is done when its experiment is there with the cell's identity, whatever else is said
of it; one that was lost to a kill is begun again, and its trainings go on from their checkpoints.
"""

import configparser
import os
import subprocess
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from headstart.errors import UserError
from headstart.run.stage import say
from headstart.sweep.cells import Cell, exp_run_arguments
from headstart.sweep.ledger import Ledger, result_of
from headstart.sweep.options import EngineOptions, check_history
from headstart.sweep.run_cell import End, Run, Site, committer, experiment_ref, git, prefix_of, run_cell, told
from headstart.sweep.state import SweepState

MARKER = "HEADSTART_SWEEP"  # in the environment of every process of a sweep: its folder
POLL_SECONDS = 0.5
ROUNDS = 6  # of killing what is left, 5 seconds each: a process that waits for a device's driver ends late
FOREIGN = "its results are not complete, or not of the cell's settings and code"


def run(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    """Run cells in order, `options.jobs` at once; see engines.Engine."""
    end_processes(states.folder)  # what outlived an earlier driver and its supervisors
    root = root.resolve()
    check_history(root)
    try:
        site = site_of(root, revision, states, options)
        waiting = unfinished(root, revision, cells, states)
    except subprocess.CalledProcessError as error:
        raise UserError(f"{root}: {told(error)}") from None
    ledger = Ledger(root)
    free, running = deque(range(options.jobs)), dict[Future[End], tuple[Cell, int]]()
    with ThreadPoolExecutor(options.jobs) as threads:
        try:
            while (waiting or running) and not states.stop_requested():
                while waiting and free:
                    cell, number = waiting.popleft(), free.popleft()
                    states.begin(cell.name, os.getpid())
                    arguments = Run(cell.name, tuple(exp_run_arguments(cell))), on_slot(site, number, options)
                    slot = states.folder / "slots" / str(number)
                    running[threads.submit(run_cell, *arguments, slot, states.log(cell.name))] = cell, number
                for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done:
                    cell, number = running.pop(future)
                    free.append(number)
                    if settle(cell, future.result(), states, ledger, options.attempts):
                        waiting.appendleft(cell)
        finally:
            close(running, states)


def site_of(root: Path, revision: str, states: SweepState, options: EngineOptions) -> Site:
    """Return what the cells have in common: the main workspace's repository, caches and git identity."""
    threads = max(1, len(os.sched_getaffinity(0)) // options.jobs)
    environment = {
        **committer(root),
        "HEADSTART_ROOT": str(root),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads),
        MARKER: str(states.folder),
    }
    top = git(root, "rev-parse", "--show-toplevel")
    return Site(top, revision, prefix_of(root), environment, cache_settings(root))


def on_slot(site: Site, number: int, options: EngineOptions) -> Site:
    """Return a site with the device of one of the slots, which have them in turn."""
    if not options.devices:
        return site
    device = options.devices[number % len(options.devices)]
    return replace(site, environment={**site.environment, "CUDA_VISIBLE_DEVICES": device})


def cache_settings(root: Path) -> str:
    """Return what a clone's .dvc/config.local has to say so that its cache is the main workspace's."""
    from dvc.repo import Repo

    own = configparser.ConfigParser(interpolation=None)
    own.read(root / ".dvc" / "config.local")
    settings = dict(own["cache"]) if own.has_section("cache") else {}
    with Repo(str(root)) as repo:
        settings["dir"] = f'"{repo.cache.local_cache_dir}"'
    return "[cache]\n" + "".join(f"    {key} = {value}\n" for key, value in settings.items())


def unfinished(root: Path, revision: str, cells: Sequence[Cell], states: SweepState) -> deque[Cell]:
    """Return the cells that are to run: a killed driver may have left more results than its states say.

    An experiment that has such a cell's name, and not its results, makes way. Attempts count anew.
    """
    finished = Ledger(root).read()
    taken = set(git(root, "for-each-ref", "--format=%(refname)", "refs/exps").split())
    waiting = deque[Cell]()
    for cell in cells:
        if result_of(cell, finished):
            states.done(cell.name)
            continue
        if states.get(cell.name).attempts:
            states.retry(cell.name)
        if (ref := experiment_ref(revision, cell.name)) in taken:
            git(root, "update-ref", "-d", ref)
        waiting.append(cell)
    return waiting


def settle(cell: Cell, end: End, states: SweepState, ledger: Ledger, attempts: int) -> bool:
    """Note how a cell's run ended; return whether the cell is to be begun again."""
    name = cell.name
    if not end.error and result_of(cell, ledger.read()):
        states.done(name)
        say(f"done    {name}")
        return False
    why = end.error or FOREIGN
    lines = states.tail(name)
    error = "\n".join(lines if why in map(str.strip, lines) else [why, *lines])
    if end.lost and states.get(name).attempts < attempts:
        states.wait(name, error)
        say(f"lost    {name}: {why}; begun again")
        return True
    states.failed(name, error)
    say(f"failed  {name}: {why}")
    return False


def close(running: dict[Future[End], tuple[Cell, int]], states: SweepState) -> None:
    """End all that runs; what was published meanwhile is kept, and found when the sweep goes on."""
    while not all(future.done() for future in running):
        end_processes(states.folder)  # again: a thread may have been about to begin one
        wait(running, POLL_SECONDS)
    for cell, _ in running.values():
        states.wait(cell.name)


def end_processes(folder: Path) -> None:
    """Kill every process that a sweep began and that still runs, wherever it is now; `folder`: of its states."""
    for _ in range(ROUNDS):
        found = [process for process in psutil.process_iter() if _is_of(process, str(folder))]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=5)


def _is_of(process: psutil.Process, folder: str) -> bool:
    with suppress(psutil.Error, OSError):
        own = process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE
        return not own and process.environ().get(MARKER) == folder
    return False
