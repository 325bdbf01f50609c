"""Where a run comes from: the git commit, DVC's experiment, and the stage results in dvc.lock that it rests on."""

import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from headstart import history, lock, settings, yaml_files
from headstart.errors import UserError
from headstart.lock import Entry

LOCK = Path(history.LOCK)
CODE = ("src", "stages", "dvc.yaml")


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment's name and the commit it started from; both empty under plain `dvc repro`."""

    name: str
    baseline: str


@dataclass(frozen=True)
class Result:
    """An entry of dvc.lock: a stage on a dataset; equal keys mean equal command, inputs, parameters and outs."""

    stage: str
    dataset: str
    key: str


def experiment() -> Experiment:
    """Return the DVC experiment that runs this stage."""
    return Experiment(os.environ.get("DVC_EXP_NAME", ""), os.environ.get("DVC_EXP_BASELINE_REV", ""))


def experiment_of_workspace() -> str:
    """Return the name of the DVC experiment whose results lie in the workspace (equal dvc.lock), empty without one."""
    try:
        here = _git("hash-object", str(LOCK))
        refs = _git("for-each-ref", "--format=%(refname)", "refs/exps")
        names = [ref for ref in refs.splitlines() if history.EXPERIMENT.fullmatch(ref)]
        equal = [ref.rpartition("/")[2] for ref in names if _git("rev-parse", f"{ref}:./{LOCK}") == here]
        return min(equal, default="")
    except (OSError, subprocess.SubprocessError):
        return ""


def git_state() -> dict[str, str]:
    """Return `git_commit`, its `git_time`, and `git_dirty`: `true` where code differs from it.

    Parameters have their own record.

    Empty without git or without a commit.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = str(bool(_git("status", "--porcelain", "--", *CODE))).lower()
        return {"git_commit": commit, "git_dirty": dirty, "git_time": _git("log", "-1", "--format=%ci")}
    except (OSError, subprocess.SubprocessError):
        return {}


def commit() -> str:
    """Return HEAD's commit, and that the code differs from it where it does; empty as `git_state`."""
    state = git_state()
    dirty = " with changes to the code" if state.get("git_dirty") == "true" else ""
    return f"{state['git_commit']}{dirty}" if state else ""


def _git(*words: str) -> str:
    """What a git command prints; bounded, since a record must not hold up a run."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def code(stage: str) -> str:
    """Return the digest of the code that runs a stage, empty where it has no script."""
    try:
        return settings.digest(sorted(settings.code_of(stage).items()))
    except (UserError, KeyError):
        return ""


def results(datasets: Collection[str], file: Path = LOCK) -> list[Result]:
    """Return the per-dataset results that a run on `datasets` rests on, in the file's order.

    dvc.lock also keeps entries of other datasets and of earlier settings. Where a stage has several entries for one
    dataset (an autoencoder per initialisation and width), those count whose outs another counted entry reads.
    """
    if not file.is_file():
        return []
    entries = lock.read_entries(yaml_files.read_yaml(file, by_hand=False)["stages"])
    named = [entry for entry in entries if entry.dataset and Path("stages", f"{entry.stage}.py").is_file()]
    pairs = [(entry.stage, entry.dataset) for entry in named]
    waiting = [entry for entry in named if entry.dataset in datasets and pairs.count((entry.stage, entry.dataset)) == 1]
    counted: list[Entry] = []
    while waiting:
        counted.append(waiting.pop())
        producers = [other for other in named if set(other.outs) & set(counted[-1].deps)]
        waiting += [other for other in producers if other not in counted and other not in waiting]
    return [Result(entry.stage, entry.dataset, _key(entry)) for entry in named if entry in counted]


def _key(entry: Entry) -> str:
    hashes = [sorted(files.items()) for files in (entry.deps, entry.outs)]
    return settings.digest(entry.command, entry.params, hashes)
