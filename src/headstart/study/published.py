"""The paper's published runs: five CSV exports in its authors' repository (Apache-2.0), never copied into this one."""

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from headstart.errors import UserError
from headstart.ingest.sources import Archive, Sources, fetch_archives
from headstart.ingest.transfer import Patience

# Equal at both commits of that repository.
COMMIT = "b08a16bacb68b1e0b18f3a113c192d68b32c31de"
SOURCE = f"https://raw.githubusercontent.com/andreas-schliebitz/simclr-ae/{COMMIT}/simclr_ae/experiments"
_RESULTS = "simclr_ae/results"
SHA256 = {
    "ae/results/ae-train.csv": "e102751f1b85f81dfa97d8a90021ebca541e4808bae130f3f59c372bdedc8569",
    f"{_RESULTS}/simclr-train.csv": "c0a8c740abd69df2a3ad99a580f9655c2bc4372a59c62c5fce74713e4625c4e2",
    f"{_RESULTS}/simclr-eval.csv": "e08f5c49b94184155b60c385ab819228e65865ec23883e7f8888fc701040adda",
    f"{_RESULTS}/simclr-train-ae-nonfrozen.csv": "f84d0313e5d0aea79b05e87fb51a53dbd6d80c30d597c7a20a0ba1b0c3252d84",
    f"{_RESULTS}/simclr-eval-ae-nonfrozen.csv": "ed4b61945f1cf5fd8a1fe818de50ec1ac08cecf67abf2181b005196837c5da5b",
}
PATIENCE = Patience(retries=2)  # 1.5 MB, and someone waits at a terminal

SEED = 42  # RANDOM_SEED in their simclr_ae/utils.py; the exports do not hold it
INITS = {"ae": "autoencoder", "mlp": "random"}
# Our name; the images of the official test split, inside which the probe is trained (70 %), validated and tested; those
# of the official train split (Aircraft: with its val split), of which SimCLR sees TRAIN_SHARE in an epoch.
DATASETS = {
    "CIFAR10": ("cifar10", 10_000, 50_000),
    "CIFAR100": ("cifar100", 10_000, 50_000),
    "FGVCAircraft": ("fgvc_aircraft", 3_333, 6_667),
    "Imagenette": ("imagenette", 3_925, 9_469),
    "STL10": ("stl10", 8_000, 5_000),
}
TRAIN_SHARE = 0.9
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

# What both exports of a run share. The checkpoint tells a repeated training from the one that was evaluated.
CONFIGURATION = (
    "dataset_name",
    "projection_head",
    "freeze_projection_head",
    "projection_head_embedding_dim",
    "latent_dimensions",
    "projection_head_activation",
    "standardize",
    "simclr_model_ckpt",
)

Export = Mapping[str, str]
Row = dict[str, Any]


def download(folder: Path, source: str = SOURCE, sha256: Mapping[str, str] = SHA256) -> Path:
    """Return the folder with the exports; those that are missing or damaged are downloaded, once.

    A file is in place only once its hash is right. Raises UserError where the host cannot be reached or sends
    another file.
    """
    import filelock

    exports = [Archive(Path(path).name, (f"{source}/{path}",), f"sha256:{digest}") for path, digest in sha256.items()]
    advice = f"get the authors' {len(exports)} CSV files yourself and give their folder with --published-dir"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        fetch_archives(exports, folder, Sources(folder), lambda num_bytes: None, patience=PATIENCE, advice=advice)
    return folder


def differing(folder: Path, sha256: Mapping[str, str] = SHA256) -> list[str]:
    """Return a note where files are not the pinned ones."""
    digests = {Path(path).name: digest for path, digest in sha256.items()}
    names = [
        name for name, digest in digests.items() if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]
    return [f"Not the published files, but others of their names: {', '.join(names)}."] if names else []


def read_runs(folder: Path) -> list[Row]:
    """Return the published runs as records of rows.COLUMNS, sorted by configuration.

    Training and evaluation are joined by configuration; a run without a finished half has no accuracy.
    """
    path = folder / "ae-train.csv"
    with blamed_on(path):
        errors = {export["run_name"]: number(export["test_mse"]) for export in read_export(path)}
    rows: list[Row] = []
    for suffix in ("", "-ae-nonfrozen"):
        halves: dict[tuple[str, ...], tuple[list[Row], list[Row]]] = {}
        for half, (kind, read) in enumerate((("train", _training), ("eval", _evaluation))):
            path = folder / f"simclr-{kind}{suffix}.csv"
            with blamed_on(path):
                for export in read_export(path):
                    row = _configured(export, errors) | read(export)
                    halves.setdefault(_key(export), ([], []))[half].append(row)
        nothing: Row = {}
        rows += [_joined(*parts) for pair in halves.values() for parts in zip_longest(*pair, fillvalue=nothing)]
    return sorted(rows, key=lambda row: [row[name] for name in list(rows[0])[:7]])


def number(text: str) -> float:
    """Return a number that may have a decimal comma, and before a minus the quotation mark of a spreadsheet."""
    return float(text.removeprefix("'").replace(",", "."))


def seconds(text: str) -> float:
    """Return the seconds of a duration as MLflow's interface writes it: 1.8h, 7.5min, 12.0s."""
    parts = re.fullmatch(rf"([\d.,]+)({'|'.join(SECONDS)})", text)
    if not parts:
        raise ValueError(f"{text!r} must be a duration in {', '.join(SECONDS)}")
    # rounded: 5040 where 1.4 * 3600 is 5039.999...
    return round(number(parts[1]) * SECONDS[parts[2]], 3)


def _configured(export: Export, errors: Mapping[str, float]) -> Row:
    autoencoder = next((part for part in export["projection_head_weights"].split("/") if part in errors), "")
    return {
        "dataset": DATASETS[export["dataset_name"]][0],
        "projector_init": INITS[export["projection_head"]],
        "projector_frozen": export["freeze_projection_head"] == "True",
        "projector_hidden_dim": int(export["projection_head_embedding_dim"]),
        "projector_out_dim": int(export["latent_dimensions"]),
        "projector_activation": export["projection_head_activation"].lower(),
        "standardize": export["standardize"] == "True",
        "seed": SEED,
        "image_size": int(export["img_size"]),
        "batch_size": int(export["batch_size"]),
        "learning_rate": number(export["learning_rate"]),
        "epochs": int(export["epochs"]),
        "autoencoder": autoencoder,
        "autoencoder_test_mse": errors.get(autoencoder),
        "protocol": "published",
    }


def _training(export: Export) -> Row:
    if export["Status"] != "FINISHED":
        return {"run": export["run_name"]}
    taken = seconds(export["Duration"])
    images = TRAIN_SHARE * DATASETS[export["dataset_name"]][2] * int(export["epochs"])
    return {
        "run": export["run_name"],
        "train_loss": number(export["train_loss"]),
        "val_loss": number(export["val_loss"]),
        "train_seconds": taken,
        "images_per_second": round(images / taken, 1) if taken else None,
    }


def _evaluation(export: Export) -> Row:
    if export["Status"] != "FINISHED":
        return {"run": export["run_name"]}
    num_images = DATASETS[export["dataset_name"]][1]
    return {
        "run": export["run_name"],
        "probe_val_top1": number(export["val_micro_MulticlassAccuracy"]),
        "probe_test_top1": number(export["test_micro_MulticlassAccuracy"]),
        "probe_test_macro_f1": number(export["test_macro_MulticlassF1Score"]),
        "probe_test_macro_recall": number(export["test_macro_MulticlassRecall"]),
        "probe_seconds": seconds(export["Duration"]),
        "probe_num_val": num_images // 10,
        "probe_num_test": num_images // 5,
    }


def _joined(training: Row, evaluation: Row) -> Row:
    """One row of a run's halves; without both of them it has no accuracy. Its name is the training's."""
    row = evaluation | training
    if not {"train_seconds", "probe_seconds"} <= set(row):
        return {name: value for name, value in row.items() if not name.startswith("probe_")}
    return row | {"wall_seconds": round(row["train_seconds"] + row["probe_seconds"], 3)}


def _key(export: Export) -> tuple[str, ...]:
    return tuple(export[name] for name in CONFIGURATION)


def read_export(path: Path) -> list[Export]:
    """Return the runs of one of the authors' CSV files; raises UserError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the folder must hold the authors' CSV files") from None


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Name the file in errors of its content."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: {error} is no column, or no value, of the authors' exports") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
