"""The autoencoders whose embedding layer goes into the projector.

To add one: a function and a row of AUTOENCODERS. All end in `embedding`, a Linear(F, d) after a ReLU, where F is the
backbone's feature width (512 in the paper): it moves into the projector, whose input is pooled after a ReLU, too.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from headstart.randomness import global_seed

NOISE = 0.25  # of `denoising`: standard deviation, of pixels in [0, 1]
CONV_CHANNELS = (32, 64, 128)


class Autoencoder(nn.Module):
    """encoder (B, 3, S, S) -> (B, F), embedding -> (B, d), decoder -> B times 3 * S * S values in [0, 1].

    noise: standard deviation of the Gaussian noise on the inputs that it is trained with; targets are clean.
    """

    def __init__(self, encoder: nn.Module, embedding: nn.Linear, decoder: nn.Module, noise: float = 0.0):
        super().__init__()
        self.encoder, self.embedding, self.decoder, self.noise = encoder, embedding, decoder, noise

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the reconstruction of (B, 3, S, S) float images in [0, 1], same shape."""
        return self.decoder(self.embedding(self.encoder(x_BCHW))).view_as(x_BCHW)


def _mlp(image_size: int, features: int, latent_dim: int) -> Autoencoder:
    """The paper's: C*H*W -> F ReLU -> d, back d -> F ReLU -> C*H*W sigmoid."""
    return _dense(image_size, [features], latent_dim)


def _mlp_deep(image_size: int, features: int, latent_dim: int) -> Autoencoder:
    """Three hidden layers of F units on each side."""
    return _dense(image_size, [features] * 3, latent_dim)


def _mlp_wide(image_size: int, features: int, latent_dim: int) -> Autoencoder:
    """A hidden layer of 4 F units between pixels and F, on each side."""
    return _dense(image_size, [4 * features, features], latent_dim)


def _conv(image_size: int, features: int, latent_dim: int) -> Autoencoder:
    """Three 3x3 convolutions of stride 2, then F ReLU -> d; back by nearest upsampling and convolutions."""
    sizes, channels = [image_size], (3, *CONV_CHANNELS)
    encoder = nn.Sequential()
    for before, after in pairwise(channels):
        encoder.extend([nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()])
        sizes.append(math.ceil(sizes[-1] / 2))
    flat = channels[-1] * sizes[-1] ** 2
    encoder.extend([nn.Flatten(), nn.Linear(flat, features), nn.ReLU()])
    embedding = nn.Linear(features, latent_dim)
    decoder = nn.Sequential(nn.Linear(latent_dim, features), nn.ReLU(), nn.Linear(features, flat))
    decoder.append(nn.Unflatten(1, (channels[-1], sizes[-1], sizes[-1])))
    for (after, before), size in zip(pairwise(channels[::-1]), sizes[-2::-1], strict=True):
        decoder.extend([nn.ReLU(), nn.Upsample(size=size), nn.Conv2d(after, before, 3, padding=1)])
    return Autoencoder(encoder, embedding, decoder.append(nn.Sigmoid()))


def _denoising(image_size: int, features: int, latent_dim: int) -> Autoencoder:
    """The paper's, trained to take Gaussian noise off its inputs (Vincent et al. 2008)."""
    return _dense(image_size, [features], latent_dim, NOISE)


def _dense(image_size: int, widths: Sequence[int], latent_dim: int, noise: float = 0.0) -> Autoencoder:
    pixels = 3 * image_size * image_size
    encoder = nn.Sequential(nn.Flatten())
    for before, after in pairwise([pixels, *widths]):
        encoder.extend([nn.Linear(before, after), nn.ReLU()])
    embedding = nn.Linear(widths[-1], latent_dim)
    decoder = nn.Sequential()
    for before, after in pairwise([latent_dim, *widths[::-1]]):
        decoder.extend([nn.Linear(before, after), nn.ReLU()])
    decoder.extend([nn.Linear(widths[0], pixels), nn.Sigmoid()])
    return Autoencoder(encoder, embedding, decoder, noise)


AUTOENCODERS: dict[str, Callable[[int, int, int], Autoencoder]] = {
    "mlp": _mlp,
    "mlp_deep": _mlp_deep,
    "mlp_wide": _mlp_wide,
    "conv": _conv,
    "denoising": _denoising,
}


def build_autoencoder(arch: str, image_size: int, features: int, latent_dim: int, seed: int) -> Autoencoder:
    """Return autoencoder `arch` (a key of AUTOENCODERS) for square RGB images, initialised from `seed`."""
    with global_seed(seed, "autoencoder"):
        return AUTOENCODERS[arch](image_size, features, latent_dim)


def count_parameters(module: nn.Module) -> int:
    """Return the number of scalars in the module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def add_noise(x_NCHW: Tensor, deviation: float, noise_NCHW: Tensor) -> Tensor:
    """Return images with standard Gaussian noise times `deviation`; not clipped, as Vincent et al. (2010) do not."""
    return x_NCHW + deviation * noise_NCHW


def mean_squared_error(autoencoder: nn.Module, x_NCHW: Tensor, seen_NCHW: Tensor | None = None) -> Tensor:
    """Return the mean over all values of the squared reconstruction error, a 0-d tensor; seen: the input if not x."""
    return torch.nn.functional.mse_loss(autoencoder(x_NCHW if seen_NCHW is None else seen_NCHW), x_NCHW)


def peak_signal_to_noise(mse: float) -> float:
    """Return the PSNR in decibels of values in [0, 1] with this mean squared error; 120 where it is below 1e-12."""
    return -10 * math.log10(max(mse, 1e-12))
