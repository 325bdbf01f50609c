"""The processes of DVC's queue on this machine: begun with their device, watched, ended with all their children."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from headstart.sweep import clone
from headstart.sweep.engines import EngineOptions

GRACE_SECONDS = 5.0
HUNG_SECONDS = 60.0
T = TypeVar("T")


@dataclass
class Worker:
    """One of DVC's queue workers: it runs one experiment after the other, and ends when the queue has been empty."""

    number: int
    process: psutil.Popen
    busy: float  # when it was last seen at work

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def works(self) -> bool:
        """Whether an experiment runs in it."""
        try:
            return bool(self.process.children())
        except psutil.Error:
            return False


class Workers:
    """What `dvc queue start -j N` begins, but each with its device and log, and none outlives the sweep."""

    def __init__(self, root: Path, folder: Path, logs: Path, options: EngineOptions):
        self.root, self.folder, self.logs, self.options = root, folder, logs, options
        self._all: dict[int, Worker] = {}

    def keep(self, number: int, all_started: bool) -> None:
        """See to it that `number` of them run. One that hangs, or that lost its task to a kill, is replaced.

        all_started: whether no task waits, so that an idle worker is none that hangs.
        """
        for k in range(1, number + 1):
            worker = self._all.get(k)
            now = time.time()
            if worker and worker.is_alive():
                if all_started or worker.works():
                    worker.busy = now
                elif now - worker.busy > HUNG_SECONDS:  # treeverse/dvc#10428: it read a message that was half written
                    end([worker.process])
            if not worker or not worker.is_alive():
                self._all[k] = Worker(k, self._begin(k), now)

    def ids(self) -> set[int]:
        """Return the process ids of those that run."""
        return {worker.process.pid for worker in self._all.values() if worker.is_alive()}

    def log(self, number: int) -> Path:
        """Return where a worker writes what belongs to no experiment."""
        return self.logs / f"worker-{number}.log"

    def _begin(self, number: int) -> psutil.Popen:
        """As LocalCeleryQueue._spawn_worker does, but with an environment, and never with the caller's pipes."""
        queue = self.folder / ".dvc" / "tmp" / "exps" / "celery"
        node = f"dvc-exp-{hashlib.sha256(str(queue).encode()).hexdigest()[:6]}-{number}@localhost"
        extra = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads(self.options.jobs))}
        if self.options.devices:
            extra["CUDA_VISIBLE_DEVICES"] = self.options.devices[(number - 1) % len(self.options.devices)]
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(number).open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", "dvc", "exp", "queue-worker", node],
                cwd=self.folder,
                env=clone.environment(self.root, self.folder, **extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def threads(jobs: int) -> int:
    """Return how many threads each of `jobs` runs at once may use of this machine's cores, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, jobs))


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return all processes that a sweep began, this one apart: also orphans of a driver or worker that was killed."""
    return [process for process in psutil.process_iter() if _is_of(process, str(folder))]


def end(processes: Iterable[psutil.Process]) -> None:
    """End processes with all their children: asked first, killed after GRACE_SECONDS."""
    everyone: list[psutil.Process] = []
    for process in processes:
        everyone += [process, *_try(process, lambda process: process.children(recursive=True), [])]
    for process in everyone:
        _try(process, psutil.Process.terminate, None)
    _, alive = psutil.wait_procs(everyone, timeout=GRACE_SECONDS)
    for process in alive:
        _try(process, psutil.Process.kill, None)
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)


def _is_of(process: psutil.Process, folder: str) -> bool:
    if process.pid == os.getpid():
        return False
    return bool(_try(process, lambda process: process.environ().get(clone.MARKER) == folder, False))


def _try(process: psutil.Process, call: Callable[[psutil.Process], T], otherwise: T) -> T:
    """What a process answers, or `otherwise` where it is gone or not ours."""
    try:
        return call(process)
    except (psutil.Error, OSError):
        return otherwise
