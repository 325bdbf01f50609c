"""Kills of a sweep, at any time: its driver, a supervisor, dvc and a training. tests/sweep/test_pool.py is the sample.

Nodes of a cluster and their drivers are killed by `make kills`.
"""

import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.campaign.test_campaign import Findings
from tests.sweep.stubs import stub_checkout
from tests.sweep.test_pool import (
    begin,
    executed,
    experiments,
    of,
    supervisor,
    sweep,
    wait_until,
    workers,
    write_grid,
)

pytestmark = pytest.mark.campaign
NUMBER = 10


def victims(folder: Path, driver: psutil.Process) -> dict[str, list[psutil.Process]]:
    """The processes of a sweep that runs, by kind."""
    found = workers(folder)
    return {
        "driver": [driver],
        "supervisor": [process for process in found if supervisor(process)],
        "dvc": [process for process in found if of(process, "exp") and not supervisor(process)],
        "training": [process for process in found if of(process, "stages.train_simclr")],
    }


def test_a_sweep_that_is_killed_anywhere_ends_with_each_cell_once(tmp_path):
    folder = stub_checkout(tmp_path)
    found, log = Findings("kills of sweeps", NUMBER), folder / ".cache" / "driver.log"
    for case in range(NUMBER):
        chance = random.Random(f"sweeps {case}")
        kind = ("driver", "supervisor", "dvc", "training")[case % 4]
        write_grid(folder, ["relu"], [case])
        before = len(executed(folder))
        (folder / ".cache" / "slow").touch()
        log.unlink(missing_ok=True)
        started = time.monotonic()
        process = begin(folder, "run", "t")
        wait_until(lambda before=before: len(executed(folder)) > before)
        time.sleep(chance.random())
        (victim := victims(folder, psutil.Process(process.pid))[kind][-1]).send_signal(signal.SIGKILL)
        psutil.wait_procs([victim], timeout=20)
        if kind == "driver":
            process.wait()
            wait_until(lambda: not workers(folder), 30)
            (folder / ".cache" / "slow").unlink()
            done = sweep(folder, "resume", "t", check=False)
            status, said = done.returncode, done.stdout + done.stderr
        else:
            (folder / ".cache" / "slow").unlink()
            status, said = process.wait(300), log.read_text()
        again = sweep(folder, "run", "t").stdout
        fault = "" if status == 0 and "1 cells, 1 done, 0 to run" in again else f"{status}: {said[-300:]} {again}"
        if len(experiments(folder)) != case + 1 or len(set(experiments(folder))) != case + 1 or workers(folder):
            fault = (
                fault or f"{len(experiments(folder))} experiments after {case + 1} cells, {len(workers(folder))} left"
            )
        if "Traceback" in said:
            fault = fault or "a traceback"
        found.add(f"sweep {case}: {kind} killed", f"{kind} killed", 0, fault)
        assert time.monotonic() - started < 300
    found.close()
