"""Synthetic runs with known effects, and the paper's published ones where they are at hand."""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headstart.study import rows

Row = dict[str, Any]
ARMS = (("autoencoder", True), ("random", False))


def needs_paper() -> Path:
    """The folder of the published runs; without it the calling test is skipped."""
    folder = os.environ.get("HEADSTART_TEST_PAPER")
    if not folder:
        pytest.skip("HEADSTART_TEST_PAPER names no folder with the paper's published runs")
    return Path(folder)


def needs_rbf_paper() -> Path:
    """The folder of the published runs of RBF heads; without it the calling test is skipped."""
    folder = os.environ.get("HEADSTART_TEST_RBF_PAPER")
    if not folder:
        pytest.skip("HEADSTART_TEST_RBF_PAPER names no folder with the published runs of arXiv:2606.21590")
    return Path(folder)


def make(
    accuracy: Callable[[Row], float],
    arms: Iterable[tuple[str, bool]] = ARMS,
    *,
    datasets: Sequence[str] = ("digits",),
    hidden: Sequence[int] = (128,),
    out: Sequence[int] = (32, 64, 128),
    activations: Sequence[str] = ("relu", "tanh"),
    standardize: Sequence[bool] = (False,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    noise: float = 0.002,
) -> pd.DataFrame:
    """Finished runs of a full grid: test accuracy `accuracy(row)` plus normal noise, losses 5 minus accuracy."""
    random = np.random.default_rng(7)
    records = []
    for (init, frozen), dataset, width, dim, activation, standard, seed in itertools.product(
        arms, datasets, hidden, out, activations, standardize, seeds
    ):
        row: Row = {
            "dataset": dataset,
            "projector_init": init,
            "projector_frozen": frozen,
            "projector_hidden_dim": width,
            "projector_out_dim": dim,
            "projector_activation": activation,
            "standardize": standard,
            "seed": seed,
            "protocol": "p",
        }
        if init.startswith("autoencoder") or init == "random_matched":
            row |= {"autoencoder": "ae", "autoencoder_test_mse": 0.01 + 0.001 * seed + width / 1e5}
        top1 = accuracy(row) + noise * random.standard_normal()
        row |= {"probe_test_top1": top1, "probe_val_top1": top1, "train_loss": 5 - top1, "val_loss": 5 - top1}
        records.append(row)
    return rows.finished(rows.to_rows(records, "synthetic"), "synthetic").runs
