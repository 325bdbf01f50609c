"""What a probe gets right by class, and how sure it is of it: drawings for the page on a single run."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from headstart.study import svg
from headstart.study.page import Figure

SHOWN = 30  # classes; of more, those that are found least
_WIDE = 300.0  # of the bars

Rows = Sequence[Mapping[str, str]]


def per_class(dataset: str, rows: Rows) -> Figure:
    """Return a bar per class: the share of its test images that the probe finds.

    rows: class, num_test, accuracy, as fit_probe leaves them. Classes without test images have no bar.
    """
    tested = [row for row in rows if int(row["num_test"])]
    shown, told = tested, "every class"
    if len(tested) > SHOWN:
        shown = sorted(tested, key=lambda row: float(row["accuracy"]))[:SHOWN]
        told = f"the {SHOWN} of {len(tested)} classes that are found least"
    caption = f"{dataset}: the share of test images that the probe finds, {told}, in percent."
    return Figure(f"per-class-{dataset}", caption, (_bars(dataset, shown),))


def _bars(dataset: str, rows: Rows) -> Markup:
    left = min(220.0, 14 + max(svg.width_of(row["class"]) for row in rows))
    step, right = 20.0, left + _WIDE
    bottom = 6 + step * len(rows)
    x, at = svg.scale([0.0, 100.0], left, right, limits=svg.PERCENT)
    marks = [svg.line(x(value), 6, x(value), bottom, "grid") for value in at]
    marks += [svg.text(x(value), bottom + 15, svg.number(value, at), "muted", "middle") for value in at]
    words = []
    for number, row in enumerate(rows):
        percent, y = 100 * float(row["accuracy"]), 6 + step * (number + 0.5)
        name = row["class"] if svg.width_of(row["class"]) <= left else f"{row['class'][: int(left / 7.5) - 2]}…"
        marks.append(svg.text(left - 6, y + 4, name, "", "end"))
        marks.append(svg.tag("rect", x=left, y=y - 6, width=max(0.5, x(percent) - left), height=12.0, cls="fill s0"))
        marks.append(svg.text(right + 44, y + 4, f"{percent:.1f}", "muted", "end"))
        words.append(f"{row['class']} {percent:.1f} of {row['num_test']}")
    return svg.panel(right + 48, bottom + 22, f"Percent found by class, {dataset}: {', '.join(words)}.", marks)


def reliability(dataset: str, rows: Rows, error: float) -> Figure:
    """Return the accuracy of each bin of confidence beside the diagonal that a calibrated probe follows.

    rows: num, confidence, accuracy, as fit_probe leaves them; error: the expected calibration error. The size of a mark
    says nothing; bins of fewer than ten images are open.
    """
    left, top, right, bottom = 40.0, 12.0, 280.0, 220.0
    x = svg.scale([0.0, 100.0], left, right, limits=svg.PERCENT)
    y = svg.scale([0.0, 100.0], bottom, top, limits=svg.PERCENT)
    filled = [row for row in rows if int(row["num"])]
    marks = [*svg.frame(x, y, (left, top, right, bottom)), svg.line(x[0](0), y[0](0), x[0](100), y[0](100), "zero")]
    points = [(100 * float(row["confidence"]), 100 * float(row["accuracy"]), int(row["num"])) for row in filled]
    marks.append(svg.curve([(x[0](sure), y[0](right_)) for sure, right_, number in points if number >= 10], "s0"))
    marks += [svg.mark(x[0](sure), y[0](right_), 0, open_=number < 10) for sure, right_, number in points]
    marks.append(svg.text(right, bottom + 30, "confidence, %", "muted", "end"))
    words = ", ".join(f"{sure:.0f} percent sure, {right_:.0f} right ({number})" for sure, right_, number in points)
    caption = (
        f"{dataset}: how often the probe is right (percent) where it is how sure; the line is calibrated. Expected "
        f"calibration error {100 * error:.1f} points; open marks: fewer than ten images."
    )
    drawing = svg.panel(right + 14, bottom + 36, f"Reliability of the probe, {dataset}: {words}.", marks)
    return Figure(f"reliability-{dataset}", caption, (drawing,))
