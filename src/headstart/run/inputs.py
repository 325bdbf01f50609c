"""What the training stages start from: the device and the prepared arrays."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headstart.data.arrays import Split, Standardize, load_split
from headstart.data.tree import UNLABELLED
from headstart.errors import UserError
from headstart.memory import keep_freed_memory
from headstart.models.backbone import Backbone
from headstart.run import artifacts, paths
from headstart.run.params import Params


@dataclass(frozen=True)
class Prepared:
    """A dataset as `prepare` left it: its meta file, its splits on the device, its standardisation (None where off).

    pretrain: what SimCLR and the autoencoder train on: the unlabelled images where the dataset has some, else train.
    """

    meta: dict[str, Any]
    pretrain: Split
    train: Split
    val: Split
    test: Split
    standardize: Standardize | None


def pick_device(name: str) -> torch.device:
    """Return the device that params.yaml names; `auto` is the first CUDA device where there is one.

    A process that will train on the CPU is told to keep the memory that it frees.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"params.yaml: device: {name!r} but torch sees no CUDA device; use auto or cpu")
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"params.yaml: device: {name!r} but there are {torch.cuda.device_count()} CUDA devices, from cuda:0"
        )
    return device


def backbone_of(params: Params) -> Backbone:
    """Return the backbone's settings; a relative path of weights starts at the main workspace, as all paths do."""
    weights = params.backbone.weights
    if weights in ("none", "imagenet1k"):
        return params.backbone
    return replace(params.backbone, weights=str(paths.main_workspace() / Path(weights).expanduser()))


def load_prepared(dataset: str, params: Params, device: torch.device, folder: Path | None = None) -> Prepared:
    """Return a prepared dataset with its images on `device`, or raise UserError where `prepare` has not run.

    folder: where it lies; default: paths.prepared(dataset).
    """
    folder = folder or paths.prepared(dataset)
    meta = artifacts.read_json(folder / "meta.json", made_by="prepare")
    split = UNLABELLED if UNLABELLED in meta["num_images"] else "train"
    batch_size, num_images = params.dataset(dataset).batch_size, meta["num_images"][split]
    if batch_size > num_images:
        raise UserError(
            f"params.yaml: data.{dataset}.batch_size: {batch_size} must be at most {num_images}, the {split} images"
        )
    train, val, test = (load_split(folder, split).to(device) for split in ("train", "val", "test"))
    standardize = Standardize(tuple(meta["mean"]), tuple(meta["std"])) if params.options.standardize else None
    pretrain = train if split == "train" else load_split(folder, split).to(device)
    return Prepared(meta, pretrain, train, val, test, standardize)
