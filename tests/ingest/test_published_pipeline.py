"""One dataset of every family through the real stages: download with its hash, prepare, one SimCLR step."""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known import BLOCKS, ROOT, archives, settle
from publications import PUBLICATIONS

from headstart.data.arrays import load_split
from headstart.errors import UserError
from headstart.experiment.prepared import Prepared
from headstart.experiment.prepared import prepare as read_prepared
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import build_projector
from headstart.run.params import Params, load_params
from headstart.training.contrastive import Batches, training_step
from stages import download, prepare, prepare_source, prepare_target, train_simclr

FAMILIES = (
    *("imagenette", "caltech101", "caltech256", "dtd", "country211", "food101", "fgvc_aircraft", "gtsrb", "flowers102"),
    *("oxford_iiit_pet", "tiny_imagenet", "cifar10", "mnist", "emnist_letters", "stl10", "stl10_unlabelled", "svhn"),
    "bloodmnist",
)


def published(folder: Path, name: str) -> list[dict[str, Any]]:
    """Write a dataset's small archives, and return them as its block would list them, without an upstream."""
    folder.mkdir(parents=True)
    PUBLICATIONS[name](folder)
    rows = []
    for archive in archives(name):
        content = (folder / archive.file).read_bytes()
        digest = f"md5:{hashlib.md5(content).hexdigest()}"
        rows.append({"file": archive.file, "urls": [], "hash": digest, "num_bytes": len(content)})
    return rows


@pytest.fixture
def project(workspace):
    """`project(name)`: settings for small batches, and the dataset's archives in a directory that they name."""

    def make(name: str) -> Params:
        block = {
            "archives": published(workspace / "published" / name, name),
            "batch_size": 2,
            "image_size": min(BLOCKS[name].image_size, 32),
        }
        changes = {f"datasets.yaml:{name}.{key}": value for key, value in block.items()}
        return settle(workspace, {"data.archives": "published", "datasets": [name]} | changes)

    return make


def prepared(name: str, params: Params) -> Prepared:
    """What a stage that trains sees of the arrays."""
    folder, size = Path("data/prepared") / name, params.dataset(name).image_size
    standardize = params.data.standardize
    return read_prepared(
        meta_of(name),
        partial(load_split, folder),
        size=size,
        standardize=standardize,
        device=torch.device("cpu"),
        batch_size=params.dataset(name).batch_size,
    )


def meta_of(name: str) -> dict[str, Any]:
    return json.loads(Path("data/prepared", name, "meta.json").read_text())


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    head = dataclasses.replace(load_params(ROOT).projector, init="random", freeze="auto")
    return torch.nn.Sequential(
        build_backbone(Backbone("resnet18", "stride2", "none"), 0), build_projector(head, 512, 0)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_download_prepare_and_one_step(project, model, workspace, name):
    params = project(name)
    download.main(name)
    assert {path.name for path in (workspace / "data/raw" / name).iterdir()} == {a.file for a in archives(name)}
    prepare.main(name)
    data = prepared(name, params)
    images = data.pretrain
    assert (images is data.train) == (name != "stl10_unlabelled")
    if name == "stl10_unlabelled":
        assert meta_of(name)["num_images"] == {"train": 8, "val": 2, "test": 4, "unlabelled": 7}
        assert (images.split.labels == -1).all() and len(images.split.labels) == 7
        assert (data.train.split.labels >= 0).all()
    side = params.dataset(name).image_size
    assert images.size == side
    batches = Batches(images.split, params.views_of(name), images.size, images.standardize)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x_BCHW = batches.pairs(torch.arange(2), "step", 0, seed=0)
    assert x_BCHW.shape == (4, 3, side, side)
    recipe = dataclasses.replace(params.simclr, precision="fp32")
    loss = training_step(model, optimizer, x_BCHW, 0.01, recipe)
    assert 0 < loss.item() < 2 / recipe.temperature + np.log(3)


def test_statistics_of_a_dataset_with_unlabelled_images_are_those_of_its_labelled_train(project, workspace):
    names = ("stl10", "stl10_unlabelled")
    for name in names:
        project(name)
        download.main(name)
        prepare.main(name)
    metas = [meta_of(name) for name in names]
    assert metas[0]["mean"] == metas[1]["mean"] and metas[0]["std"] == metas[1]["std"]
    assert metas[0]["hash"] != metas[1]["hash"]
    folders = [workspace / "data/prepared" / name for name in names]
    for split in ("train", "val", "test"):
        first, second = (np.load(folder / f"{split}_images.npy") for folder in folders)
        assert (first == second).all()


def test_batch_size_is_held_against_what_is_pretrained_on(project):
    project("stl10_unlabelled")
    download.main("stl10_unlabelled")
    prepare.main("stl10_unlabelled")
    settle(Path(), {"datasets": ["stl10_unlabelled"], "datasets.yaml:stl10_unlabelled.batch_size": 9})
    with pytest.raises(UserError) as error:
        train_simclr.main("stl10_unlabelled")
    assert str(error.value) == "datasets.yaml: stl10_unlabelled.batch_size: 9 must be at most 7, the unlabelled images"
    params = settle(Path(), {"datasets.yaml:stl10_unlabelled.batch_size": 7})
    assert len(prepared("stl10_unlabelled", params).pretrain.split.labels) == 7


def test_a_published_dataset_in_a_known_format_is_one_block_more(workspace):
    """Text at the end of datasets.yaml, and no line of code: fetched from a mirror, checked, prepared."""
    mirror = workspace / "mirror/emnist_copy"
    (archive,) = published(mirror, "emnist_letters")
    settle(workspace, {"data.mirror": (workspace / "mirror").as_uri(), "datasets": ["emnist_letters"]})
    block = f"""
emnist_copy:
  decoder: {{emnist: {{split: letters}}}}
  archives:
  - file: {archive["file"]}
    urls:
    - https://emnist.invalid/{archive["file"]}
    hash: {archive["hash"]}
    num_bytes: {archive["num_bytes"]}
  path:
  image_size: 28
  batch_size: 64
  views: digits
  about:
"""
    with (workspace / "datasets.yaml").open("a") as file:
        file.write(block)
    download.main("emnist_copy")
    raw = workspace / "data/raw/emnist_copy" / archive["file"]
    assert raw.read_bytes() == (mirror / archive["file"]).read_bytes()
    prepare.main("emnist_copy")
    meta = meta_of("emnist_copy")
    assert (meta["dataset"], meta["decoder"]) == ("emnist_copy", "emnist")
    assert meta["classes"] == [chr(ord("a") + number) for number in range(26)]
    assert meta["num_images"] == {"train": 78, "val": 26, "test": 26}
    assert (meta["image_size"], meta["stored_size"]) == (28, 28)
    # the stages that bring and decode at once leave the same bytes, and no archives
    prepare_target.main("emnist_copy")
    prepare_source.main("emnist_copy")
    arrays = {path.name: path.read_bytes() for path in (workspace / "data/prepared/emnist_copy").iterdir()}
    for stage in ("target", "source"):
        folder = workspace / "data" / stage
        assert {path.name: path.read_bytes() for path in (folder / "emnist_copy").iterdir()} == arrays
        assert [path.name for path in folder.iterdir()] == ["emnist_copy"]


def test_a_wrong_archive_is_not_opened(project, workspace):
    project("cifar10")
    path = workspace / "published/cifar10/cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="wrong hash") as error:
        download.main("cifar10")
    assert "\n" not in str(error.value)
    assert not (workspace / "data/raw/cifar10").exists()
