"""What git holds of finished runs: every branch and DVC experiment, by what its dvc.lock and metrics/all.json say."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import lock, settings, yaml_files
from headstart.errors import UserError
from headstart.lock import GATHERING, Entry

EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2}/[0-9a-f]{38})/(.+)")
LOCK, RECORD = "dvc.lock", "metrics/all.json"
# Of a dataset: without all of one of these a run is half-finished; the second are those of images without labels
NEEDED = (("top1", "val_top1", "train_loss", "val_loss"), ("view_top1", "rankme", "train_loss", "val_loss"))


@dataclass(frozen=True)
class Revision:
    """A branch's last commit or an experiment; baseline: the commit whose code an experiment ran, else its own."""

    name: str
    commit: str
    baseline: str


@dataclass(frozen=True)
class Result:
    """A dataset's finished results; entries: of dvc.lock that they rest on, the report's last.

    facts: what settings came to (projector_frozen, needs_autoencoder, precision).
    """

    dataset: str
    entries: tuple[Entry, ...]
    metrics: Mapping[str, float]
    facts: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """What decided its numbers, but for the arrays; see lock.identity."""
        facts = self.facts
        return lock.identity(self.entries[:-1], facts["projector_frozen"], bool(facts["needs_autoencoder"]))

    @property
    def arrays(self) -> str:
        """The digest of the arrays that it rests on; see lock.arrays."""
        return lock.arrays(self.entries)


@dataclass(frozen=True)
class Found:
    """The finished results of a commit, and why others are left out, a few words each."""

    results: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()


def read_revisions(root: Path) -> list[Revision]:
    """Return branches, the checked-out one first, and experiments; raises UserError without a git repository."""
    try:
        head = git(root, "rev-parse", "HEAD").strip()
        lines = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/exps").splitlines()
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{root}: no git repository with a commit, so no experiments: git init && git add -A && git commit"
        ) from None
    found = []
    for line in lines:
        commit, ref = line.split(" ", 1)
        if experiment := EXPERIMENT.fullmatch(ref):
            found.append(Revision(experiment[2], commit, experiment[1].replace("/", "")))
        elif ref.startswith("refs/heads/"):
            found.append(Revision(ref.removeprefix("refs/heads/"), commit, commit))
    if all(revision.commit != head for revision in found):  # a detached HEAD
        found.append(Revision(head, head, head))
    return sorted(found, key=lambda revision: revision.commit != head)


def read_commits(root: Path, commits: Sequence[str]) -> Iterator[Found]:
    """Yield what each commit holds, in their order. Stages that many commits share are parsed once."""
    prefix = git(root, "rev-parse", "--show-prefix").strip()
    parse = _Parser()
    for text, record in _contents(root, commits, [f"{prefix}{name}" for name in (LOCK, RECORD)]):
        yield read_results(text, record, parse)


def read_workspace(root: Path) -> Found:
    """Return what lies in the workspace, committed or not."""
    text, record = ((root / name).read_bytes() if (root / name).is_file() else b"" for name in (LOCK, RECORD))
    return read_results(text, record)


def check_workspace(root: Path) -> None:
    """Raise UserError where the workspace's dvc.lock says other settings or code than its results were made with."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    entries = lock.read_entries(yaml_files.read_yaml(root / LOCK, by_hand=False)["stages"])
    for dataset, facts in record["facts"].items():
        chosen = lock.involved(entries, dataset, facts["needs_autoencoder"])
        if wrong := lock.disagreeing(chosen, record["made_with"]):
            raise UserError(
                f"dvc.lock: {wrong[0]}: it was made with other settings or code than stand there: they were edited "
                f"while it ended; run: dvc repro -f {wrong[0]}"
            )


def read_results(text: bytes, record: bytes, parse: Callable[[str], dict[str, Any]] | None = None) -> Found:
    """Return the finished results that a dvc.lock and a metrics/all.json tell of; nothing where they are of no run.

    Left out is what the lock says was made with other settings or code than were used, and what is half-finished.
    """
    try:
        entries = lock.read_entries((parse or _Parser())(text.decode()))
        gathered = next((entry for entry in entries if entry.stage == GATHERING), None)
        known = json.loads(record or b"{}")
        # what was edited, or gathered before the last training, says nothing of these results
        if gathered is None or gathered.outs.get(RECORD) != hashlib.md5(record, usedforsecurity=False).hexdigest():
            return Found()
        results, left_out = [], []
        for dataset in gathered.params[settings.PARAMS].get("datasets") or []:
            result = _result(entries, gathered, dataset, known)
            if isinstance(result, Result):
                results.append(result)
            else:
                left_out.append(result)
        return Found(tuple(results), tuple(left_out))
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return Found()  # no commit of this pipeline


def _result(entries: Sequence[Entry], gathered: Entry, dataset: str, known: Mapping[str, Any]) -> Result | str:
    """A dataset's result, or why it has none."""
    facts = known["facts"][dataset]
    chosen = lock.involved(entries, dataset, facts["needs_autoencoder"])
    scores = {key: row[dataset] for key, row in known["metrics"].items() if row.get(dataset) is not None}
    if wrong := lock.disagreeing(chosen, known["made_with"]):
        return f"dvc.lock says other settings or code than {wrong[0]} was made with"
    told = gathered.params[settings.PARAMS]
    same = all(
        told[key] == entry.params[settings.PARAMS][key]
        for entry in chosen
        for key in ("seed", "recipe", "projector")
        # of the projector some stages name single keys
        if key in told and key in entry.params[settings.PARAMS] and entry.stage in ("train_simclr", "fit_probe")
    )
    if not lock.is_whole(chosen) or not same or not any(set(keys) <= set(scores) for keys in NEEDED):
        return f"{dataset} is half-finished"
    return Result(dataset, (*chosen, gathered), scores, facts)


class _Parser:
    """dvc.lock's stages, each parsed once: experiments share most of them to the letter, and YAML is slow."""

    def __init__(self) -> None:
        self._blocks: dict[str, Any] = {}

    def __call__(self, text: str) -> dict[str, Any]:
        stages: dict[str, Any] = {}
        for block in re.split(r"^(?=  \S)", text.partition("stages:\n")[2], flags=re.MULTILINE):
            key = block.rstrip()
            if key and key not in self._blocks:
                self._blocks[key] = yaml_files.parse_yaml(key)
            stages |= self._blocks[key] if key else {}
        return stages


def _contents(root: Path, commits: Sequence[str], files: Sequence[str]) -> Iterator[tuple[bytes, ...]]:
    """Files at each commit, empty where it has none."""
    names = [f"{commit}:{file}" for commit in commits for file in files]
    given = "\n".join(names).encode() + b"\n"
    done = subprocess.run(["git", "cat-file", "--batch"], cwd=root, input=given, capture_output=True, check=True)
    rest, found = memoryview(done.stdout), []
    for _ in names:
        end = bytes(rest[:1000]).index(b"\n")
        header = bytes(rest[:end]).split()
        size = int(header[-1]) if header[-1].isdigit() and header[-2] == b"blob" else None
        found.append(b"" if size is None else bytes(rest[end + 1 : end + 1 + size]))
        rest = rest[end + 1 + (0 if size is None else size + 1) :]
    for start in range(0, len(found), len(files)):
        yield tuple(found[start : start + len(files)])


def git(root: Path, *words: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


def left_out_words(found: Iterable[tuple[str, Found]]) -> list[str]:
    """Return a sentence per reason for which results are left out, with the names of their runs."""
    reasons: dict[str, list[str]] = {}
    for name, commit in found:
        for reason in commit.left_out:
            reasons.setdefault(reason, []).append(name)
    return [f"Left out, {reason}: {', '.join(names)}." for reason, names in reasons.items()]
