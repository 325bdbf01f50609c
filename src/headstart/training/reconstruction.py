"""Pretraining of the autoencoder on the same images."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from headstart.data.arrays import Split
from headstart.data.views import resize
from headstart.errors import UserError
from headstart.knobs import Range
from headstart.models.autoencoder import Autoencoder, add_noise, mean_squared_error
from headstart.randomness import generator
from headstart.replay import Replayed, on_cuda, rated, restore_optimizer
from headstart.training.resume import Checkpoint, NoCheckpoint


@dataclass(frozen=True)
class Reconstruction:
    """The autoencoder's recipe: Adam, mean squared error, learning rate times `factor` after `patience` epochs without
    a better validation error (torch's ReduceLROnPlateau)."""

    epochs: Annotated[int, Range(1)]
    batch_size: Annotated[int, Range(1)]
    learning_rate: Annotated[float, Range(0, open_low=True)]
    factor: Annotated[float, Range(0, 1, open_low=True)]
    patience: Annotated[int, Range(0)]


@dataclass(frozen=True)
class AutoencoderEpoch:
    """One row of the curve: mean squared errors of values in [0, 1]."""

    epoch: int
    train_mse: float
    val_mse: float
    learning_rate: float


def train_autoencoder(
    autoencoder: Autoencoder,
    train: Split,
    val: Split,
    recipe: Reconstruction,
    *,
    image_size: int,
    seed: int,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[AutoencoderEpoch], object] = lambda row: None,
) -> list[AutoencoderEpoch]:
    """Train in place on un-augmented, never standardised images, keep the weights of the lowest validation error, and
    return the curve. Epoch e's order comes from generator(seed, "autoencoder", e), the noise of an autoencoder that
    has some from generator(seed, "autoencoder noise", e); the last partial batch is used, as in the authors' code.
    train_mse is of what it was trained on, noise included. Raises UserError where the error is not finite."""
    checkpoint = checkpoint or NoCheckpoint()
    images = train.images
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=True, capturable=on_cuda(parameters))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=recipe.factor, patience=recipe.patience)
    history: list[AutoencoderEpoch] = []
    best: dict[str, Tensor] = {}
    if (state := checkpoint.load()) is not None:
        autoencoder.load_state_dict(state["model"])
        restore_optimizer(optimizer, state["optimizer"])
        plateau.load_state_dict(state["plateau"])
        history, best = [AutoencoderEpoch(**row) for row in state["history"]], state["best"]
    left = (recipe.epochs - len(history)) * (len(images) // recipe.batch_size)
    step = _stepping(autoencoder, optimizer, images, image_size, left)
    for epoch in range(len(history), recipe.epochs):
        order = torch.randperm(len(images), generator=generator(seed, "autoencoder", epoch))
        noise = generator(seed, "autoencoder noise", epoch)
        total = torch.zeros((), device=images.device)
        rate = optimizer.param_groups[0]["lr"]
        for rows in order.split(recipe.batch_size):
            drawn = (torch.randn(len(rows), 3, image_size, image_size, generator=noise),) if autoencoder.noise else ()
            total += step(rate, rows, *drawn) * len(rows)
        val_mse = reconstruction_error(autoencoder, val, image_size)
        row = AutoencoderEpoch(epoch + 1, total.item() / len(images), val_mse, rate)
        if not torch.isfinite(torch.tensor([row.train_mse, row.val_mse])).all():
            raise UserError(
                f"autoencoder error is not finite at epoch {row.epoch} (lr {rate:g}): lower autoencoder.learning_rate"
            )
        if not history or val_mse < min(past.val_mse for past in history):
            best = {name: value.detach().clone() for name, value in autoencoder.state_dict().items()}
        history.append(row)
        plateau.step(val_mse)
        on_epoch(row)
        if checkpoint.due():
            checkpoint.save(_state(autoencoder, optimizer, plateau, history, best))
    autoencoder.load_state_dict(best)
    return history


@torch.no_grad()
def reconstruction_error(autoencoder: nn.Module, split: Split, image_size: int, batch_size: int = 1000) -> float:
    """Return the mean squared error over all values of a split's images, resized to `image_size`, in [0, 1]."""
    total = torch.zeros((), dtype=torch.float64, device=split.images.device)
    for images in split.images.split(batch_size):
        total += mean_squared_error(autoencoder, resize(images, image_size)).double() * len(images)
    return (total / len(split.images)).item()


def _stepping(
    autoencoder: Autoencoder, optimizer: torch.optim.Optimizer, images: Tensor, image_size: int, calls: int
) -> Replayed:
    """Return (rate, rows, noise where the autoencoder has some) -> error of a training step."""

    def step(rate: float | Tensor, rows: Tensor, *noise: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        x_NCHW = resize(images[rows], image_size)
        seen_NCHW = add_noise(x_NCHW, autoencoder.noise, *noise) if noise else x_NCHW
        loss = mean_squared_error(autoencoder, x_NCHW, seen_NCHW)
        loss.backward()
        with rated(optimizer, rate):
            optimizer.step()
        return loss.detach()

    return Replayed(step, images.device, name="the autoencoder's step", calls=calls, changes=(autoencoder, optimizer))


def _state(
    autoencoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    plateau: torch.optim.lr_scheduler.ReduceLROnPlateau,
    history: list[AutoencoderEpoch],
    best: dict[str, Tensor],
) -> dict[str, Any]:
    return {
        "model": autoencoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plateau": plateau.state_dict(),
        "history": [asdict(row) for row in history],
        "best": best,
    }
