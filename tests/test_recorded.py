"""What is recorded is what ran: through the real dvc, edits of settings and code before, during and after a stage."""

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from headstart import history, lock, yaml_files
from headstart.study.experiments import read_dvc
from tests.checkouts import BIN, checkout, edit, environment, run
from tests.test_pipeline import saved_in, wait_for_steps
from tests.test_stages import ROOT, STAGES, reached

LONG = ("-S", "simclr.epochs=24", "-S", "projector.init=random")
SEEDS = itertools.count(11)  # one per run: dvc restores from its cache what it has run before
TEMPERATURE = "params.yaml: simclr.temperature was changed from 0.4 to 0.9"


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    """A reproduced and committed workspace."""
    folder = checkout(tmp_path_factory.mktemp("reproduced"))
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    return folder


@pytest.fixture
def workspace(reproduced):
    """The same, brought back to its commit afterwards."""
    yield reproduced
    run(reproduced, "git", "checkout", "-q", ".")
    run(reproduced, "dvc", "checkout", "--force", "--allow-missing")


def status(folder: Path) -> dict[str, list[object]]:
    """Stage with its element -> what `dvc status` says of it; `track` always runs."""
    with contextlib.chdir(folder), Repo() as repo:
        return {name: said for name, said in repo.status().items() if name != "track"}


# ---- every module that decides a number is seen ----------------------------------------------------------------------


@pytest.mark.slow
def test_dvc_sees_a_change_of_every_module_that_a_stage_reaches(workspace):
    assert not status(workspace)
    stages_of: dict[Path, set[str]] = {}
    for stage in STAGES:
        if stage not in ("track", "prepare_target", "transfer"):  # these two have no element here
            for file in reached(stage):
                stages_of.setdefault(workspace / file.relative_to(ROOT), set()).add(stage)
    assert len(stages_of) > 50
    for file, stages in stages_of.items():
        content = file.read_bytes()
        file.write_bytes(content + b"# changed\n")
        said = {name.partition("@")[0] for name in status(workspace)}
        file.write_bytes(content)
        assert stages <= said, f"{file.name}: of {sorted(stages)} dvc status names {sorted(said)}"


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("src/headstart/experiment/prepared.py", "splits[own[0]] if", 'splits["val"] if'),
        ("src/headstart/experiment/monitor.py", "K = 20", "K = 5"),
    ],
)
def test_what_went_unseen_once_is_seen(workspace, file, before, after):
    text = (workspace / file).read_text()
    assert before in text
    (workspace / file).write_text(text.replace(before, after))
    assert "changed" in run(workspace, "dvc", "status", "train_simclr@digits").stdout
    assert "train_simclr" in run(workspace, "dvc", "repro", "--dry").stdout
    (workspace / file).write_text(text)


# ---- edits while a stage runs ----------------------------------------------------------------------------------------


def begin(folder: Path, *more: str) -> "subprocess.Popen[str]":
    """`dvc exp run` of a long training, which has written a checkpoint."""
    shutil.rmtree(folder / ".cache/checkpoints", ignore_errors=True)  # of a run that was refused
    command = [str(BIN / "dvc"), "exp", "run", *LONG, "-S", f"seed={next(SEEDS)}", *more]
    env = environment(HEADSTART_CHECKPOINT_SECONDS="1")
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True)
    wait_for_steps(folder / ".cache/checkpoints/train_simclr", 1, process=process)
    return process


def experiments(folder: Path) -> set[str]:
    found = run(folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return {ref for ref in found if not ref.startswith("refs/exps/exec/")}  # these are marks of dvc at work


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


@pytest.mark.slow
def test_a_setting_edited_while_it_trains_is_not_recorded_and_putting_it_back_costs_seconds(workspace):
    before = experiments(workspace)
    process = begin(workspace, "-S", "simclr.temperature=0.4")
    replace(workspace / "params.yaml", "temperature: 0.4", "temperature: 0.9")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    warning = f"warning: {TEMPERATURE} while train_simclr ran: its result will not be recorded; put it back"
    assert output.count(warning) == 1, "at the next epoch, once"
    assert f"error: {TEMPERATURE} while train_simclr ran; nothing is recorded; put it back or run again\n" in output
    assert experiments(workspace) == before
    assert "train_simclr" not in lock_of(workspace).get("changed", {})
    assert not (workspace / "models/simclr/digits").exists()
    assert saved_in(workspace / ".cache/checkpoints/train_simclr"), "the checkpoint stays"
    replace(workspace / "params.yaml", "temperature: 0.9", "temperature: 0.4")
    started = time.monotonic()
    again = run(workspace, "dvc", "exp", "run", "-n", "put-back")
    assert "train_simclr: goes on from its checkpoint" in again.stdout
    assert time.monotonic() - started < 60
    (found,) = [revision for revision in history.read_revisions(workspace) if revision.name == "put-back"]
    (result,) = next(history.read_commits(workspace, [found.commit])).results
    assert lock.in_force(result.entries)["params.yaml"]["simclr"]["temperature"] == 0.4


def lock_of(folder: Path) -> dict[str, object]:
    """What the lock says of the training, and which settings it would have had."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    epochs = stages["train_simclr@digits"]["params"]["params.yaml"]["simclr"]["epochs"]
    return {"changed": "train_simclr"} if epochs == 24 else {}


def test_a_module_edited_while_it_trains_is_not_recorded(workspace):
    before = experiments(workspace)
    process = begin(workspace)
    losses = workspace / "src/headstart/training/losses.py"
    losses.write_text(losses.read_text() + "# edited for the next run\n")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    said = "error: src/headstart/training/losses.py was changed while train_simclr ran; nothing is recorded"
    assert said in output
    assert experiments(workspace) == before


@pytest.mark.slow
def test_a_setting_of_a_later_stage_edited_meanwhile_ends_the_run_before_that_stage(workspace):
    before = experiments(workspace)
    process = begin(workspace)
    replace(workspace / "params.yaml", "few_draws: 1", "few_draws: 2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "error: params.yaml: probe.few_draws was changed from 1 to 2 since this dvc (process " in output
    assert experiments(workspace) == before


@pytest.mark.slow
def test_settings_of_no_account_may_be_edited_meanwhile(workspace):
    process = begin(workspace, "-n", "unharmed")
    replace(workspace / "params.yaml", "experiment: headstart", "experiment: elsewhere")
    edit(workspace, {"datasets.yaml:cifar10.batch_size": 7, "views.simclr.flip": 0.25})
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert any(ref.endswith("/unharmed") for ref in experiments(workspace))


@pytest.mark.slow
def test_two_runs_in_one_workspace_never_record_each_others_settings(workspace):
    before = experiments(workspace)
    first = begin(workspace, "-S", "simclr.temperature=0.4", "-S", "seed=0")
    second = run(workspace, "dvc", "exp", "run", *LONG, "-S", "simclr.temperature=0.9", check=False)
    reached = run(workspace, "dvc", "repro", "--single-item", "--force", "download@digits", check=False)
    output, _ = first.communicate(timeout=300)
    assert second.returncode != 0, "dvc itself refuses a stage whose outs are being read: busy"
    assert reached.returncode != 0
    (line,) = [line for line in reached.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: another dvc (process ")
    assert all(way in line for way in ("--temp", "--queue", "headstart sweep"))
    assert first.returncode != 0
    assert f"error: {TEMPERATURE} while train_simclr ran; nothing is recorded" in output
    assert experiments(workspace) == before


@pytest.mark.slow
def test_temporary_experiments_do_not_stand_in_each_others_way(workspace):
    first = begin(workspace, "-n", "workspace-run")
    done = run(workspace, "dvc", "exp", "run", "--temp", "-n", "aside", "-S", "seed=5")
    assert "Ran experiment" in done.stdout
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert {ref.rpartition("/")[2] for ref in experiments(workspace)} >= {"workspace-run", "aside"}


# ---- a lock that does not tell the truth -----------------------------------------------------------------------------


def test_a_lock_that_says_other_settings_than_ran_is_refused_by_track_and_by_readers_of_rows(workspace):
    """DVC reads params.yaml after a command has ended: an edit in that moment passes every comparison of the stage."""
    text = (workspace / "dvc.lock").read_text()
    stages = yaml.safe_load(text)["stages"]
    stages["train_simclr@digits"]["params"]["params.yaml"]["simclr"]["temperature"] = 0.9
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    found = history.read_workspace(workspace)
    assert not found.results
    assert found.left_out == ("dvc.lock says other settings or code than train_simclr@digits was made with",)
    done = run(workspace, "python", "-m", "stages.track", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: dvc.lock: train_simclr@digits: it was made with other settings or code")
    run(workspace, "git", "checkout", "-q", "-b", "liar")
    run(workspace, "git", "commit", "-qam", "a lie")
    _, notes = read_dvc(workspace)
    run(workspace, "git", "checkout", "-qf", "-")
    assert notes == ["Left out, dvc.lock says other settings or code than train_simclr@digits was made with: liar."]


def test_every_out_says_what_it_was_made_with(workspace):
    record = json.loads((workspace / "metrics/all.json").read_text())
    entries = lock.read_entries(yaml_files.read_yaml(workspace / "dvc.lock")["stages"])
    chosen = lock.involved(entries, "digits", needs_autoencoder=True)
    assert {entry.stage for entry in chosen} == set(record["made_with"]) - {"prepare_target", "transfer"}
    assert lock.disagreeing(chosen, record["made_with"]) == []
    assert record["facts"]["digits"]["precision"] in ("fp32", "bf16")
