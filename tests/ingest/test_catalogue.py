"""Every row of the table: small archives in the published form -> listing -> arrays; and what the rows state."""

import collections
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from headstart.ingest.table import KINDS
from publications import PUBLICATIONS

from headstart.ingest.decode import decode
from headstart.ingest.pack import Packing, pack
from headstart.ingest.tree import SPLITS

ROOT = Path(__file__).parents[2]
PUBLISHED = [name for name, kind in KINDS.items() if kind.archives]
Held = collections.Counter


def held(split: str, label: str, pixels: np.ndarray, size: tuple[int, int]) -> tuple:
    return split, label, size, pixels.tobytes()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_gives_the_published_images_labels_and_splits(tmp_path, name):
    published = PUBLICATIONS[name](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {archive.file for archive in KINDS[name].archives}
    listing = KINDS[name].list_images(tmp_path)
    official = set(listing.splits.tolist())
    assert official == {split for split, _, _ in published.images}
    (tmp_path / "out").mkdir()
    done: list[int] = []
    packing = Packing(published.size, None, 0.2, 0.2, seed=0, skip_unreadable=False)
    meta = pack(listing, tmp_path / "out", packing, done.append)
    assert sum(done) == sum(meta["num_images"].values()) == len(published.images)
    arrays = {path.stem: np.load(path) for path in (tmp_path / "out").iterdir()}
    side = meta["stored_size"]
    expected = Held(
        held(split, label, decode(pixels, side)[0], pixels.shape[:2]) for split, label, pixels in published.images
    )
    found = Held(
        # what the dataset does not bring along comes out of train
        held(
            split if split in official else "train",
            meta["classes"][label] if label >= 0 else "",
            pixels,
            tuple(size),
        )
        for split in meta["num_images"]
        for pixels, label, size in zip(
            arrays[f"{split}_images"],
            arrays[f"{split}_labels"].tolist(),
            arrays[f"{split}_sizes"].tolist(),
            strict=True,
        )
    )
    assert found == expected
    assert set(meta["num_images"]) == {*SPLITS, *official}
    train = arrays["train_images"] / 255  # no row's statistics come from elsewhere
    np.testing.assert_allclose(meta["mean"], train.mean((0, 1, 2)), rtol=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_row_states(name):
    """Hashes, sizes and addresses are of the right form, and there is a licence, a citation and a page to read."""
    kind = KINDS[name]
    assert kind.fetch is None and kind.needs_path is None
    for archive in kind.archives:
        assert "/" not in archive.file
        assert archive.urls and all(re.match(r"https?://[\w.-]+/", url) for url in archive.urls)
        assert all(archive.file in url for url in archive.urls)
        for value in (archive.hash, *archive.also):
            assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", value)
        assert archive.num_bytes is None or archive.num_bytes > 100
    about = kind.about
    assert about.licence and about.citation and about.homepage.startswith("https://")
    assert about.classes >= 2 and {"train"} <= set(about.num_images) <= {*SPLITS, "unlabelled"}


def test_rows_that_share_archives_share_them_whole():
    assert KINDS["emnist_letters"].archives == KINDS["emnist_byclass"].archives
    assert KINDS["stl10"].archives == KINDS["stl10_unlabelled"].archives
    assert KINDS["fgvc_aircraft"].archives == KINDS["fgvc_aircraft_variant"].archives


def test_no_two_files_are_told_apart_by_nothing():
    hashes = [archive.hash for archives in {kind.archives for kind in KINDS.values()} for archive in archives]
    assert len(set(hashes)) == len(hashes)


def test_every_published_kind_has_a_row_of_params_and_a_generator():
    rows = {
        key: row
        for key, row in yaml.safe_load((ROOT / "params.yaml").read_text())["data"].items()
        if isinstance(row, dict)
    }
    assert {row["kind"] for row in rows.values()} >= set(PUBLISHED)
    assert set(PUBLICATIONS) == set(PUBLISHED)
    assert all(row["path"] is None for row in rows.values())


def test_no_row_mirrors_what_has_a_side():
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    sided = ("mnist", "emnist_letters", "svhn", "gtsrb", "organamnist", "organcmnist", "organsmnist")
    assert all(tree["views"][tree["data"][name]["views"]]["flip"] == 0 for name in sided)
