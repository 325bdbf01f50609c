"""Calling a service that may be dead, hang or chatter: probed before anything is paid for it, bounded, and quiet."""

import io
import logging
import sqlite3
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tqdm

from headstart.errors import masked, reason

PATIENCE_SECONDS = 10.0  # before the first call: connecting takes 4 s, which a short stage need not pay
FLUSH_SECONDS = 2.0  # between calls, at least ...
PACE = 10.0  # ... and as many times what the last one took: a slow service takes a tenth of the time at most
RETRY_SECONDS = 60.0  # after a failure
LOST_SECONDS = 8.0  # in failures, then no more calls


class AbandonedError(Exception):
    """A call did not end in time; its thread may still be at it."""


class Guard:
    """Decides when a service is called, and sees to it that no call raises, chatters or costs more than it may."""

    def __init__(self, service: str, marker: Path):
        self.service, self.marker = service, marker
        self.tried = False
        self._lost = 0.0
        self._not_before = time.monotonic() + PATIENCE_SECONDS

    def due(self) -> bool:
        """Whether it is time for a call."""
        return time.monotonic() >= self._not_before

    def attempt(self, work: Callable[[], None], seconds: float, lock: AbstractContextManager[Any]) -> bool:
        """Return whether `work`, under `lock`, succeeded within `seconds`; warns at the first failure."""
        if self._lost >= LOST_SECONDS:
            return False
        self.tried = True
        started = time.monotonic()
        try:
            with quiet(), lock:
                started_work = time.monotonic()
                bounded(work, seconds)
        except Exception as error:
            self._lost += time.monotonic() - started
            if isinstance(error, AbandonedError):
                self._lost = LOST_SECONDS  # a second call beside the abandoned one would do things twice
            self._not_before = time.monotonic() + RETRY_SECONDS
            self.warn(error)
            return False
        ended = time.monotonic()
        self._not_before = ended + max(FLUSH_SECONDS, PACE * (ended - started_work))
        return True

    def warn(self, error: Exception) -> None:
        """Write one line on stderr, the first time only: of all stages of a run, which share the marker file."""
        if not self.marker.exists():
            said = f"{self.service} does not take the record of this run ({reason(error)})"
            line = f"warning: {said}; the run goes on without"
            tqdm.tqdm.write(line, file=sys.stderr)
        with suppress(OSError):
            self.marker.parent.mkdir(parents=True, exist_ok=True)
            self.marker.touch()

    def forget(self) -> None:
        """End the run that is warned once."""
        with suppress(OSError):
            self.marker.unlink(missing_ok=True)


def bounded(work: Callable[[], None], seconds: float) -> None:
    """Call `work`; raise what it raises, or AbandonedError after `seconds`.

    Timeouts of sockets alone do not do: a server that sends a byte now and then resets them, and MLflow's database
    stores try ten times in two minutes. The thread is a daemon, so that an abandoned call does not keep the process.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise AbandonedError(f"no answer within {seconds:g} s")
    if outcome[0] is not None:
        raise outcome[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow what is printed, logged and warned meanwhile."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def probe(uri: str, seconds: float) -> None:
    """Raise where a tracking server (http, https) or an SQLite file does not answer within `seconds`.

    A refused connection, a hanging server, a corrupt file or a read-only folder are found without importing mlflow.
    """
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018
    except ValueError:  # whose words would hold a piece of the password
        raise ValueError(f"{masked(uri)} is no URL; in a password / is %2F and @ %40") from None
    if parts.scheme in ("http", "https"):
        host = parts.netloc.rpartition("@")[2]  # without user and password
        url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/health"
        # Whom the server's certificate vouches for is MLflow's own question, with settings of its own.
        context = ssl._create_unverified_context() if parts.scheme == "https" else None
        try:
            with urllib.request.urlopen(url, timeout=seconds, context=context):
                return
        except urllib.error.HTTPError as error:
            error.close()  # an answer all the same
    elif parts.scheme == "sqlite":
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///").partition("?")[0], timeout=seconds)) as database:
            database.executescript("BEGIN IMMEDIATE; ROLLBACK")
