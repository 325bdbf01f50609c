"""Out of memory ends in one line with a batch that fits; the device's counters are stood in for."""

import dataclasses

import pytest
import torch

from headstart.errors import UserError
from headstart.training import room
from headstart.training.contrastive import Batches, Network
from tests.training.recipe import RECIPE
from tests.training.test_contrastive import head, small_network

FIXED, EACH = 3 * 2**20, 5 * 2**20  # bytes of a step: whatever the batch, and for every pair


@pytest.fixture
def train(split_of, views_of) -> Batches:
    return Batches(split_of(0, 30), views_of(), 8, None)


@pytest.fixture
def network() -> Network:
    return Network(small_network(), head())


@pytest.fixture
def gpu(monkeypatch):
    """A device whose steps take FIXED + EACH * pairs, and that has as much free as is said."""

    def make(free: int) -> None:
        sizes = []
        real = room.training_step

        def step(model, optimizer, x_BCHW, *rest):
            sizes.append(len(x_BCHW) // 2)
            if FIXED + EACH * sizes[-1] > free:
                raise torch.OutOfMemoryError
            return real(model, optimizer, x_BCHW, *rest)

        monkeypatch.setattr(room, "training_step", step)
        monkeypatch.setattr(room, "free_bytes", lambda train: free)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 + FIXED + EACH * sizes[-1])

    return make


def runs_out(network, train) -> str:
    with pytest.raises(UserError) as told, room.told_of_memory(network, train, RECIPE, 1280):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
    return str(told.value)


def test_the_batch_that_fits_is_estimated_and_named_as_such(gpu, network, train):
    gpu(free=2**30)
    line = runs_out(network, train)
    most = (0.9 * 2**30 - FIXED) / EACH
    assert f"an estimate, from steps of 8 and 16 pairs, is that {int(most) // 8 * 8} fits" in line
    assert line.startswith("datasets.yaml: batch_size: 1280 does not fit") and "1.0 GiB are free" in line
    assert len(line) < 300 and "\n" not in line


def test_where_nothing_fits_no_number_is_invented(gpu, network, train):
    gpu(free=FIXED + 12 * EACH)
    assert "too little for 16 pairs" in runs_out(network, train)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_the_measured_step_is_a_training_step(gpu, network, train, optimizer):
    gpu(free=2**30)
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    assert room.step_bytes(network, train, recipe, 50) == FIXED + EACH * 50  # more pairs than images


def test_other_errors_pass(network, train):
    with pytest.raises(ZeroDivisionError), room.told_of_memory(network, train, RECIPE, 8):
        raise ZeroDivisionError
