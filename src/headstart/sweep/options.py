"""What every engine is told, and what every one asks of the repository."""

from dataclasses import dataclass
from pathlib import Path

from headstart.errors import UserError
from headstart.sweep.run_cell import git


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


def check_history(root: Path) -> None:
    """Raise UserError where a repository is a shallow clone: its experiments would be lost."""
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise UserError(f"{root}: a shallow clone, which loses experiments; run: git fetch --unshallow")
