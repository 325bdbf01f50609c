"""The page on a single run, and the plot tables beside it, from the stages' summaries."""

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.settings import SAME
from headstart.study import curves, gradients, sections
from headstart.study.metrics import BASELINES, TOP1, gather, headings
from headstart.study.page import Block, Page, Picture, Points, Text, table
from headstart.study.reconstruction import poor_autoencoder
from headstart.study.writing import UNKNOWN, number

# dataset -> what metrics.gather reads
Summaries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]

NO_LABELS = (
    "Without labels: own view found is the share of images whose one view has, of all images' other views, its own as "
    "the most similar; alignment and uniformity (less is better, Wang & Isola 2020) and RankMe, the effective rank of "
    "the features (more is better, Garrido et al. 2023), in metrics/all.json. None of them is an accuracy of classes."
)
NO_AUTOENCODER = "No picture here: this initialisation needs no autoencoder."


def describe(head: Any, seed: int, recipe: str) -> dict[str, Any]:
    """Return what the page says about the run; head: its projector's settings, a models.projector.Projector."""
    first = f"{head.init} ({'frozen' if head.frozen else 'trainable'})"
    text = f"{first} first layer, {head.hidden_dim} hidden, {head.out_dim} out, {head.activation}"
    if (head.num_layers, head.position, head.norm) != (2, 1, "none"):
        text += f"; {head.num_layers} layers, {head.init} at {head.position}, norm {head.norm}"
    if head.needs_autoencoder and head.autoencoder_dataset != SAME:
        text += f"; autoencoder of {head.autoencoder_dataset}"
    return {"projector": text, "activation": head.activation, "seed": seed, "recipe": recipe}


def facts(summaries: Summaries) -> dict[str, dict[str, Any]]:
    """Return dataset -> what its settings came to: frozen or not, an autoencoder or none, the precision in use."""
    return {
        name: {
            "projector_frozen": summary["simclr"]["projector_frozen"],
            "needs_autoencoder": summary["simclr"]["autoencoder"] is not None,
            "precision": summary["simclr"]["precision"],
        }
        for name, summary in summaries.items()
    }


def accuracy_rows(summaries: Summaries) -> list[Row]:
    """Return a row per labelled dataset and probe (trained, those of BASELINES, majority) with its top-1, to plot."""
    return [
        {"dataset": dataset, "backbone": name, "top1": summary[place][name]["top1"]}
        for dataset, summary in summaries.items()
        if is_labelled(summary)
        for name, place in (("trained", "probe"), *((name, "baselines") for name in (*BASELINES, "majority")))
    ]


def is_labelled(summary: Mapping[str, Any]) -> bool:
    """Whether there were labels to probe with."""
    return TOP1 in summary["probe"]["trained"]


def loss_rows(curves: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Row]:
    """Return the SimCLR curves of all datasets as one table."""
    columns = ("epoch", "train_loss", "val_loss", "learning_rate")
    return [{"dataset": name, **{key: row[key] for key in columns}} for name, rows in curves.items() for row in rows]


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
    arm, seed = settings["projector"], settings["seed"]
    lines = [line for name, rows in losses.items() for line in curves.curve("this run", name, arm, seed, rows)]
    names = dict.fromkeys(row["dataset"] for row in flows)
    found = [
        line for name in names for line in gradients.flow("this run", name, arm, settings["activation"], seed, flows)
    ]
    blocks = {
        "result": _result(summaries),
        "transfer": _transfer(summaries),
        "verdicts": (Text(sections.nothing_to_compare(1, 1)),),
        **sections.measured(lines, found, [arm], files=True),
        **sections.pictured(pictures, {"reconstruction": NO_AUTOENCODER}),
        "cost": _cost(summaries),
    }
    lead = f"Projector: {arm}. Seed {seed}, recipe {settings['recipe']}. {_lead(summaries)}"
    return sections.build("Headstart: result of this run", lead, blocks)


def _lead(summaries: Summaries) -> str:
    return " ".join(_told(name, summary) for name, summary in summaries.items())


def _told(name: str, summary: Mapping[str, Any]) -> str:
    trained, untrained = summary["probe"]["trained"], summary["baselines"]["untrained"]
    if is_labelled(summary):
        return (
            f"{name}: a linear probe on SimCLR's features finds {100 * trained[TOP1]:.1f} % of "
            f"{summary['probe']['num_test']} test images, on the same backbone before SimCLR "
            f"{100 * untrained[TOP1]:.1f} %."
        )
    return (
        f"{name}: no labels, so nothing to probe. Of two views of an image SimCLR's features find the other one among "
        f"{summary['probe']['num_judged']} for {100 * trained['view_top1']:.1f} % of them, before SimCLR for "
        f"{100 * untrained['view_top1']:.1f} %."
    )


def _result(summaries: Summaries) -> tuple[Block, ...]:
    values = gather(summaries)
    records = [
        {"dataset": name, "test images": str(summary["probe"].get("num_test") or summary["probe"]["num_judged"])}
        | {title: _cell(values.get(metric, {}).get(name)) for title, metric in headings(values).items()}
        for name, summary in summaries.items()
    ]
    caption = "Accuracies of linear probes on frozen backbone features, as fractions of the test split. 1 run, 1 seed."
    numbers = set(records[0]) - {"dataset"}
    note = Text(
        "Untrained is the same backbone before SimCLR, its batch norm as it is initialised; calibrated, with "
        "statistics of train images; raw pixels are no network's; majority always says the commonest class.",
        "note",
    )
    free = () if all(map(is_labelled, summaries.values())) else (Text(NO_LABELS, "note"),)
    return (table("result-table", caption, records, numbers), note, *free, *_signs(summaries))


def _signs(summaries: Summaries) -> tuple[Block, ...]:
    """The paper's signs of failure, as far as a single run shows them."""
    found = []
    for name, summary in summaries.items():
        coder = summary["simclr"]["autoencoder"] or {}
        if "mean_image_mse" in coder:
            found.append(poor_autoencoder(name, coder["test_mse"], coder["mean_image_mse"])[1])
    if not found:
        return ()
    found.append(
        "The paper's other signs of failure, a large gap between frozen and trainable layer and an arm below the "
        "random head, show beside other runs alone: `make report`."
    )
    return (Points(tuple(found)),)


def _transfer(summaries: Summaries) -> tuple[Block, ...]:
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
        return ()
    caption = (
        "Backbones on other datasets: probes fitted there; its own probe, where the classes have the same names. "
        "1 run, 1 seed."
    )
    return (table("transfer-table", caption, records, set(records[0]) - {"trained on", "judged on"}),)


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
    return UNKNOWN if value is None else str(value)


def _cell(value: float | None) -> str:
    return number(value, ".4f")
