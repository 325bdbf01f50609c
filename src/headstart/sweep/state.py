"""How far a sweep is: one JSON file per cell below .cache/sweeps/<sweep>, whole whatever is killed, and the logs.

What is finished, git's experiments say (ledger.py); this is about the rest. A `running` cell whose process is gone, or
that nobody has spoken for since STALE_SECONDS on another machine, is lost: it may be run again.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import psutil

from headstart.errors import UserError, for_people
from headstart.run.files import write_text

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
STALE_SECONDS = 120.0


@dataclass(frozen=True)
class CellState:
    """How far a cell is. Times are seconds since 1970, 0 where there is none yet.

    attempts: how often it was begun; pid: the process that works on it, on `host`; pid_started: when that process
    began, for a number is given again; seen: when its engine last knew it alive; error: the last lines of a failure.
    """

    name: str
    state: str = WAITING
    attempts: int = 0
    host: str = ""
    pid: int = 0
    pid_started: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    seen: float = 0.0
    log: str = ""
    error: str = ""


class SweepState:
    """The states of a sweep's cells, in the main workspace. Every write replaces a whole file."""

    def __init__(self, root: Path, sweep: str):
        self.folder = root.resolve() / ".cache" / "sweeps" / sweep
        self.sweep = sweep

    def get(self, name: str) -> CellState:
        """Return a cell's state; `waiting` where nothing was written, or what a full disk left is unreadable."""
        try:
            return CellState(**json.loads(self._file(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return CellState(name)

    def all(self) -> dict[str, CellState]:
        """Return the states of all cells that were ever begun, by name."""
        return {file.stem: self.get(file.stem) for file in sorted((self.folder / "cells").glob("[!.]*.json"))}

    def update(self, name: str, **changes: Any) -> CellState:
        """Change a cell's state, which is returned; one engine at a time writes (see `driving`)."""
        if "error" in changes:  # a log's last lines: git and DVC name their remotes in full
            changes["error"] = for_people(changes["error"])
        state = replace(self.get(name), **changes)
        write_text(self._file(name), json.dumps(asdict(state), indent=1) + "\n")
        return state

    def begin(self, name: str, pid: int, host: str = "") -> CellState:
        """Note that a process works on a cell: one more attempt. `host`: where, this machine by default."""
        now = time.time()
        born = 0.0 if host else _born(pid)
        attempts = self.get(name).attempts + 1
        return self.update(
            name,
            state=RUNNING,
            attempts=attempts,
            host=host or socket.gethostname(),
            pid=pid,
            pid_started=born,
            started=now,
            ended=0.0,
            seen=now,
            log=str(self.log(name)),
            error="",
        )

    def seen(self, name: str) -> CellState:
        """Note that a running cell is alive."""
        return self.update(name, seen=time.time())

    def done(self, name: str) -> CellState:
        """Note that a cell has its results."""
        state = self.get(name)
        return self.update(name, state=DONE, ended=state.ended or time.time(), error="")

    def failed(self, name: str, error: str) -> CellState:
        """Note that a cell failed, and why."""
        return self.update(name, state=FAILED, ended=time.time(), error=error)

    def wait(self, name: str, error: str = "") -> CellState:
        """Note that a cell is to be run (again); its attempts stay counted."""
        return self.update(name, state=WAITING, pid=0, error=error)

    def retry(self, name: str) -> CellState:
        """Note that a failed cell may be run again, with all its attempts."""
        return self.update(name, state=WAITING, pid=0, attempts=0, error="")

    def is_lost(self, state: CellState) -> bool:
        """Whether a cell is `running` by a process that is gone."""
        if state.state != RUNNING:
            return False
        if state.host == socket.gethostname() and state.pid_started:
            return _born(state.pid) != state.pid_started
        return time.time() - state.seen > STALE_SECONDS

    def log(self, name: str) -> Path:
        """Return where a cell's output goes; attempts follow each other in it."""
        return self.folder / "logs" / f"{name}.log"

    def tail(self, name: str, lines: int = 5) -> list[str]:
        """Return the last lines of a cell's log that say something."""
        try:
            with self.log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        said = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return [line for line in said if line][-lines:]

    def request_stop(self) -> None:
        """Ask the engine to begin no further cell, to end what runs, and to return."""
        write_text(self.folder / "stop", f"{time.time()}\n")

    def stop_requested(self) -> bool:
        """Whether `request_stop` was called since the sweep was last begun."""
        return (self.folder / "stop").exists()

    @contextmanager
    def driving(self, **about: Any) -> Iterator[None]:
        """Be the one process that drives the sweep; `about` is what `driver` returns meanwhile and afterwards.

        Raises UserError where another one does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"{self.sweep}: is run already, by process {self.driver().get('pid')}; see how far: "
                f"python -m headstart sweep status {self.sweep}"
            ) from None
        with lock:
            (self.folder / "stop").unlink(missing_ok=True)
            row = {"pid": os.getpid(), "pid_started": _born(os.getpid()), "host": socket.gethostname(), **about}
            write_text(self.folder / "driver.json", json.dumps(row, indent=1) + "\n")
            yield
            lock.release()

    def driver(self) -> dict[str, Any]:
        """Return what is known of the last process that drove the sweep, empty where there was none."""
        try:
            return dict(json.loads((self.folder / "driver.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def is_driven(self) -> bool:
        """Whether a process of this machine drives the sweep now."""
        driver = self.driver()
        return bool(driver) and _born(driver.get("pid", 0)) == driver.get("pid_started")

    def _file(self, name: str) -> Path:
        return self.folder / "cells" / f"{name}.json"


def _born(pid: int) -> float:
    """When a process of this machine began, 0 where there is none; a zombie has ended."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError):
        return 0.0
