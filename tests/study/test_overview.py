"""The study on one screen, on runs whose truth is known."""

from xml.etree import ElementTree

import pandas as pd
import pytest

from headstart.study import overview
from tests.study.runs import make

ARMS = [("autoencoder", True), ("autoencoder_permuted", True), ("random", True), ("random", False)]
POINTS = {("random", True): 2.0, ("autoencoder", True): 3.0, ("autoencoder_permuted", True): 3.0}


def runs_of(arms=ARMS, start: float = 0.5, **grid) -> pd.DataFrame:
    """Runs at 0.8; freezing gives 2 points, content 1 more; what needs no training has `start`."""
    runs = make(
        lambda row: 0.8 + 0.01 * row["seed"] + POINTS.get((row["projector_init"], row["projector_frozen"]), 0.0) / 100,
        arms,
        **grid,
    )
    return runs.assign(probe_untrained_top1=start, probe_calibrated_top1=start / 2, probe_pixels_top1=start / 3)


def test_the_gain_is_split_into_freezing_and_content():
    (line,) = overview.lines("mine", runs_of(), "top1", 0.5, endpoint=True)
    gain, freezing, content, noise = line.answers
    assert [round(answer.value) for answer in (gain, freezing, content, noise)] == [3, 2, 1, 0]
    assert gain.value == pytest.approx(freezing.value + content.value)
    assert [answer.outcome for answer in line.answers] == ["better"] * 3 + ["no difference that matters"]
    assert (gain.num_pairs, gain.num_seeds) == (30, 5) and line.assay.passes
    assert gain.spread < 0.25, "the seed's own points cancel"


def test_an_arm_that_is_missing_leaves_its_questions_open_and_a_grid_without_any_has_no_line():
    (line,) = overview.lines("mine", runs_of(ARMS[:1] + ARMS[3:]), "top1", 0.5, endpoint=False)
    assert [answer is None for answer in line.answers] == [False, True, True, True]
    assert not line.splits_the_gain
    assert overview.lines("mine", runs_of(ARMS[:1]), "top1", 0.5, endpoint=True) == []


def test_what_tells_freezing_from_content_stands_first_and_what_cannot_tell_last():
    able = overview.lines("b", runs_of(), "top1", 1.0, endpoint=True)
    unable = overview.lines("a", runs_of(start=0.83), "top1", 1.0, endpoint=True)
    blunt = overview.lines("a", runs_of(ARMS[:1] + ARMS[3:]), "top1", 1.0, endpoint=True)
    assert overview.ordered([*blunt, *unable, *able]) == [*able, *unable, *blunt]


def test_the_grid_that_knows_the_papers_gain_best_stands_first_with_all_its_lines():
    known = overview.lines("z", runs_of(noise=0.001), "top1", 1.0, endpoint=True)
    known += overview.lines("z", runs_of(noise=0.02), "top1", 1.0, endpoint=False)
    vague = overview.lines("a", runs_of(noise=0.01), "top1", 1.0, endpoint=True)
    never = overview.lines("b", runs_of(ARMS[2:]), "top1", 1.0, endpoint=True)
    assert overview.ordered([*never, *vague, *reversed(known)]) == [*known, *vague, *never]


def test_table_and_figure_say_the_same():
    found = overview.lines("mine", runs_of(), "top1", 0.5, True)
    found += overview.lines("two", runs_of(seeds=(0, 1)), "top1", 0.5, False)
    table = overview.markdown(found).splitlines()
    assert table[0].startswith("| rows | score | SimCLR minus its highest start | can they tell? | the paper's gain |")
    assert table[2].startswith("| [mine](mine.md), digits | **top1** | +")
    assert "| yes | +3.0" in table[2] or "| yes | +2.9" in table[2]
    assert "**better** (30 pairs, 5 seeds)" in table[2]
    assert "no interval (12 pairs, 2 seeds)" in table[3] and "| top1 |" in table[3]
    drawing = overview.drawing(found, "A title")
    ElementTree.fromstring(drawing)
    gain = found[0].answers[0]
    assert f"the paper's gain {gain.value:+.2f} [{gain.low:.2f}, {gain.high:.2f}]" in drawing.replace("&#39;", "'")
    assert "mine, top1: the paper's gain 0." in overview.shared_draws(found)


def test_settings_that_differ_in_their_backbone_are_told_apart():
    both = pd.concat(
        [runs_of().assign(backbone="resnet18"), runs_of().assign(backbone="resnet50", protocol="q")], ignore_index=True
    )
    assert [line.setting for line in overview.lines("x", both, "top1", 0.5, True)] == [
        "digits, backbone resnet18",
        "digits, backbone resnet50",
    ]
