"""Whether torch.compile pays: what it costs before the first step, what a step gains, and from how many images on."""

import os
import shutil
import statistics
import tempfile
import time
from unittest.mock import patch

import torch

from benchmarks import setting
from benchmarks.measure import Row, interleave, ratios, skipped, spread, synchronize
from headstart.precision import use_bf16
from headstart.training.contrastive import training_step

BATCH = 256


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure the paper's CIFAR-10 step, views left out: they are the same in both."""
    precision = "bf16" if use_bf16("auto", device) else "fp32"
    if device.type == "cpu" and not shutil.which("g++"):
        return [skipped("torch.compile", "needs a C++ compiler: g++")], precision
    # an empty cache, as on a machine that has not compiled this before
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=empty):
        return measure(device, quick), precision


def measure(device: torch.device, quick: bool) -> list[Row]:
    """Return the rows, with nothing compiled yet."""
    batch, gpu = 32 if quick else BATCH, device.type == "cuda"
    x_BCHW = torch.rand(2 * batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    recipe = setting.recipe()
    networks = {"eager": setting.model(device), "compiled": setting.model(device)}
    networks["compiled"].compile()
    optimizers = {name: setting.sgd(network) for name, network in networks.items()}

    def step(name: str) -> None:
        training_step(networks[name], optimizers[name], x_BCHW, 1e-3, recipe)

    step("eager")
    synchronize(device)
    started = time.perf_counter()
    step("compiled")
    step("compiled")  # the second finds what the first one's optimiser changed
    synchronize(device)
    cost = time.perf_counter() - started
    steps = 30 if gpu else 1
    runs = {name: lambda name=name: [step(name) for _ in range(steps)] for name in networks}
    seconds = interleave(runs, 2 if quick else 11 if gpu else 61, device)
    case = f"ResNet-34, 32 px, B = {batch}"
    eager, compiled = (statistics.median(seconds[name]) / steps for name in ("eager", "compiled"))
    pays = batch * cost / (eager - compiled) if eager > compiled else None
    return [
        Row(f"{case}: compilation, before the first step", cost, unit="s"),
        spread(f"{case}: compiled over eager", ratios(seconds["eager"], seconds["compiled"]), "x"),
        Row(f"{case}: pays from", pays, unit="images", note="" if pays else "never: the compiled step is no faster"),
    ]
