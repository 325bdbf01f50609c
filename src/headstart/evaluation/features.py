"""Frozen backbone features of un-augmented images."""

import numpy as np
import torch
from torch import nn

from headstart.data.arrays import Split, Standardize
from headstart.data.views import resize


@torch.no_grad()
def extract_features(
    backbone: nn.Module, split: Split, image_size: int, standardize: Standardize | None, batch_size: int = 500
) -> np.ndarray:
    """Return (N, D) float32 features of a split in eval mode, on the device of the images, in fp32."""
    backbone.eval()
    rows = []
    for images in split.images.split(batch_size):
        x_NCHW = resize(images, image_size)
        if standardize is not None:
            x_NCHW = standardize(x_NCHW)
        rows.append(backbone(x_NCHW.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(rows).numpy()
