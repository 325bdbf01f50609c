"""The schema and what is left out; the published runs' join, on small exports in their format and on the real ones."""

import csv
import dataclasses
import hashlib
import math

import pandas as pd
import pytest

from headstart.errors import UserError
from headstart.study import published, rows
from headstart.study.claims.paper import DEFAULT, PRETRAINED, arms, between
from tests.ingest.hosts import Host, drop, refused_url
from tests.study.runs import make, needs_paper

HEADER = (
    "dataset,projector_init,projector_frozen,projector_hidden_dim,projector_out_dim,projector_activation,standardize,seed,"
    "probe_test_top1,train_loss,run"
)
LINE = "digits,random,false,128,64,relu,false,0,0.9,5.1,a"


def table(tmp_path, *lines, header=HEADER):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def test_a_csv_is_read_typed_and_written_back_the_same(tmp_path):
    read = rows.read_csv(table(tmp_path, LINE, LINE.replace("random,false", "autoencoder,True").replace("0.9", "")))
    assert list(read.columns) == list(rows.COLUMNS)
    assert read["projector_frozen"].tolist() == [False, True]
    assert read["seed"].dtype == "int64"
    assert read["probe_test_top1"][0] == 0.9 and math.isnan(read["probe_test_top1"][1])
    assert math.isnan(read["val_loss"][0]) and read["device"][0] == ""
    (tmp_path / "again.csv").write_text(rows.to_csv(read))
    pd.testing.assert_frame_equal(rows.read_csv(tmp_path / "again.csv"), read)


def test_frozen_layers_kinds_and_heads_without_layers_are_read_and_written(tmp_path):
    header = f"{HEADER},projector_kind,projector_num_layers"
    lines = [
        f"{LINE},,",  # of before these axes came
        f"{LINE.replace('false,128', 'layers 1+2,128')},rbf,3",
        f"{LINE.replace('false,128', 'layer 2,128')},mlp,2",
        f"{LINE},mlp,0",
    ]
    read = rows.read_csv(table(tmp_path, *lines, header=header))
    assert read["projector_frozen"].tolist() == [False, "layers 1+2", "layer 2", False]
    assert read["projector_kind"].tolist() == ["mlp", "rbf", "mlp", "mlp"]
    assert read["projector_num_layers"].tolist() == [2, 3, 2, 0]
    (tmp_path / "again.csv").write_text(rows.to_csv(read))
    pd.testing.assert_frame_equal(rows.read_csv(tmp_path / "again.csv"), read)
    kept = rows.finished(read, "rows")
    assert len(kept.runs) == 4, "no two are the same run"
    words = [rows.arm_name(*arm) for arm in arms(kept.runs)]
    assert words == ["random (trainable)", "random (layer 2 frozen)", "random (layers 1+2 frozen)"]
    assert "4 runs" in rows.describe(kept)
    assert len(between(kept.runs, ("random", True), DEFAULT).pairs) == 0


def test_comments_above_the_header_are_kept_apart(tmp_path):
    read = rows.read_csv(table(tmp_path, LINE, header=f"# of a grid\n# at a commit\n{HEADER}"))
    assert read.attrs["comments"] == ["of a grid", "at a commit"] and len(read) == 1
    text = rows.to_csv(read, read.attrs["comments"])
    assert text.startswith("# of a grid\n# at a commit\ndataset,") and "probe_few5" not in text
    (tmp_path / "again.csv").write_text(text)
    pd.testing.assert_frame_equal(rows.read_csv(tmp_path / "again.csv"), read)


@pytest.mark.parametrize(
    ("header", "line", "words"),
    [
        (
            HEADER.replace("train_loss", "train_los"),
            LINE,
            ["rows.csv", "'train_los' is unknown", "nearest: train_loss"],
        ),
        (HEADER.replace(",seed", ""), LINE.replace(",0,0.9", ",0.9"), ["rows.csv", "'seed' is missing"]),
        (HEADER, LINE.replace("128", "wide"), ["row 1: projector_hidden_dim: 'wide' must be a number"]),
        (HEADER, LINE.replace("128", "12.5"), ["projector_hidden_dim: '12.5' must be a whole number"]),
        (HEADER, LINE.replace("0.9", "90"), ["probe_test_top1: '90' must be at least 0 and at most 1"]),
        (
            HEADER,
            LINE.replace("false,128", "maybe,128"),
            ["projector_frozen: 'maybe' must be true, false or"],
        ),
        (HEADER, LINE.replace("false,128", "layers 1,128"), ["projector_frozen: 'layers 1' must be true"]),
        (HEADER, LINE.replace("digits", ""), ["row 1: dataset is missing"]),
        (HEADER, f"{LINE},more", ["row 1", "more cells than columns"]),
    ],
)
def test_what_is_wrong_in_a_csv_is_named(tmp_path, header, line, words):
    with pytest.raises(UserError) as error:
        rows.read_csv(table(tmp_path, line, header=header))
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv: cannot be read: No such file"):
        rows.read_csv(tmp_path / "absent.csv")


def test_half_finished_runs_and_repetitions_are_left_out_and_named(tmp_path):
    lines = [
        LINE,
        LINE.replace("5.1,a", "5.1,same"),
        LINE.replace("0.9,5.1,a", "0.7,5.3,other"),
        LINE.replace("0.9,5.1,a", ",,half").replace("relu", "tanh"),
        LINE.replace("relu,false,0", "relu,false,1").replace("5.1,a", "5.2,b"),
    ]
    kept = rows.finished(rows.read_csv(table(tmp_path, *lines)), "rows.csv")
    assert kept.runs["run"].tolist() == ["a", "b"]
    assert kept.runs["probe_test_top1"].tolist() == [0.9, 0.9]
    assert [note.partition(":")[0] for note in kept.notes] == [
        "Left out, without a test accuracy (half-finished, or no labels)",
        "Counted once though found again with the same result",
        "Left out, another run has the configuration, with another result",
    ]
    assert ["(half)" in kept.notes[0], "(same)" in kept.notes[1], "(other)" in kept.notes[2]] == [True] * 3


def test_failed_runs_are_flagged_against_their_own_dataset_and_protocol(tmp_path):
    header = f"{HEADER},protocol"
    lines = [f"{LINE.replace(',0,0.9,5.1', f',{seed},0.9,5.{seed}')},p" for seed in range(4)]
    lines.append(f"{LINE.replace(',0,0.9', ',4,0.71')},p")  # under 0.8 of the median 0.9
    lines.append(f"{LINE.replace(',0,0.9', ',5,0.73')},p")  # above it
    lines.append(f"{LINE.replace(',0,0.9,5.1', ',6,0.9,nan')},p")
    lines += [f"{LINE.replace(',0,0.9,5.1', f',{seed},0.5,5.{seed}')},q" for seed in range(3)]
    kept = rows.finished(rows.read_csv(table(tmp_path, *lines, header=header)), "rows.csv")
    assert kept.runs["failed"].tolist() == [False] * 4 + [True, False, True] + [False] * 3
    assert kept.notes == ["The runs follow 2 protocols (recipes); runs are compared within one."]
    assert "10 runs, 1 dataset, 7 seeds. 2 failed" in rows.describe(kept)
    assert "2 of 10 random trainable" in rows.describe(kept)


def test_seeds_that_repeat_each_other_to_the_last_bit_are_told_and_counted_once(tmp_path):
    lines = [
        LINE.replace(",0,0.9,5.1,a", f",{seed},0.9,{loss},seed{seed}") for seed, loss in enumerate((5.1, 5.1, 5.2))
    ]
    kept = rows.finished(rows.read_csv(table(tmp_path, *lines)), "rows.csv")
    assert kept.runs["run"].tolist() == ["seed0", "seed2"]
    assert kept.notes == ["Counted once, for another seed gave the very same numbers: 1 (seed1)."]
    unknown = [LINE.replace(",0,0.9,5.1,a", f",{seed},0.9,,seed{seed}") for seed in range(3)]  # no loss: who knows
    assert len(rows.finished(rows.read_csv(table(tmp_path, *unknown)), "rows.csv").runs) == 3


@pytest.mark.parametrize("score", ["few5", "probe_few5"])
def test_runs_are_judged_by_a_score_where_they_have_it(score):
    runs = make(lambda row: 0.8)
    runs["probe_few5"] = runs["probe_test_top1"] / 2
    runs.loc[3, "probe_few5"] = float("nan")
    judged = rows.judged_by(runs, score)
    assert len(judged) == len(runs) - 1 and (judged["score"] == judged["probe_few5"]).all()
    with pytest.raises(UserError, match=r"--score knn20: no run has it \(column probe_knn20\)"):
        rows.judged_by(runs, "knn20")
    with pytest.raises(UserError, match=r"--score few50: must be one of top1, few1, .* \(nearest: few5\)"):
        rows.judged_by(runs, "few50")
    with pytest.raises(UserError, match="--score train_loss: must be one of"):
        rows.judged_by(runs, "train_loss")


def rated(init: str, rate: float, seed: int, val: float) -> dict:
    setting = {"projector_hidden_dim": 128, "projector_out_dim": 32, "projector_activation": "relu"}
    setting |= {"projector_init": init, "projector_frozen": init == "autoencoder", "standardize": False}
    losses = {"train_loss": 5 - val, "val_loss": 5 - val}
    return (
        setting
        | losses
        | {
            **{"dataset": "digits", "seed": seed, "learning_rate": rate, "protocol": "p"},
            **{
                "probe_val_top1": val,
                "probe_test_top1": val - 0.1,
                "autoencoder": "ae" if init == "autoencoder" else "",
            },
        }
    )


def test_each_arm_is_compared_at_the_rate_that_validation_chooses():
    best = {"random": 0.1, "autoencoder": 0.4}
    records = [
        rated(init, rate, seed, 0.8 - abs(rate - best[init]) + 0.01 * seed)
        for init in best
        for rate in (0.1, 0.2, 0.4)
        for seed in range(3)
    ]
    runs = rows.finished(rows.to_rows(records, "x"), "x").runs
    chosen, notes = rows.at_best_rate(runs)
    assert len(chosen) == 6 and chosen["learning_rate"].isna().all()
    assert notes == [
        "Each arm at its best learning rate by validation accuracy: digits, autoencoder (frozen), relu: 0.4 of 0.1, "
        "0.2, 0.4; digits, random (trainable), relu: 0.1 of 0.1, 0.2, 0.4."
    ]
    at_equal = between(runs, PRETRAINED, DEFAULT).pairs["difference"]
    assert len(at_equal) == 9 and at_equal.max() - at_equal.min() > 50
    pairs = between(chosen, PRETRAINED, DEFAULT).pairs
    assert len(pairs) == 3 and pairs["difference"].tolist() == pytest.approx([0, 0, 0])
    with pytest.raises(UserError, match="no arm has runs at several learning rates"):
        rows.at_best_rate(runs[runs["learning_rate"] == 0.1])
    with pytest.raises(UserError, match="no validation accuracy"):
        rows.at_best_rate(runs.assign(probe_val_top1=float("nan")))
    apart = runs[(runs["seed"] == 0) == (runs["learning_rate"] == 0.1)]
    with pytest.raises(UserError, match="share no seed"):
        rows.at_best_rate(apart)


def test_no_finished_run_is_an_error(tmp_path):
    for lines, number in (([], "0 rows"), ([LINE.replace("0.9", "")], "1 row")):
        with pytest.raises(UserError, match=rf"mine: no finished run \({number} read\)"):
            rows.finished(rows.read_csv(table(tmp_path, *lines)), "mine")


# ---- the published runs ----------------------------------------------------------------------------------------------

SHARED = {
    "Status": "FINISHED",
    "dataset_name": "FGVCAircraft",
    "projection_head": "ae",
    "freeze_projection_head": "True",
    "projection_head_embedding_dim": "128",
    "latent_dimensions": "64",
    "projection_head_activation": "SiLU",
    "standardize": "False",
    "simclr_model_ckpt": "logs/one.ckpt",
    "projection_head_weights": "../ae/logs/csv/ae-train/enc/version_0/checkpoints/last.ckpt",
    "img_size": "128",
    "batch_size": "666",
    "learning_rate": "0,78046875",
    "epochs": "150",
}
TRAIN = {**SHARED, "Duration": "1.8h", "run_name": "trained", "train_loss": "5,25", "val_loss": "5,125"}
EVAL = {
    **SHARED,
    "Duration": "7.5min",
    "run_name": "probed",
    "train_loss": "1,5",
    "val_micro_MulticlassAccuracy": "0,25",
    "test_micro_MulticlassAccuracy": "0,222222223877907",
    "test_macro_MulticlassF1Score": "0,125",
    "test_macro_MulticlassRecall": "0,1875",
}
ENCODER = {
    "dataset_name": "FGVCAircraft",
    "latent_dimensions": "128",
    "img_size": "128",
    "batch_size": "100",
    "epochs": "100",
    "learning_rate": "0.0001",
    "train_loss": "0.007",
    "val_loss": "0.013",
    "test_mse": "0.0125",
    "Duration": "30.0s",
    "run_name": "enc",
}


def export(folder, name, *records, columns=()):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns or list(records[0]))
        writer.writeheader()
        writer.writerows(records)


@pytest.fixture
def exports(tmp_path):
    """Five small exports: one whole run, one trained twice, one without evaluation, one whose evaluation failed."""
    folder = tmp_path / "exports"
    folder.mkdir()
    mlp = {"projection_head": "mlp", "freeze_projection_head": "False", "projection_head_weights": ""}
    second = {"simclr_model_ckpt": "logs/two.ckpt", "run_name": "trained again"}
    crashed = {"standardize": "True", "simclr_model_ckpt": "logs/four.ckpt", "run_name": "crashed"}
    lost = mlp | {"simclr_model_ckpt": "logs/three.ckpt", "run_name": "never probed"}
    export(folder, "ae-train.csv", ENCODER)
    export(folder, "simclr-train.csv", TRAIN | second, TRAIN, TRAIN | lost, TRAIN | crashed)
    export(folder, "simclr-eval.csv", EVAL, EVAL | crashed | {"Status": "FAILED", "test_micro_MulticlassAccuracy": ""})
    export(folder, "simclr-train-ae-nonfrozen.csv", columns=list(TRAIN))
    export(folder, "simclr-eval-ae-nonfrozen.csv", columns=list(EVAL))
    return folder


def test_training_and_evaluation_become_one_row(exports):
    whole = next(row for row in published.read_runs(exports) if row["run"] == "trained")
    assert whole == {
        "dataset": "fgvc_aircraft",
        "projector_init": "autoencoder",
        "projector_frozen": True,
        "projector_hidden_dim": 128,
        "projector_out_dim": 64,
        "projector_activation": "silu",
        "standardize": False,
        "seed": 42,
        "image_size": 128,
        "batch_size": 666,
        "learning_rate": 0.78046875,
        "epochs": 150,
        "autoencoder": "enc",
        "autoencoder_test_mse": 0.0125,
        "protocol": "published",
        "run": "trained",
        "train_loss": 5.25,
        "val_loss": 5.125,
        "train_seconds": 6480.0,
        "images_per_second": 138.9,  # 0.9 * 6,667 images, 150 epochs
        "probe_val_top1": 0.25,
        "probe_test_top1": 0.222222223877907,
        "probe_test_macro_f1": 0.125,
        "probe_test_macro_recall": 0.1875,
        "probe_seconds": 450.0,
        "wall_seconds": 6930.0,
        "probe_num_val": 333,
        "probe_num_test": 666,
    }


def test_runs_without_a_finished_half_are_reported(exports):
    kept = rows.finished(rows.to_rows(published.read_runs(exports), "published"), "published")
    assert kept.runs["run"].tolist() == ["trained"]
    assert kept.notes[0].startswith("Left out, without a test accuracy (half-finished, or no labels): 3 (")
    assert all(name in kept.notes[0] for name in ("trained again", "never probed", "crashed"))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("simclr-train.csv", "run_name", "name_of_run", "simclr-train.csv: 'run_name' is no column"),
        ("simclr-eval.csv", "FGVCAircraft", "Birds", "simclr-eval.csv: 'Birds' is no column, or no value"),
        (
            "simclr-train.csv",
            "1.8h",
            "1.8 weeks",
            "simclr-train.csv: '1.8 weeks' must be a duration in ms, s, min, h, d",
        ),
        ("simclr-eval.csv", '"0,25"', "much", "simclr-eval.csv: could not convert string to float: 'much'"),
    ],
)
def test_an_export_in_another_format_is_named(exports, name, old, new, words):
    text = (exports / name).read_text()
    assert old in text
    (exports / name).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        published.read_runs(exports)


def test_a_folder_without_the_exports_is_named(tmp_path):
    with pytest.raises(UserError, match=r"ae-train\.csv: No such file or directory; the folder must hold"):
        published.read_runs(tmp_path)


def test_other_files_of_the_same_names_are_noted(exports):
    assert "Not the published files" in published.differing(exports)[0]


@pytest.fixture
def host(exports, monkeypatch):
    """A loopback host with the small exports under the authors' paths, their hashes, no waiting between tries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(published, "PATIENCE", dataclasses.replace(published.PATIENCE, wait_seconds=0.001))
    files = {path: (exports / path.rpartition("/")[2]).read_bytes() for path in published.SHA256}
    with Host({f"/{path}": data for path, data in files.items()}) as running:
        yield running, {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def test_exports_are_downloaded_once_and_again_where_damaged(host, exports, tmp_path):
    server, sha256 = host
    folder = published.download(tmp_path / "cache", server.url(), sha256)
    assert [path for path, _ in server.asked] == [f"/{path}" for path in sha256]
    assert published.read_runs(folder) == published.read_runs(exports)
    published.download(folder, server.url(), sha256)
    assert len(server.asked) == 5
    (folder / "ae-train.csv").write_text("damaged")
    published.download(folder, server.url(), sha256)
    assert [path for path, _ in server.asked[5:]] == ["/ae/results/ae-train.csv"]
    assert (folder / "ae-train.csv").read_bytes() == (exports / "ae-train.csv").read_bytes()
    assert (folder / "ae-train.csv.bad").read_text() == "damaged"


def test_an_interrupted_export_is_gone_on_with(host, exports, tmp_path):
    server, sha256 = host
    server.faults = [drop]
    folder = published.download(tmp_path / "cache", server.url(), sha256)
    half = (exports / "ae-train.csv").stat().st_size // 2
    assert server.ranges() == [None, f"bytes={half}-", None, None, None, None]
    assert published.read_runs(folder) == published.read_runs(exports)


def test_another_file_than_the_pinned_one_is_refused_and_kept_aside(host, tmp_path):
    server, sha256 = host
    pinned = "0" * 64
    with pytest.raises(UserError) as error:
        published.download(tmp_path / "cache", server.url(), sha256 | {"ae/results/ae-train.csv": pinned})
    found = sha256["ae/results/ae-train.csv"]
    assert f"wrong hash: found sha256:{found}, expected sha256:{pinned}, kept as " in str(error.value)
    assert {path.name for path in (tmp_path / "cache").iterdir()} - {".lock"} == {"ae-train.csv.bad"}


def test_a_host_that_cannot_be_reached_or_lacks_the_file_is_one_line(host, tmp_path):
    server, sha256 = host
    advice = "; get the authors' 5 CSV files yourself and give their folder with --published-dir"
    with pytest.raises(UserError) as error:
        published.download(tmp_path / "cache", server.url("/nowhere"), sha256)
    path = "/nowhere/ae/results/ae-train.csv"
    assert str(error.value) == f"ae-train.csv: no source has it: {server.url(path)}: answers 404 Not Found{advice}"
    with pytest.raises(UserError) as error:
        published.download(tmp_path / "cache", refused_url(), sha256)
    assert str(error.value).endswith(f": Connection refused (tried 3 times){advice}")


def test_the_published_runs_are_read_row_for_row():
    paper = needs_paper()
    read = rows.to_rows(published.read_runs(paper / "simclr-ae-results"), "published")
    with (paper / "published_runs.csv").open() as file:
        columns = file.readline().strip().split(",")
    expected = rows.read_csv(paper / "published_runs.csv")
    assert len(expected) == 765
    pd.testing.assert_frame_equal(read[columns], expected[columns], check_exact=True)
    for kind in ("val", "test"):  # accuracies are whole numbers of the images that they are said to be of
        correct = read[f"probe_{kind}_top1"] * read[f"probe_num_{kind}"]
        assert (correct - correct.round()).abs().max() < 1e-3


def test_the_pinned_hashes_are_those_of_the_published_files():
    folder = needs_paper() / "simclr-ae-results"
    assert published.differing(folder) == []
    kept = rows.finished(rows.to_rows(published.read_runs(folder), "published"), "published")
    assert kept.notes == []
    assert "765 runs, 5 datasets, 1 seed. 48 failed" in rows.describe(kept)
