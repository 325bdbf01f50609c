"""Linear probes: multinomial logistic regression on frozen features, converged or by the paper's protocol.

scikit-learn is imported where it is used: every stage reads `Probe`, one fits probes, and the import takes a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from headstart.evaluation.logistic import regularisation_path
from headstart.knobs import Range
from headstart.randomness import generator, global_seed, numpy_generator

# The authors' linear evaluation (simclr_ae/models/logreg/module.py and their logged parameters): SGD without momentum
PAPER_EPOCHS, PAPER_BATCH, PAPER_RATE, PAPER_SHARES = 50, 32, 1e-3, (0.7, 0.1, 0.2)
# The bias of a class that was not seen
NEVER = -1e9
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Probe:
    """How representations are judged.

    protocol: `converged` (default) or `paper`; plateau: which training loss lets the paper's probe lower its rate, the
    mean of an `epoch` or that of its `last_batch`; strengths: inverse L2 strengths C to choose from on val; few_labels:
    labels per class of each few-label probe; few_shares: shares of the train labels of further ones; few_draws: seeded
    draws that each is averaged over; layers: what probes are fitted on; datasets: others that the backbone is judged
    on; finetune_epochs: of full fine-tuning (0: none).
    """

    protocol: Literal["converged", "paper"]
    strengths: list[Annotated[float, Range(0, open_low=True)]]
    few_labels: list[Annotated[int, Range(1)]]
    few_shares: list[Annotated[float, Range(0, 1, open_low=True)]]
    few_draws: Annotated[int, Range(1)]
    layers: list[Literal["backbone", "hidden", "output"]]
    datasets: list[str]
    finetune_epochs: Annotated[int, Range(0)]
    plateau: Literal["epoch", "last_batch"] = "epoch"


@dataclass(frozen=True)
class Labelled:
    """Features and labels of one split: (N, D) float32 and (N,) int64."""

    features: np.ndarray
    labels: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Labelled":
        """Return the chosen rows."""
        return Labelled(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """A dataset's features, from one layer of one backbone."""

    train: Labelled
    val: Labelled
    test: Labelled


@dataclass(frozen=True)
class Linear:
    """A fitted probe: logits = ((x - mean) / scale) @ weight.T + bias; weight (K, D), bias (K,), mean, scale (D,)."""

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) float64 logits of (N, D) features."""
        return ((features - self.mean) / self.scale) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Fit:
    """A probe, its accuracy on val (what it was chosen by) and the chosen C, or None in the paper's protocol."""

    probe: Linear
    val_top1: float
    strength: float | None


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale (D,) float64 of the columns; a constant column has scale 1."""
    mean = features.mean(0, dtype=np.float64)
    scale = features.std(0, dtype=np.float64)
    return mean, np.where(scale > 1e-6 * (np.abs(mean) + 1e-12), scale, 1.0)


def converged_probe(
    train: Labelled,
    val: Labelled,
    strengths: Sequence[float],
    num_classes: int,
    statistics: Labelled | None = None,
    device: torch.device = CPU,
) -> Fit:
    """Return the L2-penalised multinomial logistic regression, fitted to convergence, with the best accuracy on val.

    Features are standardised with the columns' statistics of `statistics` (default: train). Among strengths that tie on
    val the smallest C, the strongest penalty, wins. The objective, met within 1e-4 of its least value, is
    scikit-learn's (see `regularisation_path`). A class without training rows is never predicted.
    """
    mean, scale = standardisation((statistics or train).features)
    train, val = (Labelled((part.features - mean) / scale, part.labels) for part in (train, val))
    fit = standardised_probe(train, val, strengths, num_classes, device)
    return replace(fit, probe=replace(fit.probe, mean=mean, scale=scale))


def standardised_probe(
    train: Labelled, val: Labelled, strengths: Sequence[float], num_classes: int, device: torch.device = CPU
) -> Fit:
    """Return `converged_probe` of features that are standardised already."""
    seen, labels = np.unique(train.labels, return_inverse=True)
    width = train.features.shape[1]
    best: Fit | None = None
    for strength, weights, biases in regularisation_path(train.features, labels, strengths, device):
        weight, bias = np.zeros((num_classes, width)), np.full(num_classes, NEVER)
        weight[seen], bias[seen] = weights, biases
        top1 = float(((val.features @ weight.T + bias).argmax(1) == val.labels).mean())
        if best is None or top1 > best.val_top1:
            best = Fit(Linear(weight, bias, np.zeros(width), np.ones(width)), top1, strength)
    assert best is not None
    return best


def paper_probe(test: Labelled, num_classes: int, seed: int, plateau: str = "epoch") -> tuple[Fit, Labelled]:
    """Return the authors' probe and the fifth of the *test* split that it is tested on.

    Trained on 70 % of the test split, un-standardised features, SGD at 1e-3 for 50 epochs of batches of 32, learning
    rate cut tenfold on a plateau of the training loss (torch's defaults), the lowest loss on another 10 % kept.
    plateau: that loss is the mean of an `epoch` or, as in the authors' code, that of its `last_batch`, which is small
    and noisy. It does not converge and sees test images; it exists for numbers beside the published ones.
    """
    order = numpy_generator(seed, "paper probe").permutation(len(test.labels))
    first, second = (np.array([PAPER_SHARES[0], sum(PAPER_SHARES[:2])]) * len(order)).round().astype(int)
    train, val, held_out = (test.rows(rows) for rows in np.split(order, [first, second]))
    x_train, y_train = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    x_val, y_val = torch.from_numpy(val.features), torch.from_numpy(val.labels)
    with global_seed(seed, "paper probe"):
        model = nn.Linear(test.features.shape[1], num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=PAPER_RATE)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    best_loss, best = float("inf"), (model.weight.detach(), model.bias.detach())
    for epoch in range(PAPER_EPOCHS):
        mean, last = _sgd_epoch(model, optimizer, x_train, y_train, generator(seed, "paper probe", epoch))
        scheduler.step(last if plateau == "last_batch" else mean)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(x_val), y_val).item()
        if loss < best_loss:
            best_loss, best = loss, (model.weight.detach().clone(), model.bias.detach().clone())
    weight, bias = (part.detach().double().numpy() for part in best)
    width = test.features.shape[1]
    probe = Linear(weight, bias, np.zeros(width), np.ones(width))
    return Fit(probe, float((probe.logits(val.features).argmax(1) == val.labels).mean()), None), held_out


def _sgd_epoch(
    model: nn.Linear, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, order: torch.Generator
) -> tuple[float, float]:
    """The training losses of an epoch: their mean over rows, and that of the last batch."""
    total = last = 0.0
    for rows in torch.randperm(len(y), generator=order).split(PAPER_BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        last = loss.item()
        total += last * len(rows)
    return total / len(y), last


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top1, macro precision, recall and F1 over all K classes, and top5 where K > 5, as fractions."""
    from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

    num_classes = logits.shape[1]
    every = np.arange(num_classes)
    predicted = logits.argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=every, average="macro", zero_division=0
    )
    scores = {
        "top1": float((predicted == labels).mean()),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
    }
    if num_classes > 5:
        scores["top5"] = float(top_k_accuracy_score(labels, logits, k=5, labels=every))
    return scores


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (K, K) counts: row true class, column predicted class."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, logits.argmax(1), labels=np.arange(logits.shape[1]))


def majority_top1(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the test accuracy of always answering the most frequent class of train."""
    return float((test_labels == np.bincount(train_labels).argmax()).mean())
