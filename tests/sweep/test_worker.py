"""A run's own run cache entries, one stage at a time, between a clone's cache and the remote."""

from pathlib import Path
from types import SimpleNamespace

from dvc_objects.fs.local import LocalFileSystem

from headstart.sweep.worker import copy_entries

KEY, FIRST, SECOND = ("a" * 64, "b" * 64, "c" * 64)


def store(path: Path) -> SimpleNamespace:
    return SimpleNamespace(fs=LocalFileSystem(), path=str(path))


def test_what_the_other_side_lacks_is_copied_and_whole(tmp_path):
    here, there = tmp_path / "here" / "runs" / "aa" / KEY, tmp_path / "there" / "runs" / "aa" / KEY
    for folder, name, text in ((here, FIRST, "1"), (here, SECOND, "2"), (there, FIRST, "theirs")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (here / ".unfinished.tmp").write_text("half")
    other = tmp_path / "here" / "runs" / "dd" / ("d" * 64)
    other.mkdir(parents=True)
    (other / FIRST).write_text("of another stage")
    copy_entries(KEY, store(tmp_path / "here"), store(tmp_path / "there"))
    files = {str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()}
    assert files == {f"runs/aa/{KEY}/{FIRST}", f"runs/aa/{KEY}/{SECOND}"}
    assert (there / FIRST).read_text() == "theirs" and (there / SECOND).read_text() == "2"


def test_a_stage_without_entries_is_nothing_to_copy(tmp_path):
    copy_entries(KEY, store(tmp_path / "here"), store(tmp_path / "there"))
    assert not (tmp_path / "there").exists()
