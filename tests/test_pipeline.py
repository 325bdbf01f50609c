"""The pipeline through the real dvc, in temporary clones with tiny settings, as users drive it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DATASET_STAGES = ("download", "prepare", "pretrain_autoencoder", "train_simclr", "fit_probe")


def environment(**extra: str) -> dict[str, str]:
    """The tests' own environment, without what the caller's would change."""
    dropped = ("MLFLOW_", "DVC_", "HEADSTART_", "GIT_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {**env, **identity, "PATH": f"{BIN}:{env['PATH']}", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", **extra}


def run(folder: Path, *command: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=400)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def shrink(params: Path, tracking: bool = False) -> None:
    """Settings with which the whole pipeline takes seconds."""
    tree = yaml.safe_load(params.read_text())
    tree["simclr"]["epochs"] = 2
    tree["autoencoder"]["epochs"] = 2
    tree["probe"].update(few_draws=1, strengths=[0.01])
    tree["projector"].update(hidden_dim=16, out_dim=8)
    tree["data"]["digits"].update(image_size=8, batch_size=256)
    tree["tracking"].update(enabled=tracking, log_model=False)
    params.write_text(yaml.safe_dump(tree, sort_keys=False))


def checkout(folder: Path, tracking: bool = False) -> Path:
    """A git repository with the working tree's files, tiny settings and one commit."""
    names = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("metrics/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shrink(folder / "params.yaml", tracking)
    (folder / "dvc.lock").unlink(missing_ok=True)
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    return folder


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics" / "metrics.json").read_text())


def outs(folder: Path) -> dict[str, bytes]:
    """Every file below models/ and metrics/."""
    files = [file for top in ("models", "metrics") for file in sorted((folder / top).rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def executed(output: str) -> set[str]:
    """The stages that dvc says it ran (not: restored or skipped)."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return {line.split("'")[1].split("@")[0] for line in lines}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A reproduced workspace whose results are committed."""
    folder = checkout(tmp_path_factory.mktemp("workspace"))
    done = run(folder, "dvc", "repro")
    assert executed(done.stdout) == {*DATASET_STAGES, "report", "track"}
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


def test_repro_leaves_all_metrics_and_a_second_one_does_nothing(workspace):
    table = metrics(workspace)
    needed = "top1 top1_untrained top1_majority few5 few5_untrained macro_f1 train_loss val_loss autoencoder_test_mse"
    for name in needed.split():
        assert set(table[name]) == {"mean", "digits"}
        assert table[name]["mean"] == table[name]["digits"]
    assert 0 < table["top1_majority"]["digits"] < table["top1"]["digits"] <= 1
    again = run(workspace, "dvc", "repro")
    assert executed(again.stdout) == {"track"}
    assert not run(workspace, "git", "status", "--porcelain").stdout
    assert "| digits | 3" in (workspace / "metrics" / "report.md").read_text()


def test_another_activation_does_not_retrain_the_autoencoder(workspace):
    done = run(workspace, "dvc", "exp", "run", "-S", "projector.activation=tanh", "-n", "tanh")
    assert executed(done.stdout) == {"train_simclr", "fit_probe", "report", "track"}
    shown = run(workspace, "dvc", "exp", "show", "--csv").stdout
    assert "top1.digits" in shown and "tanh" in shown
    diff = run(workspace, "dvc", "metrics", "diff", "--md").stdout
    assert "| metrics/metrics.json | train_loss.digits" in " ".join(diff.split())
    plots = run(workspace, "dvc", "plots", "diff", "HEAD", "workspace", "-o", "plots_page")
    assert plots.stdout.strip().endswith("index.html")
    page = next((workspace / "plots_page").glob("*.html")).read_text()
    assert "SimCLR loss" in page and "digits_views.png" in page
    shutil.rmtree(workspace / "plots_page")
    run(workspace, "git", "checkout", "-q", ".")
    run(workspace, "dvc", "checkout")


def test_a_random_projector_trains_no_autoencoder_and_apply_brings_it_back(workspace):
    run(workspace, "dvc", "exp", "run", "--temp", "-S", "projector.init=random", "-n", "random")
    assert "autoencoder_test_mse" in metrics(workspace), "a --temp experiment left the workspace alone"
    run(workspace, "dvc", "exp", "apply", "random")
    folder = workspace / "models" / "autoencoder" / "digits" / "random-16"
    assert [file.name for file in folder.iterdir()] == ["none.json"]
    assert "autoencoder_test_mse" not in metrics(workspace)
    run(workspace, "git", "checkout", "-q", ".")
    run(workspace, "dvc", "checkout")


def test_push_and_pull_train_nothing_in_a_second_clone(workspace, tmp_path):
    run(workspace, "dvc", "remote", "add", "--local", "-d", "store", str(tmp_path / "store"))
    run(workspace, "dvc", "push", "--run-cache")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(workspace), str(clone))
    run(clone, "dvc", "remote", "add", "--local", "-d", "store", str(tmp_path / "store"))
    done = run(clone, "dvc", "repro", "--pull")
    assert executed(done.stdout) <= {"track"}
    assert (clone / "dvc.lock").read_text() == (workspace / "dvc.lock").read_text()
    run(clone, "dvc", "pull")
    assert outs(clone) == outs(workspace)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A workspace with MLflow on, whose results are committed."""
    folder = checkout(tmp_path_factory.mktemp("tracked"), tracking=True)
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


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
    top1 = {
        name: head["metrics"]["metrics/metrics.json"]["data"]["train_loss"]["digits"] for name, head in done.items()
    }
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


def test_outs_are_the_same_with_tracking_on_off_and_dead(tracked, workspace):
    files = outs(tracked)
    assert outs(workspace) == files
    dead = run(
        tracked, "python", "-m", "stages.train_simclr", "--dataset", "digits", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert dead.stderr.count("\n") == 1 and "tracking" in dead.stderr.lower()
    assert outs(tracked) == files
    run(tracked, "dvc", "checkout", "--force")


def test_a_killed_training_resumes_to_the_same_bits(workspace):
    command = ["python", "-m", "stages.train_simclr", "--dataset", "digits"]
    settings = {"HEADSTART_CHECKPOINT_SECONDS": "0"}
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["simclr"]["epochs"] = 6
    (workspace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    try:
        run(workspace, *command)
        unbroken = outs(workspace)
        checkpoints = workspace / ".cache" / "checkpoints" / "train_simclr"
        assert not list(checkpoints.glob("*.pt")), "a finished run leaves no checkpoint"
        process = subprocess.Popen(command, cwd=workspace, env=environment(**settings), stdout=subprocess.DEVNULL)
        wait_for_steps(checkpoints, 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(checkpoints.glob("*.pt")), "the kill came before the end"
        shutil.rmtree(workspace / "models" / "simclr")
        run(workspace, *command)
        assert outs(workspace) == unbroken
    finally:
        run(workspace, "git", "checkout", "-q", ".")
        run(workspace, "dvc", "checkout", "--force")


def wait_for_steps(folder: Path, saves: int, seconds: float = 60) -> None:
    """Wait until a checkpoint was written `saves` times."""
    seen, end = set(), time.monotonic() + seconds
    while len(seen) < saves:
        assert time.monotonic() < end, "no checkpoint appeared"
        seen |= {file.stat().st_mtime_ns for file in folder.glob("*.pt")}
        time.sleep(0.01)


def test_make_repro_works_without_git_history(workspace, tmp_path):
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=workspace, capture_output=True, check=True).stdout
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "x"], cwd=folder, input=archive, check=True)
    (folder / ".venv").symlink_to(BIN.parent, target_is_directory=True)
    (folder / "requirements.txt").touch()
    os.utime(folder / "requirements.txt", (0, 0))
    done = run(folder, "make", "repro", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert "No git history here" in done.stdout
    assert metrics(folder) == metrics(workspace)
