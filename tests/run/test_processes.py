"""The SimCLR stage as several processes of this machine: by torchrun, by params.yaml, killed, and refused."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from headstart.errors import UserError
from headstart.run import processes
from headstart.run.params import load_params
from stages import download, prepare, train_simclr
from tests.checkouts import BIN, ROOT, edit, environment, outs

pytestmark = pytest.mark.slow
CHECKPOINTS = ".cache/checkpoints/train_simclr"


@contextmanager
def inside(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def configure(folder: Path, num_processes: int = 1, **simclr) -> None:
    """Two epochs of three steps, so slow that rounding stays rounding: this network triples it at every usual step.

    In float32: `auto` is bf16 on hardware that has it, where rounding is 60,000 times coarser.
    """
    for name in ("params.yaml", "datasets.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    own = {"epochs": 2, "learning_rate": 3e-4, "precision": "fp32", "num_processes": num_processes, **simclr}
    changes = {f"simclr.{key}": value for key, value in own.items()}
    changes |= {"projector.init": "random", "projector.hidden_dim": 16, "projector.out_dim": 8}
    changes |= {"data.val_fraction": 0.5, "data.test_fraction": 0.5, "tracking.enabled": False}
    edit(folder, {**changes, "datasets.yaml:digits.batch_size": 128})


def clear(folder: Path) -> dict[str, bytes]:
    """Remove what the stage wrote, and return it."""
    with inside(folder):
        found = outs(folder)
        for name in found:
            Path(name).unlink()
    return found


def start(folder: Path, *command: str, **extra: str) -> "subprocess.Popen[str]":
    env = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}", DVC_ROOT=str(folder), **extra)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [str(BIN / command[0]), *command[1:]], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True
    )


STAGE = ("python", "-m", "stages.train_simclr", "--dataset", "digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A workspace with prepared digits and the outs of one process under `one`."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    for name in ("src", "stages"):
        (folder / name).symlink_to(ROOT / name)
    configure(folder)
    with inside(folder):
        download.main("digits")
        prepare.main("digits")
    return folder


@pytest.fixture(scope="module")
def one(folder) -> dict[str, bytes]:
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        train_simclr.main("digits")
    return clear(folder)


@pytest.fixture(scope="module")
def two(folder, one) -> dict[str, bytes]:
    """The outs of an unbroken run that torchrun starts."""
    configure(folder)
    run = start(folder, "torchrun", "--standalone", "--nproc-per-node", "2", *STAGE[1:], TMPDIR=str(folder))
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert output.count("simclr digits: val loss") == 1  # of the first process alone
    return clear(folder)


def curve(files: dict[str, bytes]) -> list[list[float]]:
    lines = files["metrics/simclr/digits/curve.csv"].decode().splitlines()
    return [[float(value) for value in line.split(",")] for line in lines[1:]]


def test_torchrun_gives_the_files_and_numbers_of_one_process(one, two):
    assert made(two).keys() == made(one).keys()
    assert curve(two) == [pytest.approx(row, rel=1e-5) for row in curve(one)]
    assert two["metrics/simclr/digits/views.png"] == one["metrics/simclr/digits/views.png"]


def made(files: dict[str, bytes]) -> dict[str, bytes]:
    """What was made: not the digest of the settings, of which the number of processes is one."""
    return {name: content for name, content in files.items() if not name.startswith("metrics/used")}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_killed_process_ends_all_and_a_new_run_goes_on_to_the_same_bits(folder, two):
    configure(folder, num_processes=2)
    run = start(folder, *STAGE, HEADSTART_CHECKPOINT_SECONDS="0")
    while not list(folder.glob(f"{CHECKPOINTS}/[!.]*.pt")):  # hidden: not yet whole
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    workers = children(run.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.splitlines() == ["error: process 1 was killed by SIGKILL; run the same command again to go on"]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    run = start(folder, *STAGE)
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert not errors
    assert output.splitlines()[0] == "train_simclr: goes on from its checkpoint"
    assert made(outs(folder)) == made(two)
    assert not list(folder.glob(f"{CHECKPOINTS}/*"))


def test_a_users_mistake_in_a_process_is_one_line(folder):
    configure(folder, num_processes=2, learning_rate=1e30)
    run = start(folder, *STAGE)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: SimCLR ")
    assert "not finite" in line


# --- refused before anything is started ---


def test_batch_that_cannot_be_shared_equally(folder):
    configure(folder, num_processes=3)
    with inside(folder), pytest.raises(UserError) as error:
        train_simclr.main("digits")
    assert str(error.value) == (
        "datasets.yaml: digits.batch_size: 128 must be divisible by 3, "
        "the number of processes (simclr.num_processes, or torchrun's)"
    )


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_cuda_device_has_a_number_which_torchs_set_device_demands(monkeypatch, name, index):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    monkeypatch.setattr(processes, "use_ieee_float32", lambda: None)
    assert processes.pick_device(name) == torch.device("cuda", index)
    assert chosen == [index]
    with pytest.raises(UserError, match=r"device: 'cuda:2' but there are 2 CUDA devices, from cuda:0"):
        processes.pick_device("cuda:2")


def test_more_processes_than_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    processes.check_devices(torch.device("cuda"), 2)
    processes.check_devices(torch.device("cpu"), 64)
    with pytest.raises(UserError, match=r"simclr.num_processes: 3 .* must be at most 2, the CUDA devices"):
        processes.check_devices(torch.device("cuda"), 3)


def test_torchruns_number_wins_over_the_key(folder, monkeypatch):
    configure(folder, num_processes=3)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with inside(folder):
        assert load_params().simclr.num_processes == 3
        trained = []
        monkeypatch.setattr(train_simclr, "train", lambda dataset, params, group, device: trained.append(group.size))
        train_simclr.main("digits")
    assert trained == [1]
