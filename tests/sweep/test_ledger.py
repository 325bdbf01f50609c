"""What counts as finished, on real commits of the real dvc: by hand, on a branch, half-finished, edited, fetched."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from headstart.__main__ import main
from headstart.errors import UserError
from headstart.study import rows
from headstart.sweep.cells import make_cells
from headstart.sweep.grid import read_grid
from headstart.sweep.ledger import Ledger
from headstart.sweep.state import SweepState
from tests.checkouts import run
from tests.sweep.stubs import stub_checkout

GRID = "fixed: {datasets: digits}\naxes:\n  projector.init: [random, autoencoder]\n  seed: [0, 1]"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a baseline on its branch and one experiment run by hand."""
    folder = stub_checkout(tmp_path_factory.mktemp("repository"))
    (folder / "sweeps" / "t.yaml").write_text(GRID)
    run(folder, "dvc", "exp", "run", "--temp", "-n", "by-hand", "-S", "projector.init=random", "-S", "seed=1")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


@pytest.fixture
def copy(repository, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(repository, tmp_path / "copy", symlinks=True)


def done(folder) -> dict[tuple[str, int], str]:
    """The finished cells of GRID by initialisation and seed, with the name of the experiment or branch."""
    finished = Ledger(folder).read()
    cells = make_cells(read_grid(folder / "sweeps" / "t.yaml"), folder)
    return {
        (cell.overrides["projector.init"], cell.overrides["seed"]): finished[cell.identity].name
        for cell in cells
        if cell.identity in finished
    }


def branch(folder) -> str:
    return run(folder, "git", "branch", "--show-current").stdout.strip()


def test_what_was_run_by_hand_and_what_a_branch_holds_count(repository):
    assert done(repository) == {("random", 1): "by-hand", ("autoencoder", 0): branch(repository)}
    assert done(repository) == done(repository), "read again from what is kept"
    row = next(row for row in Ledger(repository).read().values() if row.name == "by-hand")
    assert row.metrics["top1"] == pytest.approx((len("random") + 0.4 + 0.01) / 20) and row.num_bytes > 0


def test_readme_changes_nothing_and_the_probe_everything(copy):
    (copy / "README.md").write_text("other")
    assert len(done(copy)) == 2
    (copy / "src" / "headstart" / "evaluation" / "probe.py").write_text("# other\n")
    assert not done(copy)


def test_a_half_finished_experiment_does_not_count(copy):
    params = copy / "params.yaml"
    params.write_text(params.read_text().replace("init: autoencoder", "init: random"))
    run(copy, "dvc", "repro", "train_simclr@digits")
    run(copy, "git", "commit", "-qam", "trained")
    assert ("random", 0) not in done(copy)
    run(copy, "dvc", "repro", "fit_probe@digits")
    run(copy, "git", "commit", "-qam", "probed")
    assert ("random", 0) not in done(copy)
    run(copy, "dvc", "repro", "report")
    run(copy, "git", "commit", "-qam", "gathered")
    assert done(copy)["random", 0] == branch(copy)


def test_settings_or_metrics_edited_afterwards_are_not_what_was_run(copy):
    params, table = copy / "params.yaml", copy / "metrics" / "all.json"
    params.write_text(params.read_text().replace("seed: 0", "seed: 1"))
    run(copy, "git", "commit", "-qam", "edited settings")
    params.write_text(params.read_text().replace("seed: 1", "seed: 0"))
    assert done(copy) == {("random", 1): "by-hand", ("autoencoder", 0): branch(copy)}
    metrics = json.loads(table.read_text())
    metrics["metrics"]["top1"]["digits"] = 1.0
    table.write_text(json.dumps(metrics))
    run(copy, "git", "commit", "-qam", "edited metrics")
    assert done(copy) == {("random", 1): "by-hand"}


def test_what_was_fetched_from_a_remote_counts(repository, tmp_path):
    run(tmp_path, "git", "clone", "-q", str(repository), "clone")
    clone = tmp_path / "clone"
    shutil.copyfile(repository / "sweeps" / "t.yaml", clone / "sweeps" / "t.yaml")
    assert ("random", 1) not in done(clone)
    run(clone, "git", "fetch", "-q", "origin", "refs/exps/*:refs/exps/*")
    assert done(clone)["random", 1] == "by-hand"


def test_a_removed_experiment_no_longer_counts(copy):
    assert ("random", 1) in done(copy)
    ref = run(copy, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/by-hand").stdout.strip()
    run(copy, "git", "update-ref", "-d", ref)
    assert ("random", 1) not in done(copy)


def test_commits_of_anything_else_are_passed_over(tmp_path):
    with pytest.raises(UserError, match="no git repository"):
        Ledger(tmp_path).read()
    run(tmp_path, "git", "init", "-q")
    assert Ledger(tmp_path).read() == {}
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  other:\n    cmd: [make, it]\n")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "other")
    assert Ledger(tmp_path).read() == {}


def test_the_rows_of_a_sweep_are_those_of_its_cells_with_grid_and_commit_above(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    run(copy, "dvc", "exp", "run", "--temp", "-n", "foreign", "-S", "projector.activation=tanh")
    cells = make_cells(read_grid(Path("sweeps/t.yaml")))
    (failed,) = [cell for cell in cells if list(cell.overrides.values())[-2:] == ["autoencoder", 1]]
    error = "error: SimCLR loss is stuck (in a test)\nERROR: failed to reproduce"
    SweepState(copy, "t").failed(failed.name, error)
    monkeypatch.setattr(sys, "argv", ["headstart", "sweep", "rows", "t", "--out", "few.csv"])
    main()
    assert "few.csv: 2 rows" in capsys.readouterr().out
    table = rows.read_csv(copy / "few.csv")
    assert table["run"].tolist()[1:] == ["by-hand"], "and the branch's, but no other cell's"
    assert set(zip(table["projector_init"], table["seed"], strict=True)) == {("random", 1), ("autoencoder", 0)}
    assert "sweeps/t.yaml at commit" in table.attrs["comments"][0] and "2 of 4 cells" in table.attrs["comments"][0]
    told = table.attrs["comments"][-1]
    assert told.startswith("1 failed and have no row, SimCLR loss is stuck: ") and "init=autoencoder seed=1" in told


def test_a_sweep_without_a_finished_cell_has_no_rows(copy, monkeypatch):
    monkeypatch.chdir(copy)
    (copy / "sweeps" / "t.yaml").write_text(GRID.replace("[0, 1]", "[7]"))
    monkeypatch.setattr(sys, "argv", ["headstart", "sweep", "rows", "t"])
    with pytest.raises(SystemExit, match=r"^error: sweeps/t\.yaml: no finished cell; python -m headstart sweep run"):
        main()
    assert not (copy / "sweeps" / "results" / "t.csv").exists()
