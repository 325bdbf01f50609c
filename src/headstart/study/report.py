"""The stages' summaries as one metrics file, plot tables and a page of Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Summaries = Mapping[str, Mapping[str, Any]]  # dataset -> {"simclr": summary.json, "probe": summary.json}
Row = dict[str, Any]


def metrics(summaries: Summaries) -> dict[str, dict[str, float]]:
    """Return metric -> {"mean": over datasets, dataset: value}: the shape that `dvc metrics diff` reads best.

    Accuracies are fractions, losses nats, autoencoder_test_mse the mean squared error of pixels in [0, 1]. A metric
    appears for the datasets that have it.
    """
    table: dict[str, dict[str, float]] = {}
    for dataset, summary in summaries.items():
        for name, value in _flat(summary).items():
            table.setdefault(name, {})[dataset] = value
    return {name: {"mean": mean(row.values()), **row} for name, row in sorted(table.items())}


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    probe, simclr = summary["probe"], summary["simclr"]
    values = {**probe["trained"], "top1_majority": probe["majority"]["top1"], "num_test": probe["num_test"]}
    values |= {
        f"{name}_untrained": value for name, value in probe["untrained"].items() if name not in ("strength", "val_top1")
    }
    values |= {"train_loss": simclr["train_loss"], "val_loss": simclr["val_loss"], "best_epoch": simclr["best_epoch"]}
    if simclr["autoencoder"]:
        values["autoencoder_test_mse"] = simclr["autoencoder"]["test_mse"]
    return values


def accuracy_rows(summaries: Summaries) -> list[Row]:
    """Return one row per dataset and probe (trained, untrained, majority) with its top-1, for the bar plot."""
    return [
        {"dataset": dataset, "backbone": name, "top1": summary["probe"][name]["top1"]}
        for dataset, summary in summaries.items()
        for name in ("trained", "untrained", "majority")
    ]


def loss_rows(curves: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Row]:
    """Return the SimCLR curves of all datasets as one table."""
    columns = ("epoch", "train_loss", "val_loss", "learning_rate")
    return [{"dataset": name, **{key: row[key] for key in columns}} for name, rows in curves.items() for row in rows]


def loss_figure(path: Path, curves: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Write the train and validation loss of every dataset over epochs as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (dataset, rows) in enumerate(curves.items()):
        epochs = [int(row["epoch"]) for row in rows]
        for key, style in (("train_loss", "-"), ("val_loss", "--")):
            label = f"{dataset} {key.removesuffix('_loss')}"
            axes.plot(epochs, [float(row[key]) for row in rows], style, color=f"C{number}", label=label)
    axes.set(xlabel="epoch", ylabel="NT-Xent (nats)", title="SimCLR loss (val: fixed views, eval mode)")
    axes.legend()
    figure.savefig(path, dpi=100)


def markdown(summaries: Summaries, settings: Mapping[str, Any], pictures: Mapping[str, Sequence[str]]) -> str:
    """Return the report page: one table, what was trained, and the pictures (dataset -> paths relative to the page)."""
    table = metrics(summaries)
    few = next((name for name in table if name.startswith("few") and name[3:].isdigit()), None)
    columns = {"top-1": "top1", "untrained": "top1_untrained", "majority": "top1_majority"}
    if few:
        columns |= {f"{few[3:]} labels per class": few, "untrained, few labels": f"{few}_untrained"}
    columns |= {"macro F1": "macro_f1", "val NT-Xent": "val_loss", "autoencoder test MSE": "autoencoder_test_mse"}
    lines = [
        "# Headstart: result of this run",
        "",
        f"Projector: {settings['projector']}. Seed {settings['seed']}, recipe {settings['recipe']}. Accuracies are of",
        "linear probes on frozen backbone features, as fractions of the test split; *untrained* is the same backbone",
        "before SimCLR.",
        "",
        "| dataset | test images | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for dataset, summary in summaries.items():
        cells = [_cell(table.get(name, {}).get(dataset)) for name in columns.values()]
        lines.append(f"| {dataset} | {summary['probe']['num_test']} | " + " | ".join(cells) + " |")
    for dataset, paths in pictures.items():
        lines += ["", f"## {dataset}", ""]
        lines += [f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in paths]
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
