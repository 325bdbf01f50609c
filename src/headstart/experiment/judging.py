"""What a backbone is worth: scores of its frozen features on its own dataset and on others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from headstart.data.device_views import network_input
from headstart.data.views import Views, draw
from headstart.evaluation.evaluate import Evaluation, evaluate, evaluate_layers, num_fits
from headstart.evaluation.features import Allocate, extract_features, extract_layers
from headstart.evaluation.finetune import finetune
from headstart.evaluation.label_free import CLASSES, MANY, MOST, PAIR, RBF, VIEWS, label_free_scores
from headstart.evaluation.probe import Labelled, Linear, Probe, Splits, confusion, majority_top1
from headstart.evaluation.shift import same_classes, transfer_scores, zero_shot_top1
from headstart.experiment.prepared import Images, Prepared
from headstart.models.rbf import rbf_layers
from headstart.randomness import generator

BATCH = 500  # images that pass a network at once


class Progress(Protocol):
    """(number of fits, what is fitted) -> a context that yields what is to be called after each fit."""

    def __call__(self, total: int, what: str) -> Any:
        """Return the context."""


@contextmanager
def silent(total: int, what: str) -> Iterator[Callable[[], object]]:
    """Show nothing."""
    yield lambda: None


@dataclass(frozen=True)
class Judge:
    """Judges backbones on a dataset; allocate: where features lie; progress: how each judgement shows how it goes."""

    data: Prepared
    recipe: Probe
    views: Views
    seed: int
    allocate: Allocate
    progress: Progress = silent

    def evaluate(self, backbone: nn.Module, projector: nn.Sequential | None, what: str) -> Evaluation:
        """Return the evaluation of a backbone and, where the recipe asks for layers of its projector, of these."""
        layers = self._features(backbone, projector)
        features = layers.pop("backbone")
        fits = num_fits(self.recipe) + len(layers) + self.recipe.finetune_epochs
        with self.progress(fits, what) as on_fit:
            how = self._how(on_fit)
            result = evaluate(features, self.recipe, seed=self.seed, **how)
            scores, details = evaluate_layers(layers, self.recipe, **how)
            if self.recipe.finetune_epochs:
                scores["top1_finetuned"] = self._finetuned(backbone, features.train.features.shape[1], on_fit)
        return replace(result, scores=result.scores | scores, details=result.details | details)

    def evaluate_features(self, features: Splits, what: str) -> Evaluation:
        """Return the evaluation of features that no backbone gives."""
        with self.progress(num_fits(self.recipe), what) as on_fit:
            return evaluate(features, self.recipe, seed=self.seed, **self._how(on_fit))

    @torch.no_grad()
    def label_free(self, network: nn.Module, projector: nn.Sequential | None = None) -> dict[str, float]:
        """Return scores without labels of a network's features of test images; see label_free.SCORES.

        Those of two views, of at most MOST images. With a projector also those of VIEWS views, of at most CLASSES of
        these images, `NAME_output` of the projector's outputs, and those of its last RBF layer, if any. The views are
        those that SimCLR draws, by generator(seed, "label-free", view).
        """
        rows = _evenly(len(self.data.test.split.sizes), MOST)
        network.eval()
        if projector is None:
            return label_free_scores({PAIR: [torch.cat([self._view(network, rows, k) for k in range(2)])]})
        some = _evenly(len(rows), CLASSES)
        seen = [self._view(network, rows if k < 2 else rows[some], k) for k in range(VIEWS)]
        outputs = [projector.eval()(features) for features in seen]
        *_, last = (None, *rbf_layers(projector))
        scores = label_free_scores({RBF: last} if last else {})
        for suffix, views in (("", seen), ("_output", outputs)):
            several = torch.stack([view[some.to(view.device)] if k < 2 else view for k, view in enumerate(views)])
            found = label_free_scores({PAIR: [torch.cat(views[:2])], MANY: [several]})
            scores |= {f"{name}{suffix}": value for name, value in found.items()}
        return scores

    def _view(self, network: nn.Module, rows: Tensor, number: int) -> Tensor:
        """Features (N, D) of a random view of each of these test images."""
        test, device = self.data.test, self.data.device
        images, sizes = test.split.images[rows.to(device)], test.split.sizes[rows]
        drawn = draw(self.views, sizes, generator(self.seed, "label-free", number)).to(device)
        x_NCHW = network_input(images, drawn, self.views, test.size, test.standardize)
        return torch.cat([network(part) for part in x_NCHW.split(BATCH)])

    def features(self, backbone: nn.Module) -> dict[str, np.ndarray]:
        """Return split -> (N, D) float32 features of all its images, labelled or not."""
        return {
            name: extract_features(backbone, images.split, images.size, images.standardize)
            for name, images in self.data.splits.items()
        }

    def _how(self, on_fit: Callable[[], object]) -> dict[str, Any]:
        return {"num_classes": self.data.num_classes, "on_fit": on_fit, "device": self.data.device}

    def _features(self, backbone: nn.Module, projector: nn.Sequential | None) -> dict[str, Splits]:
        # `hidden` names every hidden layer of a deep head
        wanted = tuple(name for name in self.recipe.layers if name != "backbone")
        head = projector if wanted else None

        def layers_of(images: Images) -> dict[str, Labelled]:
            found = extract_layers(
                backbone, head, images.split, images.size, images.standardize, allocate=self.allocate
            )
            kept = {name: values for name, values in found.items() if name.startswith(("backbone", *wanted))}
            return {name: Labelled(values, images.split.labels.numpy()) for name, values in kept.items()}

        train, val, test = (layers_of(images) for images in (self.data.train, self.data.val, self.data.test))
        return {name: Splits(train[name], val[name], test[name]) for name in train}

    def _finetuned(self, backbone: nn.Module, num_features: int, on_fit: Callable[[], object]) -> float:
        data = self.data
        return finetune(
            backbone,
            data.train.split,
            data.test.split,
            self.views,
            data.size,
            data.train.standardize,
            num_features=num_features,
            num_classes=data.num_classes,
            epochs=self.recipe.finetune_epochs,
            seed=self.seed,
            on_epoch=on_fit,
        )


def _evenly(number: int, most: int) -> Tensor:
    """At most so many of `number` rows, evenly spaced."""
    return torch.arange(min(number, most)) * number // min(number, most)


def unlabelled_summary(scores: dict[str, float], num_images: int) -> dict[str, Any]:
    """Return what summary.json says of a trained backbone where there are no labels."""
    return {"trained": scores, "num_judged": num_images, "labels": False}


def summary(trained: Evaluation) -> dict[str, Any]:
    """Return what summary.json says of a trained backbone."""
    return {
        "trained": trained.scores,
        "num_test": len(trained.tested.labels),
        "details": {"trained": trained.details},
    }


def confused(trained: Evaluation) -> np.ndarray:
    """Return (K, K) counts of a trained backbone's probe: row true class, column predicted class."""
    return confusion(trained.probe.logits(trained.tested.features), trained.tested.labels)


def majority(data: Prepared) -> float:
    """Return the test accuracy of always saying the train split's commonest class."""
    return majority_top1(data.train.split.labels.numpy(), data.test.split.labels.numpy())


def per_class(counts: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row per class of a confusion's counts: its test images and their accuracy."""
    return [
        {"class": name, "num_test": int(row.sum()), "accuracy": round(float(row[k] / max(row.sum(), 1)), 6)}
        for k, (name, row) in enumerate(zip(classes, counts, strict=True))
    ]


def judge_elsewhere(backbone: nn.Module, target: Prepared, strengths: list[float]) -> tuple[dict[str, float], Splits]:
    """Return a backbone's scores on another dataset, by probes fitted there, and its features there."""
    features = Splits(
        *(
            Labelled(
                extract_features(backbone, images.split, images.size, images.standardize), images.split.labels.numpy()
            )
            for images in (target.train, target.val, target.test)
        )
    )
    return transfer_scores(features, strengths, num_classes=target.num_classes, device=target.device), features


def own_probe_elsewhere(
    probe: Linear, features: Splits, classes: tuple[str, ...], target: Prepared
) -> dict[str, float]:
    """Return the accuracy of the run's own probe, as it is, on another dataset; nothing where classes differ."""
    places = same_classes(list(classes), list(target.classes))
    return {} if places is None else {"top1_zero_shot": zero_shot_top1(probe, features.test, places)}
