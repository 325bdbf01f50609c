"""The optimisers of SimCLR; the learning rate of each step comes from outside: see replay.rated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headstart.replay import on_cuda

# Parameters in groups, {"params": ..}, and {"scale": ..} where their rate is that many times the scheduled one
Groups = list[dict[str, Any]]
Build = Callable[[Groups, float, float], torch.optim.Optimizer]

TRUST = 0.001  # LARS' trust coefficient (You et al. 2017, section 5; SimCLR's code)


def _sgd(groups: Groups, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum, as the paper trains; decay on all parameters."""
    return torch.optim.SGD(groups, lr=1.0, momentum=momentum, weight_decay=weight_decay, fused=True)


def _adamw(groups: Groups, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019): momentum is beta 1, beta 2 is 0.999; decoupled decay on all parameters."""
    return torch.optim.AdamW(
        groups,
        lr=1.0,
        betas=(momentum, 0.999),
        weight_decay=weight_decay,
        fused=True,
        capturable=any(on_cuda(group["params"]) for group in groups),
    )


def _lars(groups: Groups, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """LARS, biases and norms left to plain SGD without decay, as SimCLR does (Chen et al. 2020, appendix B.7)."""
    split: Groups = []
    for group in groups:
        matrices = [parameter for parameter in group["params"] if parameter.ndim > 1]
        vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
        split.append(group | {"params": matrices, "weight_decay": weight_decay, "trust": TRUST})
        split.append(group | {"params": vectors, "weight_decay": 0.0, "trust": None})
    return LARS([group for group in split if group["params"]], momentum)


OPTIMIZERS: dict[str, Build] = {"sgd": _sgd, "lars": _lars, "adamw": _adamw}


def build_optimizer(
    name: str,
    model: nn.Module,
    momentum: float,
    weight_decay: float,
    apart: Sequence[tuple[Sequence[nn.Parameter], float]] = (),
) -> torch.optim.Optimizer:
    """Return optimiser `name` (a key of OPTIMIZERS) of the model's trainable parameters, its learning rate still 1.

    apart: parameters whose rate is another one, with the number of times that it is the scheduled one; see
    replay.rated.
    """
    scales = {parameter: scale for parameters, scale in apart for parameter in parameters}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(scales.get(parameter, 1.0), []).append(parameter)
    rated = [{"params": own} | ({} if scale == 1 else {"scale": scale}) for scale, own in groups.items() if own]
    return OPTIMIZERS[name](rated, momentum, weight_decay)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1).

    Per weight tensor w with gradient g, momentum m, decay b and trust coefficient t: the local rate is
    t |w| / (|g| + b |w|), 1 where |w| or |g| is 0; v <- m v + rate * local * (g + b w); w <- w - v. A group whose
    `trust` is None has the local rate 1.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, lr: float = 1.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, without waiting for the device."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            grads, decay = [weight.grad for weight in weights], group["weight_decay"]
            velocities = [self._velocity(weight) for weight in weights]
            updates = torch._foreach_add(grads, weights, alpha=decay)
            if group["trust"] is not None:
                torch._foreach_mul_(updates, local_rates(weights, grads, decay, group["trust"]))
            torch._foreach_mul_(velocities, group["momentum"])
            if isinstance(group["lr"], Tensor):  # as `alpha` it would be read on the host
                torch._foreach_mul_(updates, group["lr"])
                torch._foreach_add_(velocities, updates)
            else:
                torch._foreach_add_(velocities, updates, alpha=group["lr"])
            torch._foreach_sub_(weights, velocities)

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        return state["velocity"]


def local_rates(weights: list[Tensor], grads: list[Tensor], decay: float, trust: float) -> list[Tensor]:
    """Return LARS' local rate of each tensor, 0-d each."""
    w_norms, g_norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, grads))
    rates = trust * w_norms / (g_norms + decay * w_norms)
    return list(torch.where((w_norms > 0) & (g_norms > 0), rates, 1.0).unbind())
