"""Disks that are full, read-only or take no such file: one line that names the file, and nothing half-written.

On file systems of a few hundred kB of their own, where the tests run as root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.__main__ import main
from headstart.errors import of_system
from headstart.ingest.formats import digits
from headstart.ingest.pack import Packing, pack
from headstart.run import files, paths, tensors
from headstart.run.stage import ending
from headstart.study.pictures import confusion_picture, image_grid
from headstart.tracking.record import Record
from tests.checkouts import ROOT

NOISE = np.random.default_rng(0).integers(0, 256, 2**20, np.uint8)


def mounts() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None and sys.platform == "linux"


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """`disk(size)`: a folder that is a file system of so many bytes; read_only: nothing can be written there."""
    if not mounts():
        pytest.skip("needs root, to mount a small file system")
    made = []

    def make(size: int = 2**18, read_only: bool = False) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        options = f"size={size}{',ro' if read_only else ''}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.decode()}")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)


def told_by(work: Callable[[], object], capfd) -> str:
    """The line with which a command that does this ends."""
    with pytest.raises(SystemExit) as ended, ending("interrupted"):
        work()
    message = str(ended.value.code)
    assert message.startswith("error: ") and "\n" not in message and len(message) <= 400
    return message


def within(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_pickled(path: Path) -> None:
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, noise=NOISE)


WRITERS = {
    "text": lambda path: files.write_text(path, "x" * 2**20),
    "json": lambda path: files.write_json(path, NOISE.tolist()),
    "csv": lambda path: files.write_csv(path, [{"x": int(value)} for value in NOISE[:200_000]]),
    "npz": write_pickled,
    "safetensors": lambda path: tensors.write_tensors(path, {"x": torch.from_numpy(NOISE)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file(disk, capfd, kind):
    path = disk() / f"out.{kind}"
    path.write_text("before")
    assert told_by(lambda: WRITERS[kind](path), capfd) == (
        f"error: {path}: cannot be written: No space left on device; make room"
    )
    assert within(path.parent) == [path.name] and path.read_text() == "before"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_read_only_disk_is_one_line_that_names_the_file(disk, capfd, kind):
    path = disk(read_only=True) / "deep" / f"out.{kind}"
    assert f"{path}: cannot be written: Read-only file system" in told_by(lambda: WRITERS[kind](path), capfd)


@pytest.mark.parametrize(
    "place", ["/proc/x.{}", "{folder}", "/dev/null/x.{}", "/dev/full/x.{}", "{folder}/" + "x" * 300]
)
@pytest.mark.parametrize("kind", ["text", "safetensors", "npz"])
def test_a_place_for_no_file_is_one_line(tmp_path, capfd, kind, place):
    path = Path(place.format(kind, folder=tmp_path))
    message = told_by(lambda: WRITERS[kind](path), capfd)
    assert message.startswith(f"error: {str(path)[:60]}") and ": cannot be written: " in message
    assert within(tmp_path) == []


def test_a_folder_that_fills_its_disk_leaves_what_was_there(disk, workspace, capfd):
    folder = disk() / "models" / "digits"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("before")

    def write() -> None:
        with files.write_folder(folder, mark="weights") as temporary:
            np.save(temporary / "images.npy", NOISE)

    assert f"{folder}" in (said := told_by(write, capfd)) and "No space left on device; make room" in said
    assert within(folder.parent) == ["digits", "digits/weights"]


def picture(path: Path) -> None:
    image_grid(path, [torch.from_numpy(NOISE[: 3 * 512 * 512].copy()).view(1, 3, 512, 512) / 255])


def matrix(path: Path) -> None:
    confusion_picture(path, np.eye(40, dtype=int), [str(k) for k in range(40)], "x")


@pytest.mark.parametrize("draw", [picture, matrix])
def test_a_picture_that_fills_its_disk_is_one_line(disk, capfd, draw):
    folder = disk(2**14) / "out"

    def write() -> None:
        with files.write_folder(folder) as temporary:
            draw(temporary / "picture.png")

    assert told_by(write, capfd) == f"error: {folder}: cannot be written: No space left on device; make room"
    assert within(folder.parent) == []


def test_arrays_that_do_not_fit_are_refused_before_they_are_mapped(disk, monkeypatch, capfd):
    """A map into a file that the disk cannot hold would end the process by a signal."""
    folder = disk(2**17)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2**40))  # room, when asked
    listing, packing = digits(folder), Packing(16, None, 0.1, 0.2, 0, False)

    def write() -> None:
        with files.write_folder(folder / "prepared") as temporary:
            pack(listing, temporary, packing, lambda done: None)

    assert f"{folder}/prepared" in (said := told_by(write, capfd)) and "No space left on device" in said
    assert within(folder) == []


def test_feature_maps_that_do_not_fit_are_one_line(disk, monkeypatch, capfd):
    folder = disk()
    monkeypatch.setattr(paths, "scratch", lambda: folder)
    said = told_by(lambda: tensors.mapped_array((1000, 1000)), capfd)
    assert ": cannot be written: No space left on device; make room" in said


@pytest.mark.parametrize("read_only", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_told_once_and_training_goes_on(disk, monkeypatch, capfd, read_only):
    folder = disk(read_only=read_only)
    monkeypatch.setenv("HEADSTART_SHARED", str(folder))
    checkpoint = tensors.FileCheckpoint("train_simclr", "key", seconds=0)
    assert checkpoint.load() is None
    for _ in range(3):
        checkpoint.save({"weights": torch.from_numpy(NOISE)})
    checkpoint.remove()
    out, err = capfd.readouterr()
    why = "Read-only file system" if read_only else "No space left on device; make room"
    assert (out, err) == (
        "",
        f"warning: {checkpoint.path}: cannot be written: {why}; training goes on, and after a kill would begin anew\n",
    )
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_full_disk_keeps_the_last_checkpoint(disk, monkeypatch, capfd):
    monkeypatch.setenv("HEADSTART_SHARED", str(disk()))
    checkpoint = tensors.FileCheckpoint("train_simclr", "key")
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2, "weights": torch.from_numpy(NOISE)})
    assert checkpoint.load() == {"step": 1}


def test_a_record_that_cannot_wait_is_an_error_that_the_guard_knows(disk):
    with pytest.raises(OSError, match="cannot be written"):
        Record("train_simclr", "digits", {"x": "y" * 2**20}, 0).save(disk())


# ---- commands

ROWS = str(next((ROOT / "sweeps" / "results").glob("controls.csv")))


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["gains", "--rows", ROWS, "--figure", "/proc/x.svg"], "/proc/x.svg"),
        (["gains", "--rows", ROWS, "--figure", "{folder}/folder.svg"], "{folder}/folder.svg"),
        (["compare", "--rows", ROWS, "--save-rows", "/proc/rows.csv"], "/proc/rows.csv"),
        (["compare", "--rows", ROWS, "--save-rows", "{folder}"], "{folder}"),
        (["report", "--rows", ROWS, "--out", "/proc/page.html"], "/proc/page.html"),
        (["report", "--rows", ROWS, "--out", "/dev/null/page.html"], "/dev/null/page.html"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capfd, words, file):
    (tmp_path / "folder.svg").mkdir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["headstart", *(word.format(folder=tmp_path) for word in words)])
    message = told_by(main, capfd)
    assert message.startswith(f"error: {file.format(folder=tmp_path)}: cannot be written: ")
    assert within(tmp_path) == ["folder.svg"]


def test_standard_output_that_takes_no_more_is_one_line():
    words = [sys.executable, "-m", "headstart", "datasets"]
    env = {**os.environ, "PYTHONPATH": "src"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device; make room\n")


@pytest.mark.parametrize("number", [1, 13, 28, 30, 122])  # not permitted, denied, full, read-only, over quota
def test_what_the_system_refuses_is_one_line_with_the_file(number):
    error = of_system(OSError(number, os.strerror(number), "/a/b"))
    assert str(error).startswith(f"/a/b: {os.strerror(number)}")
