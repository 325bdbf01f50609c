"""The engines that run cells, chosen by name: a pool of clones on one machine, Ray on a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import UserError
from headstart.sweep.cells import Cell
from headstart.sweep.run_cell import git
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


def check_history(root: Path) -> None:
    """Raise UserError where a repository is a shallow clone: its experiments would be lost."""
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise UserError(f"{root}: a shallow clone, which loses experiments; run: git fetch --unshallow")


def _pool(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    from headstart.sweep.pool import run

    run(root, revision, cells, states, options)


def _ray(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    from headstart.sweep.cluster import run

    run(root, revision, cells, states, options)


DEFAULT = "pool"
ENGINES: dict[str, Engine] = {DEFAULT: _pool, "ray": _ray}
# name -> what became of it
GONE = {
    "queue": "DVC's queue is no engine any more; leave --engine out: a pool of clones on this machine runs the cells; "
    "dvc exp run --queue and dvc queue start stay DVC's own"
}
