"""A newcomer's images without labels, through the real dvc: a flat folder whose name has a space and an é."""

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.checkouts import checkout, executed, metrics, run

SMALL = ("-S", "datasets.yaml:mine.batch_size=16", "-S", "datasets.yaml:mine.image_size=8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 pictures in one folder, and labels for 24 of them in two classes that no figure takes for markup."""
    folder = tmp_path_factory.mktemp("own") / unicodedata.normalize("NFC", "my photos é")
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        base = (60, 190)[number % 2]
        Image.fromarray((base + random.integers(-30, 30, (12, 10, 3))).astype(np.uint8)).save(
            folder / f"im {number}.png"
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("file", "label"), *((f"im {k}.png", ("$5_<b>", "$x^{")[k % 2]) for k in range(24))]
        )
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return checkout(tmp_path_factory.mktemp("workspace"))


def dvc(photos: Path, *more: str) -> tuple[str, ...]:
    """The command as docs/datasets.md writes it: DVC wants quotes inside the quotes of a shell."""
    return ("dvc", "exp", "run", "-S", "datasets=[mine]", "-S", f'datasets.yaml:mine.path="{photos}"', *SMALL, *more)


@pytest.mark.slow
def test_a_flat_folder_ends_with_features_card_and_export(workspace, photos):
    done = run(workspace, *dvc(photos))
    assert "mine: images from" in done.stdout and "passed over: labels.csv" in done.stdout
    assert "mine: 43 train, 5 val, 12 test images, all unlabelled, stored at 10 px" in done.stdout
    assert "probe mine: no labels, so nothing to probe; features of all images in models/probe/mine" in done.stdout
    found = np.load(workspace / "models" / "probe" / "mine" / "features.npz")
    assert found["features"].shape == (60, 512)
    assert sorted(found["names"]) == sorted(f"im {number}.png" for number in range(60))
    table = metrics(workspace)
    assert "top1" not in table and 0 <= table["view_top1"]["mine"] <= 1 < table["rankme"]["mine"]
    assert {"view_top1_untrained", "autoencoder_test_mse", "val_loss"} <= set(
        json.loads((workspace / "metrics/metrics.json").read_text())
    )
    page = (workspace / "metrics" / "report.html").read_text()
    assert "nothing to probe" in page and "mine_views" in page and "mine_reconstructions" in page
    card = (workspace / "metrics" / "cards" / "mine.md").read_text()
    assert "There were no labels, so nothing was probed" in card and "43 train, 5 val, 12 test; no labels" in card
    run(workspace, "python", "-m", "headstart", "export", PYTHONPATH="src")
    assert not (workspace / "export" / "mine" / "probe.safetensors").exists()
    assert "def turn_of" in (workspace / "export" / "mine" / "README.md").read_text()
    run(
        workspace,
        "python",
        "-m",
        "headstart",
        "predict",
        "export/mine",
        str(photos),
        "--out",
        "f.npz",
        PYTHONPATH="src",
    )
    again = np.load(workspace / "f.npz")
    rows = {name: row for row, name in enumerate(found["names"])}
    own = found["features"][[rows[Path(path).name] for path in again["paths"]]]
    np.testing.assert_allclose(again["features"], own, atol=1e-4 * np.abs(own).max())


@pytest.mark.slow
def test_labels_for_a_part_end_with_a_probe(workspace, photos):
    done = run(workspace, *dvc(photos, "-S", "datasets.yaml:mine.decoder.images.labels=labels.csv"))
    assert {"download", "prepare", "train_simclr", "fit_probe"} <= executed(done.stdout)
    assert "images of 2 classes, 36 unlabelled, stored at 10 px; classes: $5_<b>, $x^{" in done.stdout
    assert {"top1", "top1_pixels", "few5"} <= set(metrics(workspace))
    assert np.load(workspace / "models" / "probe" / "mine" / "features.npz")["features"].shape == (60, 512)
