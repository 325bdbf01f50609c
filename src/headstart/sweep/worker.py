"""What a task of the Ray engine runs in its clone: one `dvc exp run`, then results and run cache to the DVC remote.

DVC copies its whole run cache, one file after the other, at each `--pull` and each `push --run-cache`: a sweep of n
runs of m stages so pays n * m copies per run. Here a stage's entries are fetched when DVC looks for them, and a run's
own entries are pushed, after the objects that they name: an entry in the remote is always whole.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from dvc.cli import main as dvc
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, StageCache, _can_hash, _get_stage_hash

from headstart.errors import for_people
from headstart.sweep.run_cell import persistently

ENTRY = re.compile(r"[0-9a-f]{64}")  # the name of a run cache entry; others are files that are being written
HASH = "md5-dos2unix"  # of the place in a remote where DVC keeps run caches


def main() -> int:
    """Return dvc's exit status; 1 where the remote did not take the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--name", required=True, help="of the experiment")
    parser.add_argument("--target", help="run this stage and what it needs, instead of the whole pipeline")
    parser.add_argument("arguments", nargs="*", help="of dvc exp run, after --")
    options = parser.parse_args()
    targets = [options.target] if options.target else []
    fetch_entries_on_demand()
    status = dvc(["exp", "run", "--pull", "--name", options.name, *options.arguments, *targets])
    if status:
        return int(status)
    try:
        persistently(push, options.target, errors=Exception)  # the remotes' clients have their own
    except Exception as error:
        print(f"error: the DVC remote does not take the results: {for_people(str(error))}", file=sys.stderr)
        return 1
    return 0


def fetch_entries_on_demand() -> None:
    """Let DVC fetch the run cache entries of a stage that it cannot restore, and not all entries beforehand."""
    restore = StageCache.restore

    def restore_or_fetch(cache: Any, stage: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return restore(cache, stage, *arguments, **options)
        except RunCacheNotFoundError:
            if not _can_hash(stage):
                raise
        remote = cache.repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name=HASH)
        copy_entries(_get_stage_hash(stage), remote, cache.repo.cache.legacy)
        return restore(cache, stage, *arguments, **options)

    StageCache.restore = restore_or_fetch
    StageCache.pull = lambda *_: []


def push(target: str | None) -> None:
    """Push a target's outs (None: the pipeline's), then the objects of its run cache entries, then the entries."""
    with Repo() as repo:
        stages = repo.stage.collect(target, with_deps=True) if target else repo.index.stages
        repo.push(targets=[stage.addressing for stage in stages if stage.outs])
        remote = repo.cloud.get_remote_odb(None, "push --run-cache", hash_name=HASH)
        for key in [_get_stage_hash(stage) for stage in stages if _can_hash(stage)]:
            folder = Path(repo.stage_cache.cache_dir, key[:2], key)
            entries = [(key, file.name) for file in folder.glob("*") if ENTRY.fullmatch(file.name)]
            # outs that git tracks too have objects, from which the entry restores them
            for odb, objects in repo.stage_cache.get_used_objs(entries).items():
                if repo.cloud.push(objects, odb=odb).failed:
                    raise OSError("some objects were not taken")
            copy_entries(key, repo.cache.legacy, remote)


def copy_entries(key: str, source: Any, goal: Any) -> None:
    """Copy a stage's run cache entries that `goal` lacks from one of DVC's object stores to another."""
    folders = [store.fs.join(store.path, "runs", key[:2], key) for store in (source, goal)]
    if not source.fs.exists(folders[0]):
        return
    for file in list(source.fs.find(folders[0])):
        name = source.fs.name(file)
        entry = goal.fs.join(folders[1], name)
        if ENTRY.fullmatch(name) and not goal.fs.exists(entry):
            with source.fs.open(file, "rb") as stream:
                content = stream.read()
            # beside the folder: DVC takes its newest file for the latest entry
            part = f"{folders[1]}.{name[:8]}.{os.getpid()}" if goal.fs.protocol == "local" else entry
            goal.fs.makedirs(folders[1], exist_ok=True)
            with goal.fs.open(part, "wb") as stream:
                stream.write(content)
            if part != entry:
                Path(part).replace(entry)


if __name__ == "__main__":
    sys.exit(main())
