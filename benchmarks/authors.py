"""Against the authors' training path, re-implemented from their description and code (see benchmarks/README.md).

Pillow transforms in DataLoader workers, two forwards, fp32, NCHW, an NT-Xent that broadcasts (2B, 2B, D).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks import setting
from benchmarks.measure import (
    Row,
    in_new_process,
    interleave,
    num_cores,
    peak_bytes,
    pick_device,
    ratios,
    skipped,
    spread,
    synchronize,
)
from benchmarks.step import our_steps
from headstart.data.views import odd
from headstart.memory import keep_freed_memory

FULL, SMALL = 1280, (160, 320, 640)
FULL_REPEATS = 2
FULL_BYTES = 21 * 2**30  # what one step of theirs takes at B = 1280, nearly all for the broadcast loss
BARS = {"cpu": 15.0, "cuda": 20.0}
GPU_SECONDS = 90.0  # in which a GPU machine is to end; no case begins in their second half


def transform(size: int) -> transforms.Compose:
    """Return the authors' train transforms without standardisation (their default grid has both)."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop((size, size)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(odd(0.1 * size))], p=0.5),
            transforms.ToTensor(),
        ]
    )


class Pairs(Dataset):
    """The image as a tensor, two views, the label; images are decoded already, as torchvision's CIFAR-10 holds them."""

    def __init__(self, num: int, size: int, stored: int):
        self.images, self.size, self.transform = setting.pictures(num, stored), size, transform(size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        image = Image.fromarray(self.images[index])
        left = self.transform(image)
        whole = functional.to_tensor(image)
        if whole.shape != left.shape:
            whole = functional.resize(whole, [self.size, self.size])
        return whole, left, self.transform(image), 0


class BroadcastNTXent(nn.Module):
    """NT-Xent as the authors compute it: cosine similarities by broadcasting, masks made anew in every step."""

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.similarity, self.criterion = nn.CosineSimilarity(dim=2), nn.CrossEntropyLoss(reduction="sum")

    def forward(self, z_ND: Tensor) -> Tensor:
        num = len(z_ND) // 2
        mask = ~torch.eye(2 * num, dtype=torch.bool)
        for i in range(num):
            mask[i, num + i] = mask[num + i, i] = False
        sims = self.similarity(z_ND.unsqueeze(1), z_ND.unsqueeze(0)) / self.temperature
        positive = torch.cat((torch.diag(sims, num), torch.diag(sims, -num))).reshape(2 * num, 1)
        negative = sims[mask.to(z_ND.device)].reshape(2 * num, -1)
        labels = torch.zeros(2 * num, dtype=torch.long, device=z_ND.device)
        return self.criterion(torch.cat((positive, negative), dim=1), labels) / (2 * num)


def their_steps(size: int, stored: int, batch_size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains one epoch of `steps` steps on their path, workers' start included."""
    loader = DataLoader(
        Pairs(steps * batch_size, size, stored),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_cores(),  # the authors start one per core
    )
    backbone, head, optimizer = setting.peer(device)
    criterion = BroadcastNTXent(setting.TEMPERATURE)

    def run() -> None:
        # torch's default, which their code leaves as it is; ours turns TF32 off
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            for _, *views, _ in loader:
                z_i, z_j = (head(backbone(view.to(device)).flatten(1)) for view in views)
                optimizer.zero_grad()
                criterion(torch.cat((z_i, z_j))).backward()
                optimizer.step()

    return run


def loss_seconds(batch_size: int, device: torch.device) -> list[float]:
    """Return the seconds of three forwards and backwards of the broadcast loss."""
    z_ND = torch.randn(2 * batch_size, setting.PROJECTOR.out_dim, device=device, requires_grad=True)
    criterion, laps = BroadcastNTXent(setting.TEMPERATURE), []
    for _ in range(3):
        synchronize(device)
        started = time.perf_counter()
        criterion(z_ND).backward()
        synchronize(device)
        laps.append(time.perf_counter() - started)
    return laps


def available_bytes() -> int:
    """Return the memory that this machine can still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def small_batch(
    device: torch.device,
    batch_size: int,
    size: int,
    stored: int,
    repeats: int,
    steps: int = 4,
    bar: float | None = None,
) -> list[Row]:
    """Both paths in turn at a batch whose broadcast loss fits beside ours."""
    source = setting.batches(steps * batch_size, size, device, stored)
    seconds = interleave(
        {
            "ours": our_steps(source, batch_size, steps),
            "theirs": their_steps(size, stored, batch_size, steps, device),
        },
        repeats,
        device,
    )
    case = f"{size} px, B = {batch_size}"
    return [
        spread(f"{case}: ours over the authors' path", ratios(seconds["theirs"], seconds["ours"]), "x", bar=bar),
        spread(f"{case}: the authors' path", [steps * batch_size / lap for lap in seconds["theirs"]], "images/s"),
    ]


def full_size() -> list[Row]:
    """B = 1280 on a CPU: the loss extrapolated from smaller batches, and one whole guarded step beside our steps.

    Each in a process of its own: theirs needs nearly all memory of a 24 GB machine.
    """
    case = f"32 px, B = {FULL}"
    losses = {size: in_new_process("benchmarks.authors", "loss", size) for size in SMALL}
    if failed := [done["error"] for done in losses.values() if "error" in done]:
        return [skipped(f"{case}: broadcast loss", failed[0])]
    note = "quadratic extrapolation from B = " + ", ".join(map(str, SMALL))
    factors = [statistics.median(losses[size]["seconds"]) / size**2 for size in SMALL]
    rows = [spread(f"{case}: broadcast loss", [factor * FULL**2 for factor in factors], "s", note=note)]
    ours, theirs, peaks, gains = list[float](), list[float](), list[float](), list[float]()
    for _ in range(FULL_REPEATS):
        if available_bytes() < FULL_BYTES:
            reason = f"needs {FULL_BYTES / 2**30:.1f} GiB, {available_bytes() / 2**30:.1f} are free"
            return [*rows, skipped(f"{case}: ours over the authors' path", reason)]
        before, slow, after = (in_new_process("benchmarks.authors", who) for who in ("ours", "theirs", "ours"))
        if failed := [done["error"] for done in (before, slow, after) if "error" in done]:
            return [*rows, skipped(f"{case}: ours over the authors' path", failed[0])]
        around = before["seconds"] + after["seconds"]
        ours += around
        theirs += slow["seconds"]
        peaks.append(slow["peak"] / 2**30)
        gains.append(slow["seconds"][0] / statistics.median(around))
    return [
        *rows,
        spread(f"{case}: one whole step of the authors' path", theirs, "s"),
        spread(f"{case}: its peak memory", peaks, "GiB"),
        spread(f"{case}: our step", ours, "s"),
        spread(f"{case}: ours over the authors' path", gains, "x", bar=BARS["cpu"]),
    ]


def alone(who: str, device: torch.device) -> dict:
    """Return the seconds of our steps, after a warm-up, or of one of theirs, at B = 1280, and the peak memory."""
    if who == "ours":
        keep_freed_memory()
        run, repeats = our_steps(setting.batches(FULL, 32, device), FULL, 1), 3
        run()
    else:
        # where memory does not suffice after all, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
        run, repeats = their_steps(32, 32, FULL, 1, device), 1
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "peak": peak_bytes(device)}


def on_gpu(device: torch.device) -> list[Row]:
    """Both paths in turn in this process, whose memory holds the broadcast loss, until GPU_SECONDS are over.

    Prints each row as it is there: a machine that is lent by the minute may end before the table.
    """
    begun, rows = time.perf_counter(), list[Row]()
    # (pairs, pixels, pixels stored, steps of an epoch, laps, bar), what matters most first
    for pairs, size, stored, steps, laps, bar in (
        (FULL, 32, 32, 2, 2, BARS["cuda"]),
        (256, 32, 32, 10, 3, None),
        (392, 128, 256, 2, 2, None),
    ):
        if time.perf_counter() - begun > GPU_SECONDS / 2:
            found = [skipped(f"{size} px, B = {pairs}", f"over {GPU_SECONDS / 2:.0f} s have gone by")]
        else:
            found = small_batch(device, pairs, size, stored, laps, steps, bar)
        for row in found:
            print(f"authors: {row.case}: {row.median} {row.unit} {row.note}".rstrip(), file=sys.stderr, flush=True)
        rows += found
    return rows


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure at the paper's batch size, then at smaller ones."""
    if quick:
        return small_batch(device, 32, 32, 32, 1), "fp32"
    if device.type == "cuda":
        return on_gpu(device), "fp32 (the authors' path)"
    # before this process has grown
    rows = full_size()
    rows += small_batch(device, 256, 32, 32, 3)
    return rows, "fp32 (the authors' path)"


if __name__ == "__main__":
    who, *size = sys.argv[1:]
    found = {"seconds": loss_seconds(int(size[0]), pick_device())} if who == "loss" else alone(who, pick_device())
    print(json.dumps(found))
