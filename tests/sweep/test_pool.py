"""The pool under a sweep, with the real dvc: what is killed, stopped or fails is neither lost nor done twice."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from headstart.study.experiments import read_dvc
from headstart.sweep.cells import make_cells
from headstart.sweep.grid import read_grid
from headstart.sweep.pool import MARKER
from headstart.sweep.run_cell import experiment_ref
from tests.checkouts import checkout, environment, metrics, run
from tests.sweep.stubs import stub_checkout

pytestmark = pytest.mark.slow
SWEEP = ("python", "-m", "headstart", "sweep")


def write_grid(folder: Path, activations: list[str], seeds: list[int], inits: str = "random") -> None:
    text = f"fixed: {{datasets: digits}}\naxes:\n  projector.init: [{inits}]\n"
    text += f"  projector.activation: {json.dumps(activations)}\n  seed: {json.dumps(seeds)}\n"
    (folder / "sweeps" / "t.yaml").write_text(text)


def sweep(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(folder, *SWEEP, *words, check=check, PYTHONPATH=str(folder / "src"))


def begin(folder: Path, *words: str) -> subprocess.Popen:
    env = environment(PYTHONPATH=str(folder / "src"))
    with (folder / ".cache" / "driver.log").open("a") as log:
        return subprocess.Popen([*SWEEP, *words], cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)


def executed(folder: Path, stage: str = "train_simclr") -> list[list]:
    file = folder / ".cache" / "executed.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row[0] == stage]


def wait_until(fact, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def experiments(folder: Path) -> list[str]:
    refs = run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return [ref.rpartition("/")[2] for ref in refs if "/t-" in ref]


def workers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(folder / ".cache" / "sweeps" / "t"):
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


def of(process: psutil.Process, word: str) -> bool:
    try:
        return word in process.cmdline()
    except psutil.Error:
        return False


def supervisor(process: psutil.Process) -> bool:
    """It is the first of a cell's processes, and has the driver above it."""
    return of(process, "-c") and of(process, "exp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = stub_checkout(tmp_path_factory.mktemp("swept"))
    yield folder
    for process in workers(folder):
        process.kill()


@pytest.mark.parametrize(("seed", "kind"), [(0, "a supervisor"), (1, "dvc"), (2, "a training")])
def test_a_killed_process_loses_nothing(folder, seed, kind):
    write_grid(folder, ["relu", "tanh"], [seed])
    before, log = len(executed(folder)), folder / ".cache" / "driver.log"
    log.unlink(missing_ok=True)
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t", "--jobs", "2", "--devices", "7,8")
    wait_until(lambda: len(executed(folder)) == before + 2)
    kinds = {
        "a supervisor": [process for process in workers(folder) if supervisor(process)],
        "dvc": [process for process in workers(folder) if of(process, "exp") and not supervisor(process)],
        "a training": [process for process in workers(folder) if of(process, "stages.train_simclr")],
    }
    victim = kinds[kind][-1]
    family = victim.children(recursive=True)
    victim.kill()
    # before its orphans can end well: DVC's run cache would then give the cell its results
    assert not psutil.wait_procs(family, timeout=20)[1], "nothing of it goes on"
    wait_until(lambda: "begun again" in log.read_text())
    (folder / ".cache" / "slow").unlink()
    assert driver.wait(300) == 0, log.read_text()
    new = executed(folder)[before:]
    assert len(experiments(folder)) == len(set(experiments(folder))) == 2 * (seed + 1)
    assert {row[-1] for row in new} == {"7", "8"}, "each slot has its device"
    assert len(new) == 3, "but for the one that was lost, each ran once"
    assert not workers(folder) and "2 of 2 cells done, 0 failed" in log.read_text()
    again = sweep(folder, "run", "t").stdout
    assert "2 cells, 2 done, 0 to run" in again and len(executed(folder)) == before + 3
    assert not run(folder, "git", "status", "--porcelain", "--untracked-files=no").stdout, "the workspace is as it was"


def test_a_killed_driver_is_resumed_and_one_axis_more_runs_its_cells_alone(folder):
    before = len(executed(folder))
    write_grid(folder, ["relu", "tanh", "silu"], [0, 1])
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t", "--jobs", "2")
    wait_until(lambda: len(executed(folder)) == before + 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not workers(folder), 20)  # all ends with its driver
    shown = sweep(folder, "status", "t", "--once").stdout
    assert "6 cells: 4 done" in shown and "2 lost" in shown and "nothing runs it now" in shown
    (folder / ".cache" / "slow").unlink()
    assert "6 of 6" in sweep(folder, "resume", "t").stdout
    assert len(experiments(folder)) == len(set(experiments(folder))) == 8
    new = executed(folder)[before:]
    assert {tuple(row[1:4]) for row in new} == {("random", "silu", 0), ("random", "silu", 1)} and len(new) == 4


def test_what_outlives_even_the_supervisors_is_ended_when_the_sweep_goes_on(folder):
    before = len(executed(folder))
    write_grid(folder, ["sigmoid"], [0])
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t")
    wait_until(lambda: len(executed(folder)) == before + 1)
    first = next(process for process in workers(folder) if supervisor(process))
    first.suspend()  # so that it cannot see its driver's end
    orphans = first.children(recursive=True)
    driver.kill()
    driver.wait()
    first.kill()
    assert psutil.wait_procs(orphans, timeout=1)[1], "they go on"
    (folder / ".cache" / "slow").unlink()
    assert "1 of 1 cells done" in sweep(folder, "resume", "t").stdout
    assert not psutil.wait_procs(orphans, timeout=1)[1]


def test_a_failure_is_shown_with_its_log_and_retried_alone(folder):
    before = len(executed(folder))
    write_grid(folder, ["gelu", "elu"], [0])
    (folder / ".cache" / "trap").write_text("gelu 0")
    failing = sweep(folder, "run", "t", "--jobs", "2", check=False)
    assert failing.returncode == 1 and "t: 1 failed" in failing.stderr and len(executed(folder)) == before + 2
    shown = sweep(folder, "status", "t", "--once").stdout
    assert "the trap is shut" in shown and "1 done" in shown and "1 failed" in shown
    command = next(line.strip() for line in shown.splitlines() if line.strip().startswith("dvc exp run"))
    skipped = sweep(folder, "run", "t", check=False)
    assert "sweep retry t --failed" in skipped.stdout and len(executed(folder)) == before + 2
    (folder / ".cache" / "trap").unlink()
    assert "2 of 2 cells done, 0 failed" in sweep(folder, "retry", "t", "--failed").stdout
    assert [row[2] for row in executed(folder)[before + 2 :]] == ["gelu"]
    assert f"-n {experiments_of(folder, 'gelu')}" in command and "projector.activation=gelu" in command


def test_a_cell_that_met_another_one_in_the_run_cache_is_begun_again(folder):
    """As seen once in 150 cells: DVC 3.67 lists an entry that the other cell is moving into place."""
    write_grid(folder, ["leaky_relu"], [0])
    entry = f"/somewhere/.dvc/cache/runs/c2/c2{62 * 'b'}/.zdTvoRTI8Uh-XM2muCUKDw.tmp"
    (folder / ".cache" / "race").write_text(
        f"ERROR: failed to reproduce 'prepare_source': [Errno 2] No such file or directory: '{entry}'"
    )
    said = sweep(folder, "run", "t").stdout
    assert "begun again" in said and "1 of 1 cells done, 0 failed" in said


def experiments_of(folder: Path, activation: str) -> str:
    cells = json.loads((folder / ".cache" / "sweeps" / "t" / "cells.json").read_text())
    return next(cell["name"] for cell in cells if cell["overrides"]["projector.activation"] == activation)


def test_stop_ends_what_runs_and_resume_goes_on(folder):
    write_grid(folder, ["identity"], [0])
    before = len(executed(folder))
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t")
    wait_until(lambda: len(executed(folder)) == before + 1)
    assert "is run already" in sweep(folder, "run", "t", check=False).stderr
    sweep(folder, "stop", "t")
    assert driver.wait(60) == 1, "it has not done what it was begun for"
    assert "t: stopped; to go on" in (folder / ".cache" / "driver.log").read_text().splitlines()[-1]
    assert not workers(folder)
    assert "1 waiting" in sweep(folder, "status", "t", "--once").stdout
    (folder / ".cache" / "slow").unlink()
    assert "1 of 1 cells done" in sweep(folder, "resume", "t").stdout


def test_an_experiment_of_a_cells_name_without_its_results_makes_way(folder):
    write_grid(folder, ["identity"], [1])
    cell = make_cells(read_grid(folder / "sweeps" / "t.yaml"), folder)[0]
    head = run(folder, "git", "rev-parse", "HEAD").stdout.strip()
    run(folder, "git", "update-ref", experiment_ref(head, cell.name), head)
    assert "1 of 1 cells done" in sweep(folder, "run", "t").stdout


def test_dvcs_queue_is_told_to_be_no_engine_any_more(folder):
    said = sweep(folder, "run", "t", "--engine", "queue", check=False)
    assert said.returncode == 1 and said.stderr.startswith("error: --engine queue: DVC's queue is no engine any more")
    assert said.stderr.count("\n") == 1
    driver = folder / ".cache" / "sweeps" / "t" / "driver.json"
    driver.write_text(driver.read_text().replace('"pool"', '"queue"'))  # of a sweep that was begun before
    assert "0 to run" in sweep(folder, "resume", "t").stdout


def test_code_that_is_not_committed_is_not_swept(folder):
    with (folder / "params.yaml").open("a") as file:
        file.write("# other\n")
    refused = sweep(folder, "run", "t", check=False)
    assert refused.returncode == 1 and "params.yaml: not committed" in refused.stderr
    run(folder, "git", "checkout", "-q", "params.yaml")


def test_an_autoencoder_is_trained_once_for_cells_that_meet_at_it(tmp_path):
    """The real stages: two initialisations at once that need the same autoencoder."""
    folder = checkout(tmp_path, tracking=True)
    write_grid(folder, ["relu"], [0], inits="autoencoder, random_matched")
    sweep(folder, "run", "t", "--jobs", "2")
    assert len(experiments(folder)) == 2
    made = [path for path in (folder / ".cache" / "shared" / "pretrain_autoencoder").iterdir() if path.is_dir()]
    assert len(made) == 1, "in the main workspace, for all"
    logs = [file.read_text() for file in (folder / ".cache" / "sweeps" / "t" / "logs").glob("t-*.log")]
    assert sum("autoencoder digits 16: test MSE" in log for log in logs) == 1 and len(logs) == 2
    assert (folder / "mlflow.db").is_file() and not list((folder / ".cache" / "sweeps").rglob("mlflow.db"))
    name = experiments(folder)[0]
    run(folder, "dvc", "exp", "apply", name)
    assert "top1" in metrics(folder), "it is an experiment like any other"


def test_a_project_in_a_folder_of_a_larger_repository_is_swept_too(tmp_path):
    folder = tmp_path / "studies" / "heads"
    stub_checkout(folder)
    shutil.rmtree(folder / ".git")
    (tmp_path / "other.txt").write_text("of the larger repository")
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "start")
    write_grid(folder, ["relu", "tanh"], [0])
    (tmp_path / "other.txt").write_text("edited")
    assert "2 of 2 cells done, 0 failed" in sweep(folder, "run", "t", "--jobs", "2").stdout
    assert len(experiments(folder)) == len(executed(folder)) == 2
    rows, _ = read_dvc(folder)
    name, _ = names = experiments(folder)
    assert sorted(row["projector_activation"] for row in rows if row["run"] in names) == ["relu", "tanh"]
    run(folder, "dvc", "exp", "apply", name)
    ask = "from headstart.tracking.provenance import experiment_of_workspace as known; print(known())"
    known = run(folder, "python", "-c", ask)
    assert known.stdout.strip() == name


def test_a_shallow_clone_is_refused_in_one_line(folder, tmp_path):
    run(folder, "git", "commit", "-qm", "second", "--allow-empty")
    run(tmp_path, "git", "clone", "-q", "--depth=1", f"file://{folder}", "shallow")
    write_grid(tmp_path / "shallow", ["relu"], [0])
    said = sweep(tmp_path / "shallow", "run", "t", check=False)
    assert said.returncode == 1 and "git fetch --unshallow" in said.stderr and said.stderr.count("\n") == 1
