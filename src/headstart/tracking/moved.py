"""MLflow's SQLite store in a workspace that was moved or copied: it names its artifacts by absolute paths.

Without repair a moved workspace writes artifacts to its old place, and a copy into the original's.
"""

import sqlite3
from contextlib import closing

from headstart.run import paths

# where MLflow keeps the places of artifacts; it has no call that changes them
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def repair(uri: str) -> str:
    """Let the store's artifacts be where this workspace has them; return a sentence that says so, "" where they were.

    Only of the workspace's own store (`paths.mlflow_store`), whose artifacts lie beside it.
    """
    store, here = paths.mlflow_store(), paths.mlflow_artifacts().as_uri()
    if uri != f"sqlite:///{store}" or not store.is_file():
        return ""
    with closing(sqlite3.connect(store, timeout=8)) as database, database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        places = [place for place in _PLACES if place[0] in there]
        olds = _others(database, here) if ("experiments", "artifact_location") in places else []
        changed = sum(_replace(database, table, column, old, here) for old in olds for table, column in places)
    if not changed:
        return ""
    old = olds[0].removeprefix("file://")
    return f"warning: mlflow.db was made in another folder ({old}); its {changed} places of artifacts now name this one"


def _others(database: sqlite3.Connection, here: str) -> list[str]:
    """The folders called as ours that experiments name, which are not this workspace's."""
    rows = database.execute("SELECT DISTINCT artifact_location FROM experiments")
    own = f"/{paths.mlflow_artifacts().name}"
    return sorted(place for (place,) in rows if place and place.endswith(own) and place != here)


def _replace(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    begins = f"substr({column}, 1, {len(old)}) = ?"
    words = f"UPDATE {table} SET {column} = ? || substr({column}, {len(old) + 1}) WHERE {begins}"
    return database.execute(words, (new, old)).rowcount
