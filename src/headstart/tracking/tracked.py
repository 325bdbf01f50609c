"""What MLflow holds of the parent runs: the study's second source of rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import UserError, reason
from headstart.tracking import guard, mirror
from headstart.tracking.names import DETAILS


@dataclass(frozen=True)
class TrackedRun:
    """A parent run: parameters as texts and metrics, names joined by dots.

    facts: dataset -> what its settings came to; seconds: by stage and dataset, of the executions that its results come
    from; rates: images per second, by dataset.
    """

    name: str
    finished: bool
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)


def read_runs(experiment: str) -> list[TrackedRun]:
    """Return the parent runs of an MLflow experiment, the latest first; raises UserError as all_runs does."""
    runs = all_runs(experiment)
    by_id = {run.info.run_id: run for run in runs}
    parents: dict[str, TrackedRun] = {}
    for run in runs:
        if mirror.PARENT in run.data.tags and mirror.OF_PARENT not in run.data.tags:
            finished = run.info.status == "FINISHED"
            facts = json.loads(run.data.tags.get(mirror.FACTS, "{}"))
            metrics = {key.removeprefix(DETAILS): value for key, value in run.data.metrics.items()}
            name = run.data.tags.get("dvc_experiment") or run.info.run_name
            parents[run.info.run_id] = TrackedRun(name, finished, run.data.params, metrics, facts)
    for run in runs:
        parent = parents.get(run.data.tags.get(mirror.OF_PARENT, ""))
        source = by_id.get(run.data.tags.get(mirror.ORIGINAL, "")) if mirror.REUSED in run.data.tags else run
        if parent and source and source.info.status == "FINISHED":
            _add_execution(parent, source)
    return list(parents.values())


def _add_execution(parent: TrackedRun, run: Any) -> None:
    """Of several executions of one stage the latest counts, which comes first."""
    stage, dataset = run.data.tags["stage"], run.data.tags["dataset"]
    parent.seconds.setdefault((stage, dataset), (run.info.end_time - run.info.start_time) / 1000)
    if stage == "train_simclr" and "simclr/images_per_second" in run.data.metrics:
        parent.rates.setdefault(dataset, run.data.metrics["simclr/images_per_second"])


def all_runs(experiment: str) -> list[Any]:
    """Return MLflow's runs of an experiment, parents and children, the latest first; for reading only.

    Raises UserError in one line where there is no store, or it cannot be read.
    """
    uri = mirror.store_uri()
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).is_file():  # a client would create it
        raise UserError(f"{file}: no MLflow store; run the pipeline with tracking.enabled: true first")
    runs: list[Any] = []
    try:
        guard.probe(uri, mirror.PROBE_SECONDS)
        with guard.quiet():
            client = mirror.client_of(uri)
            found = client.get_experiment_by_name(experiment)
            if found and found.lifecycle_stage != "active":
                raise mirror.DeletedError(experiment, found.experiment_id)
            token = "" if found else None
            while token is not None:
                page = client.search_runs([found.experiment_id], max_results=1000, page_token=token or None)
                runs, token = runs + list(page), page.token or None
    except Exception as error:  # SQLAlchemy's, requests' and MLflow's own
        raise UserError(f"{uri}: MLflow cannot be read: {reason(error)}") from None
    return runs
