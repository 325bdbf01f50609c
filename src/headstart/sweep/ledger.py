"""What is finished: git is the ledger. Every branch and DVC experiment here counts, whoever ran it and wherever, and so
do committed rows that say which cell they are of.

An experiment's dvc.lock tells what its numbers were made with, whatever was edited since, so its identity is computed
from that and compared with a cell's. Commits never change: what was read once is kept in .cache/sweeps/ledger.json.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import history, lock, settings
from headstart.history import Found
from headstart.run.files import write_text
from headstart.sweep.cells import Cell

OUTS = ("train_simclr", "fit_probe", lock.GATHERING)  # what each experiment adds to the cache
ROWS = Path("sweeps/results")


@dataclass(frozen=True)
class Finished:
    """A dataset's finished results: the experiment or branch, its metrics, and the bytes that it added to the cache.

    arrays: the digest of the prepared arrays; file: the committed rows that alone tell of it, empty for an experiment.
    """

    name: str
    commit: str
    dataset: str
    metrics: Mapping[str, float]
    num_bytes: int
    arrays: str
    file: str = ""


def result_of(cell: Cell, finished: Mapping[str, Finished]) -> Finished | None:
    """Return the finished result of a cell; the arrays it rests on must be the cell's, where both are known."""
    found = finished.get(cell.identity)
    other = found and found.arrays and cell.arrays and found.arrays != cell.arrays
    return None if other else found


class Ledger:
    """The finished results of a repository, by identity; `read` again finds what was added."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._file = self.root / ".cache" / "sweeps" / "ledger.json"
        # what is kept was computed by this code
        self._version = settings.digest(
            [settings.file_md5(Path(module.__file__ or "")) for module in (history, lock, settings)]
        )
        self._known: dict[str, list[dict[str, Any]]] = self._load()

    def read(self) -> dict[str, Finished]:
        """Return identity -> result; of equals the first. Raises UserError where there is no git repository."""
        revisions = history.read_revisions(self.root)
        commits = {revision.commit for revision in revisions}
        new = [
            commit for commit in dict.fromkeys(revision.commit for revision in revisions) if commit not in self._known
        ]
        if new:
            for commit, found in zip(new, history.read_commits(self.root, new), strict=True):
                self._known[commit] = list(_kept(found))
            self._save(commits)
        finished: dict[str, Finished] = {}
        for revision in revisions:
            for row in self._known[revision.commit]:
                values = {key: value for key, value in row.items() if key != "identity"}
                finished.setdefault(row["identity"], Finished(revision.name, revision.commit, **values))
        for identity, result in _committed_rows(self.root):
            finished.setdefault(identity, result)
        return finished

    def _load(self) -> dict[str, list[dict[str, Any]]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(kept["commits"]) if kept["version"] == self._version else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _save(self, commits: set[str]) -> None:
        known = {commit: rows for commit, rows in self._known.items() if commit in commits}
        write_text(self._file, json.dumps({"version": self._version, "commits": known}))


def _kept(found: Found) -> Iterator[dict[str, Any]]:
    for result in found.results:
        added = sum(entry.num_bytes for entry in result.entries if entry.stage in OUTS)
        yield {
            "identity": result.identity,
            "dataset": result.dataset,
            "metrics": dict(result.metrics),
            "num_bytes": added,
            "arrays": result.arrays,
        }


def _committed_rows(root: Path) -> Iterator[tuple[str, Finished]]:
    """The cells of which rows in sweeps/results say the identity; rows of before have none and never count."""
    for path in sorted((root / ROWS).glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(itertools.dropwhile(lambda line: line.startswith("#"), file))
            for row in table:
                if row.get("identity") and row.get("probe_test_top1"):
                    scores = {"top1": float(row["probe_test_top1"])}
                    arrays, name = row.get("arrays") or "", row.get("run") or path.stem
                    yield (
                        row["identity"],
                        Finished(name, "", row["dataset"], scores, 0, arrays, str(path.relative_to(root))),
                    )
