"""The forest plot: what is drawn lies where its numbers say."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from headstart.study import forest, svg

ROWS = [
    forest.Row(
        "all", (forest.Estimate(1.5, -0.5, 3.0), forest.Estimate(2.0, 0.5, 4.0, "rest", open=True)), strong=True
    ),
    forest.Row("mine", (forest.Estimate(-1.0, math.nan, math.nan), None)),
]


def parts(panel, name):
    return list(ElementTree.fromstring(str(panel)).iter(name))


def place(mark):
    return tuple(map(float, re.match(r"translate\(([-\d.]+) ([-\d.]+)\)", mark.get("transform")).groups()))


def ends(line):
    x1, y1, x2, y2 = map(float, re.findall(r"-?[\d.]+", line.get("d")))
    assert y1 == y2
    return x1, x2, y1


@pytest.fixture(params=[True, False], ids=["numbers", "alone"])
def panel(request):
    return forest.panel("a - b", "points", ROWS, margin=1.0, numbers=request.param)


def position(panel):
    """The scale, from where two of its numbers stand."""
    ticks = [item for item in parts(panel, "text") if item.get("class") == "t muted"]
    (a, x), (b, y) = [(float(item.text.replace("−", "-")), float(item.get("x"))) for item in (ticks[0], ticks[-1])]
    return lambda value: x + (value - a) / (b - a) * (y - x)


def test_values_and_bounds_lie_on_the_scale(panel):
    at = position(panel)
    marks = [place(item) for item in parts(panel, "path") if item.get("class").startswith("m ")]
    assert [x for x, _ in marks] == pytest.approx([at(1.5), at(2.0), at(-1.0)], abs=0.15)
    bars = [ends(item) for item in parts(panel, "path") if item.get("class").startswith("bar")]
    assert [bar[0] for bar in bars] == pytest.approx([at(-0.5), at(0.5)], abs=0.15), "no interval, no bar"
    assert [bar[1] for bar in bars] == pytest.approx([at(3.0), at(4.0)], abs=0.15)
    assert [bar[2] for bar in bars] == pytest.approx([y for _, y in marks[:2]], abs=0.15)
    (zero,) = [item for item in parts(panel, "path") if item.get("class") == "zero"]
    assert float(re.match(r"M([\d.]+) ", zero.get("d"))[1]) == pytest.approx(at(0), abs=0.15)
    (band,) = [item for item in parts(panel, "rect") if item.get("class") == "band"]
    x, width = float(band.get("x")), float(band.get("width"))
    assert (x, x + width) == pytest.approx((at(-1), at(1)), abs=0.2)


def test_estimates_stand_in_rows_that_do_not_touch(panel):
    labels = {item.text: float(item.get("y")) - 4 for item in parts(panel, "text") if item.text in ("all", "mine")}
    heights = [place(item)[1] for item in parts(panel, "path") if item.get("class").startswith("m ")]
    assert (heights[0] + heights[1]) / 2 == pytest.approx(labels["all"])
    assert heights == sorted(heights) and min(b - a for a, b in itertools.pairwise(heights)) >= 10
    assert heights[2] == pytest.approx(labels["mine"] - (heights[1] - heights[0]) / 2), "an empty place stays empty"


def test_the_drawing_says_its_numbers(panel):
    assert ElementTree.fromstring(str(panel)).get("aria-label") == (
        "a - b, points: all +1.50 [-0.50, 3.00]; all, rest +2.00 [0.50, 4.00]; mine -1.00."
    )
    written = {item.text for item in parts(panel, "text")}
    assert ("+1.50 [−0.50, 3.00]" in written) == ("−1.00" in written)


def test_text_stands_within_the_drawing_and_apart_from_the_scale():
    long = forest.Row("autoencoder_permuted (trainable), sigmoid", (forest.Estimate(1.0, 0.0, 2.0),))
    panel = forest.panel("", "points", [long], numbers=True)
    width = float(ElementTree.fromstring(str(panel)).get("width"))
    bar = next(ends(item) for item in parts(panel, "path") if item.get("class").startswith("bar"))
    for item in parts(panel, "text"):
        x, wide = float(item.get("x")), svg.width_of(item.text)
        left = x - {"start": 0, "middle": wide / 2, "end": wide}[item.get("text-anchor")]
        assert left >= 0 and left + wide <= width
        if item.text == long.label:
            assert left + wide <= bar[0]


def test_eight_levels_differ_in_colour_and_mark():
    row = forest.Row("all", tuple(forest.Estimate(k, k, k, str(k), k) for k in range(8)))
    marks = [item for item in parts(forest.panel("", "x", [row]), "path") if item.get("class").startswith("m ")]
    assert len({item.get("class") for item in marks}) == len({item.get("d") for item in marks}) == 8
    style = (svg.TEMPLATES / "drawing.css").read_text()
    for scheme in (style.partition("@media")[0], style.partition("@media")[2]):
        colours = re.findall(r"--s\d: (#\w+)", scheme)
        assert len(colours) == len(set(colours)) == svg.NUM_SERIES


def test_a_drawing_alone_in_a_file_holds_its_style_and_cuts_nothing_off():
    panels = [forest.panel(f"panel {k}", "points", ROWS, margin=1.0) for k in range(2)]
    legend = [(svg.key(k), f"a level with a long name, {k}") for k in range(8)]
    text = svg.standalone("a <title>", panels, legend, ["word " * 60])
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    style = root.find(f"{space}style").text
    assert "prefers-color-scheme: dark" in style and ".s7" in style
    assert not re.search(r"(href|src)=|url\(|@import", text)
    width, height = float(root.get("width")), float(root.get("height"))
    inner = root.findall(f"{space}svg")
    boxes = [tuple(float(item.get(key)) for key in ("x", "y", "width", "height")) for item in inner]
    assert len(boxes) == 10 and all(x + wide <= width and y + tall <= height for x, y, wide, tall in boxes)
    for number, (x, y, wide, tall) in enumerate(boxes):
        for x_, y_, wide_, tall_ in boxes[:number]:
            assert x >= x_ + wide_ or x_ >= x + wide or y >= y_ + tall_ or y_ >= y + tall, "drawings overlap"
    for item in root.findall(f"{space}text"):
        assert float(item.get("x")) + svg.width_of(item.text, 11) <= width and float(item.get("y")) <= height
    bands = [item for item in root.iter(f"{space}rect") if item.get("class") == "band"]
    assert len(bands) == 2 and all(float(item.get("width")) > 20 for item in bands)
    assert "panel 0, points: all +1.50" in root.get("aria-label") and root.get("aria-label").startswith("a <title>")
