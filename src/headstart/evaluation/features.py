"""Frozen features of un-augmented images: the backbone's and, behind it, those of the projector's layers."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data.arrays import Split, Standardize
from headstart.data.views import resize
from headstart.models.projector import layer_outputs
from headstart.precision import autocast_anew
from headstart.replay import Replayed

Allocate = Callable[[tuple[int, int]], np.ndarray]  # (N, D) -> a float32 array to fill


def in_memory(shape: tuple[int, int]) -> np.ndarray:
    """Return an array of float32 in memory."""
    return np.empty(shape, np.float32)


def extract_features(
    backbone: nn.Module, split: Split, image_size: int, standardize: Standardize | None, batch_size: int = 500
) -> np.ndarray:
    """Return (N, D) float32 features of a split in eval mode, on the device of the images, in fp32."""
    return extract_layers(backbone, None, split, image_size, standardize, batch_size)["backbone"]


@torch.no_grad()
def extract_layers(
    backbone: nn.Module,
    projector: nn.Sequential | None,
    split: Split,
    image_size: int,
    standardize: Standardize | None,
    batch_size: int = 500,
    allocate: Allocate = in_memory,
) -> dict[str, np.ndarray]:
    """Return layer -> (N, D) float32 features of a split: of `backbone` and of every layer that `layer_outputs` names.

    As extract_features; `allocate` says where they lie, so that those of a large dataset may be memory-mapped.
    """
    backbone.eval()
    layers: dict[str, np.ndarray] = {}
    outputs = Replayed(
        partial(_outputs, backbone, projector, split, image_size, standardize),
        split.images.device,
        name="feature extraction",
        calls=len(split.images) // batch_size,
    )
    for rows in torch.arange(len(split.images)).split(batch_size):
        for name, values in outputs(rows).items():
            if name not in layers:
                layers[name] = allocate((len(split.images), values.shape[1]))
            layers[name][rows[0] : rows[-1] + 1] = values.float().cpu().numpy()
    return layers


def _outputs(
    backbone: nn.Module,
    projector: nn.Sequential | None,
    split: Split,
    image_size: int,
    standardize: Standardize | None,
    rows: Tensor,
) -> dict[str, Tensor]:
    x_NCHW = resize(split.images[rows], image_size)
    if standardize is not None:
        x_NCHW = standardize(x_NCHW)
    with autocast_anew(x_NCHW.device):
        features = backbone(x_NCHW.contiguous(memory_format=torch.channels_last))
        return {"backbone": features} | (layer_outputs(projector.eval(), features) if projector is not None else {})
