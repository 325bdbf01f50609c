"""Ctrl-C while a training runs: its state is saved first."""

import signal

import pytest
import torch

from headstart.run import interrupts
from headstart.run.tensors import FileCheckpoint


def press() -> None:
    """In this very thread: what is sent to the process may be seen a moment later, in another one."""
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def pythons_own_handler():
    """Whatever runs the tests may have another one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def checkpoint(workspace) -> FileCheckpoint:
    return FileCheckpoint("train_simclr", "key", seconds=1e9)


def test_the_first_waits_for_a_checkpoint(checkpoint, capfd):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        assert not checkpoint.due()
        press()
        assert checkpoint.due(), "though its time has not come"
        checkpoint.save({"step": torch.tensor(3)})
        pytest.fail("it goes on")
    assert checkpoint.load() == {"step": torch.tensor(3)}
    assert signal.getsignal(signal.SIGINT) is before and not interrupts.asked()
    assert "ends when its state is saved" in capfd.readouterr().err


def test_the_second_ends_at_once(checkpoint):
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        press()
        press()
        pytest.fail("it goes on")
    assert checkpoint.load() is None and not interrupts.asked()


def test_one_that_found_nothing_to_save_ends_the_training_all_the_same(checkpoint):
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        press()
    assert not interrupts.asked()


def test_without_one_nothing_changes(checkpoint):
    with interrupts.deferred():
        checkpoint.save({})
    with interrupts.deferred(False), pytest.raises(KeyboardInterrupt):
        press()
