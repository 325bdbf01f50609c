"""What engines rely on at a cell: locks, processes that end with what runs it, publication without loss."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headstart.sweep import node, run_cell
from headstart.sweep.node import free_slot
from headstart.sweep.run_cell import (
    LOST,
    Site,
    experiment_ref,
    fresh_clone,
    git,
    persistently,
    publish,
    published,
    reason,
)
from tests.checkouts import run
from tests.sweep.nodes import wait_for

NAMES = [f"cell-{number}" for number in range(8)]


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    """A bare remote with one commit."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    origin, work = tmp_path / "origin.git", tmp_path / "work"
    run(tmp_path, "git", "init", "-q", "--bare", str(origin))
    run(tmp_path, "git", "init", "-q", "-b", "main", str(work))
    (work / ".dvc").mkdir()
    (work / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n")
    (work / ".gitignore").write_text("/data/*\n/models/*\n/metrics/simclr/\n")
    run(work, "git", "add", "-A")
    run(work, "git", "commit", "-qm", "start")
    run(work, "git", "push", "-q", str(origin), "main")
    return Site(str(origin), git(work, "rev-parse", "HEAD"))


def experiment(site: Site, clone: Path, name: str, text: str) -> str:
    """A commit as `dvc exp run` leaves it in a clone."""
    tree = git(clone, "rev-parse", "HEAD^{tree}")
    commit = git(clone, "commit-tree", tree, "-p", site.revision, "-m", text)
    git(clone, "update-ref", experiment_ref(site.revision, name), commit)
    return commit


def test_publications_at_once_lose_nothing(site, tmp_path):
    def cell(name: str) -> str:
        clone = fresh_clone(site, tmp_path / "node" / "slots" / name)
        commit = experiment(site, clone, name, name)
        publish(site, clone, name)
        return commit

    with ThreadPoolExecutor(len(NAMES)) as pool:
        commits = list(pool.map(cell, NAMES))
    refs = git(Path(site.url), "for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps").split("\n")
    assert sorted(refs) == sorted(f"{commit} {name}" for commit, name in zip(commits, NAMES, strict=True))


def test_the_first_publication_of_a_name_stays(site, tmp_path):
    commits = []
    for slot in ("0", "1"):
        clone = fresh_clone(site, tmp_path / "node" / "slots" / slot)
        commits.append(experiment(site, clone, "cell", slot))
        publish(site, clone, "cell")
    assert published(site, "cell") and not published(site, "cel")
    assert git(Path(site.url), "rev-parse", experiment_ref(site.revision, "cell")) == commits[0]


def test_a_used_clone_is_as_a_new_one(site, tmp_path):
    slot = tmp_path / "node" / "slots" / "0"
    clone = fresh_clone(site, slot)
    experiment(site, clone, "cell", "killed")
    (clone / "left").write_text("over")
    for folder in ("metrics/simclr", "models", "data"):
        (clone / folder).mkdir(parents=True)
        (clone / folder / "of_another_cell").touch()
    (clone / ".dvc" / ".gitignore").write_text("edited")
    (clone / ".git" / "index.lock").touch()
    git(clone, "symbolic-ref", "refs/exps/exec/EXEC_BRANCH", "refs/exps/gone")
    assert fresh_clone(site, slot) == clone
    assert git(clone, "status", "--porcelain") == "" and git(clone, "rev-parse", "HEAD") == site.revision
    assert git(clone, "for-each-ref", "refs/exps") == ""
    assert not (clone / ".git" / "refs" / "exps" / "exec" / "EXEC_BRANCH").exists()
    assert [str(file.relative_to(clone)) for file in clone.rglob("of_another_cell")] == ["data/of_another_cell"]


def test_a_commit_that_is_on_no_branch_is_cloned_and_found_later(site, tmp_path):
    slot = tmp_path / "slots" / "0"
    fresh_clone(site, slot)
    commit = git(Path(site.url), "commit-tree", f"{site.revision}^{{tree}}", "-p", site.revision, "-m", "detached")
    for place in (slot, tmp_path / "slots" / "1"):
        assert git(fresh_clone(replace(site, revision=commit), place), "rev-parse", "HEAD") == commit


def test_repositories_share_no_clones():
    first, second = (node.folder_of(f"git@host:{name}.git") for name in ("one", "two"))
    assert first != second and first.parent == second.parent


def test_no_two_tasks_have_one_slot(tmp_path):
    with free_slot(tmp_path) as (first, _), free_slot(tmp_path) as (second, _):
        assert (first.name, second.name) == ("0", "1")
    with free_slot(tmp_path) as (again, _):
        assert again == first


TASK = """
import os, sys
from pathlib import Path
from headstart.sweep.node import free_slot
from headstart.sweep.run_cell import run_supervised
with free_slot(Path(sys.argv[1])) as (slot, lock):
    job = ["sh", "-c", "sleep 300 & sleep 301"]
    sys.exit(run_supervised(job, slot, os.environ, slot / "log", [lock]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_jobs_processes_end_with_its_task_and_hold_its_slot_until_then(tmp_path, number):
    src = str(Path(__file__).parents[2] / "src")
    task = subprocess.Popen([sys.executable, "-c", TASK, str(tmp_path)], env={**os.environ, "PYTHONPATH": src})
    process = psutil.Process(task.pid)
    wait_for(lambda: sum(child.name() == "sleep" for child in process.children(recursive=True)) == 2, 20)
    children = process.children(recursive=True)
    with free_slot(tmp_path) as (other, _):
        assert other.name == "1"
    task.send_signal(number)
    task.wait()
    assert not psutil.wait_procs(children, timeout=10)[1]
    time.sleep(0.1)
    with free_slot(tmp_path) as (free, _):
        assert free.name == "0"


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (
            "Running\nerror: params.yaml: seed: -1\nERROR: failed to reproduce 'prepare'\n",
            "error: params.yaml",
        ),
        ("Running\nERROR: failed to push\n\n", "ERROR: failed to push"),
        ("Killed\n", "Killed"),
        ("", ""),
    ],
)
def test_a_failure_is_told_by_the_line_that_says_why(log, why):
    assert reason(log).startswith(why)


@pytest.mark.parametrize("command", ["kill -9 $$", "exit 3", "exit 255", "exit 0"])
def test_a_kill_is_told_from_a_failure_and_an_attempt_by_its_own_lines(tmp_path, monkeypatch, site, command):
    monkeypatch.setattr(run_cell, "command", lambda run, site: ["sh", "-c", f"echo new; {command}"])
    log = tmp_path / "log"
    log.write_text("error: of the attempt before, exited with -9\n")
    end = run_cell.run_cell(run_cell.Run("cell", (), "prepare"), site, tmp_path / "slot", log)
    killed, failed = run_cell.End("its process was killed", lost=True), run_cell.End("new")
    assert end == {"kill -9 $$": killed, "exit 0": run_cell.End()}.get(command, failed)


class Board:
    """Ray's, as far as a job uses it."""

    def __init__(self):
        self.begun: list[str] = []
        self.began = self

    def remote(self, job: str, **_: object) -> None:
        self.begun.append(job)


@pytest.mark.parametrize(("kills", "runs", "error"), [(1, 2, ""), (5, 3, "its process was killed")])
def test_a_nodes_lost_cell_is_begun_again_where_its_task_lives_on(tmp_path, monkeypatch, site, kills, runs, error):
    script = f'echo begun; [ "$(grep -c begun "$LOG")" -gt {kills} ] || kill -9 $$'
    monkeypatch.setattr(run_cell, "command", lambda run, site: ["sh", "-c", script])
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    log = node.folder_of(site.url) / "logs" / "cell.log"
    here = replace(site, environment={"LOG": str(log)})
    board = Board()
    outcome = node.run_job(node.Job("cell", (run_cell.Run("cell", (), "prepare"),)), here, board, 3)
    assert outcome["error"] == error and outcome["log"].count("begun") == runs and board.begun == ["cell"]


def test_stages_that_were_ended_by_signals_are_lost():
    said = "ERROR: failed to reproduce 'train': failed to run: python -m stages.x, exited with"
    assert all(LOST.search(f"{said} {status}") for status in (-9, -15, 137, 143))
    assert not any(LOST.search(f"{said} {status}") for status in (1, 2, 255))


@pytest.mark.parametrize("failures", [0, 2, 6])
def test_a_remote_that_is_away_is_tried_six_times(monkeypatch, capfd, failures):
    pauses: list[float] = []
    monkeypatch.setattr(run_cell.time, "sleep", pauses.append)
    calls = iter(range(100))

    def work() -> str:
        if next(calls) < failures:
            raise OSError("away")
        return "there"

    if failures == 6:
        with pytest.raises(OSError, match="away"):
            persistently(work, errors=OSError)
    else:
        assert persistently(work, errors=OSError) == "there"
    assert len(pauses) == min(failures, 5) == capfd.readouterr().err.count("away")
