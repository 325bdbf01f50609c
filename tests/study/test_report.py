"""The report's tables, from summaries as the stages write them."""

import copy
from xml.etree import ElementTree

from PIL import Image

from headstart.study import classes, report, sections
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
        "num_test": 360,
    },
    "baselines": {
        "untrained": {"top1": 0.9, "macro_f1": 0.89, "few5": 0.7, "few5_std": 0.02, "val_top1": 0.91, "strength": 1.0},
        "calibrated": {"top1": 0.78, "few5": 0.5},
        "pixels": {"top1": 0.959, "few5": 0.81},
        "majority": {"top1": 0.1},
    },
}
MINE = {
    "simclr": {"train_loss": 4.5, "val_loss": 4.75, "best_epoch": 10, "autoencoder": None},
    "probe": {
        "trained": {"top1": 0.46, "top5": 0.9, "macro_f1": 0.45, "few5": 0.3, "few5_std": 0.01, "val_top1": 0.5},
        "num_test": 2000,
    },
    "baselines": {
        "untrained": {"top1": 0.41, "top5": 0.85, "macro_f1": 0.4, "few5": 0.2, "few5_std": 0.01, "val_top1": 0.4},
        "calibrated": {"top1": 0.35, "few5": 0.15},
        "pixels": {"top1": 0.33, "few5": 0.18},
        "majority": {"top1": 0.2},
    },
}
BOTH = {"digits": DIGITS, "mine": MINE}
SVG = "{http://www.w3.org/2000/svg}"
SETTINGS = {
    "projector": "autoencoder (frozen) first layer",
    "activation": "relu",
    "seed": 0,
    "recipe": "default",
}


CURVE = [{"epoch": str(epoch), "train_loss": str(5 - epoch), "val_loss": str(5.2 - epoch)} for epoch in range(1, 4)]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def in_markdown(summaries, pictures=()) -> str:
    curves = dict.fromkeys(summaries, CURVE)
    return to_markdown(report.page(summaries, SETTINGS, curves, pictures), "report.html")


def result_lines(page: str) -> list[list[str]]:
    section = page.partition("## Result\n")[2].partition("\n## ")[0]
    return [cells(line) for line in section.splitlines() if line.startswith("|")]


def test_page_has_a_row_per_score_and_a_column_for_each_start():
    lines = result_lines(in_markdown({"digits": DIGITS}))
    assert lines[0] == ["metric", "trained", "untrained", "calibrated", "raw pixels"]
    assert lines[1] == ["---", *["--:"] * 4]
    found = {line[0]: line[1:] for line in lines[2:]}
    # the standard error of 0.96 of 360 images, and the deviation over draws
    assert found["top-1"] == ["0.9600 ± 0.0103", "0.9000 ± 0.0158", "0.7800 ± 0.0218", "0.9590 ± 0.0105"]
    assert found["5 labels per class"][0] == "0.8000 ± 0.0100"
    assert found["validation loss"] == ["3.25"] and found["autoencoder test MSE"] == ["0.02"]


def test_page_on_several_datasets_names_them():
    lines = result_lines(in_markdown(BOTH))
    assert lines[0][:2] == ["dataset", "metric"]
    top1 = {line[0]: line[2] for line in lines if line[1] == "top-1"}
    assert top1 == {"digits": "0.9600 ± 0.0103", "mine": "0.4600 ± 0.0111"}


def test_classes_and_confidences_are_drawn():
    by_class = [
        {"class": "a<b", "num_test": "3", "accuracy": "0.5"},
        {"class": "$x$", "num_test": "0", "accuracy": "0"},
    ]
    bins = [{"num": "20", "confidence": "0.9", "accuracy": "0.8"}, {"num": "0", "confidence": "0", "accuracy": "0"}]
    summary = copy.deepcopy(DIGITS)
    summary["probe"]["trained"]["ece"] = 0.1
    content = report.page({"digits": summary}, SETTINGS, {"digits": CURVE}, [], judged={"digits": (by_class, bins)})
    text = to_html(content)
    assert "a&lt;b 50.0 of 3" in text and "$x$" not in text, "a class without test images has no bar"
    assert "90 percent sure, 80 right (20)" in text and "calibration error 10.0 points" in text
    many = [{"class": f"c{k}", "num_test": "1", "accuracy": str(k / 100)} for k in range(100)]
    assert "c29 29.0" in classes.per_class("x", many).panels[0] and "c30 " not in classes.per_class("x", many).panels[0]


def test_page_says_what_made_it():
    text = in_markdown({"digits": DIGITS})
    assert "How this page was made" not in text
    content = report.page({"digits": DIGITS}, SETTINGS, {"digits": CURVE}, [], made={"commit": "abc", "torch": "2"})
    assert "| commit | abc |" in to_markdown(content, "x")


def test_page_names_the_run_and_shows_its_pictures(tmp_path):
    page = in_markdown({"digits": DIGITS}, [picture(tmp_path, "digits_views", "plots/images/digits_views.png")])
    assert "autoencoder (frozen) first layer" in page
    assert "Seed 0, recipe default" in page
    assert "## Views\n\n![Views of digits: training images" in page
    assert "](plots/images/digits_views.png)\n\ndigits. Training images" in page
    assert "1 run, 1 seed.](plots" in page


def test_page_without_a_few_label_probe():
    summary = copy.deepcopy(DIGITS)
    for scores in (summary["probe"]["trained"], *summary["baselines"].values()):
        for key in ("few5", "few5_std"):
            scores.pop(key, None)
    page = in_markdown({"digits": summary})
    assert "per class" not in page
    assert "| top-1 | 0.9600 ± 0.0103 |" in page


def test_page_shows_the_probe_of_five_labels_among_several_and_neighbours():
    summary = copy.deepcopy(DIGITS)
    for scores in (summary["probe"]["trained"], summary["baselines"]["untrained"]):
        scores |= {"few1": 0.4, "few10": 0.85, "few10pct": 0.88, "knn20": 0.91, "ece": 0.03}
    found = {line[0]: line[1:3] for line in result_lines(in_markdown({"digits": summary}))}
    order = ["top-1", "1 label per class", "5 labels per class", "10 labels per class", "10 % of the labels"]
    assert [name for name in found if name in order] == order
    assert found["20 nearest neighbours"] == ["0.9100 ± 0.0151", "0.9100 ± 0.0151"]
    assert found["calibration error"] == ["0.0300", "0.0300"]


def test_rows_of_the_plots():
    assert report.accuracy_rows({"digits": DIGITS}) == [
        {"dataset": "digits", "backbone": "trained", "top1": 0.96},
        {"dataset": "digits", "backbone": "untrained", "top1": 0.9},
        {"dataset": "digits", "backbone": "calibrated", "top1": 0.78},
        {"dataset": "digits", "backbone": "pixels", "top1": 0.959},
        {"dataset": "digits", "backbone": "majority", "top1": 0.1},
    ]
    curve = [{"epoch": "1", "train_loss": "4.1", "val_loss": "4.2", "learning_rate": "0.1", "num_images": "64"}]
    assert report.loss_rows({"digits": curve, "mine": curve * 2}) == [
        {"dataset": name, "epoch": "1", "train_loss": "4.1", "val_loss": "4.2", "learning_rate": "0.1"}
        for name in ("digits", "mine", "mine")
    ]


def picture(tmp_path, name, path=""):
    file = tmp_path / f"{name}.png"
    Image.new("RGB", (7, 5)).save(file)
    return sections.captioned(name, file.read_bytes(), path)


def test_the_curves_also_lie_beside_the_page_as_a_drawing_of_every_dataset():
    def files(*datasets):
        page = report.page(dict.fromkeys(datasets, DIGITS), SETTINGS, dict.fromkeys(datasets, CURVE), [])
        (link,) = [line for line in to_markdown(page, "x").splitlines() if line.startswith("![Loss over epochs")]
        (path,) = sections.files(page)
        assert link.endswith(f"]({path})") and path == "plots/images/simclr_loss.svg"
        return sections.files(page)[path]

    one, again, two = files("digits"), files("digits"), files("digits", "mine")
    assert one == again != two
    lines = [item.get("d") for item in ElementTree.fromstring(two).iter(f"{SVG}path") if "line" in item.get("class")]
    assert len(lines) == 4, "training and validation of both"
    assert all(line.count("L") == 2 for line in lines), "three epochs"


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
    assert table[0][:4] == ["mine", "top-1", "0.4600 ± 0.0111", "0.4100 ± 0.0110"]
    captions = [block.caption for part in content.sections for block in part.blocks if hasattr(block, "caption")]
    assert len(captions) == 7 and all(caption.endswith("1 run, 1 seed.") for caption in captions)


def test_the_page_of_a_run_without_an_autoencoder_says_so():
    text = to_html(report.page({"mine": MINE}, SETTINGS, {"mine": CURVE}, []))
    assert "No picture here: this initialisation needs no autoencoder." in text
