"""Statistics against scipy, statsmodels, full enumeration or their definition."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from headstart.study import statistics

RANDOM = np.random.default_rng(3)
VALUES = RANDOM.normal(0.5, 2.0, 60)
CLUSTERS = np.repeat(np.arange(12), 5)


def test_the_plain_bootstrap_is_scipys():
    ours = statistics.bootstrap_interval(VALUES)
    theirs = scipy.stats.bootstrap(
        (VALUES,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert ours == statistics.bootstrap_interval(VALUES)


def test_a_clustered_draw_takes_whole_clusters_and_averages_their_values():
    values, clusters = [1.0, 2.0, 10.0, 40.0], ["b", "b", "a", "c"]
    groups = {"a": [10.0], "b": [1.0, 2.0], "c": [40.0]}
    expected = Counter(
        round(float(np.mean([value for name in draw for value in groups[name]])), 9)
        for draw in itertools.product(groups, repeat=3)
    )
    draws = Counter(np.round(statistics.bootstrap_means(values, clusters, draws=20_000), 9).tolist())
    assert set(draws) == set(expected)
    for mean, count in expected.items():
        assert draws[mean] / 20_000 == pytest.approx(count / 27, abs=0.02)


def test_clusters_of_one_value_are_the_plain_bootstrap_and_equal_values_widen_it():
    assert statistics.bootstrap_interval(VALUES, np.arange(60)) == statistics.bootstrap_interval(VALUES)
    plain = statistics.bootstrap_interval(np.repeat(VALUES[:12], 5))
    clustered = statistics.bootstrap_interval(np.repeat(VALUES[:12], 5), CLUSTERS)
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(5**0.5, rel=0.08)


def test_ten_thousand_draws_of_ten_thousand_rows_take_seconds():
    rows = RANDOM.normal(size=10_000)
    started = time.process_time()
    interval = statistics.bootstrap_interval(rows)
    assert time.process_time() - started < 10
    error = rows.std() / 100
    assert interval.low == pytest.approx(rows.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(rows.mean() + 1.96 * error, abs=0.1 * error)


def test_students_interval_and_p_are_those_of_the_cluster_means():
    means = VALUES.reshape(12, 5).mean(1)
    expected = scipy.stats.t.interval(0.95, 11, means.mean(), means.std(ddof=1) / 12**0.5)
    interval, p = statistics.student(VALUES, CLUSTERS)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert p == pytest.approx(2 * scipy.stats.t.sf(abs(means.mean()) * 12**0.5 / means.std(ddof=1), 11))
    same, p = statistics.student(np.ones(6), [0, 0, 1, 1, 2, 2])
    assert (same.low, same.high) == (1.0, 1.0) and np.isnan(p)


def test_holm_is_statsmodels():
    for p in ([0.01, 0.04, 0.03, 0.005, 0.5], [0.2], [0.9, 0.9, 0.02]):
        assert statistics.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def enumerated(first, second, keys, clusters):
    """The difference of bests for every exchange of the partners of whole clusters, ties averaged."""
    for exchange in itertools.product([False, True], repeat=max(clusters) + 1):
        exchanged, sides = [exchange[cluster] for cluster in clusters], []
        for own in (0, 1):
            pick = [own ^ swap for swap in exchanged]
            value = np.array([(first, second)[side][i] for i, side in enumerate(pick)])
            key = np.array([keys[side][i] for i, side in enumerate(pick)])
            sides.append(value[key == key.max()].mean())
        yield sides[0] - sides[1]


@pytest.mark.parametrize("by_validation", [False, True])
def test_the_best_of_two_grids_against_every_exchange_of_partners(by_validation):
    first, second = RANDOM.normal(0.3, 1, 9), RANDOM.normal(0, 1, 9)
    keys = (RANDOM.integers(0, 4, 9).astype(float), RANDOM.integers(0, 4, 9).astype(float))
    clusters = [0, 1, 2, 3, 4, 5, 6, 6, 0]
    best = statistics.best_of_grid(first, second, clusters, keys if by_validation else None)
    differences = np.array(list(enumerated(first, second, keys if by_validation else (first, second), clusters)))
    assert best.value == pytest.approx(differences[0])
    assert best.p == pytest.approx(np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12), abs=0.02)
    assert best.null.mean() == pytest.approx(0, abs=0.05)


def test_ties_on_validation_are_averaged_and_their_range_told():
    best = statistics.best_of_grid([1.0, 4.0, 9.0], [2.0, 3.0, 8.0], [0, 1, 2], ([0.5, 0.5, 0.1], [0.2, 0.7, 0.7]))
    assert (best.value, best.low, best.high) == (2.5 - 5.5, 1.0 - 8.0, 4.0 - 3.0)
    plain = statistics.best_of_grid([1.0, 4.0, 9.0], [2.0, 3.0, 8.0], [0, 1, 2])
    assert (plain.value, plain.low, plain.high) == (1.0, 1.0, 1.0)


def test_the_binomial_error_is_the_spread_of_accuracies():
    accuracies = RANDOM.binomial(333, 0.24, size=100_000) / 333
    assert statistics.binomial_error(0.24, 333) == pytest.approx(accuracies.std(), rel=0.02)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
def test_a_t_test_finds_the_minimal_effect_four_times_in_five(num_seeds):
    effect = statistics.minimal_detectable_effect(1.5, num_seeds)
    shift = effect / 1.5 * num_seeds**0.5
    threshold = scipy.stats.t.ppf(0.975, num_seeds - 1)
    power = scipy.stats.nct.sf(threshold, num_seeds - 1, shift) + scipy.stats.nct.cdf(-threshold, num_seeds - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_the_rank_correlation_of_one_stratum_is_spearmans_with_its_exact_p():
    x, y = [0.1, 0.5, 0.2, 0.9, 0.7, 0.4], [3.0, 1.0, 2.5, 0.5, 0.6, 2.0]
    value, p = statistics.stratified_rank_correlation(x, y, ["a"] * 6)
    assert value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    all_orders = [scipy.stats.spearmanr(x, order).statistic for order in itertools.permutations(y)]
    assert p == pytest.approx(np.mean(np.abs(all_orders) >= abs(value) - 1e-9), abs=0.005)


def test_strata_do_not_borrow_their_levels():
    # within both strata y falls with x, over all it rises
    x, y, strata = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11], [0, 0, 0, 1, 1, 1]
    value, p = statistics.stratified_rank_correlation(x, y, strata)
    assert value == pytest.approx(-1)
    assert p == pytest.approx(2 / 36, abs=0.01)  # both reversed or both straight, of 3! * 3! orders
    shuffled = RANDOM.permutation(6)
    again = statistics.stratified_rank_correlation(*(np.array(part)[shuffled] for part in (x, y, strata)))
    assert again[0] == pytest.approx(-1)
    constant, p = statistics.stratified_rank_correlation([1, 1, 1], [1, 2, 3], [0, 0, 0])
    assert np.isnan(constant) and p == 1


def test_the_mean_at_equal_covariate_is_least_squares_with_a_clustered_error():
    covariate = RANDOM.normal(size=60)
    strata = np.tile([0, 1], 30)
    outcome = 0.7 + np.where(strata == 0, -3.0, -1.0) * covariate + RANDOM.normal(size=12)[CLUSTERS]
    value, interval = statistics.mean_at_equal_covariate(outcome, covariate, strata, CLUSTERS)
    design = np.column_stack([np.ones(60), covariate * (strata == 0), covariate * (strata == 1)])
    solution = np.linalg.lstsq(design, outcome)[0]
    assert value == pytest.approx(solution[0])
    # the sandwich of Liang and Zeger with the usual small-sample factor
    scores = design * (outcome - design @ solution)[:, None]
    meat = sum(np.outer(part, part) for part in (scores[group == CLUSTERS].sum(0) for group in range(12)))
    bread = np.linalg.inv(design.T @ design)
    variance = (bread @ meat @ bread)[0, 0] * (12 / 11) * (59 / 57)
    half = scipy.stats.t.ppf(0.975, 11) * variance**0.5
    assert (interval.low, interval.high) == pytest.approx((value - half, value + half))
