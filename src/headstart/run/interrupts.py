"""Ctrl-C while a training runs: its state is saved first, at the next place where it can go on from."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = threading.Event()


@contextmanager
def deferred(wanted: bool = True) -> Iterator[None]:
    """Let the first Ctrl-C wait for `saved`, where `wanted` and in the main thread; the second ends at once.

    Raises KeyboardInterrupt at the end where one came and nothing was saved since.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    saved()


def asked() -> bool:
    """Return whether a Ctrl-C waits for a checkpoint."""
    return _asked.is_set()


def saved() -> None:
    """End the training whose state was just saved, where a Ctrl-C waits; raises KeyboardInterrupt."""
    if _asked.is_set():
        _asked.clear()
        raise KeyboardInterrupt


def _interrupt(number: int, frame: Any) -> None:
    saved()  # the second one waits for nothing
    _asked.set()
    print("\ninterrupted: ends when its state is saved (again: at once)", file=sys.stderr, flush=True)
