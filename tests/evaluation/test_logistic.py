"""The regularisation path against scikit-learn at a tight tolerance: many rows, few, two classes, correlated."""

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headstart.evaluation import logistic
from headstart.evaluation.logistic import regularisation_path

CPU = torch.device("cpu")
STRENGTHS = (0.001, 0.1, 10.0)


@pytest.fixture(params=["scipy", "own", "at once"])
def solver(request, monkeypatch):
    """scipy's L-BFGS; the one for many weights; that one at all strengths together, as an accelerator does it."""
    if request.param != "scipy":
        monkeypatch.setattr(logistic, "MANY", 0)
    monkeypatch.setattr(logistic, "_at_once", lambda device: request.param == "at once")


def correlated(num: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised, rectified, strongly correlated features, as backbones make them."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(classes, size=num - classes)])
    latent = random.normal(size=(classes, 6))[labels] + random.normal(size=(num, 6))
    values = np.maximum(latent @ random.normal(size=(6, width)) + 0.1 * random.normal(size=(num, width)), 0)
    scale = values.std(0)
    return (values - values.mean(0)) / np.where(scale > 0, scale, 1), labels


def objective(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float) -> float:
    logits = torch.from_numpy(x @ weight.T + bias)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum").item()
    penalised = weight[1:] - weight[:1] if len(weight) == 2 else weight
    return strength * loss + (penalised**2).sum() / 2


@pytest.mark.parametrize(
    ("num", "width", "classes"), [(300, 20, 2), (300, 40, 5), (25, 60, 4), (12, 30, 2), (200, 1, 3)]
)
def test_each_strength_meets_scikit_learns_minimum(solver, num, width, classes):
    x, y = correlated(num, width, classes)
    for strength, weight, bias in regularisation_path(x, y, STRENGTHS, CPU):
        oracle = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(x, y)
        coef, intercept = oracle.coef_, oracle.intercept_
        if classes == 2:
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        least = objective(coef, intercept, x, y, strength)
        assert objective(weight, bias, x, y, strength) == pytest.approx(least, rel=2e-5)
        ours, theirs = x @ weight.T + bias, oracle.decision_function(x)
        if classes == 2:
            np.testing.assert_allclose(ours[:, 1] - ours[:, 0], theirs, atol=0.05 * np.abs(theirs).max())
        else:
            apart = (ours - ours.mean(1, keepdims=True)) - (theirs - theirs.mean(1, keepdims=True))
            assert np.abs(apart).max() < 0.05 * np.abs(theirs).max()


def test_strengths_come_ascending_and_features_need_no_centring(solver):
    """Moving the features moves the bias alone."""
    x, y = correlated(200, 10, 3)
    path = list(regularisation_path(x, y, (1.0, 0.01), CPU))
    assert [strength for strength, _, _ in path] == [0.01, 1.0]
    moved = list(regularisation_path(x + 3.0, y, (1.0, 0.01), CPU))
    for (_, weight, bias), (_, other, other_bias) in zip(path, moved, strict=True):
        np.testing.assert_allclose(other, weight, atol=2e-3)
        np.testing.assert_allclose(other_bias, bias - 3.0 * weight.sum(1), atol=2e-2)


def test_constant_features_get_no_weight(solver):
    x, y = correlated(100, 8, 3)
    x = np.concatenate([x, np.zeros((100, 2))], 1)
    for _, weight, _ in regularisation_path(x, y, STRENGTHS, CPU):
        assert np.abs(weight[:, 8:]).max() < 1e-6
        assert np.isfinite(weight).all()


def test_one_class_alone_costs_nothing(solver):
    ((_, weight, bias),) = regularisation_path(
        np.random.default_rng(0).normal(size=(5, 3)), np.zeros(5, int), [1.0], CPU
    )
    assert (weight == 0).all()
    assert bias.shape == (1,)


def test_again_gives_the_same_bits(solver):
    x, y = correlated(300, 30, 4)
    first, second = (list(regularisation_path(x, y, STRENGTHS, CPU)) for _ in range(2))
    for (_, weight, bias), (_, other, other_bias) in zip(first, second, strict=True):
        assert (weight == other).all()
        assert (bias == other_bias).all()


def test_many_classes_of_one_image_end_soon():
    """600 x 512: scipy's own bookkeeping took most of the time. Two strengths; 7 s for five on a busy core."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(600, 512)), np.arange(600)
    begun = time.perf_counter()
    path = list(regularisation_path(x, y, (1e-4, 0.01), CPU))
    assert time.perf_counter() - begun < 30
    assert all((np.argmax(x @ weight.T + bias, 1) == y).all() for _, weight, bias in path)
