"""The autoencoder of a dataset: trained weights, curve, errors; its embedding layer is what projectors start from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.experiment.prepared import Prepared
from headstart.models.autoencoder import Autoencoder, build_autoencoder, count_parameters, peak_signal_to_noise
from headstart.training.reconstruction import AutoencoderEpoch, Reconstruction, reconstruction_error, train_autoencoder
from headstart.training.resume import Checkpoint

SHOWN = 12  # test images whose reconstructions are drawn


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
    features: int,
    dim: int,
    seed: int,
    checkpoint: Checkpoint,
    on_epoch: Callable[[AutoencoderEpoch], object],
) -> Embedding:
    """Train the autoencoder `arch` whose embedding layer is Linear(features, dim), on the images that pretrain."""
    autoencoder = build_autoencoder(arch, data.size, features, dim, seed).to(data.device)
    curve = train_autoencoder(
        autoencoder,
        data.pretrain.split,
        data.val.split,
        recipe,
        image_size=data.size,
        seed=seed,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    best = min(curve, key=lambda row: row.val_mse)
    test_mse = reconstruction_error(autoencoder, data.test.split, data.size)
    summary = {
        "train_mse": reconstruction_error(autoencoder, data.pretrain.split, data.size),
        "val_mse": best.val_mse,
        "test_mse": test_mse,
        "test_psnr": peak_signal_to_noise(test_mse),
        "best_epoch": best.epoch,
        "num_parameters": count_parameters(autoencoder),
        "latent_dim": dim,
    }
    return Embedding(autoencoder, curve, summary)
