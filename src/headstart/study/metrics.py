"""Every number of a run, once: its name in files, where the stages leave it, its column of rows, its title on pages.

A new metric is a line of METRICS beside the code that computes it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import Any

SHARE = "fraction"
LOSS = "nats"  # of NT-Xent and DCL, none of VICReg
SIZE = "size"  # a number that is not negative: an error, a ratio, a strength
SIGNED = "number"  # of any sign
COUNT = "count"
LEVEL = "dB"


@dataclass(frozen=True)
class Metric:
    """One number of a run on a dataset.

    key: its name in metrics files, "" where readers make it of several others; `#` stands for digits, `*` for the name
    of another dataset. title: its heading on pages. column: its column of rows, "" where rows do not have it. at: where
    the stages' summaries hold it. watched: in metrics.json, which people compare. better: one of BETTER, for what needs
    no labels: which value is taken to speak for a backbone.
    """

    key: str
    title: str
    unit: str = SHARE
    column: str = ""
    at: str = ""
    watched: bool = False
    better: str = ""


MORE, LESS, NEAR_1 = "more", "less", "near 1"
BETTER: dict[str, Callable[[float], float]] = {  # how a score is turned, so that more is better
    MORE: lambda value: value,
    LESS: lambda value: -value,
    NEAR_1: lambda value: -abs(value - 1),
}


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\#", r"([\d_]+)").replace(r"\*", "(.+)"))


def _probe(key: str, title: str, unit: str = SHARE, column: str = "", **more: Any) -> Metric:
    return Metric(key, title, unit, column, f"probe.trained.{key}", **more)


def _baseline(metric: Metric, name: str = "untrained", **more: Any) -> Metric:
    """The same number of what no training precedes: a name of BASELINES."""
    column = f"probe_{name}_{metric.key}" if metric.key in SCORES else ""
    own: dict[str, Any] = {"watched": False, "title": f"{metric.title}, {BASELINES[name]}"}
    at = metric.at.replace("probe.trained.", f"baselines.{name}.")
    return replace(metric, key=f"{metric.key}_{name}", column=column, at=at, **own | more)


def _of_output(metric: Metric) -> Metric:
    """The same number of the projector's outputs."""
    names = {name: f"{getattr(metric, name)}_output" for name in ("key", "column", "at")}
    return replace(metric, **names, title=f"{metric.title}, projector's output", watched=False)


def _trained(name: str) -> tuple[str, str]:
    """Column and place of what mechanism.summarised found."""
    return name, f"training.{name}"


TOP1 = "top1"
# What a backbone may be chosen and compared by -> its column of rows
SCORES = {
    TOP1: "probe_test_top1",
    **{name: f"probe_{name}" for name in ("few1", "few5", "few10", "knn20", "knn200")},
}
# What no training precedes: batch norm as it is initialised, with statistics of train images, and no network at all
BASELINES = {"untrained": "untrained", "calibrated": "calibrated", "pixels": "raw pixels"}

_TOP1 = _probe("top1", "top-1", column="probe_test_top1", watched=True)
_FEW5 = _probe("few5", "5 labels per class", column="probe_few5", watched=True)
_BOTH = (  # of probes on the trained and on the untrained backbone
    _probe("macro_f1", "macro F1", column="probe_test_macro_f1"),
    _probe("macro_precision", "macro precision"),
    _probe("macro_recall", "macro recall", column="probe_test_macro_recall"),
    _probe("top5", "top-5"),
    _probe("few1", "1 label per class", column="probe_few1"),
    _probe("few10", "10 labels per class", column="probe_few10"),
    _probe("few#", "# labels per class"),
    _probe("few#_std", "# labels per class, deviation over draws"),
    _probe("few#pct", "# % of the labels"),
    _probe("few#pct_std", "# % of the labels, deviation over draws"),
    _probe("knn10", "10 nearest neighbours"),
    _probe("knn200", "200 nearest neighbours", column="probe_knn200"),
    _probe("top1_converged", "top-1, converged probe"),
    _probe("top1_finetuned", "top-1, fine-tuned"),
)
_FREE = (  # of scores without labels; watched where there are no labels
    _probe("view_top1", "own view found", column="probe_view_top1", watched=True, better=MORE),
    _probe("rankme", "RankMe", SIZE, "probe_rankme", watched=True, better=MORE),
    _probe("alignment", "alignment", SIZE, "probe_alignment", better=LESS),
    _probe("uniformity", "uniformity", LOSS, "probe_uniformity", better=LESS),
    _probe("effective_rank", "effective rank", SIZE, "probe_effective_rank", better=MORE),
    _probe("alpha_req", "alpha-ReQ", SIZE, "probe_alpha_req", better=NEAR_1),
)
_LIDAR = _probe("lidar", "LiDAR", SIZE, "probe_lidar", better=MORE)
_KNN20 = _probe("knn20", "20 nearest neighbours", column="probe_knn20", watched=True)
_ECE = _probe("ece", "calibration error", column="probe_ece", watched=True)

# The first that fits a name tells of it; `dvc exp show` has those that are watched as columns in this order.
METRICS = (
    _TOP1,
    _FEW5,
    _KNN20,
    _ECE,
    Metric("val_loss", "validation loss", LOSS, "val_loss", "simclr.val_loss", watched=True, better=LESS),
    Metric(
        *("autoencoder_test_mse", "autoencoder test MSE", SIZE),
        *("autoencoder_test_mse", "simclr.autoencoder.test_mse"),
        watched=True,
    ),
    _baseline(_TOP1, title="untrained", watched=True),
    _baseline(_TOP1, "calibrated", title="calibrated", watched=True),
    _baseline(_TOP1, "pixels", title="raw pixels", watched=True),
    _baseline(_FEW5, watched=True),
    Metric("top1_majority", "majority", at="baselines.majority.top1"),
    *_BOTH,
    *(_baseline(metric) for metric in (*_BOTH, _KNN20, _ECE)),
    *(_baseline(metric, name) for name in ("calibrated", "pixels") for metric in (_FEW5, *_BOTH, _KNN20, _ECE)),
    *_FREE,
    _LIDAR,
    *map(_of_output, (*_FREE, _LIDAR)),
    _probe("sns", "SNS", SIZE, "probe_sns", better=MORE),
    *(_baseline(metric, watched=metric.key == "view_top1") for metric in _FREE),
    *(_baseline(metric, name) for name in ("calibrated", "pixels") for metric in _FREE),
    _probe("top1_hidden", "top-1, hidden layer", column="probe_hidden_top1"),
    _probe("top1_hidden#", "top-1, hidden layer #"),
    _probe("top1_output", "top-1, projector's output", column="probe_output_top1"),
    _probe("val_top1", "validation top-1", column="probe_val_top1"),
    _probe("strength", "regularisation", SIZE),
    Metric("num_test", "test images", COUNT, "probe_num_test", "probe.num_test"),
    Metric("train_loss", "training loss", LOSS, "train_loss", "simclr.train_loss"),
    Metric("best_epoch", "best epoch", COUNT, at="simclr.best_epoch"),
    Metric(
        *("autoencoder_test_psnr", "autoencoder test PSNR", LEVEL),
        *("autoencoder_test_psnr", "simclr.autoencoder.test_psnr"),
    ),
    Metric(
        *("autoencoder_mean_image_mse", "test MSE of the mean image", SIZE),
        *("autoencoder_mean_image_mse", "simclr.autoencoder.mean_image_mse"),
    ),
    Metric("autoencoder_num_parameters", "autoencoder parameters", COUNT, at="simclr.autoencoder.num_parameters"),
    Metric("early_gradient_ratio", "early gradient ratio", SIZE, "early_gradient_ratio", "early.early_gradient_ratio"),
    Metric("early_saturated", "early saturation", SHARE, "early_saturated", "early.early_saturated"),
    Metric("late_rank_backbone", "effective rank of features at the end", SIZE, *_trained("late_rank_backbone")),
    Metric("late_rank_hidden", "effective rank of the hidden layer at the end", SIZE, *_trained("late_rank_hidden")),
    Metric("late_rank_output", "effective rank of the output at the end", SIZE, *_trained("late_rank_output")),
    Metric("late_drift", "drift of the head's first layer", SIZE, *_trained("late_drift")),
    Metric("late_cosine", "cosine of the head's first layer with its start", SIGNED, *_trained("late_cosine")),
    Metric("gradient_share", "the backbone's share of the gradient", SHARE, *_trained("gradient_share")),
    Metric("top1_on_*_untrained", "untrained, on *", at="transfer.*.untrained.top1"),
    Metric("top1_on_*", "top-1 on *", at="transfer.*.trained.top1"),
    Metric("knn20_on_*", "20 nearest neighbours on *", at="transfer.*.trained.knn20"),
    Metric("top1_zero_shot_on_*", "its own probe on *", at="transfer.*.trained.top1_zero_shot"),
    # ---- of several others, or of published runs alone
    Metric("", "validation images", COUNT, "probe_num_val"),
    Metric("", "top-1 on other datasets", column="transfer_top1"),  # mean over those of other classes: probes there
    Metric("", "untrained, on other datasets", column="transfer_untrained_top1"),
    Metric("", "top-1 under shift", column="shift_top1"),  # mean over those of the same classes: the run's own probe
)
LABEL_FREE = {metric.column: metric for metric in METRICS if metric.better and metric.column}
COLUMNS = {metric.column: metric.key for metric in METRICS if metric.column and metric.key}
_SHARES = {metric.column for metric in METRICS if metric.column and metric.unit == SHARE}


def is_share(column: str) -> bool:
    """Return whether a column of rows holds fractions."""
    return column in _SHARES


def heading(column: str) -> str:
    """Return a column of rows in words, with the unit of a number: "top-1, %", "activation"."""
    for metric in METRICS:
        if metric.column == column:
            unit = {SHARE: "%", LEVEL: LEVEL}.get(metric.unit)
            return f"{metric.title}, {unit}" if unit else metric.title
    return _WORDS.get(column, column.removeprefix("projector_").replace("_", " "))


_WORDS = {"projector_num_layers": "layers", "projector_hidden_dim": "hidden width", "projector_out_dim": "output width"}


def find(key: str) -> Metric:
    """Return the metric of a name in metrics files, with the title of this name; raises KeyError where none has it."""
    for metric in METRICS:
        if metric.key and (found := _pattern(metric.key).fullmatch(key)):
            words = [re.sub(r"^(\d+)_(\d+)$", r"\1.\2", word) for word in found.groups()]
            return replace(metric, key=key, title=_filled(metric.title, words))
    raise KeyError(key)


def gather(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return metric -> {dataset: value}, with the "mean" over several datasets first: the shape that DVC reads best.

    summaries: dataset -> {"simclr": summary.json, "probe": summary.json, "transfer": {other dataset: summary.json},
    "early": what gradients.early found, "training": what mechanism.summarised found}, the last three if any. A metric
    appears for the datasets that have it.
    """
    table: dict[str, dict[str, float]] = {}
    for dataset, summary in summaries.items():
        for name, value in _named(summary):
            table.setdefault(name, {})[dataset] = value
    means = {name: {"mean": mean(row.values())} if len(summaries) > 1 else {} for name, row in table.items()}
    return {name: means[name] | table[name] for name in sorted(table)}


def _named(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for path, value in _leaves(summary):
        for metric in METRICS:
            if metric.at and (found := _pattern(metric.at).fullmatch(path)):
                yield _filled(metric.key, found.groups()), value
                break


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _filled(text: str, words: Iterable[str]) -> str:
    """The text with the words in place of `#` and `*`."""
    given = iter(words)
    return re.sub(r"[#*]", lambda _: next(given), text)


def watched(table: Mapping[str, Any]) -> list[str]:
    """Return the names in a table of `gather` that people look at, in the order of METRICS; at most ten.

    Where there is no probe of 5 labels per class, that of the fewest stands for it. Scores without labels are among
    them where a dataset has no others.
    """
    unlabelled = set(table.get(_FREE[0].key, ())) - set(table.get(TOP1, ()))
    counts = sorted(int(name[3:]) for name in table if re.fullmatch(r"few\d+", name))
    few = "few5" if 5 in counts or not counts else f"few{counts[0]}"
    names = [metric.key.replace("few5", few) for metric in METRICS if metric.watched]
    free = () if unlabelled else tuple(metric.key for metric in _FREE)
    return [name for name in names if name in table and not name.startswith(free)]
