"""What a sweep itself costs: planning large grids, and cells whose stages take no time, by the pool of one machine."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Row, skipped, spread

CELL_BAR, PAPER_BAR, LARGE_BAR = 5.0, 10.0, 60.0  # seconds
ACTIVATIONS = ["relu", "silu", "gelu", "sigmoid", "tanh"]
LARGE = {  # 10,000 cells
    "projector.init": ["random", "autoencoder", "orthogonal", "random_matched"],
    "projector.activation": ACTIVATIONS,
    "projector.hidden_dim": [16, 32, 64, 128, 256],
    "projector.out_dim": [8, 16, 32, 64, 128],
    "seed": list(range(20)),
}


def stubbed(num_seeds: int) -> dict[str, list[Any]]:
    """Return axes of ten cells a seed, half of which share an autoencoder."""
    inits = ["random", "autoencoder"]
    return {"projector.init": inits, "projector.activation": ACTIVATIONS, "seed": list(range(num_seeds))}


def sweep_seconds(folder: Path, *words: str) -> float:
    """Return what `python -m headstart sweep WORDS` takes, from its start to its end."""
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "sweep", *words],
        cwd=folder,
        env=outer | {"PYTHONPATH": str(folder / "src"), "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:  # the folder will be gone, and with it the logs of what failed
        from headstart.sweep.state import SweepState  # psutil

        errors = [state.error for state in SweepState(folder, words[1]).all().values() if state.error]
        raise RuntimeError(f"{words}: {done.stdout[-300:]} {done.stderr[-300:]}\n" + "\n----\n".join(errors[:5]))
    return time.perf_counter() - started


def plans(folder: Path, quick: bool) -> list[Row]:
    """Planning the paper's grids, and one of 10,000 cells, with nothing done yet."""
    repeats = 1 if quick else 3
    paper = [sum(sweep_seconds(folder, "plan", name) for name in ("paper", "frozen")) for _ in range(repeats)]
    large = [sweep_seconds(folder, "plan", "large") for _ in range(1 if quick else repeats)]
    return [
        spread("plan of paper.yaml and frozen.yaml, 765 cells", paper, "s", bar=PAPER_BAR, at_most=True),
        spread("plan of 10,000 cells", large, "s", bar=LARGE_BAR, at_most=True),
    ]


def overhead(folder: Path, num_cells: int) -> list[Row]:
    """A whole sweep whose stages only leave files: clones, DVC's cache, git and nine Python processes a cell."""
    seconds = sweep_seconds(folder, "run", "stubbed", "--jobs", "2")
    case = f"{num_cells} cells of stub stages by the pool, 2 jobs"
    rows = [Row(f"{case}: per cell", seconds / num_cells, unit="s", bar=CELL_BAR, at_most=True)]
    again = sweep_seconds(folder, "run", "stubbed", "--jobs", "2")
    return [*rows, Row(f"{case}: the same command when all is done", again, unit="s")]


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure in a temporary checkout whose stages are the tests' stubs."""
    if importlib.util.find_spec("dvc") is None:
        return [skipped("sweeps", "needs dvc and the whole environment of requirements.txt")], "none"
    from tests.sweep.stubs import stub_checkout  # yaml, and git

    num_seeds = 1 if quick else 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for grid, axes in (("large", LARGE), ("stubbed", stubbed(num_seeds))):
            path = folder / "sweeps" / f"{grid}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"fixed": {"datasets": "digits"}, "axes": axes}))
        stub_checkout(folder)
        return [*plans(folder, quick), *overhead(folder, 10 * num_seeds)], "none"
