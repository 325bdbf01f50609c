"""How a stage script starts and how it fails."""

import argparse
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm

from headstart.errors import UserError


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the command line's options, one per parameter of its signature.

    What a user can cause ends in one line on stderr and exit status 1, without a traceback.
    """
    description = inspect.getdoc(sys.modules[main.__module__]) or ""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, parameter in inspect.signature(main).parameters.items():
        parser.add_argument(f"--{name}", type=parameter.annotation, required=True)
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")


class Stopwatch:
    """Seconds between laps, for rates that are shown and tracked but never part of an out."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.laps: list[float] = []

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.perf_counter()
        self.laps.append(now - self.started)
        self.started = now
        return self.laps[-1]

    def median(self) -> float:
        """Return the median lap, NaN without one (a run resumed after its last epoch)."""
        return statistics.median(self.laps) if self.laps else float("nan")


def say(text: str) -> None:
    """Print a line of progress at once, above any bar."""
    tqdm.tqdm.write(text)
    sys.stdout.flush()


def progress(total: int, what: str, unit: str, initial: int = 0) -> "tqdm.tqdm[Any]":
    """Return a bar with rate and remaining time: after 2 seconds, on stderr, and only on a terminal."""
    return tqdm.tqdm(total=total, desc=what, unit=unit, initial=initial, delay=2, disable=None, leave=False)
