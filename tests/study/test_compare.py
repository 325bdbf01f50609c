"""`python -m headstart compare` as users type it, on every source of rows."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headstart.__main__ import main
from headstart.run import tracking
from headstart.run.params import load_params
from headstart.study import rows
from headstart.study.claims import CLAIMS
from headstart.study.experiments import experiment_rows, read_dvc, read_metrics
from tests.study.runs import make, needs_paper

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """The tests' own environment, without what the caller's would change."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {**env, **identity, "PATH": f"{BIN}:{env['PATH']}", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)


@pytest.fixture
def compare(monkeypatch, capsys):
    """`compare(folder, *options)`: what the command prints, without the seconds of another process's imports."""

    def call(folder: Path, *options: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["headstart", "compare", *options])
        main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(compare):
    """`refused(folder, *options)`: the one line with which the command refuses."""

    def call(folder: Path, *options: str) -> str:
        with pytest.raises(SystemExit) as end:
            compare(folder, *options)
        assert isinstance(end.value.code, str) and end.value.code.startswith("error: ") and "\n" not in end.value.code
        return end.value.code

    return call


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A folder with rows.csv: a gain of two points over five seeds, no controls, one failed run."""
    folder = tmp_path_factory.mktemp("grid")
    runs = make(lambda row: 0.8 + 0.02 * (row["projector_init"] == "autoencoder"))
    runs.loc[0, "probe_test_top1"] = 0.3
    (folder / "rows.csv").write_text(rows.to_csv(runs))
    return folder


def test_markdown_answers_every_claim_with_and_without_failed_runs(grid):
    done = run(grid, "python", "-W", "error", "-m", "headstart", "compare", "--rows", "rows.csv")
    assert (done.returncode, done.stderr) == (0, "")
    page = done.stdout
    assert page.startswith("# Claims on rows.csv\n\n60 runs, 1 dataset, 5 seeds. 1 failed")
    for name, claim in CLAIMS.items():
        section = page.partition(f"## {name} · {claim.statement}\n")[2].partition("\n## ")[0]
        verdicts = re.findall(r"^\*\*(supported|not supported|undecided).*\*\* \((.*?)\)\. \S", section, re.MULTILINE)
        assert [runs for _, runs in verdicts] == ["all runs", "without failed runs"]
        if name == "C1":
            assert verdicts[1][0] == "supported"
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert tables[0].startswith("| contrast | measure | dataset | value | bounds |")
    assert all(line.startswith("| ") and line.endswith(" |") for line in tables)


def test_csv_json_and_latex_hold_the_same_numbers(grid, compare):
    options = ("--rows", "rows.csv", "--claim", "C1", "--claim", "C7", "--format")
    lines = list(csv.DictReader(io.StringIO(compare(grid, *options, "csv"))))
    tree = json.loads(compare(grid, *options, "json"))
    paper = compare(grid, *options, "latex")
    first = tree["claims"][0]["verdicts"]["all runs"]
    assert [claim["claim"] for claim in tree["claims"]] == ["C1", "C7"]
    assert float(lines[0]["value"]) == first["effects"][0]["value"]
    assert [line["measure"] for line in lines if (line["claim"], line["over"]) == ("C1", "all runs")] == [
        row["measure"] for row in first["effects"]
    ]
    last = lines[-1]
    assert (last["claim"], last["verdict"], last["value"]) == ("C7", "undecided", "")
    assert last["note"].startswith("Controls without matching runs")
    assert f"{first['effects'][0]['value']:+.2f} & [" in paper
    assert paper.count(r"\begin{tabular}") == paper.count(r"\end{tabular}") == 2
    assert all(r"\%" in line or "%" not in line or line.startswith("%") for line in paper.splitlines())


def test_rows_are_saved_and_read_back(grid, tmp_path, compare):
    compare(grid, "--rows", "rows.csv", "--claim", "C1", "--save-rows", str(tmp_path / "again.csv"))
    assert (tmp_path / "again.csv").read_text() == (grid / "rows.csv").read_text()


def test_what_cannot_be_computed_is_one_line(grid, tmp_path, refused):
    text = (grid / "rows.csv").read_text()
    (tmp_path / "unknown.csv").write_text(text.replace("seed", "sede", 1))
    (tmp_path / "empty.csv").write_text(text.splitlines()[0] + "\n")
    assert "unknown.csv: column 'sede' is unknown (nearest: seed)" in refused(tmp_path, "--rows", "unknown.csv")
    assert "empty.csv: no finished run (0 rows read)" in refused(tmp_path, "--rows", "empty.csv")
    missing = refused(grid, "--rows", "rows.csv", "--claim", "C7")
    assert "rows.csv: nothing can be computed. C7: Controls without matching runs: random (frozen)" in missing
    assert "C11: must be one of C1, C2" in refused(grid, "--rows", "rows.csv", "--claim", "C11")
    assert "--margin -1: must be above 0" in refused(grid, "--rows", "rows.csv", "--margin", "-1")
    assert "--rows publishd: must be published, dvc, mlflow or a CSV file" in refused(grid, "--rows", "publishd")
    assert "no git repository with a commit" in refused(tmp_path)


def test_refusals_end_with_status_1_and_a_reader_that_has_enough_with_no_traceback(grid):
    done = run(grid, "python", "-m", "headstart", "compare", "--rows", "rows.csv", "--claim", "C11")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: C11: must be one of C1, C2")
    done = run(grid, "bash", "-c", "python -m headstart compare --rows rows.csv --claim C1 | head -1")
    assert done.stdout == "# Claims on rows.csv\n" and done.stderr == ""


def test_the_published_runs_without_download(compare):
    paper = needs_paper()
    page = compare(ROOT, "--rows", "published", "--published-dir", str(paper / "simclr-ae-results"), "--claim", "C1")
    assert "# Claims on the paper's published runs\n\n765 runs, 5 datasets, 1 seed. 48 failed" in page
    assert "+2.81 points [2.16, 3.47] over 360 pairs" in page
    assert "an arbitrary tie-break moves the mean between 0.46 and 0.94" in page
    assert "The runs stand on a single seed" in page


# ---- this repository's own runs --------------------------------------------------------------------------------------

STAGE = """
import json, pathlib, yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
top1 = 0.9 if params["projector"]["init"] == "autoencoder" else 0.8
names = ("top1", "val_top1", "macro_f1", "macro_recall", "train_loss", "val_loss")
metrics = {name: {"mean": top1, "digits": top1} for name in names}
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/metrics.json").write_text(json.dumps({"top1": metrics["top1"]}))
pathlib.Path("metrics/all.json").write_text(json.dumps({"metrics": metrics}))
"""
PIPELINE = {
    "stages": {
        "train_simclr": {
            "matrix": {"dataset": "${datasets}"},
            "cmd": "python stage.py",
            "deps": ["stage.py"],
            "params": ["recipe", "seed", "projector", "simclr", "data.standardize"],
            "metrics": [{"metrics/metrics.json": {"cache": False}}],
            "outs": [{"metrics/all.json": {"cache": False}}],
        }
    }
}


def done(folder: Path, *command: str) -> None:
    result = run(folder, *command)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A DVC repository with this project's params.yaml and a stage that takes no time.

    A baseline; an experiment from it, hidden by a later commit; one in the queue; a branch whose params.yaml was edited
    after its results were made.
    """
    folder = tmp_path_factory.mktemp("repository")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    done(folder, "git", "init", "-qb", "main")
    done(folder, "dvc", "init", "-q")
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = true\n")
    done(folder, "dvc", "repro", "-q")
    done(folder, "git", "add", "-A")
    done(folder, "git", "commit", "-qm", "baseline")
    settings = ["-S", "projector.init=random", "-S", "projector.freeze=false"]
    done(folder, "dvc", "exp", "run", "-q", "--temp", *settings, "-n", "plain")
    done(folder, "git", "commit", "-q", "--allow-empty", "-m", "later")
    done(folder, "dvc", "exp", "run", "-q", "--queue", "-S", "projector.activation=tanh", "-n", "waiting")
    done(folder, "git", "checkout", "-qb", "edited")
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    done(folder, "git", "commit", "-qam", "edited")
    done(folder, "git", "checkout", "-q", "main")
    return folder


def test_dvc_experiments_of_all_branches_and_commits_become_rows(repository, compare):
    page = compare(repository, "--claim", "C1", "--save-rows", "rows.csv")
    assert "Left out, params.yaml was edited after the results were made: edited." in page
    assert "Left out as half-finished (no test accuracy): 1 (waiting)." in page
    assert "Counted once though found again with the same result: 1 (" in page
    assert "autoencoder (frozen) - random (trainable): +10.00 points [10.00, 10.00] over 1 pairs" in page
    saved = rows.read_csv(repository / "rows.csv").set_index("run")
    plain = saved.loc["plain"]
    assert (plain["projector_init"], bool(plain["projector_frozen"]), plain["autoencoder"]) == ("random", False, "")
    assert bool(saved.loc["main", "projector_frozen"]) and saved.loc["main", "autoencoder"]
    assert (plain["seed"], plain["epochs"], plain["image_size"], plain["probe_test_top1"]) == (0, 40, 8, 0.8)
    assert plain["learning_rate"] == pytest.approx(0.3 * 128 / 256)
    assert saved["protocol"].nunique() == 1
    assert (saved.loc["main", "probe_val_top1"], plain["train_loss"]) == (0.9, 0.8), "of all.json"


def test_commits_without_all_numbers_have_those_that_dvc_shows(repository, tmp_path):
    assert read_metrics(repository, "main")["val_loss.digits"] == 0.9
    done(tmp_path, "git", "clone", "-q", str(repository), "clone")
    clone = tmp_path / "clone"
    done(clone, "git", "checkout", "-q", "--detach")
    done(clone, "git", "rm", "-q", "metrics/all.json")
    done(clone, "git", "commit", "-qm", "as before there was one")
    done(clone, "git", "branch", "-f", "main")
    done(clone, "git", "checkout", "-q", "main")
    assert read_metrics(clone, "main") == read_metrics(clone, "workspace") == {}
    ((row,), _) = read_dvc(clone)
    assert (row["probe_test_top1"], row["probe_val_top1"]) == (0.9, None)


def test_the_workspace_counts_on_request_where_no_commit_holds_its_results(repository):
    without, _ = read_dvc(repository)
    records, _ = read_dvc(repository, workspace=True)
    assert [row["run"] for row in records[len(without) :]] == ["workspace"] and records[: len(without)] == without
    kept = rows.finished(rows.to_rows(records, "dvc"), "dvc").runs
    assert "workspace" not in set(kept["run"])


def flat(**changes):
    params = {
        "recipe": "paper",
        "datasets": "['digits', 'mine']",
        "seed": 1.0,
        "projector.init": "random_matched",
        "projector.freeze": "auto",
        "projector.hidden_dim": 128.0,
        "projector.out_dim": 64.0,
        "projector.activation": "tanh",
        "data.standardize": "False",
        "simclr.learning_rate": 0.3,
        "simclr.epochs.default": 40.0,
        "simclr.epochs.paper": 150.0,
        "autoencoder.epochs": 30.0,
        "data.digits.batch_size": 512.0,
        "data.digits.views": "calm",
        "data.mine.batch_size": 256.0,
        "views.calm.flip": 0.5,
        "views.wild.flip": 0.1,
        "tracking.enabled": "True",
    }
    return {**params, **changes}


def row_of(**changes):
    return next(iter(experiment_rows(flat(**changes), {"top1.digits": 0.5, "top1.mine": 0.6}, "name")))


def test_an_experiments_parameters_become_a_row_per_dataset():
    digits, mine = experiment_rows(flat(), {"top1.digits": 0.5, "top1.mine": 0.6}, "name")
    assert (digits["dataset"], digits["probe_test_top1"], digits["epochs"]) == ("digits", 0.5, 150.0)
    assert (mine["dataset"], mine["probe_test_top1"]) == ("mine", 0.6)
    assert digits["projector_frozen"] is True and digits["learning_rate"] == pytest.approx(0.6)
    assert rows.to_rows([digits, mine], "x")["seed"].tolist() == [1, 1]


def test_other_datasets_are_transfer_or_where_classes_are_the_same_a_shift():
    found = {"top1_on_a": 0.4, "top1_on_b": 0.6, "top1_on_a_untrained": 0.3, "top1_on_b_untrained": 0.2}
    found |= {"top1_on_grey": 0.9, "top1_zero_shot_on_grey": 0.7}
    metrics = {f"{name}.digits": value for name, value in found.items()}
    row, other = experiment_rows(flat(**{"probe.datasets": "['a', 'b', 'grey']"}), metrics, "name")
    assert row["transfer_datasets"] == "a, b, grey"
    assert (row["transfer_top1"], row["transfer_untrained_top1"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert row["shift_top1"] == 0.7
    assert other["transfer_top1"] is other["shift_top1"] is None, "half a mean is none"
    plain = row_of()
    assert plain["transfer_datasets"] == "" and plain["transfer_top1"] is plain["shift_top1"] is None


def test_a_plain_value_that_equals_the_recipes_is_the_same_protocol():
    params = {name: value for name, value in flat().items() if not name.startswith("simclr.epochs")}
    (plain, _), (resolved, _) = (
        experiment_rows(tree, {}, "name") for tree in (params | {"simclr.epochs": "150"}, flat())
    )
    assert plain["protocol"] == resolved["protocol"] and int(plain["epochs"]) == resolved["epochs"] == 150


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"simclr.epochs.paper": 100.0}, "protocol"),
        ({"views.calm.flip": 0.0}, "protocol"),
        ({"data.digits.batch_size": 128.0}, "protocol"),
        ({"autoencoder.epochs": 1.0}, "autoencoder"),
        ({"seed": 2.0}, None),
        ({"projector.activation": "relu"}, None),
        ({"data.standardize": "True"}, None),
        ({"views.wild.flip": 0.0}, None),
        ({"data.mine.batch_size": 2.0}, None),
        ({"simclr.epochs.default": 1.0}, None),
        ({"tracking.enabled": "False"}, None),
        ({"data.archives": "sets", "data.mirror": "https://host"}, None),
    ],
)
def test_the_protocol_is_what_changes_a_result_and_is_no_axis(changes, column):
    differing = [name for name in ("protocol", "autoencoder") if row_of()[name] != row_of(**changes)[name]]
    assert differing == ([column] if column else [])


def test_mlflow_gives_the_same_rows_with_what_they_took(workspace, monkeypatch, compare, refused):
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    shutil.copyfile(ROOT / "params.yaml", workspace / "params.yaml")
    assert "no MLflow store; run the pipeline with tracking.enabled: true" in refused(workspace, "--rows", "mlflow")
    for init, top1 in (("autoencoder", 0.9), ("random", 0.8)):
        text = (ROOT / "params.yaml").read_text().replace("init: autoencoder", f"init: {init}")
        (workspace / "params.yaml").write_text(text)
        params = load_params(workspace / "params.yaml")
        for stage in ("train_simclr", "fit_probe"):
            with tracking.stage_run(stage, "digits", params) as stage_run:
                stage_run.log_metrics({"simclr/images_per_second": 1234.0}, step=1)
        tracking.complete(params, {"top1": {"mean": top1, "digits": top1}, "train_loss": {"digits": 5.0}}, [])
    page = compare(workspace, "--rows", "mlflow", "--claim", "C1", "--save-rows", "rows.csv")
    assert "autoencoder (frozen) - random (trainable): +10.00 points" in page
    saved = rows.read_csv(workspace / "rows.csv")
    assert sorted(saved["projector_init"]) == ["autoencoder", "random"]
    assert saved["images_per_second"].tolist() == [1234.0, 1234.0]
    assert (saved["wall_seconds"] >= 0).all() and saved["protocol"].nunique() == 1
