"""Nearest neighbours at CIFAR-10's size, 50,000 x 10,000 x 512: seconds, memory, agreement with scikit-learn."""

import json
import sys
import time

import numpy as np
import torch

from benchmarks.measure import Row, in_new_process, peak_bytes, reset_peak, spread
from headstart.evaluation.neighbours import NEIGHBOURS, TEMPERATURE, nearest_neighbours

TRAIN, TEST, WIDTH, NUM_CLASSES = 50_000, 10_000, 512, 10
COMPARED = 500  # test rows that scikit-learn judges too
MAX_SECONDS, MAX_GIB = 30, 2


def features(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rectified Gaussian clusters that overlap, as backbone features are, and their labels."""
    shared, random = np.random.default_rng(0), np.random.default_rng([seed, 1])
    centres = shared.normal(size=(NUM_CLASSES, WIDTH)).astype(np.float32)
    labels = random.integers(NUM_CLASSES, size=num)
    noise = random.standard_normal((num, WIDTH), dtype=np.float32)
    return np.maximum(0.1 * centres[labels] + noise, 0), labels


def agreement(train: int) -> float:
    """Return the share of rows of which scikit-learn's classifier, in float64, says the same class, for both k."""
    from sklearn.neighbors import KNeighborsClassifier

    (x_train, y_train), (x_test, _) = features(train, 0), features(COMPARED, 1)
    ours = nearest_neighbours(x_train, y_train, x_test, NUM_CLASSES)
    same = []
    for k, classes in ours.items():
        weights = lambda distances: np.exp((1 - distances) / TEMPERATURE)  # noqa: E731
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        theirs = model.fit(x_train.astype(np.float64), y_train).predict(x_test.astype(np.float64))
        same.append((theirs == classes).mean())
    return float(min(same))


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure on the CPU, in processes of their own: the peak of memory is theirs, Python and torch included."""
    train, test = (2000, 400) if quick else (TRAIN, TEST)
    runs = [in_new_process("benchmarks.neighbours", train, test) for _ in range(1 if quick else 5)]
    case = f"{train:,} x {test:,} x {WIDTH}, k = {' and '.join(map(str, NEIGHBOURS))}"
    if error := next((run["error"] for run in runs if "error" in run), None):
        return [Row(case, None, note=error)], "fp32"
    rows = [
        spread(case, [run["seconds"] for run in runs], "s", bar=MAX_SECONDS, at_most=True),
        spread("peak of the process", [run["bytes"] / 2**30 for run in runs], "GiB", bar=MAX_GIB, at_most=True),
        Row("same classes as scikit-learn's", agreement(train), bar=0.995, note=f"{COMPARED} rows, the worse k"),
    ]
    return rows, "fp32"


if __name__ == "__main__":
    (x_train, y_train), (x_test, _) = features(int(sys.argv[1]), 0), features(int(sys.argv[2]), 1)
    cpu = torch.device("cpu")
    reset_peak(cpu)
    started = time.perf_counter()
    nearest_neighbours(x_train, y_train, x_test, NUM_CLASSES)
    print(json.dumps({"seconds": time.perf_counter() - started, "bytes": peak_bytes(cpu)}))
