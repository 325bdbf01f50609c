"""Images at full resolution: views are cut from all their pixels, as Pillow cuts and resizes them."""

import dataclasses

import numpy as np
import pytest
import torch
from known import settle
from PIL import Image
from samples import encode, noise, write_archive
from sklearn.datasets import load_sample_image

from headstart.data.arrays import Whole, load_split
from headstart.data.views import draw, render
from headstart.errors import UserError
from headstart.experiment.prepared import prepare as prepared
from headstart.experiment.pretraining import Method, assemble
from headstart.ingest import pack as pack_module
from headstart.ingest.formats import image_archive
from headstart.ingest.pack import Packing, pack
from headstart.randomness import generator
from headstart.run.params import load_params
from headstart.training.contrastive import Batches
from tests.checkouts import ROOT

FULL = Packing(8, "full", 0.25, 0.2, seed=0, skip_unreadable=False)


@pytest.fixture
def archive(tmp_path):
    """Two classes of images of many sizes and kinds, and what each holds as (height, width, 3) pixels."""
    files, pixels = {}, {}
    for split, number in (("train", 8), ("test", 2)):
        for label in ("a", "b"):
            for index in range(number):
                name = f"{split}/{label}/{index}.png"
                values = noise(17 + 3 * index, 40 - index, index + ord(label), 3)
                files[name], pixels[name] = encode(values, "PNG"), values
    grey = noise(30, 21, 99)
    files["train/a/0.png"], pixels["train/a/0.png"] = encode(grey, "PNG"), np.repeat(grey[..., None], 3, 2)
    return write_archive(tmp_path / "x.zip", files), pixels


def packed(tmp_path, source, packing=FULL, **changes):
    listing = dataclasses.replace(image_archive(source), **changes)
    folder = tmp_path / "out"
    folder.mkdir()
    return listing, pack(listing, folder, packing, lambda done: None), folder


def test_every_image_lies_there_whole_but_those_of_test(archive, tmp_path):
    source, pixels = archive
    _, meta, folder = packed(tmp_path, source)
    assert meta["num_images"] == {"train": 12, "val": 4, "test": 4} and meta["stored_size"] == 16
    found = []
    for name in ("train", "val"):
        whole = load_split(folder, name).whole
        assert whole is not None
        for start, (height, width) in zip(whole.starts.tolist(), whole.sizes.tolist(), strict=True):
            found.append(whole.pixels[start : start + 3 * height * width].view(height, width, 3).numpy())
    expected = [values for name, values in pixels.items() if name.startswith("train")]
    assert len(found) == len(expected) == 16
    for values in expected:
        assert sum(values.shape == other.shape and (values == other).all() for other in found) == 1
    assert load_split(folder, "test").whole is None


def test_what_a_page_says_to_cut_off_is_cut_off(archive, tmp_path):
    source, pixels = archive
    _, _, folder = packed(tmp_path, source, crop_bottom=5)
    whole = load_split(folder, "train").whole
    assert whole is not None
    sizes = {(values.shape[0] - 5, values.shape[1]) for values in pixels.values()}
    assert {tuple(size) for size in whole.sizes.tolist()} <= sizes
    assert whole.pixels.numel() == 3 * int(whole.sizes.prod(1).sum())


def test_images_no_larger_than_they_are_trained_on_need_no_second_copy(archive, tmp_path):
    source, _ = archive
    _, meta, folder = packed(tmp_path, source, dataclasses.replace(FULL, image_size=64))
    assert meta["stored_size"] == 64 and load_split(folder, "train").whole is None


def test_arrays_differ_in_their_hash_and_a_full_disk_is_one_line(archive, tmp_path, monkeypatch):
    source, _ = archive
    (tmp_path / "plain").mkdir()
    plain = pack(
        image_archive(source), tmp_path / "plain", dataclasses.replace(FULL, stored_size=None), lambda done: None
    )
    assert plain["hash"] != packed(tmp_path, source)[1]["hash"]
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda folder: type("Free", (), {"free": 20_000})())
    (tmp_path / "again").mkdir()
    with pytest.raises(
        UserError, match=r"train images at full resolution take \d+ bytes, 20000 are free; give data\.stored"
    ):
        pack(image_archive(source), tmp_path / "again", FULL, lambda done: None)


def test_crops_are_pillows():
    photograph = load_sample_image("china.jpg")
    rows, sizes = [photograph, photograph[:200, :90]], torch.tensor([photograph.shape[:2], (200, 90)])
    flat = torch.cat([torch.tensor(image).flatten() for image in rows])
    whole = Whole(flat, torch.tensor([0, rows[0].size]), sizes)
    boxes = [(0, 13, 40, 400, 512), (0, 0, 0, 427, 640), (1, 20, 5, 60, 21), (1, 199, 89, 1, 1), (0, 3, 7, 33, 20)]
    which = torch.tensor([row for row, *_ in boxes])
    shares = torch.stack([torch.tensor(box, dtype=torch.float32) / sizes[row].repeat(2) for row, *box in boxes])
    found = whole.crops(which, shares, 32)
    for crop, (row, top, left, height, width) in zip(found, boxes, strict=True):
        image = Image.fromarray(rows[row]).crop((left, top, left + width, top + height))
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(crop.numpy().astype(int) - expected).max() <= 1


def test_views_of_whole_images_have_more_detail_than_those_of_stored_ones(tmp_path):
    """Small crops of a large photograph: sharper from all pixels, and like the plain ones where nothing is enlarged."""
    photograph = load_sample_image("flower.jpg")
    files = {
        f"{split}/{label}/{n}.png": encode(photograph, "PNG")
        for split in ("train", "test")
        for label in "ab"
        for n in range(4)
    }
    _, _, folder = packed(tmp_path, write_archive(tmp_path / "x.zip", files), dataclasses.replace(FULL, image_size=32))
    split = load_split(folder, "train")
    views = load_params(ROOT).views["simclr"]
    small, large = (dataclasses.replace(views, crop_scale=[s, s], jitter=0.0, grey=0.0, blur=0.0) for s in (0.02, 1.0))

    def both(chosen):
        batches = Batches(split, chosen, 32, None)
        rows = torch.arange(6)
        plain = dataclasses.replace(batches, split=dataclasses.replace(split, whole=None))
        return batches.pairs(rows, "x", seed=0), plain.pairs(rows, "x", seed=0)

    def detail(x_BCHW):
        return (x_BCHW.diff(dim=-1).abs().mean() + x_BCHW.diff(dim=-2).abs().mean()).item()

    ours, stored = both(small)
    assert detail(ours) > 1.3 * detail(stored)
    ours, stored = both(large)
    assert (ours - stored).abs().mean() < 0.03


def test_all_other_parameters_of_a_view_are_drawn_and_applied_as_ever(tmp_path, archive):
    source, _ = archive
    _, meta, folder = packed(tmp_path, source)
    split = load_split(folder, "train")
    views = load_params(ROOT).views["simclr"]
    found = Batches(split, views, 8, None).pairs(torch.tensor([3, 1]), "step", 0, seed=5)
    rows = torch.tensor([3, 1, 3, 1])
    drawn = draw(views, split.sizes[rows], generator(5, "step", 0))
    assert split.whole is not None
    crops = split.whole.crops(rows, drawn.box, 8)
    torch.testing.assert_close(found, render(crops, drawn.cropped(), views, 8), atol=1e-6, rtol=0)
    data = prepared(meta, lambda name: load_split(folder, name), size=8, standardize=False, device=torch.device("cpu"))
    assert data.pretrain.split.whole is not None and data.test.split.whole is None


def test_what_does_not_go_with_whole_images_is_one_line(tmp_path, archive):
    source, _ = archive
    _, meta, folder = packed(tmp_path, source)
    how = {"size": 8, "standardize": False, "device": torch.device("cpu")}

    def read(name):
        return load_split(folder, name)

    with pytest.raises(UserError, match=r"data\.pretrain_on: train_and_val must be train with data\.stored_size: full"):
        prepared(meta, read, pretrain_on="train_and_val", **how)
    params = load_params(ROOT)
    recipe = (params.backbone, params.projector, params.simclr, params.diagnostics, params.views["digits"])
    with pytest.raises(UserError, match=r"data\.stored_size: full must be null or pixels with views that rotate"):
        assemble(Method(*recipe, 4, 0), prepared(meta, read, **how), None)


def test_full_is_a_word_of_its_own(workspace):
    assert settle(workspace, {"data.stored_size": "full"}).data.stored_size == "full"
    with pytest.raises(UserError, match=r"data\.stored_size: 'ful' must be an integer or 'full'"):
        settle(workspace, {"data.stored_size": "ful"})
