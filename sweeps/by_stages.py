"""Run a grid's cells by the stages alone, for a machine without dvc, mlflow and network: one that is lent for minutes.

    PYTHONPATH=src python sweeps/by_stages.py run NAME --out FOLDER --jobs 5 --seconds 500    # there
    PYTHONPATH=src python sweeps/by_stages.py rows FOLDER/cells.tar.gz > rows.csv             # at home

The first needs what the stages need: torch, torchvision, numpy, scipy, scikit-learn, pandas, matplotlib, safetensors,
psutil, pydantic, pyyaml, rich and tqdm. Downloads, arrays and baselines are made once for the cells that share them.
When the seconds are over what still runs is stopped; the same command goes on with what is missing. What travels home
is small: settings, metrics, logs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from headstart import settings
from headstart.errors import UserError, reason
from headstart.history import git
from headstart.run.params import to_params
from headstart.sweep import run_cell
from headstart.sweep.cells import make_cells
from headstart.sweep.grid import read_grid
from headstart.yaml_files import parse_yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("src", "stages", "dvc.yaml", "pyproject.toml")
KEPT = ("params.yaml", "datasets.yaml", "log", "done.json", "metrics/**/*.json", "metrics/**/*.csv", "models/**/*.json")
# of one process: stages import torch, which takes seconds
STAGES = """
import json, runpy, sys, time
sys.path[:0] = [".", "src"]
laps, begun = {}, time.time()
for words in json.loads(sys.argv[1]):
    sys.argv, start = words, time.time()
    runpy.run_module("stages." + words[0], run_name="__main__", alter_sys=True)
    laps[words[0]] = laps.get(words[0], 0) + time.time() - start
json.dump({"seconds": time.time() - begun, "laps": laps}, open("done.json", "w"))
"""
SHARE = 0.8  # of what its kind takes in the median must be left, for something to be begun


@dataclasses.dataclass(frozen=True)
class Unit:
    """Stages that one process runs one after the other in a folder of its own.

    needs: path -> the unit whose out it reads there; beside: of a cell, its baselines.
    """

    name: str
    kind: str
    tree: settings.Tree = dataclasses.field(hash=False)
    stages: tuple[tuple[str, ...], ...]
    needs: Mapping[str, str] = dataclasses.field(hash=False)
    beside: str = ""


def units_of(cells: Sequence[Mapping[str, Any]], tree: settings.Tree) -> list[Unit]:
    """Return what is to run for these cells, each after what it needs, once where settings make it equal."""
    units: dict[str, Unit] = {}

    def add(
        kind: str, key: str, tree: settings.Tree, stages: Iterable[list[str]], needs: dict[str, str], beside: str = ""
    ) -> str:
        name = f"{kind}-{key[:10]}"
        units.setdefault(name, Unit(name, kind, tree, tuple(map(tuple, stages)), needs, beside))
        return name

    for overrides in cells:
        own = settings.with_overrides(tree, overrides)
        (dataset,) = own["params.yaml"]["datasets"]
        here = ["--dataset", dataset]
        keys = {name: settings.deciding(own, name, dataset) for name in ("download", "prepare", "fit_baselines")}
        path = own["datasets.yaml"][dataset].get("path")
        raw = add("raw", settings.digest(dataset, path, keys["download"]), own, [["download", *here]], {})
        arrays = add("arrays", settings.digest(raw, keys["prepare"]), own, [["prepare", *here]], {"data/raw": raw})
        key, read = settings.digest(arrays, keys["fit_baselines"]), {"data/prepared": arrays}
        add("cell", settings.digest(arrays, own), own, cell_stages(own, dataset), read, f"baselines-{key[:10]}")
        add("baselines", key, own, [["fit_baselines", *here]], read)
    return list(units.values())


def cell_stages(tree: settings.Tree, dataset: str) -> Iterator[list[str]]:
    """Yield the stages that are a cell's own, with their arguments."""
    params = settings.resolved(tree)["params.yaml"]
    head, targets = params["projector"], params["probe"]["datasets"]
    yield ["prepare_source", "--source", head["autoencoder_dataset"]]
    yield ["pretrain_autoencoder", "--dataset", dataset, "--init", head["init"], "--dim", str(head["hidden_dim"])]
    yield ["train_simclr", "--dataset", dataset]
    yield ["fit_probe", "--dataset", dataset]
    for target in targets:
        yield ["prepare_target", "--target", target]
        yield ["transfer", "--source", dataset, "--target", target]


# ---- there -----------------------------------------------------------------------------------------------------------


class Machine:
    """The processes of units in a folder, so many at once, until a number of seconds is over."""

    def __init__(self, out: Path, jobs: int, seconds: float):
        self.out, self.jobs, self.begun, self.end = out, jobs, time.monotonic(), time.monotonic() + seconds
        self.running: dict[Unit, tuple[subprocess.Popen[bytes], float]] = {}
        self.lasted: dict[str, list[float]] = {}

    def run(self, units: Sequence[Unit]) -> bool:
        """Run what is not done yet; return whether all is done then."""
        try:
            self._work(units)
        finally:  # of an interrupt, too: they are in sessions of their own
            for unit, (process, _) in self.running.items():
                os.killpg(process.pid, signal.SIGKILL)
                self.say(f"{unit.name} was stopped{': the time is over' if time.monotonic() >= self.end else ''}")
        return all(self.done(unit.name) for unit in units)

    def _work(self, units: Sequence[Unit]) -> None:
        waiting = [unit for unit in units if not self.done(unit.name)]
        failed: set[str] = set()
        while (waiting or self.running) and time.monotonic() < self.end:
            for unit in [unit for unit, (process, _) in self.running.items() if process.poll() is not None]:
                if not self.ended(unit):
                    failed.add(unit.name)
            waiting = [unit for unit in waiting if not failed & set(unit.needs.values()) and self.is_time_for(unit)]
            ready = [unit for unit in waiting if all(map(self.done, unit.needs.values()))]
            if ready and len(self.running) < self.jobs:
                waiting.remove(ready[0])
                self.start(ready[0])
            else:
                time.sleep(0.1)

    def done(self, name: str) -> bool:
        """Whether a unit has ended well, now or in an earlier call."""
        return (self.out / name / "done.json").is_file()

    def is_time_for(self, unit: Unit) -> bool:
        """Whether it would end in time, as far as its kind is known."""
        needed = SHARE * statistics.median(self.lasted.get(unit.kind, [0.0]))
        if time.monotonic() + needed < self.end:
            return True
        self.say(f"{unit.name} is not begun: it would take some {needed / SHARE:.0f} s")
        return False

    def start(self, unit: Unit) -> None:
        """Start a unit's process in a new folder."""
        folder = self.out / unit.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in CODE:
            (folder / name).symlink_to(ROOT / name)
        for name, section in unit.tree.items():
            (folder / name).write_text(yaml.safe_dump(section, sort_keys=False, allow_unicode=True))
        for path, need in unit.needs.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).symlink_to((self.out / need / path).resolve())
        (folder / "needs.json").write_text(json.dumps({**unit.needs, "metrics/baselines": unit.beside}))
        threads = str(max(1, len(os.sched_getaffinity(0)) // self.jobs))
        places = {"HEADSTART_ROOT": str(self.out.resolve()), "HEADSTART_SHARED": str(self.out.resolve() / "shared")}
        with (folder / "log").open("wb") as log:
            words = [sys.executable, "-c", STAGES, json.dumps(unit.stages)]
            process = subprocess.Popen(
                words, cwd=folder, env={"OMP_NUM_THREADS": threads, **os.environ, **places}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running[unit] = (process, time.monotonic())

    def ended(self, unit: Unit) -> bool:
        """Say how a unit ended, and return whether it ended well."""
        _, begun = self.running.pop(unit)
        seconds = time.monotonic() - begun
        self.lasted.setdefault(unit.kind, []).append(seconds)
        well = self.done(unit.name)
        last = run_cell.reason((self.out / unit.name / "log").read_text(errors="replace"))
        self.say(f"{unit.name}: {seconds:.0f} s, {last}" if well else f"{unit.name} failed: {last}")
        return well

    def say(self, line: str) -> None:
        """Print a line behind the seconds since the begin."""
        print(f"[{time.monotonic() - self.begun:6.1f}] {line}", flush=True)


def run(options: argparse.Namespace) -> None:
    """Run the cells of a grid and pack what is to travel; exits with status 1 where something is missing."""
    grid = read_grid(Path(options.grid))
    tree = settings.with_overrides(settings.read_settings(ROOT), {"tracking.enabled": False})
    changed = dict(change_of(text, tree) for text in options.set)
    every = [cell.overrides for cell in make_cells(grid, ROOT)]
    wanted = missing(every, tree, options.but) if options.but else every
    if not wanted:
        raise UserError(f"{options.but}: has all {len(every)} cells of {grid.path}")
    cells = [{**overrides, **changed} for overrides in wanted]
    to_params(settings.with_overrides(tree, cells[0]))
    units = units_of(cells, tree)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "grid": grid.name,
        "cells": len(every),
        "commit": options.commit or commit(),
        "machine": machine(),
        "jobs": options.jobs,
    }
    (options.out / "about.json").write_text(json.dumps(about) + "\n")
    whole = Machine(options.out, options.jobs, options.seconds).run(units)
    with tarfile.open(options.out / "cells.tar.gz", "w:gz") as archive:
        archive.add(options.out / "about.json", "about.json")
        for file in (path for unit in units for path in kept(options.out / unit.name)):
            archive.add(file, file.relative_to(options.out))
    sys.exit(0 if whole else 1)


def missing(cells: Sequence[Mapping[str, Any]], tree: settings.Tree, file: Path) -> list[Mapping[str, Any]]:
    """Return the cells that have no row in a file."""
    from headstart.study.experiments import row_of
    from headstart.study.rows import RUN_KEY, read_csv, to_rows

    def planned(overrides: Mapping[str, Any]) -> dict[str, Any]:
        own = settings.with_overrides(tree, overrides)
        params = to_params(own)
        head = params.projector
        facts = {"projector_frozen": head.frozen, "needs_autoencoder": head.needs_autoencoder, "precision": ""}
        return row_of(own, params.datasets[0], {}, facts, "")

    def keys(table: Any) -> list[tuple[str, ...]]:
        return [tuple(map(str, row)) for row in table[RUN_KEY].itertuples(index=False)]

    known = set(keys(read_csv(file)))
    wanted = keys(to_rows(map(planned, cells), str(file)))
    return [cell for cell, key in zip(cells, wanted, strict=True) if key not in known]


def change_of(text: str, tree: settings.Tree) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE, which is YAML; a mapping, too."""
    key, _, value = text.partition("=")
    try:
        settings.lookup(tree, key)
        return key, parse_yaml(value)
    except (KeyError, ValueError) as error:
        why = "no such key in params.yaml or datasets.yaml" if isinstance(error, KeyError) else str(error)
        raise UserError(f"-S {text}: {why}") from None


def kept(folder: Path) -> Iterator[Path]:
    """Yield the small files of a unit that is done."""
    if (folder / "done.json").is_file():
        yield folder / "needs.json"
        for pattern in KEPT:
            yield from folder.glob(pattern)


def commit() -> str:
    """Return the checkout's commit, or `unknown` where it is none."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return git(ROOT, "rev-parse", "HEAD")[:10]
    return "unknown"


def machine() -> str:
    """Return what this machine computes on."""
    import torch

    from headstart.machine import processor

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


# ---- at home ---------------------------------------------------------------------------------------------------------


def rows(options: argparse.Namespace) -> None:
    """Print the rows of the cells that are done, as `sweep rows` would have them."""
    from headstart.study.rows import to_csv, to_rows

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with tarfile.open(options.cells) as archive:
                archive.extractall(folder, filter="data")
            about = json.loads((folder / "about.json").read_text())
        except (OSError, tarfile.TarError, ValueError) as error:
            raise UserError(f"{options.cells}: must be the cells.tar.gz that `run` leaves ({reason(error)})") from None
        records = [row_of_cell(folder, cell, about) for cell in sorted(folder.glob("cell-*"))]
    if not any(records):
        raise UserError(f"{options.cells}: no cell is done with its baselines; `run` with the same --out goes on")
    table = to_rows([record for record in records if record], str(options.cells))
    hours = table["wall_seconds"].sum() / 3600
    comments = [
        f"sweeps/{about['grid']}.yaml at commit {about['commit']}: {len(table)} of {about['cells']} cells; made by "
        f"python sweeps/by_stages.py {about['grid']}",
        f"{hours:.1f} hours of cells, {about['jobs']} at once, on {about['machine']}",
    ]
    print(to_csv(table.sort_values(["seed", "run"]), comments), end="")


def row_of_cell(folder: Path, cell: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a cell from what it and the units that it rests on left, None without its baselines."""
    from headstart.study.experiments import row_of

    needs = json.loads((cell / "needs.json").read_text())
    arrays, baselines = folder / needs["data/prepared"], folder / needs["metrics/baselines"]
    if not baselines.is_dir():
        print(f"{cell.name}: left out, its {baselines.name} did not end", file=sys.stderr)
        return None
    raw = folder / json.loads((arrays / "needs.json").read_text())["data/raw"]
    for part in (baselines, arrays, raw):
        shutil.copytree(part / "metrics", cell / "metrics", dirs_exist_ok=True)
    for name in CODE:
        (cell / name).symlink_to(ROOT / name)
    words = [sys.executable, "-c", STAGES, json.dumps([["report"]])]
    done = json.loads((cell / "done.json").read_text())
    ended = subprocess.run(
        words, cwd=cell, env={**os.environ, "HEADSTART_ROOT": str(folder)}, capture_output=True, text=True
    )
    if ended.returncode:
        raise UserError(f"{cell.name}: {run_cell.reason(ended.stderr)}")
    tree, found = settings.read_settings(cell), json.loads((cell / "metrics" / "all.json").read_text())
    (dataset,) = tree["params.yaml"]["datasets"]
    metrics = {name: values[dataset] for name, values in found["metrics"].items() if dataset in values}
    laps = {"train_seconds": done["laps"]["train_simclr"], "probe_seconds": done["laps"]["fit_probe"]}
    row = row_of(tree, dataset, metrics, found["facts"][dataset], cell.name)
    return row | laps | {"device": about["machine"], "wall_seconds": done["seconds"]}


def main() -> None:
    """Do what the command line says; what the user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    there = parts.add_parser("run", help="run the cells of a grid")
    there.add_argument("grid", help="a file in sweeps/, or its name")
    there.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where everything goes; the same one goes on"
    )
    there.add_argument("--jobs", type=int, default=1, help="processes at once")
    there.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    there.add_argument("--but", type=Path, metavar="ROWS", help="leave out the cells that this file has rows of")
    there.add_argument("--commit", help="of the code, where it is no checkout")
    there.add_argument(
        "-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="in every cell, as for dvc exp run"
    )
    there.set_defaults(call=run)
    home = parts.add_parser("rows", help="print the rows of the cells that are done")
    home.add_argument("cells", type=Path, help="cells.tar.gz")
    home.set_defaults(call=rows)
    options = parser.parse_args()
    try:
        options.call(options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
