"""Draws of few labels, and the interval over them."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from headstart.evaluation import few_labels
from headstart.evaluation.few_labels import (
    few_label_draws,
    few_label_top1,
    few_share_draws,
    share_name,
    student_interval,
)
from headstart.evaluation.probe import Labelled, standardised_probe
from tests.evaluation.recipe import RECIPE


def test_few_label_draws_are_seeded_and_balanced(labelled):
    labels = labelled(0, 300).labels
    draws = list(few_label_draws(labels, 5, 6, seed=0))
    assert len(draws) == 6
    for rows in draws:
        assert len(set(rows)) == 50
        assert np.bincount(labels[rows]).tolist() == [5] * 10
    assert len({tuple(rows) for rows in draws}) == 6
    again = list(few_label_draws(labels, 5, 6, seed=0))
    assert all((first == second).all() for first, second in zip(draws, again, strict=True))
    more = list(few_label_draws(labels, 5, 8, seed=0))
    assert (more[5] == draws[5]).all()  # a longer list begins as the shorter one
    assert (next(few_label_draws(labels, 5, 1, seed=1)) != draws[0]).any()


def test_class_with_fewer_labels_gives_all_it_has():
    labels = np.array([0, 0, 1, 3, 3, 3])
    (rows,) = few_label_draws(labels, 2, 1, seed=0)
    assert np.bincount(labels[rows]).tolist() == [2, 1, 0, 2]


def test_shares_are_stratified_with_at_least_one_of_each_class():
    labels = np.repeat([0, 1, 2, 4], [100, 50, 14, 2])
    draws = list(few_share_draws(labels, 0.1, 3, seed=0))
    for rows in draws:
        assert len(set(rows)) == len(rows)
        assert np.bincount(labels[rows]).tolist() == [10, 5, 1, 0, 1]
    assert len({tuple(rows) for rows in draws}) == 3
    again = list(few_share_draws(labels, 0.1, 1, seed=0))
    assert (again[0] == draws[0]).all()
    (everything,) = few_share_draws(labels, 1.0, 1, seed=0)
    assert sorted(everything) == list(range(166))
    (least,) = few_share_draws(labels, 0.0001, 1, seed=0)
    assert np.bincount(labels[least]).tolist() == [1, 1, 1, 0, 1]


def test_names_of_shares_have_no_dot():
    assert [share_name(share) for share in (0.01, 0.1, 0.005, 1.0)] == [
        *("few1pct", "few10pct", "few0_5pct", "few100pct")
    ]


def test_interval_is_students():
    values = np.array([0.7, 0.75, 0.8, 0.72, 0.9])
    expected = scipy.stats.t.interval(0.95, 4, loc=values.mean(), scale=scipy.stats.sem(values))
    assert student_interval(values) == pytest.approx(expected)
    assert student_interval(values[:1]) == (0.7, 0.7)


def test_draws_per_class_are_those_of_the_first_results():
    """Printed by commit 407138b: few5 of earlier runs and of later ones is of the same rows."""
    draws = few_label_draws(np.repeat([0, 1, 2], [9, 7, 6]), 2, 2, seed=0)
    assert [rows.tolist() for rows in draws] == [[5, 1, 9, 10, 19, 17], [3, 0, 15, 10, 19, 21]]


def test_equal_draws_are_fitted_once(monkeypatch):
    """Of classes with one image each every draw is the whole split: 600 such classes did not end in 6 minutes."""
    random = np.random.default_rng(0)
    train, val, test = (Labelled(random.normal(size=(6, 4)).astype(np.float32), np.arange(6)) for _ in range(3))
    fits, told = [], []

    def counted(*arguments):
        fits.append(1)
        return standardised_probe(*arguments)

    monkeypatch.setattr(few_labels, "standardised_probe", counted)
    recipe = dataclasses.replace(RECIPE, few_labels=[1, 5], few_draws=3)
    found = few_label_top1(train, val, test, recipe, num_classes=6, seed=0, on_fit=lambda: told.append(1))
    assert (len(fits), len(told)) == (1, 6)
    assert {len(values) for values in found.values()} == {3} and len({*found["few1"], *found["few5"]}) == 1
