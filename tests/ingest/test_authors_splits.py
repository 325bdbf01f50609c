"""The splits that the paper's authors made of Imagenette and Aircraft, as arguments of their decoders."""

from collections import Counter
from pathlib import Path

import numpy as np
import publications
import pytest
from known import ROOT
from samples import encode, noise, write_archive

from headstart.ingest import decoders, folders
from headstart.run.params import to_params
from headstart.settings import read_settings, with_overrides


@pytest.fixture
def imagenette(tmp_path) -> Path:
    """An archive of 12 train and 40 val images of two classes."""
    files = {
        f"imagenette2/{split}/{wnid}/{wnid}_{index}.JPEG": encode(noise(8, 8, index, 3), "JPEG")
        for wnid in ("n01440764", "n03888257")
        for split, number in (("train", 6), ("val", 20))
        for index in range(number)
    }
    write_archive(tmp_path / "x.tar.gz", files).rename(tmp_path / "imagenette2.tgz")
    return tmp_path


def test_the_official_val_gives_a_tenth_of_imagenettes_test_images_to_val_and_leaves_train_whole(imagenette):
    usual, authors = folders.imagenette(imagenette), folders.imagenette(imagenette, val="official")
    assert Counter(usual.splits.tolist()) == {"train": 12, "test": 40}
    assert Counter(authors.splits.tolist()) == {"train": 12, "test": 36, "val": 4}
    assert authors.names == usual.names and (authors.labels == usual.labels).all()
    assert set(np.array(usual.splits)[authors.splits == "val"]) == {"test"}
    assert (folders.imagenette(imagenette, val="official").splits == authors.splits).all(), "the same four every time"


def test_trainval_makes_one_of_aircrafts_train_and_val(tmp_path):
    publications.aircraft(tmp_path, "manufacturer")
    usual = folders.aircraft(tmp_path, level="manufacturer")
    authors = folders.aircraft(tmp_path, level="manufacturer", splits="trainval")
    assert Counter(usual.splits.tolist()) == {"train": 6, "val": 6, "test": 6}
    assert Counter(authors.splits.tolist()) == {"train": 12, "test": 6}
    assert sorted(authors.names) == sorted(usual.names) and authors.crop_bottom == 20


@pytest.mark.parametrize(
    ("dataset", "chosen"),
    [("imagenette", {"val": "official"}), ("fgvc_aircraft", {"level": "manufacturer", "splits": "trainval"})],
)
def test_the_recipe_paper_asks_for_them_and_the_others_do_not(dataset, chosen):
    for recipe in ("default", "paper", "scratch"):
        changes = {"recipe": recipe, "datasets": [dataset]}
        params = to_params(with_overrides(read_settings(ROOT), changes))
        found = decoders.arguments(params.dataset(dataset).decoder)
        assert (found == chosen) == (recipe == "paper")
