"""The engines that run cells, chosen by name: DVC's queue on one machine, Ray on a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.sweep.cells import Cell
from headstart.sweep.state import SweepState


@dataclass(frozen=True)
class EngineOptions:
    """How cells are run.

    jobs: at once, on this machine; devices: what CUDA_VISIBLE_DEVICES of the runs is, in turn (empty: as it is);
    attempts: how often a cell is begun before it counts as failed; address, gpus_per_run, cpus_per_run: of Ray.
    checkpoints: a folder on a filesystem that all machines of the cluster have, or empty.
    """

    jobs: int = 1
    devices: tuple[str, ...] = ()
    attempts: int = 3
    address: str = "auto"
    gpus_per_run: float = 0.0
    cpus_per_run: float = 1.0
    checkpoints: str = ""


# root of the main workspace, commit to run, cells in order, their states, options. Returns when every cell is done or
# failed, or soon after `states.stop_requested()`; may be killed at any time and called again.
Engine = Callable[[Path, str, Sequence[Cell], SweepState, EngineOptions], None]


def _queue(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    from headstart.sweep.queue import run  # type: ignore[import-not-found, import-untyped, unused-ignore]

    run(root, revision, cells, states, options)


def _ray(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    from headstart.sweep.cluster import run

    run(root, revision, cells, states, options)


ENGINES: dict[str, Engine] = {"queue": _queue, "ray": _ray}
