"""Lines over epochs or steps of many runs: read from git commits, drawn with the mean of each arm over its runs."""

import csv
import io
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from headstart.study import svg
from headstart.study.page import Figure
from headstart.study.writing import counted

Points = dict[int, float]


@dataclass(frozen=True)
class Line:
    """One quantity of a run over whole numbers in order, NaN where it is lost.

    panel: where it is drawn; arm: how the run's projector began, which is its colour.
    """

    run: str
    panel: str
    arm: str
    seed: int
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """How lines of one kind are drawn and told.

    x, y: the names of the axes. start: how a panel's description begins. mean: what a thick line is. told: what it says
    in words, "" for nothing. shared: whether all panels have one scale.
    """

    name: str
    caption: str
    x: str
    y: str
    start: str
    mean: str
    told: Callable[[Points], str]
    shared: bool = False


Found = TypeVar("Found")


def read_experiments(
    root: Path, path: str, runs: Iterable[tuple[Any, ...]], lines_of: Callable[..., list[Found]]
) -> list[Found]:
    """Return the lines, or what else lines_of makes of rows, of experiments and branches whose commits hold a CSV file.

    runs: what lines_of takes before the rows of the file `path`; the first is an experiment's name, a branch or a
    commit, or `workspace`. What cannot be read is left out: the page says how many runs it shows.
    """
    refs = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/exps").splitlines()
    commits = {re.sub("^.*/", "", name): commit for name, commit in (line.split(" ") for line in refs)}

    @cache
    def table(run: str) -> list[dict[str, str]]:
        file = root / path
        if run == "workspace":
            content = file.read_text(encoding="utf-8") if file.is_file() else ""
        else:
            content = _git(root, "show", f"{commits.get(run.rpartition('/')[2], run)}:{path}")
        return list(csv.DictReader(io.StringIO(content)))

    return [line for run, *rest in runs for line in lines_of(run, *rest, table(run))]


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout


def figure(plot: Plot, lines: Sequence[Line], arms: Sequence[str]) -> Figure:
    """Return the lines, a panel for each of their names in order; arms: all names, in the order of their colours."""
    panels = {name: [line for line in lines if line.panel == name] for name in sorted({line.panel for line in lines})}
    there = [(svg.key(number), arm) for number, arm in enumerate(arms) if any(line.arm == arm for line in lines)]
    runs, seeds = (len({getattr(line, key) for line in lines}) for key in ("run", "seed"))
    solid = [line for line in lines if not line.dashed]
    many = f" Thin lines are single runs, thick ones their {plot.mean}." if len(solid) > len(panels) else ""
    caption = f"{plot.caption}{many} {counted(runs, 'run')}, {counted(seeds, 'seed')}."
    drawn = [_panel(plot, name, own, lines if plot.shared else own, arms) for name, own in panels.items()]
    return Figure(plot.name, caption, tuple(drawn), tuple(there))


def _panel(plot: Plot, name: str, lines: Sequence[Line], scaled: Sequence[Line], arms: Sequence[str]) -> Markup:
    x = svg.scale([number for line in lines for number in line.points], 46, 350, 0.02)
    y = svg.scale([value for line in scaled for value in line.points.values()], 218, 26)
    marks = [svg.text(46, 14, name, "strong"), *svg.frame(x, y, (46, 24, 350, 220))]
    marks += [svg.text(350, 250, plot.x, "muted", "end"), svg.text(350, 14, plot.y, "muted", "end")]
    sentences = []
    for series, arm in enumerate(arms):
        for dashed in (False, True):
            own = [line.points for line in lines if line.arm == arm and line.dashed == dashed]
            if not own:
                continue
            cls = f"s{series % svg.NUM_SERIES}{' dashed' * dashed}"
            numbers = sorted(set.intersection(*map(set, own)))
            mean = {number: sum(points[number] for points in own) / len(own) for number in numbers}
            shown = [(points, f"thin {cls}") for points in own if len(own) > 1] + [(mean, cls)]
            marks += [svg.curve([(x[0](at), y[0](value)) for at, value in line.items()], look) for line, look in shown]
            if not dashed and (words := plot.told(mean)):
                sentences.append(f"{arm}: {words}")
    return svg.panel(360, 258, f"{plot.start}, {name}. {'; '.join(sentences)}.", marks)
