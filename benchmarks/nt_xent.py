"""NT-Xent: seconds of forward and backward, and peak memory, against the plain matmul form and the broadcast form."""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import setting
from benchmarks.authors import BroadcastNTXent, available_bytes
from benchmarks.measure import Row, in_new_process, peak_bytes, reset_peak, skipped, spread, synchronize
from headstart.training.losses import KEPT, nt_xent

SIZES = (1_280, 8_192, 32_768)
WIDTH = setting.PROJECTOR.out_dim
# bytes that a form needs at least, by number of rows R = 2N
NEEDS = {
    "ours": lambda rows: 4 * (4 * KEPT + 8 * rows * WIDTH),
    "matmul": lambda rows: 4 * 4 * rows**2,
    "broadcast": lambda rows: 6 * 4 * rows**2 * WIDTH,
}


def matmul_nt_xent(z_ND: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent by one similarity matrix and torch's cross-entropy: the form most libraries have."""
    z_ND = torch.nn.functional.normalize(z_ND, dim=1)
    num = len(z_ND)
    sims = z_ND @ z_ND.T / temperature
    sims = sims.masked_fill(torch.eye(num, dtype=torch.bool, device=z_ND.device), float("-inf"))
    return torch.nn.functional.cross_entropy(sims, torch.arange(num, device=z_ND.device).roll(num // 2))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "ours": lambda z_ND: nt_xent(z_ND, setting.TEMPERATURE),
    "matmul": lambda z_ND: matmul_nt_xent(z_ND, setting.TEMPERATURE),
    "broadcast": BroadcastNTXent(setting.TEMPERATURE),
}


def measure(form: str, num: int, repeats: int, device: torch.device) -> dict:
    """Return the seconds of each repeat and the bytes by which the peak grew."""
    z_ND = torch.randn(2 * num, WIDTH, device=device, requires_grad=True)
    FORMS[form](z_ND[:64]).backward()
    before, seconds = reset_peak(device), list[float]()
    for _ in range(repeats):
        z_ND.grad = None
        synchronize(device)
        started = time.perf_counter()
        FORMS[form](z_ND).backward()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "bytes": peak_bytes(device) - before}


def free_bytes(device: torch.device) -> int:
    """Return what may be allocated."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure each form at each size where it fits, every case in a process of its own, two rounds."""
    rows, medians = [], dict[tuple[str, int], float]()
    for num in (256,) if quick else SIZES:
        results: dict[str, list[dict]] = {form: [] for form in FORMS}
        for round_ in range(1 if quick else 2):
            for form in FORMS:
                if form == "broadcast" and round_:
                    continue  # over a minute each
                if NEEDS[form](2 * num) < 0.95 * free_bytes(device):
                    repeats = 1 if form == "broadcast" or num > 10_000 else 9 if num <= 1280 else 3
                    results[form].append(in_new_process("benchmarks.nt_xent", form, num, repeats, device.type))
        for form, found in results.items():
            case = f"N = {num:,}: {form}"
            if not found or any("error" in one for one in found):
                need = f"needs about {NEEDS[form](2 * num) / 2**30:.0f} GiB"
                rows.append(skipped(case, found[0]["error"] if found else need))
                continue
            seconds = [lap for one in found for lap in one["seconds"]]
            medians[form, num] = statistics.median(seconds)
            gib = max(one["bytes"] for one in found) / 2**30
            rows.append(spread(case, seconds, "s", note=f"peak {gib:.3g} GiB"))
        for form in ("matmul", "broadcast"):
            if (form, num) in medians:
                gain = medians[form, num] / medians["ours", num]
                # a step of the paper's is not to pay for a loss that fits any batch
                bar = 1.0 if device.type == "cuda" and form == "matmul" and num == SIZES[0] else None
                rows.append(Row(f"N = {num:,}: ours over {form}", gain, unit="x", bar=bar))
    return rows, "fp32"


if __name__ == "__main__":
    name, pairs, count, where = sys.argv[1:]
    print(json.dumps(measure(name, int(pairs), int(count), torch.device(where))))
