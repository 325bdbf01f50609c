"""The autoencoder whose embedding layer becomes the projector's first layer."""

import torch
from torch import Tensor, nn

from headstart.randomness import global_seed


class MLPAutoencoder(nn.Module):
    """The paper's autoencoder: C*H*W -> F ReLU -> d, back d -> F ReLU -> C*H*W sigmoid.

    `embedding` is the Linear(F, d) that moves into the projector, so F is the backbone's width (512 in the paper).
    """

    def __init__(self, image_size: int, features: int, latent_dim: int):
        super().__init__()
        pixels = 3 * image_size * image_size
        self.image_size = image_size
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, features), nn.ReLU())
        self.embedding = nn.Linear(features, latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, features), nn.ReLU(), nn.Linear(features, pixels), nn.Sigmoid()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the reconstruction of (B, 3, S, S) float images in [0, 1], same shape."""
        return self.decoder(self.embedding(self.encoder(x_BCHW))).view_as(x_BCHW)


# all have `embedding`, a Linear(backbone features, latent)
AUTOENCODERS = {"mlp": MLPAutoencoder}


def build_autoencoder(arch: str, image_size: int, features: int, latent_dim: int, seed: int) -> nn.Module:
    """Return autoencoder `arch` (a key of AUTOENCODERS) for square RGB images, initialised from `seed`."""
    with global_seed(seed, "autoencoder"):
        return AUTOENCODERS[arch](image_size, features, latent_dim)


def count_parameters(module: nn.Module) -> int:
    """Return the number of scalars in the module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def mean_squared_error(autoencoder: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Return the mean over all values of the squared reconstruction error, a 0-d tensor."""
    return torch.nn.functional.mse_loss(autoencoder(x_NCHW), x_NCHW)
