"""Matched runs and the numbers of their differences: what every claim is made of."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from headstart.study import statistics
from headstart.study.claims.verdict import ALL, BY_DATASET, PAIRED_MEAN, Effect, hull, over_datasets
from headstart.study.rows import MATCHED

MIN_CLUSTERS = 3  # two tell nothing of their spread
FEW_CLUSTERS = 10  # below, Student's interval of cluster means stands beside the bootstrap
PLANNED_SEEDS = (3, 5, 10)
BEST, BEST_BY_VALIDATION = "best minus best", "best by validation"
_VALUES = ["probe_test_top1", "probe_val_top1", "train_loss", "val_loss", "probe_num_test", "probe_num_val"]
_VALUES += ["autoencoder", "autoencoder_test_mse"]
_CHECKPOINT = ["dataset", "projector_hidden_dim", "seed", "protocol", "autoencoder"]


@dataclass(frozen=True)
class Contrast:
    """Matched runs of two arms, one row per pair.

    pairs: the cell's columns, `difference` of the test accuracies in points, `checkpoint` (a label; "" where neither
    arm has an autoencoder) and both arms' values with the suffixes _first and _second.
    """

    name: str
    pairs: pd.DataFrame

    @property
    def num_seeds(self) -> int:
        """Seeds of the dataset that has the fewest."""
        return int(self.pairs.groupby("dataset")["seed"].nunique().min()) if len(self.pairs) else 0


def arm(rows: pd.DataFrame, init: str, frozen: bool) -> pd.DataFrame:
    """Return the runs of one initialisation, frozen or trainable."""
    return rows[(rows["projector_init"] == init) & (rows["projector_frozen"] == frozen)]


def arm_name(init: str, frozen: bool) -> str:
    """Return how tables call an arm."""
    return f"{init} ({'frozen' if frozen else 'trainable'})"


def match(name: str, first: pd.DataFrame, second: pd.DataFrame, varied: Collection[str] = ()) -> Contrast:
    """Pair the runs of two arms that agree in their cell but for `varied` and, where both have one, in the autoencoder.

    Another hidden width is another autoencoder: where that varies, autoencoders do.
    """
    keys = [column for column in MATCHED if column not in varied]
    pretrained = all((part["autoencoder"] != "").all() for part in (first, second))
    if pretrained and "projector_hidden_dim" not in varied:
        keys.append("autoencoder")
    carried = [column for column in (*_VALUES, *varied) if column not in keys]
    sides = [part.assign(row=part.index)[[*keys, *carried, "row"]] for part in (first, second)]
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("_first", "_second"))
    pairs["difference"] = 100 * (pairs["probe_test_top1_first"] - pairs["probe_test_top1_second"])
    if "autoencoder" not in keys:
        own = pairs["autoencoder_first"]
        pairs["autoencoder"] = own.where(own != "", pairs["autoencoder_second"])
    pairs["checkpoint"] = _checkpoints(pairs)
    return Contrast(name, pairs)


def _checkpoints(pairs: pd.DataFrame) -> pd.Series:
    parts = [pairs[column].astype(str) for column in _CHECKPOINT if column in pairs]
    label = parts[0].str.cat(parts[1:], sep=" ")
    return label.where(pairs["autoencoder"] != "", "")


def paired_effects(contrast: Contrast) -> list[Effect]:
    """Return the paired mean over all datasets with every interval that can be had, and per dataset with Wilcoxon's p.

    Empty where no runs match.
    """
    pairs = contrast.pairs
    if pairs.empty:
        return []
    effects = [_mean(contrast, ALL, pairs, *interval) for interval in _intervals(pairs)]
    effects[0] = replace(effects[0], p=statistics.wilcoxon_p(pairs["difference"]))
    groups = [(str(name), group) for name, group in pairs.groupby("dataset")]
    p_values = [statistics.wilcoxon_p(group["difference"]) for _, group in groups]
    for (name, group), p, p_holm in zip(groups, p_values, statistics.holm(p_values), strict=True):
        bounds = statistics.bootstrap_interval(group["difference"])
        effects.append(replace(_mean(contrast, name, group, "bootstrap", bounds), p=p, p_holm=float(p_holm)))
    return effects


def _intervals(pairs: pd.DataFrame) -> Iterator[tuple[str, statistics.Interval]]:
    values = pairs["difference"].to_numpy()
    yield "bootstrap", statistics.bootstrap_interval(values)
    for column in ("checkpoint", "seed", "dataset"):
        clusters = pairs[column].to_numpy()
        number = pairs[column].nunique()
        if number < MIN_CLUSTERS or "" in set(clusters):
            continue
        kind = BY_DATASET if column == "dataset" else f"by {column}"
        yield f"bootstrap {kind} ({number})", statistics.bootstrap_interval(values, clusters)
        if number < FEW_CLUSTERS:
            yield f"Student {kind} ({number})", statistics.student_interval(values, clusters)


def _mean(contrast: Contrast, dataset: str, pairs: pd.DataFrame, interval: str, bounds: statistics.Interval) -> Effect:
    values = pairs["difference"]
    effect = Effect(contrast.name, PAIRED_MEAN, dataset, float(values.mean()), bounds.low, bounds.high, interval)
    return counted(replace(effect, median=float(values.median()), wins=float((values > 0).mean())), pairs)


def counted(effect: Effect, pairs: pd.DataFrame) -> Effect:
    """Return the effect with the number of pairs, runs and seeds that it stands on."""
    num_runs = int(pairs["row_first"].nunique() + pairs["row_second"].nunique())
    return replace(effect, num_pairs=len(pairs), num_runs=num_runs, num_seeds=int(pairs["seed"].nunique()))


def best_effects(contrast: Contrast, by_validation: bool = False) -> list[Effect]:
    """Return the best run of the first arm minus the best of the second, per dataset and their mean over datasets.

    The best on the test split (what a maximum of a table is), or the one with the highest validation accuracy, where
    ties are averaged and the bounds are what breaking ties would make of it. p: see statistics.best_of_grid.
    Empty where there is no pair, or no validation accuracy.
    """
    pairs = contrast.pairs
    if pairs.empty or (
        by_validation and pairs[["probe_val_top1_first", "probe_val_top1_second"]].isna().any(axis=None)
    ):
        return []
    measure = BEST_BY_VALIDATION if by_validation else BEST
    effects, bests, ties = [], [], []
    for name, group in pairs.groupby("dataset"):
        best = _best(group, by_validation)
        note = ""
        if best.low < best.high:
            note = f"runs tie on {_images(group['probe_num_val_first'])}validation images"
            ties.append(f"{name} has ties on its {_images(group['probe_num_val_first'])}validation images")
        effects.append(_best_effect(contrast, measure, str(name), best, group, note))
        bests.append(best)
    null = np.mean([best.null for best in bests], axis=0)
    value, low, high = (float(np.mean([getattr(best, key) for best in bests])) for key in ("value", "low", "high"))
    mean = statistics.Best(value, low, high, statistics.permutation_p(value, null), null)
    note = ""
    if ties:
        note = f"{', '.join(ties)}: an arbitrary tie-break moves the mean between {low:.2f} and {high:.2f}"
    overall = replace(_best_effect(contrast, measure, ALL, mean, pairs, note), standard_error=math.nan)
    return [overall, *effects]


def _best(group: pd.DataFrame, by_validation: bool) -> statistics.Best:
    first, second = (100 * group[f"probe_test_top1_{side}"].to_numpy() for side in ("first", "second"))
    chosen_by = (group["probe_val_top1_first"], group["probe_val_top1_second"]) if by_validation else None
    return statistics.best_of_grid(first, second, chosen_by)


def _best_effect(
    contrast: Contrast, measure: str, dataset: str, best: statistics.Best, pairs: pd.DataFrame, note: str
) -> Effect:
    effect = counted(Effect(contrast.name, measure, dataset, best.value, p=best.p, note=note), pairs)
    if best.low < best.high:
        effect = replace(effect, low=best.low, high=best.high, interval="ties")
    return replace(effect, standard_error=_standard_error(pairs))


def _standard_error(pairs: pd.DataFrame) -> float:
    """Of the difference of two accuracies as high as the best ones, from the number of test images alone."""
    first, second = (
        statistics.binomial_error(pairs[f"probe_test_top1_{side}"].max(), pairs[f"probe_num_test_{side}"].min())
        for side in ("first", "second")
    )
    return 100 * math.hypot(first, second)


def _images(numbers: pd.Series) -> str:
    return f"{numbers.min():.0f} " if numbers.notna().all() else ""


def planning_effects(contrast: Contrast) -> list[Effect]:
    """Return the smallest mean difference that 3, 5 and 10 seeds would find (power 0.8, level 0.05).

    From the spread of the difference between seeds; from one seed alone, from that between its pairs: a lower bound.
    """
    pairs = contrast.pairs
    if len(pairs) < 2:
        return []
    means = statistics.cluster_means(pairs["difference"], pairs["seed"])
    if len(means) > 1:
        spread, note = means.std(ddof=1), ""
    else:
        spread = pairs["difference"].std() / np.sqrt(len(pairs))
        note = "at least: the spread between seeds is unknown"
    effects = []
    for number in PLANNED_SEEDS:
        value = statistics.minimal_detectable_effect(float(spread), number)
        effects.append(counted(Effect(contrast.name, f"detectable with {number} seeds", ALL, value, note=note), pairs))
    return effects


def sentence(effects: Sequence[Effect], contrast: str) -> str:
    """Return a contrast's paired mean in words, with its own interval, the one that decides and that over datasets."""
    row = next(row for row in effects if (row.contrast, row.measure, row.dataset) == (contrast, PAIRED_MEAN, ALL))
    text = f"{contrast}: {row.value:+.2f} points [{row.low:.2f}, {row.high:.2f}] over {row.num_pairs} pairs"
    low, high = hull(effects, contrast)
    if (low, high) != (row.low, row.high):
        text += f", widest interval [{low:.2f}, {high:.2f}]"
    datasets = over_datasets(effects, contrast)
    return text + (f", over datasets [{datasets[0]:.2f}, {datasets[1]:.2f}]." if datasets else ".")
