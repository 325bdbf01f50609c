"""What counts as finished, on real commits of the real dvc: by hand, on a branch, half-finished, edited, fetched."""

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from headstart.__main__ import main
from headstart.errors import UserError
from headstart.study import rows
from headstart.sweep.cells import make_cells
from headstart.sweep.grid import read_grid
from headstart.sweep.ledger import Ledger, result_of
from headstart.sweep.state import SweepState
from headstart.sweep.view import screen
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
    record = json.loads(table.read_text())
    record["metrics"]["top1"]["digits"] = 1.0
    table.write_text(json.dumps(record))
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
    with pytest.raises(UserError, match="no git repository with a commit"):
        Ledger(tmp_path).read()
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


def test_rows_tell_a_fresh_clone_what_is_done_and_stay_when_it_goes_on(copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "argv", ["headstart", "sweep", "rows", "t"])
    main()
    run(copy, "git", "add", "-f", "sweeps")
    run(copy, "git", "commit", "-qm", "rows")
    run(tmp_path, "git", "clone", "-q", str(copy), "clone")
    clone = tmp_path / "clone"
    assert {key: name for key, name in done(clone).items() if key[0] == "random"} == {("random", 1): "by-hand"}
    cells = make_cells(read_grid(clone / "sweeps" / "t.yaml"), clone)
    finished = Ledger(clone).read()
    console = Console(file=io.StringIO(), width=120)
    console.print(screen(cells, finished, SweepState(clone, "t")))
    assert "2 done (1 known by their row in sweeps/results only)" in console.file.getvalue()

    run(clone, "dvc", "exp", "run", "--temp", "-n", "more", "-S", "projector.init=random", "-S", "seed=0")
    monkeypatch.chdir(clone)
    capsys.readouterr()
    main()
    table = rows.read_csv(clone / "sweeps" / "results" / "t.csv")
    assert {"by-hand", "more"} < set(table["run"]) and len(table) == 3
    assert "3 of 4 cells" in table.attrs["comments"][0]

    text = (clone / "sweeps" / "results" / "t.csv").read_text()  # rows of before had no identity
    without = "\n".join(line.replace(cells[1].identity, "") for line in text.splitlines()) + "\n"
    (clone / "sweeps" / "results" / "t.csv").write_text(without)
    assert cells[1].overrides["seed"] == 1 or cells[1].overrides["projector.init"] == "autoencoder"
    gone = next(cell for cell in cells if cell.identity in text and cell.identity not in without)
    assert gone.identity not in {identity for identity, result in Ledger(clone).read().items() if result.file}


def test_other_arrays_are_other_cells_where_both_are_known(copy):
    assert ("random", 1) in done(copy)
    cells = make_cells(read_grid(copy / "sweeps" / "t.yaml"), copy)
    finished = Ledger(copy).read()
    by_hand = next(cell for cell in cells if finished.get(cell.identity) and finished[cell.identity].name == "by-hand")
    known = finished[by_hand.identity]
    assert known.arrays and result_of(by_hand, finished) is known
    for arrays, counts in (("", True), (known.arrays, True), ("0123456789", False)):
        assert (result_of(replace(by_hand, arrays=arrays), finished) is not None) == counts
    branch_cell = next(cell for cell in cells if cell.arrays and cell.identity in finished)
    assert finished[branch_cell.identity].arrays == branch_cell.arrays, "prepared here, and told by dvc.lock"


def test_a_sweep_without_a_finished_cell_has_no_rows(copy, monkeypatch):
    monkeypatch.chdir(copy)
    (copy / "sweeps" / "t.yaml").write_text(GRID.replace("[0, 1]", "[7]"))
    monkeypatch.setattr(sys, "argv", ["headstart", "sweep", "rows", "t"])
    with pytest.raises(SystemExit, match=r"^error: sweeps/t\.yaml: no finished cell; python -m headstart sweep run"):
        main()
    assert not (copy / "sweeps" / "results" / "t.csv").exists()
