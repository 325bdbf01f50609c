"""The published runs of RBF heads: a small synthetic set in their format, and theirs where they are at hand."""

import csv
from pathlib import Path

import pytest

from headstart.commands.compare import read
from headstart.errors import UserError
from headstart.study import published, published_rbf, rows
from tests.study.runs import needs_rbf_paper

SETTINGS = {
    "Status": "FINISHED",
    "backbone": "resnet50",
    "batch_size": "2048",
    "epochs": "100",
    "img_size": "224",
    "learning_rate": "2.4",
    "normalize": "True",
    "optimizer": "LARS",
    "projection_head_hidden_dim": "2048",
    "projection_head_num_layers": "3",
    "projection_head_output_dim": "128",
    "rbfn_projection_head_num_kernels": "256",
    "rbfn_projection_head_radial_function": "gaussian",
    "rbfn_projection_head_normalize": "True",
}
TRAINED = {"Duration": "2.5h", "train_loss": "3.25", "val_loss": "3.5"}
SCORES = {"Accuracy": 0.75, "Recall": 0.75, "F1Score": 0.7}
EVALUATED = {"Duration": "9.0min"} | {
    f"{split}_Multiclass{name}": str(value) for split in ("val", "test") for name, value in SCORES.items()
}


@pytest.fixture
def exports(tmp_path):
    """A folder of 16 exports: of each dataset and kind simclr's run 00000 and byol's 00001, whose loss is below 0."""
    for path in published_rbf.SHA256:
        name = Path(path).name
        half = EVALUATED if "-eval_" in name else TRAINED
        simclr = SETTINGS | half | {"run_name": "00000", "architecture": "simclr"}
        byol = SETTINGS | half | {"run_name": "00001", "architecture": "byol"}
        byol |= {} if half is EVALUATED else {"train_loss": "'-0.94", "val_loss": "'-0.93"}
        write(tmp_path / name, [byol, simclr])
    return tmp_path


def write(path: Path, runs: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(runs[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(runs)


def test_runs_are_read_with_what_stands_in_the_activations_place(exports):
    table, notes = read("published_rbf", exports)
    assert len(table) == 16 and notes[0] == published_rbf.NOTE and notes[1].startswith("Not the published files")
    assert sorted(set(table["dataset"])) == ["imagenet_100", *(f"open_images_v7_{number}" for number in (10, 30, 50))]
    rbf = table[(table["projector_kind"] == "rbf") & (table["protocol"] == "published, simclr")].iloc[0]
    assert rbf["projector_activation"] == "gaussian, 256 kernels, normalised" and rbf["projector_norm"] == "none"
    assert (rbf["projector_hidden_dim"], rbf["projector_out_dim"], rbf["projector_num_layers"]) == (2048, 128, 3)
    assert (rbf["train_loss"], rbf["val_loss"], rbf["seed"], rbf["optimizer"]) == (3.25, 3.5, 42, "lars")
    assert (rbf["probe_test_top1"], rbf["probe_test_macro_f1"], rbf["wall_seconds"]) == (0.75, 0.7, 9540)
    mlp = table[(table["projector_kind"] == "mlp") & (table["protocol"] == "published, byol")].iloc[0]
    assert (mlp["projector_activation"], mlp["projector_norm"]) == ("relu", "batch")
    assert mlp[["train_loss", "val_loss"]].isna().all(), "no NT-Xent"
    assert len(rows.finished(table, "published_rbf").runs) == 16


def test_a_half_finished_run_has_no_accuracy(exports):
    path = exports / "rbfn-ssl-projector-rbfn-eval_imagenet-100.csv"
    write(path, [SETTINGS | EVALUATED | {"run_name": "00001", "Status": "FAILED"}])
    own = [row for row in published_rbf.read_runs(exports) if row["dataset"] == "imagenet_100"]
    assert ["probe_test_top1" in row for row in own] == [True, True, False, False]
    assert rows.to_rows(own, "x")["probe_test_top1"].notna().sum() == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"run_name": "00000", "val_loss": "?"}, "could not convert string to float"),
        ({"run_name": "00000", "Duration": "3 weeks"}, "'3 weeks' must be a duration in ms, s, min, h, d"),
    ],
)
def test_damage_names_the_file(exports, change, told):
    path = exports / "rbfn-ssl-projector-rbfn_open-images-v7-30.csv"
    write(path, [SETTINGS | TRAINED | {"architecture": "simclr"} | change])
    with pytest.raises(UserError) as error:
        published_rbf.read_runs(exports)
    assert str(error.value).startswith(f"{path}: {told}")
    write(path, [SETTINGS | TRAINED | {"architecture": "simclr", "run_name": "1"}] * 2)
    with pytest.raises(UserError, match="run_name: two runs have the same name"):
        published_rbf.read_runs(exports)
    path.unlink()
    with pytest.raises(UserError, match="No such file or directory; the folder must hold the authors' CSV files"):
        published_rbf.read_runs(exports)


def test_the_published_runs_are_the_pinned_ones():
    folder = needs_rbf_paper()
    assert published.differing(folder, published_rbf.SHA256) == []
    table = rows.to_rows(published_rbf.read_runs(folder), "published_rbf")
    assert len(table) == 4 * (9 + 216) and table["probe_test_top1"].notna().all()
    assert (table["probe_test_top1"] == table["probe_test_macro_recall"]).all(), "a mean over classes"
    kinds = table.groupby(["dataset", "projector_kind"]).size()
    assert set(kinds.xs("rbf", level=1)) == {216} and set(kinds.xs("mlp", level=1)) == {9}
    assert table["val_loss"].notna().sum() == 4 * (3 + 72)
