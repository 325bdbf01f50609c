"""Lines over epochs or steps of many runs: a panel per dataset, the mean of each arm thick over its runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.study import svg
from headstart.study.page import Figure
from headstart.study.writing import counted

Points = dict[int, float]


@dataclass(frozen=True)
class Line:
    """One quantity of a run over whole numbers, NaN where it is lost.

    panel: where it is drawn; arm: how the run's projector began, which is its colour.
    """

    run: str
    panel: str
    arm: str
    seed: int
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Axes:
    """How lines are drawn and told: the names of both axes, and a sentence's start for a panel's name.

    told: what a mean line says in words, "" for nothing. shared: whether all panels have one scale.
    """

    x: str
    y: str
    start: str
    told: Callable[[Points], str]
    shared: bool = False


def figure(name: str, caption: str, lines: Sequence[Line], arms: Sequence[str], axes: Axes, mean: str) -> Figure:
    """Return the lines, a panel for each of their names in order.

    arms: all names, in the order of their colours. mean: what the thick lines are, for the caption.
    """
    panels = sorted({line.panel for line in lines})
    there = [(svg.key(number), arm) for number, arm in enumerate(arms) if any(line.arm == arm for line in lines)]
    runs, seeds = (len({getattr(line, key) for line in lines}) for key in ("run", "seed"))
    solid = [line for line in lines if not line.dashed]
    many = f" Thin lines are single runs, thick ones their {mean}." if len(solid) > len(panels) else ""
    words = f"{caption}{many} {counted(runs, 'run')}, {counted(seeds, 'seed')}."
    drawn = tuple(
        _panel(panel, own, lines if axes.shared else own, arms, axes)
        for panel in panels
        if (own := [line for line in lines if line.panel == panel])
    )
    return Figure(name, words, drawn, tuple(there))


def _panel(name: str, lines: Sequence[Line], scaled: Sequence[Line], arms: Sequence[str], axes: Axes) -> Markup:
    x = svg.scale([number for line in lines for number in line.points], 46, 350, 0.02)
    y = svg.scale([value for line in scaled for value in line.points.values()], 218, 26)
    marks = [svg.text(46, 14, name, "strong"), *svg.frame(x, y, (46, 24, 350, 220))]
    marks += [svg.text(350, 250, axes.x, "muted", "end"), svg.text(350, 14, axes.y, "muted", "end")]
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
            if not dashed and (words := axes.told(mean)):
                sentences.append(f"{arm}: {words}")
    return svg.panel(360, 258, f"{axes.start}, {name}. {'; '.join(sentences)}.", marks)
