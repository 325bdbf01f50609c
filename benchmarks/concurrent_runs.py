"""How many runs per hour one machine gives when 1, 2, 4 or 8 of them train at once."""

import json
import os
import subprocess
import sys
import time

import torch

from benchmarks import setting
from benchmarks.measure import Row, num_cores, skipped, spread, synchronize
from benchmarks.step import our_steps
from headstart.precision import use_bf16

PROCESSES = {"cpu": (1, 2), "cuda": (1, 2, 4, 8)}
BATCH = 1280
RUN_IMAGES = 150 * (setting.IMAGES // BATCH) * BATCH  # of one CIFAR-10 run of the paper: 150 epochs, last batch dropped
START_SECONDS = 90.0  # until the last process has imported, warmed up and waits


def total_rate(processes: int, device: torch.device, seconds: float) -> float | str:
    """Return the images per second of all processes together over `seconds`, or why one failed."""
    begin = time.time() + START_SECONDS
    threads = max(1, num_cores() // processes)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.concurrent_runs", str(begin), str(seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen([*command, device.type], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        return f"{processes} processes: one ended with exit status {max(process.returncode for process in running)}"
    return sum(json.loads(output.splitlines()[-1]) for output in outputs)


def worker(begin: float, seconds: float, device: torch.device) -> float:
    """Train steps from `begin` on for `seconds` and return this process's images per second."""
    batch = BATCH if device.type == "cuda" else 64
    run = our_steps(setting.batches(20 * batch, 32, device), batch, steps=1)
    run()
    synchronize(device)
    if time.time() > begin:
        raise RuntimeError(f"start-up took more than {START_SECONDS:.0f} s")
    time.sleep(begin - time.time())
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        run()
        synchronize(device)
        steps += 1
    return steps * batch / (time.perf_counter() - started)


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure each number of processes twice."""
    rows = []
    for processes in PROCESSES[device.type][:1] if quick else PROCESSES[device.type]:
        rates = [total_rate(processes, device, 2.0 if quick else 20.0) for _ in range(1 if quick else 2)]
        case = f"ResNet-34, 32 px, {processes} at once"
        if failed := [rate for rate in rates if isinstance(rate, str)]:
            rows.append(skipped(case, failed[0]))
            continue
        found = [float(rate) for rate in rates]
        rows.append(spread(case, found, "images/s in all"))
        rows.append(spread(f"{case}: paper runs", [3600 * rate / RUN_IMAGES for rate in found], "runs per hour"))
    return rows, "bf16" if use_bf16("auto", device) else "fp32"


if __name__ == "__main__":
    print(json.dumps(worker(float(sys.argv[1]), float(sys.argv[2]), torch.device(sys.argv[3]))))
