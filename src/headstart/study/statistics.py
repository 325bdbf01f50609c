"""Statistics of paired runs: arrays in, numbers out. Every draw is seeded: equal input, equal output.

The unit of a value is that of the input; `differences` are of matched runs, clusters and strata are any labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 10_000
CROSSED = 2000  # draws of two crossed factors, each of which weighs every run
LEVEL = 0.95
POWER = 0.8
SEED = 0
_CHUNK = 2**22  # numbers drawn at once: 16 MB of indices


@dataclass(frozen=True)
class Interval:
    """Bounds at LEVEL."""

    low: float
    high: float


@dataclass(frozen=True)
class Best:
    """The best run of one grid minus the best of another; see `best_of_grid`."""

    value: float
    low: float
    high: float
    p: float
    null: np.ndarray


def bootstrap_means(
    differences: ArrayLike, clusters: ArrayLike | None = None, draws: int = DRAWS, seed: int = SEED
) -> np.ndarray:
    """Return (draws,) means of resamples with replacement: of single values, or of whole clusters of them.

    A draw takes as many clusters as there are; its mean is over all values in them (Davison and Hinkley 1997, 3.8).
    """
    values = np.asarray(differences, dtype=np.float64)
    index = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums, sizes = np.bincount(index, values), np.bincount(index)
    random = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, _CHUNK // len(sums))
    for start in range(0, draws, step):
        chosen = random.integers(len(sums), size=(min(step, draws - start), len(sums)), dtype=np.int32)
        total: ArrayLike = len(sums) if clusters is None else sizes[chosen].sum(1)
        means[start : start + step] = sums[chosen].sum(1) / total
    return means


def bootstrap_interval(differences: ArrayLike, clusters: ArrayLike | None = None) -> Interval:
    """Return the percentile bootstrap interval of the mean, plain or clustered."""
    return percentiles(bootstrap_means(differences, clusters))


def student(differences: ArrayLike, clusters: ArrayLike) -> tuple[Interval, float]:
    """Return Student's interval of the mean of cluster means and the two-sided p of zero.

    Where clusters are few a bootstrap is too narrow. Needs at least two clusters; p is NaN where all means are equal.
    """
    from scipy.stats import ttest_1samp

    means = cluster_means(differences, clusters)
    if np.allclose(means, means[0], rtol=1e-9, atol=1e-12):  # scipy warns of them
        return Interval(float(means.mean()), float(means.mean())), float("nan")
    found = ttest_1samp(means, 0.0)
    bounds = found.confidence_interval(LEVEL)
    return Interval(float(bounds.low), float(bounds.high)), float(found.pvalue)


def cluster_means(differences: ArrayLike, clusters: ArrayLike) -> np.ndarray:
    """Return the mean of each cluster, clusters in sorted order."""
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(index, np.asarray(differences, dtype=np.float64)) / np.bincount(index)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return p values adjusted for their number by Holm's step-down method, in their own order.

    statsmodels' multipletests gives the same, but collects garbage at every call: 0.3 s each in a large process.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return adjusted


def best_of_grid(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike,
    chosen_by: tuple[ArrayLike, ArrayLike] | None = None,
    draws: int = DRAWS,
) -> Best:
    """Return max(first) - max(second), of matched values, with the p of exchanging the partners of whole clusters.

    chosen_by: the values (first's, second's) by whose maximum the run is chosen in place of its own, such as validation
    accuracies; runs that tie are averaged, and `low` to `high` is what breaking ties would make of the difference.
    `null` are the (draws,) differences after exchanging the partners of each cluster with probability 1/2; p is
    two-sided, and of three clusters never below 1/4.
    """
    values = np.stack([np.asarray(part, dtype=np.float64) for part in (first, second)])
    keys = values if chosen_by is None else np.stack([np.asarray(part, dtype=np.float64) for part in chosen_by])
    best = [values[side][keys[side] == keys[side].max()] for side in (0, 1)]
    value = best[0].mean() - best[1].mean()
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    random = np.random.default_rng(SEED)
    null = np.empty(draws)
    step = max(1, _CHUNK // (4 * values.shape[1]))
    for start in range(0, draws, step):
        exchanged = (random.random((min(step, draws - start), index.max() + 1)) < 0.5)[:, index]
        means = []
        for own, other in ((0, 1), (1, 0)):
            key = np.where(exchanged, keys[other], keys[own])
            tied = key == key.max(1, keepdims=True)
            means.append((np.where(exchanged, values[other], values[own]) * tied).sum(1) / tied.sum(1))
        null[start : start + step] = means[0] - means[1]
    low, high = best[0].min() - best[1].max(), best[0].max() - best[1].min()
    return Best(float(value), float(low), float(high), permutation_p(float(value), null), null)


def permutation_p(value: float, null: np.ndarray) -> float:
    """Return the share of draws at least as far from zero as the value, itself counted (Phipson and Smyth 2010)."""
    return float((1 + np.sum(np.abs(null) >= abs(value) - 1e-12)) / (1 + len(null)))


def binomial_error(accuracy: float, num_images: float) -> float:
    """Return the standard error of an accuracy (a fraction) measured on a number of images."""
    return float(np.sqrt(accuracy * (1 - accuracy) / num_images))


def minimal_detectable_effect(spread: float, num_seeds: int) -> float:
    """Return the mean difference that a two-sided paired t-test over `num_seeds` seeds finds with probability POWER.

    spread: standard deviation, between seeds, of the difference. Needs at least two seeds.
    """
    from statsmodels.stats.power import TTestPower

    return float(spread * TTestPower().solve_power(nobs=num_seeds, alpha=1 - LEVEL, power=POWER))


def stratified_rank_correlation(
    x: ArrayLike, y: ArrayLike, strata: ArrayLike, draws: int = DRAWS
) -> tuple[float, float]:
    """Return Spearman's correlation within strata and its two-sided p by permutation within them.

    Ranks are taken and centred within each stratum and pooled; NaN and 1 where x or y is constant in each of them.
    """
    index = np.unique(np.asarray(strata), return_inverse=True)[1]
    order = np.argsort(index, kind="stable")
    index = index[order]
    ranks = [_centred_ranks(np.asarray(part, dtype=np.float64)[order], index) for part in (x, y)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    if norm == 0:
        return float("nan"), 1.0
    value = float(ranks[0] @ ranks[1] / norm)
    random = np.random.default_rng(SEED)
    # sorted by stratum, then by a random number: a permutation within each stratum
    shuffled = np.argsort(index + random.random((draws, len(index))), axis=1)
    return value, permutation_p(value, ranks[1][shuffled] @ ranks[0] / norm)


def mean_at_equal_covariate(
    differences: ArrayLike, covariate: ArrayLike, strata: ArrayLike, clusters: ArrayLike
) -> tuple[float, Interval]:
    """Return the mean difference that is left where the covariate's difference is zero, with its interval.

    Least squares with one intercept and a slope per stratum; standard errors clustered, Student's t.
    """
    import statsmodels.api as sm

    index = np.unique(np.asarray(strata), return_inverse=True)[1]
    slopes = np.eye(index.max() + 1)[index] * np.asarray(covariate, dtype=np.float64)[:, None]
    groups = np.unique(np.asarray(clusters), return_inverse=True)[1]
    model = sm.OLS(np.asarray(differences, dtype=np.float64), np.column_stack([np.ones(len(index)), slopes]))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(1 - LEVEL)[0]
    return float(fit.params[0]), Interval(float(low), float(high))


def _centred_ranks(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = np.concatenate([rankdata(values[index == stratum]) for stratum in np.unique(index)])
    return ranks - np.repeat(cluster_means(ranks, index), np.bincount(index))


def crossed_weights(first: int, second: int, draws: int = CROSSED, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each of `first` and of `second` clusters is drawn, (draws, first) and (draws, second) counts.

    Runs that share a seed are alike, and so are those of one setting: a run's weight in a draw is the product of the
    two counts (Owen 2007, the pigeonhole bootstrap). Its intervals are rather too wide than too narrow.
    """
    random = np.random.default_rng(seed)
    drawn = (random.multinomial(number, np.full(number, 1 / number), draws) for number in (first, second))
    return tuple(counts.astype(np.float64) for counts in drawn)  # type: ignore[return-value]


def weighted_rank_correlations(x: ArrayLike, y: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Return Spearman's correlations (draws,) of x and y (N,) where a point counts as often as weights (draws, N) say.

    Equal values share their mean rank; NaN where x or y is constant among the points that count, or none counts.
    """
    ranks = [_weighted_ranks(np.asarray(part, dtype=np.float64), weights) for part in (x, y)]
    total = weights.sum(1, keepdims=True).clip(min=1)
    centred = [rank - (weights * rank).sum(1, keepdims=True) / total for rank in ranks]
    spread = np.prod([(weights * part**2).sum(1) for part in centred], axis=0)
    product = (weights * centred[0] * centred[1]).sum(1)
    known = spread > 1e-9 * total[:, 0] ** 2
    return np.divide(product, np.sqrt(spread), out=np.full(len(weights), np.nan), where=known)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean rank (draws, N) of each point among as many copies of all as the weights say."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf) > 0)
    groups = np.add.reduceat(weights[:, order], starts, axis=1)
    of_groups = groups.cumsum(1) - (groups - 1) / 2
    ranks = np.empty(weights.shape)
    ranks[:, order] = np.repeat(of_groups, np.diff(starts, append=len(values)), axis=1)
    return ranks


def percentiles(draws: np.ndarray) -> Interval:
    """Return the interval between which LEVEL of the draws lie, those that are NaN left out."""
    low, high = np.nanpercentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(float(low), float(high))
