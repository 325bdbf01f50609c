"""`python -m headstart compare` as users type it, on every source of rows."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from headstart import history, settings
from headstart.__main__ import main
from headstart.run.params import load_params
from headstart.study import rows
from headstart.study.experiments import lock_row, read_dvc, row_of, tracked_rows
from headstart.study.statements import STATEMENTS
from headstart.tracking import tracking
from headstart.tracking.mirror import Ended
from headstart.tracking.tracked import read_runs
from tests.checkouts import ROOT, edit, run
from tests.study.runs import make, needs_paper
from tests.sweep.stubs import stub_checkout

JUDGED = "Judged by top1; a difference below 1 point does not matter."
SOURCES = {"PYTHONPATH": str(ROOT / "src")}


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
    done = run(grid, "python", "-W", "error", "-m", "headstart", "compare", "--rows", "rows.csv", **SOURCES)
    assert (done.returncode, done.stderr) == (0, "")
    page = done.stdout
    assert page.startswith(f"# Claims on rows.csv\n\n{JUDGED}\n\n60 runs, 1 dataset, 5 seeds. 1 failed")
    for name, statement in STATEMENTS.items():
        section = page.partition(f"## {name} · {statement}\n")[2].partition("\n## ")[0]
        verdicts = re.findall(r"^\*\*(supported|not supported|undecided).*\*\* \((.*?)\)\. \S", section, re.MULTILINE)
        assert [runs for _, runs in verdicts] == ["all runs", "without failed runs"]
        if name == "C1":
            assert verdicts[1][0] == "supported"
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert tables[0] == "| dataset | score | of | % | SimCLR minus it, points |"
    assert any(line.startswith("| contrast | measure | dataset | value | bounds |") for line in tables)
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
    assert paper.count(r"\begin{tabular}") == paper.count(r"\end{tabular}") == paper.count(r"\label{tab:") == 4
    assert r"p{0.3\linewidth}" in paper, "the verdicts fit a column"
    assert all(r"\%" in line or "%" not in line or line.startswith("%") for line in paper.splitlines())


def test_rows_are_saved_and_read_back(grid, tmp_path, compare):
    compare(grid, "--rows", "rows.csv", "--claim", "C1", "--save-rows", str(tmp_path / "again.csv"))
    assert (tmp_path / "again.csv").read_text() == (grid / "rows.csv").read_text()


def test_the_grid_of_committed_rows_names_score_and_margin_and_options_win(grid, tmp_path, compare):
    (tmp_path / "sweeps" / "results").mkdir(parents=True)
    runs = make(lambda row: 0.8 + 0.02 * (row["projector_init"] == "autoencoder"))
    runs["probe_few5"] = runs["probe_test_top1"] / 2
    (tmp_path / "sweeps" / "results" / "mine.csv").write_text(rows.to_csv(runs))
    (tmp_path / "sweeps" / "mine.yaml").write_text("endpoint: few5\nmargins: {few5: 0.5}\naxes: {seed: [0]}")
    own = ("--rows", "sweeps/results/mine.csv", "--claim", "C1", "--format", "brief")
    page = compare(tmp_path, *own)
    assert "Judged by few5; a difference below 0.5 points does not matter, as sweeps/mine.yaml says." in page
    assert re.search(r"random \(trainable\): \+(0\.9|1\.0)\d ", page) and "**unknown** digits, few5" in page
    assert JUDGED in compare(tmp_path, *own, "--score", "top1")
    assert "Judged by few5; a difference below 3 points does not matter." in compare(tmp_path, *own, "--margin", "3")


def test_each_arm_at_its_own_rate_on_request(tmp_path, compare, refused):
    runs = make(lambda row: 0.8 + 0.02 * (row["projector_init"] == "autoencoder"))
    slow = runs.assign(learning_rate=0.1, probe_val_top1=0.5, probe_test_top1=0.4, train_loss=runs["train_loss"] + 1)
    both = pd.concat([runs.assign(learning_rate=0.2), slow], ignore_index=True)
    (tmp_path / "rows.csv").write_text(rows.to_csv(both))
    page = compare(tmp_path, "--rows", "rows.csv", "--claim", "C1", "--format", "brief", "--best-learning-rate")
    assert "digits, autoencoder (frozen), relu: 0.2 of 0.1, 0.2" in page
    assert "autoencoder (frozen) - random (trainable): +1.9" in page or "(trainable): +2.0" in page
    (tmp_path / "one.csv").write_text(rows.to_csv(runs.assign(learning_rate=0.2)))
    message = refused(tmp_path, "--rows", "one.csv", "--best-learning-rate")
    assert "--best-learning-rate: no arm has runs at several learning rates" in message


def test_what_cannot_be_computed_is_one_line(grid, tmp_path, refused, capsys):
    text = (grid / "rows.csv").read_text()
    (tmp_path / "unknown.csv").write_text(text.replace("seed", "sede", 1))
    (tmp_path / "empty.csv").write_text(text.splitlines()[0] + "\n")
    assert "unknown.csv: column 'sede' is unknown (nearest: seed)" in refused(tmp_path, "--rows", "unknown.csv")
    assert "empty.csv: no finished run (0 rows read)" in refused(tmp_path, "--rows", "empty.csv")
    assert "nothing to compare yet" in refused(grid, "--rows", "rows.csv", "--claim", "C7", "--claim", "C5")
    _, *missing, begin = capsys.readouterr().err.splitlines()
    assert [line[:5] for line in missing] == ["  C7:", "  C5:"] and "random (frozen)" in missing[0], "a short list"
    assert begin.startswith("  to begin: dvc exp run")
    assert "C11: must be one of C1, C2" in refused(grid, "--rows", "rows.csv", "--claim", "C11")
    assert "--margin -1: must be above 0" in refused(grid, "--rows", "rows.csv", "--margin", "-1")
    assert "--rows publishd: must be published, published_rbf, dvc, mlflow or a CSV file" in refused(
        grid, "--rows", "publishd"
    )
    assert "no git repository with a commit" in refused(tmp_path)


def test_refusals_end_with_status_1_and_a_reader_that_has_enough_with_no_traceback(grid):
    done = run(
        grid, "python", "-m", "headstart", "compare", "--rows", "rows.csv", "--claim", "C11", check=False, **SOURCES
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: C11: must be one of C1, C2")
    done = run(grid, "bash", "-c", "python -m headstart compare --rows rows.csv --claim C1 | head -1", **SOURCES)
    assert done.stdout == "# Claims on rows.csv\n" and done.stderr == ""


def test_the_published_runs_without_download(compare):
    paper = needs_paper()
    page = compare(ROOT, "--rows", "published", "--published-dir", str(paper / "simclr-ae-results"), "--claim", "C1")
    assert f"# Claims on the paper's published runs\n\n{JUDGED}\n\n765 runs, 5 datasets, 1 seed. 48 failed" in page
    assert "+2.81 points [2.16, 3.47] over 360 pairs" in page
    assert "an arbitrary tie-break moves the mean between 0.46 and 0.94" in page
    assert "The runs stand on a single seed" in page


# ---- this repository's own runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository whose stages take no time.

    A baseline; an experiment from it, hidden by a later commit; one in the queue; a branch whose params.yaml was edited
    after its results were made.
    """
    folder = stub_checkout(tmp_path_factory.mktemp("repository"))
    run(folder, "git", "branch", "-M", "main")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "baseline")
    run(folder, "dvc", "exp", "run", "--temp", "-S", "projector.init=random", "-n", "plain")
    run(folder, "git", "commit", "-q", "--allow-empty", "-m", "later")
    run(folder, "dvc", "exp", "run", "--queue", "-S", "projector.activation=tanh", "-n", "waiting")
    run(folder, "git", "checkout", "-qb", "edited")
    edit(folder, {"seed": 7})
    run(folder, "git", "commit", "-qam", "edited")
    run(folder, "git", "checkout", "-q", "main")
    return folder


def test_dvc_experiments_of_all_branches_and_commits_become_rows(repository, compare):
    page = compare(repository, "--claim", "C1", "--save-rows", "rows.csv")
    assert "Counted once though found again with the same result: 1 (edited)." in page
    assert "autoencoder (frozen) - random (trainable): +25.00 points" in page
    saved = rows.read_csv(repository / "rows.csv").set_index("run")
    assert set(saved.index) == {"main", "edited", "plain"}, "what waits in the queue has no row"
    assert (saved["seed"] == 0).all(), "dvc.lock says what results were made with, whatever was edited since"
    plain = saved.loc["plain"]
    assert (plain["projector_init"], bool(plain["projector_frozen"]), plain["autoencoder"]) == ("random", False, "")
    assert bool(saved.loc["main", "projector_frozen"]) and saved.loc["main", "autoencoder"]
    assert (plain["epochs"], plain["image_size"], plain["precision"]) == (2, 8, "fp32")
    assert plain["learning_rate"] == pytest.approx(0.3 * 256 / 256)
    assert saved["protocol"].nunique() == 1
    assert len(plain["identity"]) == 32 and plain["identity"] != saved.loc["main", "identity"]
    arrays = set(saved["arrays"])
    assert len(arrays) == 2 and "" not in arrays, "the arrays that only the autoencoder rests on count too"
    run(repository, "git", "clean", "-fdq", "rows.csv")


def test_the_workspace_counts_on_request_where_no_commit_holds_its_results(repository):
    without, _ = read_dvc(repository)
    records, _ = read_dvc(repository, workspace=True)
    assert [row["run"] for row in records[len(without) :]] == ["workspace"] and records[: len(without)] == without
    kept = rows.finished(rows.to_rows(records, "dvc"), "dvc").runs
    assert "workspace" not in set(kept["run"])


def test_a_project_in_a_folder_of_a_larger_repository_has_its_rows_too(repository, tmp_path):
    large = tmp_path / "large"
    shutil.copytree(repository, large / "inner", ignore=shutil.ignore_patterns(".git", "cache", "tmp"))
    run(large, "git", "init", "-q", "-b", "main")
    run(large, "git", "add", "-A")
    run(large, "git", "commit", "-qm", "all of it")
    records, notes = read_dvc(large / "inner")
    assert [row["run"] for row in records] == ["main"] and notes == []


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_the_lock_dvc_exp_show_and_mlflow_tell_one_row(repository, tmp_path, monkeypatch, recipe):
    """The same settings in three spellings: of stages alone, of whole files, and as texts."""
    folder = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(repository), str(folder))
    (folder / ".cache").mkdir()
    sixteen = {"datasets.yaml:digits.image_size": 16}  # the paper's stem on fewer pixels is refused
    edit(folder, {"recipe": recipe, "tracking.enabled": True, **sixteen})
    with (folder / "params.yaml").open() as file:  # as DVC's dumper writes 0.00001
        text = file.read().replace("1.0e-05", "1e-05")
    (folder / "params.yaml").write_text(text)
    run(folder, "dvc", "repro")
    record = json.loads((folder / "metrics/all.json").read_text())
    (result,) = history.read_workspace(folder).results
    locked = {key: value for key, value in lock_row(result, "x").items() if key not in ("identity", "arrays")}

    shown = json.loads(run(folder, "dvc", "exp", "show", "--json").stdout)
    files = next(row for row in shown if row["rev"] == "workspace")["data"]["params"]
    tree = {name: files[name]["data"] for name in ("params.yaml", "datasets.yaml")}
    assert row_of(tree, "digits", result.metrics, result.facts, "x") == locked

    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    tracking.complete(load_params(), Ended(record["metrics"], facts=record["facts"]))
    (told,) = read_runs(load_params().tracking.experiment)
    assert tracked_rows(told.params, told.metrics, told.facts, "x") == [locked]
    both = rows.finished(rows.to_rows([locked, *tracked_rows(told.params, told.metrics, told.facts, "x")], "x"), "x")
    assert len(both.runs) == 1 and both.runs["protocol"].nunique() == 1


FACTS = {"projector_frozen": True, "needs_autoencoder": True, "precision": "bf16"}


def row(metrics: dict[str, float] | None = None, **changes):
    tree = settings.with_overrides(settings.read_settings(ROOT), {"datasets": ["digits", "mine"], "recipe": "paper"})
    tree = settings.with_overrides(tree, {key.replace("__", "."): value for key, value in changes.items()})
    return row_of(tree, "digits", metrics or {"top1": 0.5}, FACTS, "name")


def test_settings_become_a_row():
    found = row(**{"datasets.yaml:digits.batch_size": 512})
    assert (found["dataset"], found["probe_test_top1"], found["epochs"]) == ("digits", 0.5, 150)
    assert found["projector_frozen"] is True and found["learning_rate"] == pytest.approx(0.6)
    assert rows.to_rows([found], "x")["seed"].tolist() == [0]


def test_other_datasets_are_transfer_or_where_classes_are_the_same_a_shift():
    found = {"top1_on_a": 0.4, "top1_on_b": 0.6, "top1_on_a_untrained": 0.3, "top1_on_b_untrained": 0.2}
    found |= {"top1_on_grey": 0.9, "top1_zero_shot_on_grey": 0.7}
    one = row(found, probe__datasets=["a", "b", "grey"])
    assert one["transfer_datasets"] == "a, b, grey"
    assert (one["transfer_top1"], one["transfer_untrained_top1"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert one["shift_top1"] == 0.7
    other = row({}, probe__datasets=["a", "b", "grey"])
    assert other["transfer_top1"] is other["shift_top1"] is None, "half a mean is none"
    plain = row()
    assert plain["transfer_datasets"] == "" and plain["transfer_top1"] is plain["shift_top1"] is None


def test_a_plain_value_that_equals_the_recipes_is_the_same_protocol():
    assert row(simclr__epochs=150)["protocol"] == row()["protocol"]
    assert row(simclr__weight_decay=1e-05)["protocol"] == row(simclr__weight_decay=0.00001)["protocol"]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"simclr.epochs": {"default": 40, "paper": 100}}, "protocol"),
        ({"views.digits.flip": 0.5}, "protocol"),
        ({"datasets.yaml:digits.batch_size": 64}, "protocol"),
        ({"data.val_fraction": 0.2}, "protocol"),
        ({"probe.strengths": [1.0]}, "protocol"),
        ({"simclr.novelty": 1}, "protocol"),
        ({"simclr.loss": "dcl"}, "protocol"),
        ({"simclr.first_layer_learning_rate": 0.03}, None),
        ({"autoencoder.epochs": 1}, "autoencoder"),
        ({"seed": 2}, None),
        ({"projector.activation": "silu"}, None),
        ({"data.standardize": True}, None),
        ({"views.mild.flip": 0.0}, None),
        ({"datasets.yaml:mine.batch_size": 2}, None),
        ({"simclr.epochs": {"default": 1, "paper": 150}}, None),
        ({"tracking.enabled": False}, None),
        ({"probe.few_labels": [3]}, None),
        ({"data.archives": "sets", "data.mirror": "https://host"}, None),
    ],
)
def test_the_protocol_is_what_changes_a_result_and_is_no_axis(changes, column):
    differing = [name for name in ("protocol", "autoencoder") if row()[name] != row(**changes)[name]]
    assert differing == ([column] if column else [])


def test_losses_and_rates_are_columns_and_runs_of_before_had_none_apart():
    before = settings.with_overrides(settings.read_settings(ROOT), {"datasets": ["digits"]})
    for key in ("loss", "head_learning_rate", "first_layer_learning_rate"):
        before["params.yaml"]["simclr"] = {k: v for k, v in before["params.yaml"]["simclr"].items() if k != key}
    old, new = row_of(before, "digits", {"top1": 0.5}, FACTS, "name"), row(recipe="default")
    first, second = rows.to_rows([old, new], "x").to_dict("records")
    assert old["protocol"] == new["protocol"] and all(first[key] == second[key] for key in rows.RUN_KEY)
    assert (first["loss"], first["head_rate"], first["first_layer_rate"]) == ("nt_xent", 1, 1)
    apart = row(simclr__head_learning_rate=0.6, simclr__first_layer_learning_rate=0.03, simclr__loss="vicreg")
    assert (apart["loss"], apart["head_rate"], apart["first_layer_rate"]) == ("vicreg", 2, 0.1)
    assert row(simclr__head_learning_rate=0.6)["first_layer_rate"] == 2, "the head's first layer is the head's"


def test_pairs_of_several_precisions_are_told():
    runs = make(lambda row: 0.8)
    runs["precision"] = "fp32"
    assert not rows.finished(runs, "x").notes
    runs.loc[runs["projector_init"] == "random", "precision"] = "bf16"
    (note,) = rows.finished(runs, "x").notes
    assert note == "In 30 settings pairs mix precisions (column `precision`)."


def test_mlflow_gives_rows_with_what_they_took(workspace, monkeypatch, compare, refused):
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    for name in ("params.yaml", "datasets.yaml"):
        shutil.copyfile(ROOT / name, workspace / name)
    assert "no MLflow store; run the pipeline with tracking.enabled: true" in refused(workspace, "--rows", "mlflow")
    for init, top1 in (("autoencoder", 0.9), ("random", 0.8)):
        edit(workspace, {"projector.init": init})
        params = load_params(workspace)
        for stage in ("train_simclr", "fit_probe"):
            with tracking.stage_run(stage, "digits", params) as stage_run:
                stage_run.log_metrics({"simclr/images_per_second": 1234.0}, step=1)
        own = init == "autoencoder"
        facts = {"digits": {"projector_frozen": own, "needs_autoencoder": own, "precision": "fp32"}}
        tracking.complete(params, Ended({"top1": {"digits": top1}, "train_loss": {"digits": 5.0}}, facts=facts))
    page = compare(workspace, "--rows", "mlflow", "--claim", "C1", "--save-rows", "rows.csv")
    assert "autoencoder (frozen) - random (trainable): +10.00 points" in page
    saved = rows.read_csv(workspace / "rows.csv")
    assert sorted(saved["projector_init"]) == ["autoencoder", "random"]
    assert saved["images_per_second"].tolist() == [1234.0, 1234.0]
    assert (saved["wall_seconds"] >= 0).all() and saved["protocol"].nunique() == 1


def test_on_a_terminal_it_is_a_table_that_fits(grid, compare, monkeypatch):
    monkeypatch.setattr("headstart.commands.terminal.is_terminal", lambda: True)
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        page = compare(grid, "--rows", "rows.csv")
        assert max(map(len, page.splitlines())) <= width
        assert "C1" in page and "Can these runs tell?" in page and "|---" not in page
