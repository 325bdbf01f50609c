"""A thousand studies of each size whose truth is known: how often the interval holds it, and what is decided."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.formula.api as smf

from headstart.study import statistics
from headstart.study.claims.contrasts import Contrast, paired_effects
from headstart.study.claims.verdict import BETTER, NO_DIFFERENCE, UNDECIDED, WORSE, hull, outcome

STUDIES = 1000
SEEDS, EFFECTS, MARGINS = (3, 5, 10), (0.0, 0.4, 1.0), (1.0, 0.3)
# Spreads in points, as of digits and of CIFAR-10: between seeds, between autoencoders (one a seed and width), pairs
BY_SEED, BY_AUTOENCODER, BY_PAIR = 0.5, 0.3, 0.6
WIDTHS, ACTIVATIONS = (64, 128), ("relu", "tanh")


def study(random: np.random.Generator, num_seeds: int) -> pd.DataFrame:
    """Pairs of a study without an effect: a pair per seed, width and activation."""
    cells = list(itertools.product(range(num_seeds), WIDTHS, ACTIVATIONS))
    seeds = BY_SEED * random.standard_normal(num_seeds)
    coders = BY_AUTOENCODER * random.standard_normal((num_seeds, len(WIDTHS)))
    noise = BY_PAIR * random.standard_normal(len(cells))
    return pd.DataFrame(
        {
            "dataset": "digits",
            "seed": [seed for seed, _, _ in cells],
            "checkpoint": [f"{seed} {width}" for seed, width, _ in cells],
            "difference": [
                seeds[seed] + coders[seed, WIDTHS.index(width)] + own
                for (seed, width, _), own in zip(cells, noise, strict=True)
            ],
            "row_first": range(len(cells)),
            "row_second": range(len(cells), 2 * len(cells)),
        }
    )


@pytest.mark.parametrize("num_seeds", SEEDS)
def test_intervals_cover_and_decisions_are_seldom_wrong(num_seeds, monkeypatch, capsys):
    monkeypatch.setattr(statistics, "bootstrap_means", _fewer_draws(statistics.bootstrap_means))
    random = np.random.default_rng(num_seeds)
    bounds = []
    for _ in range(STUDIES):
        effects = paired_effects(Contrast("x", study(random, num_seeds)))
        bounds.append(hull(effects, "x"))
    covered = np.mean([low <= 0 <= high for low, high in bounds])
    assert 0.93 <= covered <= 0.99
    lines = [f"{num_seeds} seeds: the interval holds the truth in {covered:.1%} of {STUDIES} studies"]
    for effect, margin in itertools.product(EFFECTS, MARGINS):
        # every interval moves with its data
        found = [outcome(low + effect, high + effect, margin) for low, high in bounds]
        share = {word: found.count(word) / STUDIES for word in (BETTER, WORSE, NO_DIFFERENCE, UNDECIDED)}
        wrong = share[BETTER] if effect == 0 else share[WORSE]
        wrong += share[NO_DIFFERENCE] if effect > margin else 0.0
        assert wrong < 0.05, (effect, margin, share)
        words = ", ".join(f"{word} {part:.1%}" for word, part in share.items())
        lines.append(f"  effect {effect:g}, margin {margin:g}: decided {1 - share[UNDECIDED]:.1%} ({words})")
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.filterwarnings("ignore")  # the model says of itself that it hardly converges
def test_neither_scipys_bca_nor_statsmodels_mixed_model_covers_as_well(capsys):
    """Why the intervals are ours, of scipy's t-test and a bootstrap: at five seeds the ready ones are too narrow."""
    random, num_seeds, number = np.random.default_rng(5), 5, 100
    held = {"BCa": 0, "mixed model": 0}
    for k in range(number):
        pairs = study(random, num_seeds)
        means = statistics.cluster_means(pairs["difference"], pairs["seed"])
        bca = scipy.stats.bootstrap((means,), np.mean, n_resamples=500, rng=k).confidence_interval
        held["BCa"] += bca.low <= 0 <= bca.high
        model = smf.mixedlm(
            "difference ~ 1", pairs, groups=pairs["seed"], vc_formula={"autoencoder": "0 + C(checkpoint)"}
        )
        low, high = model.fit().conf_int().loc["Intercept"]
        held["mixed model"] += low <= 0 <= high
    assert all(count / number < 0.93 for count in held.values())
    with capsys.disabled():
        words = ", ".join(f"{name} in {count / number:.0%}" for name, count in held.items())
        print(f"\n{num_seeds} seeds, {number} studies: the truth is held by {words}")


def test_an_interval_moves_with_its_data():
    pairs = study(np.random.default_rng(0), 5)
    low, high = hull(paired_effects(Contrast("x", pairs)), "x")
    moved = hull(paired_effects(Contrast("x", pairs.assign(difference=pairs["difference"] + 0.7))), "x")
    assert moved == pytest.approx((low + 0.7, high + 0.7))


def _fewer_draws(of):
    """A twentieth of the draws: their own noise is small beside that of a study."""
    return lambda differences, clusters=None: of(differences, clusters, draws=500)
