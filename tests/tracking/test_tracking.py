"""The mirror in MLflow, against real stores and servers: what it holds, and that nothing of it reaches a run."""

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart import settings
from headstart.data.arrays import Standardize
from headstart.errors import UserError
from headstart.models.backbone import Backbone, build_backbone
from headstart.run.params import Params, load_params
from headstart.tracking import guard, mirror, tracking
from headstart.tracking.mirror import Ended
from headstart.tracking.tracked import read_runs

ROOT = Path(__file__).parents[2]
META = {"hash": "0123456789abcdef" * 2, "num_images": {"train": 9, "val": 1, "test": 2}, "classes": ["a", "b", "c"]}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An SQLite file with MLflow's tables and nothing in them; creating it takes seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    client_of(f"sqlite:///{file}")
    return file


@pytest.fixture
def place(workspace, empty_store, monkeypatch) -> Path:
    """A workspace with a store, where every call reaches MLflow at once."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    for name in mirror.SETTINGS:
        monkeypatch.setenv(name, mirror.SETTINGS[name])
    for name in ("PATIENCE_SECONDS", "FLUSH_SECONDS", "PACE"):
        monkeypatch.setattr(guard, name, 0.0)
    shutil.copyfile(empty_store, workspace / "mlflow.db")
    return workspace


@pytest.fixture(scope="module")
def params() -> Params:
    return with_tracking(load_params(ROOT))


def with_tracking(params: Params, **changes) -> Params:
    chosen = {"enabled": True, "experiment": "test", "log_model": True, **changes}
    return replace(params, tracking=replace(params.tracking, **chosen))


def with_seed(params: Params, seed: int) -> Params:
    return replace(params, settings=settings.with_overrides(params.settings, {"seed": seed}))


def client_of(uri: str):
    with guard.quiet():
        return mirror.client_of(uri)


class Store:
    """What a store holds, read through MLflow's own client."""

    def __init__(self, place: Path | str):
        self.client = client_of(place if isinstance(place, str) else f"sqlite:///{place / 'mlflow.db'}")

    def runs(self):
        experiment = self.client.get_experiment_by_name("test")
        return list(reversed(self.client.search_runs([experiment.experiment_id], max_results=1000)))

    def parents(self):
        return [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]

    def children(self, parent=None):
        runs = [run for run in self.runs() if "mlflow.parentRunId" in run.data.tags]
        return [run for run in runs if parent is None or run.data.tags["mlflow.parentRunId"] == parent.info.run_id]

    def curve(self, run, key):
        history = self.client.get_metric_history(run.info.run_id, key)
        return sorted((metric.step, metric.value) for metric in history)

    def files(self, run, folder=None):
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id, folder))


def figure(folder: Path) -> Path:
    from PIL import Image

    path = folder / "views.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_a_stage_and_its_parent_hold_all_that_was_told(place, params, capfd, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "proud-newt")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "b" * 40)
    subprocess.run(["git", "init", "-q"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "c"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_dataset("digits", META)
        for epoch in range(3):
            run.log_metrics({"simclr/train_loss": 2.0 - epoch, "simclr/val_loss": epoch / 3}, step=epoch)
        run.log_figure(figure(place))
    (place / "report.md").write_text("# Report")
    metrics = {"top1": {"digits": 0.75}, "top5": {"digits": 1.0}, "autoencoder_test_mse": {"digits": None}}
    facts = {"digits": {"precision": "bf16", "projector_frozen": True}}
    shown = [place / "report.md", place / "views.png"]
    datasets = [tracking.dataset_row("digits", META)]
    tracking.complete(params, Ended(metrics, shown, facts, ["top1"], datasets, "# Report"))

    store = Store(place)
    (parent,), (child,) = store.parents(), store.children()
    name = "digits autoencoder frozen relu 128-64 seed 0"
    assert (parent.info.run_name, parent.info.status) == (name, "FINISHED")
    assert parent.data.metrics == {"top1.digits": 0.75, "details/top5.digits": 1.0}
    assert parent.data.tags["mlflow.note.content"] == "# Report"
    assert json.loads(parent.data.tags["headstart.facts"]) == facts
    assert store.files(parent) == ["figures", "report.md"] and store.files(parent, "figures") == ["figures/views.png"]
    assert (child.info.run_name, child.info.status) == (f"train_simclr {name}", "FINISHED")
    assert store.curve(child, "simclr/train_loss") == [(0, 2.0), (1, 1.0), (2, 0.0)]
    assert store.curve(child, "simclr/val_loss") == [(0, 0.0), (1, 1 / 3), (2, 2 / 3)]
    assert store.files(child, "figures") == ["figures/views.png"]
    for run in (parent, child):
        (entry,) = run.inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == ("digits", META["hash"])
        assert json.loads(entry.dataset.profile) == {"num_images": META["num_images"], "num_classes": 3}
        tags = run.data.tags
        assert (tags["dvc_experiment"], tags["dvc_baseline"]) == ("proud-newt", "b" * 40)
        assert tags["git_commit"] == tags["mlflow.source.git.commit"] == head and tags["git_dirty"] == "false"
    assert (child.data.tags["stage"], child.data.tags["dataset"]) == ("train_simclr", "digits")
    assert capfd.readouterr() == ("", "")


def test_parent_has_the_settings_in_force(place, params):
    tracking.complete(params, Ended({}))
    (parent,) = Store(place).parents()
    in_force = {*settings.flat(settings.of_run(params.settings)), "projector.frozen"}
    assert set(parent.data.params) == {key for key in in_force if not key.startswith("tracking.")}
    assert len(parent.data.params) < 80  # not those of datasets that nobody uses
    assert parent.data.params["datasets.yaml:digits.batch_size"] == "128"
    assert parent.data.params["projector.hidden_dim"] == str(params.projector.hidden_dim)
    assert parent.data.params["simclr.epochs"] == str(params.simclr.epochs)  # of this recipe, no mapping of recipes
    assert json.loads(parent.data.params["datasets"]) == params.datasets
    assert parent.data.params["projector.frozen"] == "true"


def test_a_child_has_the_parameters_that_its_stage_reads(place, params):
    execute(params, "prepare", "train_simclr")
    tracking.complete(params, Ended({}))
    (parent,), children = Store(place).parents(), Store(place).children()
    prepare, train = (run.data.params for run in sorted(children, key=lambda run: run.info.run_name))
    assert train["projector.activation"] == "relu" and train["projector.frozen"] == "true"
    assert train["datasets.yaml:digits.batch_size"] == "128" and train["views.digits.hue"] == "0.0"
    assert not any(key.startswith(("probe.", "autoencoder.")) for key in train), "it reads neither"
    assert "data.val_fraction" in prepare and not any(key.startswith(("projector.", "simclr.")) for key in prepare)
    for own in (prepare, train):
        assert own.items() <= parent.data.params.items()


def test_seeds_of_one_cell_share_a_tag(place, params):
    other = replace(params, settings=settings.with_overrides(params.settings, {"projector.activation": "tanh"}))
    for one in (params, with_seed(params, 1), other):
        tracking.complete(one, Ended({}))
    cells = [run.data.tags["cell"] for run in Store(place).parents()]
    assert cells[0] == cells[1] != cells[2]


def test_parent_is_one_per_parameters_experiment_and_baseline(place, params, monkeypatch):
    for name, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0)):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        tracking.complete(with_seed(params, seed), Ended({"top1": {"digits": seed / 2}}, watched=["top1"]))
    store = Store(place)
    assert [run.data.tags["dvc_experiment"] for run in store.parents()] == ["a", "a", "b"]
    assert store.curve(store.parents()[0], "top1.digits") == [(0, 0.0)]  # told twice, but it did not change


def test_a_short_stage_costs_no_connection_and_track_delivers_it(place, params, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 30.0)
    (place / "mlflow.db").unlink()
    started = time.time()
    with tracking.stage_run("prepare", "digits", params) as run:
        run.log_metrics({"seconds": 1.5})
    ended = time.time()
    assert not (place / "mlflow.db").exists() and ended - started < 1
    time.sleep(0.5)
    tracking.complete(params, Ended({}))
    (parent,), (child,) = Store(place).parents(), Store(place).children()
    assert parent.info.start_time == child.info.start_time
    assert (child.info.run_name, child.data.metrics) == ("prepare digits", {"seconds": 1.5})
    assert started - 0.01 <= child.info.start_time / 1000 <= child.info.end_time / 1000 <= ended + 0.01
    assert not list((place / ".cache" / "tracking").rglob("*.json"))
    tracking.complete(params, Ended({}))
    assert len(Store(place).children()) == 1


def test_logged_model_takes_pixels_and_gives_features_at_any_batch_size(place, params):
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), 0).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    standardize = Standardize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    registered = with_tracking(params, registered_model="digits-backbone")
    with tracking.stage_run("train_simclr", "digits", registered) as run:
        run.log_model(backbone, 16, standardize)
    assert backbone.training and all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    (child,) = Store(place).children()
    import mlflow

    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    with guard.quiet():
        loaded = mlflow.pyfunc.load_model(f"runs:/{child.info.run_id}/backbone")
        features = loaded.predict(images)
        version = mlflow.pyfunc.load_model("models:/digits-backbone/1").predict(images)
    with torch.no_grad():
        wanted = backbone.eval()(standardize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255))
    np.testing.assert_array_equal(features, wanted.numpy())
    np.testing.assert_array_equal(version, features)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 16, 16, 3)


def test_the_best_backbone_is_found_by_the_scores_of_its_probe(dvc_place, params, monkeypatch):
    store = Store(dvc_place)
    for seed, top1 in ((0, 0.5), (1, 0.75), (2, 0.25)):
        monkeypatch.setenv("DVC_EXP_NAME", f"e{seed}")
        own = with_seed(params, seed)
        (dvc_place / "dvc.lock").write_text(dvc_lock(f"{seed}"))
        with tracking.stage_run("train_simclr", "digits", own) as run:
            run.log_model(torch.nn.Linear(3, 2), 3, None)
        row = tracking.dataset_row("digits", META)
        ended = Ended({"top1": {"digits": top1}, "top5": {"digits": 1.0}}, watched=["top1"], inputs=[row])
        for _ in range(2):  # again: nothing new
            tracking.complete(own, ended)
    order = [{"field_name": "metrics.top1", "ascending": False}]
    experiment = store.client.get_experiment_by_name("test").experiment_id
    models = store.client.search_logged_models(experiment_ids=[experiment], order_by=order)
    assert [model.params["seed"] for model in models] == ["1", "0", "2"]
    for model, top1 in zip(models, (0.75, 0.5, 0.25), strict=True):
        (metric,) = model.metrics
        assert (metric.key, metric.value) == ("top1", top1)
        assert (metric.dataset_name, metric.dataset_digest) == ("digits", META["hash"])


def test_a_moved_store_takes_its_artifacts_along(place, params, capfd, monkeypatch):
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_figure(figure(place))
    assert capfd.readouterr().err == ""
    moved = place.parent / "moved"
    shutil.copytree(place, moved)
    shutil.rmtree(place / "mlartifacts")
    monkeypatch.setenv("DVC_ROOT", str(moved))
    with tracking.stage_run("fit_probe", "digits", params) as run:
        run.log_figure(figure(place))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: mlflow.db was made in another folder") and str(place) in line
    store = Store(moved)
    for child in store.children():
        assert child.info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
        assert store.files(child, "figures") == ["figures/views.png"]
    assert not (place / "mlartifacts").exists()
    with tracking.stage_run("fit_probe", "digits", params):
        pass
    assert capfd.readouterr().err == "", "told once"


def test_a_deleted_experiment_is_told_with_the_ways_out(place, params, capfd):
    tracking.complete(params, Ended({}))
    store = Store(place)
    number = store.client.get_experiment_by_name("test").experiment_id
    store.client.delete_experiment(number)
    tracking.complete(with_seed(params, 1), Ended({}))
    (line,) = capfd.readouterr().err.splitlines()
    assert f"mlflow experiments restore --experiment-id {number}" in line and "tracking.experiment" in line
    with pytest.raises(UserError, match="restore --experiment-id"):
        read_runs("test")


def test_a_stage_tells_how_busy_the_machine_is(place, params):
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_metrics({"loss": 1.0})
    (child,) = Store(place).children()
    told = {key for key in child.data.metrics if key.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= told
    assert 0 <= child.data.metrics["system/cpu_utilization_percentage"] <= 100


def stage_that_draws(params: Params) -> bytes:
    """What a stage would write that (wrongly) used every global generator between its calls to the tracker."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    drawn = []
    with tracking.stage_run("train_simclr", "digits", params) as run:
        network = torch.nn.Linear(3, 2)
        for step in range(3):
            drawn += [random.random(), float(np.random.rand()), float(torch.rand(()))]
            run.log_metrics({"loss": drawn[-1]}, step)
        run.log_model(network, 3, None)
        drawn += [random.random(), float(np.random.rand()), float(torch.rand(())), *network.weight.flatten().tolist()]
    tracking.complete(params, Ended({"top1": {"digits": drawn[-1]}}))
    return json.dumps(drawn).encode()


def test_outs_are_the_same_bytes_with_tracking_on_off_and_dead(place, params, monkeypatch):
    on = stage_that_draws(params)
    assert len(Store(place).children()) == 1
    off = stage_that_draws(with_tracking(params, enabled=False))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refused_port()}")
    assert on == off == stage_that_draws(params)


def test_off_means_no_import_and_no_file(workspace, params):
    code = "import sys; from headstart.tracking import tracking; print('mlflow' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "False\n"
    off = with_tracking(params, enabled=False)
    with tracking.stage_run("train_simclr", "digits", off) as run:
        run.log_metrics({"loss": 1.0})
    tracking.complete(off, Ended({}))
    assert list(workspace.iterdir()) == []


def test_failure_is_marked_and_going_on_continues_the_same_run(place, params):
    with pytest.raises(ZeroDivisionError), tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_metrics({"loss": 3.0}, step=1)
        run.log_metrics({"loss": 2.0}, step=2)
        raise ZeroDivisionError("division by zero")
    store = Store(place)
    (parent,), (child,) = store.parents(), store.children()
    assert parent.info.status == child.info.status == "FAILED"
    assert child.data.tags["error"] == "ZeroDivisionError: division by zero"
    with tracking.stage_run("train_simclr", "digits", params) as run:
        for step in (2, 3):  # step 2 again, since the checkpoint
            run.log_metrics({"loss": 4.0 - step}, step)
    tracking.complete(params, Ended({}))
    (parent,), (again,) = store.parents(), store.children()
    assert parent.info.status == again.info.status == "FINISHED"
    assert again.info.run_id == child.info.run_id and "error" not in again.data.tags
    assert store.curve(again, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_mistake_told_at_once_does_not_wait_for_mlflow(place, params, monkeypatch):
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 30.0)
    (place / "mlflow.db").unlink()
    with pytest.raises(UserError), tracking.stage_run("prepare", "digits", params):
        raise UserError("data/x.zip: no such file")
    assert not (place / "mlflow.db").exists()


def test_interrupted_run_is_killed_not_failed(place, params):
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("train_simclr", "digits", params):
        raise KeyboardInterrupt
    assert [run.info.status for run in Store(place).children()] == ["KILLED"]


# Other processes: of one server that has imported mlflow and runs no thread, so that they start in milliseconds.
@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"])
    return context


def worker(place: Path, params: Params, dataset: str, steps: range, end: str, uri: str = "") -> None:
    os.environ["DVC_ROOT"] = str(place)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri
    guard.PATIENCE_SECONDS = guard.PACE = 0.0
    guard.FLUSH_SECONDS = 0.1 if end != "kill" else 0.0
    sys.stderr = (place / f"{dataset}.err").open("w")
    if end == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    with tracking.stage_run("train_simclr", dataset, params) as run:
        run.log_dataset("shared", META)
        for step in steps:
            run.log_metrics({"loss": step + len(dataset) / 8}, step)
            time.sleep(0.01)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr.close()


def test_eight_processes_that_create_the_store_at_once_lose_nothing(place, params, processes):
    (place / "mlflow.db").unlink()
    datasets = [f"d{'x' * number}" for number in range(8)]
    workers = [processes.Process(target=worker, args=(place, params, name, range(50), "")) for name in datasets]
    for process in workers:
        process.start()
    for process in workers:
        process.join(90)
    assert [process.exitcode for process in workers] == [0] * 8
    assert [(place / f"{name}.err").read_text() for name in datasets] == [""] * 8
    assert not list((place / ".cache" / "tracking").rglob("*.json"))
    store = Store(place)
    (parent,) = store.parents()
    children = {run.data.tags["dataset"]: run for run in store.children(parent)}
    assert sorted(children) == sorted(datasets)
    for name, run in children.items():
        assert run.info.status == "FINISHED"
        assert store.curve(run, "loss") == [(step, step + len(name) / 8) for step in range(50)]
        assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == [META["hash"]]


def test_a_killed_run_is_continued(place, params, processes):
    for steps, end, exitcode in ((range(6), "kill", -signal.SIGKILL), (range(4, 9), "", 0)):
        process = processes.Process(target=worker, args=(place, params, "digits", steps, end))
        process.start()
        process.join(60)
        assert process.exitcode == exitcode
    store = Store(place)
    (child,) = store.children()
    assert child.info.status == "FINISHED"
    assert store.curve(child, "loss") == [(step, step + 6 / 8) for step in range(9)]


def dvc_lock(weights: str, init: str = "autoencoder") -> str:
    """What DVC writes, with a left-over entry of another initialisation and one of a dataset that is not active."""

    def entry(name: str, dataset: str, deps: dict[str, str], outs: dict[str, str], options: str = "") -> str:
        stage = name.partition("@")[0]
        lines = [f"  {name}:", f"    cmd: python -m stages.{stage} --dataset {dataset}{options}"]
        for kind, files in (("deps", deps), ("outs", outs)):
            lines += [f"    {kind}:"] if files else []
            lines += [
                f"    - path: {path}\n      hash: md5\n      md5: {md5}\n      size: 1" for path, md5 in files.items()
            ]
        return "\n".join(lines)

    prepared = {"data/prepared/digits": "11"}
    auto = {f"models/autoencoder/digits/{kind}-128": f"{kind}22" for kind in ("random", "autoencoder")}
    needed = f"models/autoencoder/digits/{init}-128"
    entries = [
        entry("prepare@digits", "digits", {}, prepared),
        entry("prepare@old", "old", {}, {"data/prepared/old": "1"}),
    ]
    for path, md5 in auto.items():
        kind = re.findall(r"(\w+)-128", path)[0]
        options = f" --init {kind} --dim 128"
        entries.append(entry(f"pretrain_autoencoder@digits-{kind}-128", "digits", prepared, {path: md5}, options))
    entries.append(entry("train_simclr@digits", "digits", {needed: auto[needed]}, {"models/simclr/digits": weights}))
    return "schema: '2.0'\nstages:\n" + "\n".join(entries) + "\n  report:\n    cmd: python -m stages.report\n"


STAGES = ("prepare", "pretrain_autoencoder", "train_simclr")


@pytest.fixture
def dvc_place(place) -> Path:
    """A workspace whose stages exist."""
    (place / "stages").mkdir()
    for stage in STAGES:
        (place / "stages" / f"{stage}.py").touch()
    return place


def execute(params: Params, *stages: str) -> None:
    for stage in stages:
        with tracking.stage_run(stage, "digits", params):
            pass


def test_what_dvc_restores_is_linked_to_the_run_that_made_it(dvc_place, params, monkeypatch):
    store = Store(dvc_place)
    (dvc_place / "dvc.lock").write_text(dvc_lock("aa"))
    monkeypatch.setenv("DVC_EXP_NAME", "first")
    execute(params, *STAGES)
    tracking.complete(params, Ended({}))
    originals = {run.data.tags["stage"]: run for run in store.children()}
    assert sorted(originals) == sorted(STAGES)
    assert len({run.data.tags["headstart.result"] for run in originals.values()}) == 3

    # a second experiment runs one stage and gets two from DVC
    monkeypatch.setenv("DVC_EXP_NAME", "second")
    other = with_seed(params, 1)
    (dvc_place / "dvc.lock").write_text(dvc_lock("bb"))
    execute(other, "train_simclr")
    tracking.complete(other, Ended({}))
    tracking.complete(other, Ended({}))  # `dvc repro` again: nothing new

    second = {run.data.tags["stage"]: run for run in store.children(store.parents()[1])}
    assert len(store.children(store.parents()[1])) == 3 and sorted(second) == sorted(STAGES)
    for stage in ("prepare", "pretrain_autoencoder"):
        run = second[stage]
        assert (
            run.data.tags["headstart.reused"] == "true"
            and run.info.run_name.startswith(f"{stage} digits")
            and run.info.run_name.endswith(" (reused)")
        )
        assert run.data.tags["headstart.original"] == originals[stage].info.run_id
        assert originals[stage].info.run_id in run.data.tags["mlflow.note.content"]
        assert run.info.status == "FINISHED"
    assert "headstart.reused" not in second["train_simclr"].data.tags
    assert (
        second["train_simclr"].data.tags["headstart.result"] != originals["train_simclr"].data.tags["headstart.result"]
    )
    assert len(store.children(store.parents()[0])) == 3


def test_a_link_gives_way_when_the_stage_runs_after_all(dvc_place, params):
    store = Store(dvc_place)
    (dvc_place / "dvc.lock").write_text(dvc_lock("aa"))
    tracking.complete(params, Ended({}))
    links = store.children()
    assert sorted(run.data.tags["stage"] for run in links) == sorted(STAGES)
    assert not any("headstart.original" in run.data.tags for run in links)  # nobody knows who made them
    (dvc_place / "dvc.lock").write_text(dvc_lock("bb"))  # forced, other outs
    execute(params, "train_simclr")
    tracking.complete(params, Ended({}))
    runs = {run.data.tags["stage"]: run for run in store.children()}
    assert len(store.children()) == 3 and "headstart.reused" not in runs["train_simclr"].data.tags


def test_a_run_that_was_killed_for_good_does_not_stay_running(place, params, processes):
    process = processes.Process(target=worker, args=(place, params, "digits", range(2), "kill"))
    process.start()
    process.join(60)
    tracking.complete(params, Ended({}))
    assert [run.info.status for run in Store(place).children()] == ["KILLED"]


def test_a_parent_whose_process_is_gone_is_closed_by_the_next_run(place, params, processes):
    process = processes.Process(target=worker, args=(place, with_seed(params, 7), "digits", range(2), "kill"))
    process.start()
    process.join(60)
    store = Store(place)
    assert {run.info.status for run in store.runs()} == {"RUNNING"}
    with tracking.stage_run("train_simclr", "digits", params) as run:  # another run, which lives
        run.log_metrics({"loss": 1.0})
        lost, alive = store.parents()
        assert (lost.info.status, alive.info.status) == ("KILLED", "RUNNING")
        assert [child.info.status for child in store.children(lost)] == ["KILLED"]
        number = lost.info.experiment_id
        assert tracking.close_lost("test") == (0, number), "what lives is left alone"
    assert tracking.close_lost("no such experiment") == (0, "")


def refused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def listener(answer=lambda connection: None):
    """A port whose connections are accepted by the system and given to `answer`; by default nothing ever answers."""
    held = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                threading.Thread(target=answer, args=(held[-1],), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def run_all(params: Params) -> tuple[float, float]:
    """Every kind of call; returns the seconds that the stage and the completion took."""
    started = time.monotonic()
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_dataset("digits", META)
        for step in range(20):
            run.log_metrics({"loss": 1.0}, step)
        run.log_figure(Path("absent.png"))
        run.log_model(torch.nn.Linear(3, 2), 3, None)
    middle = time.monotonic()
    tracking.complete(params, Ended({"top1": {"digits": 1.0}}))
    return middle - started, time.monotonic() - middle


def test_a_refused_connection_costs_nothing_but_a_warning(place, params, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refused_port()}")
    assert max(run_all(params)) < 1.5
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1  # for the stage and `track` together
    assert all(line.startswith("warning: MLflow") and "refused" in line for line in err.splitlines())


def test_a_server_that_never_answers_costs_seconds(place, params, monkeypatch, capfd):
    with listener() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        seconds = run_all(params)
    assert max(seconds) < 15
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "Traceback" not in err


def test_a_server_that_drips_bytes_costs_seconds(place, params, monkeypatch, capfd):
    def drip(connection: socket.socket) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.2)
        except OSError:
            return

    monkeypatch.setattr(mirror, "PROBE_SECONDS", 1.0)
    with listener(drip) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert max(run_all(params)) < 4
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["corrupt", "directory", "unknown scheme", "file store", "no folder"])
def test_a_broken_store_costs_a_warning(place, params, monkeypatch, capfd, kind):
    if kind == "corrupt":
        (place / "mlflow.db").write_bytes(b"no database" * 1000)
    elif kind == "no folder":
        (place / "taken").touch()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/taken/mlflow.db")
    else:
        uri = {
            "directory": f"sqlite:///{place}",
            "unknown scheme": "nonsense://x",
            "file store": f"file://{place}/runs",
        }
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri[kind])
    assert max(run_all(params)) < 15
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.count("warning: MLflow") == 1


def test_a_full_disk_costs_a_warning(place, params, processes):
    process = processes.Process(target=worker, args=(place, params, "digits", range(5), "full"))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    (line,) = (place / "digits.err").read_text().splitlines()
    assert line.startswith("warning: MLflow")


def test_temporary_copies_and_relative_uris_end_in_the_main_workspace(place, params, monkeypatch, empty_store):
    copy = place / ".dvc" / "tmp" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    for uri, file in (("", "mlflow.db"), ("sqlite:///other.db", "other.db")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        if uri:
            shutil.copyfile(empty_store, place / file)
        with tracking.stage_run("train_simclr", "digits", params) as run:
            run.log_figure(figure(copy))
        store = Store(f"sqlite:///{place / file}")
        (child,) = store.children()
        assert child.info.artifact_uri.startswith((place / "mlartifacts").as_uri())
        assert store.files(child, "figures") == ["figures/views.png"]
    assert [path.name for path in copy.iterdir()] == ["views.png"]


@pytest.fixture
def server(place):
    """A real `mlflow server` on loopback: its address, and a function that signals all its processes."""
    port = refused_port()
    uri = f"http://127.0.0.1:{port}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{place / 'mlflow.db'}",
        "--artifacts-destination",
        str(place / "served"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *store], env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail((place / "server.log").read_text())
        yield uri, lambda number: os.killpg(process.pid, number)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_eight_writers_to_one_server_lose_nothing(server, place, params, processes):
    """Each a sweep's cell with a parent of its own, all on the same dataset; no lock of ours is between them."""
    own = [with_seed(params, seed) for seed in range(8)]
    names = [f"d{'x' * number}" for number in range(8)]
    workers = [
        processes.Process(target=worker, args=(place, one, name, range(20), "", server[0]))
        for one, name in zip(own, names, strict=True)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join(120)
    assert [process.exitcode for process in workers] == [0] * 8
    assert [(place / f"{name}.err").read_text() for name in names] == [""] * 8
    store = Store(server[0])
    assert len(store.parents()) == 8
    children = {run.data.tags["dataset"]: run for run in store.children()}
    assert sorted(children) == sorted(names)
    for name, run in children.items():
        assert store.curve(run, "loss") == [(step, step + len(name) / 8) for step in range(20)]
        assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == [META["hash"]]


def test_a_dataset_that_another_writer_adds_meanwhile_is_told_again(place, params, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    real, refused = MlflowClient.log_inputs, []

    def log_inputs(client, run_id, **inputs):
        if not refused:
            refused.append(run_id)
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name", error_code=1)
        real(client, run_id, **inputs)

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs)
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_dataset("digits", META)
    (child,) = Store(place).children()
    assert refused == [child.info.run_id]
    assert [entry.dataset.digest for entry in child.inputs.dataset_inputs] == [META["hash"]]


def test_a_server_that_hangs_in_the_middle_misses_nothing_once_it_is_back(server, place, params, monkeypatch, capfd):
    uri, send_signal = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with tracking.stage_run("train_simclr", "digits", params) as run:
        run.log_dataset("digits", META)
        run.log_metrics({"loss": 0.0}, 0)
        run.log_figure(figure(place))
        run.log_model(torch.nn.Linear(3, 2), 3, None)
        send_signal(signal.SIGSTOP)
        started = time.monotonic()
        for step in range(1, 40):
            run.log_metrics({"loss": step / 8}, step)
    assert time.monotonic() - started < 10
    assert len(capfd.readouterr().err.splitlines()) == 1
    send_signal(signal.SIGCONT)
    tracking.complete(params, Ended({"top1": {"digits": 0.5}}, [figure(place)], watched=["top1"]))
    store = Store(uri)
    (parent,), (child,) = store.parents(), store.children()
    assert parent.data.metrics == {"top1.digits": 0.5} and store.files(parent, "figures") == ["figures/views.png"]
    assert child.info.status == "FINISHED" and child.info.artifact_uri.startswith("mlflow-artifacts:")
    assert store.curve(child, "loss") == [(step, step / 8) for step in range(40)]
    assert len(child.outputs.model_outputs) == 1
    assert capfd.readouterr() == ("", "")

    # and one that dies
    with tracking.stage_run("fit_probe", "digits", params) as run:
        run.log_metrics({"top1": 0.5})
        send_signal(signal.SIGKILL)
        time.sleep(0.5)
        started = time.monotonic()
        run.log_metrics({"top1": 0.6}, 1)
    assert time.monotonic() - started < 2
    assert len(capfd.readouterr().err.splitlines()) == 1
