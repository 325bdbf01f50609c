"""Images without labels: what pretrains, what is judged, and what features say of themselves."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from headstart.data.arrays import NAMES, Split, load_split
from headstart.evaluation.label_free import SCORES, sns
from headstart.experiment.judging import Judge
from headstart.experiment.prepared import prepare
from headstart.ingest.formats import Listing
from headstart.ingest.pack import HELD_OUT, Packing, assign_splits, pack
from headstart.models.rbf import GaussianRBF, fill_random

CPU = torch.device("cpu")


def listing(labels: list[int], classes: list[str], splits: list[str] | None = None, size: int = 8) -> Listing:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
    names = [f"{number}.png" for number in range(len(labels))]
    where = np.array(splits or ["train"] * len(labels))
    return Listing("x", classes, names, np.array(labels), where, images.nbytes, lambda: enumerate(images))


def packed(folder, found: Listing):
    """The meta file's content and the dataset as a run sees it."""
    folder.mkdir()
    meta = pack(found, folder, Packing(8, None, 0.2, 0.2, 0, False), lambda done: None)
    return meta, prepare({"dataset": "x", **meta}, partial(load_split, folder), size=8, standardize=True, device=CPU)


def test_labels_for_a_part_pretrain_on_all_and_judge_on_the_labelled(tmp_path):
    meta, data = packed(tmp_path / "x", listing([0] * 10 + [1] * 10 + [-1] * 30, ["a", "b"]))
    assert meta["num_images"] == {"train": 42, "val": 4, "test": 4}
    assert meta["num_unlabelled"] == {"train": 30, "val": 0, "test": 0}
    assert len(data.pretrain.split.labels) == 42 and len(data.train.split.labels) == 12
    assert data.train.split.labels.min() == 0 and (data.pretrain.split.labels[12:] == -1).all()
    assert data.train.split.images.data_ptr() == data.pretrain.split.images.data_ptr(), "a part of the same memory"
    assert (data.train.split.images == data.pretrain.split.images[:12]).all()
    names = json.loads((tmp_path / "x" / NAMES).read_text())
    assert {split: len(own) for split, own in names.items()} == meta["num_images"]
    assert sorted(name for own in names.values() for name in own) == sorted(f"{k}.png" for k in range(50))
    assert set(names["train"][12:]) == {f"{k}.png" for k in range(20, 50)}


def test_without_any_label_most_images_pretrain(tmp_path):
    meta, data = packed(tmp_path / "x", listing([-1] * 50, []))
    assert meta["num_images"] == {"train": 32, "val": 8, "test": 10} and meta["classes"] == []
    assert data.num_classes == 0 and len(data.test.split.labels) == 10
    large = listing([-1] * 20000, [], size=4)
    splits = assign_splits(large, np.arange(20000), Packing(8, None, 0.1, 0.2, 0, False))
    assert {split: int((splits == split).sum()) for split in ("val", "test")} == {"val": HELD_OUT, "test": HELD_OUT}


def test_labelled_datasets_are_what_they_were(tmp_path):
    """No file and no key more: their arrays' digest decides which runs are comparable."""
    meta, data = packed(tmp_path / "x", listing([0] * 10 + [1] * 10, ["a", "b"]))
    assert "num_unlabelled" not in meta and not (tmp_path / "x" / NAMES).exists()
    assert data.pretrain.split is data.train.split


def test_views_that_change_nothing_are_found_and_the_draw_repeats(tmp_path, views_of, split_of):
    _, data = packed(tmp_path / "x", listing([-1] * 50, []))
    flat = nn.Flatten()
    same = Judge(data, None, views_of(), 0, None)
    assert same.label_free(flat)["view_top1"] == 1 and same.label_free(flat)["alignment"] == pytest.approx(0, abs=1e-5)
    cropped = Judge(data, None, views_of(crop_scale=[0.1, 0.3]), 0, None)
    assert cropped.label_free(flat) == cropped.label_free(flat)
    assert cropped.label_free(flat)["view_top1"] < 1
    assert isinstance(split_of(0, 3), Split)


def test_a_projector_adds_many_views_and_the_scores_of_its_outputs(tmp_path, views_of):
    """The backbone's own stay what they are; where outputs are the features, so are the scores."""
    _, data = packed(tmp_path / "x", listing([-1] * 50, []))
    judge = Judge(data, None, views_of(crop_scale=[0.1, 0.3]), 0, None)
    alone = judge.label_free(nn.Flatten())
    both = judge.label_free(nn.Flatten(), nn.Sequential(nn.Identity()))
    assert {name: both[name] for name in alone} == alone and 1 < both["lidar"] < 10
    outputs = {name.removesuffix("_output"): value for name, value in both.items() if name.endswith("_output")}
    assert outputs == {name: both[name] for name in outputs} and set(outputs) == set(SCORES) - {"sns"}
    narrow = judge.label_free(nn.Flatten(), nn.Sequential(nn.Linear(192, 4, bias=False)))
    assert narrow["rankme_output"] <= 4.001 and narrow["rankme"] == both["rankme"]


def test_sns_is_that_of_a_heads_last_rbf_layer(tmp_path, views_of):
    _, data = packed(tmp_path / "x", listing([-1] * 50, []))
    first, last = GaussianRBF(192, 5, 8), GaussianRBF(8, 6, 4)
    for layer in (first, last):
        fill_random(layer, 0, "test", layer.weight.shape[0])
    scores = Judge(data, None, views_of(), 0, None).label_free(
        nn.Flatten(), nn.Sequential(first, last, nn.Linear(4, 4))
    )
    assert scores["sns"] == pytest.approx(float(sns(last.centres.detach(), last.widths.detach())), rel=1e-6)
