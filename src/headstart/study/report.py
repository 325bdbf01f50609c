"""The stages' summaries as one metrics file, plot tables and a page of Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from headstart.study import curves, gradients
from headstart.study.page import Block, Page, Picture, Section, Text, table

# dataset -> {"simclr": summary.json, "probe": summary.json, "transfer": {other dataset: summary.json}}, the last if any
Summaries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]

TRANSFERRED = ("top1", "knn20", "top1_zero_shot")  # of another dataset, in metrics.json
TO_COMPARE = (
    "`dvc exp run --queue -S 'seed=range(0,3)' -S 'projector.init=autoencoder,random'`, then `dvc queue start -j 1` "
    "and `make report`"
)
# a picture's file is <dataset>_<kind>.png -> what it shows
PICTURES = {
    "views": "Training images, one a column: four random views of each, as SimCLR sees them. 1 run, 1 seed.",
    "reconstructions": "Test images above, what the autoencoder makes of them below. 1 run, 1 seed.",
    "confusion": "Confusion of the linear probe on the test split: true classes by row. 1 run, 1 seed.",
}
QUESTION = "What does SimCLR's projection head owe to how its first layer was initialised? This page is on one run."


def metrics(
    summaries: Summaries, early: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, dict[str, float]]:
    """Return metric -> {"mean": over datasets, dataset: value}: the shape that `dvc metrics diff` reads best.

    Accuracies are fractions, losses nats, autoencoder_test_mse the mean squared error of pixels in [0, 1]; early:
    dataset -> what gradients.early found, where steps were measured. A metric appears for the datasets that have it.
    """
    table: dict[str, dict[str, float]] = {}
    for dataset, summary in summaries.items():
        for name, value in {**_flat(summary), **(early or {}).get(dataset, {})}.items():
            table.setdefault(name, {})[dataset] = value
    return {name: {"mean": mean(row.values()), **row} for name, row in sorted(table.items())}


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    probe, simclr = summary["probe"], summary["simclr"]
    values = {**probe["trained"], "top1_majority": probe["majority"]["top1"], "num_test": probe["num_test"]}
    values |= {
        f"{name}_untrained": value for name, value in probe["untrained"].items() if name not in ("strength", "val_top1")
    }
    values |= {"train_loss": simclr["train_loss"], "val_loss": simclr["val_loss"], "best_epoch": simclr["best_epoch"]}
    for target, found in summary.get("transfer", {}).items():
        values |= {f"{name}_on_{target}": found["trained"][name] for name in TRANSFERRED if name in found["trained"]}
        values[f"top1_on_{target}_untrained"] = found["untrained"]["top1"]
    if simclr["autoencoder"]:
        made = {"test_mse", "test_psnr", "num_parameters"} & set(simclr["autoencoder"])
        values |= {f"autoencoder_{name}": simclr["autoencoder"][name] for name in made}
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
    columns = result_columns(table)
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


def result_columns(table: Mapping[str, Any]) -> dict[str, str]:
    """Return heading -> metric of the result's table."""
    counts = sorted(int(name[3:]) for name in table if name.startswith("few") and name[3:].isdigit())
    few = f"few{5 if 5 in counts else counts[0]}" if counts else None
    columns = {"top-1": "top1", "untrained": "top1_untrained", "majority": "top1_majority"}
    if few:
        columns |= {f"{few[3:]} labels per class": few, "untrained, few labels": f"{few}_untrained"}
    columns |= {"macro F1": "macro_f1", "val NT-Xent": "val_loss", "autoencoder test MSE": "autoencoder_test_mse"}
    more = {"20 nearest neighbours": "knn20", "calibration error": "ece"}
    return columns | {title: name for title, name in more.items() if name in table}


def captioned(name: str, png: bytes) -> Picture | None:
    """Return the picture of a file <dataset>_<kind>.png, or None where its kind is none that a page shows."""
    dataset, _, kind = name.rpartition("_")
    if kind not in PICTURES or not dataset:
        return None
    return Picture(
        name, f"{dataset}. {PICTURES[kind]}", png, f"{kind.capitalize()} of {dataset}: {PICTURES[kind].lower()}"
    )


def page(
    summaries: Summaries,
    settings: Mapping[str, Any],
    losses: Mapping[str, Sequence[Mapping[str, str]]],
    pictures: Sequence[Picture],
    flows: Sequence[Mapping[str, str]] = (),
) -> Page:
    """Return the page of a single run: what there is, and that one run decides nothing.

    losses: dataset -> rows of epoch, train_loss, val_loss. flows: rows as gradients.flow_rows makes them, if steps were
    measured. The page holds no time and no name of a machine.
    """
    arm = settings["projector"]
    lines = [curves.curve("this run", name, arm, settings["seed"], rows) for name, rows in losses.items()]
    shown: dict[str, tuple[Block, ...]] = {
        kind: tuple(picture for picture in pictures if picture.name.endswith(kind)) for kind in PICTURES
    }
    nothing = "No picture here: this initialisation needs no autoencoder."
    sections = [
        Section("result", "Result", _result(summaries), "Result"),
        *_transfer(summaries),
        Section("verdicts", "Verdicts", (Text(f"1 run, 1 seed: nothing to compare. Run {TO_COMPARE}."),), "Verdicts"),
        Section("curves", "Training curves", (curves.figure(lines, [arm]),), "Curves"),
        *_gradients(flows, arm, settings),
        Section("views", "Views", shown["views"], "Views"),
        Section("reconstruction", "Reconstruction", shown["reconstructions"] or (Text(nothing),), "Reconstruction"),
        Section("confusion", "Confusion", shown["confusion"], "Confusion"),
        Section("cost", "Cost", _cost(summaries), "Cost"),
    ]
    lead = f"Projector: {arm}. Seed {settings['seed']}, recipe {settings['recipe']}. {_lead(summaries)}"
    return Page("Headstart: result of this run", QUESTION, lead, tuple(sections))


def _gradients(flows: Sequence[Mapping[str, str]], arm: Any, settings: Mapping[str, Any]) -> list[Section]:
    names = dict.fromkeys(row["dataset"] for row in flows)
    found = [gradients.flow("this run", name, arm, settings["activation"], settings["seed"], flows) for name in names]
    if not found:
        return []
    return [Section("gradients", "Gradient flow", (gradients.figure(found, [arm]),), "Gradients")]


def _lead(summaries: Summaries) -> str:
    parts = [
        f"{name}: a linear probe on SimCLR's features finds {100 * summary['probe']['trained']['top1']:.1f} % of "
        f"{summary['probe']['num_test']} test images, on the same backbone before SimCLR "
        f"{100 * summary['probe']['untrained']['top1']:.1f} %."
        for name, summary in summaries.items()
    ]
    return " ".join(parts)


def _result(summaries: Summaries) -> tuple[Block, ...]:
    values = metrics(summaries)
    columns = result_columns(values)
    records = [
        {"dataset": name, "test images": str(summary["probe"]["num_test"])}
        | {title: _cell(values.get(metric, {}).get(name)) for title, metric in columns.items()}
        for name, summary in summaries.items()
    ]
    caption = "Accuracies of linear probes on frozen backbone features, as fractions of the test split. 1 run, 1 seed."
    numbers = set(records[0]) - {"dataset"}
    note = Text("Untrained is the same backbone before SimCLR; majority always says the commonest class.", "note")
    return (table("result-table", caption, records, numbers), note)


def _transfer(summaries: Summaries) -> list[Section]:
    records = [
        {
            "trained on": name,
            "judged on": target,
            "test images": str(found["num_test"]),
            "top-1": _cell(found["trained"]["top1"]),
            "untrained": _cell(found["untrained"]["top1"]),
            "20 nearest neighbours": _cell(found["trained"]["knn20"]),
            "its own probe": _cell(found["trained"].get("top1_zero_shot")),
        }
        for name, summary in summaries.items()
        for target, found in summary.get("transfer", {}).items()
    ]
    if not records:
        return []
    caption = (
        "Backbones on other datasets: probes fitted there; its own probe, where the classes have the same names. "
        "1 run, 1 seed."
    )
    numbers = set(records[0]) - {"trained on", "judged on"}
    return [Section("transfer", "Other datasets", (table("transfer-table", caption, records, numbers),), "Transfer")]


def _cost(summaries: Summaries) -> tuple[Block, ...]:
    records = []
    for name, summary in summaries.items():
        simclr, autoencoder = summary["simclr"], summary["simclr"]["autoencoder"] or {}
        images, epochs = simclr.get("num_train"), simclr.get("num_epochs")
        seen = images * epochs if images and epochs else None
        records.append(
            {
                "dataset": name,
                "training images": _count(images),
                "epochs": _count(epochs),
                "images seen": _count(seen),
                "backbone parameters": _count(simclr.get("backbone_parameters")),
                "projector parameters": _count(simclr.get("projector_parameters")),
                "autoencoder parameters": _count(autoencoder.get("num_parameters")),
            }
        )
    note = "Times and images per second are in MLflow (`make ui`): an output holds none, so that it repeats."
    caption = "What the run took. 1 run, 1 seed."
    return (table("cost-table", caption, records, set(records[0]) - {"dataset"}), Text(note, "note"))


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
