"""The pipeline through the real dvc, in a temporary clone with tiny settings, as users drive it."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.checkouts import (
    BIN,
    DATASET_STAGES,
    bash,
    checkout,
    edit,
    environment,
    executed,
    metrics,
    outs,
    readme_block,
    restore,
    run,
)
from tests.study.test_metrics import TEN


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A reproduced workspace whose results are committed."""
    folder = checkout(tmp_path_factory.mktemp("workspace"))
    done = run(folder, "dvc", "repro")
    assert executed(done.stdout) == {*DATASET_STAGES, "check", "prepare_source", "report", "track"}
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


def test_repro_leaves_all_metrics_and_a_second_one_does_nothing(workspace):
    table = metrics(workspace)
    needed = "top1_majority macro_f1 train_loss"
    for name in [*needed.split(), *TEN.split()]:
        assert set(table[name]) == {"digits"}, "no mean of one dataset"
    watched = json.loads((workspace / "metrics" / "metrics.json").read_text())
    assert set(watched) == set(TEN.split()) and watched == {name: table[name] for name in watched}
    scores = json.loads((workspace / "metrics" / "probe" / "digits" / "summary.json").read_text())["trained"]
    assert {name: table[name]["digits"] for name in scores} == scores
    assert 0 < table["top1_majority"]["digits"] < table["top1"]["digits"] <= 1
    again = run(workspace, "dvc", "repro")
    assert executed(again.stdout) == {"track"}
    assert not run(workspace, "git", "status", "--porcelain").stdout
    assert "test images (359 of digits)" in (workspace / "metrics" / "report.md").read_text()


def test_the_comparison_of_readme_runs_as_it_stands(workspace):
    (workspace / ".venv").symlink_to(BIN.parent, target_is_directory=True)
    run(workspace, "git", "reset", "-q", "HEAD~1")  # the block commits the baseline itself
    output = bash(workspace, readme_block("dvc metrics diff"))
    tanh, random = output.split("dvc exp show")[0].split("Running stage 'train_simclr")[1:]
    assert "pretrain_autoencoder" not in executed("Running stage 'train_simclr" + tanh.split("Ran experiment")[0])
    assert executed("Running stage 'train_simclr" + random) >= {"train_simclr", "fit_probe", "report", "track"}
    assert "metrics/metrics.json" in output and "val_loss.digits" in output, (
        "dvc metrics diff: one line a metric and dataset"
    )
    assert "top1.digits" in output.replace("\n", ""), "dvc exp show: one column a metric and dataset"
    assert "autoencoder_test_mse" not in metrics(workspace), "the last experiment has a random projector"
    page = (workspace / "dvc_plots" / "index.html").read_text()
    assert "SimCLR loss" in page and "digits_views.png" in page
    restore(workspace)


def test_own_images_run_with_the_command_of_readme(workspace, tmp_path):
    random = np.random.default_rng(0)
    for split, number in (("train", 40), ("test", 10)):
        for label, base in (("dark", 40), ("light", 200)):
            folder = tmp_path / "own" / split / label
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = (base + random.integers(-30, 30, (12, 10, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    shutil.make_archive(str(tmp_path / "own"), "zip", tmp_path / "own")
    command = readme_block("cifar10-mini.zip").strip().replace("/path/to/cifar10-mini.zip", str(tmp_path / "own.zip"))
    output = bash(workspace, f"{command} -S datasets.yaml:mine.batch_size=16 -S datasets.yaml:mine.image_size=8")
    assert "mine: 72 train, 8 val, 20 test images of 2 classes" in output
    assert metrics(workspace)["top1"]["mine"] == 1.0
    restore(workspace)


def test_a_random_projector_trains_no_autoencoder_and_apply_brings_it_back(workspace):
    run(workspace, "dvc", "exp", "run", "--temp", "-S", "projector.init=random", "-n", "random")
    assert "autoencoder_test_mse" in metrics(workspace), "a --temp experiment left the workspace alone"
    run(workspace, "dvc", "exp", "apply", "random")
    folder = workspace / "models" / "autoencoder" / "digits" / "random-16"
    assert [file.name for file in folder.iterdir()] == ["none.json"]
    assert "autoencoder_test_mse" not in metrics(workspace)
    restore(workspace)


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


def test_a_killed_training_resumes_to_the_same_bits(workspace):
    command = ["python", "-m", "stages.train_simclr", "--dataset", "digits"]
    settings = {"HEADSTART_CHECKPOINT_SECONDS": "0"}
    edit(workspace, {"simclr.epochs": 6})
    try:
        run(workspace, *command)
        unbroken = outs(workspace)
        checkpoints = workspace / ".cache" / "checkpoints" / "train_simclr"
        assert not saved_in(checkpoints), "a finished run leaves no checkpoint"
        process = subprocess.Popen(command, cwd=workspace, env=environment(**settings), stdout=subprocess.DEVNULL)
        wait_for_steps(checkpoints, 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert saved_in(checkpoints), "the kill came before the end"
        shutil.rmtree(workspace / "models" / "simclr")
        assert "train_simclr: goes on from its checkpoint" in run(workspace, *command).stdout
        assert outs(workspace) == unbroken
        assert not list(checkpoints.iterdir()), "what the kill left is gone"
    finally:
        restore(workspace)


def saved_in(folder: Path) -> list[Path]:
    """The whole checkpoints: a temporary's name begins with a dot."""
    return [file for file in folder.glob("*.pt") if not file.name.startswith(".")]


def wait_for_steps(
    folder: Path, saves: int, seconds: float = 60, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait until a checkpoint was written `saves` times; by a process that must not end before."""
    seen, end = set(), time.monotonic() + seconds
    while len(seen) < saves:
        assert time.monotonic() < end, "no checkpoint appeared"
        assert process is None or process.poll() is None, process and process.communicate()[0]
        seen |= {file.stat().st_mtime_ns for file in saved_in(folder)}
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


@pytest.mark.slow
def test_all_evaluation_and_diagnostics_change_no_weight_and_transfer_trains_nothing(workspace):
    before = outs(workspace)
    knobs = {
        "probe.layers": "[backbone,hidden,output]",
        "probe.few_shares": "[0.1]",
        "probe.finetune_epochs": "1",
        "diagnostics.every": "2",
        "diagnostics.dense_steps": "3",
        "simclr.monitor_epochs": "1",
    }
    done = run(workspace, "dvc", "exp", "run", *(word for knob in knobs.items() for word in ("-S", "=".join(knob))))
    assert executed(done.stdout) == {"train_simclr", "fit_probe", "fit_baselines", "report", "track"}
    after = outs(workspace)
    for part in ("backbone", "projector"):
        name = f"models/simclr/digits/{part}.safetensors"
        assert after[name] == before[name]
    table = metrics(workspace)
    kept = json.loads(before["metrics/all.json"])["metrics"]
    assert {name: table[name] for name in kept} == kept
    assert {"top1_hidden", "top1_output", "top1_finetuned", "top1_finetuned_untrained", "few10pct"} <= set(table)
    folder = workspace / "metrics" / "simclr" / "digits"
    steps = [line.split(",")[0] for line in (folder / "diagnostics.csv").read_text().splitlines()]
    assert steps == ["step", "0", "1", "2", "4", "6", "8"][: len(steps)] and len(steps) > 5
    curve = (folder / "curve.csv").read_text().splitlines()
    assert curve[0].endswith(",monitor") and 0 < float(curve[-1].split(",")[-1]) <= 1
    assert "Gradient flow" in (workspace / "metrics" / "report.html").read_text()
    assert (workspace / "metrics" / "plots" / "gradient_flow.csv").is_file()

    done = run(workspace, "dvc", "exp", "run", "-S", "probe.datasets=[digits]")  # on itself: what is known
    assert executed(done.stdout) == {"check", "prepare_target", "transfer", "report", "track"}
    table = metrics(workspace)
    for name in ("top1_on_digits", "top1_zero_shot_on_digits"):
        assert table[name] == table["top1"]
    assert table["top1_on_digits_untrained"] == table["top1_untrained"]
    assert table["knn20_on_digits"] == table["knn20"]
    restore(workspace)
