"""Scores without labels against their definitions, written out slowly in float64."""

import math

import numpy as np
import pytest
import torch

from headstart.evaluation.label_free import (
    DELTA,
    MANY,
    PAIR,
    RANKS,
    RBF,
    SCORES,
    alpha_req,
    label_free_scores,
    lidar,
    sns,
)
from headstart.study import metrics


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def entropy_rank(values: np.ndarray, added: float = 0.0) -> float:
    """exp of -sum p log p of the shares of values, written out."""
    total = sum(values)
    return math.exp(-sum((v / total + added) * math.log(v / total + added) for v in values if v / total + added > 0))


def stretched(number: int, width: int) -> torch.Tensor:
    """Features whose directions have very different spread, and whose mean is not zero."""
    return (normal(number, width) / torch.arange(1, width + 1) + 0.3).float()


def test_pair_scores_by_their_definition():
    z_ND = stretched(24, 5)
    first, second = (part.double().numpy() for part in z_ND.chunk(2))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second)]
    found = label_free_scores({PAIR: [z_ND]})
    own = [max(range(12), key=lambda j, a=a: a @ unit[1][j]) == i for i, a in enumerate(unit[0])]
    assert found["view_top1"] == pytest.approx(sum(own) / 12)
    assert found["alignment"] == pytest.approx(np.mean([sum((a - b) ** 2) for a, b in zip(*unit, strict=True)]))
    spread = [
        math.log(np.mean([math.exp(-2 * sum((x[i] - x[j]) ** 2)) for i in range(12) for j in range(12) if i != j]))
        for x in unit
    ]
    assert found["uniformity"] == pytest.approx(np.mean(spread), rel=1e-5)
    both = z_ND.double().numpy()
    assert found["rankme"] == pytest.approx(entropy_rank(np.linalg.svd(both)[1], 1e-7), rel=1e-6)
    centred = both - both.mean(0)
    assert found["effective_rank"] == pytest.approx(entropy_rank(np.linalg.svd(centred)[1]), rel=1e-6)


def test_alpha_req_is_the_weighted_slope_over_its_ranks():
    z_ND = stretched(300, 130)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(z_ND.double().numpy().T)))[::-1]
    ranks = range(RANKS[0], RANKS[1] + 1)
    rows = np.array([[-math.log(r), 1.0] for r in ranks]) * np.sqrt([[1 / r] for r in ranks])
    logs = np.array([math.log(eigenvalues[r - 1]) * math.sqrt(1 / r) for r in ranks])
    assert float(alpha_req(z_ND)) == pytest.approx(np.linalg.lstsq(rows, logs, rcond=None)[0][0], rel=1e-6)
    assert float(alpha_req(3 * z_ND + 1)) == pytest.approx(float(alpha_req(z_ND)), rel=1e-4), "of scale and mean free"


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_req_of_a_power_law_is_its_exponent(exponent):
    basis = torch.linalg.qr(normal(80, 41) - normal(80, 41).mean(0))[0][:, :40]  # columns orthonormal, and centred
    assert basis.mean(0).abs().max() < 1e-9
    z_ND = basis * torch.arange(1, 41).double() ** (-exponent / 2)
    assert float(alpha_req(z_ND)) == pytest.approx(exponent, rel=1e-6)
    few = torch.cat([z_ND[:, :3], torch.zeros(80, 9)], 1)  # collapsed: three eigenvalues, and none that is fitted
    assert math.isnan(float(alpha_req(few))) and "alpha_req" not in label_free_scores({PAIR: [few]})


def test_lidar_is_the_rank_of_the_lda_matrix():
    x_QND = normal(4, 9, 1, seed=1) * 0 + normal(1, 9, 6) * torch.arange(1, 7) + 0.5 * normal(4, 9, 6, seed=2)
    values = x_QND.numpy()
    means = values.mean(0)
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / (9 - 1)
    within = sum(np.outer(v - means[i], v - means[i]) for view in values for i, v in enumerate(view)) / (9 * (4 - 1))
    within += DELTA * np.eye(6)
    powers, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(powers**-0.5) @ vectors.T
    expected = entropy_rank(np.linalg.eigvalsh(root @ between @ root).clip(0))
    assert float(lidar(x_QND)) == pytest.approx(expected, rel=1e-9)
    turned = x_QND @ torch.linalg.qr(normal(6, 6, seed=3))[0] + 7
    assert float(lidar(turned)) == pytest.approx(expected, rel=1e-6), "the same after a rotation and a shift"


def test_lidar_counts_directions_that_tell_images_apart_and_not_noise_of_views():
    told = torch.zeros(1, 200, 16).double()
    told[..., :4] = normal(1, 200, 4)
    noise = torch.zeros(10, 200, 16).double()
    noise[..., 4:] = normal(10, 200, 12)  # large, but different in each view of an image
    x_QND = told + noise + 1e-3 * normal(10, 200, 16, seed=5)
    assert float(lidar(x_QND)) == pytest.approx(4, rel=0.05)
    pair = label_free_scores({PAIR: [torch.cat([x_QND[0], x_QND[1]])]})
    assert pair["rankme"] > 14, "which RankMe does not see"


def test_sns_by_its_definition():
    centres, widths = normal(7, 3), normal(7, seed=4).abs() + 0.2
    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                apart = math.sqrt(sum(float(centres[i, k] - centres[j, k]) ** 2 for k in range(3)))
                x = apart / (math.sqrt(float(widths[i]) ** 2 + float(widths[j]) ** 2) * math.sqrt(3))
                total += x**2 * math.exp(-(x**2))
    assert float(sns(centres, widths)) == pytest.approx(total / 42, rel=1e-9)
    assert float(sns(5 * centres + 2, 5 * widths)) == pytest.approx(total / 42, rel=1e-9), "of scale and place free"
    assert float(sns(torch.zeros(4, 3), torch.ones(4))) == 0, "equal centres"
    best = torch.eye(4) * math.sqrt(4)  # |c_i - c_j|^2 = 8 = 2 s^2 D: x = 1 for every pair
    assert float(sns(best, torch.ones(4))) == pytest.approx(1 / math.e)
    assert math.isnan(float(sns(torch.zeros(1, 3), torch.ones(1))))


def test_the_extremes():
    first = torch.eye(6, 8)
    found = label_free_scores({PAIR: [torch.cat([first, first * 3])]})  # each view lies in its own's direction
    assert found["view_top1"] == 1 and found["alignment"] == pytest.approx(0, abs=1e-6)
    assert found["rankme"] == pytest.approx(6, rel=1e-4)
    # all pairs at distance sqrt(2): log exp(-2 * 2)
    assert found["uniformity"] == pytest.approx(-4, rel=1e-5)
    turned = label_free_scores({PAIR: [torch.cat([first, first.roll(1, 0)])]})
    assert turned["view_top1"] == 0 and turned["alignment"] == pytest.approx(2)
    collapsed = label_free_scores({PAIR: [torch.ones(12, 8)], MANY: [torch.ones(3, 4, 8)]})
    assert collapsed["view_top1"] == pytest.approx(1 / 6) and collapsed["rankme"] == pytest.approx(1, rel=1e-3)
    assert collapsed["uniformity"] == pytest.approx(0, abs=1e-6)


def test_what_is_not_finite_is_left_out_and_what_is_not_given_not_computed():
    lost = torch.full((12, 8), torch.nan)
    assert set(label_free_scores({PAIR: [lost], MANY: [lost.reshape(3, 4, 8)]})) == {"view_top1"}
    assert set(label_free_scores({RBF: [normal(4, 3), torch.ones(4)]})) == {"sns"}
    assert label_free_scores({}) == {}


def test_every_score_has_a_metric_a_column_and_a_direction():
    keys = {metric.key for metric in metrics.LABEL_FREE.values()}
    outputs = {f"{name}_output" for name, score in SCORES.items() if score.needs != RBF}
    assert keys == {*SCORES, *outputs, "val_loss"}
    assert {metric.better for metric in metrics.LABEL_FREE.values()} == set(metrics.BETTER)
