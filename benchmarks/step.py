"""The SimCLR step against its bound: the same model's forward, backward and optimiser on a resident random batch."""

from collections.abc import Callable

import torch

from benchmarks import setting
from benchmarks.measure import Row, interleave, median_interval, ratios, spread, synchronize
from headstart.precision import use_bf16
from headstart.training.contrastive import Batches, training_step

BAR = 0.90
LAPS = {256: 155, 1280: 71}  # of one step each, on a CPU


def our_steps(source: Batches, batch_size: int, steps: int, precision: str = "auto") -> Callable[[], None]:
    """Return a function that trains `steps` steps as `train_simclr` does, views and all."""
    device, recipe = source.split.images.device, setting.recipe(precision)
    model = setting.model(device)
    optimizer = setting.sgd(model)
    order = torch.randperm(len(source.split.labels), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        for step in range(steps):
            start = step * batch_size % (len(order) - batch_size + 1)
            x_BCHW = source.pairs(order[start : start + batch_size], "step", step, seed=0)
            training_step(model, optimizer, x_BCHW, 1e-3, recipe)

    return run


def bound_steps(batch_size: int, size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains the same model on one resident random batch with a loss that costs nothing."""
    model = setting.model(device)
    optimizer = setting.sgd(model)
    x_BCHW = torch.rand(2 * batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    bf16 = use_bf16("auto", device)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                z_ND = model(x_BCHW)
            z_ND.float().square().mean().backward()
            optimizer.step()

    return run


def check_no_sync(source: Batches, device: torch.device) -> None:
    """Raise RuntimeError where a step makes the host wait for the device: CUDA's own sync debug mode looks."""
    run = our_steps(source, 256, steps=1)
    run()
    synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure both batch sizes."""
    rows, gpu = [], device.type == "cuda"
    source = setting.batches(2560 if quick else setting.IMAGES, 32, device)
    for batch_size in (64,) if quick else (256, 1280):
        steps = 30 if gpu else 1
        runs = {
            "ours": our_steps(source, batch_size, steps),
            "bound": bound_steps(batch_size, 32, steps, device),
        }
        # on shared machines laps of seconds differ by a third: short ones, and many of them
        seconds = interleave(runs, 2 if quick else 11 if gpu else LAPS[batch_size], device)
        case = f"ResNet-34, 32 px, B = {batch_size}"
        shares = ratios(seconds["bound"], seconds["ours"])
        rows.append(spread(f"{case}: share of the bound", shares, "", bar=BAR, note=median_interval(shares)))
        rates = [steps * batch_size / lap for lap in seconds["ours"]]
        rows.append(spread(f"{case}: training", rates, "images/s"))
    if gpu:
        check_no_sync(source, device)
        rows.append(Row("host waits for the device in a step", 0, unit="waits", bar=0, at_most=True))
    return rows, "bf16" if use_bf16("auto", device) else "fp32"
