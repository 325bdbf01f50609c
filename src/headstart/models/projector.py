"""SimCLR's projection head, its kinds and the ways to initialise a layer of it: the subject of the study.

To add an initialisation: one function and one row of PROJECTOR_INITS; a kind of head: the same in PROJECTOR_KINDS.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from headstart.knobs import Marker, OneOf, Range
from headstart.models.rbf import GaussianRBF, fill_from_data, fill_random
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

NORMS: dict[str, type[nn.Module] | None] = {"none": None, "batch": nn.BatchNorm1d}

# What a layer starts from: weight (H, D) and bias (H,) of an autoencoder's embedding layer; of N images the initial
# backbone's features (N, D) and the inputs of the embedding layer, the autoencoder's hidden units (N, D)
Embedding = dict[str, Tensor]


def _random(layer: nn.Linear, embedding: Embedding | None, seed: int) -> None:
    """PyTorch's own initialisation: the standard projector."""


def _autoencoder(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder's embedding layer as it is (Schliebitz et al. 2024)."""
    layer.weight.copy_(embedding["weight"])
    layer.bias.copy_(embedding["bias"])


def _random_matched(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """Random singular vectors, the autoencoder layer's singular values and norm of bias: same scale, no content.

    The sums of its rows, which a mean of features above zero meets first, are not matched.
    """
    left, _, right = torch.linalg.svd(layer.weight, full_matrices=False)
    layer.weight.copy_(left @ torch.diag(torch.linalg.svdvals(embedding["weight"])) @ right)
    layer.bias.mul_(embedding["bias"].norm() / layer.bias.norm().clamp(min=1e-12))


def _autoencoder_permuted(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder layer with its input columns shuffled: a layer of the very same distribution.

    Neither hidden units nor the channels of a random backbone are ordered, so that this is a second draw of
    `autoencoder`, an A/A pair, and no control of content. It is the control of `autoencoder_aligned`.
    """
    columns = torch.randperm(layer.in_features, generator=generator(seed, "permutation"))
    layer.weight.copy_(embedding["weight"][:, columns])
    layer.bias.copy_(embedding["bias"])


def _autoencoder_shuffled(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder layer with the values of each row shuffled apart: the same rows as sets, no joint structure."""
    keys = torch.rand(layer.weight.shape, generator=generator(seed, "shuffle"))
    layer.weight.copy_(embedding["weight"].gather(1, keys.argsort(1)))
    layer.bias.copy_(embedding["bias"])


def _autoencoder_aligned(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The autoencoder layer with each input column moved to the backbone channel that its hidden unit agrees with.

    Units and channels are matched one to one, so that the sum of their correlations over images is greatest (Kuhn's
    Hungarian method, scipy's linear_sum_assignment). A unit or channel that never changes correlates with nothing.
    """
    from scipy.optimize import linear_sum_assignment

    features, units = (_standard_scores(embedding[name]) for name in ("features", "units"))
    channels, matched = linear_sum_assignment((features.T @ units / len(features)).numpy(), maximize=True)
    columns = torch.empty(layer.in_features, dtype=torch.long)
    columns[torch.from_numpy(channels)] = torch.from_numpy(matched)
    layer.weight.copy_(embedding["weight"][:, columns])
    layer.bias.copy_(embedding["bias"])


def _standard_scores(x_ND: Tensor) -> Tensor:
    """Columns with mean 0 and spread 1, in float64; a constant column is 0."""
    centred = x_ND.double() - x_ND.double().mean(0)
    spread = centred.square().mean(0).sqrt()
    return centred / torch.where(spread > 1e-12, spread, torch.inf)


def _orthogonal(layer: nn.Linear, embedding: Embedding | None, seed: int) -> None:
    """Orthonormal rows (columns where H > D; Saxe et al. 2014) and zero bias."""
    nn.init.orthogonal_(layer.weight, generator=generator(seed, "orthogonal"))
    layer.bias.zero_()


def _pca(layer: nn.Linear, embedding: Embedding, seed: int) -> None:
    """The encoder of the best linear autoencoder of the features (Baldi and Hornik 1989), in closed form.

    Rows are the features' H principal directions, orthonormal, the largest component of each positive; the bias takes
    the mean off. Raises ValueError where fewer than H directions exist: H > D, or H > N - 1 images.
    """
    x_ND = embedding["features"].double()
    most = min(layer.in_features, len(x_ND) - 1)
    if layer.out_features > most:
        raise ValueError(f"projector.init pca finds at most {most} directions, hidden_dim is {layer.out_features}")
    mean = x_ND.mean(0)
    _, _, directions = torch.linalg.svd(x_ND - mean, full_matrices=False)
    weight = directions[: layer.out_features]
    largest = weight.gather(1, weight.abs().argmax(1, keepdim=True))
    weight = weight * largest.sign()
    layer.weight.copy_(weight)
    layer.bias.copy_(-(weight @ mean))


@dataclass(frozen=True)
class Init:
    """How a layer is initialised, and from what.

    frozen: whether `freeze: auto` freezes it; autoencoder: what the autoencoder whose embedding layer it needs has
    learnt from, one of SEEN, None where it needs none; needs_features: of the initial backbone; needs_units: the hidden
    units of the autoencoder, of the same images as the features; apply_between: what it does to the RBF network behind
    the layer, from the inputs (N, H) that this gets of the features: only heads of the kind rbf can have it.
    """

    apply: Callable[[nn.Linear, Embedding, int], None]
    frozen: bool
    autoencoder: str | None = None
    needs_features: bool = False
    needs_units: bool = False
    apply_between: Callable[[GaussianRBF, Tensor, int], None] | None = None


# images: those of its dataset; noise: of their mean and spread at each pixel; nothing: it stays untrained
SEEN = ("images", "noise", "nothing")
PROJECTOR_INITS = {
    "random": Init(_random, frozen=False),
    "autoencoder": Init(_autoencoder, frozen=True, autoencoder="images"),
    "random_matched": Init(_random_matched, frozen=True, autoencoder="images"),
    "autoencoder_permuted": Init(_autoencoder_permuted, frozen=True, autoencoder="images"),
    "autoencoder_shuffled": Init(_autoencoder_shuffled, frozen=True, autoencoder="images"),
    "autoencoder_noise": Init(_autoencoder, frozen=True, autoencoder="noise"),
    "autoencoder_untrained": Init(_autoencoder, frozen=True, autoencoder="nothing"),
    "autoencoder_aligned": Init(
        _autoencoder_aligned, frozen=True, autoencoder="images", needs_features=True, needs_units=True
    ),
    "orthogonal": Init(_orthogonal, frozen=True),
    "pca": Init(_pca, frozen=True, needs_features=True),
    # a random layer, and behind it centres and widths of what it makes of the features
    "kmeans": Init(_random, frozen=True, needs_features=True, apply_between=fill_from_data),
}

# ---- kinds -----------------------------------------------------------------------------------------------------------

# (settings, H, place, seed) -> what stands behind the Linear layer of H units at that place, from 1: (B, H) -> (B, H)
Between = Callable[["Projector", int, int, int], nn.Module]


def _activation(projector: "Projector", width: int, place: int, seed: int) -> nn.Module:
    """The activation of a multilayer perceptron: the standard projector."""
    return ACTIVATIONS[projector.activation]()


def _rbf(projector: "Projector", width: int, place: int, seed: int) -> nn.Module:
    """A network of as many Gaussian radial functions as the layer has units (arXiv:2606.21590); see models.rbf."""
    layer = GaussianRBF(width, width, width)
    fill_random(layer, seed, "projector", "rbf", place)
    return layer


PROJECTOR_KINDS: dict[str, Between] = {"mlp": _activation, "rbf": _rbf}


# ---- settings --------------------------------------------------------------------------------------------------------

MOST_LAYERS = 6


class Kept(Marker):
    """What `freeze` may be: true, false, auto, or a list of numbers of layers, which becomes a tuple."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with what is allowed."""
        if isinstance(value, bool) or value == "auto":
            return value
        if isinstance(value, list | tuple) and all(type(item) is int and 0 < item <= MOST_LAYERS for item in value):
            return tuple(value)
        raise ValueError(f"must be true, false, auto or a list of layers from 1 to {MOST_LAYERS}, as in [1, 2]")

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        # alone: a union would say what each of its members allows
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.check)


@dataclass(frozen=True)
class Projector:
    """The paper's Linear(D, hidden_dim) -> activation -> Linear(hidden_dim, out_dim), or deeper, or with batch norm.

    init: one of PROJECTOR_INITS, for one layer; freeze: keep that layer as initialised, `auto` as the paper does, or
    the numbers of all layers, from 1, that are kept; num_layers: Linear layers in all, 0: no head, 1: Linear(D,
    out_dim); position: which of them, from 1, `init` is for, all but the last; norm: one of NORMS, before each
    activation; autoencoder_dataset: whose images the autoencoder has seen, `same`: the projector's; kind: one of
    PROJECTOR_KINDS, what stands between two Linear layers; it counts to the layer before it, and is kept with it,
    whereas a norm always learns.
    """

    init: Annotated[str, OneOf(PROJECTOR_INITS)]
    freeze: Annotated[bool | Literal["auto"] | tuple[int, ...], Kept()]
    hidden_dim: Annotated[int, Range(1, 65536)]
    out_dim: Annotated[int, Range(1, 65536)]
    activation: Annotated[str, OneOf(ACTIVATIONS)]
    num_layers: Annotated[int, Range(0, MOST_LAYERS)] = 2
    position: Annotated[int, Range(1, 5)] = 1
    norm: Annotated[str, OneOf(NORMS)] = "none"
    autoencoder_dataset: str = "same"
    kind: Annotated[str, OneOf(PROJECTOR_KINDS)] = "mlp"

    @property
    def frozen_layers(self) -> tuple[int, ...]:
        """The numbers of the layers, from 1, that stay as they are built, in order."""
        if isinstance(self.freeze, bool | str):
            frozen = PROJECTOR_INITS[self.init].frozen if self.freeze == "auto" else self.freeze
            return (self.position,) if frozen else ()
        return tuple(sorted(self.freeze))

    @property
    def frozen(self) -> bool | str:
        """Whether the initialised layer, and no other, stays as it is; if others do, which: `layer 2`, `layers 1+2`."""
        layers = self.frozen_layers
        if layers in ((), (self.position,)):
            return bool(layers)
        return f"layer{'s' if len(layers) > 1 else ''} {'+'.join(map(str, layers))}"

    @property
    def frozen_words(self) -> str:
        """What names and texts say of freezing: `frozen`, `trainable`, `layers 1+2 frozen`."""
        return f"{self.frozen} frozen" if isinstance(self.frozen, str) else "frozen" if self.frozen else "trainable"

    @property
    def between(self) -> str:
        """What stands between two Linear layers, in a word: the activation, or the kind where that has none."""
        return self.activation if self.kind == "mlp" else self.kind

    @property
    def learns_from(self) -> str | None:
        """What the autoencoder that the layer needs has learnt from, one of SEEN; None where it needs none."""
        return PROJECTOR_INITS[self.init].autoencoder

    @property
    def needs_autoencoder(self) -> bool:
        """Whether there must be an autoencoder first."""
        return self.learns_from is not None

    @property
    def needs_features(self) -> bool:
        """Whether features of the initial backbone must be computed first."""
        return PROJECTOR_INITS[self.init].needs_features

    @property
    def needs_units(self) -> bool:
        """Whether the autoencoder's hidden units must be computed first, of the images whose features are."""
        return PROJECTOR_INITS[self.init].needs_units

    def problem(self) -> tuple[str, Any, str] | None:
        """Return key, value and what is allowed of the first setting that the others do not go with, None without."""
        number, shallow = self.num_layers, f"with projector.num_layers {self.num_layers}"
        if number < 2 and self.init != "random":
            return "init", self.init, f"must be random {shallow}: there is no layer before the last one to initialise"
        if number < 2 and self.kind != "mlp":
            return "kind", self.kind, f"must be mlp {shallow}: nothing stands between two layers"
        if self.position >= max(number, 2):
            return "position", self.position, f"must be below projector.num_layers, {number}: the last has no init"
        if PROJECTOR_INITS[self.init].apply_between and self.kind != "rbf":
            return "init", self.init, "needs projector.kind rbf, whose centres it finds"
        layers = self.frozen_layers
        if layers and layers[-1] > number:
            there = f"the head has {number} layers" if number else "there is no head"
            return "freeze", self._freeze_words(), f"must name no layer above projector.num_layers: {there}"
        if len(set(layers)) < len(layers):
            return "freeze", self._freeze_words(), "must name no layer twice"
        return None

    def _freeze_words(self) -> Any:
        return list(self.freeze) if isinstance(self.freeze, tuple) else self.freeze


def build_projector(
    projector: Projector, features: int, seed: int, embedding: Embedding | None = None
) -> nn.Sequential:
    """Return the head (B, features) -> (B, out_dim): Linear, norm if any, activation, and so on; last a Linear.

    The layer at `position`, Linear(features, hidden_dim), is initialised by `init`. Layers before it keep the features'
    width, so that an embedding layer fits wherever it stands; hidden layers after it are hidden_dim wide. Without
    layers the head is empty and returns the features. embedding: what the init starts from, needed where
    `projector.needs_autoencoder`, `needs_features` or `needs_units`. The draws of each layer depend on the seed, its
    place and its widths alone, so two inits share the others; a single layer is drawn as the last one of a deeper head.
    Raises ValueError where the embedding is missing or does not fit, and where settings contradict each other.
    """
    if (problem := projector.problem()) is not None:
        key, value, allowed = problem
        raise ValueError(f"projector.{key} {value} {allowed}")
    head = nn.Sequential()
    for place in range(1, projector.num_layers):
        layer = _hidden_layer(projector, place, features, seed)
        head.append(layer)
        if (norm := NORMS[projector.norm]) is not None:
            head.append(norm(layer.out_features))
        between = PROJECTOR_KINDS[projector.kind](projector, layer.out_features, place, seed)
        if place == projector.position:
            _initialise(layer, between, head, projector, embedding or {}, seed)
        _freeze(projector, place, layer, between)
        head.append(between)
    if projector.num_layers:
        with global_seed(seed, "projector", "second"):
            last = nn.Linear(features if projector.num_layers == 1 else projector.hidden_dim, projector.out_dim)
        _freeze(projector, projector.num_layers, last)
        head.append(last)
    return head


def _hidden_layer(projector: Projector, place: int, features: int, seed: int) -> nn.Linear:
    if place == projector.position:
        with global_seed(seed, "projector", "first"):
            return nn.Linear(features, projector.hidden_dim)
    width = features if place < projector.position else projector.hidden_dim
    with global_seed(seed, "projector", "inner", place):
        return nn.Linear(width, width)


def _initialise(
    layer: nn.Linear, between: nn.Module, above: nn.Sequential, projector: Projector, embedding: Embedding, seed: int
) -> None:
    """Apply `init` to a layer and what stands behind it; above: the head up to there."""
    if projector.needs_autoencoder:
        if "weight" not in embedding:
            raise ValueError(f"projector.init {projector.init} needs an autoencoder's embedding layer")
        if embedding["weight"].shape != layer.weight.shape:
            raise ValueError(f"embedding {tuple(embedding['weight'].shape)} does not fit {tuple(layer.weight.shape)}")
    if projector.needs_features and "features" not in embedding:
        raise ValueError(f"projector.init {projector.init} needs features of the initial backbone")
    if projector.needs_units and "units" not in embedding:
        raise ValueError(f"projector.init {projector.init} needs the autoencoder's hidden units")
    init = PROJECTOR_INITS[projector.init]
    with torch.no_grad():
        init.apply(layer, embedding, seed)
        if init.apply_between is not None and isinstance(between, GaussianRBF):
            # a copy, so that norms count no batch
            init.apply_between(between, copy.deepcopy(above).train()(embedding["features"]), seed)


def _freeze(projector: Projector, place: int, *parts: nn.Module) -> None:
    for part in parts if place in projector.frozen_layers else ():
        part.requires_grad_(False)


def load_projector(projector: Projector, features: int, state: dict[str, Tensor]) -> nn.Sequential:
    """Return the head with trained weights; needs no autoencoder."""
    head = build_projector(replace(projector, init="random"), features, seed=0)
    head.load_state_dict(state)
    return head


def layer_outputs(projector: nn.Sequential, features: Tensor) -> dict[str, Tensor]:
    """Return layer -> values (B, ..) in order: `hidden`, `hidden2`, .. after each activation, then `output`.

    Of a head without layers `output` is the features.
    """
    outputs: dict[str, Tensor] = {}
    values = features
    for layer in projector:
        values = layer(values)
        if is_activation(layer):
            outputs[f"hidden{len(outputs) + 1 if outputs else ''}"] = values
    return outputs | {"output": values}


def numbered(projector: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Yield each module of a head with the number of its layer, from 1: what is no Linear goes with the last Linear."""
    number = 0
    for module in projector.modules():
        number += isinstance(module, nn.Linear)
        yield number, module


def is_activation(layer: nn.Module) -> bool:
    """Return whether a layer of a projector stands between two Linear layers: one of ACTIVATIONS, or a GaussianRBF."""
    return type(layer) in (*ACTIVATIONS.values(), GaussianRBF)
