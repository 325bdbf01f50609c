"""DVC's queue under a sweep, with the real dvc: what is killed, stopped or fails is neither lost nor done twice."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from headstart.sweep.clone import MARKER
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
    clone = str(folder / ".cache" / "sweeps" / "t" / "clone")
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == clone:
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


def queue_worker(process: psutil.Process) -> bool:
    try:
        return "queue-worker" in process.cmdline()
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = stub_checkout(tmp_path_factory.mktemp("swept"))
    yield folder
    for process in workers(folder):
        process.kill()


def test_a_killed_worker_loses_nothing(folder):
    write_grid(folder, ["relu", "tanh"], [0, 1])
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t", "--jobs", "2", "--devices", "7,8")
    wait_until(lambda: len(executed(folder)) == 2)
    victim = next(process for process in workers(folder) if queue_worker(process))
    victim.kill()
    # before its orphan can end well: DVC's run cache would then give the cell its results
    wait_until(lambda: "its worker was killed" in (folder / ".cache" / "driver.log").read_text())
    (folder / ".cache" / "slow").unlink()
    assert driver.wait(300) == 0, (folder / ".cache" / "driver.log").read_text()
    assert len(experiments(folder)) == len(set(experiments(folder))) == 4
    assert {row[-1] for row in executed(folder)} == {"7", "8"}, "each worker has its device"
    assert len(executed(folder)) == 5, "but for the one that was lost, each ran once"
    assert not workers(folder) and "4 of 4 cells done, 0 failed" in (folder / ".cache" / "driver.log").read_text()
    again = sweep(folder, "run", "t").stdout
    assert "4 cells, 4 done, 0 to run" in again and len(executed(folder)) == 5
    assert not run(folder, "git", "status", "--porcelain", "--untracked-files=no").stdout, "the workspace is as it was"


def test_a_killed_driver_is_resumed_and_one_axis_more_runs_its_cells_alone(folder):
    before = len(executed(folder))
    write_grid(folder, ["relu", "tanh", "silu"], [0, 1])
    (folder / ".cache" / "slow").touch()
    driver = begin(folder, "run", "t", "--jobs", "2")
    wait_until(lambda: len(executed(folder)) == before + 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert workers(folder), "the queue outlives its driver"
    shown = sweep(folder, "status", "t", "--once").stdout
    assert "6 cells: 4 done" in shown and "nothing runs it now" in shown
    (folder / ".cache" / "slow").unlink()
    assert "2 of 6" not in sweep(folder, "resume", "t").stdout
    assert len(experiments(folder)) == len(set(experiments(folder))) == 6
    new = executed(folder)[before:]
    assert {tuple(row[1:4]) for row in new} == {("random", "silu", 0), ("random", "silu", 1)}
    assert not workers(folder)


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


def test_a_cell_that_met_another_worker_in_the_run_cache_is_queued_again(folder):
    """As seen once in 150 cells: DVC 3.67 lists an entry that the other worker is moving into place."""
    write_grid(folder, ["leaky_relu"], [0])
    entry = f"/somewhere/.dvc/cache/runs/c2/c2{62 * 'b'}/.zdTvoRTI8Uh-XM2muCUKDw.tmp"
    (folder / ".cache" / "race").write_text(
        f"ERROR: failed to reproduce 'prepare_source': [Errno 2] No such file or directory: '{entry}'"
    )
    said = sweep(folder, "run", "t").stdout
    assert "queued again" in said and "1 of 1 cells done, 0 failed" in said


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
