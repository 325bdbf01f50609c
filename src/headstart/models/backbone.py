"""ResNet backbones: torchvision's, with the stem that fits the image size, without the classifier.

torchvision is imported where it is used: every stage reads `Backbone`, and the import takes two seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from headstart.errors import UserError
from headstart.knobs import OneOf
from headstart.models.convolution import use_small_map_convolutions
from headstart.randomness import global_seed

# torchvision's name -> width of its features
ARCHS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}


def _imagenet_stem(resnet: nn.Module) -> None:
    """7x7, stride 2, then max-pool: a quarter of the input size (He et al. 2015); the paper keeps it at every size."""


def _cifar_stem(resnet: nn.Module) -> None:
    """3x3, stride 1, no max-pool: the input size (Chen et al. 2020, appendix B.9)."""
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    resnet.maxpool = nn.Identity()


def _stride2_stem(resnet: nn.Module) -> None:
    """3x3, stride 2, no max-pool: half the input size, a quarter of the CIFAR stem's cost."""
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
    resnet.maxpool = nn.Identity()


STEMS = {"imagenet": _imagenet_stem, "cifar": _cifar_stem, "stride2": _stride2_stem}
STEM_REDUCTION = {"imagenet": 4, "cifar": 1, "stride2": 2}


@dataclass(frozen=True)
class Backbone:
    """arch: one of ARCHS; stem: one of STEMS; weights: `none`, `imagenet1k` or the path of a state dict."""

    arch: Annotated[str, OneOf(ARCHS)]
    stem: Annotated[str, OneOf(STEMS)]
    weights: str


def check_image_size(backbone: Backbone, image_size: int, key: str = "data.<dataset>.image_size") -> None:
    """Raise UserError, naming `key`, where the third of the four stages has no pixel of its own (it runs on any)."""
    least = STEM_REDUCTION[backbone.stem] * 4
    if image_size < least:
        smaller = [stem for stem, factor in STEM_REDUCTION.items() if factor < STEM_REDUCTION[backbone.stem]]
        raise UserError(
            f"params.yaml: {key}: {image_size} is too small for backbone.stem {backbone.stem}: must be at least {least}"
            + (f", or choose stem {' or '.join(smaller)}" if smaller else "")
        )


def build_backbone(backbone: Backbone, seed: int) -> nn.Module:
    """Return the network (B, 3, S, S) float -> (B, num_features) float, initialised from `seed` or from `weights`.

    Raises UserError where weights cannot be had or do not fit.
    """
    import torchvision

    with global_seed(seed, "backbone"):
        resnet = torchvision.models.get_model(backbone.arch, weights=None)
        STEMS[backbone.stem](resnet)
        # torchvision's own initialisation, for the replaced convolution too
        nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.fc = nn.Identity()
    use_small_map_convolutions(resnet)
    if backbone.weights != "none":
        _load_weights(resnet, backbone)
    return resnet


def num_features(backbone: Backbone) -> int:
    """Return the width of the backbone's output: 512, or 2048 for ResNet-50 and deeper."""
    return ARCHS[backbone.arch]


def _load_weights(resnet: nn.Module, backbone: Backbone) -> None:
    import torchvision

    if backbone.weights == "imagenet1k":
        weights = torchvision.models.get_model_weights(backbone.arch).IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # URLError, timeouts, hash mismatch: all mean that the weights are not here
            raise UserError(
                f"params.yaml: backbone.weights imagenet1k: cannot download {weights.url} ({error}); "
                "download it elsewhere and give its path, or set backbone.weights to none"
            ) from None
    else:
        state = _read_state(Path(backbone.weights))
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = resnet.state_dict()
    if (
        backbone.stem != "imagenet"
        and "conv1.weight" in state
        and state["conv1.weight"].shape != own["conv1.weight"].shape
    ):
        state["conv1.weight"] = own["conv1.weight"]  # another stem cannot take the 7x7 filters; the rest is loaded
    try:
        resnet.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"params.yaml: backbone.weights {backbone.weights} does not fit {backbone.arch}: {reason}"
        ) from None


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"params.yaml: backbone.weights {path}: no such file; allowed: none, imagenet1k or a state dict's path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
            return state
        reason = "not names and tensors"
    except Exception as error:  # whatever a file that is something else makes the readers raise
        reason = type(error).__name__
    raise UserError(f"params.yaml: backbone.weights {path}: not a readable state dict ({reason})")
