"""Gradient flow: from measured steps to the figure, of one run and of experiments."""

import math
import subprocess

import pytest

from headstart.study import gradients, lines, report
from headstart.study.comparison import comparison
from headstart.study.page import to_html, to_markdown
from headstart.study.rows import finished
from headstart.study.sections import Measured
from tests.study.runs import make
from tests.study.test_report import CURVE, DIGITS, SETTINGS

ARM = "autoencoder frozen"


def measured(scale: float, steps: int = 120) -> list[dict[str, str]]:
    return [
        {"step": str(step), "gradient_ratio": str(scale * 10 ** (step / 100)), "hidden_saturated": "0.5", "other": "1"}
        for step in range(steps)
    ]


def test_table_holds_the_first_steps_and_the_columns_of_the_figure():
    rows = gradients.flow_rows({"digits": measured(1.0), "mine": measured(2.0, 3)})
    assert len(rows) == 103
    assert list(rows[0]) == ["dataset", "step", *gradients.COLUMNS]
    assert rows[100] == {
        **dict.fromkeys(gradients.COLUMNS, ""),
        **{"dataset": "mine", "step": "0", "gradient_ratio": "2.0", "hidden_saturated": "0.5"},
    }


def test_figure_averages_within_an_arm_on_the_log_scale():
    rows = [gradients.flow_rows({"digits": measured(scale)}) for scale in (0.1, 10.0)]
    flows = [line for k in range(2) for line in gradients.flow(f"run {k}", "digits", "digits", ARM, "tanh", k, rows[k])]
    flows += gradients.flow("run 2", "digits", "digits", "random trainable", "relu", 0, rows[0])
    figure = lines.figure(gradients.PLOT, flows, [ARM, "random trainable"])
    assert len(figure.panels) == 2
    assert "digits, relu. random trainable: ratio 0.1 at first, 0.977 at last" in figure.panels[0]
    assert f"digits, tanh. {ARM}: ratio 1 at first, 9.77 at last" in figure.panels[1]
    assert "geometric mean" in figure.caption and figure.caption.endswith(" 3 runs, 2 seeds.")
    assert [name for _, name in figure.legend] == [ARM, "random trainable"]


def test_lost_gradients_break_the_line_and_nothing_else():
    rows = gradients.flow_rows(
        {"digits": [{"step": "0", "gradient_ratio": "nan"}, {"step": "1", "gradient_ratio": "0"}]}
    )
    found = gradients.flow("a", "digits", "digits", ARM, "relu", 0, rows)
    (panel,) = lines.figure(gradients.PLOT, found, [ARM]).panels
    assert "first steps, digits, relu. ." in panel


def test_flows_come_from_the_commits_of_experiments_and_from_the_workspace(tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init", "-qb", "main")
    git("commit", "-qm", "nothing measured", "--allow-empty")
    git("branch", "before")
    file = tmp_path / gradients.FLOW
    file.parent.mkdir(parents=True)
    file.write_text("dataset,step,gradient_ratio\ndigits,0,0.5\n")
    git("add", ".")
    git("commit", "-qm", "measured")
    file.write_text("dataset,step,gradient_ratio\ndigits,0,0.25\n")
    asked = [(run, "digits", "digits", ARM, "relu", 0) for run in ("before", "main", "workspace")]
    found = lines.read_experiments(tmp_path, gradients.FLOW, asked, gradients.flow)
    ratios = {"main": {0: math.log10(0.5)}, "workspace": {0: math.log10(0.25)}}
    assert {item.run: item.points for item in found} == ratios


@pytest.mark.parametrize("there", [True, False])
def test_pages_show_the_figure_where_steps_were_measured(there):
    rows = gradients.flow_rows({"digits": measured(1.0)}) if there else []
    page = report.page({"digits": DIGITS}, SETTINGS, {"digits": CURVE}, [], rows)
    assert ("Gradient flow" in to_html(page)) == there
    flows = gradients.flow("a", "digits", "digits", ARM, "relu", 0, rows)
    page = comparison(
        finished(make(lambda row: 0.5), "x"), [], source="x", score="top1", margin=0.5, lines=Measured(flows=flows)
    )
    assert ("Gradient flow early in training" in to_markdown(page, "x.html")) == there


def test_the_first_steps_in_one_number_are_a_geometric_mean_and_a_mean_share():
    rows = gradients.flow_rows({"digits": measured(2.0, 101), "mine": measured(1.0, 3)})
    for row in rows:
        if row["dataset"] == "mine":
            row["hidden_saturated"] = ""
    found = gradients.early(rows)
    assert found["digits"] == {"early_gradient_ratio": pytest.approx(2 * 10**0.495), "early_saturated": 0.5}
    assert found["mine"] == {"early_gradient_ratio": pytest.approx(10**0.01)}
    assert gradients.early([]) == {}
