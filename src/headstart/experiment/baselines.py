"""What a backbone must beat to have learnt anything: raw pixels, and itself before training, in two states."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from headstart.data.views import resize
from headstart.evaluation.evaluate import Evaluation
from headstart.evaluation.probe import Labelled, Splits
from headstart.experiment.judging import Judge, majority
from headstart.experiment.prepared import Images, Prepared

PIXELS = 32  # a side: larger images are shrunk, so that a probe on them ends (3,072 numbers an image)
CALIBRATED_ON, BATCH = 5000, 500  # train images, at most, whose statistics batch norm takes, in batches of so many


@dataclass(frozen=True)
class Baselines:
    """The evaluations of what needs no training, and the accuracy of always saying the commonest class.

    untrained: the initial backbone with its running statistics as they are initialised: batch norm does nothing;
    calibrated: the same with those of train images, which is where SimCLR begins; pixels: the images themselves.
    """

    untrained: Evaluation
    calibrated: Evaluation
    pixels: Evaluation
    majority: float

    def summary(self) -> dict[str, Any]:
        """Return what summary.json says."""
        found = {"untrained": self.untrained, "calibrated": self.calibrated, "pixels": self.pixels}
        return {
            **{name: result.scores for name, result in found.items()},
            "majority": {"top1": self.majority},
            "details": {name: result.details for name, result in found.items()},
        }


def judge_baselines(judge: Judge, backbone: nn.Module) -> Baselines:
    """Return the baselines of a dataset and an initial backbone, judged as a trained one is.

    Fine-tuning, if the recipe asks for it, begins at `untrained` alone: it would train both states of one backbone.
    """
    data, frozen = judge.data, replace(judge, recipe=replace(judge.recipe, finetune_epochs=0))
    return Baselines(
        judge.evaluate(backbone, None, "untrained"),
        frozen.evaluate(calibrated(backbone, data.train), None, "calibrated"),
        frozen.evaluate_features(
            Splits(*(Labelled(pixels(part), part.split.labels.numpy()) for part in (data.train, data.val, data.test))),
            "raw pixels",
        ),
        majority(data),
    )


def unlabelled_baselines(judge: Judge, backbone: nn.Module) -> dict[str, Any]:
    """Return what summary.json says where there are no labels: label-free scores of the same three."""
    side = min(judge.data.size, PIXELS)
    shrunk = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
    return {
        "untrained": judge.label_free(backbone),
        "calibrated": judge.label_free(calibrated(backbone, judge.data.train)),
        "pixels": replace(judge, data=_plain(judge.data)).label_free(shrunk),
    }


def _plain(data: Prepared) -> Prepared:
    return replace(data, test=replace(data.test, standardize=None))


def calibrated(backbone: nn.Module, images: Images) -> nn.Module:
    """Return a copy of the backbone whose batch norms have the statistics of images in training mode.

    Of the first whole batches, un-augmented, the mean over batches (torch's update_bn); a network without batch norm
    stays as it is.
    """
    network = copy.deepcopy(backbone)
    with torch.no_grad():
        update_bn(_batches(images), network)
    return network


def pixels(images: Images) -> Any:
    """Return (N, 3 * S * S) float32 values in [0, 1] of a split's images, S at most PIXELS a side."""
    side = min(images.size, PIXELS)
    rows = [resize(part, side).flatten(1).float().cpu() for part in images.split.images.split(1000)]
    return torch.cat(rows).numpy()


def _batches(images: Images) -> Iterator[Tensor]:
    number = min(CALIBRATED_ON, len(images.split.images))
    for rows in images.split.images[: max(number // BATCH * BATCH, min(number, BATCH))].split(BATCH):
        x_NCHW = resize(rows, images.size)
        if images.standardize is not None:
            x_NCHW = images.standardize(x_NCHW)
        yield x_NCHW.contiguous(memory_format=torch.channels_last)
