"""SimCLR's projection head and the ways to initialise its first layer: the subject of the study.

To add an initialisation: one function and one row of PROJECTOR_INITS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from headstart.knobs import OneOf, Range
from headstart.randomness import generator, global_seed

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}

Embedding = dict[str, Tensor]  # weight (H, D) and bias (H,) of a pretrained Linear(D, H)


def _random(layer: nn.Linear, embedding: Embedding | None, seed: int) -> None:
    """PyTorch's own initialisation: the standard projector."""


def _autoencoder(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder's embedding layer as it is (Schliebitz et al. 2024)."""
    layer.weight.copy_(embedding["weight"])
    layer.bias.copy_(embedding["bias"])


def _random_matched(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """Random singular vectors, the autoencoder layer's singular values and norm of bias: same scale, no content."""
    left, _, right = torch.linalg.svd(layer.weight, full_matrices=False)
    layer.weight.copy_(left @ torch.diag(torch.linalg.svdvals(embedding["weight"])) @ right)
    layer.bias.mul_(embedding["bias"].norm() / layer.bias.norm().clamp(min=1e-12))


def _autoencoder_permuted(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder layer with its input columns shuffled: the same spectrum and rows' values, no content."""
    columns = torch.randperm(layer.in_features, generator=generator(seed, "permutation"))
    layer.weight.copy_(embedding["weight"][:, columns])
    layer.bias.copy_(embedding["bias"])


def _orthogonal(layer: nn.Linear, embedding: Embedding | None, seed: int) -> None:
    """Orthonormal rows (columns where H > D; Saxe et al. 2014) and zero bias."""
    nn.init.orthogonal_(layer.weight, generator=generator(seed, "orthogonal"))
    layer.bias.zero_()


@dataclass(frozen=True)
class Init:
    """How a first layer is initialised; `needs_autoencoder`: from a trained one; `frozen`: by `freeze: auto`."""

    apply: Callable[[nn.Linear, Embedding, int], None]
    needs_autoencoder: bool
    frozen: bool


PROJECTOR_INITS = {
    "random": Init(_random, needs_autoencoder=False, frozen=False),
    "autoencoder": Init(_autoencoder, needs_autoencoder=True, frozen=True),
    "random_matched": Init(_random_matched, needs_autoencoder=True, frozen=True),
    "autoencoder_permuted": Init(_autoencoder_permuted, needs_autoencoder=True, frozen=True),
    "orthogonal": Init(_orthogonal, needs_autoencoder=False, frozen=True),
}


@dataclass(frozen=True)
class Projector:
    """Linear(D, hidden_dim) -> activation -> Linear(hidden_dim, out_dim), no batch norm.

    init: one of PROJECTOR_INITS, for the first layer; freeze: keep that layer as initialised, `auto` as the paper does
    for that init (random trains, autoencoder is frozen).
    """

    init: Annotated[str, OneOf(PROJECTOR_INITS)]
    freeze: bool | Literal["auto"]
    hidden_dim: Annotated[int, Range(1, 65536)]
    out_dim: Annotated[int, Range(1, 65536)]
    activation: Annotated[str, OneOf(ACTIVATIONS)]

    @property
    def frozen(self) -> bool:
        """Whether the first layer stays as initialised."""
        return PROJECTOR_INITS[self.init].frozen if self.freeze == "auto" else self.freeze

    @property
    def needs_autoencoder(self) -> bool:
        """Whether an autoencoder must be trained first."""
        return PROJECTOR_INITS[self.init].needs_autoencoder


def build_projector(
    projector: Projector, features: int, seed: int, embedding: Embedding | None = None
) -> nn.Sequential:
    """Return the head (B, features) -> (B, out_dim); its first layer is module `0`.

    embedding: the pretrained layer, needed where `projector.needs_autoencoder`. The draws of the second layer depend on
    the seed and the widths alone, so two inits share it. Raises ValueError where the embedding is missing or
    does not fit.
    """
    with global_seed(seed, "projector", "first"):
        first = nn.Linear(features, projector.hidden_dim)
    with global_seed(seed, "projector", "second"):
        second = nn.Linear(projector.hidden_dim, projector.out_dim)
    if projector.needs_autoencoder:
        if embedding is None:
            raise ValueError(f"projector.init {projector.init} needs an autoencoder's embedding layer")
        if embedding["weight"].shape != first.weight.shape:
            raise ValueError(f"embedding {tuple(embedding['weight'].shape)} does not fit {tuple(first.weight.shape)}")
    with torch.no_grad():
        PROJECTOR_INITS[projector.init].apply(first, embedding or {}, seed)
    if projector.frozen:
        first.requires_grad_(False)
    return nn.Sequential(first, ACTIVATIONS[projector.activation](), second)
