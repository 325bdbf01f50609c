"""Weighted k-nearest-neighbour classification by cosine similarity: what features say without a fitted probe."""

from collections.abc import Sequence

import numpy as np
import torch

NEIGHBOURS = (10, 20, 200)
TEMPERATURE = 0.07  # Wu et al. 2018, section 3.4
TILE = 2**24  # similarities held at once: 64 MiB
CPU = torch.device("cpu")


@torch.no_grad()
def nearest_neighbours(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    ks: Sequence[int] = NEIGHBOURS,
    device: torch.device = CPU,
) -> dict[int, np.ndarray]:
    """Return, for each k, the classes (N,) int64 that the k most similar of M train rows vote for.

    train: (M, D), labels: (M,) int64 below num_classes, test: (N, D), features float32. A neighbour of cosine s has
    exp(s / TEMPERATURE) votes; of classes that tie the first wins. Exact: every pair is compared, a tile of test rows
    at a time, on `device`. A k above M means all M rows.
    """
    x_train, y_train = torch.from_numpy(train).to(device), torch.from_numpy(labels).to(device)
    x_train = torch.nn.functional.normalize(x_train)
    found: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for x_test in torch.from_numpy(test).split(max(1, TILE // len(train))):
        similarities = torch.nn.functional.normalize(x_test.to(device)) @ x_train.T
        top, places = similarities.topk(min(max(ks), len(train)))
        votes, voted = (top / TEMPERATURE).exp_(), y_train[places]
        for k in ks:
            counts = votes.new_zeros(len(x_test), num_classes).scatter_add_(1, voted[:, :k], votes[:, :k])
            found[k].append(counts.argmax(1).cpu().numpy())
    return {k: np.concatenate(parts) for k, parts in found.items()}
