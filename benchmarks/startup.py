"""Start-up: seconds from `python -m stages.X` to its first step, for every stage, and of a `dvc repro` with no work."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import Row, skipped, spread

ROOT = Path(__file__).parents[1]
# what counts as a stage's first step: module, function that then ends the process
FIRST_STEPS = {
    "download": ("headstart.ingest.download", "record_digits"),
    "prepare": ("headstart.ingest.decode", "store"),
    "pretrain_autoencoder": ("headstart.models.autoencoder", "mean_squared_error"),
    "train_simclr": ("headstart.training.losses", "nt_xent"),
    "fit_probe": ("headstart.data.views", "resize"),
    "report": ("headstart.run.files", "write_json"),
    "track": ("headstart.tracking.tracking", "complete"),
}
# ends the process at the first call of a function, under whatever names other modules have imported it by then
STOPPER = """
import atexit, importlib, os, runpy, sys, time
module, name, stage, *rest = sys.argv[1:]
def stop(*arguments, **options):
    print("first step", time.time(), flush=True)
    os._exit(0)
class Watch:
    def find_spec(self, found, path=None, target=None):
        if found != module: return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(found)
        run = spec.loader.exec_module
        def exec_module(loaded):
            run(loaded)
            setattr(loaded, name, stop)
        spec.loader.exec_module = exec_module
        return spec
import importlib.util
sys.meta_path.insert(0, Watch())
sys.argv = [stage, *rest]
runpy.run_module("stages." + stage, run_name="__main__", alter_sys=True)
print("finished", time.time(), flush=True)
"""


def first_step_seconds(stage: str, workspace: Path) -> float:
    """Return the seconds from the process's start to the stage's first step."""
    module, name = FIRST_STEPS[stage]
    arguments = [module, name, stage]
    if stage not in ("report", "track"):
        arguments += ["--dataset", "digits"]
        if stage == "pretrain_autoencoder":
            arguments += ["--init", "autoencoder", "--dim", "128"]
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", STOPPER, *arguments], cwd=workspace, env=_environment(), capture_output=True, text=True
    )
    marks = [line for line in done.stdout.splitlines() if line.startswith(("first step", "finished"))]
    if not marks:
        raise RuntimeError(f"stage {stage} made no first step: {done.stderr.strip()[-300:]}")
    return float(marks[0].split()[-1]) - started


def _environment() -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    return outer | {"PYTHONPATH": "", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _clone(folder: Path) -> Path:
    """Return a copy of the committed files in which the pipeline has run once, briefly."""
    workspace = folder / "headstart"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(workspace)], check=True)
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("  enabled: true", "  enabled: false"))
    command = ["dvc", "exp", "run", "-q", "-S", "simclr.epochs=1", "-S", "autoencoder.epochs=1"]
    subprocess.run(command, cwd=workspace, env=_environment(), check=True, capture_output=True)
    return workspace


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure each stage, then the repro without work, in a temporary clone of HEAD on digits."""
    if shutil.which("dvc", path=_environment()["PATH"]) is None:
        return [skipped("start-up", "needs dvc and the whole environment of requirements.txt")], "fp32"
    repeats = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        workspace = _clone(Path(folder))
        laps: dict[str, list[float]] = {f"{stage}: to its first step": [] for stage in FIRST_STEPS}
        laps["dvc repro with nothing to do"] = []
        for _ in range(repeats):
            for stage in FIRST_STEPS:
                laps[f"{stage}: to its first step"].append(first_step_seconds(stage, workspace))
            started = time.perf_counter()
            subprocess.run(["dvc", "repro", "-q"], cwd=workspace, env=_environment(), check=True, capture_output=True)
            laps["dvc repro with nothing to do"].append(time.perf_counter() - started)
    return [spread(case, values, "s") for case, values in laps.items()], "fp32"
