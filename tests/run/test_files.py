"""Files are whole or absent, and workers that share a result make it once: with real files and processes."""

import io
import json
import os
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.errors import UserError
from headstart.run import files, paths, tensors

SOURCES = Path(__file__).parents[2] / "src"


class BrokenError(Exception):
    """What goes wrong in the middle of a write."""


def within(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def python(code: str, *arguments: str) -> subprocess.Popen:
    settings = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=settings, stdout=subprocess.PIPE, text=True)


# --- files ---


def test_atomic_leaves_the_file_alone(tmp_path):
    path = tmp_path / "a/b/out.txt"
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
    assert path.read_text() == "new"
    assert within(tmp_path) == ["a", "a/b", "a/b/out.txt"]


@pytest.mark.parametrize("before", [None, "old"])
def test_error_inside_atomic_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "out.txt"
    if before:
        path.write_text(before)
    with pytest.raises(BrokenError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise BrokenError
    assert within(tmp_path) == (["out.txt"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_outs_are_as_readable_as_any_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "out.txt", "x")
        with files.write_folder(tmp_path / "folder") as folder:
            (folder / "file").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_json(tmp_path):
    path = tmp_path / "out.json"
    files.write_json(path, {"b": 1.5, "a": [1, None, "x"]})
    assert path.read_text() == '{\n "a": [\n  1,\n  null,\n  "x"\n ],\n "b": 1.5\n}\n'
    assert files.read_json(path, made_by="prepare") == {"a": [1, None, "x"], "b": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert json.loads(path.read_text())["b"] == 1.5
    assert within(tmp_path) == ["out.json"]


def test_csv(tmp_path):
    path = tmp_path / "out.csv"
    files.write_csv(path, [{"epoch": 1, "name": "a,b"}, {"epoch": 2, "name": 'say "c"'}])
    assert path.read_bytes() == b'epoch,name\n1,"a,b"\n2,"say ""c"""\n'
    assert files.read_csv(path, made_by="x") == [{"epoch": "1", "name": "a,b"}, {"epoch": "2", "name": 'say "c"'}]


def test_tensors(tmp_path):
    values = {"a": torch.arange(4.0).view(2, 2).T, "b": torch.tensor([1, 2])}  # not contiguous, and of integers
    tensors.write_tensors(tmp_path / "out.safetensors", values)
    again = tensors.read_tensors(tmp_path / "out.safetensors", made_by="x")
    assert all(torch.equal(again[name], value) for name, value in values.items())
    assert {value.dtype for value in again.values()} == {torch.float32, torch.int64}
    tensors.write_tensors(tmp_path / "again.safetensors", dict(reversed(values.items())))
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.mark.parametrize("read", [files.read_json, files.read_csv, tensors.read_tensors])
def test_missing_input_names_the_stage_that_makes_it(tmp_path, read):
    path = tmp_path / "absent"
    with pytest.raises(UserError) as error:
        read(path, made_by="prepare")
    assert str(error.value) == f"{path}: no such file; stage prepare makes it: dvc repro"


# --- folders ---


def test_folder_replaces_the_whole_folder(workspace):
    folder = workspace / "models/out"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/stale").touch()
    with files.write_folder(folder) as temporary:
        (temporary / "fresh").write_text("x")
        assert within(folder) == ["deep", "deep/stale"]
    assert within(workspace) == ["models", "models/out", "models/out/fresh"]


def test_error_inside_a_folder_leaves_what_was_there(workspace):
    folder = workspace / "metrics/out"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    for path in (folder, workspace / "metrics/new"):
        with pytest.raises(BrokenError), files.write_folder(path) as temporary:
            (temporary / "half").touch()
            raise BrokenError
    assert within(folder.parent) == ["out", "out/old"]


def test_scratch_folder_is_empty_before_and_gone_after(workspace):
    raw = workspace / "data/source/.raw-x"
    (raw / "deep").mkdir(parents=True)
    with pytest.raises(BrokenError), files.scratch_folder(raw) as folder:
        assert within(folder) == []
        (folder / "half").touch()
        raise BrokenError
    assert within(raw.parent) == []


PHOTOGRAPHS = ["2024", "2024/one.jpg", "two.jpg"]


@pytest.mark.parametrize(
    "place", ["elsewhere/photos", "src", "data", "models/../src", "data/raw/../../../photos", "link"]
)
@pytest.mark.parametrize("write", [files.write_folder, files.scratch_folder, partial(files.write_folder, mark="probe")])
def test_folders_that_were_not_made_here_are_never_replaced(workspace, tmp_path_factory, monkeypatch, place, write):
    own = workspace / "checkout"
    (own / "data/raw").mkdir(parents=True)
    (own / "models").mkdir()
    monkeypatch.chdir(own)
    folder = own / place
    if place == "link":  # below data/, but not there
        folder = own / "data/raw/mine"
        folder.symlink_to(tmp_path_factory.mktemp("photographs"))
    for name in ("2024/one.jpg", "two.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("irreplaceable")
    before = within(own)
    with pytest.raises(UserError, match="is not replaced, since it was not made here"), write(folder):
        raise AssertionError("not reached")
    assert within(own) == before
    assert set(PHOTOGRAPHS) <= set(within(folder.resolve()))


def test_folders_elsewhere_are_replaced_where_their_mark_says_that_they_were_made_here(tmp_path):
    folder = tmp_path / "export/digits"
    for content in ("first", "second"):
        with files.write_folder(folder, mark="probe.safetensors") as temporary:
            (temporary / "probe.safetensors").write_text(content)
        assert (folder / "probe.safetensors").read_text() == content


def test_outs_are_written_by_their_suffix(tmp_path):
    outs = {"w.safetensors": {"a": torch.ones(2)}, "s.json": {"x": 1}, "c.csv": [{"k": 1}], "empty.csv": []}
    tensors.write_outs(tmp_path, outs)
    assert within(tmp_path) == ["c.csv", "s.json", "w.safetensors"]


# --- checkpoints ---


def test_checkpoint_gives_back_what_was_saved(workspace):
    checkpoint = tensors.FileCheckpoint("train_simclr", "key")
    assert checkpoint.load() is None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    state = {"step": 3, "history": [{"epoch": 1, "loss": 0.5}], "optimizer": optimizer.state_dict(), "best": {}}
    checkpoint.save(state)
    assert within(workspace / ".cache/checkpoints") == ["train_simclr", "train_simclr/key.pt"]
    again = tensors.FileCheckpoint("train_simclr", "key").load()
    assert (again["step"], again["history"], again["best"]) == (3, [{"epoch": 1, "loss": 0.5}], {})
    assert torch.equal(again["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2))
    assert tensors.FileCheckpoint("train_simclr", "other").load() is None
    assert tensors.FileCheckpoint("pretrain_autoencoder", "key").load() is None
    checkpoint.remove()
    assert checkpoint.load() is None
    checkpoint.remove()


def unsealed(state: object) -> bytes:
    """A checkpoint as torch writes it, without a digest behind it."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


STATE = {"step": 3, "weights": torch.zeros(1000)}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", unsealed(STATE), unsealed({"step": 3}), "cut", "longer"])
def test_a_checkpoint_that_is_not_as_it_was_saved_is_told_and_set_aside(workspace, capfd, content):
    checkpoint = tensors.FileCheckpoint("train_simclr", "key")
    checkpoint.save(STATE)
    whole = checkpoint.path.read_bytes()
    content = {"cut": whole[:2000], "longer": whole + b"x"}.get(content, content) if content else content
    checkpoint.path.write_bytes(content)
    assert checkpoint.load() is None
    told = capfd.readouterr().out
    assert told.count("\n") == 1
    assert f"{checkpoint.path}: a damaged checkpoint; kept as key.bad, starts anew" in told
    assert within(checkpoint.path.parent) == ["key.bad"]
    assert checkpoint.load() is None
    checkpoint.save(STATE)
    assert checkpoint.load()["step"] == 3
    checkpoint.remove()
    assert within(checkpoint.path.parent) == []


def test_no_flipped_bit_of_a_checkpoint_loads(workspace, capfd):
    checkpoint = tensors.FileCheckpoint("train_simclr", "key")
    checkpoint.save(STATE)
    whole, random = checkpoint.path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(0, 8 * len(whole), 200).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        checkpoint.path.write_bytes(flipped)
        assert checkpoint.load() is None
    checkpoint.path.write_bytes(whole)
    assert torch.equal(checkpoint.load()["weights"], STATE["weights"])


@pytest.mark.parametrize("given", ["abc", "-1", "", "nan", "1 2"])
def test_seconds_of_checkpoints_that_are_none(workspace, monkeypatch, given):
    monkeypatch.setenv("HEADSTART_CHECKPOINT_SECONDS", given)
    with pytest.raises(UserError) as error:
        tensors.FileCheckpoint("s", "k")
    assert str(error.value) == f"HEADSTART_CHECKPOINT_SECONDS: {given!r} must be a number of seconds, at least 0"


def test_checkpoint_is_due_after_its_seconds(workspace, monkeypatch):
    checkpoint = tensors.FileCheckpoint("s", "k", seconds=0.05)
    assert not checkpoint.due()
    time.sleep(0.06)
    assert checkpoint.due()
    checkpoint.save({})
    assert not checkpoint.due()
    monkeypatch.setenv("HEADSTART_CHECKPOINT_SECONDS", "0")
    assert tensors.FileCheckpoint("s", "k", seconds=100).due()


def test_checkpoint_lies_in_the_main_workspace(workspace, tmp_path_factory, monkeypatch):
    """Also for a queued experiment, whose copy of the workspace is elsewhere and short-lived."""
    monkeypatch.chdir(tmp_path_factory.mktemp("copy"))
    assert tensors.FileCheckpoint("s", "k").path == workspace / ".cache/checkpoints/s/k.pt"
    monkeypatch.delenv("DVC_ROOT")
    assert tensors.FileCheckpoint("s", "k").path == Path.cwd() / ".cache/checkpoints/s/k.pt"


def test_what_runs_give_each_other_lies_where_a_clusters_nodes_say(workspace, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("all nodes have it")
    monkeypatch.setenv("HEADSTART_SHARED", str(folder))
    assert tensors.FileCheckpoint("s", "k").path == folder / "checkpoints/s/k.pt"
    with files.shared_result("s", "k") as result:
        assert result == folder / "shared/s/k"
    assert paths.downloads() == folder / "downloads"
    assert paths.scratch() == workspace / ".cache"


# --- shared results ---


WORKER = """
import sys, time
from pathlib import Path
from headstart.run.files import atomic, shared_result, write_folder
name, seconds = sys.argv[1], float(sys.argv[2])
print("ready", flush=True)
with shared_result("pretrain_autoencoder", "key") as folder:
    if not folder.exists():
        with write_folder(folder) as temporary, atomic(Path("out.txt")) as out:
            (temporary / "maker").write_text(name)
            out.write_text("half")
            print("making", flush=True)
            time.sleep(seconds)
            out.write_text(name)
    print((folder / "maker").read_text(), flush=True)
"""


def test_workers_make_a_shared_result_once_and_survive_one_that_is_killed(workspace):
    """One is killed in the middle; of the two that wait one makes the result, the other takes it."""
    (workspace / "out.txt").write_text("old")
    with python(WORKER, "victim", "60") as victim:
        assert [victim.stdout.readline() for _ in range(2)] == ["ready\n", "making\n"]
        workers = [python(WORKER, name, "0.5") for name in ("first", "second")]
        assert [worker.stdout.readline() for worker in workers] == ["ready\n", "ready\n"]
        assert all("waits for another worker" in worker.stdout.readline() for worker in workers)
        victim.kill()
    assert (workspace / "out.txt").read_text() in ("old", "first", "second")
    told = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]
    outputs = [[line for line in lines if "waits for another worker" not in line] for lines in told]
    maker = outputs[0][-1]
    assert sorted(outputs) == sorted([["making", maker], [maker]])
    assert (workspace / "out.txt").read_text() == maker
    assert within(workspace / ".cache/shared/pretrain_autoencoder/key") == ["maker"]


def test_worker_that_fails_leaves_the_work_to_the_next(workspace):
    for _ in range(2):
        with (
            pytest.raises(BrokenError),
            files.shared_result("s", "k") as folder,
            files.write_folder(folder) as temporary,
        ):
            (temporary / "half").touch()
            raise BrokenError
        assert not folder.exists()
    with files.shared_result("s", "k") as folder, files.write_folder(folder) as temporary:
        (temporary / "whole").touch()
    with files.shared_result("s", "k") as folder:
        assert within(folder) == ["whole"]


def test_a_damaged_shared_result_is_told_set_aside_and_made_anew(workspace, capfd):
    for content in ("first", "second"):
        with files.shared_result("s", "k") as folder:
            if not folder.exists():
                with files.write_folder(folder) as temporary:
                    (temporary / "deep").mkdir()
                    (temporary / "deep/weights").write_text(content)
        assert (folder / "deep/weights").read_text() == content
        with files.shared_result("s", "k") as again:
            assert (again / "deep/weights").read_text() == content
        (folder / "deep/weights").write_text("f1rst")
    assert "is damaged; kept as k.bad, made anew" in capfd.readouterr().out
    assert (folder.with_name("k.bad") / "deep/weights").read_text() == "f1rst"


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("a.json", b"{", files.read_json),
        ("a.json", b"\xff", files.read_json),
        ("a.json", b"[" * 100_000, files.read_json),
        ("a.csv", b"\xff,b\n", files.read_csv),
        ("a.safetensors", b"\xff" * 20, tensors.read_tensors),
        ("a.safetensors", b"", tensors.read_tensors),
    ],
)
def test_a_damaged_input_names_the_stage_that_makes_it(tmp_path, name, content, read):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(.*\); stage prepare makes it: remove it, then dvc repro") as error:
        read(tmp_path / name, made_by="prepare")
    assert str(error.value).startswith(str(tmp_path / name)) and len(str(error.value)) <= 400


def test_mapped_array_lies_in_a_file_without_a_name(workspace):
    array = tensors.mapped_array((1000, 300))
    assert (array.shape, array.dtype, array.any()) == ((1000, 300), np.float32, False)
    array[999] = 7
    assert array.sum() == 2100
    assert type(array) is np.ndarray  # what is computed from it lies in memory
    assert within(workspace / ".cache") == []
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(workspace / ".cache") in maps.read_text()
