"""The online monitor: nearest neighbours on the backbone's features while it trains; it decides no weight."""

from collections.abc import Callable

import torch
from torch import nn

from headstart.data.arrays import Split, Standardize
from headstart.evaluation.features import extract_features
from headstart.evaluation.neighbours import nearest_neighbours

K = 20
MOST_TRAIN, MOST_VAL = 2000, 1000  # images looked at; of a small dataset a tenth and a twentieth of train's number,
LEAST_TRAIN, LEAST_VAL = 200, 100  # since an epoch is worth some six passes over it; but no fewer than this


def neighbours_monitor(
    train: Split,
    val: Split,
    num_classes: int,
    image_size: int,
    standardize: Standardize | None,
    bf16: bool = False,
) -> Callable[[nn.Module], float]:
    """Return backbone -> accuracy on some val images of the vote of their 20 nearest among some train images.

    bf16: whether the backbone computes in it, as the training that is looked at does; similarities are in float32.
    """
    num = len(train.labels)
    train = _evenly(train, min(MOST_TRAIN, max(LEAST_TRAIN, num // 10)))
    val = _evenly(val, min(MOST_VAL, max(LEAST_VAL, num // 20)))

    def judge(backbone: nn.Module) -> float:
        with torch.autocast(train.images.device.type, torch.bfloat16, enabled=bf16):
            known, asked = (extract_features(backbone, split, image_size, standardize) for split in (train, val))
        classes = nearest_neighbours(known, train.labels.numpy(), asked, num_classes, [K])[K]
        return float((classes == val.labels.numpy()).mean())

    return judge


def _evenly(split: Split, num: int) -> Split:
    """At most `num` rows of a split, evenly spaced."""
    rows = torch.arange(num) * len(split.labels) // num if num < len(split.labels) else torch.arange(len(split.labels))
    return Split(split.images[rows.to(split.images.device)], split.labels[rows], split.sizes[rows])
