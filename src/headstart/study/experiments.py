"""Rows from this repository's own runs: DVC's branches and experiments, and flat records of any other tracker."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import UserError
from headstart.study.metrics import COLUMNS as METRICS
from headstart.study.rows import COLUMNS

Row = dict[str, Any]
Flat = Mapping[str, Any]  # names joined by dots -> value or its text

_PROJECTOR = (
    *("projector_init", "projector_hidden_dim", "projector_out_dim", "projector_activation"),
    *("projector_num_layers", "projector_position", "projector_norm"),
)
# knobs of the protocol that came later, and what runs without them did: with that value nothing has changed
_LATER = {"simclr.optimizer": "sgd"}
# an axis; changes no result; where bytes come from is not what they are
_NO_PROTOCOL = ("data.standardize", "data.skip_unreadable", "data.archives", "data.mirror", "simclr.monitor_epochs")
# what the compared accuracies depend on; other knobs of the probe only add numbers beside them
_PROBE = ("probe.protocol", "probe.strengths")
NEEDED = [name for name, column in COLUMNS.items() if column.needed]
FINISHED_STATES = (None, "Success")
WORKSPACE = "workspace"  # what DVC calls it
ALL = "metrics/all.json"  # every number; `dvc exp show` has those of metrics.json, in older commits all


def read_dvc(root: Path, workspace: bool = False) -> tuple[list[Row], list[str]]:
    """Return a row per dataset of every branch's last commit and of every experiment, and notes; HEAD's come first.

    workspace: also of the results that lie in the workspace, last, so that they count only where no commit has them.
    What is queued, running or failed has no accuracy. Notes name commits that are left out: without the study's
    parameters, or with parameters that were edited after the results were made. Raises UserError where there is no git
    repository with a commit.
    """
    from dvc.api import exp_show
    from dvc.exceptions import DvcException

    try:
        table = exp_show(repo=str(root), revs=_revisions(root))
    except DvcException as error:
        raise UserError(f"{root}: DVC cannot list the experiments: {error}") from None
    rows: list[Row] = []
    foreign, stale = [], []
    for shown in sorted(table, key=lambda shown: shown["rev"] == WORKSPACE):
        if shown["rev"] == WORKSPACE and not workspace:
            continue
        record = _record(shown)
        name = str(shown["Experiment"] or shown["rev"])
        finished = shown["State"] in FINISHED_STATES
        own = list(experiment_rows(record, read_metrics(root, str(shown["rev"])) or record, name))
        if not own or any(row[column] is None for row in own for column in NEEDED):
            foreign.append(name)
        elif not finished:
            rows += [row | {"probe_test_top1": None} for row in own]
        elif is_stale(read_lock(root, str(shown["rev"])), [row["dataset"] for row in own], record):
            stale.append(name)
        else:
            rows += own
    notes = {
        "params.yaml there lacks keys of the study": foreign,
        "params.yaml was edited after the results were made": stale,
    }
    return rows, [f"Left out, {reason}: {', '.join(names)}." for reason, names in notes.items() if names]


def experiment_rows(params: Flat, metrics: Flat, run: str) -> Iterator[Row]:
    """Yield the row of each dataset that an experiment names; a metric that it lacks stays unknown."""
    settings = _of_recipe(params)
    for dataset in _value(settings.get("datasets")) or []:
        row = {column: metrics.get(f"{metric}.{dataset}") for column, metric in METRICS.items()}
        row |= {name: settings.get(name.replace("_", ".", 1)) for name in _PROJECTOR}
        own = f"data.{dataset}."
        batch_size = settings.get(f"{own}batch_size")
        rate = settings.get("simclr.learning_rate")
        init = str(settings.get("projector.init"))
        row |= {
            "dataset": dataset,
            "projector_frozen": _frozen(init, str(settings.get("projector.freeze"))),
            "standardize": settings.get("data.standardize"),
            "seed": settings.get("seed"),
            "image_size": settings.get(f"{own}image_size"),
            "batch_size": batch_size,
            "learning_rate": float(rate) * float(batch_size) / 256 if rate and batch_size else None,
            "epochs": settings.get("simclr.epochs"),
            "device": "" if settings.get("device") == "auto" else settings.get("device"),
            "autoencoder": _autoencoder(init, settings),
            "autoencoder_arch": settings.get("autoencoder.arch") if _autoencoder(init, settings) else "",
            "autoencoder_dataset": _seen(init, settings),
            "backbone": settings.get("backbone.arch"),
            "optimizer": settings.get("simclr.optimizer"),
            "protocol": _protocol(settings, dataset),
            "run": run,
            **_transferred(metrics, _value(settings.get("probe.datasets")) or [], dataset),
        }
        yield row


def _revisions(root: Path) -> list[str]:
    """HEAD, the other branches, and the commits that experiments started from: a later commit must not hide them."""
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        refs = _git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/exps")
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{root}: no git repository with a commit, so no experiments; run from the repository's root"
        ) from None
    revisions = [head]
    for line in refs.splitlines():
        commit, name = line.split(" ", 1)
        baseline = re.match(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/", name)
        if name.startswith("refs/heads/"):
            revisions.append(commit)
        elif baseline:
            revisions.append("".join(baseline.groups()))
    return list(dict.fromkeys(revisions))


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


def _record(shown: Flat) -> dict[str, Any]:
    """The known values of a row of `dvc exp show`: unknown ones are None, clashing names have their file in front."""
    known = {name: value for name, value in shown.items() if value not in (None, "None", "", "!")}
    return {re.sub(r"^(params\.yaml|metrics/metrics\.json):", "", name): value for name, value in known.items()}


def read_metrics(root: Path, revision: str) -> dict[str, Any]:
    """Return every number of metrics/all.json at a commit or of the workspace, as dvc exp show names them."""
    try:
        path = root / ALL
        text = path.read_text() if revision == WORKSPACE else _git(root, "show", f"{revision}:{ALL}")
        return dict(_leaves(json.loads(text)["metrics"]))
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError):
        return {}


def _of_recipe(params: Flat) -> dict[str, Any]:
    """Of knobs with a value per recipe, the active one."""
    recipe = str(params.get("recipe"))
    settings: dict[str, Any] = {}
    for name, value in params.items():
        knob, _, last = name.rpartition(".")
        if f"{knob}.{recipe}" not in params:
            settings[name] = value
        elif last == recipe:
            settings[knob] = value
    return settings


def _frozen(init: str, freeze: str) -> bool | None:
    from headstart.models.projector import PROJECTOR_INITS

    if freeze.lower() in ("true", "false"):
        return freeze.lower() == "true"
    return PROJECTOR_INITS[init].frozen if init in PROJECTOR_INITS else None


def _autoencoder(init: str, settings: Flat) -> str:
    """A name of the autoencoder's recipe, empty where the init needs none."""
    from headstart.models.projector import PROJECTOR_INITS

    if init in PROJECTOR_INITS and not PROJECTOR_INITS[init].needs_autoencoder:
        return ""
    recipe = {name: value for name, value in settings.items() if name.startswith("autoencoder.")}
    return _digest(recipe | ({"dataset": seen} if (seen := _seen(init, settings)) else {}))


def _seen(init: str, settings: Flat) -> str:
    """The other dataset that the autoencoder has learnt from, empty where there is none."""
    from headstart.models.projector import PROJECTOR_INITS

    seen = str(settings.get("projector.autoencoder_dataset", "same"))
    return "" if seen == "same" or not (init in PROJECTOR_INITS and PROJECTOR_INITS[init].needs_autoencoder) else seen


def _transferred(metrics: Flat, targets: Sequence[str], dataset: str) -> dict[str, Any]:
    """What the backbone was worth on other datasets; where classes are the same, by the run's own probe."""
    shifted = [metrics.get(f"top1_zero_shot_on_{target}.{dataset}") for target in targets]
    others = [target for target, score in zip(targets, shifted, strict=True) if score is None]
    return {
        "transfer_datasets": ", ".join(targets),
        "transfer_top1": _mean(metrics.get(f"top1_on_{target}.{dataset}") for target in others),
        "transfer_untrained_top1": _mean(metrics.get(f"top1_on_{target}_untrained.{dataset}") for target in others),
        "shift_top1": _mean(score for score in shifted if score is not None),
    }


def _mean(values: Iterable[Any]) -> float | None:
    """The mean, None where one is unknown or there is none."""
    known = list(values)
    return None if None in known or not known else sum(map(float, known)) / len(known)


def _protocol(settings: Flat, dataset: str) -> str:
    """A name of everything that changes a result and is neither an axis nor the autoencoder's recipe."""
    own = f"data.{dataset}."
    sections = ("backbone.", "simclr.", *_PROBE, f"views.{settings.get(f'{own}views')}.")
    chosen = {}
    for name, value in settings.items():
        option = name.startswith("data.") and name.count(".") == 1
        row = name.startswith(own) and name not in (f"{own}path", f"{own}views")
        known = option or row or name.startswith(sections)
        if known and name not in _NO_PROTOCOL and _LATER.get(name) != value:
            chosen[name.replace(own, "data.row.")] = value
    return _digest(chosen)


def _digest(settings: Flat) -> str:
    values = {name: _value(value) for name, value in settings.items()}
    known = {name: value for name, value in values.items() if value is not None}
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _value(value: Any) -> Any:
    """What a text says in YAML, whole floats as integers: DVC and MLflow write one value in two ways."""
    read = yaml.safe_load(value) if isinstance(value, str) else value
    return int(read) if isinstance(read, float) and read.is_integer() else read


def read_lock(root: Path, revision: str) -> dict[str, Any]:
    """Return the stages of dvc.lock at a commit, or of the workspace; none where there is no such file."""
    try:
        lock = root / "dvc.lock"
        text = lock.read_text() if revision == WORKSPACE else _git(root, "show", f"{revision}:dvc.lock")
        return yaml.load(text, Loader=_LOADER)["stages"]
    except (OSError, subprocess.CalledProcessError, KeyError, TypeError):
        return {}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_stale(lock: Mapping[str, Any], datasets: Iterable[str], record: Flat) -> bool:
    """Whether dvc.lock, which says what the results were made with, differs from params.yaml at the same commit."""
    stages = [lock.get(f"{stage}@{dataset}", {}) for stage in ("train_simclr", "fit_probe") for dataset in datasets]
    made_with = [leaf for stage in stages for leaf in _leaves(stage.get("params", {}).get("params.yaml", {}))]
    return any(value is not None and str(_value(record.get(name))) != str(_value(value)) for name, value in made_with)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
