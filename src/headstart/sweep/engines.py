"""The engines that run cells, chosen by name: a pool of clones on one machine, Ray on a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path

from headstart.sweep.cells import Cell
from headstart.sweep.options import EngineOptions
from headstart.sweep.state import SweepState

# root of the main workspace, commit to run, cells in order, their states, options. Returns when every cell is done or
# failed, or soon after `states.stop_requested()`; may be killed at any time and called again.
Engine = Callable[[Path, str, Sequence[Cell], SweepState, EngineOptions], None]


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
