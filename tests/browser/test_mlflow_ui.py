"""What `make ui` shows, in a real browser and by MLflow's REST API: two runs that differ in one key."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from headstart import settings
from headstart.run.params import load_params
from headstart.tracking import tracking
from headstart.tracking.mirror import Ended
from tests.checkouts import ROOT, environment
from tests.sweep.nodes import answers, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A workspace with two finished runs, and what `python -m headstart ui` printed while it serves them."""
    folder = tmp_path_factory.mktemp("ui")
    for name in ("params.yaml", "datasets.yaml", "dvc.yaml"):
        (folder / name).write_text((ROOT / name).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for activation, top1 in (("relu", 0.75), ("tanh", 0.5)):
            patch.setenv("DVC_EXP_NAME", f"{activation}-newt")
            params = load_params()
            tree = settings.with_overrides(params.settings, {"projector.activation": activation})
            head = replace(params.projector, activation=activation)
            params = replace(params, settings=tree, projector=head)
            with tracking.stage_run("train_simclr", "digits", params) as run:
                run.log_metrics({"simclr/train_loss": 4.0}, 1)
            metrics = {"top1": {"digits": top1}, "autoencoder_num_parameters": {"digits": 5.0}}
            tracking.complete(params, Ended(metrics, watched=["top1"], note="## Result"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "headstart", "ui", "--port", str(port)]
    env = environment(PYTHONPATH=str(ROOT / "src"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            line = process.stdout.readline()
            yield folder, line
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def api(base: str, path: str, **body) -> dict:
    request = urllib.request.Request(
        f"{base}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def runs(served) -> tuple[str, str, list[dict]]:
    """The server's address, the experiment's id, and the parents as the API tells them."""
    _, line = served
    base, experiment = re.fullmatch(
        r"The runs: (http://127\.0\.0\.1:\d+)/#/experiments/(\d+)/runs\?workflowType=machine_learning\n", line
    ).groups()
    wait_for(lambda: answers(base.removeprefix("http://")), 60, "MLflow's server")
    found = api(base, "runs/search", experiment_ids=[experiment])["runs"]
    return base, experiment, [run for run in found if "dvc_experiment" in str(run) and not is_child(run)]


def is_child(run: dict) -> bool:
    return any(tag["key"] == "mlflow.parentRunId" for tag in run["data"]["tags"])


def test_the_api_tells_what_each_run_is(runs):
    _, _, parents = runs
    names = {run["info"]["run_name"] for run in parents}
    assert names == {f"digits autoencoder frozen {word} 128-64 seed 0" for word in ("relu", "tanh")}
    for run in parents:
        metrics = {row["key"] for row in run["data"]["metrics"]}
        assert metrics == {"top1.digits", "details/autoencoder_num_parameters.digits"}


def test_the_comparison_of_two_runs_shows_what_differs_and_the_accuracies(runs, served, chromium):
    base, experiment, parents = runs
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})
    try:
        tab = context.new_page()
        tab.goto(served[1].partition(": ")[2].strip())
        tab.get_by_text("digits autoencoder frozen tanh 128-64 seed 0").first.wait_for(timeout=60_000)
        ids = json.dumps([run["info"]["run_id"] for run in parents])
        query = urllib.parse.urlencode({"runs": ids, "experiments": json.dumps([experiment])})
        tab.goto(f"{base}/#/compare-runs?{query}")
        tab.get_by_text("projector.activation").first.wait_for(timeout=60_000)
        text = tab.locator("body").inner_text()
        assert "relu" in text and "tanh" in text
        tab.get_by_text("top1.digits").first.wait_for(timeout=20_000)
        assert "0.75" in tab.locator("body").inner_text() and "0.5" in tab.locator("body").inner_text()
    finally:
        context.close()


def test_ui_without_runs_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "ui"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT / "src")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == "error: no runs here yet: make repro\n"
    assert not list(Path(tmp_path).iterdir())
