"""A grid by its stages alone, for machines without dvc and mlflow."""

import csv
import importlib.util
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from headstart import settings
from headstart.study import rows
from headstart.sweep.cells import make_cells
from headstart.sweep.grid import read_grid
from tests.checkouts import ROOT

SCRIPT = ROOT / "sweeps" / "by_stages.py"
GRID = """
endpoint: few5
margins: {few5: 1.0}
fixed:
  datasets: digits
  simclr.epochs: 1
  simclr.warmup_epochs: 0.1
  autoencoder.epochs: 1
  probe.strengths: [0.01]
  probe.few_labels: [5]
axes:
  projector.init: [random, autoencoder]
"""
# what a machine that is lent has not
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"dvc", "mlflow", "ray", "dulwich", "pygit2"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def by_stages():
    spec = importlib.util.spec_from_file_location("by_stages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["by_stages"] = module
    spec.loader.exec_module(module)
    return module


def call(*words: str, path: str = "") -> subprocess.CompletedProcess:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HEADSTART_", "DVC_"))}
    variables = {**known, "PYTHONPATH": f"{path}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *words], env=variables, cwd=ROOT, capture_output=True, text=True)


def overrides_of(name: str) -> list[dict]:
    return [cell.overrides for cell in make_cells(read_grid(ROOT / "sweeps" / f"{name}.yaml"), ROOT)]


def test_what_cells_share_is_one_unit_and_comes_first(by_stages):
    cells = overrides_of("freezing_cifar10")
    units = by_stages.units_of(cells, settings.read_settings(ROOT))
    kinds = [unit.kind for unit in units]
    assert {kind: kinds.count(kind) for kind in kinds} == {"raw": 1, "arrays": 5, "cell": 25, "baselines": 5}
    place = {unit.name: number for number, unit in enumerate(units)}
    for unit in units:
        assert all(place[need] < place[unit.name] for need in unit.needs.values())
        assert (unit.kind == "cell") == bool(unit.beside) and (not unit.beside or unit.beside in place)


def test_a_cell_of_other_datasets_brings_and_judges_them(by_stages):
    units = by_stages.units_of(overrides_of("domains")[:1], settings.read_settings(ROOT))
    (stages,) = (unit.stages for unit in units if unit.kind == "cell")
    assert [words[0] for words in stages] == [
        *("prepare_source", "pretrain_autoencoder", "train_simclr", "fit_probe"),
        *(("prepare_target", "transfer") * 3),
    ]
    assert stages[5] == ("transfer", "--source", "pacs_photo", "--target", "pacs_sketch")


@pytest.mark.parametrize("name", ["freezing_cifar10_full", "rates_cifar10_full", "freezing_cifar10"])
def test_cells_that_have_a_row_are_left_out(by_stages, name):
    file = ROOT / "sweeps" / "results" / f"{name}.csv"
    cells, table = overrides_of(name), rows.read_csv(file)
    newest = table[table["protocol"] == table["protocol"].iloc[-1]]  # an older one is another recipe's
    left = by_stages.missing(cells, settings.read_settings(ROOT), file)
    assert len(left) == len(cells) - len(newest)
    if name == "freezing_cifar10_full":
        frozen = [cell["seed"] for cell in left if cell["projector.init"] == "autoencoder_shuffled"]
        assert frozen == [*range(5), 5, 5, 6, 6, 7, 7, 8, 8, 9, 9], "relu's first five seeds are there, tanh's are not"


@pytest.mark.slow
def test_a_grid_ends_goes_on_and_gives_rows_without_dvc_and_mlflow(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKED)
    grid, out = tmp_path / "tiny.yaml", tmp_path / "out"
    grid.write_text(GRID)
    words = ["run", str(grid), "--out", str(out), "--jobs", "2", "--commit", "c0ffee1234"]
    site = str(tmp_path / "site")

    early = call(*words, "--seconds", "1", path=site)
    assert early.returncode == 1 and "was stopped: the time is over" in early.stdout
    with tarfile.open(out / "cells.tar.gz") as archive:
        assert archive.getnames() == ["about.json"]
    whole = call(*words, path=site)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    lines = rows_of(out)
    assert lines[0] == "# sweeps/tiny.yaml at commit c0ffee1234: 2 of 2 cells; made by python sweeps/by_stages.py tiny"
    table = list(csv.DictReader(lines[2:]))
    assert {(row["projector_init"], row["seed"]) for row in table} == {("autoencoder", "0"), ("random", "0")}
    assert all(float(row["probe_few5"]) > 0.5 and row["probe_pixels_few5"] and row["wall_seconds"] for row in table)

    (next(out.glob("cell-*")) / "done.json").unlink()
    again = call(*words, path=site)
    assert again.returncode == 0 and again.stdout.count("cell-") == 1 and "baselines-" not in again.stdout
    assert untimed(csv.DictReader(rows_of(out)[2:])) == untimed(table)

    (next(out.glob("baselines-*")) / "done.json").unlink()
    assert call(*words, "--seconds", "0").returncode == 1
    left = call("rows", str(out / "cells.tar.gz"))
    assert left.returncode == 1 and left.stderr.count("left out, its baselines-") == 2
    assert "error: " in left.stderr and "no cell is done with its baselines" in left.stderr and not left.stdout


def untimed(table: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in table]


def rows_of(out: Path) -> list[str]:
    found = call("rows", str(out / "cells.tar.gz"))
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "digits", "--out", "OUT", "-S", "simclr.epoch=3"], "-S simclr.epoch=3: no such key"),
        (["run", "digits", "--out", "OUT", "-S", "simclr.epochs=[3"], "-S simclr.epochs=[3: not valid YAML"),
        (["run", "digits", "--out", "OUT", "-S", "simclr.epochs=0"], "params.yaml: simclr.epochs: 0 must be"),
        (["run", "nosuch", "--out", "OUT"], "nosuch: No such file"),
        (["rows", "OUT/cells.tar.gz"], "must be the cells.tar.gz that `run` leaves"),
        (["rows", "README.md"], "must be the cells.tar.gz that `run` leaves"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, words, said):
    ended = call(*(word.replace("OUT", str(tmp_path / "out")) for word in words))
    assert ended.returncode == 1 and ended.stderr.startswith("error: ") and said in ended.stderr
    assert ended.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
