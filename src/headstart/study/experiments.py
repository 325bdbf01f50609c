"""Rows from finished runs: what dvc.lock tells of this repository's, what MLflow tells, one row per run and dataset."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart import history, lock, settings
from headstart.history import Result
from headstart.settings import DATASETS, PARAMS, SAME, Tree
from headstart.study.metrics import COLUMNS as METRICS

Row = dict[str, Any]

_PROJECTOR = ("init", "hidden_dim", "out_dim", "activation", "kind", "num_layers", "position", "norm")
WORKSPACE = "workspace"  # what DVC calls it
# What of the deciding settings is no protocol: axes of the study; the autoencoder, which has a name of its own; what
# only adds numbers beside those that are compared; whose images they are
_NO_PROTOCOL = (
    *("projector", "seed", "data.standardize", "autoencoder", "diagnostics", "simclr.monitor_epochs"),
    *("data.skip_unreadable", "block.path", "block.archives"),
    # columns of their own
    *("simclr.learning_rate", "simclr.head_learning_rate", "simclr.first_layer_learning_rate"),
    *("probe.few_labels", "probe.few_shares", "probe.few_draws", "probe.layers", "probe.finetune_epochs"),
)
# Knobs that came later, at the value that all earlier runs had: they make no other protocol
_LATER = {
    **{"simclr.forward": "together", "simclr.keep": "best", "simclr.loss": "nt_xent"},
    **{"probe.plateau": "epoch", "data.pretrain_on": "train"},
}
_PROTOCOL_STAGES = ("prepare", "train_simclr", "fit_probe")


def read_dvc(root: Path, workspace: bool = False) -> tuple[list[Row], list[str]]:
    """Return a row per dataset of every branch's last commit and of every experiment, and notes; HEAD's come first.

    Settings are those that dvc.lock says results were made with, whatever was edited since. workspace: also of the
    results that lie in the workspace, last, so that they count only where no commit has them. Notes name what is left
    out: half-finished runs, and locks that tell other settings or code than were used. Raises UserError where there is
    no git repository with a commit.
    """
    revisions = history.read_revisions(root)
    commits = list(dict.fromkeys(revision.commit for revision in revisions))
    by_commit = dict(zip(commits, history.read_commits(root, commits), strict=True))
    found = [(revision.name, by_commit[revision.commit]) for revision in revisions]
    if workspace:
        found.append((WORKSPACE, history.read_workspace(root)))
    rows = [lock_row(result, name) for name, commit in found for result in commit.results]
    return rows, history.left_out_words(found)


def lock_row(result: Result, run: str) -> Row:
    """Return the row of a finished result as its lock tells it."""
    own = {"identity": result.identity, "arrays": result.arrays}
    return row_of(lock.in_force(result.entries), result.dataset, result.metrics, result.facts, run) | own


def tracked_rows(
    params: Mapping[str, str], metrics: Mapping[str, float], facts: Mapping[str, Any], run: str
) -> list[Row]:
    """Return the rows of a run as a tracker holds it: settings as texts, metrics `name.dataset`, facts by dataset."""
    tree = settings.nested(params)
    return [
        row_of(tree, name, dict(_of_dataset(metrics, name)), facts[name], run)
        for name in tree[PARAMS].get("datasets") or []
        if name in facts
    ]


def row_of(tree: Tree, dataset: str, metrics: Mapping[str, float], facts: Mapping[str, Any], run: str) -> Row:
    """Return the row of a dataset's results.

    tree: the settings in force; metrics: name -> value; facts: what settings came to, see history.Result.
    """
    values = settings.resolved(tree)
    params, block = values[PARAMS], values[DATASETS][dataset]
    head, rate, batch_size = params["projector"], params["simclr"]["learning_rate"], block["batch_size"]
    pretrained = bool(facts["needs_autoencoder"])
    seen = head.get("autoencoder_dataset", SAME) if pretrained else SAME
    protocol = _protocol(tree, dataset)
    row = {column: metrics.get(name) for column, name in METRICS.items()}
    row |= {f"projector_{key}": head.get(key) for key in _PROJECTOR}
    return row | {
        "dataset": dataset,
        "projector_frozen": facts["projector_frozen"],
        "standardize": params["data"]["standardize"],
        "seed": params["seed"],
        "image_size": block["image_size"],
        "batch_size": batch_size,
        "learning_rate": float(rate) * float(batch_size) / 256,
        "epochs": params["simclr"]["epochs"],
        "autoencoder": _autoencoder(tree, dataset, seen) if pretrained else "",
        "autoencoder_arch": params["autoencoder"]["arch"] if pretrained else "",
        "autoencoder_dataset": "" if seen == SAME else seen,
        "backbone": params["backbone"]["arch"],
        "optimizer": params["simclr"]["optimizer"],
        "loss": params["simclr"].get("loss"),
        **_rates(params["simclr"]),
        "precision": facts["precision"],
        "protocol": settings.digest(protocol)[:8],
        "settings": json.dumps(protocol, sort_keys=True),
        "run": run,
        **_transferred(metrics, params.get("probe", {}).get("datasets") or []),
    }


def _rates(simclr: Mapping[str, Any]) -> Row:
    """The rates of the projector and of its first layer, as multiples of the backbone's."""
    rate = float(simclr["learning_rate"])
    head = float(simclr.get("head_learning_rate") or rate)
    first = float(simclr.get("first_layer_learning_rate") or head)
    return {"head_rate": round(head / rate, 6), "first_layer_rate": round(first / rate, 6)}


def _of_dataset(metrics: Mapping[str, float], dataset: str) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        metric, _, owner = name.rpartition(".")
        if owner == dataset:
            yield metric, value


def _autoencoder(tree: Tree, dataset: str, seen: str) -> str:
    """A name of the autoencoder's recipe, and of the other dataset that it has learnt from."""
    values = settings.deciding(tree, lock.AUTOENCODER, dataset)
    recipe = {key: value for key, value in values.items() if key.startswith("autoencoder.")}
    return settings.digest(recipe, seen)[:8]


def _protocol(tree: Tree, dataset: str) -> dict[str, Any]:
    """Everything that changes a result and is neither an axis nor the autoencoder's recipe."""
    values: dict[str, Any] = {}
    for stage in _PROTOCOL_STAGES:
        values |= settings.deciding(tree, stage, dataset)
    kept = settings.without(values, *_NO_PROTOCOL)
    return {key: value for key, value in kept.items() if key not in _LATER or _LATER[key] != value}


def _transferred(metrics: Mapping[str, float], targets: Sequence[str]) -> Row:
    """What the backbone was worth on other datasets; where classes are the same, by the run's own probe."""
    shifted = [metrics.get(f"top1_zero_shot_on_{target}") for target in targets]
    others = [target for target, score in zip(targets, shifted, strict=True) if score is None]
    return {
        "transfer_datasets": ", ".join(targets),
        "transfer_top1": _mean(metrics.get(f"top1_on_{target}") for target in others),
        "transfer_untrained_top1": _mean(metrics.get(f"top1_on_{target}_untrained") for target in others),
        "shift_top1": _mean(score for score in shifted if score is not None),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, None where one is unknown or there is none."""
    known = list(values)
    return None if None in known or not known else sum(map(float, known)) / len(known)  # type: ignore[arg-type]
