"""L-BFGS (Nocedal 1980) of several smooth convex problems at once, their vectors side by side on one device.

Beside scipy's, which keeps bounds that nobody asked for: on 300,000 variables it works four times as long on these as
on a problem's value, and on a GPU it would bring every point to the host.
"""

from collections.abc import Callable

import torch
from torch import Tensor

HISTORY = 10
ENOUGH = 1e-4  # of the decrease that the slope promises (Armijo)
NOISE = 1e-7  # of a value, relative: sums of float32
MOST_HALVINGS = 20

# (points (A, V), which of the P problems they are of (A,)) -> values (A,), gradients (A, V), which are done (A,) bool
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def minimise(objective: Objective, start_PV: Tensor, max_iterations: int) -> Tensor:
    """Return points (P, V) at which `objective` says that they are done, or that no step makes smaller.

    Problems that are done are evaluated no more. Steps of length 1 come first: the problems' curvature is to be about
    at most 1.
    """
    found, which, x = start_PV.clone(), torch.arange(len(start_PV), device=start_PV.device), start_PV
    value, gradient, done = objective(x, which)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, changes of the gradient, 1 / their product; or 0
    scale = torch.ones_like(value)
    for _ in range(max_iterations):
        if done.any():
            found[which[done]] = x[done]
            on = ~done
            which, x, value, gradient, scale = which[on], x[on], value[on], gradient[on], scale[on]
            memory = [(step[on], change[on], inverse[on]) for step, change, inverse in memory]
        if not len(which):
            break
        direction = -_approximate_newton(gradient, memory, scale)
        step, new_value, new_gradient, done = _search(objective, which, x, value, gradient, direction)
        change = new_gradient - gradient
        product, square = _dot(step, change), _dot(change, change)
        usable = product > 1e-10 * square
        scale = torch.where(usable, product / square, scale)
        memory = [*memory, (step, change, torch.where(usable, 1 / product, 0.0))][-HISTORY:]
        x, value, gradient = x + step, new_value, new_gradient
    found[which] = x
    return found


def _approximate_newton(gradient: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The two loops of L-BFGS: the inverse Hessian, as far as steps have shown it, times the gradient."""
    result, weights = gradient.clone(), []
    for step, change, inverse in reversed(memory):
        weights.append(inverse * _dot(step, result))
        result.addcmul_(change, weights[-1][:, None].to(result.dtype), value=-1)
    result *= scale[:, None].to(result.dtype)
    for step, change, inverse in memory:
        result.addcmul_(step, (weights.pop() - inverse * _dot(change, result))[:, None].to(result.dtype))
    return result


def _search(
    objective: Objective, which: Tensor, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the step, and value, gradient and whether done behind it; of length 0, and done, where none helps."""
    slope, length = _dot(gradient, direction), torch.ones_like(value)
    for _ in range(MOST_HALVINGS):
        step = length[:, None].to(x.dtype) * direction
        new_value, new_gradient, done = objective(x + step, which)
        good = new_value <= value + ENOUGH * length * slope + NOISE * value.abs()
        if good.all():
            return step, new_value, new_gradient, done
        length = torch.where(good, length, length / 2)
    stay = good[:, None]
    zero = torch.zeros_like(step)
    return torch.where(stay, step, zero), new_value, torch.where(stay, new_gradient, gradient), done | ~good


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Products of rows; rounded as the vectors are, kept in float64."""
    return torch.bmm(first[:, None], second[..., None]).flatten().double()
