"""What stages tell MLflow. `metrics/` and `models/` are the truth: nothing comes back.

One DVC experiment is one parent run; one execution of a stage on a dataset is a child run. What a child has to tell
waits until MLflow takes it: in memory, and after the stage in `.cache/tracking`, from where the next stage of the same
parent that reaches MLflow delivers it. So a short stage pays nothing (`track`, the last stage, delivers), and a server
that was away for a while misses nothing.

No call raises, whatever MLflow does. A dead server costs nothing, a hanging one some 10 s a stage: see guard.py.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from headstart.data.arrays import Standardize
from headstart.errors import UserError, fitted, for_people
from headstart.run import paths
from headstart.run.params import Params
from headstart.tracking import moved, provenance, system
from headstart.tracking.mirror import CALL_SECONDS, CODE, ERROR, UPLOAD_SECONDS, Ended, Mirror, client_of, store_uri
from headstart.tracking.mirror import close_lost as close_runs
from headstart.tracking.record import Record, now


class StageRun:
    """The record of one execution of a stage on a dataset; its methods return nothing and raise nothing of MLflow's."""

    def __init__(self, stage: str, dataset: str, params: Params):
        self._mirror = Mirror(params) if params.tracking.enabled else None
        self._log_model = params.tracking.log_model
        tags = {**self._mirror.tags, CODE: provenance.code(stage)} if self._mirror else {}
        self._record = Record(stage, dataset, tags, started=now())

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values at a step; MLflow has them within seconds."""
        time = now()
        self._record.metrics += [(key, float(value), time, step) for key, value in metrics.items()]
        self._tell()

    def log_row(self, section: str, row: Mapping[str, Any], step: str) -> None:
        """Add the finite numbers of a row as `section/<name>` at the step that its column `step` holds."""
        numbers = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
        at = int(numbers.pop(step))
        self.log_metrics({f"{section}/{key}": value for key, value in numbers.items()}, step=at)

    def log_dataset(self, name: str, meta: Mapping[str, Any]) -> None:
        """Add a prepared dataset as an input, see dataset_row."""
        self._record.inputs.append(dataset_row(name, meta))
        self._tell()

    def log_figure(self, path: Path) -> None:
        """Add a picture, under figures/."""
        self._record.figures.append(str(path.resolve()))
        self._tell()

    def log_model(self, backbone: nn.Module, size: int, standardize: Standardize | None) -> None:
        """Add a backbone as the logged model `backbone`: uint8 images (N, size, size, 3) in, features (N, D) out.

        In evaluation mode on the CPU, for mlflow.pyfunc and mlflow.pytorch.load_model. Off with `tracking.log_model`.
        """
        if self._mirror and self._log_model and self._mirror.attempt(self._send, UPLOAD_SECONDS):
            work = partial(self._mirror.send_model, self._record.run_id, backbone, size, standardize)
            self._mirror.attempt(work, UPLOAD_SECONDS, alone=False)  # exporting takes seconds, other workers go on

    def close(self, status: str, error: BaseException | None = None) -> None:
        """End the record; it waits in a file where the stage was short or MLflow does not answer."""
        if self._mirror is None:
            return
        self._record.status, self._record.ended = status, now()
        if error is not None:
            self._record.tags[ERROR] = fitted(for_people(f"{type(error).__name__}: {error}"), 500)
        # Who is told of a mistake need not wait for MLflow either.
        brief = error is None or isinstance(error, UserError)
        short = brief and not self._mirror.guard.tried and not self._mirror.guard.due()
        if short or not self._mirror.attempt(self._send, UPLOAD_SECONDS):
            self._mirror.keep(self._record)

    def _tell(self) -> None:
        if self._mirror and self._mirror.guard.due():
            time = now()
            at = (time - self._record.started) // 1000
            self._record.metrics += [(key, value, time, at) for key, value in system.sample().items()]
            self._mirror.attempt(self._send, CALL_SECONDS)

    def _send(self) -> None:
        if self._mirror:
            self._mirror.send(self._record)


@contextmanager
def stage_run(stage: str, dataset: str, params: Params) -> Iterator[StageRun]:
    """Yield the record of a stage that executes; it ends as FINISHED, FAILED or (by Ctrl-C) KILLED.

    What the same code left unfinished under the same parent goes on in the run that it began.
    """
    run = StageRun(stage, dataset, params)
    try:
        yield run
    except BaseException as error:
        run.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", error)
        raise
    run.close("FINISHED")


def complete(params: Params, ended: Ended) -> None:
    """Give the parent run its metrics (nested names joined by dots), files and end; link the results that it reuses.

    Pictures go under figures/. Called again, it updates.
    """
    if params.tracking.enabled:
        mirror = Mirror(params)
        mirror.attempt(partial(mirror.complete, ended), UPLOAD_SECONDS)
        mirror.guard.forget()


def dataset_row(name: str, meta: Mapping[str, Any]) -> dict[str, str]:
    """Return a prepared dataset as MLflow's inputs have it: its `hash`, `num_images` per split, number of `classes`."""
    profile = {"num_images": meta["num_images"], "num_classes": len(meta["classes"])}
    source = {"uri": paths.prepared(name).as_posix()}
    # MLflow takes 36 characters of a digest
    return {"name": name, "digest": meta["hash"][:36], "source": json.dumps(source), "profile": json.dumps(profile)}


def close_lost(experiment: str) -> tuple[int, str]:
    """End the runs of an experiment that dead processes of this machine left running, in a store that may have moved.

    Returns how many, and the experiment's id, empty where there is no such experiment (any more).
    """
    if said := moved.repair(store_uri()):
        print(said, file=sys.stderr)
    client = client_of(store_uri())
    found = client.get_experiment_by_name(experiment)
    if not found or found.lifecycle_stage != "active":
        return 0, ""
    return close_runs(client, found.experiment_id), found.experiment_id
