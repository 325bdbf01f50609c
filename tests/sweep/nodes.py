"""A Ray cluster on loopback whose nodes can be killed, and a repository with both remotes.

`python -m tests.sweep.nodes FOLDER` waits for the end of its input, then ends all that belongs to the cluster there:
also where the tests themselves were killed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from headstart.sweep.node import folder_of
from tests.checkouts import BIN, ROOT, checkout, environment, run

MARKER = "TESTED_CLUSTER"  # in the environment of all that belongs to one: its folder


class Cluster:
    """`ray start`: a head that runs no tasks, and nodes; all of them gone after `with cluster(..)`."""

    def __init__(self, folder: Path):
        self.folder = folder  # short: Ray's sockets lie in it, and their names have at most 107 characters
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.extra: dict[str, str] = {}  # in the nodes' environment

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """One after the other: two that start at once on one machine choose the same ports."""
        log = self.folder / f"log{len(self.processes)}"
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "RAY_TMPDIR": str(self.folder)}
        fixed = ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--object-store-memory={80 << 20}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [BIN / "ray", "start", "--block", *options, *fixed],
                env=environment(TMPDIR=str(self.folder), **quiet, **self.extra, **self.mark),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        wait_for(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, 90, str(log))
        assert process.poll() is None, log.read_text()
        return process

    @property
    def mark(self) -> dict[str, str]:
        """For the environment of what is to end with the cluster."""
        return {MARKER: str(self.folder)}

    def start_head(self, **extra: str) -> None:
        self.extra = extra
        port = self.address.rpartition(":")[2]
        self.start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self.folder}")

    def start_node(self) -> subprocess.Popen[bytes]:
        return self.start(f"--address={self.address}", "--num-cpus=1")

    def logs(self, root: Path) -> dict[str, str]:
        """Job -> its log, of a repository's sweep on the nodes, all on this machine."""
        (user,) = self.folder.glob("headstart-*")
        folder = user / folder_of(str(root.parent / "origin.git")).name / "logs"
        return {file.stem: file.read_text() for file in folder.glob("*.log")}


@contextmanager
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    guard = subprocess.Popen(
        [BIN / "python", "-m", __name__, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    )
    started = Cluster(folder)
    try:
        yield started
    finally:
        guard.communicate()
        for process in started.processes:
            process.wait()


def end_cluster(folder: Path) -> None:
    """End every process that was started for a cluster, or by one of those, wherever it is now."""
    while found := [one for one in psutil.process_iter() if belongs(one, folder)]:
        for one in found:
            kill(one)
        psutil.wait_procs(found, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


def belongs(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARKER) == str(folder)
    return False


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)


def kill_node(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """SIGKILL all of Ray's processes of a node; return those of its jobs, which are to end by themselves."""
    everything = family(process.pid)
    jobs = [below for one in everything if is_job(one) for below in family(one.pid)]
    for one in everything:
        if one not in jobs:
            kill(one)
    process.wait()
    return jobs


def in_training(*processes: subprocess.Popen[bytes]) -> set[str]:
    """The experiments whose SimCLR trains on some nodes at this moment: half done, and far from being published."""
    jobs = [one for process in processes for one in family(process.pid) if is_job(one)]
    busy = [job for job in jobs if any("stages.train_simclr" in command(below) for below in family(job.pid))]
    return {words[words.index("--name") + 1] for job in busy if "--name" in (words := command(job))}


def is_job(process: psutil.Process) -> bool:
    return "headstart.sweep.worker" in command(process)


def command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def wait_for(condition, seconds: float, what: str = "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.2)


def repository(folder: Path, remote: str, grid: str, tracking: bool = False, **config: str) -> Path:
    """A checkout with tiny settings and one grid, whose commit a bare git remote has, with a DVC remote at a URL."""
    root = checkout(folder / "repo", tracking)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 1"))
    (root / "sweeps").mkdir(exist_ok=True)
    (root / "sweeps" / "small.yaml").write_text(grid)
    run(root, "dvc", "remote", "add", "-d", "store", remote)
    for key, value in config.items():
        run(root, "dvc", "remote", "modify", "store", key, value)
    run(root, "git", "init", "-q", "--bare", str(folder / "origin.git"))
    run(root, "git", "remote", "add", "origin", str(folder / "origin.git"))
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "grid and remote")
    run(root, "git", "push", "-q", "origin", "HEAD:refs/heads/main")
    return root


def finished(root: Path) -> dict[str, str]:
    """Experiment -> commit, of those that the git remote has."""
    rows = run(root, "git", "ls-remote", "origin", "refs/exps/*").stdout.split("\n")
    return {row.rpartition("/")[2]: row.split("\t")[0] for row in rows if row}


def with_deadline(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"not within {seconds:g} s:\n{output}") from None
    return process.returncode, output


if __name__ == "__main__":
    os.read(0, 1)
    end_cluster(Path(sys.argv[1]))
