"""What a task of the Ray engine does on its node: takes a clone that no other task has, runs a job there, publishes.

The driver ships this module with the tasks: a node needs git, this project's Python packages and access to both
remotes, but no checkout. So only the standard library here, and plain values in and out.

A job's processes never outlive its task, however that ends, and they hold the locks of clone and job: what Ray starts
again, on this machine, waits until the first is gone, and then looks whether it had been published.
"""

import fcntl
import getpass
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG_BYTES = 50_000  # of a log that go to the driver: Ray keeps results below 100 kB with their owner, not on nodes
NOT_PASSED = ("DVC_", "GIT_DIR", "GIT_WORK", "HEADSTART_ROOT")  # of the environment of `ray start`
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts at the git remote
# A process that starts the command and takes it along when the end of its input says that the task's process is gone.
SUPERVISOR = """
import os, signal, subprocess, sys, threading
def follow():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=follow, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode)
"""

Outcome = dict[str, Any]  # of a job: job, host, pid, started, ended, error (empty: none), log


@dataclass(frozen=True)
class Site:
    """What the jobs of a sweep have in common.

    url: the git remote; revision: the full commit; shared: a folder that all nodes share, for checkpoints, or empty;
    environment: of the processes, over the node's own.
    """

    url: str
    revision: str
    shared: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """One or more runs of the pipeline in one clone, one after the other.

    key: names the job, among all of a sweep; target: the last stage to run, for results that several cells need; empty:
    the whole pipeline, whose experiment is published. runs: (name of the experiment, arguments of `dvc exp run`).
    """

    key: str
    target: str
    runs: tuple[tuple[str, tuple[str, ...]], ...]


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


def run_job(job: Job, site: Site, board: Any, *needed: Outcome) -> Outcome:
    """Run a job once those that it needs are done; errors are told in the outcome, so that Ray repeats lost tasks only.

    A cell whose experiment the git remote has is not run again.
    """
    outcome: Outcome = {"job": job.key, "host": socket.gethostname(), "pid": os.getpid(), "log": ""}
    outcome |= {"started": time.time(), "error": ""}
    broken = [other for other in needed if other["error"]]
    if broken:
        return outcome | {"error": f"{broken[0]['job']}: {broken[0]['error']}", "ended": time.time()}
    folder = folder_of(site.url)
    log = folder / "logs" / f"{job.key}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            locks = [stack.enter_context(locked(folder / "jobs" / f"{job.key}.lock"))]
            slot, lock = stack.enter_context(free_slot(folder / "slots"))
            locks.append(lock)
            if job.target or not persistently(published, site, job.runs[0][0]):
                board.began.remote(job=job.key, host=outcome["host"], pid=outcome["pid"], started=time.time())
                outcome["error"] = attempt(job, site, slot, log, locks)
    except (OSError, subprocess.SubprocessError) as error:
        outcome["error"] = told(error)
    return outcome | {"log": tail(log), "ended": time.time()}


def attempt(job: Job, site: Site, slot: Path, log: Path, locks: Sequence[int]) -> str:
    """Return why a job failed, or an empty text."""
    for name, arguments in job.runs:
        clone = persistently(fresh_clone, site, slot)
        words = [sys.executable, "-m", "headstart.sweep.worker", "--name", name]
        words += ["--target", job.target] if job.target else []
        status = run_supervised([*words, "--", *arguments], clone, environment(site, clone), log, locks)
        if status:
            return reason(tail(log)) or f"ended with status {status}"
    if not job.target:
        persistently(publish, site, clone, job.runs[0][0])
    return ""


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


def fresh_clone(site: Site, slot: Path) -> Path:
    """Return a slot's clone at the commit, made where there is none, without a trace of earlier runs."""
    clone, part = slot / "clone", slot / "part"
    if not clone.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        git(slot, "clone", "--quiet", "--no-checkout", site.url, str(part))
        part.rename(clone)
    shutil.rmtree(clone / ".dvc" / "tmp", ignore_errors=True)
    for lock in (clone / ".git").glob("*.lock"):
        lock.unlink()
    try:
        git(clone, "cat-file", "-e", f"{site.revision}^{{commit}}")
    except subprocess.CalledProcessError:
        git(clone, "fetch", "--quiet", "origin")
    git(clone, "checkout", "--quiet", "--force", "--detach", site.revision)
    git(clone, "clean", "-fdq")
    for ref in git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        git(clone, "update-ref", "--no-deref", "-d", ref)
    shutil.rmtree(clone / ".git" / "refs" / "exps", ignore_errors=True)  # a symbolic one to nothing is not listed
    (clone / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {slot.parent.parent / 'cache'}\n")
    return clone


def environment(site: Site, clone: Path) -> dict[str, str]:
    """Return the environment of a job: the clone's code, this interpreter's commands, this node's common folder."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED)}
    paths = {name: os.pathsep.join(filter(None, (first, known.get(name)))) for name, first in (
        ("PATH", str(Path(sys.executable).parent)),
        ("PYTHONPATH", str(clone / "src")),
    )}  # fmt: skip
    shared = site.shared or str(clone.parents[2] / "shared")
    return {
        **known,
        **paths,
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
        "HEADSTART_SHARED": shared,
        **site.environment,
    }


def run_supervised(
    words: Sequence[str], folder: Path, variables: Mapping[str, str], log: Path, locks: Sequence[int]
) -> int:
    """Run a command that appends to a log; return its exit status. Nothing of it is left when this process ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *words],
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=locks,
        )
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()


def experiment_ref(revision: str, name: str) -> str:
    """Return the git ref in which DVC keeps an experiment of a commit."""
    return f"refs/exps/{revision[:2]}/{revision[2:]}/{name}"


def published(site: Site, name: str) -> bool:
    """Whether the git remote has an experiment: its last word, since the DVC remote got its results before."""
    return bool(git(Path.cwd(), "ls-remote", site.url, experiment_ref(site.revision, name)))


def publish(site: Site, clone: Path, name: str) -> None:
    """Push an experiment's ref, unless the remote has one of that name: the first stays."""
    ref = experiment_ref(site.revision, name)
    try:
        git(clone, "push", "--quiet", f"--force-with-lease={ref}:", "origin", f"{ref}:{ref}")
    except subprocess.CalledProcessError:
        if not published(site, name):
            raise


def git(folder: Path, *words: str) -> str:
    """Return what a git command prints; it never asks for a password."""
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", *words]
    return subprocess.run(
        command, cwd=folder, env=variables, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout.strip()


def persistently(work: Any, *arguments: Any, errors: Any = subprocess.CalledProcessError) -> Any:
    """Return what `work` returns, called again with growing pauses while it raises one of `errors`."""
    for pause in PAUSES:
        try:
            return work(*arguments)
        except errors as error:
            print(f"warning: {told(error)}; tries again", file=sys.stderr)
            time.sleep(pause * (0.5 + random.random()))
    return work(*arguments)


def told(error: Exception) -> str:
    """Return an error in one line; of a command the last line that it printed."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or "").strip().splitlines()
        return f"git {error.cmd[1]}: {lines[-1] if lines else error.returncode}"
    return f"{type(error).__name__}: {error}"


def tail(log: Path) -> str:
    """Return the end of a log, empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def reason(log: str) -> str:
    """Return the line of a failed run's log that says why: a stage's or DVC's last error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    said = said or [line for line in lines if line.startswith("ERROR: ")] or lines
    return said[-1] if said else ""
