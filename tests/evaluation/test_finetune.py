"""Fine-tuning on digits: it learns, repeats, and leaves the backbone alone."""

import copy

import pytest
import torch
from torch import nn

from headstart.data.arrays import Standardize
from headstart.evaluation import finetune as module
from headstart.evaluation.finetune import finetune
from headstart.randomness import generator, global_seed


@pytest.fixture(scope="module")
def backbone():
    with global_seed(0, "small network"):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )


@pytest.fixture
def tuned(backbone, split_of, views_of, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 32)
    views = views_of(rotate=10.0, jitter=1.0, brightness=0.9)
    settings = {"num_features": 256, "num_classes": 10, "epochs": 3, "seed": 0}
    train, test = split_of(0, 300), split_of(300, 500)
    statistics = Standardize((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
    return lambda **changes: finetune(backbone, train, test, views, 8, statistics, **(settings | changes))


def test_it_learns_with_every_epoch_and_repeats(tuned):
    epochs = []
    top1 = tuned(on_epoch=lambda: epochs.append(1))
    assert top1 > 0.8 and len(epochs) == 3
    assert tuned() == top1
    assert tuned(epochs=1) < top1


def test_backbone_and_global_draws_are_left_alone(tuned, backbone):
    before = copy.deepcopy(backbone.state_dict())
    stream = torch.get_rng_state()
    tuned(epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_one_step_is_plain_gradient_descent(backbone, split_of, views_of):
    """A split of fewer than 256 images is one batch: one Nesterov step of rate 0.05 * 40 / 256, a head of zeros."""
    train = split_of(0, 40)
    top1 = finetune(backbone, train, train, views_of(), 8, None, num_features=256, num_classes=10, epochs=1, seed=0)
    plain = copy.deepcopy(backbone).train()
    head = nn.Linear(256, 10)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    order = torch.randperm(40, generator=generator(0, "finetune", "order", 0))
    x_NCHW = train.images.permute(0, 3, 1, 2).float() / 255
    loss = nn.functional.cross_entropy(head(plain(x_NCHW[order])), train.labels[order])
    loss.backward()
    with torch.no_grad():
        for parameter in (*plain.parameters(), *head.parameters()):
            parameter -= 0.05 * 40 / 256 * 1.9 * parameter.grad  # Nesterov's first step: (1 + momentum) gradients
        predicted = head(plain.eval()(x_NCHW)).argmax(1)
    assert top1 == (predicted == train.labels).double().mean().item() > 0.2
