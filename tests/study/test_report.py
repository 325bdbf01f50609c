"""The report's tables, from summaries as the stages write them."""

import copy

import pytest
from PIL import Image

from headstart.study import report
from headstart.study.page import to_html, to_markdown

DIGITS = {
    "simclr": {
        "train_loss": 3.5,
        "val_loss": 3.25,
        "best_epoch": 40,
        "autoencoder": {"test_mse": 0.02, "val_mse": 0.01},
    },
    "probe": {
        "trained": {"top1": 0.96, "macro_f1": 0.95, "few5": 0.8, "few5_std": 0.01, "val_top1": 0.97, "strength": 0.1},
        "untrained": {"top1": 0.9, "macro_f1": 0.89, "few5": 0.7, "few5_std": 0.02, "val_top1": 0.91, "strength": 1.0},
        "majority": {"top1": 0.1},
        "num_test": 360,
    },
}
MINE = {
    "simclr": {"train_loss": 4.5, "val_loss": 4.75, "best_epoch": 10, "autoencoder": None},
    "probe": {
        "trained": {"top1": 0.46, "top5": 0.9, "macro_f1": 0.45, "few5": 0.3, "few5_std": 0.01, "val_top1": 0.5},
        "untrained": {"top1": 0.41, "top5": 0.85, "macro_f1": 0.4, "few5": 0.2, "few5_std": 0.01, "val_top1": 0.4},
        "majority": {"top1": 0.2},
        "num_test": 2000,
    },
}
BOTH = {"digits": DIGITS, "mine": MINE}
SETTINGS = {
    "projector": "autoencoder (frozen) first layer",
    "activation": "relu",
    "seed": 0,
    "recipe": "default",
}


def test_metrics_are_metric_major_with_their_mean():
    table = report.metrics(BOTH)
    assert list(table["top1"]) == ["mean", "digits", "mine"]
    assert table["top1"] == pytest.approx({"mean": 0.71, "digits": 0.96, "mine": 0.46})
    assert table["top1_untrained"] == pytest.approx({"mean": 0.655, "digits": 0.9, "mine": 0.41})
    assert table["top1_majority"] == pytest.approx({"mean": 0.15, "digits": 0.1, "mine": 0.2})
    assert table["val_loss"] == {"mean": 4.0, "digits": 3.25, "mine": 4.75}
    assert list(table) == sorted(table)


def test_metrics_that_a_dataset_lacks_are_left_out_of_it_and_of_the_mean():
    table = report.metrics(BOTH)
    assert table["autoencoder_test_mse"] == {"mean": 0.02, "digits": 0.02}
    assert table["top5"] == {"mean": 0.9, "mine": 0.9}


def test_metrics_hold_all_that_was_promised():
    """Issue 2: at least these."""
    promised = {"top1", "top1_untrained", "top1_majority", "few5", "few5_untrained", "macro_f1"}
    promised |= {"train_loss", "val_loss", "autoencoder_test_mse"}
    assert promised <= set(report.metrics({"digits": DIGITS}))
    assert all(row["mean"] == row["digits"] for row in report.metrics({"digits": DIGITS}).values())


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_page_has_one_row_per_dataset():
    page = report.markdown(BOTH, SETTINGS, {})
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert cells(lines[0]) == [
        *("dataset", "test images", "top-1", "untrained", "majority", "5 labels per class", "untrained, few labels"),
        *("macro F1", "val NT-Xent", "autoencoder test MSE"),
    ]
    assert set(lines[1]) == {"|", "-"}
    assert len(cells(lines[1])) == len(cells(lines[0]))
    assert cells(lines[2]) == [
        *("digits", "360", "0.9600", "0.9000", "0.1000", "0.8000", "0.7000", "0.9500", "3.2500", "0.0200"),
    ]
    assert cells(lines[3]) == [
        *("mine", "2000", "0.4600", "0.4100", "0.2000", "0.3000", "0.2000", "0.4500", "4.7500", "–"),
    ]


def test_page_names_the_run_and_shows_its_pictures():
    page = report.markdown(BOTH, SETTINGS, {"digits": ["plots/images/digits_views.png"]})
    assert "autoencoder (frozen) first layer" in page
    assert "Seed 0, recipe default" in page
    assert "## digits\n\n![digits views](plots/images/digits_views.png)\n" in page


def test_page_without_a_few_label_probe():
    summary = copy.deepcopy(DIGITS)
    for probe in ("trained", "untrained"):
        for key in ("few5", "few5_std"):
            del summary["probe"][probe][key]
    page = report.markdown({"digits": summary}, SETTINGS, {})
    assert "labels per class" not in page
    assert "0.9600 | 0.9000 | 0.1000 | 0.9500" in page


def test_page_shows_the_probe_of_five_labels_among_several_and_neighbours():
    summary = copy.deepcopy(DIGITS)
    for probe in ("trained", "untrained"):
        summary["probe"][probe] |= {"few1": 0.4, "few10": 0.85, "few10pct": 0.88, "knn20": 0.91, "ece": 0.03}
    summary["probe"]["details"] = {"trained": {"few1_low": 0.3}, "untrained": {}}
    lines = [line for line in report.markdown({"digits": summary}, SETTINGS, {}).splitlines() if line.startswith("|")]
    assert cells(lines[0])[5:7] == ["5 labels per class", "untrained, few labels"]
    assert cells(lines[0])[-2:] == ["20 nearest neighbours", "calibration error"]
    assert cells(lines[2])[5:7] == ["0.8000", "0.7000"]
    assert cells(lines[2])[-2:] == ["0.9100", "0.0300"]
    table = report.metrics({"digits": summary})
    assert {"few1", "few10", "few10pct_untrained", "knn20_untrained"} <= set(table)
    assert "few1_low" not in table


def test_rows_of_the_plots():
    assert report.accuracy_rows({"digits": DIGITS}) == [
        {"dataset": "digits", "backbone": "trained", "top1": 0.96},
        {"dataset": "digits", "backbone": "untrained", "top1": 0.9},
        {"dataset": "digits", "backbone": "majority", "top1": 0.1},
    ]
    curve = [{"epoch": "1", "train_loss": "4.1", "val_loss": "4.2", "learning_rate": "0.1", "num_images": "64"}]
    assert report.loss_rows({"digits": curve, "mine": curve * 2}) == [
        {"dataset": name, "epoch": "1", "train_loss": "4.1", "val_loss": "4.2", "learning_rate": "0.1"}
        for name in ("digits", "mine", "mine")
    ]


def test_loss_figure_shows_every_curve(tmp_path):
    curve = [{"epoch": str(epoch), "train_loss": str(5 - epoch), "val_loss": str(5.2 - epoch)} for epoch in range(1, 4)]
    report.loss_figure(tmp_path / "one.png", {"digits": curve})
    report.loss_figure(tmp_path / "again.png", {"digits": curve})
    report.loss_figure(tmp_path / "two.png", {"digits": curve, "mine": curve[:2]})
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 300
    contents = [(tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "two")]
    assert contents[0] == contents[1] != contents[2]


CURVE = [{"epoch": str(epoch), "train_loss": str(5 - epoch), "val_loss": str(5.2 - epoch)} for epoch in range(1, 4)]


def picture(tmp_path, name):
    path = tmp_path / f"{name}.png"
    Image.new("RGB", (7, 5)).save(path)
    return report.captioned(name, path.read_bytes())


def test_the_page_of_one_run_shows_what_there_is_and_judges_nothing(tmp_path):
    names = ("digits_views", "digits_confusion", "digits_reconstructions")
    pictures = [picture(tmp_path, name) for name in names]
    assert picture(tmp_path, "simclr_loss") is None
    content = report.page(BOTH, SETTINGS, {"digits": CURVE, "mine": CURVE[:2]}, pictures)
    text = to_html(content)
    assert text == to_html(report.page(BOTH, SETTINGS, {"digits": CURVE, "mine": CURVE[:2]}, pictures))
    assert "1 run, 1 seed: nothing to compare. Run <code>dvc exp run --queue" in text
    assert "finds 96.0 % of 360 test images, on the same backbone before SimCLR 90.0 %" in text
    assert "training loss 4.00 to 2.00 over 3 epochs" in text
    assert text.count('<img src="data:image/png;base64,') == 3 and text.count('width="7" height="5"') == 3
    table = [cells(line) for line in to_markdown(content, "report.html").splitlines() if line.startswith("| mine")]
    assert table[0][:5] == ["mine", "2000", "0.4600", "0.4100", "0.2000"]
    captions = [block.caption for part in content.sections for block in part.blocks if hasattr(block, "caption")]
    assert len(captions) == 6 and all(caption.endswith("1 run, 1 seed.") for caption in captions)


def test_the_page_of_a_run_without_an_autoencoder_says_so():
    text = to_html(report.page({"mine": MINE}, SETTINGS, {"mine": CURVE}, []))
    assert "No picture here: this initialisation needs no autoencoder." in text
