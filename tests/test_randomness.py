"""Every draw is a function of the seed and its purpose, and of nothing that was drawn before."""

import numpy as np
import pytest
import torch

from headstart.randomness import derived_seed, generator, global_seed, numpy_generator


def test_seeds_are_the_same_on_every_machine_and_for_ever():
    assert derived_seed(0, "step", 17) == 2767998507174764371  # half of what `b2sum -l 64` gives for "0/step/17"
    assert derived_seed(0) == 4246866556266386882


def test_seeds_differ_with_seed_and_purpose():
    purposes = [(0,), (1,), (0, "step"), (0, "step", 1), (0, "step", 11), (0, "order", 1), (0, 1, "step"), (10, "step")]
    seeds = {derived_seed(*purpose) for purpose in purposes}
    assert len(seeds) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    many = {derived_seed(seed, "step", step) for seed in range(20) for step in range(500)}
    assert len(many) == 10_000


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, *purpose: torch.rand(5, generator=generator(seed, *purpose)).tolist(),
        lambda seed, *purpose: numpy_generator(seed, *purpose).random(5).tolist(),
    ],
    ids=["torch", "numpy"],
)
def test_generators_repeat_for_their_purpose_alone(draw):
    first = draw(3, "step", 1)
    torch.rand(7)
    np.random.default_rng().random(7)
    assert draw(3, "step", 1) == first
    assert first not in (draw(3, "step", 2), draw(4, "step", 1), draw(3, "order", 1))


def test_steps_are_uncorrelated():
    draws = torch.stack([torch.rand(1000, generator=generator(0, "step", step)) for step in range(20)])
    assert (torch.corrcoef(draws) - torch.eye(20)).abs().max() < 0.15


def test_global_seed_holds_inside_the_block_and_leaves_no_trace():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with global_seed(0, "projector"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with global_seed(0, "projector"):
        assert torch.equal(torch.rand(3), inside)
    with global_seed(0, "backbone"):
        assert not torch.equal(torch.rand(3), inside)


def test_global_seed_restores_after_an_error():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), global_seed(0):
        torch.rand(1 // 0)
    assert torch.equal(torch.random.get_rng_state(), before)
