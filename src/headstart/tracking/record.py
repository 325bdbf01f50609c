"""What one execution of a stage has to tell a tracker: plain values, which can wait in a file until it is told."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart.run import files
from headstart.settings import leaves


@dataclass
class Record:
    """One execution of a stage on a dataset. Times are milliseconds; a metric is (key, value, time, step)."""

    stage: str
    dataset: str
    tags: dict[str, str]
    started: int
    ended: int = 0
    status: str = "RUNNING"
    run_id: str = ""
    resumed: bool = False
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write the record into a folder, to be told later."""
        name = f"{self.started}-{self.stage}-{self.dataset}.json"
        files.write_text(folder / name, json.dumps(asdict(self)))


def saved(folder: Path) -> list[tuple[Path, Record]]:
    """Return the records that wait in a folder, the oldest first, each with its file."""
    return [(path, Record(**json.loads(path.read_text(encoding="utf-8")))) for path in sorted(folder.glob("*.json"))]


def now() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def texts(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return `leaves` as strings; what is no string as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in leaves(tree)}
