"""The projector that a training starts from, with what pipeline stages before it have left."""

import torch
from torch import nn

from headstart.errors import UserError
from headstart.models.backbone import num_features
from headstart.models.projector import Embedding, build_projector
from headstart.run import artifacts, paths
from headstart.run.inputs import Prepared
from headstart.run.params import Params
from headstart.training.initial import initial_features


def starting_projector(
    backbone: nn.Module, dataset: str, params: Params, data: Prepared
) -> tuple[nn.Sequential, dict[str, float] | None]:
    """Return the projector on the images' device, and the summary of the autoencoder in it, None where it needs none.

    Raises UserError where what it starts from is missing or does not fit its widths.
    """
    embedding, summary = _read_autoencoder(dataset, params)
    if params.projector.needs_features:
        embedding = {"features": _features(backbone, dataset, params, data)}
    try:
        projector = build_projector(params.projector, num_features(params.backbone), params.seed, embedding)
    except ValueError as error:
        raise UserError(f"params.yaml: {error}") from None
    return projector.to(data.train.images.device), summary


def _read_autoencoder(dataset: str, params: Params) -> tuple[Embedding | None, dict[str, float] | None]:
    head = params.projector
    folder = paths.autoencoder(dataset, head.init, head.hidden_dim)
    if not head.needs_autoencoder:
        return None, None
    tensors = artifacts.read_tensors(folder / "autoencoder.safetensors", made_by="pretrain_autoencoder")
    embedding = {name: tensors[f"embedding.{name}"] for name in ("weight", "bias")}
    return embedding, artifacts.read_json(folder / "summary.json", made_by="pretrain_autoencoder")


def _features(backbone: nn.Module, dataset: str, params: Params, data: Prepared) -> torch.Tensor:
    """Features of training images, as the head will see them first."""
    row = params.dataset(dataset)
    return initial_features(
        backbone, data.pretrain, row.image_size, data.standardize, batch_size=row.batch_size, seed=params.seed
    )
