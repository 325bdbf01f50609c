"""Linear probes on 10,000 x 512 features: seconds, and the objective against scikit-learn's tight minimum."""

import time

import numpy as np
import torch

from benchmarks.measure import Row, interleave, spread
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.probe import Labelled, Linear, Probe, Splits, converged_probe, paper_probe, standardisation

STRENGTHS = [0.0001, 0.001, 0.01, 0.1, 1.0]
# The first leaves about as much of the objective as ours; the second is the oracle
TOLERANCES = (1e-5, 1e-8)
AUTHORS_SECONDS = 450  # wall seconds of the authors' evaluation, from their published runs
NUM_CLASSES, WIDTH = 10, 512


def features(num: int, seed: int) -> Labelled:
    """Return rectified Gaussian clusters, correlated and of unequal scale as backbone features are."""
    shared, random = np.random.default_rng(0), np.random.default_rng([seed, 1])
    centres = shared.normal(size=(NUM_CLASSES, 32))
    mixing = shared.normal(size=(32, WIDTH)) * shared.uniform(0.05, 1, WIDTH)
    labels = random.integers(NUM_CLASSES, size=num)
    latent = centres[labels] + 1.5 * random.normal(size=(num, 32))
    values = np.maximum(latent @ mixing + 0.5 * random.normal(size=(num, WIDTH)), 0)
    return Labelled(values.astype(np.float32), labels.astype(np.int64))


def objective(probe: Linear, data: Labelled, strength: float) -> float:
    """Return C * sum of cross-entropies + |W|^2 / 2, scikit-learn's objective, in float64."""
    logits = torch.from_numpy(probe.logits(data.features))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels), reduction="sum").item()
    return strength * loss + float((probe.weight**2).sum()) / 2


def theirs(data: Labelled, strength: float, tolerance: float) -> tuple[float, float]:
    """Return the objective that scikit-learn reaches at a tolerance of its own kind, and its seconds."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = standardisation(data.features)
    started = time.perf_counter()
    model = LogisticRegression(C=strength, tol=tolerance, max_iter=50_000)
    model.fit((data.features - mean) / scale, data.labels)
    seconds = time.perf_counter() - started
    return objective(Linear(model.coef_, model.intercept_, mean, scale), data, strength), seconds


FEW = Probe("converged", STRENGTHS, [1, 5, 10], [], 5, ["backbone"], [], 0)
GPU_SECONDS = 3.0


def evaluation(num: int, device: torch.device) -> Row:
    """Return the seconds of a whole evaluation by the default recipe: five strengths, 3 x 5 few-label probes."""
    splits = Splits(features(num, 0), features(num // 9, 1), features(num // 5, 2))
    begun = time.perf_counter()
    evaluate(splits, FEW, num_classes=NUM_CLASSES, seed=0, device=device)
    seconds = time.perf_counter() - begun
    bar = GPU_SECONDS if device.type == "cuda" else None
    return Row(f"{num:,} x {WIDTH}: the default evaluation", seconds, unit="s", bar=bar, at_most=True)


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure both protocols and the gap to the least objective at every strength."""
    num = 1000 if quick else 10_000
    train, val = features(num, 0), features(num // 10, 1)
    rows = []
    excess, seconds_of = list[float](), dict.fromkeys(TOLERANCES, 0.0)
    gaps = dict.fromkeys(TOLERANCES, 0.0)
    for strength in STRENGTHS:
        fit = converged_probe(train, val, [strength], NUM_CLASSES)
        found = {tolerance: theirs(train, strength, tolerance) for tolerance in TOLERANCES}
        least = found[min(TOLERANCES)][0]
        excess.append(objective(fit.probe, train, strength) / least - 1)
        for tolerance, (reached, seconds) in found.items():
            seconds_of[tolerance] += seconds
            gaps[tolerance] = max(gaps[tolerance], reached / least - 1)
    seconds = interleave(
        {
            "converged": lambda: converged_probe(train, val, STRENGTHS, NUM_CLASSES),
            "paper": lambda: paper_probe(train, NUM_CLASSES, seed=0),
        },
        2 if quick else 5,
        device,
        warm_ups=0,
    )
    worst = "the greatest over the five strengths"
    rows.append(Row("objective above its minimum, relative", max(excess), bar=1e-4, at_most=True, note=worst))
    rows.append(spread("converged, five strengths, the default", seconds["converged"], "s"))
    for tolerance in TOLERANCES:
        case = f"scikit-learn at tolerance {tolerance:g}, five strengths"
        rows.append(Row(case, seconds_of[tolerance], unit="s", note=f"its objective: {gaps[tolerance]:.1e} above"))
    rows.append(spread("the paper's protocol (70/10/20)", seconds["paper"], "s"))
    gains = [AUTHORS_SECONDS / lap for lap in seconds["paper"]]
    rows.append(spread("the authors' 450 s over the paper's protocol", gains, "x", note="theirs on another machine"))
    evaluation(1000, device)  # a GPU's libraries start
    rows.append(evaluation(1000 if quick else 45_000, device))
    return rows, "fp32 products, fp64 solver"
