"""Interleaved timings, their ratios, the machine they ran on, the file that keeps them."""

import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from headstart.machine import processor
from headstart.precision import use_ieee_float32

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow", "lightly", "kornia", "dvc", "mlflow")


@dataclass(frozen=True)
class Row:
    """One measured number: median, least and greatest over repeats; bar: what it must reach, None where it informs.

    A bar is met from below where `at_most`, else from above. note: what a reader must know, or why it was skipped.
    """

    case: str
    median: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    bar: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the bar; None without a bar or a measurement."""
        if self.bar is None or self.median is None:
            return None
        return self.median <= self.bar if self.at_most else self.median >= self.bar


def spread(case: str, values: Sequence[float], unit: str, **more: object) -> Row:
    """Return the row of repeated measurements."""
    return Row(case, statistics.median(values), min(values), max(values), unit, **more)  # type: ignore[arg-type]


def median_interval(values: Sequence[float]) -> str:
    """Return in words the 95 % interval of the median of independent values: two of them, by rank (the sign test)."""
    from scipy.stats import binom

    ordered, rank = sorted(values), int(binom.ppf(0.025, len(values), 0.5))
    if rank == 0:
        return "too few for an interval of the median"
    return f"95 % interval of the median: {ordered[rank - 1]:.3f} to {ordered[-rank]:.3f}"


def skipped(case: str, reason: str) -> Row:
    """Return the row of what could not be measured here."""
    return Row(case, None, note=reason)


def interleave(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Return seconds of every run, called in turn (A B, B A, ...) so that a drifting machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-warm_ups, repeats):
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            gc.collect()
            synchronize(device)
            started = time.perf_counter()
            runs[name]()
            synchronize(device)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the quotient repeat by repeat, so that what slowed both cancels."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> int:
    """Forget the peak so far and return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes held since `reset_peak`: allocated on a CUDA device, resident otherwise."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def in_new_process(module: str, *arguments: object) -> dict:
    """Return the JSON that `python -m module arguments` prints last, run alone so that its peak memory is its own."""
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": f"exit status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:120]}"}
    return json.loads(done.stdout.splitlines()[-1])


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def pick_device() -> torch.device:
    """Return the device the benchmarks run on: the first CUDA device where there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    use_ieee_float32()
    return torch.device("cuda")


def describe_machine(device: torch.device) -> dict:
    """Return processor, accelerator, cores, threads and the versions of what was measured."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "libraries": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def save(benchmark: str, rows: Sequence[Row], device: torch.device, precision: str) -> Path:
    """Write benchmarks/results/<benchmark>-<machine>.json and return its path."""
    machine = describe_machine(device)
    name = machine["accelerator"] or f"{machine['cores']} {machine['processor']}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = RESULTS / f"{benchmark}-{slug}.json"
    RESULTS.mkdir(exist_ok=True)
    tree = {
        "benchmark": benchmark,
        "precision": precision,
        "machine": machine,
        "rows": [asdict(row) | {"met": row.met} for row in rows],
    }
    path.write_text(json.dumps(tree, indent=1) + "\n")
    return path


def show(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| case | median | least to greatest | bar | met |", "|---|---|---|---|---|"]
    for row in rows:
        median = "not measured" if row.median is None else f"{_number(row.median)} {row.unit}".strip()
        between = "" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"
        bar = "" if row.bar is None else f"{'at most' if row.at_most else 'at least'} {row.bar:g}"
        met = {None: "", True: "yes", False: "NO"}[row.met]
        lines.append(f"| {row.case}{f' ({row.note})' if row.note else ''} | {median} | {between} | {bar} | {met} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
