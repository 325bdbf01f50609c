"""The one way in which every engine runs a cell: a clone at the sweep's commit, a supervised `dvc exp run`, its ref.

DVC stashes the workspace, changes it and resets it hard: in a clone of its own a cell disturbs nobody, always runs the
commit that its sweep was begun with, and what a kill leaves is thrown away. Checkpoints, shared autoencoders and DVC's
cache lie elsewhere and stay.

The Ray engine ships this module to its nodes, which need no checkout: so only the standard library here, and plain
values in and out. A cell's processes never outlive the process that runs it, however that ends.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LOG_BYTES = 50_000  # of a log that go to the driver: Ray keeps results below 100 kB with their owner, not on nodes
NOT_PASSED = ("DVC_", "GIT_DIR", "GIT_INDEX", "GIT_WORK", "HEADSTART_ROOT")  # of the caller's environment: of others
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts at the git remote
# A process that starts the command and takes it along when the end of its input says that the task's process is gone.
SUPERVISOR = """
import os, signal, subprocess, sys, threading
def follow():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=follow, daemon=True).start()
status = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode
sys.exit(status if status >= 0 else 128 - status)
"""
# what a cell itself did not do: a stage ended by a signal (by a kill or for memory), or DVC in its run cache, where it
# takes another cell's file for an entry while that one moves it into place
LOST = re.compile(
    r"exited with (-\d+|137|143)\b|No such file or directory: '\S*/runs/[0-9a-f]{2}/[0-9a-f]{64}/\S+\.tmp'"
)
SIGNALLED = range(129, 160)  # exit statuses


@dataclass(frozen=True)
class Site:
    """What the cells of a sweep have in common on a machine.

    url: the git repository that is cloned, and that gets the experiments; revision: the full commit; prefix: the
    project's folder in the repository, as `git rev-parse --show-prefix` has it; environment: of the processes, over the
    caller's own; config: of the clones' .dvc/config.local; remote: whether results also come from and go to DVC's
    remote, as they must where the machines of a sweep share no cache.
    """

    url: str
    revision: str
    prefix: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    remote: bool = False


@dataclass(frozen=True)
class Run:
    """One `dvc exp run`: the experiment's name, and the arguments that make it this cell.

    target: the last stage to run, for a result that several cells need; empty: the whole pipeline, which is published.
    """

    name: str
    arguments: tuple[str, ...]
    target: str = ""


class End(NamedTuple):
    """How a run ended: error is why it has no results, empty where it has; lost: that was not its own doing."""

    error: str = ""
    lost: bool = False


def run_cell(run: Run, site: Site, slot: Path, log: Path, locks: Sequence[int] = ()) -> End:
    """Run a cell in a slot's clone and publish its experiment; what goes wrong is told, not raised.

    slot: a folder that no other run has meanwhile; log: a file to which the output is appended; locks: descriptors of
    locks that the run's processes hold too.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        before = log.stat().st_size if log.exists() else 0
        project = persistently(fresh_clone, site, slot) / site.prefix
        status = run_supervised(command(run, site), project, environment(site, project), log, locks)
        if status < 0 or status in SIGNALLED:
            return End("its process was killed", lost=True)
        if status:
            said = tail(log, before)
            return End(reason(said) or f"ended with status {status}", bool(LOST.search(said)))
        if not run.target:
            persistently(publish, site, project, run.name)
    except (OSError, subprocess.SubprocessError) as error:
        return End(told(error))
    return End()


def command(run: Run, site: Site) -> list[str]:
    """Return the program and its arguments, for this interpreter."""
    name = ["--name", run.name]
    if not site.remote:
        return [sys.executable, "-m", "dvc", "exp", "run", *name, *run.arguments, *filter(None, [run.target])]
    target = ["--target", run.target] if run.target else []
    return [sys.executable, "-m", "headstart.sweep.worker", *name, *target, "--", *run.arguments]


def fresh_clone(site: Site, slot: Path) -> Path:
    """Return a slot's clone at the commit, made where there is none, without a trace of earlier runs.

    What stays of them is below data/, which a dataset's name tells apart, and which may be large.
    """
    clone, part = slot / "clone", slot / "part"
    project = clone / site.prefix
    if not clone.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        slot.mkdir(parents=True, exist_ok=True)
        git(slot, "clone", "--quiet", "--no-checkout", site.url, str(part))
        part.rename(clone)
    shutil.rmtree(project / ".dvc" / "tmp", ignore_errors=True)
    for lock in (clone / ".git").glob("*.lock"):
        lock.unlink()
    for words in ((), (site.revision,)):  # a commit on no branch is asked for by name
        try:
            git(clone, "cat-file", "-e", f"{site.revision}^{{commit}}")
        except subprocess.CalledProcessError:
            git(clone, "fetch", "--quiet", "origin", *words)
    git(clone, "checkout", "--quiet", "--force", "--detach", site.revision)
    git(clone, "clean", "-fdq")
    git(project, "clean", "-fdqx", "metrics", "models")
    for ref in git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        git(clone, "update-ref", "--no-deref", "-d", ref)
    shutil.rmtree(clone / ".git" / "refs" / "exps", ignore_errors=True)  # a symbolic one to nothing is not listed
    (project / ".dvc" / "config.local").write_text(site.config)
    return clone


def environment(site: Site, project: Path) -> dict[str, str]:
    """Return the environment of a run: the clone's code, this interpreter's commands."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED)}
    paths = {name: os.pathsep.join(filter(None, (first, known.get(name)))) for name, first in (
        ("PATH", str(Path(sys.executable).parent)),
        ("PYTHONPATH", str(project / "src")),
    )}  # fmt: skip
    return {**known, **paths, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **site.environment}


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


def prefix_of(root: Path) -> str:
    """Return the folder of a project in its git repository, with a slash at its end; empty where they are the same."""
    return git(root, "rev-parse", "--show-prefix")


def committer(root: Path) -> dict[str, str]:
    """Return the variables with which a run commits as whoever starts the sweep; raises where git knows nobody."""
    name, _, rest = git(root, "var", "GIT_COMMITTER_IDENT").partition(" <")
    values = {"NAME": name, "EMAIL": rest.partition(">")[0]}
    return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in values.items()}


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
    """Return an error in one line, of a command the last line that it printed, without the user of a URL."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or "").strip().splitlines()
        text = f"git {error.cmd[1]}: {lines[-1] if lines else error.returncode}"
    return re.sub(r"(?<=://)[^\s'\"]*@", "***@", text)  # as errors.masked, which a node may not have


def tail(log: Path, start: int = 0) -> str:
    """Return the end of a log, of what follows its first `start` bytes; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def reason(log: str) -> str:
    """Return the line of a failed run's log that says why: a stage's or DVC's last error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    said = said or [line for line in lines if line.startswith("ERROR: ")] or lines
    return said[-1] if said else ""
