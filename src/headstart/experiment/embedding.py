"""The autoencoder of a dataset: trained weights, curve, errors; its embedding layer is what projectors start from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.data.arrays import Split
from headstart.data.views import resize
from headstart.experiment.prepared import Prepared
from headstart.models.autoencoder import Autoencoder, build_autoencoder, count_parameters, peak_signal_to_noise
from headstart.randomness import generator
from headstart.training.reconstruction import AutoencoderEpoch, Reconstruction, reconstruction_error, train_autoencoder
from headstart.training.resume import Checkpoint

SHOWN = 12  # test images whose reconstructions are drawn
ROWS = 1000  # images that are looked at together


@dataclass(frozen=True)
class Embedding:
    """A trained autoencoder, the rows of its curve, and what summary.json says of it."""

    autoencoder: Autoencoder
    curve: list[AutoencoderEpoch]
    summary: dict[str, Any]

    @torch.no_grad()
    def examples(self, data: Prepared) -> list[Tensor]:
        """Return some test images and what the autoencoder makes of them, (N, 3, S, S) each."""
        x_NCHW = data.test.plain(torch.arange(min(SHOWN, len(data.test.split.labels))))
        return [x_NCHW, self.autoencoder(x_NCHW)]


def train_embedding(
    data: Prepared,
    arch: str,
    recipe: Reconstruction,
    *,
    learns_from: str,
    features: int,
    dim: int,
    seed: int,
    checkpoint: Checkpoint,
    on_epoch: Callable[[AutoencoderEpoch], object],
) -> Embedding:
    """Train the autoencoder `arch` whose embedding layer is Linear(features, dim).

    learns_from: `images` (those that pretrain), `noise` (as many of `noise_like`) or `nothing`: it stays as it is
    initialised. Errors of the summary are those of images, whatever it has learnt from.
    """
    autoencoder = build_autoencoder(arch, data.size, features, dim, seed).to(data.device)
    curve: list[AutoencoderEpoch] = []
    if learns_from != "nothing":
        train, val = data.pretrain.split, data.val.split
        if learns_from == "noise":
            train, val = (noise_like(train, len(split.images), seed) for split in (train, val))
        curve = train_autoencoder(
            autoencoder,
            train,
            val,
            recipe,
            image_size=data.size,
            seed=seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
    train_mse, val_mse, test_mse = (
        reconstruction_error(autoencoder, images.split, data.size) for images in (data.pretrain, data.val, data.test)
    )
    summary = {
        "train_mse": train_mse,
        "val_mse": val_mse,
        "test_mse": test_mse,
        "test_psnr": peak_signal_to_noise(test_mse),
        "mean_image_mse": mean_image_error(data),
        "best_epoch": min(curve, key=lambda row: row.val_mse).epoch if curve else 0,
        "num_parameters": count_parameters(autoencoder),
        "latent_dim": dim,
        "learns_from": learns_from,
        "arch": arch,
        "image_size": data.size,
    }
    return Embedding(autoencoder, curve, summary)


def noise_like(split: Split, number: int, seed: int) -> Split:
    """Return `number` images of Gaussian noise, each value with the mean and spread that it has over a split's images.

    Values are independent of each other, rounded and clipped to 0..255, which narrows the spread of dark and bright
    pixels. Labels are 0. Drawn on the host by generator(seed, "noise images", number).
    """
    pixels = split.images.flatten(1)
    mean, spread = _moments(pixels)
    source = generator(seed, "noise images", number)
    noise = torch.empty((number, pixels.shape[1]), dtype=torch.uint8)
    for rows in torch.arange(number).split(ROWS):
        drawn = mean + spread * torch.randn((len(rows), pixels.shape[1]), generator=source)
        noise[rows[0] : rows[-1] + 1] = drawn.round().clamp(0, 255).byte()
    images = noise.view(number, *split.images.shape[1:]).to(split.images.device)
    sizes = torch.tensor(split.images.shape[1:3]).expand(number, 2)
    return Split(images, torch.zeros(number, dtype=torch.int64), sizes)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of (N, P) uint8, float32 on the host."""
    total, squares = (torch.zeros(pixels.shape[1], dtype=torch.float64) for _ in range(2))
    for rows in pixels.split(ROWS):
        values = rows.double()
        total += values.sum(0).cpu()
        squares += values.square().sum(0).cpu()
    mean = total / len(pixels)
    return mean.float(), (squares / len(pixels) - mean.square()).clamp(min=0).sqrt().float()


def mean_image_error(data: Prepared) -> float:
    """Return the test error of always answering the mean of the images that pretrain: the least that one may expect."""
    seen, tested = data.pretrain.split.images, data.test.split.images
    total = sum(resize(rows, data.size).double().sum(0) for rows in seen.split(ROWS))
    mean = total / len(seen)
    errors = sum(((resize(rows, data.size).double() - mean) ** 2).mean((1, 2, 3)).sum() for rows in tested.split(ROWS))
    return float(errors / len(tested))
