"""SGD, LARS and AdamW against slow oracles of their papers; which parameters LARS leaves alone."""

import copy
import math

import pytest
import torch
from torch import nn

from headstart.randomness import generator, global_seed
from headstart.replay import rated, restore_optimizer
from headstart.training.optimizers import LARS, OPTIMIZERS, TRUST, build_optimizer

RATES = [0.5, 0.2, 0.7, 0.05]  # a rate that changes tells momentum that holds the rate from momentum that does not


def network() -> nn.Sequential:
    with global_seed(0, "network"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    return model.double().to(memory_format=torch.channels_last)


@torch.no_grad()
def gradients(model: nn.Module, step: int) -> list[torch.Tensor]:
    """One per parameter, laid out as it is, as autograd does: fused kernels rely on that."""
    return [
        torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator(step, number)))
        for number, parameter in enumerate(model.parameters())
    ]


def stepped(name: str, momentum: float, decay: float) -> nn.Module:
    model = network()
    optimizer = build_optimizer(name, model, momentum, decay)
    for step, rate in enumerate(RATES):
        for parameter, grad in zip(model.parameters(), gradients(model, step), strict=True):
            parameter.grad = grad
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return model


def lars_by_hand(momentum: float, decay: float) -> list[list[float]]:
    """You et al. 2017, algorithm 1, number by number; biases and norms by the same rule with rate 1 and no decay."""
    model = network()
    weights = [parameter.detach().flatten().tolist() for parameter in model.parameters()]
    plain = [parameter.ndim == 1 for parameter in model.parameters()]
    velocities = [[0.0] * len(weight) for weight in weights]
    for step, rate in enumerate(RATES):
        for number, grad in enumerate(gradients(model, step)):
            w, g, v = weights[number], grad.flatten().tolist(), velocities[number]
            beta = 0.0 if plain[number] else decay
            norm_w, norm_g = math.sqrt(sum(x * x for x in w)), math.sqrt(sum(x * x for x in g))
            local = 1.0 if plain[number] else TRUST * norm_w / (norm_g + beta * norm_w)
            for i in range(len(w)):
                v[i] = momentum * v[i] + rate * local * (g[i] + beta * w[i])
                w[i] = w[i] - v[i]
    return weights


def flat(model: nn.Module) -> list[list[float]]:
    return [parameter.detach().flatten().tolist() for parameter in model.parameters()]


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 1e-2), (0.0, 0.0), (0.5, 0.3)])
def test_lars_is_its_papers_algorithm(momentum, decay):
    for ours, theirs in zip(flat(stepped("lars", momentum, decay)), lars_by_hand(momentum, decay), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-14)


def test_lars_leaves_biases_and_norms_to_sgd_without_decay():
    """One rate throughout: then SGD's momentum, which does not hold the rate, is the same."""
    model = network()
    optimizer = build_optimizer("lars", model, 0.9, 0.1)
    assert [group["trust"] for group in optimizer.param_groups] == [TRUST, None]
    plain = copy.deepcopy(model)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for step in range(3):
        for ours, theirs, grad in zip(model.parameters(), plain.parameters(), gradients(model, step), strict=True):
            ours.grad, theirs.grad = grad.clone(), grad.clone()
        optimizer.step()
        sgd.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs) == (ours.ndim == 1)


def test_lars_step_is_the_weights_share_whatever_the_gradients_scale():
    """What it is for: without decay and momentum a step has the norm rate * TRUST * |w|."""
    for scale in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.randn(20, 30, generator=generator(0), dtype=torch.float64))
        before = weight.detach().clone()
        weight.grad = scale * torch.randn(20, 30, generator=generator(1), dtype=torch.float64)
        LARS([{"params": [weight], "weight_decay": 0.0, "trust": TRUST}], momentum=0.0, lr=2.0).step()
        assert (weight - before).norm().item() == pytest.approx(2 * TRUST * before.norm().item(), rel=1e-9)


def test_lars_takes_a_plain_step_where_a_norm_is_zero():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.full((2, 2), 0.5), torch.zeros(2, 2)
    LARS([{"params": [zero, still], "weight_decay": 0.0, "trust": TRUST}], momentum=0.9, lr=1.0).step()
    assert torch.equal(zero, torch.full((2, 2), -0.5))
    assert torch.equal(still, torch.ones(2, 2))


@pytest.mark.parametrize(("name", "theirs"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_others_are_torchs(name, theirs):
    settings = {"momentum": 0.8} if name == "sgd" else {"betas": (0.8, 0.999)}
    model = network()
    optimizer = theirs(model.parameters(), weight_decay=0.1, foreach=False, fused=False, **settings)
    for step, rate in enumerate(RATES):
        for parameter, grad in zip(model.parameters(), gradients(model, step), strict=True):
            parameter.grad = grad
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for ours, expected in zip(flat(stepped(name, 0.8, 0.1)), flat(model), strict=True):
        assert ours == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_and_those_without_gradients_stay(name):
    model = network()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(name, model, 0.9, 0.1)
    model[4].bias.grad = torch.ones(5, dtype=torch.float64)
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"4.bias"}


# ---- rates apart -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_apart_step_at_a_multiple_of_the_rate(name):
    """The same as an optimiser for each part, whose rate is the product; one group as long as no rate differs."""
    together, separate = network(), network()
    optimizer = build_optimizer(
        name, together, 0.9, 0.1, [([together[0].bias], 1.0), ([*together[4].parameters()], 0.1)]
    )
    parts = {1.0: separate[:4], 0.1: separate[4:]}
    others = {scale: build_optimizer(name, part, 0.9, 0.1) for scale, part in parts.items()}
    for step, rate in enumerate(RATES):
        for model in (together, separate):
            for parameter, grad in zip(model.parameters(), gradients(model, step), strict=True):
                parameter.grad = grad
        with rated(optimizer, torch.tensor(rate, dtype=torch.float64) if step % 2 else rate):
            optimizer.step()
        for scale, other in others.items():
            with rated(other, rate * scale):
                other.step()
    for ours, theirs in zip(flat(together), flat(separate), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0] * (4 if name == "lars" else 2)
    plain = build_optimizer(name, network(), 0.9, 0.1)
    assert not any("scale" in group for group in plain.param_groups)
    assert len(plain.param_groups) == (2 if name == "lars" else 1)


def test_a_state_keeps_the_multiples():
    model = network()
    optimizer = build_optimizer("sgd", model, 0.9, 0.1, [([*model[4].parameters()], 0.1)])
    twin = network()
    other = build_optimizer("sgd", twin, 0.9, 0.1, [([*twin[4].parameters()], 0.1)])
    restore_optimizer(other, copy.deepcopy(optimizer.state_dict()))
    assert [group.get("scale") for group in other.param_groups] == [None, 0.1]
