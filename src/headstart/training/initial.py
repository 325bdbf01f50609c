"""What backbone and autoencoder say of images before training, for projectors that start from it."""

import copy

import torch
from torch import Tensor, nn

from headstart.data.arrays import Split, Standardize
from headstart.data.views import resize
from headstart.randomness import generator, global_seed

MOST_IMAGES = 5000  # some times the features of a ResNet, 512 or 2048: their covariance is known well enough


def initial_features(
    backbone: nn.Module, split: Split, image_size: int, standardize: Standardize | None, *, batch_size: int, seed: int
) -> Tensor:
    """Return (N, D) float32 features, on the host, of un-augmented images drawn by `seed`.

    N: as many whole batches as MOST_IMAGES hold, at least one; the split has at least batch_size images. In training
    mode, with the statistics of whole batches: what the head will see first. In evaluation mode a network whose running
    statistics were never updated gives features of another scale. The backbone itself stays untouched.
    """
    network = copy.deepcopy(backbone).train()
    found = []
    with torch.no_grad(), global_seed(seed, "initial features"):  # for models that drop at random
        for rows in _rows(split, batch_size, seed).split(batch_size):
            x_NCHW = resize(split.images[rows.to(split.images.device)], image_size)
            if standardize is not None:
                x_NCHW = standardize(x_NCHW)
            found.append(network(x_NCHW.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(found)


@torch.no_grad()
def initial_units(encoder: nn.Module, split: Split, image_size: int, *, batch_size: int, seed: int) -> Tensor:
    """Return (N, F) float32 values of an autoencoder's encoder, on the host, of the images of `initial_features`.

    image_size: pixels a side at which the encoder sees them, never standardised.
    """
    found = [
        encoder(resize(split.images[rows.to(split.images.device)], image_size)).float().cpu()
        for rows in _rows(split, batch_size, seed).split(batch_size)
    ]
    return torch.cat(found)


def _rows(split: Split, batch_size: int, seed: int) -> Tensor:
    """Which images are looked at: whole batches of them."""
    num_batches = max(min(MOST_IMAGES, len(split.images)) // batch_size, 1)
    order = torch.randperm(len(split.images), generator=generator(seed, "initial features"))
    return order[: num_batches * batch_size]
