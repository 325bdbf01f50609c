"""Learning rates against torch's schedulers and closed forms."""

import itertools
import math

import pytest
import torch

from headstart.training.schedules import SCHEDULES, learning_rate

PEAK, STEPS, EPOCHS = 1.5, 7, 12


def rates(schedule: str, warmup_epochs: float = 0, final: float = 0.02, epochs: int = EPOCHS) -> list[float]:
    return [
        learning_rate(
            step,
            peak=PEAK,
            steps_per_epoch=STEPS,
            epochs=epochs,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            final=final,
        )
        for step in range(epochs * STEPS)
    ]


def annealed(length: int, final: float) -> list[float]:
    """torch's CosineAnnealingLR, `length` steps of it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=length, eta_min=final * PEAK)
    seen = []
    for _ in range(length):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("final", [0.0, 0.02, 0.5, 1.0])
def test_cosine_per_epoch_is_torchs_scheduler_stepped_per_epoch(final):
    expected = [rate for rate in annealed(EPOCHS, final) for _ in range(STEPS)]
    assert rates("cosine_per_epoch", final=final) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("final", [0.0, 0.02])
def test_cosine_is_torchs_scheduler_stepped_per_step(final):
    assert rates("cosine", final=final) == pytest.approx(annealed(EPOCHS * STEPS, final), abs=1e-12)


def test_the_papers_rates():
    """0.3 * 1280 / 256 down to its fiftieth over 150 epochs; section 4 of arXiv:2408.14514."""
    seen = rates("cosine_per_epoch", epochs=150)
    assert seen[0] == 1.5
    assert seen[75 * STEPS] == pytest.approx((1.5 + 0.03) / 2)
    assert seen[-1] == pytest.approx(0.03 + 1.47 * (1 + math.cos(math.pi * 149 / 150)) / 2)


def test_constant_stays_at_the_peak():
    assert set(rates("constant")) == {PEAK}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_epochs", [1, 3, 2.5])
def test_warmup_rises_evenly_into_the_peak(schedule, warmup_epochs):
    seen = rates(schedule, warmup_epochs)
    num = round(warmup_epochs * STEPS)
    rise = PEAK / (num + 1)
    assert seen[0] == pytest.approx(rise)
    assert [later - sooner for sooner, later in itertools.pairwise(seen[: num + 1])] == pytest.approx([rise] * num)
    assert seen[num] == pytest.approx(PEAK)
    assert all(later <= sooner for sooner, later in itertools.pairwise(seen[num:]))


@pytest.mark.parametrize("warmup_epochs", [0, 3, 2.5])
def test_rate_per_epoch_changes_only_between_epochs(warmup_epochs):
    seen = rates("cosine_per_epoch", warmup_epochs)
    first = math.ceil(warmup_epochs)
    epochs = [set(seen[epoch * STEPS : (epoch + 1) * STEPS]) for epoch in range(first, EPOCHS)]
    assert all(len(epoch) == 1 for epoch in epochs)
    assert len(set.union(*epochs)) == len(epochs)


def test_cosine_after_warmup_fills_the_rest_of_the_run():
    seen = rates("cosine", warmup_epochs=2)
    rest = (EPOCHS - 2) * STEPS
    assert seen[2 * STEPS :] == pytest.approx(annealed(rest, 0.02), abs=1e-12)


def test_warmup_longer_than_the_run_only_rises():
    seen = rates("cosine", warmup_epochs=20)
    assert all(sooner < later < PEAK for sooner, later in itertools.pairwise(seen))
