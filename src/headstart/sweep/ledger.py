"""What is finished: git is the ledger. Every branch and DVC experiment here counts, whoever ran it and wherever.

An experiment's dvc.lock tells what its numbers were made with, whatever was edited since, so its identity is computed
from that and compared with a cell's. Commits never change: what was read once is kept in .cache/sweeps/ledger.json.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import UserError
from headstart.models import projector
from headstart.run import paths
from headstart.run.artifacts import digest, file_digest, write_text
from headstart.run.params import Loader
from headstart.sweep import pipeline
from headstart.sweep.pipeline import Entry

EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
NEEDED = ("top1", "val_top1", "train_loss", "val_loss")  # of a dataset: without these a run is half-finished
OUTS = ("train_simclr", "fit_probe", pipeline.GATHERING)  # what each experiment adds to the cache


@dataclass(frozen=True)
class Finished:
    """A dataset's finished results: the experiment or branch, its metrics, and the bytes that it added to the cache."""

    name: str
    commit: str
    dataset: str
    metrics: Mapping[str, float]
    num_bytes: int


class Ledger:
    """The finished results of a repository, by identity; `read` again finds what was added."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._file = self.root / ".cache" / "sweeps" / "ledger.json"
        # what is kept was computed by this code
        self._version = digest([file_digest(Path(module.__file__ or "")) for module in (pipeline, projector)])
        self._known: dict[str, list[dict[str, Any]]] = self._load()
        self._blocks: dict[str, Any] = {}

    def read(self) -> dict[str, Finished]:
        """Return identity -> result; of equals the first. Raises UserError where there is no git repository."""
        refs = self._refs()
        new = [commit for commit in dict.fromkeys(refs.values()) if commit not in self._known]
        if new:
            for commit, files in zip(new, self._contents(new), strict=True):
                self._known[commit] = list(self._results(*files))
            self._save(set(refs.values()))
        found: dict[str, Finished] = {}
        for name, commit in refs.items():
            for row in self._known[commit]:
                values = {key: value for key, value in row.items() if key != "identity"}
                found.setdefault(row["identity"], Finished(name, commit, **values))
        return found

    def _refs(self) -> dict[str, str]:
        """Name -> commit, of experiments and branches."""
        try:
            lines = _git(self.root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps", "refs/heads")
        except (OSError, subprocess.CalledProcessError):
            raise UserError(
                f"{self.root}: no git repository; sweeps need one: git init && git add -A && git commit"
            ) from None
        rows: dict[str, str] = {}
        for line in lines.splitlines():
            commit, ref = line.split(" ", 1)
            if experiment := EXPERIMENT.fullmatch(ref):
                rows[experiment[1]] = commit
            elif ref.startswith("refs/heads/"):
                rows[ref.removeprefix("refs/heads/")] = commit
        return rows

    def _contents(self, commits: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
        """dvc.lock and all.json at each commit, empty where it has none."""
        names = [f"{commit}:{file}" for commit in commits for file in ("dvc.lock", paths.ALL.as_posix())]
        given = "\n".join(names).encode() + b"\n"
        done = subprocess.run(
            ["git", "cat-file", "--batch"], cwd=self.root, input=given, capture_output=True, check=True
        )
        rest, found = memoryview(done.stdout), []
        for _ in names:
            end = bytes(rest[:1000]).index(b"\n")
            header = bytes(rest[:end]).split()
            size = int(header[-1]) if header[-1].isdigit() and header[-2] == b"blob" else None
            found.append(b"" if size is None else bytes(rest[end + 1 : end + 1 + size]))
            rest = rest[end + 1 + (0 if size is None else size + 1) :]
        return zip(found[::2], found[1::2], strict=True)

    def _results(self, lock: bytes, table: bytes) -> Iterator[dict[str, Any]]:
        """The finished datasets of a commit."""
        try:
            entries = pipeline.locked_entries(self._stages(lock.decode()))
            metrics = json.loads(table or b"{}").get("metrics", {})
            gathered = next((entry for entry in entries if entry.stage == pipeline.GATHERING), None)
            # what was edited, or gathered before the last training, says nothing of these results
            if gathered and gathered.outs.get(paths.ALL.as_posix()) == _md5(table):
                for dataset in gathered.params.get("datasets") or []:
                    row = self._result(entries, gathered, dataset, metrics)
                    if row:
                        yield row
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, UserError):
            return  # no commit of this pipeline

    def _result(
        self, entries: list[Entry], gathered: Entry, dataset: str, metrics: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        chosen = pipeline.involved(entries, dataset)
        scores = {key: row[dataset] for key, row in metrics.items() if row.get(dataset) is not None}
        agree = all(
            gathered.params[key] == entry.params[key]
            for entry in chosen
            for key in ("seed", "recipe", "projector")
            if key in entry.params and key in gathered.params
        )
        if not pipeline.is_whole(chosen) or not agree or any(key not in scores for key in NEEDED):
            return None
        added = sum(entry.num_bytes for entry in (*chosen, gathered) if entry.stage in OUTS)
        return {"identity": pipeline.identity(chosen), "dataset": dataset, "metrics": scores, "num_bytes": added}

    def _stages(self, lock: str) -> dict[str, Any]:
        """dvc.lock's stages, each parsed once: experiments share most of them to the letter, and YAML is slow."""
        stages: dict[str, Any] = {}
        for block in re.split(r"^(?=  \S)", lock.partition("stages:\n")[2], flags=re.MULTILINE):
            key = block.rstrip()
            if key and key not in self._blocks:
                self._blocks[key] = yaml.load(key, Loader=Loader)
            stages |= self._blocks[key] if key else {}
        return stages

    def _load(self) -> dict[str, list[dict[str, Any]]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(kept["commits"]) if kept["version"] == self._version else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _save(self, commits: set[str]) -> None:
        known = {commit: rows for commit, rows in self._known.items() if commit in commits}
        write_text(self._file, json.dumps({"version": self._version, "commits": known}))


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
