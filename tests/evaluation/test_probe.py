"""Probes against independent optima, plain loops and numbers worked out by hand, on digits' pixels as features."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from headstart.evaluation.probe import (
    Labelled,
    confusion,
    converged_probe,
    majority_top1,
    paper_probe,
    score,
    standardisation,
)
from headstart.randomness import generator, global_seed, numpy_generator


def optimum(x: np.ndarray, y: np.ndarray, strength: float, num_classes: int) -> tuple[float, np.ndarray]:
    """The least of C * sum of losses + |W|^2 / 2 by L-BFGS in float64, and its weights (K or 1, D + 1), bias last."""
    rows = 1 if num_classes == 2 else num_classes
    one_hot = np.eye(num_classes)[y]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(rows, -1)
        logits = x @ weights[:, :-1].T + weights[:, -1]
        if rows == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], 1)
        losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        slope = strength * (scipy.special.softmax(logits, axis=1) - one_hot)[:, -rows:]
        gradient = np.concatenate([slope.T @ x + weights[:, :-1], slope.sum(0)[:, None]], 1)
        return strength * losses.sum() + (weights[:, :-1] ** 2).sum() / 2, gradient.ravel()

    start = np.zeros(rows * (x.shape[1] + 1))
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.fun, found.x.reshape(rows, -1)


def value(fit, x: np.ndarray, y: np.ndarray, strength: float) -> float:
    """The objective of a fitted probe on standardised features."""
    weight, bias = fit.probe.weight, fit.probe.bias
    logits = x @ weight.T + bias
    losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    penalised = weight[1:] - weight[:1] if len(weight) == 2 else weight
    return strength * losses.sum() + (penalised**2).sum() / 2


def standardised(split: Labelled, by: Labelled) -> np.ndarray:
    mean, scale = by.features.astype(np.float64).mean(0), by.features.astype(np.float64).std(0)
    return (split.features - mean) / np.where(scale == 0, 1, scale)


@pytest.mark.parametrize("strength", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_probe_is_the_optimum_of_the_stated_objective(labelled, classes, strength):
    train, val = labelled(0, 400, classes), labelled(400, 500, classes)
    fit = converged_probe(train, val, [strength], classes)
    x_train = standardised(train, train)
    least, weights = optimum(x_train, train.labels, strength, classes)
    assert least <= value(fit, x_train, train.labels, strength) <= least * (1 + 1e-4)
    theirs = standardised(val, train) @ weights[:, :-1].T + weights[:, -1]
    ours = fit.probe.logits(val.features)
    if classes == 2:
        np.testing.assert_allclose(ours[:, 1] - ours[:, 0], theirs[:, 0], atol=0.02, rtol=0.02)
    else:
        centred = [logits - logits.mean(1, keepdims=True) for logits in (ours, theirs)]
        np.testing.assert_allclose(*centred, atol=0.05, rtol=0.05)


def test_path_of_strengths_ends_where_each_alone_does(labelled):
    """Warm starts are for speed: what is chosen is as good an optimum."""
    train, val = labelled(0, 300), labelled(300, 500)
    fit = converged_probe(train, val, [0.3, 0.003, 0.0001], 10)
    alone = converged_probe(train, val, [fit.strength], 10)
    x_train = standardised(train, train)
    assert value(fit, x_train, train.labels, fit.strength) == pytest.approx(
        value(alone, x_train, train.labels, fit.strength), rel=1e-4
    )


def test_strength_is_chosen_on_val(labelled):
    train, val = labelled(0, 150), labelled(150, 600)
    strengths = [1.0, 1e-6, 0.01]
    fit = converged_probe(train, val, strengths, 10)
    alone = {c: converged_probe(train, val, [c], 10).val_top1 for c in strengths}
    assert len(set(alone.values())) == 3
    assert fit.strength == max(alone, key=alone.get)
    assert fit.val_top1 == pytest.approx(alone[fit.strength], abs=1e-2)
    assert fit.val_top1 == (fit.probe.logits(val.features).argmax(1) == val.labels).mean()


def test_strongest_penalty_wins_a_tie():
    features = np.array([[0.0], [0.1], [1.0], [1.1]], dtype=np.float32)
    easy = Labelled(features, np.array([0, 0, 1, 1]))
    fit = converged_probe(easy, easy, [10.0, 0.1, 1.0], 2)
    assert (fit.strength, fit.val_top1) == (0.1, 1.0)


def test_class_without_training_rows_is_never_predicted(labelled):
    train, val = labelled(0, 300), labelled(300, 500)
    seen = train.rows(~np.isin(train.labels, [0, 4, 9]))
    fit = converged_probe(seen, val, [0.01], 10)
    logits = fit.probe.logits(val.features)
    assert logits.shape == (len(val.labels), 10)
    assert set(logits.argmax(1)) == {1, 2, 3, 5, 6, 7, 8}
    assert logits[:, [0, 4, 9]].max() < logits[:, [1, 2, 3, 5, 6, 7, 8]].min()
    assert score(logits, val.labels)["top1"] == fit.val_top1
    two = converged_probe(train.rows(np.isin(train.labels, [3, 7])), val, [0.01], 10)
    assert set(two.probe.logits(val.features).argmax(1)) == {3, 7}


def test_standardisation_leaves_constant_columns(digits):
    features = np.array([[0.1, 5.0, 0.0], [0.1, 7.0, 0.0], [0.1, 9.0, 0.0]], dtype=np.float32)
    mean, scale = standardisation(features)
    np.testing.assert_allclose(mean, [0.1, 7.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(scale, [1.0, np.sqrt(8 / 3), 1.0])


def test_statistics_may_come_from_other_rows(labelled):
    train, val = labelled(0, 300), labelled(300, 400)
    few = train.rows(np.arange(40))
    fit = converged_probe(few, val, [0.01], 10, statistics=train)
    np.testing.assert_allclose(fit.probe.mean, train.features.mean(0), atol=1e-6)
    assert not np.allclose(fit.probe.mean, few.features.mean(0))


def test_score_of_numbers_worked_out_by_hand():
    """Predicted 0 0 1 2 2 where 0 1 1 2 0 is true, and class 3 neither seen nor predicted."""
    logits = np.eye(4)[[0, 0, 1, 2, 2]]
    scores = score(logits, np.array([0, 1, 1, 2, 0]))
    precision, recall = [1 / 2, 1, 1 / 2, 0], [1 / 2, 1 / 2, 1, 0]
    f1 = [1 / 2, 2 / 3, 2 / 3, 0]
    assert scores == pytest.approx(
        {
            "top1": 3 / 5,
            "macro_precision": sum(precision) / 4,
            "macro_recall": sum(recall) / 4,
            "macro_f1": sum(f1) / 4,
        }
    )
    assert all(type(number) is float for number in scores.values())
    assert confusion(logits, np.array([0, 1, 1, 2, 0])).tolist() == [
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
    ]


def test_top5_counts_the_five_largest_and_only_above_five_classes():
    logits = np.tile(np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]), (4, 1))
    scores = score(logits, np.array([0, 4, 5, 6]))
    assert (scores["top1"], scores["top5"]) == (1 / 4, 2 / 4)
    assert "top5" not in score(logits[:, :5], np.array([0, 4, 1, 2]))
    assert score(logits[:, :6], np.array([5, 5, 0, 0]))["top5"] == 1 / 2


def test_majority():
    assert majority_top1(np.array([2, 2, 0, 1]), np.array([2, 0, 2, 2])) == 3 / 4
    assert majority_top1(np.array([0, 0, 1]), np.array([1, 1])) == 0


@pytest.fixture(scope="module")
def papers(labelled):
    test = labelled(0, 203)
    return test, *paper_probe(test, 10, seed=0)


def test_paper_probe_splits_the_test_split(papers):
    test, fit, held_out = papers
    order = numpy_generator(0, "paper probe").permutation(203)
    assert len(held_out.labels) == 41  # a fifth; 142 rows, 70 %, were trained on and 20, 10 %, chose
    assert (held_out.labels == test.labels[order[162:]]).all()
    assert (held_out.features == test.features[order[162:]]).all()
    val = order[142:162]
    assert fit.val_top1 == (fit.probe.logits(test.features[val]).argmax(1) == test.labels[val]).mean()
    assert fit.strength is None


@pytest.mark.parametrize("case", ["digits", "nothing to hold on val", "nothing to learn"])
def test_paper_probe_equals_plain_gradient_descent(labelled, case):
    """50 epochs of batches of 32 at rate 1e-3, cut on plateaus, gradients written out, the best on val kept."""
    test = labelled(0, 203)
    order = numpy_generator(0, "paper probe").permutation(203)
    if case == "nothing to hold on val":
        test = Labelled(test.features * 4, np.random.default_rng(0).permutation(test.labels))
    if case == "nothing to learn":
        test = Labelled(np.zeros((203, 640), np.float32), np.arange(203)[np.argsort(order)] % 10)
    fit, _ = paper_probe(test, 10, seed=0)
    train, val = test.rows(order[:142]), test.rows(order[142:162])
    with global_seed(0, "paper probe"):
        start = torch.nn.Linear(test.features.shape[1], 10)
    weight, bias = (part.detach().double().numpy().copy() for part in (start.weight, start.bias))

    def loss(split: Labelled) -> float:
        logits = split.features @ weight.T + bias
        return (scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(logits)), split.labels]).mean()

    best, best_epoch = (float("inf"), weight, bias), 0
    rate, least, bad = 1e-3, float("inf"), 0
    for epoch in range(50):
        total = 0.0
        for rows in torch.randperm(142, generator=generator(0, "paper probe", epoch)).split(32):
            batch = train.rows(rows.numpy())
            total += loss(batch) * len(rows) / 142
            probabilities = scipy.special.softmax(batch.features @ weight.T + bias, axis=1)
            slope = (probabilities - np.eye(10)[batch.labels]) / len(rows)
            weight, bias = weight - rate * slope.T @ batch.features, bias - rate * slope.sum(0)
        improved = total < least * (1 - 1e-4)
        least, bad = (total, 0) if improved else (least, bad + 1)
        if bad > 10:
            rate, bad = rate / 10, 0
        if loss(val) < best[0]:
            best, best_epoch = (loss(val), weight, bias), epoch
    assert (best_epoch == 49, rate == 1e-3) == {
        "digits": (True, True),
        "nothing to hold on val": (False, True),
        "nothing to learn": (best_epoch == 49, False),
    }[case]
    np.testing.assert_allclose(fit.probe.weight, best[1], atol=1e-5)
    np.testing.assert_allclose(fit.probe.bias, best[2], atol=1e-5)
    np.testing.assert_allclose(fit.probe.logits(test.features), test.features @ best[1].T + best[2], atol=1e-4)


def plain_paper_probe(labelled: Labelled, seed: int, plateau: str) -> tuple[np.ndarray, list[float]]:
    """The authors' probe in plain numpy: the weights of the lowest validation loss, and the rates of all epochs."""
    order = numpy_generator(seed, "paper probe").permutation(len(labelled.labels))
    one, two = round(0.7 * len(order)), round(0.8 * len(order))
    x, y = labelled.features.astype(np.float64), labelled.labels
    train, val = order[:one], order[one:two]
    with global_seed(seed, "paper probe"):
        layer = torch.nn.Linear(x.shape[1], 10)
    weight, bias = (part.detach().double().numpy().copy() for part in (layer.weight, layer.bias))

    def softmax(rows):
        logits = x[rows] @ weight.T + bias
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def loss(rows):
        return -np.log(softmax(rows)[np.arange(len(rows)), y[rows]]).mean()

    rate, rates, least, bad, best = 1e-3, [], np.inf, 0, (np.inf, weight.copy())
    for epoch in range(50):
        rates.append(rate)
        total = 0.0
        for rows in torch.randperm(len(train), generator=generator(seed, "paper probe", epoch)).split(32):
            rows = train[rows.numpy()]
            last = loss(rows)
            total += last * len(rows)
            error = (softmax(rows) - np.eye(10)[y[rows]]) / len(rows)
            weight -= rate * error.T @ x[rows]
            bias -= rate * error.sum(0)
        watched = last if plateau == "last_batch" else total / len(train)
        # torch's defaults: a tenth after more than 10 epochs without a loss that is a ten-thousandth lower
        least, bad = (watched, 0) if watched < least * (1 - 1e-4) else (least, bad + 1)
        if bad > 10:
            rate, bad = rate / 10, 0
        if (now := loss(val)) < best[0]:
            best = (now, weight.copy())
    return best[1], rates


@pytest.mark.parametrize("plateau", ["epoch", "last_batch"])
def test_the_papers_probe_is_that_of_plain_code_and_the_last_batch_cuts_the_rate_sooner(labelled, plateau):
    data = labelled(0, 400)
    fit, tested = paper_probe(data, 10, seed=3, plateau=plateau)
    weight, rates = plain_paper_probe(data, 3, plateau)
    np.testing.assert_allclose(fit.probe.weight, weight, atol=2e-5)
    assert len(tested.labels) == 80
    assert (rates[-1] < 1e-3) == (plateau == "last_batch"), rates[-1]
