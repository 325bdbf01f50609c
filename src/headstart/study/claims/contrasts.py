"""Matched runs and the numbers of their differences: what every claim is made of."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from headstart.study import statistics
from headstart.study.claims.verdict import ALL, BY_DATASET, PAIRED_MEAN, Effect, hull, outcome, over_datasets
from headstart.study.rows import MATCHED, SCORE
from headstart.study.writing import counted as counted_words

MIN_CLUSTERS = 3  # least and greatest of two cover half of what they should
FEW_CLUSTERS = 15  # below, Student's interval of cluster means stands beside the bootstrap, which is too narrow there
PLANNED_SEEDS = (3, 5, 10)
BEST, BEST_BY_VALIDATION = "best minus best", "best by validation"
_VALUES = [SCORE, "probe_val_top1", "train_loss", "val_loss", "probe_num_test", "probe_num_val"]
_VALUES += ["autoencoder", "autoencoder_test_mse"]
_CHECKPOINT = ["dataset", "projector_hidden_dim", "seed", "protocol", "autoencoder"]


@dataclass(frozen=True)
class Contrast:
    """Matched runs of two arms, one row per pair.

    pairs: the cell's columns, `difference` of the scores in points, `checkpoint` (a label; "" where neither
    arm has an autoencoder) and both arms' values with the suffixes _first and _second.
    """

    name: str
    pairs: pd.DataFrame

    @property
    def num_seeds(self) -> int:
        """Seeds of the dataset that has the fewest."""
        return int(self.pairs.groupby("dataset")["seed"].nunique().min()) if len(self.pairs) else 0


def arm(rows: pd.DataFrame, init: str, frozen: bool | str) -> pd.DataFrame:
    """Return the runs of one initialisation, frozen or trainable, or with certain layers frozen."""
    return rows[(rows["projector_init"] == init) & (rows["projector_frozen"] == frozen)]


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
    pairs["difference"] = 100 * (pairs[f"{SCORE}_first"] - pairs[f"{SCORE}_second"])
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
    """Return the paired mean over all datasets and of each, a number per interval that can be had.

    Without any interval the mean stands alone. p: Student's of the same cluster means; Holm's over the datasets, of the
    largest p of each. Empty where no runs match.
    """
    pairs = contrast.pairs
    if pairs.empty:
        return []
    groups = [(str(name), _means(contrast, str(name), group)) for name, group in pairs.groupby("dataset")]
    largest = {name: max((row.p for row in own if not math.isnan(row.p)), default=math.nan) for name, own in groups}
    known = [name for name, p in largest.items() if not math.isnan(p)]
    p_holm = dict(zip(known, statistics.holm([largest[name] for name in known]), strict=True)) if known else {}
    effects = _means(contrast, ALL, pairs)
    for name, own in groups:
        effects += [replace(row, p_holm=float(p_holm[name])) if row.p == largest[name] else row for row in own]
    return effects


@dataclass(frozen=True)
class _Bounds:
    """An interval, what was drawn for it, and the p that goes with it."""

    low: float = math.nan
    high: float = math.nan
    kind: str = ""
    p: float = math.nan


def _intervals(pairs: pd.DataFrame) -> Iterator[_Bounds]:
    """The intervals of a mean difference; none from fewer than three pairs, nor where two seeds or two autoencoders
    are all that it stands on: what a third would give is unknown. A single one is no sample, and conclude tells it."""
    values = pairs["difference"].to_numpy()
    clusterings = {column: pairs[column].to_numpy() for column in ("checkpoint", "seed", "dataset")}
    numbers = {column: 0 if "" in set(labels) else len(set(labels)) for column, labels in clusterings.items()}
    if len(values) < MIN_CLUSTERS or 2 in (numbers["checkpoint"], numbers["seed"]):
        return
    yield _Bounds(*_ends(statistics.bootstrap_interval(values)), "bootstrap")
    if len(values) < FEW_CLUSTERS:
        bounds, p = statistics.student(values, np.arange(len(values)))
        alone = max(numbers.values()) <= 1 or numbers["seed"] == len(values)  # p is of independent pairs alone
        yield _Bounds(*_ends(bounds), f"Student ({len(values)})", p if alone else math.nan)
    for column, clusters in clusterings.items():
        if (number := numbers[column]) < MIN_CLUSTERS:
            continue
        kind = BY_DATASET if column == "dataset" else f"by {column}"
        bounds = statistics.bootstrap_interval(values, clusters)
        yield _Bounds(*_ends(bounds), f"bootstrap {kind} ({number})")
        if number < FEW_CLUSTERS:
            bounds, p = statistics.student(values, clusters)
            yield _Bounds(*_ends(bounds), f"Student {kind} ({number})", p)


def _ends(interval: statistics.Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _means(contrast: Contrast, dataset: str, pairs: pd.DataFrame) -> list[Effect]:
    values = pairs["difference"]
    value, median, wins = float(values.mean()), float(values.median()), float((values > 0).mean())
    return [
        counted(
            Effect(
                contrast.name,
                PAIRED_MEAN,
                dataset,
                value,
                bounds.low,
                bounds.high,
                bounds.kind,
                median=median,
                wins=wins,
                p=bounds.p,
            ),
            pairs,
        )
        for bounds in list(_intervals(pairs)) or [_Bounds()]
    ]


def counted(effect: Effect, pairs: pd.DataFrame) -> Effect:
    """Return the effect with the number of pairs, runs and seeds that it stands on."""
    num_runs = int(pairs["row_first"].nunique() + pairs["row_second"].nunique())
    return replace(effect, num_pairs=len(pairs), num_runs=num_runs, num_seeds=int(pairs["seed"].nunique()))


def best_effects(contrast: Contrast, by_validation: bool = False) -> list[Effect]:
    """Return the best run of the first arm minus the best of the second, per dataset and their mean over datasets.

    The best on the test split (what a maximum of a table is), or the one with the highest validation accuracy, where
    ties are averaged and the bounds are what breaking ties would make of it. p: see statistics.best_of_grid, clusters
    are seeds, or autoencoders where there is one seed; none of fewer than three. Empty where there is no pair, or no
    validation accuracy.
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
    p = math.nan if any(math.isnan(best.p) for best in bests) else statistics.permutation_p(value, null)
    mean = statistics.Best(value, low, high, p, null)
    note = ""
    if ties:
        note = f"{', '.join(ties)}: an arbitrary tie-break moves the mean between {low:.2f} and {high:.2f}"
    overall = replace(_best_effect(contrast, measure, ALL, mean, pairs, note), standard_error=math.nan)
    return [overall, *effects]


def _best(group: pd.DataFrame, by_validation: bool) -> statistics.Best:
    first, second = (100 * group[f"{SCORE}_{side}"].to_numpy() for side in ("first", "second"))
    chosen_by = (group["probe_val_top1_first"], group["probe_val_top1_second"]) if by_validation else None
    clusters = group["seed"] if group["seed"].nunique() > 1 else group["checkpoint"]
    best = statistics.best_of_grid(first, second, clusters, chosen_by)
    return best if clusters.nunique() >= MIN_CLUSTERS else replace(best, p=math.nan)


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
        statistics.binomial_error(pairs[f"{SCORE}_{side}"].max(), pairs[f"probe_num_test_{side}"].min())
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


def sentence(effects: Sequence[Effect], contrast: str, margin: float) -> str:
    """Return a contrast's paired mean in words: its interval, the one that decides, that over datasets, the outcome."""
    row = next(row for row in effects if (row.contrast, row.measure, row.dataset) == (contrast, PAIRED_MEAN, ALL))
    number = counted_words(row.num_pairs, "pair")
    if math.isnan(row.low):
        seeds = counted_words(row.num_seeds, "seed")
        return f"{contrast}: {row.value:+.2f} points over {number} of {seeds}: no interval."
    text = f"{contrast}: {row.value:+.2f} points [{row.low:.2f}, {row.high:.2f}] over {number}"
    low, high = hull(effects, contrast)
    if (low, high) != (row.low, row.high):
        text += f", widest interval [{low:.2f}, {high:.2f}]"
    if datasets := over_datasets(effects, contrast):
        text += f", over datasets [{datasets[0]:.2f}, {datasets[1]:.2f}]"
    return f"{text}: {outcome(low, high, margin)}."
