"""Starting and joining the processes that share a training's batches; torch's launcher (torchrun) does the work.

A process whose environment has torchrun's RANK and WORLD_SIZE is one of several already, whatever params.yaml says.
What a user can cause ends in one line and exit status 1 here too: a process leaves its line in the file where torchrun
looks for it, and `launch` prints the first one found there.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from headstart.errors import UserError, of_system
from headstart.memory import keep_freed_memory
from headstart.precision import use_ieee_float32
from headstart.training.distributed import ALONE, Group

LAUNCHER = "HEADSTART_LAUNCHER"  # set in the environment of processes that `launch` started
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launched() -> bool:
    """Whether torchrun or `launch` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def pick_device(name: str) -> torch.device:
    """Return the device that params.yaml names; `auto` is the first CUDA device where there is one.

    A process that will train on the CPU is told to keep the memory that it frees; on a GPU float32 is IEEE's.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"params.yaml: device: {name!r} but torch sees no CUDA device; use auto or cpu")
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # set_device refuses one without a number
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"params.yaml: device: {name!r} but there are {torch.cuda.device_count()} CUDA devices, from cuda:0"
            )
        torch.cuda.set_device(device)  # where streams, graphs and Triton's kernels go that name none
        use_ieee_float32()
    return device


def check_batch(dataset: str, batch_size: int, num: int) -> None:
    """Raise UserError where a dataset's batch cannot be shared equally by `num` processes."""
    if batch_size % num:
        raise UserError(
            f"datasets.yaml: {dataset}.batch_size: {batch_size} must be divisible by {num}, "
            "the number of processes (simclr.num_processes, or torchrun's)"
        )


def check_devices(device: torch.device, num: int) -> None:
    """Raise UserError where `num` processes of this machine cannot have a CUDA device each."""
    if device.type == "cuda" and num > torch.cuda.device_count():
        raise UserError(
            f"params.yaml: simclr.num_processes: {num} (or torchrun's number) must be at most "
            f"{torch.cuda.device_count()}, the CUDA devices that torch sees; or set device to cpu"
        )


def check_cores(device: torch.device, num: int) -> None:
    """Raise UserError where `num` processes would share fewer cores than they are: gloo's would wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(cores, 2)  # two on one core are slow, and right
    if device.type == "cpu" and num > most:
        raise UserError(f"params.yaml: simclr.num_processes: {num} must be at most {most}, the CPU cores at hand")


def launch(stage: str, dataset: str, num: int) -> None:
    """Run a stage on a dataset as `num` processes of this machine, which divide its threads, and wait for them.

    Raises UserError with the line of the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHER] = "1"
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // num))
    logging.disable(logging.CRITICAL)  # torchrun's table of failures, traceback and all
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num,
            run_id=f"{stage}-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", f"stages.{stage}", "--dataset", dataset)
        except ChildFailedError as error:
            raise UserError(_first_failure(error.failures)) from None
        except SignalException:
            raise KeyboardInterrupt from None


@contextmanager
def sharing(
    stage: str, dataset: str, batch_size: int, num: int, device: torch.device
) -> Iterator[tuple[Group | None, torch.device]]:
    """Yield the group and the device with which this process works on a stage's batches.

    None in place of a group: nothing is left to do, since `num` processes were launched for it and have ended well.
    """
    if num > 1 and not launched():
        check_batch(dataset, batch_size, num)
        check_devices(device, num)
        check_cores(device, num)
        launch(stage, dataset, num)
        yield None, device
        return
    with joined(device) as (group, device):
        check_batch(dataset, batch_size, group.size)
        yield group, device


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Group, torch.device]]:
    """Yield this process's group and device; ALONE, unless it is `launched` with others; on CUDA, LOCAL_RANK's GPU."""
    if not launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, device
        return
    try:
        if LAUNCHER in os.environ and sys.platform == "linux":  # a killed launcher takes its processes along
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        check_devices(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
        yield Group(dist.get_rank(), dist.get_world_size()), device
        dist.destroy_process_group()
    except (UserError, KeyboardInterrupt, RuntimeError, OSError) as caught:
        error = of_system(caught) if isinstance(caught, OSError) else caught
        if _is_told(error):
            raise SystemExit(1) from None
        raise error from None


def _is_told(error: BaseException) -> bool:
    """Leave a user's mistake for torchrun; return whether nothing is to be printed, since another process does."""
    if isinstance(error, UserError) and "TORCHELASTIC_ERROR_FILE" in os.environ:
        record = {"message": str(error), "timestamp": int(time.time())}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(record), encoding="utf-8")
    if isinstance(error, RuntimeError):
        return LAUNCHER in os.environ and " by peer" in str(error)  # gloo: connection to a process that has ended
    return LAUNCHER in os.environ or os.environ["RANK"] != "0"


def _first_failure(failures: dict[int, Any]) -> str:
    """Return the line of the first process that left one, else that of a process that was killed, else of any."""
    told = [failure for failure in failures.values() if Path(failure.error_file).is_file()]
    if told:
        return str(min(told, key=lambda failure: failure.timestamp).message)
    # signals are negative; SIGTERM is torchrun's own, to processes that outlive another
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].exitcode))
    if failure.exitcode < 0:
        return f"process {rank} was killed by {failure.signal_name()}; run the same command again to go on"
    return f"process {rank} failed with exit status {failure.exitcode}, see above"
