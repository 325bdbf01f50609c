"""Means per setting: of runs whose values are known."""

import math

import pytest
from PIL import Image

from headstart.errors import UserError
from headstart.study import means
from tests.study.runs import make

BY = ["arm", "projector_activation", "projector_out_dim"]


@pytest.fixture(scope="module")
def runs():
    table = make(lambda row: 0.8 + 0.01 * row["seed"] + 0.1 * (row["projector_activation"] == "tanh"), noise=0.0)
    ratio = [math.nan if init == "random" else 0.5 for init in table["projector_init"]]
    return table.assign(early_gradient_ratio=ratio)


def test_a_setting_has_the_mean_and_bounds_of_its_runs(runs):
    table = means.means(runs, BY, ["probe_test_top1", "train_loss"]).set_index(BY)
    row = table.loc[("autoencoder (frozen)", "tanh", 64)]
    assert row["runs"] == 5
    assert (row["probe_test_top1"], row["probe_test_top1_least"]) == (pytest.approx(92), pytest.approx(90))
    assert row["probe_test_top1_greatest"] == pytest.approx(94)
    assert row["train_loss"] == pytest.approx(4.08), "no share: not in percent"
    assert len(table) == 2 * 2 * 3


def test_what_some_settings_do_not_have_is_left_empty(runs):
    scores = ["probe_test_top1", "early_gradient_ratio"]
    lines = means.markdown(means.means(runs, BY[:2], scores), BY[:2], scores).splitlines()
    assert lines[0] == "| arm | activation | runs | top-1, % | early gradient ratio |"
    assert "| autoencoder (frozen) | relu | 15 | 82 (80 to 84) | 0.5 (0.5 to 0.5) |" in lines
    assert "| random (trainable) | relu | 15 | 82 (80 to 84) |  |" in lines


def test_unknown_columns_and_scores_are_one_line(runs):
    with pytest.raises(UserError, match=r"projector_activatoin: no column of the rows \(nearest: projector_activation"):
        means.means(runs, ["projector_activatoin"], ["probe_test_top1"])
    for score in ("shift_top1", "protocol"):
        with pytest.raises(UserError, match=f"{score}: the rows hold no such number"):
            means.means(runs, ["arm"], [score])


def test_the_picture_has_a_panel_per_score_and_first_columns(runs, tmp_path):
    scores = ["probe_test_top1", "early_gradient_ratio"]
    sizes = []
    for number, (by, chosen) in enumerate([(BY, scores), (BY[1:], scores[:1])]):
        path = tmp_path / "new" / f"{number}.png"
        means.picture(path, means.means(runs, by, chosen), by, chosen, "t")
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] > sizes[1][0] and sizes[0][1] > sizes[1][1]
