"""What looking at a training costs: a measured step over a plain one, and the monitor over an epoch."""

import time

import torch

from benchmarks import setting
from benchmarks.measure import Row, interleave, ratios, spread, synchronize
from headstart.data.arrays import Split
from headstart.experiment.monitor import neighbours_monitor
from headstart.precision import use_bf16
from headstart.replay import Replayed
from headstart.training.contrastive import training_step
from headstart.training.diagnostics import Diagnostics, Observer

EVERY = 50
MAX_SHARE, MAX_MONITOR = 0.03, 0.05


def measured_steps(images: int, batch_size: int, steps: int, device: torch.device) -> dict[str, object]:
    """Return functions that train `steps` steps on a resident batch: none measured, all measured.

    On a GPU a plain step is a replayed graph, and a measured one runs kernel by kernel.
    """
    recipe, model = setting.recipe(), setting.model(device)
    optimizer = setting.sgd(model)
    source = setting.batches(images, 32, device)
    x_BCHW = source.pairs(torch.arange(batch_size), "step", 0, seed=0)
    step = Replayed(
        lambda rate: training_step(model, optimizer, x_BCHW, rate, recipe),
        device,
        name="step",
        calls=10**6,
        changes=(model, optimizer),
    )

    def run(settings: Diagnostics) -> None:
        observer = Observer(settings)
        for number in range(steps):
            with observer.watching(number, model[0], model[1]) as is_watched:
                (step.kernel_by_kernel if is_watched else step)(1e-3)
        observer.rows()

    return {
        "plain": lambda: run(Diagnostics(every=0, dense_steps=0)),
        "measured": lambda: run(Diagnostics(every=1, dense_steps=0)),
    }


def monitor_seconds(num: int, device: torch.device) -> float:
    """Return the seconds of one look of the monitor at a dataset of `num` train and `num` / 9 val images."""

    def labelled(split: Split) -> Split:
        return Split(split.images, torch.arange(len(split.labels)) % 10, split.sizes)

    train, val = labelled(setting.split(num, 32, device)), labelled(setting.split(num // 9, 32, device))
    monitor = neighbours_monitor(train, val, 10, 32, None, use_bf16("auto", device))
    backbone = setting.model(device)[0]
    monitor(backbone)
    synchronize(device)
    started = time.perf_counter()
    monitor(backbone)
    synchronize(device)
    return time.perf_counter() - started


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure both batch sizes, and the monitor at two sizes of a dataset."""
    rows: list[Row] = []
    gpu = device.type == "cuda"
    for batch_size in (64,) if quick else (256, 1280):
        steps = 30 if gpu else 1 if quick or batch_size > 256 else 4
        runs = measured_steps(batch_size, batch_size, steps, device)
        seconds = interleave(runs, 1 if quick else 7, device)
        extra = [ratio - 1 for ratio in ratios(seconds["measured"], seconds["plain"])]
        case = f"ResNet-34, 32 px, B = {batch_size}"
        rows.append(spread(f"{case}: a measured step, extra over a plain one", extra, "of a step"))
        shares = [share / EVERY for share in extra]
        rows.append(spread(f"{case}: every {EVERY} steps", shares, "of the time", bar=MAX_SHARE, at_most=True))
        if batch_size == (64 if quick else 256):
            step = min(seconds["plain"]) / steps
            for num in (1000,) if quick else (1500, 45_000):
                share = monitor_seconds(num, device) / (step * (num // batch_size))
                name = f"{case}: the monitor on {num:,} images, each epoch"
                rows.append(Row(name, share, unit="of an epoch", bar=MAX_MONITOR, at_most=True))
    return rows, "bf16" if use_bf16("auto", device) else "fp32"
