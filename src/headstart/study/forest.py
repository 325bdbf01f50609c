"""A forest plot: estimates with their intervals, a row each, on one scale with zero marked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headstart.study import svg
from headstart.study.writing import span

PLOT = 144.0  # width of the scale where numbers stand beside it
ALONE = 430.0  # and where they do not
PITCH, GAP = 12.0, 12.0  # between estimates of a row, and between rows


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its interval, NaN where there is none.

    name: what tells it from the others of its row. series: its colour and mark. open: without fill, thin.
    """

    value: float
    low: float
    high: float
    name: str = ""
    series: int = 0
    open: bool = False


@dataclass(frozen=True)
class Row:
    """Estimates under one label, from top to bottom; None leaves a place empty. strong: this row decides."""

    label: str
    estimates: tuple[Estimate | None, ...]
    strong: bool = False


def panel(title: str, what: str, rows: Sequence[Row], margin: float = 0.0, numbers: bool = False) -> Markup:
    """Return the drawing of rows, all with as many places.

    what: the quantity with its unit, for those who hear the drawing. margin: a band of this width on either side of
    zero. numbers: the first estimate of each row also as text.
    """
    shown = [estimate for row in rows for estimate in row.estimates if estimate]
    left = max(96.0, 8 + max(svg.width_of(row.label) for row in rows))
    right = left + (PLOT if numbers else ALONE)
    top, step = 26.0 if title else 6.0, GAP + PITCH * len(rows[0].estimates)
    bottom = top + step * len(rows)
    reach = [number for estimate in shown for number in (estimate.value, estimate.low, estimate.high)]
    x, at = svg.scale([*reach, -margin, margin, 0.0], left, right, number=5 if numbers else 9)
    marks = [svg.text(0, 12, title, "strong")] if title else []
    if margin:
        marks.append(
            svg.tag("rect", x=x(-margin), y=top, width=x(margin) - x(-margin), height=bottom - top, cls="band")
        )
    marks += [svg.line(x(value), top, x(value), bottom, "grid") for value in at if not margin]
    marks.append(svg.line(x(0), top, x(0), bottom, "zero"))
    marks += [svg.text(x(value), bottom + 15, svg.number(value, at), "muted", "middle") for value in at]
    for number, row in enumerate(rows):
        middle = top + step * (number + 0.5)
        strong = "strong" if row.strong else ""
        marks.append(svg.text(0, middle + 4, row.label, strong))
        if number and len(row.estimates) > 2:
            marks.append(svg.line(0, middle - step / 2, right, middle - step / 2, "grid"))
        if numbers and row.estimates[0]:
            marks.append(svg.text(right + 146, middle + 4, _words(row.estimates[0]).replace("-", "−"), strong, "end"))
        for place, estimate in enumerate(row.estimates):
            if estimate:
                marks += _drawn(estimate, x, middle + PITCH * (place - (len(row.estimates) - 1) / 2), row.strong)
    said = [
        f"{', '.join(filter(None, (row.label, one.name)))} {_words(one)}"
        for row in rows
        for one in row.estimates
        if one
    ]
    label = f"{', '.join(filter(None, (title, what)))}: {'; '.join(said)}."
    return svg.panel(right + (150 if numbers else 14), bottom + 22, label, marks)


def _words(estimate: Estimate) -> str:
    return span(estimate.value, estimate.low, estimate.high)


def _drawn(estimate: Estimate, x: svg.Scale, y: float, strong: bool) -> list[str]:
    marks = []
    if math.isfinite(estimate.low):
        thin = " thin" if estimate.open else ""
        marks.append(
            svg.line(x(estimate.low), y, x(estimate.high), y, f"bar{thin} s{estimate.series % svg.NUM_SERIES}")
        )
    return [*marks, svg.mark(x(estimate.value), y, estimate.series, open_=estimate.open, diamond=strong, large=True)]
