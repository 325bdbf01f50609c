"""Calls into a service that is dead, hangs or chatters."""

import logging
import sqlite3
import threading
import time
import warnings
from contextlib import nullcontext

import pytest

from headstart.tracking import guard


def fail() -> None:
    raise ValueError("no\nwonder")


def test_bounded_raises_what_the_work_raises_and_gives_up_in_time():
    done = []
    guard.bounded(lambda: done.append(1), 5)
    assert done == [1]
    with pytest.raises(ValueError, match="wonder"):
        guard.bounded(fail, 5)
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(guard.AbandonedError):
        guard.bounded(lambda: release.wait(10) and None, 0.1)
    assert time.monotonic() - started < 2
    release.set()


def test_quiet_swallows_prints_logs_and_warnings_and_ends(capfd, caplog):
    with guard.quiet():
        print("noise")
        logging.getLogger("mlflow").critical("noise")
        warnings.warn("noise", stacklevel=1)  # an error under this suite's settings
    assert capfd.readouterr() == ("", "") and not caplog.records
    print("voice")
    logging.getLogger("mlflow").critical("voice")
    assert capfd.readouterr().out == "voice\n" and [record.message for record in caplog.records] == ["voice"]


def test_failures_are_told_once_and_stop_when_they_have_cost_enough(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(guard, "LOST_SECONDS", 0.3)
    watch = guard.Guard("MLflow", tmp_path / "warned")
    calls = []

    def slow_failure() -> None:
        calls.append(1)
        time.sleep(0.2)
        fail()

    assert [watch.attempt(slow_failure, 5, nullcontext()) for _ in range(4)] == [False] * 4
    assert len(calls) == 2
    line = "warning: MLflow does not take the record of this run (no wonder); the run goes on without\n"
    assert capfd.readouterr() == ("", line)


def test_an_abandoned_call_is_the_last(capfd, tmp_path):
    watch, calls, release = guard.Guard("MLflow", tmp_path / "warned"), [], threading.Event()

    def hang() -> None:
        calls.append(1)
        release.wait(10)

    assert [watch.attempt(hang, 0.1, nullcontext()) for _ in range(2)] == [False, False]
    release.set()
    assert calls == [1] and len(capfd.readouterr().err.splitlines()) == 1


def test_calls_come_after_patience_then_at_a_pace_that_a_slow_service_sets(monkeypatch, tmp_path):
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(guard, "FLUSH_SECONDS", 0.05)
    watch = guard.Guard("MLflow", tmp_path / "warned")
    assert not watch.due()
    time.sleep(0.21)
    assert watch.due() and watch.attempt(lambda: time.sleep(0.1), 5, nullcontext())
    time.sleep(0.1)
    assert not watch.due()  # 0.1 s of work earns it a second of rest


def test_probe_accepts_a_new_and_an_existing_file_only(tmp_path):
    file = tmp_path / "store.db"
    uri = f"sqlite:///{file}"
    guard.probe(uri, 1)
    with sqlite3.connect(file) as database:
        database.execute("create table t (x)")
    database.close()
    guard.probe(uri, 1)
    file.write_bytes(b"x" * 5000)
    with pytest.raises(sqlite3.DatabaseError):
        guard.probe(uri, 1)
    with pytest.raises(sqlite3.OperationalError):
        guard.probe(f"sqlite:///{tmp_path}/absent/store.db", 1)
