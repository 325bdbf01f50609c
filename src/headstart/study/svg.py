"""Small SVG: panels of marks on linear scales, for the page, or alone in a file with its style.

A colour is a class (`s0` to `s7` of drawing.css, colour-blind-safe), so one drawing serves light, dark and print; a
series also has its own shape, so that colour never stands alone.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup, escape

WIDTH, PAD = 780.0, 14.0  # of a drawing alone in a file
PERCENT = (0.0, 100.0)  # the limits of a scale of shares
Scale = Callable[[float], float]
Point = tuple[float, float]

NUM_SERIES = 8  # classes s0 .. s7 in drawing.css
TEMPLATES = Path(__file__).parent / "templates"


def scale(
    values: Iterable[float],
    start: float,
    stop: float,
    pad: float = 0.06,
    number: int = 5,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[Scale, list[float]]:
    """Return the map from the finite values' range, widened by `pad` of it, to [start, stop], and its `ticks`.

    Without a finite value the range is [0, 1]; a single value gets a range of its own size around it. limits: what no
    value can be below or above, as PERCENT; the range ends there.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    spread = (high - low) or abs(high) or 1.0
    low, high = max(low - pad * spread, limits[0]), min(high + pad * spread, limits[1])

    def position(value: float) -> float:
        return start + (value - low) / (high - low) * (stop - start)

    return position, ticks(low, high, number)


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Return at most `number` + 1 multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    raw = (high - low) / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """Return an element; numbers are rounded to a tenth, `cls` is class and _ in names is -."""
    words = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{_value(value)}"' for key, value in attributes.items()
    )
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(str(value)))


def text(x: float, y: float, words: str, cls: str = "", anchor: str = "start") -> str:
    """Return a line of text whose baseline is at y."""
    return tag("text", str(escape(words)), x=float(x), y=float(y), cls=f"t {cls}".strip(), text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    """Return a straight line."""
    return tag("path", d=f"M{_value(x1 * 1.0)} {_value(y1 * 1.0)}L{_value(x2 * 1.0)} {_value(y2 * 1.0)}", cls=cls)


def curve(points: Iterable[Point], cls: str) -> str:
    """Return a line through points; one that is not finite breaks it."""
    steps, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return tag("path", d="".join(steps), cls=f"line {cls}") if steps else ""


# around the origin, about 7 wide
_SHAPES = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0z",
    "M-2.9 -2.9h5.8v5.8h-5.8z",
    "M0 -3.9L3.7 2.9H-3.7z",
    "M0 -4.1L4.1 0L0 4.1L-4.1 0z",
    "M0 3.9L3.7 -2.9H-3.7z",
    "M-1.2 -3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
    "M1.7 -3.4L3.4 -1.7L1.7 0L3.4 1.7L1.7 3.4L0 1.7L-1.7 3.4L-3.4 1.7L-1.7 0L-3.4 -1.7L-1.7 -3.4L0 -1.7z",
    "M0 -4.6L1.1 -1.5L4.4 -1.4L1.8 0.6L2.7 3.7L0 1.9L-2.7 3.7L-1.8 0.6L-4.4 -1.4L-1.1 -1.5z",
)


def mark(x: float, y: float, series: int, open_: bool = False, diamond: bool = False, large: bool = False) -> str:
    """Return a data point in the shape and colour of its series (64 differ); an open one has no fill."""
    cls = f"m s{series % NUM_SERIES}{' open' if open_ else ''}{' large' if large else ''}"
    shape = _SHAPES[3 if diamond else (series + series // NUM_SERIES) % NUM_SERIES]
    size = " scale(1.25)" if large else ""
    return f'<path class="{cls}" transform="translate({x:.1f} {y:.1f}){size}" d="{shape}"/>'


BREAK = Markup('<span class="break"></span>')  # among panels: those after it begin a new row


def key(series: int) -> Markup:
    """Return a series' mark alone, for a legend."""
    return Markup(f'<svg class="key" viewBox="-5 -5 10 10" aria-hidden="true">{mark(0, 0, series, large=True)}</svg>')


def legend(names: Sequence[str]) -> tuple[tuple[Markup, str], ...]:
    """Return the legend of series 0, 1, ... with their names."""
    return tuple((key(series), name) for series, name in enumerate(names))


def panel(width: float, height: float, label: str, marks: Iterable[str]) -> Markup:
    """Return a drawing that a screen reader calls `label`; it shrinks with the page and never grows beyond `width`."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return Markup(f'<svg class="panel" {size} role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>')


def width_of(words: str, size: float = 12.0) -> float:
    """Return about how wide a text is, rather too wide than too narrow: the reader's fonts are unknown."""
    return 0.62 * size * len(words)


def standalone(
    title: str,
    panels: Iterable[Markup],
    legend: Sequence[tuple[Markup, str]] = (),
    notes: Sequence[str] = (),
    within: float = WIDTH,
) -> str:
    """Return panels, side by side `within` a width, as the text of one SVG file with its own style and ground."""
    marks, labels = [text(PAD, PAD + 12, title, "strong")], [str(escape(title))]
    x, y, wide = PAD, PAD + 24.0, PAD + width_of(title, 13)
    for mark_, name in legend:
        if x > PAD and x + 17 + width_of(name) > within:
            x, y = PAD, y + 18
        marks += [_placed(mark_, x, y, 12, 12), text(x + 17, y + 10, name)]
        wide = max(wide, x + 17 + width_of(name))
        x += 31 + width_of(name)
    x, y, tall = PAD, y + (28.0 if legend else 8.0), 0.0
    for item in panels:
        width, height, label = re.findall('width="(.*?)" height="(.*?)" .*?aria-label="(.*?)"', item)[0]
        if x > PAD and x + float(width) > within:
            x, y, tall = PAD, y + tall + 14, 0.0
        marks.append(_placed(item, x, y, float(width), float(height)))
        labels.append(label)
        wide, tall = max(wide, x + float(width)), max(tall, float(height))
        x += float(width) + 18
    rows = [row for note in notes for row in textwrap.wrap(note, int((within - PAD) / width_of("x", 11)))]
    marks += [text(PAD, y + tall + 20 + 16 * number, row, "muted") for number, row in enumerate(rows)]
    wide = math.ceil(max([wide, *(PAD + width_of(row, 11) for row in rows)]) + PAD)
    tall = math.ceil(y + tall + 20 + 16 * len(rows))
    size = f'viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{" ".join(labels)}">'
    style = (TEMPLATES / "drawing.css").read_text(encoding="utf-8")
    paper = tag("rect", width="100%", height="100%", cls="paper")
    return "\n".join([head, f"<style>\n{style}</style>", paper, *marks, "</svg>"]) + "\n"


def _placed(drawing: Markup, x: float, y: float, width: float, height: float) -> str:
    """A drawing of `panel` or `key` at its place in a larger one."""
    head, _, inner = drawing.partition(">")
    box = re.findall('viewBox=".*?"', head)[0]
    return f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {box} overflow="visible">{inner}'


def frame(
    x: tuple[Scale, Sequence[float]], y: tuple[Scale, Sequence[float]], box: tuple[float, float, float, float]
) -> list[str]:
    """Return grid lines and the numbers of both axes around box = (left, top, right, bottom)."""
    left, top, right, bottom = box
    marks = [line(left, y[0](value), right, y[0](value), "grid") for value in y[1]]
    marks += [line(x[0](value), top, x[0](value), bottom, "grid") for value in x[1]]
    marks += [text(left - 5, y[0](value) + 4, number(value, y[1]), "muted", "end") for value in y[1]]
    return marks + [text(x[0](value), bottom + 15, number(value, x[1]), "muted", "middle") for value in x[1]]


def number(value: float, among: Sequence[float]) -> str:
    """Return a tick's number: all of a scale's ticks with the fewest digits that give each one's very position."""
    step = min((b - a for a, b in pairwise(among)), default=abs(value) or 1.0)
    digits = next((k for k in range(12) if all(abs(round(tick, k) - tick) < 1e-6 * step for tick in among)), 12)
    return f"{value:.{digits}f}".replace("-", "−")
