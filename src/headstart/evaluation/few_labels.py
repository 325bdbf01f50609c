"""Probes that see few labels: so many per class, or a share of them, averaged over seeded draws."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from headstart.evaluation.probe import CPU, Labelled, Probe, standardisation, standardised_probe
from headstart.randomness import numpy_generator


def few_label_draws(labels: np.ndarray, per_class: int, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `num_draws` seeded choices of at most `per_class` rows of every class."""
    classes = np.unique(labels)
    for number in range(num_draws):
        random = numpy_generator(seed, "few labels", per_class, number)
        yield np.concatenate([random.permutation(np.flatnonzero(labels == label))[:per_class] for label in classes])


def few_share_draws(labels: np.ndarray, share: float, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `num_draws` seeded choices of a share of the rows, stratified: of every class the share, at least one."""
    classes, counts = np.unique(labels, return_counts=True)
    sizes = np.maximum(1, np.round(share * counts)).astype(int)
    for number in range(num_draws):
        random = numpy_generator(seed, "few labels", f"share {share:g}", number)
        chosen = [random.permutation(np.flatnonzero(labels == label)) for label in classes]
        yield np.concatenate([rows[:size] for rows, size in zip(chosen, sizes, strict=True)])


def draws(recipe: Probe, labels: np.ndarray, seed: int) -> dict[str, Iterator[np.ndarray]]:
    """Return name -> draws of every few-label probe of a recipe: few5 (per class), few10pct (a share)."""
    per_class = {
        f"few{number}": few_label_draws(labels, number, recipe.few_draws, seed) for number in recipe.few_labels
    }
    shares = {share_name(share): few_share_draws(labels, share, recipe.few_draws, seed) for share in recipe.few_shares}
    return per_class | shares


def share_name(share: float) -> str:
    """Return the metric of a share: few1pct of 0.01, few0_5pct of 0.005 (DVC joins names by dots)."""
    return f"few{100 * share:g}pct".replace(".", "_")


def few_label_top1(
    train: Labelled,
    val: Labelled,
    test: Labelled,
    recipe: Probe,
    *,
    num_classes: int,
    seed: int,
    on_fit: Callable[[], object] = lambda: None,
    device: torch.device = CPU,
) -> dict[str, np.ndarray]:
    """Return name -> test accuracy of each draw, (few_draws,), of every few-label probe of the recipe.

    Always the converged probe, its features standardised with all train rows, which need no labels, its strength chosen
    on the whole val split.
    """
    mean, scale = standardisation(train.features)
    val, test = (Labelled((part.features - mean) / scale, part.labels) for part in (val, test))
    accuracies, known = {}, dict[bytes, float]()
    for name, chosen in draws(recipe, train.labels, seed).items():
        top1 = []
        for rows in chosen:
            # where classes have few images, draws are often the same ones
            same = np.sort(rows).tobytes()
            if same not in known:
                few = Labelled((train.features[rows] - mean) / scale, train.labels[rows])
                fit = standardised_probe(few, val, recipe.strengths, num_classes, device)
                predicted = (test.features @ fit.probe.weight.T + fit.probe.bias).argmax(1)
                known[same] = float((predicted == test.labels).mean())
            top1.append(known[same])
            on_fit()
        accuracies[name] = np.array(top1)
    return accuracies


def student_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of independent draws; of a single one the value itself, twice."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    from scipy.special import stdtrit  # scikit-learn brings scipy

    reach = stdtrit(len(values) - 1, (1 + level) / 2) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(mean - reach), float(mean + reach)
