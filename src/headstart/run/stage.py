"""How a stage script starts and how it fails."""

import argparse
import inspect
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import tqdm

from headstart.errors import UserError, for_people, of_system


class CommandLine(argparse.ArgumentParser):
    """argparse's parser, whose complaints are one line and exit status 1, as all of ours."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message and where the options are told."""
        sys.exit(f"error: {UserError(message)}; {self.prog} --help")


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the command line's options, one per parameter of its signature.

    What a user can cause ends in one line on stderr and exit status 1, without a traceback.
    """
    module = inspect.getmodule(main)
    description = inspect.getdoc(module) or ""
    # help only where nothing else is asked for: a dataset that is called -h would end a stage as if it had succeeded
    alone = sys.argv[1:] in (["-h"], ["--help"])
    stage = getattr(getattr(module, "__spec__", None), "name", sys.argv[0])
    parser = CommandLine(prog=f"python -m {stage}", description=description.partition("\n")[0], add_help=alone)
    for name, parameter in inspect.signature(main).parameters.items():
        parser.add_argument(f"--{name}", type=parameter.annotation, required=True)
    with ending("interrupted; run the same command again to go on"):
        main(**vars(parser.parse_args()))


@contextmanager
def ending(interrupted: str) -> Iterator[None]:
    """Surround a command: what a user or the system causes ends it with one line on stderr and exit status 1.

    interrupted: what is said where it is interrupted.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"error: {interrupted}")
    except BrokenPipeError:
        raise
    except OSError as error:  # a full or read-only disk, a file that is no such, a folder in its place
        end_output()
        sys.exit(f"error: {of_system(error)}")
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or "").strip().splitlines() or [f"exit status {error.returncode}"]
        sys.exit(f"error: {UserError(f'{error.cmd[0]} {error.cmd[1]}: {said[-1]}')}")
    except sqlite3.Error as error:  # DVC's and MLflow's files, on a disk that is full or read-only
        sys.exit(f"error: {UserError(f'a database in .dvc/tmp or mlflow.db: {error}')}")
    except MemoryError as error:
        sys.exit(f"error: not enough memory ({UserError(str(error) or 'MemoryError')}); lower sizes or batches")


def end_output() -> None:
    """Send what is still to be printed nowhere, where standard output takes no more: a full disk, a closed pipe."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Follower:
    """How a training goes, for those who watch: a bar, and the seconds of its epochs."""

    def __init__(self, bar: "tqdm.tqdm[Any]", on_epoch: Callable[[], object]):
        self._bar, self._on_epoch, self._watch = bar, on_epoch, Stopwatch()

    def at(self, place: int) -> None:
        """Move the bar to a step or epoch, counted from 0."""
        self._bar.update(place - self._bar.n)

    def epoch(self, place: int | None = None, **numbers: float) -> float:
        """Note that an epoch has ended, show numbers of it, and return the seconds that it took; place: as of `at`."""
        if place is not None:
            self.at(place)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()})
        self._on_epoch()
        return self._watch.lap()

    def seconds(self) -> float:
        """Return the median seconds of an epoch."""
        return self._watch.median()


@contextmanager
def following(total: int, what: str, unit: str, on_epoch: Callable[[], object]) -> Iterator[Follower]:
    """Yield what shows how a training goes, in steps or epochs of `total`; on_epoch is called after each epoch."""
    with progress(total, what, unit) as bar:
        yield Follower(bar, on_epoch)


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


def say(text: str, end: str = "\n") -> None:
    """Print lines at once, above any bar, as people may see them: see errors.for_people."""
    tqdm.tqdm.write(for_people(text), end=end)
    sys.stdout.flush()


def progress(total: int, what: str, unit: str, initial: int = 0) -> "tqdm.tqdm[Any]":
    """Return a bar with rate and remaining time: after 2 seconds, on stderr, and only on a terminal."""
    return tqdm.tqdm(total=total, desc=what, unit=unit, initial=initial, delay=2, disable=None, leave=False)


@contextmanager
def fits(what: str, total: int, which: str) -> Iterator[Callable[[], object]]:
    """Show how many probes of `what` are fitted; yields what is to be called after each."""
    with progress(total, f"{what}, {which}", "fit") as bar:
        yield bar.update
