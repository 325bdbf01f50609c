"""Artefact -> path, relative to the working copy; the only place where file names are spelt."""

import os
from pathlib import Path

from headstart.history import RECORD
from headstart.lock import USED

METRICS = Path("metrics/metrics.json")  # what people compare
ALL = Path(RECORD)  # every number, and what made it
REPORT = Path("metrics/report.md")
PAGE = Path("metrics/report.html")
PLOTS = Path("metrics/plots")
CARDS = Path("metrics/cards")  # <dataset>.md


def main_workspace() -> Path:
    """Return the main workspace, also from DVC's temporary copy of it (DVC sets DVC_ROOT to the main one).

    A sweep runs its experiments in a clone and sets HEADSTART_ROOT, which wins.
    """
    return Path(os.environ.get("HEADSTART_ROOT") or os.environ.get("DVC_ROOT", ".")).resolve()


def scratch() -> Path:
    """Return the main workspace's untracked folder for locks, records that wait and the states of sweeps."""
    return main_workspace() / ".cache"


def shared() -> Path:
    """Return the folder of what runs give each other: downloads, checkpoints, results that several of them need.

    HEADSTART_SHARED where it is set, as for the clones of a cluster's node (sweep/node.py), else the scratch folder.
    """
    return Path(os.environ.get("HEADSTART_SHARED") or scratch())


def own() -> tuple[Path, ...]:
    """Return the folders below which everything is this pipeline's, to be replaced and removed."""
    return (*(Path(name) for name in ("data", "models", "metrics", ".cache")), scratch(), shared())


def mlflow_store() -> Path:
    """Return the SQLite file that is MLflow's store where MLFLOW_TRACKING_URI names none."""
    return main_workspace() / "mlflow.db"


def mlflow_artifacts() -> Path:
    """Return the folder of the artifacts of that store's runs."""
    return main_workspace() / "mlartifacts"


def unreadable(dataset: str) -> Path:
    """Return the file that lists the images of a dataset which could not be decoded."""
    return scratch() / "unreadable" / f"{dataset}.csv"


def downloads() -> Path:
    """Return the folder of unfinished and finished downloads, shared by all workspaces and workers."""
    return shared() / "downloads"


def raw(dataset: str) -> Path:
    """Return the folder of a dataset's archives, as `download` leaves them."""
    return Path("data/raw") / dataset


def prepared(dataset: str) -> Path:
    """Return the folder of a dataset's packed arrays."""
    return Path("data/prepared") / dataset


def source(dataset: str) -> Path:
    """Return the folder of the packed arrays of another dataset, or of the marker that there is none (`same`)."""
    return Path("data/source") / dataset


def target(dataset: str) -> Path:
    """Return the folder of the packed arrays of another dataset that backbones are judged on."""
    return Path("data/target") / dataset


def autoencoder(dataset: str, init: str, dim: int) -> Path:
    """Return the folder of the autoencoder that an initialisation needs, or of the marker that it needs none."""
    return Path("models/autoencoder") / dataset / f"{init}-{dim}"


def simclr(dataset: str) -> Path:
    """Return the folder of the trained backbone and projector."""
    return Path("models/simclr") / dataset


def simclr_metrics(dataset: str) -> Path:
    """Return the folder of SimCLR's summary, curve and views."""
    return Path("metrics/simclr") / dataset


def baselines(dataset: str) -> Path:
    """Return the folder of the scores of raw pixels and of the initial backbone."""
    return Path("metrics/baselines") / dataset


def probe(dataset: str) -> Path:
    """Return the folder of the fitted probe."""
    return Path("models/probe") / dataset


def probe_metrics(dataset: str) -> Path:
    """Return the folder of the probe's scores, confusion matrix and per-class accuracies."""
    return Path("metrics/probe") / dataset


def transfer_metrics(source: str, target: str) -> Path:
    """Return the folder of a backbone's scores on another dataset; beside those of probes, where `report` looks."""
    return Path("metrics/probe") / f"{source}-on-{target}"


def used(stage: str, name: str) -> Path:
    """Return the file in which a stage says which settings and code made its outs; name: the element of its matrix."""
    return Path(USED) / stage / f"{name}.json"
