"""Backbones without their classifier: torchvision's ResNets with the stem that fits the image size, and timm's models.

torchvision is imported where it is used: every stage reads `Backbone`, and the import takes two seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from headstart.errors import UserError
from headstart.knobs import OneOf
from headstart.models.convolution import use_small_map_convolutions
from headstart.models.timm_models import PREFIX, build_timm, timm_features, without_classifier
from headstart.randomness import global_seed

# torchvision's name -> width of its features
ARCHS = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
}


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


class _Arch(OneOf):
    """A key of ARCHS or `timm/<name>`; whether timm has that model is known where it is built."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with the allowed ones."""
        return value if str(value).startswith(PREFIX) else super().check(value)


@dataclass(frozen=True)
class Backbone:
    """arch: one of ARCHS or `timm/<name>`; stem: one of STEMS, for ResNets; weights: `none`, `imagenet1k` or the path
    of a state dict."""

    arch: Annotated[str, _Arch([*ARCHS, f"{PREFIX}<name>"])]
    stem: Annotated[str, OneOf(STEMS)]
    weights: str

    @property
    def is_timm(self) -> bool:
        """Whether timm brings it."""
        return self.arch.startswith(PREFIX)


def check_image_size(backbone: Backbone, image_size: int, key: str = "datasets.yaml: <dataset>.image_size") -> None:
    """Raise UserError, naming `key`, where the third of the four stages has no pixel of its own (it runs on any).

    Also for a stem where there is none to choose. What timm's models need is not known here: see `check_forward`.
    """
    if backbone.is_timm:
        if backbone.stem != "imagenet":
            raise UserError(
                f"params.yaml: backbone.stem: {backbone.stem!r} is for ResNets ({', '.join(ARCHS)}); for "
                f"{backbone.arch} it must be imagenet: as published"
            )
        return
    least = STEM_REDUCTION[backbone.stem] * 4
    if image_size < least:
        smaller = [stem for stem, factor in STEM_REDUCTION.items() if factor < STEM_REDUCTION[backbone.stem]]
        raise UserError(
            f"{key}: {image_size} is too small for backbone.stem {backbone.stem}: must be at least {least}"
            + (f", or choose stem {' or '.join(smaller)}" if smaller else "")
        )


def check_forward(network: nn.Module, backbone: Backbone, image_size: int) -> None:
    """Raise UserError where a backbone of timm does not run on images of this size; ResNets run on any."""
    if not backbone.is_timm:
        return
    device = next(network.parameters()).device
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    except Exception as error:  # assertions, shapes: as many kinds as timm has models
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"params.yaml: backbone.arch: {backbone.arch} does not run at {image_size} px: {reason}"
        ) from None
    finally:
        network.train(training)


def build_backbone(backbone: Backbone, seed: int) -> nn.Module:
    """Return the network (B, 3, S, S) float -> (B, num_features) float, initialised from `seed` or from `weights`.

    Raises UserError where weights cannot be had or do not fit.
    """
    with global_seed(seed, "backbone"):
        network = build_timm(backbone.arch) if backbone.is_timm else _resnet(backbone)
    use_small_map_convolutions(network)
    if backbone.weights != "none":
        _load_weights(network, backbone)
    return network


def _resnet(backbone: Backbone) -> nn.Module:
    import torchvision

    resnet = torchvision.models.get_model(backbone.arch, weights=None)
    STEMS[backbone.stem](resnet)
    # torchvision's own initialisation, for the replaced convolution too
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.fc = nn.Identity()
    return resnet


def num_features(backbone: Backbone) -> int:
    """Return the width of the backbone's output: 512, or 2048 for ResNet-50 and deeper; timm's models are asked."""
    return timm_features(backbone.arch) if backbone.is_timm else ARCHS[backbone.arch]


def _load_weights(network: nn.Module, backbone: Backbone) -> None:
    if backbone.weights != "imagenet1k":
        state = _read_state(Path(backbone.weights))
    elif backbone.is_timm:
        state = build_timm(backbone.arch, pretrained=True).state_dict()
    else:
        state = _published(backbone.arch)
    if backbone.is_timm:
        state = without_classifier(network, state)
    else:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = network.state_dict()
    if (
        backbone.stem != "imagenet"
        and "conv1.weight" in state
        and state["conv1.weight"].shape != own["conv1.weight"].shape
    ):
        state["conv1.weight"] = own["conv1.weight"]  # another stem cannot take the 7x7 filters; the rest is loaded
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"params.yaml: backbone.weights {backbone.weights} does not fit {backbone.arch}: {reason}"
        ) from None


def _published(arch: str) -> dict[str, Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(arch).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # URLError, timeouts, hash mismatch: all mean that the weights are not here
        raise UserError(
            f"params.yaml: backbone.weights imagenet1k: cannot download {weights.url} ({error}); "
            "download it elsewhere and give its path, or set backbone.weights to none"
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
