"""When a task that has left no trace is given up, on a clock of the test's own."""

from types import SimpleNamespace

import pytest

from headstart.sweep import queue
from headstart.sweep.queue import SETUP_SECONDS, Task
from headstart.sweep.state import SweepState


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(queue.time, "time", lambda: now.time)
    return now


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A queue that no DVC stands behind: `waiting` says what it holds."""
    watched = object.__new__(queue.Queue)
    watched.runs, watched.states = tmp_path, SweepState(tmp_path, "t")
    watched.waiting, watched.workers = {"abc"}, SimpleNamespace(ids=lambda: {1})
    monkeypatch.setattr(queue.Queue, "_queued", lambda self: self.waiting)
    watched.tasks = [Task(SimpleNamespace(name="t-1"), "abc")]
    return watched


def test_a_task_that_waited_long_has_its_time_to_set_up_once_it_is_taken(clock, watched):
    watched.tasks[0].since = clock.time
    for _ in range(5):  # longer cells are before it
        clock.time += SETUP_SECONDS
        assert watched.look() == []
    clock.time += SETUP_SECONDS - 1
    watched.waiting = set()  # taken a second before the queue is asked again
    clock.time += 1
    assert watched.look() == []
    clock.time += SETUP_SECONDS - 1
    assert watched.look() == []
    clock.time += 1
    assert [said for _, said in watched.look()] == ["its worker was lost before it began"]
    assert watched.tasks == []
