"""A prepared dataset as a run sees it: which of its splits pretrains, at which size, standardised or not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headstart.data import SPLITS, UNLABELLED
from headstart.data.arrays import Split, Standardize
from headstart.data.views import resize
from headstart.errors import UserError


@dataclass(frozen=True)
class Images:
    """A split as a network sees it; size: pixels a side; standardize: None where values stay in [0, 1]."""

    split: Split
    size: int
    standardize: Standardize | None

    def plain(self, rows: Tensor) -> Tensor:
        """Return rows (N,) as (N, 3, S, S) float32 on the split's device, un-augmented and never standardised."""
        return resize(self.split.images[rows.to(self.split.images.device)], self.size)


@dataclass(frozen=True)
class Prepared:
    """A dataset, its images on the device.

    pretrain: what SimCLR and the autoencoder train on, labelled or not: train, or train and val together, or the images
    that a dataset publishes for it. train, val, test: the labelled images; all of them where the dataset has no labels.
    splits: these as they are stored, with their unlabelled images. hash: of all arrays.
    """

    classes: tuple[str, ...]
    hash: str
    pretrain: Images
    train: Images
    val: Images
    test: Images
    splits: Mapping[str, Images] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of classes, seen or not; 0 where the dataset has no labels."""
        return len(self.classes)

    @property
    def size(self) -> int:
        """Pixels a side at which networks see the images."""
        return self.train.size

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.train.split.images.device


def prepare(
    meta: Mapping[str, Any],
    read: Callable[[str], Split],
    *,
    size: int,
    standardize: bool | Standardize | None,
    device: torch.device,
    pretrain_on: str = "train",
    batch_size: int = 1,
) -> Prepared:
    """Return a dataset from what `pack` said of it and the splits that `read` returns by name.

    standardize: whether to standardise by this dataset's own statistics, or those of another one. pretrain_on: `train`
    or `train_and_val`, where there are no unlabelled images. Raises UserError where what pretrains holds fewer images
    than batch_size, and for both where images lie at full resolution.
    """
    own = (UNLABELLED,) if UNLABELLED in meta["num_images"] else tuple(pretrain_on.split("_and_"))
    if batch_size > (most := sum(meta["num_images"][name] for name in own)):
        key = f"datasets.yaml: {meta['dataset']}.batch_size"
        raise UserError(f"{key}: {batch_size} must be at most {most}, the {' and '.join(own)} images")
    if isinstance(standardize, bool):
        standardize = Standardize(tuple(meta["mean"]), tuple(meta["std"])) if standardize else None
    names = [name for name in (*SPLITS, UNLABELLED) if name in meta["num_images"]]
    splits = {name: Images(read(name).to(device), size, standardize) for name in names}
    if len(own) > 1 and splits[own[0]].split.whole is not None:
        raise UserError("params.yaml: data.pretrain_on: train_and_val must be train with data.stored_size: full")
    pretrain = splits[own[0]] if len(own) == 1 else _joined([splits[name] for name in own])
    stored, classes = {name: splits[name] for name in SPLITS}, tuple(meta["classes"])
    train, val, test = (_labelled(images) if classes else images for images in stored.values())
    return Prepared(classes, meta["hash"], pretrain, train, val, test, stored)


def _labelled(images: Images) -> Images:
    """The labelled images of a split, which stand first: what is returned shares their memory."""
    own = images.split
    number = int((own.labels >= 0).sum())
    if number == len(own.labels):
        return images
    whole = own.whole and replace(own.whole, starts=own.whole.starts[:number], sizes=own.whole.sizes[:number])
    return replace(images, split=Split(own.images[:number], own.labels[:number], own.sizes[:number], whole))


def _joined(parts: Sequence[Images]) -> Images:
    """The images of several splits, one after the other; in memory, not mapped."""
    images, labels, sizes = (
        torch.cat([getattr(part.split, name) for part in parts]) for name in ("images", "labels", "sizes")
    )
    return replace(parts[0], split=Split(images, labels, sizes))
