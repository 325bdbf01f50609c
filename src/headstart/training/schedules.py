"""Learning rates as pure functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Shape = Callable[[float, float], float]


def _cosine(progress: float, final: float) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _constant(progress: float, final: float) -> float:
    return 1.0


@dataclass(frozen=True)
class Schedule:
    """A shape over the run; `per_epoch`: held constant within an epoch, as the paper's scheduler steps."""

    shape: Shape
    per_epoch: bool


SCHEDULES = {
    "cosine": Schedule(_cosine, per_epoch=False),
    "cosine_per_epoch": Schedule(_cosine, per_epoch=True),
    "constant": Schedule(_constant, per_epoch=False),
}


def learning_rate(
    step: int, *, peak: float, steps_per_epoch: int, epochs: int, schedule: str, warmup_epochs: float, final: float
) -> float:
    """Return the learning rate of `step` (from 0): linear warm-up to `peak`, then the schedule down to `final` * peak.

    With `cosine_per_epoch` and no warm-up this is torch's CosineAnnealingLR(T_max=epochs, eta_min=final * peak) stepped
    once per epoch; with `cosine`, T_max counts steps.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    chosen = SCHEDULES[schedule]
    total = epochs * steps_per_epoch
    if chosen.per_epoch:
        step = step // steps_per_epoch * steps_per_epoch
    progress = max(step - warmup, 0) / max(total - warmup, 1)
    return peak * chosen.shape(progress, final)
