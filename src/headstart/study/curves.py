"""Training curves: of this workspace, and of DVC experiments from their git commits."""

import csv
import io
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.study import lines
from headstart.study.page import Figure

CURVES = "metrics/plots/simclr_loss.csv"  # as the report stage writes it, in every finished experiment's commit


@dataclass(frozen=True)
class Curve:
    """SimCLR's losses (nats) over the epochs of one run, NaN where unknown; arm: how its projector began."""

    run: str
    dataset: str
    arm: str
    seed: int
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]


def curve(run: str, dataset: str, arm: str, seed: int, rows: Iterable[Mapping[str, str]]) -> Curve:
    """Return the curve of rows with epoch, train_loss and val_loss, in order of epochs."""
    ordered = sorted(rows, key=lambda row: int(row["epoch"]))
    train, val = (tuple(float(row[name]) for row in ordered) for name in ("train_loss", "val_loss"))
    return Curve(run, dataset, arm, seed, train, val)


def read_experiments(root: Path, runs: Iterable[tuple[str, str, str, int]]) -> list[Curve]:
    """Return the curves of experiments and branches whose commits hold them.

    runs: (run, dataset, arm, seed); a run is an experiment's name, a branch or a commit, or `workspace`. What cannot be
    read is left out: the page says how many curves it shows.
    """
    wanted = list(runs)
    tables = committed_tables(root, {run for run, *_ in wanted}, CURVES)
    found = []
    for run, dataset, arm, seed in wanted:
        rows = [row for row in tables[run] if row.get("dataset") == dataset]
        if rows:
            found.append(curve(run, dataset, arm, seed, rows))
    return found


def committed_tables(root: Path, runs: Iterable[str], path: str) -> dict[str, list[dict[str, str]]]:
    """Return run -> rows of a CSV file in its commit, none where it is not there; `workspace` is the file itself."""
    refs = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/exps").splitlines()
    commits = {re.sub("^.*/", "", name): commit for name, commit in (line.split(" ") for line in refs)}
    tables = {}
    for run in runs:
        name = commits.get(run.rpartition("/")[2], run)
        content = _workspace(root / path) if run == "workspace" else _git(root, "show", f"{name}:{path}")
        tables[run] = list(csv.DictReader(io.StringIO(content)))
    return tables


def _workspace(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout


def figure(curves: Sequence[Curve], arms: Sequence[str]) -> Figure:
    """Return the losses over epochs, a panel per dataset: thin lines are runs, thick ones their mean in an arm.

    arms: all names, in the order of their colours.
    """
    drawn = [
        lines.Line(item.run, item.dataset, item.arm, item.seed, dict(enumerate(losses, 1)), dashed)
        for item in curves
        for losses, dashed in ((item.train_loss, False), (item.val_loss, True))
    ]
    caption = "SimCLR's loss over epochs: training solid, validation dashed (fixed views, eval mode)."
    axes = lines.Axes("epoch", "NT-Xent, nats", "Loss over epochs", _told)
    return lines.figure("curves-figure", caption, drawn, arms, axes, "mean")


def _told(mean: lines.Points) -> str:
    return f"training loss {mean[1]:.2f} to {mean[len(mean)]:.2f} over {len(mean)} epochs"
