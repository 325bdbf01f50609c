"""Training curves: of this workspace, and of DVC experiments from their git commits; drawn without pandas."""

import csv
import io
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from headstart.study import svg
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
    datasets = sorted({item.dataset for item in curves})
    panels = tuple(_panel(name, [item for item in curves if item.dataset == name], arms) for name in datasets)
    there = [(svg.key(number), name) for number, name in enumerate(arms) if any(item.arm == name for item in curves)]
    runs, seeds = (len({getattr(item, name) for item in curves}) for name in ("run", "seed"))
    many = " Thin lines are single runs, thick ones their mean." if len(curves) > len(datasets) else ""
    caption = (
        f"SimCLR's loss over epochs: training solid, validation dashed (fixed views, eval mode).{many} "
        f"{runs} run{'s' * (runs != 1)}, {seeds} seed{'s' * (seeds != 1)}."
    )
    return Figure("curves-figure", caption, panels, tuple(there))


def _panel(dataset: str, curves: Sequence[Curve], arms: Sequence[str]) -> Markup:
    longest = max(len(item.train_loss) for item in curves)
    losses = [loss for item in curves for loss in (*item.train_loss, *item.val_loss)]
    x, y = svg.scale([1, longest], 46, 350, 0.02), svg.scale(losses, 218, 26)
    marks = [svg.text(46, 14, dataset, "strong"), *svg.frame(x, y, (46, 24, 350, 220))]
    marks += [svg.text(350, 250, "epoch", "muted", "end"), svg.text(350, 14, "NT-Xent, nats", "muted", "end")]
    sentences = []
    for number, arm in enumerate(arms):
        own = [item for item in curves if item.arm == arm]
        if not own:
            continue
        for attribute, dashed in (("train_loss", ""), ("val_loss", " dashed")):
            lines = [getattr(item, attribute) for item in own]
            if len(own) > 1:
                marks += [_line(losses, x[0], y[0], f"thin s{number % svg.NUM_SERIES}{dashed}") for losses in lines]
            length = min(len(losses) for losses in lines)
            mean = [sum(values) / len(values) for values in zip(*(losses[:length] for losses in lines), strict=True)]
            marks.append(_line(mean, x[0], y[0], f"s{number % svg.NUM_SERIES}{dashed}"))
            if attribute == "train_loss":
                sentences.append(f"{arm}: training loss {mean[0]:.2f} to {mean[-1]:.2f} over {length} epochs")
    return svg.panel(360, 258, f"Loss over epochs, {dataset}. {'; '.join(sentences)}.", marks)


def _line(losses: Sequence[float], x: svg.Scale, y: svg.Scale, cls: str) -> str:
    return svg.curve([(x(epoch), y(loss)) for epoch, loss in enumerate(losses, 1)], cls)
