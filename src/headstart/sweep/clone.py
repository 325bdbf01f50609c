"""A sweep's own clone of the repository, at one commit, in which its experiments are queued and run.

DVC queues an experiment by stashing the workspace, changing it, and resetting it hard: whoever edits meanwhile loses
edits, and a kill leaves a detached HEAD and a foreign params.yaml. In a clone of its own a sweep disturbs nobody,
always runs the commit that it was begun with, and can throw away what a kill left of DVC's queue. Cache, checkpoints,
shared autoencoders and MLflow's store stay those of the main workspace (HEADSTART_ROOT); finished experiments are
fetched into it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from headstart.errors import UserError
from headstart.history import EXPERIMENT

MARKER = "HEADSTART_SWEEP"  # in the environment of every process of a sweep: its clone


def make_clone(root: Path, revision: str, folder: Path) -> None:
    """Make or bring up to date a clone of `root` at a commit, with the main workspace's cache and git identity."""
    if not (folder / ".git").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(root, "clone", "-q", "--no-checkout", str(root), str(folder))
    git(folder, "fetch", "-q", str(root), "HEAD", "+refs/heads/*:refs/remotes/origin/*")
    for lock in (folder / ".git").glob("*.lock"):  # a kill left it: nobody else works here
        lock.unlink()
    git(folder, "checkout", "-q", "--force", "--detach", revision)
    git(folder, "clean", "-fdq")
    for key in ("user.name", "user.email"):
        if value := git(root, "config", "--default", "", "--get", key).strip():
            git(folder, "config", key, value)
    _share_cache(root, folder)


def forget_queue(folder: Path) -> None:
    """Remove all that DVC's queue holds in a clone: tasks, stashed experiments, temporary copies. Nothing may run."""
    shutil.rmtree(folder / ".dvc" / "tmp" / "exps", ignore_errors=True)
    for name in ("rwlock", "rwlock.lock", "lock"):
        (folder / ".dvc" / "tmp" / name).unlink(missing_ok=True)
    for ref in git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        if not EXPERIMENT.fullmatch(ref):
            git(folder, "update-ref", "-d", ref)


def experiments(folder: Path) -> dict[str, str]:
    """Return the names of a clone's finished experiments with their refs."""
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return {found[2]: ref for ref in refs if (found := EXPERIMENT.fullmatch(ref))}


def fetch_experiments(root: Path, folder: Path, refs: Mapping[str, str]) -> None:
    """Bring experiments from a clone into the main workspace's repository, and out of the clone."""
    if refs:
        git(root, "fetch", "-q", "--no-write-fetch-head", str(folder), *(f"+{ref}:{ref}" for ref in refs.values()))
        for ref in refs.values():
            git(folder, "update-ref", "-d", ref)


def environment(root: Path, folder: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a process of the sweep: this Python's programs first, the main workspace's caches."""
    # What git and DVC say of another repository, as in a hook, is not meant for this one.
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("GIT_DIR", "GIT_INDEX", "GIT_WORK", "DVC_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {
        **kept,
        "PATH": path,
        "HEADSTART_ROOT": str(root),
        MARKER: str(folder),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def git(folder: Path, *words: str) -> str:
    """Return what git prints; raises UserError with its last line where it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(words)[:200]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout


def _share_cache(root: Path, folder: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(root)) as main, Repo(str(folder)) as clone:
        own = dict(main.config.read("local").get("cache", {}))
        with clone.config.edit("local") as config:
            config["cache"] = {**own, "dir": main.cache.local_cache_dir}
