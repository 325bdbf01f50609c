"""One dataset of every family through the real stages: download with its hash, prepare, one SimCLR step."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from headstart.ingest.table import KINDS
from headstart.XXinputs import load_prepared
from publications import PUBLICATIONS

from headstart.errors import UserError
from headstart.ingest.sources import Archive
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import build_projector
from headstart.run.params import Params, load_params
from headstart.training.contrastive import Batches, training_step
from stages import download, prepare

ROOT = Path(__file__).parents[2]
FAMILIES = (
    *("imagenette", "caltech101", "caltech256", "dtd", "country211", "food101", "fgvc_aircraft", "gtsrb", "flowers102"),
    *("oxford_iiit_pet", "tiny_imagenet", "cifar10", "mnist", "emnist_letters", "stl10", "stl10_unlabelled", "svhn"),
    "bloodmnist",
)


def hashed(path: Path, archive: Archive) -> Archive:
    """Return the row's archive with the hash and size of the small one, and no upstream."""
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    return Archive(archive.file, (), f"md5:{digest}", num_bytes=path.stat().st_size)


@pytest.fixture
def project(workspace, monkeypatch):
    """`project(kind)`: params.yaml for small batches, and the kind's archives in a directory that it names."""

    def make(kind: str) -> Params:
        tree = yaml.safe_load((ROOT / "params.yaml").read_text())
        folder = workspace / "published" / kind
        folder.mkdir(parents=True)
        PUBLICATIONS[kind](folder)
        tree["data"] |= {"archives": "published"}
        tree["data"][kind] |= {"batch_size": 2, "image_size": min(tree["data"][kind]["image_size"], 32)}
        tree["datasets"], tree["tracking"]["enabled"] = [kind], False
        (workspace / "params.yaml").write_text(yaml.safe_dump(tree))
        archives = tuple(hashed(folder / archive.file, archive) for archive in KINDS[kind].archives)
        monkeypatch.setitem(KINDS, kind, dataclasses.replace(KINDS[kind], archives=archives))
        return load_params()

    return make


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["projector"]
    head = dataclasses.replace(load_params(ROOT / "params.yaml").projector, init="random", freeze="auto")
    assert params["hidden_dim"] == head.hidden_dim
    return torch.nn.Sequential(
        build_backbone(Backbone("resnet18", "stride2", "none"), 0), build_projector(head, 512, 0)
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_download_prepare_and_one_step(project, model, workspace, kind):
    params = project(kind)
    download.main(kind)
    assert {path.name for path in (workspace / "data/raw" / kind).iterdir()} == {a.file for a in KINDS[kind].archives}
    prepare.main(kind)
    data = load_prepared(kind, params, torch.device("cpu"))
    split = data.pretrain
    assert (split is data.train) == (kind != "stl10_unlabelled")
    if kind == "stl10_unlabelled":
        assert data.meta["num_images"] == {"train": 8, "val": 2, "test": 4, "unlabelled": 7}
        assert (split.labels == -1).all() and len(split.labels) == 7
        assert (data.train.labels >= 0).all()
    row = params.dataset(kind)
    batches = Batches(split, params.views_of(kind), row.image_size, data.standardize)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x_BCHW = batches.pairs(torch.arange(2), "step", 0, seed=0)
    assert x_BCHW.shape == (4, 3, row.image_size, row.image_size)
    recipe = dataclasses.replace(params.simclr, precision="fp32")
    loss = training_step(model, optimizer, x_BCHW, 0.01, recipe)
    assert 0 < loss.item() < 2 / recipe.temperature + np.log(3)


def test_statistics_of_a_dataset_with_unlabelled_images_are_those_of_its_labelled_train(project, workspace):
    for kind in ("stl10", "stl10_unlabelled"):
        project(kind)
        download.main(kind)
        prepare.main(kind)
    metas = [
        json.loads((workspace / "data/prepared" / kind / "meta.json").read_text())
        for kind in ("stl10", "stl10_unlabelled")
    ]
    assert metas[0]["mean"] == metas[1]["mean"] and metas[0]["std"] == metas[1]["std"]
    assert metas[0]["hash"] != metas[1]["hash"]
    folders = [workspace / "data/prepared" / kind for kind in ("stl10", "stl10_unlabelled")]
    for split in ("train", "val", "test"):
        first, second = (np.load(folder / f"{split}_images.npy") for folder in folders)
        assert (first == second).all()


def test_batch_size_is_held_against_what_is_pretrained_on(project):
    project("stl10_unlabelled")
    download.main("stl10_unlabelled")
    prepare.main("stl10_unlabelled")
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["data"]["stl10_unlabelled"]["batch_size"] = 9
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match="batch_size: 9 must be at most 7, the unlabelled images"):
        load_prepared("stl10_unlabelled", load_params(), torch.device("cpu"))


def test_a_wrong_archive_is_not_opened(project, workspace):
    project("cifar10")
    path = workspace / "published/cifar10/cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="wrong hash") as error:
        download.main("cifar10")
    assert "\n" not in str(error.value)
    assert not (workspace / "data/raw/cifar10").exists()
