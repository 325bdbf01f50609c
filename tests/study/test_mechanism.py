"""Ranks, drift and the gradient's share: from measured steps to numbers of rows and figures."""

import pytest

from headstart.study import mechanism, metrics, report
from headstart.study.comparison import comparison
from headstart.study.page import to_html, to_markdown
from headstart.study.rows import COLUMNS, finished
from headstart.study.sections import FILES, Measured, files
from tests.study.runs import make
from tests.study.test_report import CURVE, DIGITS, SETTINGS

ARM = "random trainable"


def measured(steps: range | list[int] = range(101)) -> list[dict[str, str]]:
    """Drift grows with the step; the share is 1 in the first ten steps, 0.5 after them."""
    rows = []
    for step in steps:
        row = {name: str(2.0) for name in mechanism.AT_THE_END} | {"projector_1_drift": str(step / 100)}
        rows.append({"step": str(step), mechanism.SHARE: "1.0" if step < 10 else "0.5", "other": "7"} | row)
    return rows


def test_the_end_is_the_last_tenth_and_the_share_is_that_of_the_whole_training():
    rows = mechanism.training_rows({"digits": measured(), "mine": [{"step": "0", "other": "1"}]})
    assert set(rows[0]) == {"dataset", "step", *mechanism.COLUMNS} and rows[-1]["projector_1_drift"] == ""
    found = mechanism.summarised(rows)
    assert found["digits"]["late_drift"] == pytest.approx(0.95)  # of steps 90 to 100
    assert found["digits"]["late_rank_hidden"] == 2 and found["mine"] == {}
    assert found["digits"]["gradient_share"] == pytest.approx((9 * 1 + 0.75 + 90 * 0.5) / 100)


def test_how_densely_the_first_steps_are_measured_does_not_weigh():
    sparse = [0, 9, 10, *range(20, 101, 10)]
    every, few = (
        mechanism.summarised(mechanism.training_rows({"x": measured(steps)}))["x"] for steps in (range(101), sparse)
    )
    assert every["gradient_share"] == pytest.approx(few["gradient_share"])
    (one,) = mechanism.summarised(mechanism.training_rows({"x": measured([0])})).values()
    assert one["gradient_share"] == 1 and one["late_drift"] == 0


def test_each_number_is_a_column_of_rows():
    found = mechanism.summarised(mechanism.training_rows({"digits": measured()}))
    table = metrics.gather({"digits": {"training": found["digits"]}})
    assert {name: row["digits"] for name, row in table.items()} == found["digits"]
    assert set(found["digits"]) <= set(COLUMNS)


@pytest.mark.parametrize("there", [True, False])
def test_pages_show_the_figures_where_steps_were_measured(there):
    rows = mechanism.training_rows({"digits": measured()}) if there else []
    page = report.page({"digits": DIGITS}, SETTINGS, {"digits": CURVE}, [], trainings=rows)
    assert ("Drift of the first layer over the steps, digits, relu" in to_html(page)) == there
    drawn = {FILES[plot.name] for plot in mechanism.PLOTS.values()}
    assert (drawn <= set(files(page))) == there
    lines = {name: mechanism.line(name, "a", "digits", "digits", ARM, "relu", 0, rows) for name in mechanism.PLOTS}
    options = {"source": "x", "score": "top1", "margin": 0.5, "lines": Measured(trainings=lines)}
    text = to_markdown(comparison(finished(make(lambda row: 0.5), "x"), [], **options), "x.html")
    assert ("Ranks, drift and gradient while training" in text) == there


def test_the_curves_are_of_the_loss_that_was_minimised():
    summary = DIGITS | {"simclr": DIGITS["simclr"] | {"loss": "vicreg"}}
    page = to_html(report.page({"digits": summary}, SETTINGS, {"digits": CURVE}, []))
    assert "loss, vicreg" in page and "Losses (vicreg)" in page and "nt_xent" not in page
    assert "loss, nt_xent" in to_html(report.page({"digits": DIGITS}, SETTINGS, {"digits": CURVE}, []))
