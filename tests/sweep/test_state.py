"""States survive what kills their writers; one process drives a sweep."""

import os
import subprocess
import sys
import time

import pytest

from headstart.errors import UserError
from headstart.sweep.state import DONE, FAILED, RUNNING, STALE_SECONDS, WAITING, SweepState


@pytest.fixture
def states(tmp_path) -> SweepState:
    return SweepState(tmp_path, "t")


def test_a_cell_goes_its_way(states):
    assert states.get("a").state == WAITING and states.all() == {}
    begun = states.begin("a", os.getpid())
    assert (begun.state, begun.attempts, begun.pid) == (RUNNING, 1, os.getpid()) and not states.is_lost(begun)
    states.failed("a", "no memory")
    assert (states.get("a").state, states.get("a").error) == (FAILED, "no memory")
    assert states.wait("a").attempts == 1 and states.retry("a").attempts == 0
    states.begin("a", os.getpid())
    done = SweepState(states.folder.parents[2], "t").done("a")
    assert done.state == DONE and done.ended >= done.started > 0 and states.all() == {"a": done}


def test_a_running_cell_is_lost_with_its_process(states):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = states.begin("a", child.pid)
    assert not states.is_lost(state)
    child.kill()
    child.communicate()
    assert states.is_lost(state)
    assert not states.is_lost(states.update("a", state=DONE))


def test_a_number_given_to_another_process_is_not_the_one_that_was_lost(states):
    states.begin("a", os.getpid())
    assert states.is_lost(states.update("a", pid_started=1.0))


def test_on_another_machine_silence_decides(states):
    state = states.begin("a", 1, host="elsewhere")
    assert not states.is_lost(state)
    assert states.is_lost(states.update("a", seen=time.time() - STALE_SECONDS - 1))
    assert not states.is_lost(states.seen("a"))


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"name": "a", "colour": 1}'])
def test_an_unreadable_state_is_one_that_waits(states, rubbish):
    states.begin("a", 1)
    (states.folder / "cells" / "a.json").write_text(rubbish)
    assert states.get("a").state == WAITING


def test_one_process_drives_a_sweep(states):
    assert not states.is_driven()
    with states.driving(engine="pool"):
        assert states.is_driven() and states.driver()["engine"] == "pool"
        with pytest.raises(UserError, match=f"t: is run already, by process {os.getpid()}"), states.driving():
            pass
        states.request_stop()
        assert states.stop_requested()
    with states.driving():
        assert not states.stop_requested(), "an earlier wish to stop does not count"


def test_the_tail_of_a_log_is_what_it_said_last(states):
    states.log("a").parent.mkdir(parents=True)
    states.log("a").write_text("x" * 50_000 + "\n1\n\n  50%\r 100%\nlast\n")
    assert states.tail("a", 3) == ["1", " 100%", "last"] and states.tail("b") == []
