"""The Ray engine on a real cluster: nodes and drivers are killed, and nothing is lost, doubled or different."""

import csv
import json
import signal
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from headstart.errors import UserError
from headstart.sweep.cells import Cell, make_cells
from headstart.sweep.cluster import check, connected
from headstart.sweep.grid import read_grid
from headstart.sweep.ledger import Ledger
from headstart.sweep.options import EngineOptions
from headstart.sweep.state import SweepState
from tests.checkouts import BIN, environment, run
from tests.sweep.nodes import (
    Cluster,
    answers,
    cluster,
    finished,
    free_port,
    in_training,
    kill_node,
    repository,
    wait_for,
    with_deadline,
)

SIXTEEN = """axes:
  projector.init: [random, autoencoder]
  projector.activation: [relu, tanh]
  projector.out_dim: [8, 16]
  seed: [0, 1]
"""
# four of them
FOUR = """axes:
  projector.init: [random, autoencoder]
  projector.activation: [relu, tanh]
  projector.out_dim: [8]
  seed: [0]
"""
# as many cells as nodes
LONG = """fixed:
  simclr.epochs: 8
  projector.init: random
axes:
  projector.activation: [relu, tanh, silu]
"""


def drive(root: Path, nodes: Cluster, action: str, *options: str, **env: str) -> subprocess.Popen[str]:
    """A process that runs the repository's grid, and ends with the cluster at the latest."""
    return subprocess.Popen(
        [BIN / "python", "-m", "headstart", "sweep", action, "sweeps/small.yaml", *options],
        cwd=root,
        env=environment(PYTHONPATH=str(root / "src"), **nodes.mark, **env),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def cells_of(root: Path) -> tuple[Cell, ...]:
    return make_cells(read_grid(root / "sweeps" / "small.yaml"), root)


def running_jobs(nodes: Cluster) -> list[psutil.Process]:
    """The processes in the nodes' clones."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(f"{nodes.folder}/headstart-") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    return repository(folder, str(folder / "store"), SIXTEEN)


def refusal(root: Path, **options) -> str:
    """The one line with which the engine refuses to begin."""
    revision = run(root, "git", "rev-parse", "HEAD").stdout.strip()
    with pytest.raises(UserError) as error:
        check(root, revision, EngineOptions(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """This machine may not know who commits."""
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Some Body")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "somebody@example.org")


def test_what_nodes_could_not_work_with_is_told_beforehand(pushed, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    params = pushed / "params.yaml"
    params.write_text(params.read_text() + "# edited\n")
    assert "params.yaml" in refusal(pushed) and "commit" in refusal(pushed)
    run(pushed, "git", "commit", "-qam", "edited")
    assert "git push origin HEAD" in refusal(pushed)
    run(pushed, "git", "push", "-q", "origin", "HEAD:main")
    site = check(pushed, run(pushed, "git", "rev-parse", "HEAD").stdout.strip(), EngineOptions(cpus_per_run=2))
    assert site.environment["OMP_NUM_THREADS"] == "2"
    assert site.environment["GIT_COMMITTER_EMAIL"] == "somebody@example.org", "nodes need not know who commits"
    assert capfd.readouterr().err.count("\n") == 1, "the runs will not be in MLflow"

    shallow = tmp_path / "shallow"
    run(tmp_path, "git", "clone", "-q", "--depth=1", "-b", "main", f"file://{pushed.parent}/origin.git", str(shallow))
    assert "git fetch --unshallow" in refusal(shallow)
    run(pushed, "git", "remote", "rename", "origin", "elsewhere")
    assert "git remote add origin" in refusal(pushed)
    run(pushed, "git", "remote", "rename", "elsewhere", "origin")


@pytest.mark.parametrize(
    ("url", "words"),
    [(None, "dvc remote add -d"), ("../../store", "relative"), ("s3://runs/store", "cannot be read")],
)
def test_a_dvc_remote_that_nodes_cannot_use_is_told_beforehand(tmp_path, monkeypatch, url, words):
    root = repository(tmp_path, str(tmp_path / "store"), SIXTEEN)
    config = (root / ".dvc" / "config").read_text()
    at = config.index("['remote") if url is None else config.index("url = ")
    text = config[:at].replace("remote = store", "") if url is None else f"{config[:at]}url = {url}\n"
    text += "    endpointurl = http://127.0.0.1:9\n" if url and url.startswith("s3") else ""
    (root / ".dvc" / "config").write_text(text)
    run(root, "git", "commit", "-qam", "another remote")
    run(root, "git", "push", "-q", "origin", "HEAD:main")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert words in refusal(root)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:10001"])
def test_a_cluster_that_does_not_answer_is_told_in_one_line(address):
    with pytest.raises(UserError, match=f"--address {address}: [^\n]+$"), connected(EngineOptions(address=address)):
        pass


@pytest.fixture(scope="module")
def nodes():
    with cluster() as started:
        started.start_head(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
        yield started


@dataclass
class Swept:
    root: Path
    store: Path
    nodes: Cluster
    before: dict[str, str]  # experiment -> commit, and
    logs: dict[str, str]  # experiment -> log, when the driver was killed
    interrupted: set[str]  # cells in whose training a kill fell
    outlived: int  # processes of the killed node's jobs that did not end


@pytest.fixture(scope="module")
def swept(tmp_path_factory, nodes) -> Swept:
    """Sixteen cells, a node killed in the middle, another one started for it, the driver killed, and again."""
    folder = tmp_path_factory.mktemp("swept")
    root = repository(folder, str(folder / "store"), SIXTEEN)
    first, second = nodes.start_node(), nodes.start_node()
    driver = drive(root, nodes, "run", "--engine", "ray", "--address", nodes.address)
    # kills at the end of a cell would interrupt nothing: both fall into trainings
    wait_for(lambda: len(finished(root)) >= 3 and in_training(second), 300, "a training after three cells")
    interrupted = in_training(second)
    outlived = len(psutil.wait_procs(kill_node(second), timeout=20)[1])
    third = nodes.start_node()
    wait_for(lambda: len(finished(root)) >= 8 and in_training(first, third), 400, "a training after eight")
    interrupted |= in_training(first, third)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not running_jobs(nodes), 30, "the end of a killed driver's jobs")
    before = finished(root)
    logs = {name: nodes.logs(root)[name] for name in before}
    status, output = with_deadline(drive(root, nodes, "resume"), 400)
    wrong = {name: state.error for name, state in SweepState(root, "small").all().items() if state.error}
    assert status == 0, (output, wrong)
    assert first.poll() is None
    return Swept(root, folder / "store", nodes, before, logs, interrupted, outlived)


@pytest.mark.kills
def test_a_killed_node_and_a_killed_driver_lose_nothing(swept):
    names = {cell.name for cell in cells_of(swept.root)}
    assert len(names) == 16 and set(finished(swept.root)) == names
    assert 8 <= len(swept.before) < 16, "the driver was killed in the middle"
    states = SweepState(swept.root, "small").all()
    assert {name: state.state for name, state in states.items()} == dict.fromkeys(names, "done")
    again = {name for name, state in states.items() if state.attempts > 1}
    assert len(swept.interrupted) >= 2, "each kill fell into a training"
    # the other node's cell, too, ended with the driver, wherever it was
    assert swept.interrupted <= again and len(again - swept.interrupted) <= 1 and not again & set(swept.before)
    assert swept.outlived == 0, "a lost node's jobs do not go on"


@pytest.mark.kills
def test_no_cell_runs_twice(swept):
    logs = swept.nodes.logs(swept.root)
    ended = {name: logs[name].count("Ran experiment(s)") for name in finished(swept.root)}
    # the one that ended with the driver outside its training may have ended just before
    assert all(number == 1 for name, number in ended.items() if name in swept.interrupted | set(swept.before))
    assert set(ended.values()) <= {1, 2} and sum(ended.values()) <= 17
    assert all(logs[name].count("Reproducing experiment") == 2 for name in swept.interrupted)
    assert {name: logs[name] for name in swept.before} == swept.logs
    assert swept.before.items() <= finished(swept.root).items(), "what was published stays"


@pytest.mark.kills
def test_each_autoencoder_is_trained_once(swept):
    logs = "".join(swept.nodes.logs(swept.root).values())
    assert len({cell.autoencoder for cell in cells_of(swept.root)} - {None}) == 2
    assert logs.count("autoencoder digits 16: test MSE") == 2


@pytest.mark.kills
def test_the_experiments_are_like_any_others(swept):
    known = Ledger(swept.root).read()
    assert {cell.identity for cell in cells_of(swept.root)} <= set(known)
    shown = run(swept.root, "dvc", "exp", "list", "--all-commits", "--name-only").stdout.split()
    assert set(shown) == set(finished(swept.root))
    rows = swept.root / "rows.csv"
    run(swept.root, "python", "-m", "headstart", "compare", "--rows", "dvc", "--save-rows", str(rows))
    with rows.open(newline="") as file:
        measured = [row["run"] for row in csv.DictReader(file) if row["probe_test_top1"]]
    assert sorted(measured) == sorted(finished(swept.root))


@pytest.mark.kills
def test_the_remote_has_every_out(swept):
    for name, commit in finished(swept.root).items():
        lock = yaml.safe_load(run(swept.root, "git", "show", f"{commit}:dvc.lock").stdout)
        for stage in lock["stages"].values():
            for out in stage.get("outs", []):
                if out["path"].startswith(("data/", "models/", "metrics/simclr", "metrics/probe")):
                    for digest in [out["md5"], *members(swept.store, out["md5"])]:
                        assert stored(swept.store, digest).is_file(), f"{name}: {out['path']}"


@pytest.mark.kills
def test_the_pool_gives_the_same_bits(swept, tmp_path):
    root = repository(tmp_path, str(tmp_path / "store"), FOUR)
    status, output = with_deadline(drive(root, swept.nodes, "run", "--jobs", "2"), 600)
    assert status == 0, output
    here, there = (Ledger(folder).read() for folder in (root, swept.root))
    identities = {cell.identity for cell in cells_of(root)}
    assert len(identities) == 4
    for identity in identities:
        pooled, sent = (
            run(folder, "git", "show", f"{found[identity].commit}:metrics/all.json").stdout
            for folder, found in ((root, here), (swept.root, there))
        )
        assert pooled == sent


@pytest.mark.kills
def test_stop_ends_what_runs_and_resume_goes_on(tmp_path, nodes):
    root = repository(tmp_path, str(tmp_path / "store"), LONG)
    workers = [process for process in nodes.processes[1:] if process.poll() is None] or [nodes.start_node()]
    driver = drive(root, nodes, "run", "--engine", "ray", "--address", nodes.address)
    wait_for(lambda: in_training(*workers), 300, "a training")
    run(root, "python", "-m", "headstart", "sweep", "stop", "sweeps/small.yaml", PYTHONPATH=str(root / "src"))
    status, output = with_deadline(driver, 120)
    assert status == 1 and "sweep resume sweeps/small.yaml" in output
    wait_for(lambda: not running_jobs(nodes), 30, "the end of what ran")
    assert len(finished(root)) < 3
    status, output = with_deadline(drive(root, nodes, "resume"), 400)
    assert status == 0, output
    assert set(finished(root)) == {cell.name for cell in cells_of(root)}


def stored(store: Path, digest: str) -> Path:
    return store / "files" / "md5" / digest[:2] / digest[2:]


def members(store: Path, digest: str) -> list[str]:
    return [row["md5"] for row in json.loads(stored(store, digest).read_text())] if digest.endswith(".dir") else []


@pytest.fixture
def s3():
    """An S3 server on loopback with one bucket."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    keys = environment(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    command = [BIN / "python", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, env=keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"127.0.0.1:{port}"), 60)
        make = f"import boto3; boto3.client('s3', endpoint_url='{address}').create_bucket(Bucket='runs')"
        subprocess.run([BIN / "python", "-c", make], env=keys, check=True)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def mlflow_server(tmp_path):
    """The address of an MLflow server on loopback, and its store."""
    port, store = free_port(), tmp_path / "served.db"
    command = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(tmp_path / "artifacts")]
    settings = environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: answers(f"127.0.0.1:{port}"), 120)
        yield f"http://127.0.0.1:{port}", store
    finally:
        for one in [process, *psutil.Process(process.pid).children(recursive=True)]:
            one.kill()
        process.wait()


@pytest.mark.kills
def test_a_lost_nodes_cell_goes_on_from_its_checkpoint_and_in_its_mlflow_run(tmp_path, nodes, s3, mlflow_server):
    address, store = mlflow_server
    root = repository(tmp_path, "s3://runs/store", LONG, tracking=True, endpointurl=s3)
    env = {"MLFLOW_TRACKING_URI": address, "HEADSTART_CHECKPOINT_SECONDS": "0"}
    env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    victim = nodes.start_node()
    options = ["--engine", "ray", "--address", nodes.address, "--checkpoints", str(tmp_path / "checkpoints")]
    driver = drive(root, nodes, "run", *options, **env)
    saved = tmp_path / "checkpoints" / "checkpoints" / "train_simclr"
    others = [process for process in nodes.processes if process is not victim and process.poll() is None]

    def has_saved() -> bool:  # every training, so also the victim's
        return bool(in_training(victim)) and len(list(saved.glob("[!.]*.pt"))) > len(in_training(*others))

    wait_for(has_saved, 300, "a checkpoint of the victim's training")
    (lost,) = in_training(victim)
    kill_node(victim)
    nodes.start_node()
    status, output = with_deadline(driver, 300)
    assert status == 0 and "warning" not in output, output
    cells = cells_of(root)
    assert set(finished(root)) == {cell.name for cell in cells}
    assert "goes on from its checkpoint" in nodes.logs(root)[lost]
    with sqlite3.connect(store) as runs:
        children = "select run_uuid from tags where key = 'mlflow.parentRunId'"
        told = "select value, status from runs join tags using (run_uuid) where key = 'dvc_experiment'"
        parents = runs.execute(f"{told} and run_uuid not in ({children})").fetchall()
    assert sorted(parents) == sorted((cell.name, "FINISHED") for cell in cells)
