"""One run is one row: the schema, its validation, and what is left out before anything is computed.

A row is one (experiment, dataset). Readers give plain mappings; `to_rows` makes the one typed table of them.
"""

import csv
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import Range, nearest
from headstart.study import metrics
from headstart.study.writing import counted

SCORE = "score"  # the column that runs are compared by: a copy of one of metrics.SCORES
FAILED_SHARE = 0.8  # of the median accuracy of the dataset and protocol; below it a run has failed


def _text(value: Any) -> str:
    return str(value).strip()


def _whole(value: Any) -> int:
    number = float(value)
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return int(number)


def _number(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError("must be a number") from None


def _truth(value: Any) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(value).strip().lower() not in words:
        raise ValueError("must be true or false")
    return words[str(value).strip().lower()]


def _frozen(value: Any) -> bool | str:
    """Whether the initialised layer alone stays as it is, or, where other layers do, which: models.Projector.frozen."""
    text = str(value).strip()
    if _LAYERS.fullmatch(text):
        return text
    try:
        return _truth(text)
    except ValueError:
        raise ValueError("must be true, false or the layers, as in `layer 2` or `layers 1+2`") from None


_LAYERS = re.compile(r"layer [1-9]|layers [1-9](\+[1-9])+")


@dataclass(frozen=True)
class Column:
    """How a cell is read, its bounds, whether every row must have it, and what an empty one means if not: unknown."""

    read: Callable[[Any], Any]
    bounds: Range | None = None
    needed: bool = False
    default: Any = None


_COUNT, _SIZE = Range(1), Range(0)
_BOUNDS = {metrics.SHARE: Range(0, 1), metrics.SIZE: _SIZE, metrics.COUNT: _COUNT}

# Accuracies are fractions, losses nats, learning_rate is SimCLR's peak at its batch size, times are seconds.
COLUMNS = {
    "dataset": Column(_text, needed=True),
    "projector_init": Column(_text, needed=True),
    "projector_frozen": Column(_frozen, needed=True),
    "projector_hidden_dim": Column(_whole, _COUNT, needed=True),
    "projector_out_dim": Column(_whole, _COUNT, needed=True),
    "projector_activation": Column(_text, needed=True),
    "standardize": Column(_truth, needed=True),
    "seed": Column(_whole, _SIZE, needed=True),
    "image_size": Column(_number, _COUNT),
    "batch_size": Column(_number, _COUNT),
    "learning_rate": Column(_number, _SIZE),
    "epochs": Column(_number, _COUNT),
    **{metric.column: Column(_number, _BOUNDS.get(metric.unit)) for metric in metrics.METRICS if metric.column},
    "train_seconds": Column(_number, _SIZE),
    "probe_seconds": Column(_number, _SIZE),
    "device": Column(_text),
    "wall_seconds": Column(_number, _SIZE),
    "images_per_second": Column(_number, _SIZE),
    "autoencoder": Column(_text),  # which autoencoder the first layer comes from, beyond dataset, width and seed
    "protocol": Column(_text),  # all that is no axis of the study: backbone, recipe, views, probe
    "run": Column(_text),  # what a report calls the run
    # ---- axes that came later: the default is what all earlier and all published runs have
    "projector_kind": Column(_text, default="mlp"),
    "projector_num_layers": Column(_whole, _SIZE, default=2),
    "projector_position": Column(_whole, _COUNT, default=1),
    "projector_norm": Column(_text, default="none"),
    "backbone": Column(_text),
    "optimizer": Column(_text, default="sgd"),
    "loss": Column(_text, default="nt_xent"),
    "head_rate": Column(_number, _SIZE, default=1.0),  # of the projector, as a multiple of the backbone's
    "first_layer_rate": Column(_number, _SIZE, default=1.0),  # of the projector's first layer, in the same way
    "autoencoder_arch": Column(_text),
    "autoencoder_dataset": Column(_text),  # whose images the autoencoder has seen, where not the run's own dataset
    "transfer_datasets": Column(_text),  # others that the same backbone was judged on
    "precision": Column(_text),  # in which the backbone was really trained: fp32 or bf16
    "identity": Column(_text),  # of what decided its numbers, but for the arrays; a sweep's cell has the same
    "arrays": Column(_text),  # digest of the prepared arrays
    "settings": Column(_text),  # JSON: what `protocol` is the digest of; in no CSV file
}
_LOSSES = ("train_loss", "val_loss")

# Runs are compared that are equal in MATCHED; init, freezing and autoencoder tell them apart.
MATCHED = [name for name, column in COLUMNS.items() if column.needed and not name.startswith("projector_init")]
MATCHED = [name for name in MATCHED if name != "projector_frozen"] + ["protocol"]
MATCHED += ["learning_rate", "head_rate", "first_layer_rate"]
MATCHED += ["projector_kind", "projector_num_layers", "projector_position", "projector_norm"]
RUN_KEY = [*MATCHED, "projector_init", "projector_frozen", "autoencoder"]


def freezing(frozen: bool | str) -> str:
    """Return the value of `projector_frozen` in words: frozen, trainable, or which layers are frozen."""
    return f"{frozen} frozen" if isinstance(frozen, str) else "frozen" if frozen else "trainable"


def arm_name(init: str, frozen: bool | str) -> str:
    """Return how tables call an arm."""
    return f"{init} ({freezing(frozen)})"


@dataclass(frozen=True)
class Table:
    """Finished runs, one row each, with the column `failed`; what was left out or looks odd, a sentence each."""

    runs: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def to_rows(records: Iterable[Mapping[str, Any]], source: str) -> pd.DataFrame:
    """Return all records as one table with the columns of COLUMNS.

    Unknown cells (missing, None or empty) become NaN in numbers and "" in text; a loss that is no number becomes inf.
    Raises UserError, naming the source, the record and the column, for an unknown or missing column and for a value
    that is out of bounds.
    """
    rows = [_read_record(record, f"{source}: row {number}") for number, record in enumerate(records, 1)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({name: "float64" for name, column in COLUMNS.items() if column.read is _number})


def read_csv(path: Path) -> pd.DataFrame:
    """Return the rows of a CSV file whose header names columns of the schema, or raise UserError.

    First lines that begin with # are comments, which `table.attrs["comments"]` holds.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = file.readlines()
            comments = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
            reader = csv.DictReader(lines[len(comments) :])
            header = reader.fieldnames or []
            for name in header:
                if name not in COLUMNS:
                    raise UserError(f"{path}: column {name!r} is unknown{nearest(name, COLUMNS)}")
            for name, column in COLUMNS.items():
                if column.needed and name not in header:
                    raise UserError(f"{path}: column {name!r} is missing")
            table = to_rows(_whole_lines(reader, path), str(path))
            table.attrs["comments"] = [line.lstrip("# ").rstrip() for line in comments]
            return table
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _whole_lines(lines: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if None in line:
            raise UserError(f"{path}: row {number}: more cells than columns")
        yield line


def to_csv(rows: pd.DataFrame, comments: Sequence[str] = ()) -> str:
    """Return rows as CSV that `read_csv` reads back unchanged; unknown cells are empty, unknown columns left out."""
    there = [name for name in COLUMNS if name in rows and name != "settings"]
    known = [name for name in there if COLUMNS[name].needed or _has_any(rows[name])]
    table = rows[known].copy()
    for name in known:
        if COLUMNS[name].read in (_truth, _frozen):
            table[name] = table[name].map(lambda value: value if isinstance(value, str) else str(bool(value)).lower())
    return "".join(f"# {line}\n" for line in comments) + table.to_csv(index=False, lineterminator="\n")


def _has_any(column: pd.Series) -> bool:
    return bool((column.notna() & (column != "")).any())


def finished(rows: pd.DataFrame, source: str) -> Table:
    """Return the runs that count: with a result, and each once; the first of equals stays.

    Failed runs stay, flagged in `failed`: a non-finite loss, or a test accuracy under FAILED_SHARE of the median of its
    dataset and protocol. Raises UserError where no run is left.
    """
    notes = []
    unfinished = rows["probe_test_top1"].isna()
    if unfinished.any():
        notes.append(f"Left out, without a test accuracy (half-finished, or no labels): {_names(rows[unfinished])}.")
    runs = rows[~unfinished]
    again = runs.duplicated(RUN_KEY)
    equal = again & runs.duplicated([*RUN_KEY, "probe_test_top1", "train_loss"])
    if equal.any():
        notes.append(f"Counted once though found again with the same result: {_names(runs[equal])}.")
    if (again & ~equal).any():
        notes.append(
            f"Left out, another run has the configuration, with another result: {_names(runs[again & ~equal])}."
        )
    runs = runs[~again]
    same = _equal_seeds(runs)
    if same.any():
        notes.append(f"Counted once, for another seed gave the very same numbers: {_names(runs[same])}.")
    runs = runs[~same].reset_index(drop=True)
    if runs.empty:
        raise UserError(f"{source}: no finished run ({counted(len(rows), 'row')} read)")
    runs["failed"] = _failed(runs)
    runs[SCORE] = runs["probe_test_top1"]
    protocols = runs["protocol"].nunique()
    mixed = runs[runs["precision"] != ""].groupby(MATCHED, dropna=False)["precision"].nunique()
    if (mixed > 1).any():
        notes.append(f"In {counted(int((mixed > 1).sum()), 'setting')} pairs mix precisions (column `precision`).")
    if protocols > 1:
        notes.append(f"The runs follow {protocols} protocols (recipes); runs are compared within one.")
    return Table(runs, notes)


def judged_by(runs: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return the finished runs that have a score, their column SCORE set to it.

    score: a name of metrics.SCORES, or a column that holds fractions. Raises UserError for another one, and where no
    run has it.
    """
    column = metrics.SCORES.get(score, score)
    if column not in COLUMNS or not metrics.is_share(column):
        raise UserError(f"--score {score}: must be one of {', '.join(metrics.SCORES)}{nearest(score, metrics.SCORES)}")
    known = runs[runs[column].notna()]
    if known.empty:
        raise UserError(f"--score {score}: no run has it (column {column}); re-run with a probe that gives it")
    return known.assign(**{SCORE: known[column]})


def at_best_rate(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return each arm's runs at its own best learning rate, and in a sentence per setting which that is.

    An arm may lose only because its rate does not suit it. The best is that of the highest mean validation accuracy
    over the seeds that all rates of a setting have (all of MATCHED but rate and seed, and the arm); of equals, the
    lower. The runs' `learning_rate` becomes NaN, so that arms match whose rates differ. Raises UserError where no
    setting has several rates, or a run has no validation accuracy.
    """
    if runs["probe_val_top1"].isna().any():
        raise UserError("--best-learning-rate: some runs have no validation accuracy to choose a rate by")
    keys = [*(name for name in MATCHED if name not in ("learning_rate", "seed")), "projector_init", "projector_frozen"]
    kept, words, several = [], [], False
    for _, setting in runs.groupby([*keys, "autoencoder"], dropna=False, sort=True):
        rates = setting["learning_rate"].nunique()
        several |= rates > 1
        seeds = setting.groupby("seed")["learning_rate"].nunique()
        shared = setting[setting["seed"].isin(seeds.index[seeds == rates])]
        if shared.empty:
            raise UserError("--best-learning-rate: the rates of a setting share no seed")
        means = shared.groupby("learning_rate")["probe_val_top1"].mean()
        best = float(means.idxmax())
        kept.append(setting[setting["learning_rate"] == best])
        one = setting.iloc[0]
        words.append(
            f"{one['dataset']}, {arm_name(one['projector_init'], one['projector_frozen'])}, "
            f"{one['projector_activation']}: {best:g} of {', '.join(f'{rate:g}' for rate in means.index)}"
        )
    if not several:
        raise UserError("--best-learning-rate: no arm has runs at several learning rates")
    chosen = pd.concat(kept).sort_index().assign(learning_rate=math.nan)
    return chosen, [f"Each arm at its best learning rate by validation accuracy: {'; '.join(words)}."]


def _equal_seeds(runs: pd.DataFrame) -> pd.Series:
    """Which runs repeat another one of the same settings, to the last bit, under another seed: no second sample."""
    keys = [name for name in RUN_KEY if name != "seed"]
    known = runs["train_loss"].notna() & (runs["train_loss"].abs() < math.inf)
    return known & runs.duplicated([*keys, "probe_test_top1", *_LOSSES])


def describe(table: Table) -> str:
    """Return in sentences what the table holds, and which arms the failed runs are of."""
    runs = table.runs
    counts = [counted(len(runs), "run"), *(counted(runs[f"{word}"].nunique(), word) for word in ("dataset", "seed"))]
    text = f"{', '.join(counts)}."
    if not runs["failed"].any():
        return f"{text} None of them failed."
    arms = [
        f"{int(group.sum())} of {len(group)} {init} {freezing(frozen)}"
        for (init, frozen), group in runs.groupby(["projector_init", "projector_frozen"])["failed"]
    ]
    return (
        f"{text} {int(runs['failed'].sum())} failed (accuracy under {FAILED_SHARE:g} of their dataset's median, or a "
        f"non-finite loss): {', '.join(arms)}. Leaving them out can flatter an arm that fails more often."
    )


def against_untrained(runs: pd.DataFrame) -> str:
    """Return in a sentence how the probes compare with those of the same backbones before SimCLR; "" where unknown."""
    known = runs[runs["probe_untrained_top1"].notna()]
    if known.empty:
        return ""
    above = int((known["probe_test_top1"] > known["probe_untrained_top1"]).sum())
    trained, before = (100 * known[f"probe_{word}top1"].mean() for word in ("test_", "untrained_"))
    return (
        f"After SimCLR the probes reach {trained:.2f} % on average, {before:.2f} % before it; "
        f"{above} of {counted(len(known), 'run')} are above their untrained backbone."
    )


def _failed(runs: pd.DataFrame) -> pd.Series:
    medians = runs.groupby(["dataset", "protocol"])["probe_test_top1"].transform("median")
    infinite = runs[list(_LOSSES)].isin([math.inf, -math.inf]).any(axis=1)
    return (runs["probe_test_top1"] < FAILED_SHARE * medians) | infinite


def _read_record(record: Mapping[str, Any], where: str) -> list[Any]:
    for name in record:
        if name not in COLUMNS:
            raise UserError(f"{where}: column {name!r} is unknown")
    return [_read_cell(name, column, record.get(name), where) for name, column in COLUMNS.items()]


def _read_cell(name: str, column: Column, value: Any, where: str) -> Any:
    if value is None or value == "":
        if column.needed:
            raise UserError(f"{where}: {name} is missing")
        if column.default is not None:
            return column.default
        return "" if column.read is _text else math.nan
    try:
        read = column.read(value)
        if isinstance(read, float) and math.isnan(read):
            return math.inf if name in _LOSSES and isinstance(value, str) else read
        return column.bounds.check(read) if column.bounds else read
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {name}: {value!r} {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return str(error) if str(error).startswith("must be") else "must be a number"


def _names(rows: pd.DataFrame, limit: int = 5) -> str:
    """Runs by name, or by configuration where they have none."""
    names: Sequence[str] = [
        row.run
        or f"{row.dataset} {row.projector_init} {row.projector_hidden_dim}-{row.projector_out_dim} "
        f"{row.projector_activation} seed {row.seed}"
        for row in rows.itertuples()
    ]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} ({', '.join(names[:limit])}{more})"
