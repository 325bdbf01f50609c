"""The one writer of MLflow's store: tracking.py says what is told, record.py how it waits, guard.py for how long."""

import copy
import json
import os
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import filelock
import psutil
import torch
import tqdm
from torch import nn

from headstart import settings
from headstart.data.arrays import Standardize
from headstart.run import inputs, paths
from headstart.run.params import Params
from headstart.settings import leaves
from headstart.tracking import guard, moved, provenance
from headstart.tracking.names import DETAILS, child_params, parent_params, run_name
from headstart.tracking.record import Record, now, saved
from headstart.tracking.served import FromPixels

PROBE_SECONDS = 3.0
CONNECT_SECONDS = 60.0  # importing mlflow: 2.6 s; creating the store's tables: 6 s on 2 free cores
CALL_SECONDS = 12.0
UPLOAD_SECONDS = 60.0

# By default a call to a dead server is tried again for 4 minutes; the others are about reports home and prints.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
# Answers that will not change: a record so answered is dropped, or it would be told again for ever.
REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST")

# Our tags and MLflow's. RESULT is the key of an entry of dvc.lock.
PARENT, CODE, RESULT, REUSED, ORIGINAL, FACTS, PROCESS = (
    f"headstart.{name}" for name in ("parent", "code", "result", "reused", "original", "facts", "process")
)
OF_PARENT, COMMIT, SOURCE, NOTE = (
    f"mlflow.{name}" for name in ("parentRunId", "source.git.commit", "source.name", "note.content")
)
ERROR, CELL = "error", "cell"
MODEL = "backbone"
PICTURES = (".png", ".svg")

T = TypeVar("T")


class DeletedError(Exception):
    """The experiment was deleted in MLflow, which keeps its name."""

    def __init__(self, name: str, number: str):
        super().__init__(
            f"its experiment {name} was deleted; mlflow experiments restore --experiment-id {number}, or another name "
            "in params.yaml: tracking.experiment"
        )


@dataclass(frozen=True)
class Ended:
    """What a finished run tells its parent.

    metrics: nested names; watched: those that come first, the others stand below DETAILS. facts: dataset -> what its
    settings came to; inputs: rows of datasets as Record has them; note: Markdown on top of the run's page.
    """

    metrics: Mapping[str, Any]
    files: Sequence[Path] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    watched: Collection[str] = ()
    inputs: Sequence[dict[str, str]] = ()
    note: str = ""


class Mirror:
    """One parent run in MLflow's store. `attempt` is the way in; the other methods may raise."""

    def __init__(self, params: Params) -> None:
        self.settings = params.settings
        self.params = parent_params(params.settings)
        self.datasets = params.datasets
        self.experiment = params.tracking.experiment
        self.model_name = params.tracking.registered_model
        origin = provenance.experiment()
        self.named = partial(run_name, head=params.projector, seed=params.seed)
        self.name = self.named(params.datasets)
        self.head = {"projector.frozen": str(params.projector.frozen).lower()}
        cell = {key: value for key, value in self.params.items() if key != "seed"}
        # runs of one cell differ in the seed alone
        self.tags = {**provenance.git_state(), CELL: settings.digest(cell)[:10]}
        self.tags |= {"dvc_experiment": origin.name, "dvc_baseline": origin.baseline}
        self.key = settings.digest(self.params, asdict(origin))
        self.uri = store_uri()
        self.waiting = paths.scratch() / "tracking" / settings.digest(self.key, self.uri, self.experiment)
        # Of all processes here: two that create a store or a parent at once would spoil it, and SQLite's writers do not
        # queue, they fail.
        self.local = self.uri.startswith("sqlite:")
        self.lock = filelock.FileLock(
            paths.scratch() / "mlflow.lock", timeout=CONNECT_SECONDS if self.local else CALL_SECONDS
        )
        self.guard = guard.Guard("MLflow", self.waiting / "warned")
        self.client: Any = None
        self.experiment_id = self.parent_id = self.said = ""
        self.started = now()
        self.told: dict[tuple[str, str], set[int]] = {}

    def attempt(self, work: Callable[[], None], seconds: float, alone: bool = True) -> bool:
        """Return whether `work` was done on the connected store, `alone` among this workspace's writers to SQLite."""
        lock = self.lock if self.local else nullcontext()
        done = self.client is not None or (
            self.guard.attempt(partial(guard.probe, self.uri, PROBE_SECONDS), 2 * PROBE_SECONDS, lock)
            and self.guard.attempt(self._connect, CONNECT_SECONDS, self.lock)
        )
        if self.said:
            tqdm.tqdm.write(self.said, file=sys.stderr)
            self.said = ""
        done = done and self.guard.attempt(work, seconds, lock if alone else nullcontext())
        if not done:
            self.client = None
        return done

    def keep(self, record: Record) -> None:
        """Leave a record for the next stage that reaches MLflow."""
        try:
            record.save(self.waiting)
        except OSError as error:
            self.guard.warn(error)

    def _connect(self) -> None:
        """Find or create experiment and parent, then deliver what waits."""
        self.client = client_of(self.uri)
        from mlflow.exceptions import MlflowException  # only now: mlflow reads SETTINGS when it is imported

        waiting = saved(self.waiting)
        self.experiment_id = self._find_experiment()
        self.parent_id = self._find_parent(min([self.started, *(record.started for _, record in waiting)]))
        for file, record in waiting:
            try:
                self.send(record)
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
            file.unlink()
        close_lost(self.client, self.experiment_id)
        self.client.set_tag(self.parent_id, PROCESS, this_process())
        self.client.update_run(self.parent_id, status="RUNNING")

    def _find_experiment(self) -> str:
        self.said = moved.repair(self.uri)
        found = self.client.get_experiment_by_name(self.experiment)
        if found and found.lifecycle_stage != "active":
            raise DeletedError(self.experiment, found.experiment_id)
        if found:
            return found.experiment_id
        # An SQL store would bind artifacts to the folder of this process, maybe a temporary copy; a server has its own.
        served = self.uri.startswith(("http:", "https:", "databricks"))
        folder = None if served else paths.mlflow_artifacts().as_uri()
        return self.client.create_experiment(self.experiment, artifact_location=folder)

    def _find_parent(self, started: int) -> str:
        found = self.client.search_runs([self.experiment_id], f"tags.`{PARENT}` = '{self.key}'", max_results=1)
        if found:
            return found[0].info.run_id
        tags = {**self.tags, PARENT: self.key, SOURCE: "dvc.yaml", COMMIT: self.tags.get("git_commit", "")}
        return self.client.create_run(self.experiment_id, started, tags, self.name).info.run_id

    def _children(self) -> list[Any]:
        """All children, the latest first."""
        own = f"tags.`{OF_PARENT}` = '{self.parent_id}'"
        return self.client.search_runs([self.experiment_id], own, max_results=5000)

    def _begin(self, record: Record) -> None:
        """Give a record its run: the unfinished one of the same work, which a kill or an error left, or a new one."""
        own = {"stage": record.stage, "dataset": record.dataset, CODE: record.tags[CODE]}
        for run in self._children():
            if run.info.status != "FINISHED" and own.items() <= run.data.tags.items():
                record.run_id, record.resumed = run.info.run_id, True
                self.client.update_run(record.run_id, status="RUNNING")
                if ERROR in run.data.tags:
                    self.client.delete_tag(record.run_id, ERROR)
                return
        source = {SOURCE: f"stages/{record.stage}.py", COMMIT: record.tags.get("git_commit", "")}
        tags = {**record.tags, **own, **source, OF_PARENT: self.parent_id}
        name = self._child_name(record.stage, record.dataset)
        run = self.client.create_run(self.experiment_id, record.started, tags, name)
        record.run_id, record.params = run.info.run_id, self._read_by(record.stage, record.dataset)

    def _child_name(self, stage: str, dataset: str) -> str:
        """A child's name, with the projector's where the stage sees one."""
        told = any(key.startswith("projector.") for key in settings.deciding(self.settings, stage, dataset))
        return f"{stage} {self.named([dataset]) if told else dataset}"

    def _read_by(self, stage: str, dataset: str) -> dict[str, str]:
        """The parameters that a stage reads, by which its curves can be told apart."""
        known = child_params(self.settings, self.params, stage, dataset)
        return known | (self.head if "projector.freeze" in known else {})

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for rows in _batches(params.items(), 100):
            self.client.log_batch(run_id, params=[Param(*item) for item in rows])

    def _untold(self, record: Record) -> list[tuple[str, float, int, int]]:
        """The metrics at steps that a resumed run lacks: resumed training repeats the steps since its checkpoint."""
        for key in {row[0] for row in record.metrics}:
            if (record.run_id, key) not in self.told:
                history = self.client.get_metric_history(record.run_id, key)
                self.told[record.run_id, key] = {metric.step for metric in history}
        return [row for row in record.metrics if row[3] not in self.told[record.run_id, row[0]]]

    def send(self, record: Record) -> None:
        """Tell what a record has to tell; each part is removed once it is told."""
        from mlflow.entities import Metric, RunTag

        if not record.run_id:
            self._begin(record)
        self._log_params(record.run_id, record.params)
        record.params.clear()
        if record.resumed:
            record.metrics[:] = self._untold(record)
        while record.metrics:
            self.client.log_batch(record.run_id, metrics=[Metric(*row) for row in record.metrics[:1000]])
            del record.metrics[:1000]
        if record.inputs:
            self._send_inputs(record)
            record.inputs.clear()
        while record.figures:
            if Path(record.figures[0]).is_file():  # gone with a temporary copy?
                self.client.log_artifact(record.run_id, record.figures[0], "figures")
            del record.figures[0]
        if record.status != "RUNNING":
            self.client.log_batch(record.run_id, tags=[RunTag(*item) for item in record.tags.items()])
            self.client.set_terminated(record.run_id, record.status, record.ended)
            if record.status != "FINISHED":
                self.client.set_terminated(self.parent_id, record.status)

    def _send_inputs(self, record: Record) -> None:
        """Tell the inputs: again where another writer added the same dataset since MLflow looked for it."""
        from mlflow.exceptions import MlflowException

        datasets = [_dataset_input(**row) for row in record.inputs]
        try:
            self.client.log_inputs(record.run_id, datasets=datasets)
        except MlflowException as error:
            if "unique constraint" not in str(error).lower():  # SQLite's and PostgreSQL's words
                raise
            self.client.log_inputs(record.run_id, datasets=datasets)

    def send_model(self, run_id: str, backbone: nn.Module, size: int, standardize: Standardize | None) -> None:
        """Log a backbone as an exported graph: it loads without this library and runs no code of its own on loading."""
        import mlflow
        from mlflow.models import Model, infer_signature

        mlflow.set_tracking_uri(self.uri)
        network = FromPixels(copy.deepcopy(backbone).cpu(), standardize).eval()
        example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # one image would fix the number of images
        with torch.no_grad():
            signature = infer_signature(example.numpy(), network(example).numpy())
            known = self.params | self.head
            logged = self.client.create_logged_model(self.experiment_id, MODEL, source_run_id=run_id, params=known)
            Model.log(
                None,
                flavor=mlflow.pytorch,
                model_id=logged.model_id,
                run_id=run_id,
                pytorch_model=network,
                input_example=example.numpy(),  # of a tensor MLflow makes no pyfunc model
                signature=signature,
                # given, or MLflow loads the model in a process of its own to find out
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
            if self.model_name:
                mlflow.register_model(f"models:/{logged.model_id}", self.model_name)

    def complete(self, ended: Ended) -> None:
        """Bring the parent up to date and finish it."""
        from mlflow.entities import Metric, RunTag

        parent, time = self.parent_id, now()
        self._log_params(parent, self.params | self.head)
        tags = {**self.tags, FACTS: json.dumps(ended.facts, sort_keys=True), COMMIT: self.tags.get("git_commit", "")}
        self.client.log_batch(parent, tags=[RunTag(*item) for item in {**tags, NOTE: ended.note}.items()])
        run = self.client.get_run(parent)
        values = {
            key if key.partition(".")[0] in ended.watched else f"{DETAILS}{key}": float(value)
            for key, value in leaves(ended.metrics)
            if value is not None
        }
        changed = [Metric(key, value, time, 0) for key, value in values.items() if run.data.metrics.get(key) != value]
        for rows in _batches(changed, 1000):
            self.client.log_batch(parent, metrics=rows)
        there = {entry.dataset.name for entry in run.inputs.dataset_inputs}
        for row in ended.inputs:
            if row["name"] not in there:
                self.client.log_inputs(parent, datasets=[_dataset_input(**row)])
        for file in ended.files:
            self.client.log_artifact(parent, str(file), "figures" if file.suffix in PICTURES else None)
        self._link(self._children())
        self._score_models(ended)
        self.client.set_terminated(parent, "FINISHED")

    def _score_models(self, ended: Ended) -> None:
        """Give each logged backbone the scores of its probe, with their dataset, so that models can be ordered."""
        from mlflow.entities import Metric

        digests = {row["name"]: row["digest"] for row in ended.inputs}
        for run in self._children():
            if run.data.tags.get("stage") != "train_simclr":
                continue
            source, dataset = run.data.tags.get(ORIGINAL, run.info.run_id), run.data.tags["dataset"]
            scores = {
                name: row[dataset] for name, row in ended.metrics.items() if name in ended.watched and dataset in row
            }
            made = f"source_run_id = '{source}'"
            for model in self.client.search_logged_models([self.experiment_id], made):
                known = {metric.key: metric.value for metric in model.metrics or []}
                about = {"model_id": model.model_id, "dataset_name": dataset, "dataset_digest": digests.get(dataset)}
                rows = [
                    Metric(name, float(value), now(), 0, **about, run_id=source)
                    for name, value in scores.items()
                    if known.get(name) != value
                ]
                self.client.log_batch(source, metrics=rows)

    def _link(self, children: list[Any]) -> None:
        """Tie children to the results in dvc.lock: what ran gets its key, what did not run a `reused` child."""
        reused = {run.data.tags[RESULT]: run for run in children if REUSED in run.data.tags}
        ran = [run for run in children if REUSED not in run.data.tags]
        for run in ran:
            if run.info.status == "RUNNING":  # nothing runs once a pipeline is complete: it was killed
                self.client.set_terminated(run.info.run_id, "KILLED")
        for result in provenance.results(self.datasets):
            own = {"stage": result.stage, "dataset": result.dataset}
            mine = [run for run in ran if own.items() <= run.data.tags.items() and run.info.status == "FINISHED"]
            code = provenance.code(result.stage)
            fresh = [run for run in mine if RESULT not in run.data.tags and run.data.tags[CODE] == code]
            if any(run.data.tags.get(RESULT) == result.key for run in mine):
                continue
            if fresh:
                self.client.set_tag(fresh[0].info.run_id, RESULT, result.key)
            elif reused.pop(result.key, None) is None:
                self._reuse(result, own)
        for run in reused.values():  # links to earlier results
            self.client.delete_run(run.info.run_id)

    def _reuse(self, result: provenance.Result, own: dict[str, str]) -> None:
        """Add a child for a result that DVC restored, with a link to the run that made it where that is known."""
        made = f"tags.`{RESULT}` = '{result.key}'"
        runs = self.client.search_runs([self.experiment_id], made, max_results=1000, order_by=["start_time ASC"])
        originals = [run.info.run_id for run in runs if REUSED not in run.data.tags]
        tags = {**self.tags, **own, RESULT: result.key, REUSED: "true", OF_PARENT: self.parent_id}
        if originals:
            link = f"#/experiments/{self.experiment_id}/runs/{originals[0]}"
            tags |= {ORIGINAL: originals[0], NOTE: f"Not run again: DVC gave back the result of [this run]({link})."}
        name = f"{self._child_name(result.stage, result.dataset)} (reused)"
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        self._log_params(run.info.run_id, self._read_by(result.stage, result.dataset))
        self.client.set_terminated(run.info.run_id, "FINISHED")


def this_process() -> str:
    """Return host, pid and birth of the dvc that works on a parent, or of this process where no dvc does."""
    process = inputs.dvc_process() or psutil.Process()
    return json.dumps([socket.gethostname(), process.pid, process.create_time()])


def close_lost(client: Any, experiment_id: str) -> int:
    """End as KILLED the parents that a process of this machine left RUNNING when it died; return their number.

    Their children that still run are ended with them. What another machine does cannot be known here.
    """
    running = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
    lost = {run.info.run_id for run in running if _is_lost(run.data.tags.get(PROCESS, ""))}
    for run in running:
        if run.info.run_id in lost or run.data.tags.get(OF_PARENT) in lost:
            client.set_terminated(run.info.run_id, "KILLED")
    return len(lost)


def _is_lost(tag: str) -> bool:
    try:
        host, pid, born = json.loads(tag)
    except ValueError:
        return False
    return bool(host == socket.gethostname() and not inputs.is_alive(pid, born))


def client_of(uri: str) -> Any:
    """Return MLflow's client of a store, set up not to wait, print or report home."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def store_uri() -> str:
    """Return MLFLOW_TRACKING_URI, else mlflow.db in the main workspace; a relative SQLite path starts there too."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.mlflow_store()}"
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri or Path(file).is_absolute() else f"sqlite:///{paths.main_workspace() / file}"


def _dataset_input(name: str, digest: str, source: str, profile: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name=name, digest=digest, source_type="local", source=source, profile=profile)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def _batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Parts of what MLflow takes in one call."""
    waiting = list(rows)
    for start in range(0, len(waiting), size):
        yield waiting[start : start + size]
