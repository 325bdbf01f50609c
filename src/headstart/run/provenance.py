"""Where a run comes from: the git commit, DVC's experiment, and the stage results in dvc.lock that it rests on."""

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headstart.run import artifacts

LOCK = Path("dvc.lock")
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

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        here = git("hash-object", str(LOCK))
        refs = git("for-each-ref", "--format=%(refname)", "refs/exps")
        names = [ref for ref in refs.splitlines() if re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/[^/]+", ref)]
        equal = [ref.rpartition("/")[2] for ref in names if git("rev-parse", f"{ref}:./{LOCK}") == here]
        return min(equal, default="")
    except (OSError, subprocess.SubprocessError):
        return ""


def git_state() -> dict[str, str]:
    """Return `git_commit`, and `git_dirty` (`true` where code differs from it: parameters have their own record).

    Empty without git or without a commit.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": str(bool(git("status", "--porcelain", "--", *CODE))).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


def code(stage: str) -> str:
    """Return the digest of the code that runs a stage, empty where it has no script."""
    try:
        return artifacts.code_digest(stage)
    except OSError:
        return ""


def results(datasets: Collection[str], lock: Path = LOCK) -> list[Result]:
    """Return the per-dataset results that a run on `datasets` rests on, in the file's order.

    dvc.lock also keeps entries of other datasets and of earlier parameters. Where a stage has several entries for one
    dataset (an autoencoder per initialisation and width), those count whose outs another counted entry reads.
    """
    if not lock.is_file():
        return []
    entries = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values()
    named = [(*_stage_and_dataset(entry), entry) for entry in entries]
    named = [(stage, dataset, entry) for stage, dataset, entry in named if dataset]
    pairs = [(stage, dataset) for stage, dataset, _ in named]
    waiting = [row for row in named if row[1] in datasets and pairs.count(row[:2]) == 1]
    counted: list[Any] = []
    while waiting:
        row = waiting.pop()
        counted.append(row)
        inputs = {dep["path"] for dep in row[2].get("deps", [])}
        producers = [other for other in named if any(out["path"] in inputs for out in other[2].get("outs", []))]
        waiting += [other for other in producers if other not in counted and other not in waiting]
    return [Result(stage, dataset, _key(entry)) for stage, dataset, entry in (row for row in named if row in counted)]


def _stage_and_dataset(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The names in `python -m stages.STAGE --dataset DATASET`; empty where the script is gone or takes no dataset."""
    command = str(entry["cmd"])
    stage, dataset = re.search(r"-m stages\.(\w+)", command), re.search(r"--dataset[ =]([^\s']+)", command)
    if not stage or not dataset or not Path("stages", f"{stage[1]}.py").is_file():
        return "", ""
    return stage[1], dataset[1]


def _key(entry: Mapping[str, Any]) -> str:
    hashes = [[(file["path"], file.get("md5")) for file in entry.get(kind, [])] for kind in ("deps", "outs")]
    return artifacts.digest(entry["cmd"], entry.get("params"), hashes)
