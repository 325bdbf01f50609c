"""The engine for one machine: DVC's own experiment queue, watched.

The queue is fed a few cells ahead, from a clone of the sweep's own. What the queue says of its tasks is not believed
(`dvc queue status` calls tasks of a dead worker "Running" for ever): a cell is done when its experiment is there with
the cell's identity, running while its process lives, lost otherwise, and a lost one is queued again.
"""

import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from headstart.run.files import write_text
from headstart.run.stage import say
from headstart.sweep import clone
from headstart.sweep.cells import Cell, set_params
from headstart.sweep.engines import EngineOptions
from headstart.sweep.ledger import Ledger
from headstart.sweep.node import reason
from headstart.sweep.state import RUNNING, SweepState
from headstart.sweep.workers import Workers, end, processes_of

POLL_SECONDS = 0.5
AHEAD = 1  # cells that wait in DVC's queue, per job: no worker waits for the driver
COLLECT_SECONDS = 60.0  # from the end of an experiment's process until its ref is there; a second when nothing is wrong
SETUP_SECONDS = 120.0  # from being taken from the queue until its process runs; seconds when nothing is wrong
FAILED, FOREIGN = "failed", "its results are not complete, or not of the cell's settings and code"
# what the cell itself did not do: a stage ended by a signal (by a kill or for memory), or DVC in its run cache, where
# it takes another worker's file for an entry while that one moves it into place
LOST = re.compile(
    r"exited with (-\d+|137|143)\b|No such file or directory: '\S*/runs/[0-9a-f]{2}/[0-9a-f]{64}/\S+\.tmp'"
)


@dataclass
class Task:
    """A cell in DVC's queue; DVC knows it by the commit that it stashed. since: of the last change, in seconds;
    taken: whether a worker has it."""

    cell: Cell
    revision: str
    since: float = field(default_factory=time.time)
    taken: bool = False
    pid: int = 0
    ended: bool = False


class Queue:
    """DVC's queue in a sweep's clone."""

    def __init__(self, root: Path, revision: str, states: SweepState, options: EngineOptions):
        self.root, self.states, self.options = root.resolve(), states, options
        self.folder = states.folder / "clone"
        self.runs = self.folder / ".dvc" / "tmp" / "exps" / "run"
        self.workers = Workers(self.root, self.folder, states.folder / "logs", options)
        self.ledger = Ledger(self.root)
        self.tasks: list[Task] = []
        end(processes_of(self.folder))  # of a driver that was killed; trainings go on from their checkpoints
        if (self.folder / ".git").is_dir():
            self._keep_logs()
            clone.fetch_experiments(self.root, self.folder, clone.experiments(self.folder))
            clone.forget_queue(self.folder)
        clone.make_clone(self.root, revision, self.folder)

    def put(self, cell: Cell) -> None:
        """Queue a cell, as `dvc exp run --queue -n NAME -S ...` does, without a process of its own: seconds less."""
        from dvc.repo import Repo, lock_repo

        # DVC takes params.yaml relative to the working directory
        with contextlib.chdir(self.folder), Repo(str(self.folder)) as repo, lock_repo(repo):
            own = repo.experiments
            entry = own.queue_one(own.celery_queue, params={"params.yaml": set_params(cell)}, name=cell.name)
        self.tasks.append(Task(cell, entry.stash_rev))

    def look(self) -> list[tuple[Task, str]]:
        """Return the tasks that came to an end, each with "" where it is done, else why not."""
        ends = []
        alive = self.workers.ids()
        for task in self.tasks:
            said = self._look_at(task, alive)
            if said is not None:
                ends.append((task, said))
        self.tasks = [task for task in self.tasks if all(task is not other for other, _ in ends)]
        return ends

    def _look_at(self, task: Task, workers: set[int]) -> str | None:
        """None while a task is under way."""
        file = self.runs / task.revision / f"{task.revision}.json"
        info = _read(file)
        if not info:
            if time.time() - task.since < SETUP_SECONDS:
                return None
            if not task.taken:  # a queue is slow to ask: its worker may have taken it a moment ago
                task.taken, task.since = task.revision not in self._queued(), time.time()
                return None
            return "its worker was lost before it began"
        if not task.pid:
            task.pid, task.since = int(info["pid"]), time.time()
            self.states.begin(task.cell.name, task.pid, log=str(file.with_suffix(".out")))
        code = info["returncode"]
        if code is None:
            return self._look_at_process(task, workers)
        if code != 0:
            return FAILED if code > 0 else "its process was killed"
        if not task.ended:
            task.ended, task.since = True, time.time()
        return self._collect(task)

    def _look_at_process(self, task: Task, workers: set[int]) -> str | None:
        try:
            process = psutil.Process(task.pid)
            parent = process.ppid()
        except psutil.Error:
            # its worker notes the end within a moment, if it lives
            return "its process was killed" if time.time() - task.since > COLLECT_SECONDS or not workers else None
        if parent not in workers:  # it goes on, but nobody will collect its results
            end([process])
            return "its worker was killed"
        task.since = time.time()
        return None

    def _collect(self, task: Task) -> str | None:
        """Bring the experiment of a task that ended well into the main workspace's repository."""
        name = task.cell.name
        refs = clone.experiments(self.folder)
        if name not in refs:
            return "its experiment was not collected" if time.time() - task.since > COLLECT_SECONDS else None
        clone.fetch_experiments(self.root, self.folder, {name: refs[name]})
        return "" if task.cell.identity in self.ledger.read() else FOREIGN

    def _queued(self) -> set[str]:
        """The tasks that no worker has taken yet."""
        from dvc.repo import Repo

        with Repo(str(self.folder)) as repo:
            return {entry.stash_rev for entry in repo.experiments.celery_queue.iter_queued()}

    def keep_log(self, task: Task) -> str:
        """Move an attempt's output into the cell's log; return its last lines."""
        out = self.runs / task.revision / f"{task.revision}.out"
        if out.is_file():
            _append(out, self.states.log(task.cell.name))
        return "\n".join(self.states.tail(task.cell.name))

    def _keep_logs(self) -> None:
        """Keep what a killed driver left."""
        for folder in self.runs.glob("*"):
            name = _read(folder / f"{folder.name}.run").get("name")
            if name and (out := folder / f"{folder.name}.out").is_file():
                _append(out, self.states.log(str(name)))

    def close(self) -> None:
        """End all that runs; what is finished is kept."""
        end(processes_of(self.folder))
        for task in self.tasks:
            self.keep_log(task)
        clone.fetch_experiments(self.root, self.folder, clone.experiments(self.folder))


def run(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    """Run cells in order, `options.jobs` at once; see engines.Engine."""
    queue = Queue(root, revision, states, options)
    finished = queue.ledger.read()  # a killed driver may have left more than its states say
    waiting = deque(cell for cell in cells if cell.identity not in finished)
    for cell in cells:
        if cell.identity in finished:
            states.done(cell.name)
        elif states.get(cell.name).attempts:  # of an earlier run; each counts anew
            states.retry(cell.name)
    try:
        while (waiting or queue.tasks) and not states.stop_requested():
            while waiting and len(queue.tasks) < options.jobs * (1 + AHEAD):
                _put(queue, waiting.popleft())
            queue.workers.keep(min(options.jobs, len(queue.tasks)), all(task.pid for task in queue.tasks))
            for task, said in queue.look():
                if _settle(queue, task, said):
                    waiting.appendleft(task.cell)
            time.sleep(POLL_SECONDS)
    finally:
        queue.close()
        for task in queue.tasks:
            if states.get(task.cell.name).state == RUNNING:
                states.wait(task.cell.name)


def _put(queue: Queue, cell: Cell) -> None:
    """Queue a cell; what DVC refuses has failed."""
    from dvc.exceptions import DvcException

    try:
        queue.put(cell)
    except DvcException as error:
        queue.states.failed(cell.name, f"DVC did not queue it: {error}")
        say(f"failed  {cell.name}: DVC did not queue it: {error}")


def _settle(queue: Queue, task: Task, said: str) -> bool:
    """Note how a task ended; return whether its cell is to be queued again."""
    states, name = queue.states, task.cell.name
    lines = queue.keep_log(task)
    if not said:
        states.update(name, log=str(states.log(name)))
        states.done(name)
        say(f"done    {name}")
        return False
    lost = said not in (FAILED, FOREIGN) or bool(LOST.search(lines))
    if not task.pid:
        states.update(name, attempts=states.get(name).attempts + 1)
    error = lines if said == FAILED else f"{said}\n{lines}".strip()
    states.update(name, log=str(states.log(name)))
    if lost and states.get(name).attempts < queue.options.attempts:
        states.wait(name, error)
        say(f"lost    {name}: {said if said != FAILED else error.splitlines()[-1]}; queued again")
        return True
    states.failed(name, error)
    say(f"failed  {name}: {reason(error) or said}")
    return False


def _read(file: Path) -> dict[str, Any]:
    """A JSON file that DVC writes, empty where it is not there yet or half-written."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _append(source: Path, target: Path) -> None:
    """Move text to the end of another file."""
    earlier = target.read_text(encoding="utf-8", errors="replace") if target.is_file() else ""
    write_text(target, earlier + source.read_text(encoding="utf-8", errors="replace"))
    source.unlink()
