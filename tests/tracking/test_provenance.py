"""What dvc.lock and git say about a run."""

import subprocess

import pytest
import yaml

from headstart.tracking import provenance


def entry(stage, dataset, deps=(), outs=(), options="", **more):
    """An entry of dvc.lock; a file is given as (path, md5)."""
    files = {
        kind: [{"path": path, "hash": "md5", "md5": md5, "size": 1} for path, md5 in listed]
        for kind, listed in (("deps", deps), ("outs", outs))
        if listed
    }
    return {"cmd": f"python -m stages.{stage} --dataset {dataset}{options}", **files, **more}


def write_lock(**entries) -> None:
    provenance.LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=False))


@pytest.fixture
def scripts(workspace):
    (workspace / "stages").mkdir()
    for stage in ("prepare", "pretrain", "train"):
        (workspace / "stages" / f"{stage}.py").touch()


def names(datasets):
    return [(result.stage, result.dataset) for result in provenance.results(datasets)]


@pytest.mark.parametrize("init", ["auto", "random"])
def test_results_are_those_that_the_run_rests_on(scripts, init):
    pretrained = {kind: (f"models/{kind}", f"{kind}-md5") for kind in ("auto", "random")}
    entries = {
        "prepare-a": entry("prepare", "a", outs=[("data/a", "1")]),
        "prepare-b": entry("prepare", "b", outs=[("data/b", "2")]),
        **{
            f"pretrain-a-{kind}": entry("pretrain", "a", [("data/a", "1")], [out], f" --init {kind}")
            for kind, out in pretrained.items()
        },
        "train-a": entry("train", "a", [("data/a", "1"), pretrained[init]], [("models/a", "3")]),
        "train-b": entry("train", "b", [("data/b", "2")], [("models/b", "4")]),
        "gone-a": entry("gone", "a", outs=[("data/gone", "5")]),  # a stage that has been removed
        "report": {"cmd": "python -m stages.report"},
    }
    write_lock(**entries)
    assert names(["a"]) == [("prepare", "a"), ("pretrain", "a"), ("train", "a")]
    chosen = provenance.results(["a"])[1]
    write_lock(**{name: value for name, value in entries.items() if name != f"pretrain-a-{init}"})
    assert chosen not in provenance.results(["a"])


def test_a_dataset_that_another_one_builds_on_counts(scripts):
    write_lock(
        prepare_a=entry("prepare", "a", outs=[("data/a", "1")]),
        prepare_b=entry("prepare", "b", outs=[("data/b", "2")]),
        train_a=entry("train", "a", [("data/a", "1"), ("data/b", "2")], [("models/a", "3")]),
    )
    assert names(["a"]) == [("prepare", "a"), ("prepare", "b"), ("train", "a")]


def test_key_changes_with_command_inputs_parameters_and_outs_only(scripts):
    def key(**changes):
        kind = {
            "deps": [("data/a", "1")],
            "outs": [("models/a", "2")],
            "params": {"params.yaml": {"seed": 0}},
            **changes,
        }
        write_lock(train=entry("train", "a", **kind))
        (result,) = provenance.results(["a"])
        return result.key

    base = key()
    assert base == key(desc="no matter")
    others = [
        key(options=" --x 1"),
        key(deps=[("data/a", "9")]),
        key(outs=[("models/a", "9")]),
        key(params={"params.yaml": {"seed": 1}}),
    ]
    assert len({base, *others}) == 5


def test_no_lock_no_results(scripts):
    assert provenance.results(["a"]) == []


def test_git_state_tells_commit_and_changed_code(workspace):
    assert provenance.git_state() == {}  # pytest's temporary folder is in no repository

    def git(*words):
        return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert provenance.git_state() == {}  # no commit yet
    (workspace / "src").mkdir()
    (workspace / "src" / "a.py").touch()
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")
    commit = git("rev-parse", "HEAD")
    (workspace / "params.yaml").touch()
    time = {"git_time": git("log", "-1", "--format=%ci")}
    assert provenance.git_state() == {"git_commit": commit, "git_dirty": "false", **time}
    (workspace / "src" / "b.py").touch()
    assert provenance.git_state() == {"git_commit": commit, "git_dirty": "true", **time}
