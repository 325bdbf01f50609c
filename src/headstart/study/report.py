"""The page on a single run, and the plot tables beside it, from the stages' summaries."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.settings import SAME
from headstart.study import classes, curves, gradients, mechanism, sections
from headstart.study.metrics import BASELINES, LABEL_FREE, TOP1, find, gather
from headstart.study.page import Block, Page, Picture, Points, Text, table
from headstart.study.reconstruction import poor_autoencoder
from headstart.study.writing import UNKNOWN, number

# dataset -> what metrics.gather reads
Summaries = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]
# rows of per_class.csv and of reliability.csv
Judged = tuple[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]]

NO_LABELS = (
    "Without labels: own view found is the share of images whose one view has, of all images' other views, its own as "
    "the most similar; alignment and uniformity (less is better, Wang & Isola 2020) and RankMe, the effective rank of "
    "the features (more is better, Garrido et al. 2023), in metrics/all.json. None of them is an accuracy of classes."
)
NO_AUTOENCODER = "No picture here: this initialisation needs no autoencoder."


def describe(head: Any, seed: int, recipe: str) -> dict[str, Any]:
    """Return what the page says about the run; head: its projector's settings, a models.projector.Projector."""
    first = f"{head.init} ({head.frozen_words})"
    text = f"{first} first layer, {head.hidden_dim} hidden, {head.out_dim} out, {head.between}"
    if head.num_layers < 2:
        one = f"one linear layer ({head.frozen_words}), {head.out_dim} out"
        text = one if head.num_layers else "none: the loss is that of the backbone's features"
    elif (head.num_layers, head.position, head.norm) != (2, 1, "none"):
        text += f"; {head.num_layers} layers, {head.init} at {head.position}, norm {head.norm}"
    if head.needs_autoencoder and head.autoencoder_dataset != SAME:
        text += f"; autoencoder of {head.autoencoder_dataset}"
    return {"projector": text, "activation": head.between, "seed": seed, "recipe": recipe}


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
    trainings: Sequence[Mapping[str, str]] = (),
    judged: Mapping[str, Judged] | None = None,
    made: Mapping[str, str] | None = None,
) -> Page:
    """Return the page of a single run: what there is, and that one run decides nothing.

    losses: dataset -> rows of epoch, train_loss, val_loss. flows, trainings: rows as gradients.flow_rows and
    mechanism.training_rows make them, if steps were measured. judged: dataset -> what the probe found by class and by
    confidence. made: by what the page was made; it holds no time of day and no name of a machine.
    """
    arm, seed = settings["projector"], settings["seed"]
    lines = [line for name, rows in losses.items() for line in curves.curve("this run", name, name, arm, seed, rows)]
    names = dict.fromkeys(row["dataset"] for row in (*flows, *trainings))
    asked = [("this run", name, name, arm, settings["activation"], seed) for name in names]
    found = sections.Measured(
        lines,
        [line for own in asked for line in gradients.flow(*own, flows)],
        {
            column: [line for own in asked for line in mechanism.line(column, *own, trainings)]
            for column in mechanism.PLOTS
        },
        _loss(summaries),
    )
    blocks = {
        "result": _result(summaries),
        "classes": _classes(judged or {}, summaries),
        "transfer": _transfer(summaries),
        "verdicts": (Text(sections.nothing_to_compare(1, 1)),),
        **sections.measured(found, [arm], files=True),
        **sections.pictured(pictures, {"reconstruction": NO_AUTOENCODER}),
        "cost": _cost(summaries),
        "made": _made(made or {}),
    }
    lead = f"Projector: {arm}. Seed {seed}, recipe {settings['recipe']}. {_lead(summaries)}"
    return sections.build("Headstart: result of this run", lead, blocks)


def _loss(summaries: Summaries) -> str:
    """What was minimised, as simclr.loss names it; summaries of before name none."""
    return str(next(iter(summaries.values()))["simclr"].get("loss", "nt_xent"))


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


# heading -> where a number of BASELINES stands
_SIDES = {"trained": "", **{title: f"_{name}" for name, title in BASELINES.items()}}


def _result(summaries: Summaries) -> tuple[Block, ...]:
    values = gather(summaries)
    scores = [name for name in values if name in RESULT or re.fullmatch(FEW, name)]
    records = []
    for dataset, summary in summaries.items():
        for name in sorted(scores, key=_place):
            if name in RESULT_FREE and is_labelled(summary):
                continue
            sides = {title: _with_error(values, f"{name}{side}", dataset, summary) for title, side in _SIDES.items()}
            if any(cell != UNKNOWN for cell in sides.values()):
                records.append(_of(dataset, summaries) | {"metric": find(name).title, **sides})
    tested = ", ".join(f"{_num_test(summary)} of {dataset}" for dataset, summary in summaries.items())
    caption = (
        f"Accuracies on the test images ({tested}), as fractions, ± their standard errors; of few labels, ± the "
        "deviation over draws. 1 run, 1 seed."
    )
    words = {"dataset", "metric"}
    note = Text(
        "Untrained is the same backbone before SimCLR, its batch norm as it is initialised; calibrated, with "
        "statistics of train images, where training begins; raw pixels are no network's.",
        "note",
    )
    free = () if all(map(is_labelled, summaries.values())) else (Text(NO_LABELS, "note"),)
    return (
        table("result-table", caption, records, set(records[0]) - words),
        note,
        *free,
        *_label_free(summaries, values),
        _training(summaries, values),
        *_signs(summaries),
    )


# the numbers of `gather` that the table of results shows, in its order; few labels stand behind the first
FEW = r"few\d+(_\d+)?(pct)?"
RESULT_FREE = ("view_top1", "rankme", "alignment", "uniformity")
RESULT = ("top1", "top1_converged", "top1_finetuned", "macro_f1", "knn10", "knn20", "knn200", "ece", *RESULT_FREE)


def _place(name: str) -> tuple[int, int]:
    few = re.match(r"few(\d+)", name)
    return (0, int(few[1])) if few else (RESULT.index(name) if name != "top1" else -1, 0)


def _of(dataset: str, summaries: Summaries) -> dict[str, str]:
    """The cell that names the dataset, where there are several."""
    return {"dataset": dataset} if len(summaries) > 1 else {}


def _with_error(values: Mapping[str, Any], name: str, dataset: str, summary: Mapping[str, Any]) -> str:
    """A score of `gather` with its binomial standard error, or its deviation over draws where it has one."""
    value = values.get(name, {}).get(dataset)
    if value is None:
        return UNKNOWN
    few = re.match(FEW, name)
    if few:
        error = values.get(f"{few[0]}_std{name[len(few[0]) :]}", {}).get(dataset)
    else:
        no_share = name.startswith(("ece", "macro", *RESULT_FREE[1:]))
        error = None if no_share else math.sqrt(value * (1 - value) / _num_test(summary))
    return _cell(value) if error is None else f"{_cell(value)} ± {_cell(error)}"


def _num_test(summary: Mapping[str, Any]) -> int:
    """The test images that scores are of, labelled or not."""
    return int(summary["probe"].get("num_test") or summary["probe"]["num_judged"])


def _label_free(summaries: Summaries, values: Mapping[str, Any]) -> tuple[Block, ...]:
    """Scores without labels of the trained backbone, and the same of its projector's outputs."""
    records = [
        _of(dataset, summaries)
        | {
            "without labels": metric.title,
            "backbone": number(values[metric.key][dataset], ".4g"),
            "projector's output": number(values.get(f"{metric.key}_output", {}).get(dataset), ".4g"),
            "better": metric.better,
        }
        for dataset in summaries
        for metric in LABEL_FREE.values()
        if dataset in values.get(metric.key, {}) and not metric.key.endswith(("_output", "_loss"))
    ]
    if not records:
        return ()
    caption = (
        "What features of random views of test images say without labels (docs/method.md defines each); better: which "
        "value is taken to speak for a backbone. 1 run, 1 seed."
    )
    return (table("label-free-table", caption, records, {"backbone", "projector's output"}),)


def _training(summaries: Summaries, values: Mapping[str, Any]) -> Block:
    names = ("val_loss", "train_loss", "best_epoch", "autoencoder_test_mse", "autoencoder_mean_image_mse")
    records = [
        _of(dataset, summaries) | {"of the training": find(name).title, "value": f"{values[name][dataset]:.5g}"}
        for dataset in summaries
        for name in names
        if dataset in values.get(name, {})
    ]
    loss = _loss(summaries)
    caption = f"Losses ({loss}) and errors (mean squared, of pixels) behind the result. 1 run, 1 seed."
    return table("training-table", caption, records, {"value"})


def _classes(judged: Mapping[str, Judged], summaries: Summaries) -> tuple[Block, ...]:
    return tuple(
        figure
        for name, (by_class, bins) in judged.items()
        for figure in (
            classes.per_class(name, by_class),
            classes.reliability(name, bins, summaries[name]["probe"]["trained"]["ece"]),
        )
    )


def _made(made: Mapping[str, str]) -> tuple[Block, ...]:
    if not made:
        return ()
    caption = "The commit and the versions that made this page."
    return (table("made-table", caption, [{"what": name, "which": value} for name, value in made.items()]),)


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
