"""The SimCLR step against its bound: forward, backward and optimiser on a resident random batch, and no more.

On a GPU the bound is a replayed CUDA graph of torchvision's ResNet, which shares no code with src/headstart/training.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torchvision
from torch import nn

from benchmarks import setting
from benchmarks.measure import Row, interleave, median_interval, ratios, spread, synchronize
from headstart.models.backbone import Backbone
from headstart.models.projector import Projector
from headstart.precision import use_bf16
from headstart.replay import Replayed
from headstart.training.contrastive import Batches, stepping

BAR = 0.90
LAPS = {256: 155, 1280: 71}  # of one step each, on a CPU
NO_WAITS = 50  # steps under CUDA's sync debug mode
# least device and host milliseconds of 2,560 views of 32 px, and the most of a step that larger views may take
DEVICE_MS, HOST_MS, VIEWS_SHARE = 0.5, 2.0, 0.05


@dataclass(frozen=True)
class Case:
    """A network, its batch, and what it is called."""

    name: str
    batch_size: int
    backbone: Backbone = setting.BACKBONE
    head: Projector = setting.PROJECTOR

    def __str__(self) -> str:
        return f"{self.name}, B = {self.batch_size}"


def resnet18(stem: str) -> dict:
    """Return a Case's backbone and the default recipe's head."""
    head = replace(setting.PROJECTOR, hidden_dim=128, out_dim=64)
    return {"backbone": Backbone("resnet18", stem, "none"), "head": head}


PAPER = [Case("ResNet-34, 32 px", 256), Case("ResNet-34, 32 px", 1280)]
# the other rows of the table that a GPU was first measured by
OTHERS = [
    Case("ResNet-18, stride-2 stem, 32 px", 512, **resnet18("stride2")),
    Case("ResNet-18, 3x3 stem, 32 px", 256, **resnet18("cifar")),
]


def our_steps(
    source: Batches, batch_size: int, steps: int, precision: str = "auto", case: Case | None = None
) -> Callable[[], None]:
    """Return a function that trains `steps` steps as `train_simclr` does, views and all."""
    case = case or Case("", batch_size)
    device, recipe = source.split.images.device, setting.recipe(precision)
    model = setting.model(device, case.backbone, case.head)
    step = stepping(model, setting.sgd(model), source, recipe, calls=10**6)
    order = torch.randperm(len(source.split.labels), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        for k in range(steps):
            start = k * batch_size % (len(order) - batch_size + 1)
            step(1e-3, *source.draw(order[start : start + batch_size], "step", k, seed=0))

    return run


def bound_steps(case: Case, size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains a model on one resident random batch with a loss that costs nothing."""
    model = torchvision_model(case) if device.type == "cuda" else setting.model(device, case.backbone, case.head)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = setting.sgd(model)
    x_BCHW = torch.rand(2 * case.batch_size, 3, size, size, device=device)
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    bf16 = use_bf16("auto", device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            z_ND = model(x_BCHW)
        z_ND.float().square().mean().backward()
        optimizer.step()

    step = graph_of(step) if device.type == "cuda" else step

    def run() -> None:
        for _ in range(steps):
            step()

    return run


def torchvision_model(case: Case) -> nn.Module:
    """Return torchvision's ResNet with the case's stem, its head behind it."""
    resnet = torchvision.models.get_model(case.backbone.arch, weights=None)
    if case.backbone.stem != "imagenet":
        stride = 2 if case.backbone.stem == "stride2" else 1
        resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, stride, 1, bias=False), nn.Identity()
    hidden, out = case.head.hidden_dim, case.head.out_dim
    resnet.fc = nn.Sequential(nn.Linear(resnet.fc.in_features, hidden), nn.ReLU(), nn.Linear(hidden, out))
    return resnet


def graph_of(function: Callable[[], object]) -> Callable[[], None]:
    """Return what replays a function's kernels as a CUDA graph.

    It refers to the function, whose tensors the graph reads and does not keep: the next recording unmaps what is free.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return partial(_replay, graph, function)


def _replay(graph: torch.cuda.CUDAGraph, _function: Callable[[], object]) -> None:
    graph.replay()


def check_no_waits(source: Batches, device: torch.device) -> None:
    """Raise RuntimeError where one of many steps makes the host wait for the device: CUDA's sync debug mode looks."""
    run = our_steps(source, 256, steps=1)
    run()
    synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(NO_WAITS):
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def first_step(source: Batches, device: torch.device) -> Row:
    """Return the seconds until the first step is done: warm-up, Triton's compilation without a cache, capture."""
    begun = time.perf_counter()
    our_steps(source, 256, steps=1)()
    synchronize(device)
    return Row("ResNet-34, 32 px, B = 256: until the first step is done", time.perf_counter() - begun, unit="s")


def views_alone(size: int, stored: int, num: int, device: torch.device) -> tuple[float, float]:
    """Return milliseconds of the device for `num` views, replayed, and of the host for their draws and the launch."""
    source = setting.batches(num // 2, size, device, stored)
    dtype = torch.bfloat16 if use_bf16("auto", device) else torch.float32
    views = Replayed(lambda *batch: source.views_of(*batch, dtype=dtype), device, name="views", calls=10**6)
    rows, steps = torch.arange(num // 2), 50
    batch = source.draw(rows, "step", 0, seed=0)
    views(*batch)
    synchronize(device)
    begun = time.perf_counter()
    for _ in range(steps):
        views(*batch)
    synchronize(device)
    on_device = (time.perf_counter() - begun) / steps
    begun = time.perf_counter()
    for k in range(steps):
        source.draw(rows, "step", k, seed=0)
    return 1e3 * on_device, 1e3 * (time.perf_counter() - begun) / steps


def views_rows(device: torch.device) -> list[Row]:
    """Return what views cost on a GPU, and their share of a step at 96 and 128 px."""
    on_device, host = views_alone(32, 32, 2560, device)
    rows = [
        Row("2,560 views of 32 px: device", on_device, unit="ms", bar=DEVICE_MS, at_most=True),
        Row("2,560 views of 32 px: draws on the host", host, unit="ms", bar=HOST_MS, at_most=True),
    ]
    for size, batch_size in ((96, 500), (128, 392)):
        source = setting.batches(4 * batch_size, size, device, 2 * size)
        run = our_steps(source, batch_size, steps=10)
        step = 100 * min(interleave({"ours": run}, 5, device)["ours"])  # ms
        name = f"ResNet-34, {size} px, B = {batch_size}: views from {2 * size} px"
        share = views_alone(size, 2 * size, 2 * batch_size, device)[0] / step
        rows.append(Row(name, share, unit="of a step", bar=VIEWS_SHARE, at_most=True, note=f"step {step:.1f} ms"))
    return rows


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure both batch sizes; on a GPU also other networks, views alone, waits and the first step."""
    rows, gpu = [], device.type == "cuda"
    source = setting.batches(2560 if quick else setting.IMAGES, 32, device)
    if gpu:
        rows.append(first_step(source, device))
    cases = PAPER + OTHERS if gpu else PAPER
    for case in [replace(PAPER[0], batch_size=64)] if quick else cases:
        steps = 30 if gpu else 1
        runs = {
            "ours": our_steps(source, case.batch_size, steps, case=case),
            "bound": bound_steps(case, 32, steps, device),
        }
        # on shared machines laps of seconds differ by a third: short ones, and many of them
        seconds = interleave(runs, 2 if quick else 11 if gpu else LAPS[case.batch_size], device)
        shares = ratios(seconds["bound"], seconds["ours"])
        rows.append(spread(f"{case}: share of the bound", shares, "", bar=BAR, note=median_interval(shares)))
        rates = [steps * case.batch_size / lap for lap in seconds["ours"]]
        rows.append(spread(f"{case}: training", rates, "images/s"))
    if gpu:
        check_no_waits(source, device)
        rows.append(Row(f"host waits for the device in {NO_WAITS} steps", 0, unit="waits", bar=0, at_most=True))
        rows += views_rows(device)
    return rows, "bf16" if use_bf16("auto", device) else "fp32"
