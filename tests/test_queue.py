"""DVC's queue and MLflow beside the real pipeline: nothing lost, nothing changed."""

import json
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from tests.checkouts import checkout, outs, restore, run

AFTER_PREPARE = (
    *([stage, "--dataset", "digits"] for stage in ("train_simclr", "fit_probe", "fit_baselines")),
    ["report"],
)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A workspace with MLflow on, whose results are committed."""
    folder = checkout(tmp_path_factory.mktemp("tracked"), tracking=True)
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


@pytest.mark.slow
def test_a_queue_of_four_loses_nothing_and_runs_the_code_as_queued(tracked):
    override = "projector.activation=relu,silu,sigmoid,tanh"
    run(tracked, "dvc", "exp", "run", "--queue", "-S", override, "-S", "seed=1")
    losses = tracked / "src" / "headstart" / "training" / "losses.py"
    committed = losses.read_text()
    losses.write_text("raise RuntimeError('the live workspace was imported')\n")
    try:
        run(tracked, "dvc", "queue", "start", "-j", "2")
        wait_for_queue(tracked, 4)
    finally:
        losses.write_text(committed)
        run(tracked, "dvc", "queue", "stop")
    shown = run(tracked, "dvc", "exp", "show", "--json").stdout
    experiments = [entry for row in json.loads(shown) for entry in (row.get("experiments") or [])]
    heads = [entry["revs"][0]["data"] for entry in experiments]
    done = {head["params"]["params.yaml"]["data"]["projector"]["activation"]: head for head in heads}
    assert set(done) == {"relu", "silu", "sigmoid", "tanh"}
    top1 = {name: head["metrics"]["metrics/metrics.json"]["data"]["val_loss"]["digits"] for name, head in done.items()}
    assert len(set(top1.values())) == 4, "each experiment trained with its own activation"
    with sqlite3.connect(tracked / "mlflow.db") as store:
        query = (
            "select r.run_uuid, p.value from runs r join params p using (run_uuid) where p.key = 'projector.activation'"
        )
        children = "select run_uuid from tags where key = 'mlflow.parentRunId'"
        parents = store.execute(f"{query} and r.run_uuid not in ({children})").fetchall()
    assert sorted(value for _, value in parents) == ["relu", "relu", "sigmoid", "silu", "tanh"]


def wait_for_queue(folder: Path, number: int, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = run(folder, "dvc", "queue", "status").stdout
        assert "Failed" not in status, status + run(folder, "dvc", "queue", "logs", "--help").stdout
        if status.count("Success") == number:
            return
        time.sleep(2)
    raise AssertionError(f"the queue did not end in {seconds:.0f} s:\n{status}")


@pytest.fixture
def silent_server():
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_outs_are_the_same_with_a_dead_tracking_server(tracked, silent_server, kind):
    files = outs(tracked)
    address = silent_server if kind == "silent" else "http://127.0.0.1:9"
    started = time.monotonic()
    stages = [*AFTER_PREPARE, ["track"]]
    errors = "".join(
        run(tracked, "python", "-m", f"stages.{name}", *options, MLFLOW_TRACKING_URI=address).stderr
        for name, *options in stages
    )
    assert errors.count("\n") == 1 and "MLflow" in errors, errors
    assert time.monotonic() - started < 120
    assert outs(tracked) == files
    restore(tracked)


def test_outs_are_the_same_with_tracking_off(tracked):
    files = outs(tracked)
    params = (tracked / "params.yaml").read_text()
    (tracked / "params.yaml").write_text(params.replace("enabled: true", "enabled: false"))
    for name, *options in AFTER_PREPARE:
        run(tracked, "python", "-m", f"stages.{name}", *options)
    assert outs(tracked) == files
    restore(tracked)
