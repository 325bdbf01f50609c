"""The autoencoder's 100 paper epochs on CIFAR-10-shaped data, extrapolated, and its step against its bound."""

import math
from collections.abc import Callable

import torch

from benchmarks import setting
from benchmarks.measure import Row, interleave, ratios, spread
from benchmarks.step import graph_of
from headstart.models.autoencoder import build_autoencoder, mean_squared_error
from headstart.training.reconstruction import Reconstruction, train_autoencoder

LATENT, BATCH, EPOCHS = 128, 100, 100
RECIPE = Reconstruction(epochs=1, batch_size=BATCH, learning_rate=1e-4, factor=0.5, patience=10)
BAR = 0.90


def our_epoch(num_steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains one epoch of `num_steps` steps as the stage does, validation on 100 included."""
    train, val = setting.split(num_steps * BATCH, 32, device), setting.split(BATCH, 32, device)
    autoencoder = build_autoencoder("mlp", 32, 512, LATENT, seed=0).to(device)

    def run() -> None:
        train_autoencoder(autoencoder, train, val, RECIPE, image_size=32, seed=0)

    return run


def bound_epoch(num_steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains as many steps on one resident random batch; on a GPU a replayed CUDA graph."""
    autoencoder = build_autoencoder("mlp", 32, 512, LATENT, seed=0).to(device)
    gpu = device.type == "cuda"
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-4, fused=True, capturable=gpu)
    x_NCHW = torch.rand(BATCH, 3, 32, 32, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        mean_squared_error(autoencoder, x_NCHW).backward()
        optimizer.step()

    step = graph_of(step) if gpu else step

    def run() -> None:
        for _ in range(num_steps):
            step()

    return run


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure 10 x 300 steps of each in turn."""
    steps, repeats = (20, 2) if quick else (300, 10)
    seconds = interleave({"ours": our_epoch(steps, device), "bound": bound_epoch(steps, device)}, repeats, device)
    paper_steps = EPOCHS * math.ceil(setting.IMAGES / BATCH)
    hours = [lap / steps * paper_steps / 60 for lap in seconds["ours"]]
    note = f"extrapolated from {repeats * steps:,} steps"
    return [
        spread("45,000 x 3,072, B = 100: share of the bound", ratios(seconds["bound"], seconds["ours"]), "", bar=BAR),
        spread("100 epochs", hours, "minutes", note=note),
    ], "fp32"
