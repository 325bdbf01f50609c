"""What an export consists of, and how it is read back: weights, probe, and what preprocessing and classes they had."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart.errors import UserError
from headstart.models.backbone import Backbone, build_backbone, num_features
from headstart.models.convolution import SmallMapConv2d

SETTINGS, WEIGHTS, PROBE, ONNX, CARD = (
    *("export.json", "backbone.safetensors", "probe.safetensors"),
    *("backbone.onnx", "README.md"),
)


@dataclass(frozen=True)
class Settings:
    """All that is needed to use the weights; stands in export.json.

    An image loses its lowest crop_bottom rows, is squashed to stored_size as the pipeline stores it, resized to
    image_size, scaled to [0, 1] and, unless mean and std are None, standardised per channel. classes: by index of the
    probe's outputs; none where there were no labels.
    """

    dataset: str
    arch: str
    stem: str
    num_features: int
    stored_size: int
    image_size: int
    mean: list[float] | None
    std: list[float] | None
    classes: list[str]
    crop_bottom: int = 0

    @classmethod
    def of(cls, dataset: str, backbone: Backbone, standardize: bool, meta: Mapping[str, Any]) -> "Settings":
        """Return the settings of a backbone and a prepared dataset; meta: what is known of that, with image_size."""
        return cls(
            dataset=dataset,
            arch=backbone.arch,
            stem=backbone.stem,
            num_features=num_features(backbone),
            stored_size=meta["stored_size"],
            image_size=meta["image_size"],
            mean=meta["mean"] if standardize else None,
            std=meta["std"] if standardize else None,
            classes=meta["classes"],
            crop_bottom=meta.get("crop_bottom", 0),
        )

    def to_json(self) -> str:
        """Return the text of export.json."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Bundle:
    """An export as read: settings, the network in evaluation mode, and the probe's tensors, if it has one.

    probe: weight (K, D), bias (K,), mean and scale (D,), float64; see `headstart.evaluation.probe.Linear`.
    """

    settings: Settings
    network: nn.Module
    probe: dict[str, Tensor] | None


def read_bundle(folder: Path) -> Bundle:
    """Return the export that lies in a folder, or raise UserError where it is none."""
    try:
        settings = Settings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        state = load_file(folder / WEIGHTS)
        probe = load_file(folder / PROBE) if (folder / PROBE).is_file() else None
    except OSError as error:
        wanted = f"no export here, {Path(error.filename or SETTINGS).name} is missing"
        raise UserError(f"{folder}: {wanted}: python -m headstart export") from None
    except (ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a readable export ({' '.join(str(error).split())[:120]})") from None
    network = build_backbone(Backbone(settings.arch, settings.stem, "none"), seed=0)
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{folder}: {WEIGHTS} does not fit {settings.arch} with stem {settings.stem}") from None
    return Bundle(settings, network.eval(), probe)


def plain_network(network: nn.Module) -> nn.Module:
    """Let every convolution be torch's own again, in place, and return the network: exporters know no other."""
    for module in network.modules():
        if type(module) is SmallMapConv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return network.eval()


def probabilities(probe: dict[str, Tensor], features_ND: Tensor) -> Tensor:
    """Return (N, K) float64 probabilities of the probe's classes."""
    z_ND = (features_ND.double() - probe["mean"]) / probe["scale"]
    return torch.softmax(z_ND @ probe["weight"].T + probe["bias"], 1)
