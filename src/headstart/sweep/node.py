"""What a task of the Ray engine does on its node: takes a clone that no other task has, and runs its cells there.

The driver ships this module and run_cell.py with the tasks: a node needs git, this project's Python packages and access
to both remotes, but no checkout. So only the standard library here, and plain values in and out.

A job's processes hold the locks of clone and job: what Ray starts again, on this machine, waits until the first is
gone, and then looks whether it had been published.
"""

import fcntl
import getpass
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.sweep.run_cell import End, Run, Site, persistently, published, run_cell, tail, told

Outcome = dict[str, Any]  # of a job: job, host, pid, started, ended, error (empty: none), log


@dataclass(frozen=True)
class Job:
    """One or more runs in one clone, one after the other. key: names the job, among all of a sweep."""

    key: str
    runs: tuple[Run, ...]


@dataclass
class Board:
    """An actor that tells the driver which jobs have begun: Ray tells of ended ones only."""

    begun: list[dict[str, Any]] = field(default_factory=list)

    def began(self, **what: Any) -> None:
        """Note that a job has begun."""
        self.begun.append(what)

    def take(self) -> list[dict[str, Any]]:
        """Return what has begun since the last call."""
        begun, self.begun = self.begun, []
        return begun


def run_job(job: Job, site: Site, board: Any, attempts: int, *needed: Outcome) -> Outcome:
    """Run a job once those that it needs are done; errors are told in the outcome, so that Ray repeats lost tasks only.

    A cell whose experiment the git remote has is not run again; one whose processes were lost, and not this one with
    them, is begun again here, `attempts` times in all, as the pool does.
    """
    outcome: Outcome = {"job": job.key, "host": socket.gethostname(), "pid": os.getpid(), "log": ""}
    outcome |= {"started": time.time(), "error": ""}
    broken = [other for other in needed if other["error"]]
    if broken:
        return outcome | {"error": f"{broken[0]['job']}: {broken[0]['error']}", "ended": time.time()}
    folder = folder_of(site.url)
    log = folder / "logs" / f"{job.key}.log"
    try:
        with ExitStack() as stack:
            locks = [stack.enter_context(locked(folder / "jobs" / f"{job.key}.lock"))]
            slot, lock = stack.enter_context(free_slot(folder / "slots"))
            runs = [run for run in job.runs if run.target or not persistently(published, site, run.name)]
            if runs:
                board.began.remote(job=job.key, host=outcome["host"], pid=outcome["pid"], started=time.time())
            for run in runs:
                outcome["error"] = insistently(attempts, run, on_node(site, folder), slot, log, [*locks, lock]).error
                if outcome["error"]:
                    break
    except (OSError, subprocess.SubprocessError) as error:
        outcome["error"] = told(error)
    return outcome | {"log": tail(log), "ended": time.time()}


def insistently(attempts: int, *arguments: Any) -> End:
    """Return how a cell's last run ended, begun again while it was lost; `arguments`: of `run_cell`."""
    for _ in range(attempts - 1):
        end = run_cell(*arguments)
        if not end.lost:
            return end
    return run_cell(*arguments)


def on_node(site: Site, folder: Path) -> Site:
    """Return a site with the cache that this node's clones share, and a folder for what all nodes do not share."""
    common = {"HEADSTART_SHARED": str(folder / "shared"), **site.environment}
    return replace(site, environment=common, config=f'[cache]\n    dir = "{folder / "cache"}"\n')


def folder_of(url: str) -> Path:
    """Return this user's folder on this node for sweeps of one repository; TMPDIR of `ray start` chooses the place."""
    return Path(tempfile.gettempdir(), f"headstart-{getpass.getuser()}", hashlib.sha256(url.encode()).hexdigest()[:12])


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock on a file, and yield its descriptor: processes that inherit it hold the lock too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def free_slot(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the first folder that no other task has, and the descriptor of its lock, as `locked`."""
    number = 0
    while True:
        path = folder / str(number)
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path, descriptor
                return
        finally:
            os.close(descriptor)
        number += 1
