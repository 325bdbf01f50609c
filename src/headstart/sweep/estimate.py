"""What cells will take: seconds as they were recorded on this machine, else from its benchmark, else unknown."""

import functools
import json
import os
import socket
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart import settings
from headstart.errors import UserError
from headstart.machine import processor
from headstart.sweep.cells import Work, load_cells, work_of
from headstart.sweep.state import DONE, SweepState
from headstart.tracking.tracked import TrackedRun, read_runs

MIN_SECONDS = 1.0  # a cell that took less was given back by DVC's run cache
# of state dicts, whatever the stem; to build a network only to count imports torchvision: two of a plan's four seconds
MEGABYTES = {"resnet18": 44.7, "resnet34": 85.2, "resnet50": 94.2, "resnet101": 170.4, "resnet152": 233.2}


@dataclass(frozen=True)
class Estimate:
    """Seconds of one cell, None where nothing is known, and where they come from."""

    seconds: float | None
    source: str


def estimate(
    works: Iterable[Work], root: Path, by_hand: Iterable[Work] = (), experiment: str = ""
) -> dict[Work, Estimate]:
    """Return an estimate for each kind of work.

    by_hand: the kinds of which a finished run is known: where no sweep of this machine made it, MLflow's `experiment`
    is asked, which takes seconds.
    """
    wanted, hand_made = set(works), set(by_hand)
    sources: dict[str, Callable[[set[Work]], Mapping[Work, list[float]]]] = {
        "cells finished here": lambda missing: _of_sweeps(root),
        "MLflow's runs": lambda missing: _of_mlflow(experiment, root) if missing & hand_made else {},
        "benchmarks/results, training alone": lambda missing: _of_benchmark(root, missing),
    }
    found: dict[Work, Estimate] = {}
    for source, read in sources.items():
        missing = wanted - set(found)
        seconds = read(missing) if missing else {}
        for work in missing & set(seconds):
            found[work] = Estimate(statistics.median(seconds[work]), source)
    return {work: found.get(work, Estimate(None, "no finished run, no benchmark")) for work in wanted}


def bytes_of_weights(work: Work) -> int:
    """Return the bytes of a trained backbone: most of what a cell adds to DVC's cache."""
    known = MEGABYTES.get(work.arch)
    return round(known * 1e6) if known else bytes_of_backbone(work.arch, work.stem)


@functools.cache
def bytes_of_backbone(arch: str, stem: str) -> int:
    """Return the bytes of a backbone's state dict, built without memory."""
    import torch

    from headstart.models.backbone import Backbone, build_backbone

    with torch.device("meta"):
        backbone = build_backbone(Backbone(arch, stem, "none"), 0)
    return sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values())


def _of_sweeps(root: Path) -> dict[Work, list[float]]:
    """Of the cells that this machine's sweeps finished."""
    seconds: dict[Work, list[float]] = defaultdict(list)
    for folder in (root / ".cache" / "sweeps").glob("*/"):
        works = {cell.name: cell.work for cell in load_cells(folder / "cells.json")}
        for state in SweepState(root, folder.name).all().values():
            took, work = state.ended - state.started, works.get(state.name)
            if state.state == DONE and work and state.host == socket.gethostname() and took > MIN_SECONDS:
                seconds[work].append(took)
    return seconds


def _of_mlflow(experiment: str, root: Path) -> dict[Work, list[float]]:
    """Of MLflow's finished runs: the stages that were executed for them."""
    seconds: dict[Work, list[float]] = defaultdict(list)
    try:
        runs = [run for run in read_runs(experiment) if run.finished]
    except UserError:
        return {}
    known = settings.read_settings(root)[settings.DATASETS] if runs else {}
    for run in runs:
        works = _works(run, known)
        for work in works:
            took = [value for (_, dataset), value in run.seconds.items() if dataset == work.dataset]
            if ("train_simclr", work.dataset) in run.seconds and ("fit_probe", work.dataset) in run.seconds:
                seconds[work].append(sum(took))
    return seconds


def _works(run: TrackedRun, known: Mapping[str, Any]) -> list[Work]:
    """What a run had to do, from its parameters, which MLflow holds as texts; known: datasets.yaml's blocks."""
    tree = settings.nested(run.params)
    for name, block in tree[settings.DATASETS].items():
        block.update({"archives": None, "about": (known.get(name) or {}).get("about")})
    from headstart.run.params import to_params

    tree[settings.PARAMS].setdefault("tracking", {"enabled": True, "experiment": "", "log_model": False})
    try:
        params = to_params(tree)
        return [work_of(params, dataset) for dataset in params.datasets]
    except (UserError, TypeError, AttributeError):
        return []  # of other code


def _of_benchmark(root: Path, works: Iterable[Work]) -> dict[Work, list[float]]:
    """Of the newest measured training step whose architecture and image size fit, on such a machine as this."""
    seconds: dict[Work, list[float]] = {}
    rates = _rates(root)
    for work in works:
        rate = rates.get((work.arch, work.image_size))
        images = work.num_train
        if rate and images and work.stem == "imagenet":  # the paper's, as benchmarks/setting.py has it
            seconds[work] = [work.epochs * images / rate]
    return seconds


def _rates(root: Path) -> dict[tuple[str, int], float]:
    """Images per second of training, by architecture and image size."""
    rates: dict[tuple[str, int], float] = {}
    for file in sorted((root / "benchmarks" / "results").glob("step-*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if not _is_this_machine(result["machine"]):
            continue
        for row in result["rows"]:
            case, _, what = str(row["case"]).partition(": ")
            arch, size, *_ = case.split(", ")
            if what == "training" and size.endswith(" px"):
                rates[arch.lower().replace("-", ""), int(size.removesuffix(" px"))] = float(row["median"])
    return rates


def _is_this_machine(machine: Mapping[str, Any]) -> bool:
    import torch

    here = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if here or machine["accelerator"]:
        return bool(here and here in str(machine["accelerator"]))
    return bool(machine["cores"] == len(os.sched_getaffinity(0)) and machine["processor"] == processor())
