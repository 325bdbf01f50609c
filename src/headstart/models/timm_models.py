"""Backbones of the optional package timm, by name; the only import of timm, where one is asked for."""

import difflib
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import UserError

PREFIX = "timm/"


def build_timm(arch: str, pretrained: bool = False) -> nn.Module:
    """Return the model `timm/<name>` without its classifier, initialised by torch's global stream or `pretrained`.

    Raises UserError where timm is missing, has no such model, or cannot bring its weights.
    """
    timm, name = _timm(), arch.removeprefix(PREFIX)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 1)
        raise UserError(
            f"params.yaml: backbone.arch: {arch!r} is no model of timm {timm.__version__}"
            + (f" (nearest: {PREFIX}{near[0]})" if near else "")
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that timm has given up, and about its own imports
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # hub errors of many kinds, timeouts: all mean that the weights are not here
        if not pretrained:
            raise
        raise UserError(
            f"params.yaml: backbone.weights imagenet1k: timm cannot bring the weights of {name} "
            f"({' '.join(str(error).split())[:160]}); give the path of a state dict, or set backbone.weights to none"
        ) from None


def timm_features(arch: str) -> int:
    """Return the width of the model's output, asked of the model; builds it without memory."""
    with torch.device("meta"):
        model: Any = build_timm(arch)
    return int(getattr(model, "head_hidden_size", None) or model.num_features)


def without_classifier(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint of the model's published kind without the tensors of its classifier."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {key: value for key, value in state.items() if not key.startswith(prefixes)} if prefixes else state


def _timm() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except ImportError:
        raise UserError(
            "params.yaml: backbone.arch: timm/... needs the package timm, which is not installed: "
            "python -m pip install -r requirements-optional.txt"
        ) from None
    return timm
