"""A run's own run cache entries, one stage at a time, between a clone's cache and the remote."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import dvc.stage.cache
import pytest
from dvc_objects.fs.local import LocalFileSystem

from headstart.sweep.worker import copy_entries
from tests.checkouts import ROOT, run

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


PIPELINE = """stages:
  copy:
    cmd: echo ran >> {ran} && cp given made
    deps: [given]
    outs: [made]
"""


def test_dvc_has_what_the_worker_takes_from_it():
    """All that sweep/worker.py uses of DVC without being told that it may, or puts its own in the place of."""
    changed = f"DVC {dvc.__version__} has changed; sweep/worker.py builds on StageCache"
    for name in ("_can_hash", "_get_stage_hash"):
        function = getattr(dvc.stage.cache, name, None)
        assert function and list(inspect.signature(function).parameters) == ["stage"], f"{changed}: {name}(stage)"
    cache = dvc.stage.cache.StageCache
    assert list(inspect.signature(cache.restore).parameters)[:2] == ["self", "stage"], f"{changed}.restore(stage, ..)"
    for name in ("pull", "get_used_objs"):
        assert callable(getattr(cache, name, None)), f"{changed}.{name}"


@pytest.mark.slow
def test_a_stage_that_one_clone_ran_is_restored_in_another_from_the_remotes_run_cache(tmp_path):
    """With the real dvc: the entry is where DVC looks for it, and asked for when it does."""
    origin, ran, store = tmp_path / "origin", tmp_path / "ran", tmp_path / "store"
    origin.mkdir()
    run(origin, "git", "init", "-q")
    run(origin, "dvc", "init", "-q")
    run(origin, "dvc", "remote", "add", "-q", "-d", "store", str(store))
    (origin / "given").write_text("1")
    (origin / "dvc.yaml").write_text(PIPELINE.format(ran=ran))
    run(origin, "git", "add", "-A")
    run(origin, "git", "commit", "-qm", "start")
    for name in ("first", "second"):
        run(tmp_path, "git", "clone", "-q", str(origin), name)
        words = ("python", "-m", "headstart.sweep.worker", "--name", name, "--")
        said = run(tmp_path / name, *words, PYTHONPATH=str(ROOT / "src")).stdout
        assert (tmp_path / name / "made").read_text() == "1"
    assert "Stage 'copy' is cached" in said and ran.read_text() == "ran\n", "the second one did not run it"
    assert len(list((store / "runs").glob("*/*/*"))) == 1, "DVC keeps run caches elsewhere"
