"""The screen of `sweep status`, and the plan's costs: what the numbers are of, `unknown` where nothing tells."""

import io
import json
import os
import shutil
import time

import pytest
from rich.console import Console

from headstart.commands.sweep import costs
from headstart.machine import processor
from headstart.models.backbone import ARCHS, STEMS
from headstart.sweep.cells import make_cells, save_cells
from headstart.sweep.estimate import MEGABYTES, bytes_of_backbone, bytes_of_weights, estimate
from headstart.sweep.grid import read_grid
from headstart.sweep.ledger import Finished
from headstart.sweep.plan import make_plan
from headstart.sweep.state import SweepState
from headstart.sweep.view import rerun, screen
from tests.checkouts import ROOT, run


@pytest.fixture
def cells(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text("fixed: {datasets: digits}\naxes:\n  projector.activation: [relu, tanh, silu]\n  seed: [0, 1]")
    return make_cells(read_grid(file), ROOT)


@pytest.fixture
def states(tmp_path) -> SweepState:
    return SweepState(tmp_path, "t")


def result(cell, top1: float) -> Finished:
    return Finished(cell.name, "c" * 40, cell.dataset, {"top1": top1}, 45_000_000, "")


def text(thing) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    console.print(thing)
    return console.file.getvalue()


def test_one_screen_tells_how_far_it_is(cells, states):
    finished = {cells[0].identity: result(cells[0], 0.91), cells[1].identity: result(cells[1], 0.93)}
    for cell in cells[:2]:
        states.begin(cell.name, os.getpid())
        states.done(cell.name)
    states.begin(cells[2].name, os.getpid())
    states.begin(cells[3].name, os.getpid())
    states.failed(cells[3].name, "first line\nout of memory [100 MB]")
    states.begin(cells[4].name, os.getpid())
    states.update(cells[4].name, pid_started=1.0)
    shown = text(screen(cells, finished, states))
    assert "t: 6 cells: 2 done, 1 running, 1 waiting, 1 failed, 1 lost (nothing runs it now)" in shown
    assert "0.9300" in shown and "activation tanh, seed 0" in shown
    assert "    | out of memory [100 MB]" in shown
    assert rerun(cells[3]) in " ".join(shown.split())
    with states.driving(engine="pool"):
        assert f"left (pool, process {os.getpid()})" in text(screen(cells, finished, states))


def test_git_says_what_is_done(cells, states):
    states.begin(cells[0].name, os.getpid())
    states.done(cells[0].name)
    assert "0 done, 0 running, 6 waiting" in text(screen(cells, {}, states)), "its experiment was removed"
    shown = text(screen(cells, {cell.identity: result(cell, 0.9) for cell in cells}, states))
    assert "6 done, 0 running, 0 waiting" in shown


def test_hours_come_from_cells_that_were_finished_here(cells, states, tmp_path, monkeypatch):
    from headstart.sweep.cells import save_cells

    for name in ("params.yaml", "datasets.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setenv("HEADSTART_ROOT", str(tmp_path))  # whose mlflow.db is asked
    plan = make_plan(cells, {cells[0].identity: result(cells[0], 0.9)})
    assert "unknown" in text(costs(plan, tmp_path, 1)) and "no finished run" in text(costs(plan, tmp_path, 1))
    save_cells(cells, states.folder / "cells.json")
    states.begin(cells[0].name, os.getpid())
    states.update(cells[0].name, state="done", started=time.time() - 720, ended=time.time())
    shown = text(costs(plan, tmp_path, 2))
    assert "cells finished here" in shown and "0.5" in shown, "five cells of 720 s, two at once"
    assert "225 MB" in shown, "five times what the finished one added"


def test_hours_come_from_the_benchmark_where_it_fits(tmp_path, monkeypatch):
    paper = make_cells(read_grid(ROOT / "sweeps" / "frozen.yaml"), ROOT)
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": processor(), "accelerator": None}
    rows = [{"case": "ResNet-34, 32 px, B = 1280: training", "median": 150.0}]
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "step-here.json").write_text(json.dumps({"machine": machine, "rows": rows}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = {work.dataset: row for work, row in estimate({cell.work for cell in paper}, tmp_path).items()}
    assert found["cifar10"].seconds == 150 * 45_000 / 150 and "training alone" in found["cifar10"].source
    assert found["imagenette"].seconds is None
    machine["cores"] += 1
    (folder / "step-here.json").write_text(json.dumps({"machine": machine, "rows": rows}))
    assert all(row.seconds is None for row in estimate({cell.work for cell in paper}, tmp_path).values())


def test_a_backbone_without_a_row_of_megabytes_is_built_to_be_counted(monkeypatch):
    work = make_cells(read_grid(ROOT / "sweeps/digits.yaml"), ROOT)[0].work
    by_row = bytes_of_weights(work)
    monkeypatch.delitem(MEGABYTES, work.arch)
    assert bytes_of_weights(work) == pytest.approx(by_row, rel=2e-3)
    assert bytes_of_weights(work) != by_row, "a row is rounded"


def test_megabytes_are_those_of_the_built_networks():
    assert MEGABYTES.keys() <= ARCHS.keys(), "a row only saves seconds"
    for arch, megabytes in MEGABYTES.items():
        for stem in STEMS:
            assert bytes_of_backbone(arch, stem) == pytest.approx(megabytes * 1e6, rel=2e-3)


def test_who_looks_at_a_sweep_that_has_begun_waits_for_no_torch(cells, tmp_path):
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "git", "commit", "-q", "--allow-empty", "-m", "start")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "t.yaml").rename(tmp_path / "sweeps/t.yaml")
    save_cells(cells, SweepState(tmp_path, "t").folder / "cells.json")
    code = "import sys, runpy; sys.modules['torch'] = None; runpy.run_module('headstart', run_name='__main__')"
    done = run(tmp_path, "python", "-c", code, "sweep", "status", "t", PYTHONPATH=str(ROOT / "src"))
    assert "t: 6 cells: 0 done" in done.stdout
