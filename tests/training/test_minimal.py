"""examples/minimal.py, which people read first, is the method: its loss, its step and its layer against ours."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from headstart.models.autoencoder import build_autoencoder
from headstart.models.projector import Projector, build_projector
from headstart.training.contrastive import Network, training_step
from headstart.training.losses import nt_xent
from headstart.training.optimizers import build_optimizer
from tests.checkouts import ROOT
from tests.training.test_contrastive import recipe

FILE = ROOT / "examples" / "minimal.py"


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_loss_is_ours(minimal):
    z_ND = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(minimal.nt_xent(z_ND, 0.3), nt_xent(z_ND, 0.3), atol=1e-12, rtol=0)


def test_its_steps_are_ours(minimal):
    """Three steps in float64, with momentum and a frozen first layer."""
    head = Projector(init="random", freeze=True, hidden_dim=6, out_dim=4, activation="relu")
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        networks.append(Network(backbone, build_projector(head, 8, seed=0)).double())
    settings = recipe(temperature=minimal.TEMPERATURE)
    ours = build_optimizer("sgd", networks[0], 0.9, 1e-4)
    theirs = torch.optim.SGD(
        [p for p in networks[1].parameters() if p.requires_grad], lr=0.2, momentum=0.9, weight_decay=1e-4
    )
    for step in range(3):
        x_BCHW = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        loss = training_step(networks[0], ours, x_BCHW, 0.2, settings)
        assert minimal.simclr_step(networks[1], theirs, x_BCHW) == pytest.approx(loss.item(), abs=1e-12)
    for (name, value), other in zip(networks[0].state_dict().items(), networks[1].state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-10, rtol=1e-9, msg=name)


def test_its_autoencoder_has_our_layers(minimal):
    images = torch.rand(8, 3 * 8 * 8)
    plain = minimal.pretrain_autoencoder(images, epochs=1)
    ours = build_autoencoder("mlp", 8, minimal.FEATURES, minimal.HIDDEN, seed=0)
    shapes = [tuple(module.weight.shape) for module in plain if isinstance(module, nn.Linear)]
    assert shapes == [tuple(module.weight.shape) for module in ours.modules() if isinstance(module, nn.Linear)]
    embedding = plain[2]
    assert (embedding.in_features, embedding.out_features) == (minimal.FEATURES, minimal.HIDDEN)


def test_it_is_short_and_stands_alone():
    text = FILE.read_text()
    assert 60 <= len(text.splitlines()) <= 80 and "headstart" not in text.partition('"""\n\n')[2]


@pytest.mark.slow
def test_it_runs(tmp_path):
    done = subprocess.run([sys.executable, FILE], cwd=tmp_path, capture_output=True, text=True, check=True)
    scores = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines() if "linear probe" in line]
    assert len(scores) == 2 and min(scores) > 0.7
