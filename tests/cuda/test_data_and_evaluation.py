"""Views, autoencoder, fine-tuning, features and probes on the device against the CPU."""

import numpy as np
import pytest
import torch

from headstart.data import device_views
from headstart.data.arrays import Standardize
from headstart.data.device_views import fixed_shape_views
from headstart.data.views import draw
from headstart.evaluation.features import extract_features
from headstart.evaluation.finetune import finetune
from headstart.evaluation.logistic import regularisation_path
from headstart.evaluation.neighbours import nearest_neighbours
from headstart.models.autoencoder import build_autoencoder
from headstart.randomness import generator
from headstart.training.reconstruction import Reconstruction, train_autoencoder
from tests.cuda.test_step import STATISTICS, VIEWS
from tests.evaluation.test_logistic import correlated, objective
from tests.training.test_contrastive import small_network

pytestmark = pytest.mark.filterwarnings("default")
CPU = torch.device("cpu")


@pytest.mark.parametrize("rotate", [0.0, 15.0])
@pytest.mark.parametrize(("stored", "size"), [(8, 8), (32, 32), (56, 28), (192, 96), (256, 128)])
def test_views_are_the_cpus(device, views_of, stored, size, rotate):
    views = views_of(**(VIEWS | {"rotate": rotate}))
    images = torch.randint(0, 256, (24, stored, stored, 3), dtype=torch.uint8, generator=generator(0, "pixels"))
    drawn = draw(views, torch.full((24, 2), stored), generator(0, "views"))
    standardize = Standardize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    exact = fixed_shape_views(images, drawn, views, size, standardize)
    there = drawn.to(device)
    ours = fixed_shape_views(images.to(device), there, views, size, standardize)
    assert ours.device.type == device.type and ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.cpu(), exact, atol=2e-4, rtol=0)
    half = fixed_shape_views(images.to(device), there, views, size, None, torch.bfloat16)
    plain = fixed_shape_views(images, drawn, views, size, None)
    rounding = (plain - plain.bfloat16().float()).abs()
    assert ((half.float().cpu() - plain).abs() - rounding).max() < 1 / 255


def test_tritons_kernels_run(device, kernels, real):
    """Not torch's in their place, which are right, and slow."""
    assert kernels is not None, "see the warning on stderr"
    assert device_views._kernels("cpu") is None


@pytest.mark.parametrize("arch", ["mlp", "denoising", "conv"])
def test_a_recorded_autoencoder_equals_one_kernel_by_kernel(device, recorded, split_of, arch, capsys):
    recipe = Reconstruction(epochs=6, batch_size=16, learning_rate=1e-2, factor=0.1, patience=0)
    curves = []
    for wanted in (True, False):
        recorded(wanted)
        model = build_autoencoder(arch, 8, 16, 8, seed=0).to(device)
        train, val = split_of(0, 70).to(device), split_of(70, 90).to(device)
        curves.append(train_autoencoder(model, train, val, recipe, image_size=8, seed=0))
    for ours, theirs in zip(*curves, strict=True):
        assert ours.val_mse == pytest.approx(theirs.val_mse, rel=1e-3)
    assert "no CUDA graph" not in capsys.readouterr().err


def test_recorded_fine_tuning_and_features_equal_plain_ones(device, recorded, split_of, views_of, capsys):
    found = []
    for wanted in (True, False):
        recorded(wanted)
        settings = {"num_features": 8, "num_classes": 10, "epochs": 8, "seed": 0}
        views, train, test = views_of(rotate=10.0), split_of(0, 270).to(device), split_of(270, 400).to(device)
        tuned = finetune(small_network().to(device), train, test, views, 8, STATISTICS, **settings)
        found.append((tuned, extract_features(small_network().to(device), train, 8, STATISTICS, batch_size=32)))
    assert found[0][0] == pytest.approx(found[1][0], abs=0.02)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)
    plain = extract_features(small_network(), split_of(0, 270), 8, STATISTICS)
    np.testing.assert_allclose(found[0][1], plain, atol=1e-5)
    assert "no CUDA graph" not in capsys.readouterr().err


def test_probes_reach_the_cpus_objective(device):
    """2,000 x 200, five classes: large enough for the device."""
    x, y = correlated(2000, 200, 5)
    strengths = (0.001, 0.1, 10.0)
    ours, theirs = (list(regularisation_path(x, y, strengths, where)) for where in (device, CPU))
    for (strength, weight, bias), (_, other, other_bias) in zip(ours, theirs, strict=True):
        least = objective(other, other_bias, x, y, strength)
        assert objective(weight, bias, x, y, strength) == pytest.approx(least, rel=5e-5)


def test_neighbours_are_the_cpus(device):
    random = np.random.default_rng(0)
    train, test = (random.normal(size=(num, 16)).astype(np.float32) for num in (500, 100))
    labels = random.integers(5, size=500)
    ours, theirs = (nearest_neighbours(train, labels, test, 5, device=where) for where in (device, CPU))
    for k in ours:
        assert (ours[k] == theirs[k]).mean() > 0.98
