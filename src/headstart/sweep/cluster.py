"""The Ray engine: cells as tasks of a Ray cluster. Ray schedules, DVC's remote and git's carry the results.

What several cells need is a task of its own, on which they wait: a dataset's arrays, and each autoencoder, which is so
trained once. Tasks of a lost node or process are started again by Ray; those of a killed driver end with it, and the
next `run` finds what they had published. Nothing here decides when or where a task runs.
"""

import configparser
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headstart.errors import UserError, reason
from headstart.run.stage import say
from headstart.sweep import node, run_cell
from headstart.sweep.cells import Cell, exp_run_arguments
from headstart.sweep.node import Job, Outcome
from headstart.sweep.options import EngineOptions, check_history
from headstart.sweep.run_cell import Run, Site, committer, experiment_ref, git, persistently, prefix_of, told
from headstart.sweep.state import SweepState

POLL_SECONDS = 2.0
JOIN_SECONDS = 60.0  # for nodes that are being started
SEEN_SECONDS = 30.0
REFS = 100  # fetched in one git command
CARRIED = ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS", "HEADSTART_CHECKPOINT_SECONDS")
GIT_REMOTE = "origin"


def run(root: Path, revision: str, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    """Run cells on a Ray cluster until each is done or failed, or a stop is asked for; see `Engine`.

    Their experiments are in `root` afterwards as if they had run there, their outs in the DVC remote. Raises UserError,
    before anything runs, where a precondition is not met.
    """
    try:
        site = check(root, revision, options)
        waiting = take_published(root, site, cells, states)
        if waiting:
            with connected(options) as ray:
                follow(ray, root, site, waiting, states, options)
    except subprocess.CalledProcessError as error:
        raise UserError(f"{root}: {told(error)}") from None


def check(root: Path, revision: str, options: EngineOptions) -> Site:
    """Return what the nodes have to know, or raise UserError where they could not work; warns on stderr."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("ray is not installed here; here and on all nodes: make optional")
    url = check_git(root, revision)
    check_dvc(root, revision)
    environment = {name: os.environ[name] for name in CARRIED if name in os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, int(options.cpus_per_run))))
    environment |= committer(root)
    if not environment.get("MLFLOW_TRACKING_URI", "").startswith(("http:", "https:", "databricks")):
        print(
            "warning: MLFLOW_TRACKING_URI names no server (http://..): the runs will not be in MLflow", file=sys.stderr
        )
    if options.checkpoints:
        environment["HEADSTART_SHARED"] = str(Path(options.checkpoints).resolve())
    return Site(url, revision, prefix_of(root), environment, remote=True)


def check_git(root: Path, revision: str) -> str:
    """Return the URL of the git remote, from which the nodes clone the commit."""
    check_history(root)
    if GIT_REMOTE not in git(root, "remote").split():
        raise UserError(f"{root}: no git remote {GIT_REMOTE}, from which nodes clone; run: git remote add origin URL")
    changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".").splitlines()
    if changed:
        raise UserError(f"{changed[0][2:].strip()}: differs from the commit, which nodes run; commit or restore it")
    git(root, "fetch", "--quiet", GIT_REMOTE)
    if not git(root, "for-each-ref", "--count=1", f"--contains={revision}", f"refs/remotes/{GIT_REMOTE}"):
        raise UserError(
            f"{root}: the git remote {GIT_REMOTE} lacks commit {revision[:10]}; run: git push {GIT_REMOTE} HEAD"
        )
    return git(root, "remote", "get-url", GIT_REMOTE)


def check_dvc(root: Path, revision: str) -> None:
    """Check that the committed .dvc/config, which the nodes read, has a default remote that answers."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(git(root, "show", f"{revision}:./.dvc/config"))
    name = config.get("core", "remote", fallback="")
    url = config.get(f"'remote \"{name}\"'", "url", fallback="")
    if not url:
        raise UserError(
            ".dvc/config: no default remote in the commit, through which nodes share results; run: "
            "dvc remote add -d NAME URL && git commit -m 'DVC remote' .dvc/config && git push"
        )
    if "://" not in url and not Path(url).is_absolute():
        raise UserError(f".dvc/config: remote {name}: url: {url} is relative, and means another folder in each clone")
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            remote = repo.cloud.get_remote_odb(name)
            remote.fs.exists(remote.fs.join(remote.path, "files"))
    except Exception as error:  # the remotes' clients have their own; ConfigError: its client is not installed
        raise UserError(f".dvc/config: remote {name} ({url}) cannot be read: {reason(error)}") from None


def take_published(root: Path, site: Site, cells: Sequence[Cell], states: SweepState) -> list[Cell]:
    """Fetch the experiments that the git remote has already, note them as done; return the other cells."""
    pattern = experiment_ref(site.revision, "*")
    there = {line.rpartition("/")[2] for line in git(root, "ls-remote", GIT_REMOTE, pattern).splitlines()}
    found = [cell.name for cell in cells if cell.name in there]
    fetch(root, site, found)
    for name in found:
        states.done(name)
    return [cell for cell in cells if cell.name not in there]


def fetch(root: Path, site: Site, names: Sequence[str]) -> None:
    """Fetch experiments: the commits with parameters and metrics. Their outs stay in the DVC remote (dvc exp pull)."""
    refs = [experiment_ref(site.revision, name) for name in names]
    for start in range(0, len(refs), REFS):
        specs = [f"+{ref}:{ref}" for ref in refs[start : start + REFS]]
        persistently(git, root, "fetch", "--quiet", "--no-write-fetch-head", GIT_REMOTE, *specs)


@contextmanager
def connected(options: EngineOptions) -> Any:
    """Yield ray, connected to a cluster with room for a run; leaving it ends what this process has there."""
    address = options.address
    if "://" in address:
        raise UserError(f"--address {address}: give HOST:PORT of the head, from one of the cluster's machines")
    if ":" in address:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            raise UserError(f"--address {address}: no Ray cluster answers there ({error})") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
    import ray

    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: no Ray cluster to work with: {str(error).splitlines()[0]}") from None
    try:
        wait_for_room(ray, options)
        for module in (node, run_cell):
            ray.cloudpickle.register_pickle_by_value(module)
        yield ray
    finally:
        ray.shutdown()


def wait_for_room(ray: Any, options: EngineOptions) -> None:
    """Return once a node could take a run; raise UserError where none has come that could within JOIN_SECONDS."""
    end = time.monotonic() + JOIN_SECONDS
    while True:
        sizes = [
            (row["Resources"].get("CPU", 0), row["Resources"].get("GPU", 0)) for row in ray.nodes() if row["Alive"]
        ]
        if any(cpus >= options.cpus_per_run and gpus >= options.gpus_per_run for cpus, gpus in sizes):
            return
        if time.monotonic() > end:
            nodes = "; ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sizes)
            raise UserError(
                f"no node has room for a run (--cpus-per-run {options.cpus_per_run:g} --gpus-per-run "
                f"{options.gpus_per_run:g}); the cluster's nodes: {nodes}"
            )
        time.sleep(POLL_SECONDS)


def jobs(cells: Sequence[Cell]) -> list[tuple[Job, list[str]]]:
    """Return the jobs in order, each with the keys of the jobs that it waits for.

    An autoencoder's job runs once per initialisation that uses it, in one place: the first trains it, for the others
    DVC has another stage with the same result.
    """
    found: list[tuple[Job, list[str]]] = []
    data_of, autoencoder_of = {}, {}

    def add(key: str, target: str, members: Sequence[Cell], needed: list[str]) -> str:
        runs = tuple(Run(cell.name, tuple(exp_run_arguments(cell)), target) for cell in members)
        found.append((Job(key, runs), needed))
        return key

    for (dataset, seed), members in grouped(cells, lambda cell: (cell.dataset, cell.overrides.get("seed"))):
        if len(members) > 1:
            key = add(f"prepare-{dataset}" + ("" if seed is None else f"-{seed}"), "prepare", members[:1], [])
            data_of.update({cell.name: [key] for cell in members})
    for shared, members in grouped(cells, lambda cell: cell.autoencoder):
        if shared is not None and len(members) > 1:
            first = [some[0] for _, some in grouped(members, lambda cell: cell.overrides.get("projector.init"))]
            needed = data_of.get(members[0].name, [])
            key = add(f"autoencoder-{shared}", "pretrain_autoencoder", first, needed)
            autoencoder_of.update({cell.name: [key] for cell in members})
    for cell in cells:
        add(cell.name, "", [cell], autoencoder_of.get(cell.name) or data_of.get(cell.name, []))
    return found


def grouped(cells: Sequence[Cell], key: Callable[[Cell], Hashable]) -> list[tuple[Any, list[Cell]]]:
    """Return cells with equal keys together, in the order of their first."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.items())


def follow(ray: Any, root: Path, site: Site, cells: Sequence[Cell], states: SweepState, options: EngineOptions) -> None:
    """Submit all jobs and note in the states how they go, until all have ended or a stop is asked for."""
    board, refs = submit(ray, site, jobs(cells), options)
    names = {cell.name for cell in cells}
    waiting = {ref: key for key, ref in refs.items()}
    running: dict[str, float] = {}  # name -> when the states were last told that it lives
    try:
        while waiting and not states.stop_requested():
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL_SECONDS)
            with suppress(ray.exceptions.RayError):  # what has begun is for show
                for begun in ray.get(board.take.remote()):
                    if begun["job"] in names:
                        states.begin(begun["job"], begun["pid"], begun["host"])
                        running[begun["job"]] = time.monotonic()
            outcomes = [result(ray, ref, waiting.pop(ref)) for ref in ready]
            ended = [outcome for outcome in outcomes if outcome["job"] in names]
            settle(root, site, ended, states)
            for outcome in ended:
                running.pop(outcome["job"], None)
            for name in [name for name, told_at in running.items() if time.monotonic() - told_at > SEEN_SECONDS]:
                states.seen(name)  # also while its node is lost: Ray starts it again
                running[name] = time.monotonic()
    finally:
        for name in running:  # their tasks end with this process
            states.wait(name)


def submit(
    ray: Any, site: Site, rows: Sequence[tuple[Job, list[str]]], options: EngineOptions
) -> tuple[Any, dict[str, Any]]:
    """Hand all jobs to Ray at once; return the board on which they say that they begin, and their references."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(node.Board).options(num_cpus=0, scheduling_strategy=here).remote()
    limits = {
        "num_cpus": options.cpus_per_run,
        "num_gpus": options.gpus_per_run,
        "max_retries": max(0, options.attempts - 1),
    }
    task = ray.remote(**limits, retry_exceptions=False)(node.run_job)
    refs: dict[str, Any] = {}
    for job, needed in rows:
        refs[job.key] = task.options(name=job.key).remote(
            job, site, board, options.attempts, *(refs[key] for key in needed)
        )
    return board, refs


def result(ray: Any, ref: Any, key: str) -> Outcome:
    """Return a task's outcome; where Ray gave it up, one that says so."""
    try:
        return dict(ray.get(ref))
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return {"job": key, "error": f"given up by Ray: {lines[0]}", "log": str(error)}


def settle(root: Path, site: Site, outcomes: Sequence[Outcome], states: SweepState) -> None:
    """Note how cells ended; done is what is in this repository."""
    for outcome in outcomes:
        log = states.log(outcome["job"])
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(outcome["log"], encoding="utf-8")
    done = [outcome["job"] for outcome in outcomes if not outcome["error"]]
    fetch(root, site, done)
    for name in done:
        states.done(name)
        say(f"done    {name}")
    for outcome in outcomes:
        if outcome["error"]:
            states.failed(outcome["job"], outcome["error"])
            say(f"failed  {outcome['job']}: {outcome['error'].splitlines()[-1]}")
