"""Gather the stages' summaries into metrics files, plots and a page, as Markdown and as HTML."""

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.export.bundle import Settings
from headstart.export.card import Origin, model_card
from headstart.run import files, paths
from headstart.run.inputs import Inputs, read_used
from headstart.run.params import Params
from headstart.run.stage import run_stage, say
from headstart.settings import made_by
from headstart.study import gradients, mechanism, metrics, report, sections
from headstart.study.page import Picture, to_html, to_markdown
from headstart.tracking import provenance


def main() -> None:
    """Read only what params.yaml names: the folders may hold more from earlier runs."""
    inputs = Inputs("report", "report")
    params = inputs.params
    summaries, curves, measured = read(params)
    flows, trainings = gradients.flow_rows(measured), mechanism.training_rows(measured)
    for name, values in gradients.early(flows).items():
        summaries[name]["early"] = values
    for name, values in mechanism.summarised(trainings).items():
        summaries[name]["training"] = values
    told = report.describe(params.projector, params.seed, params.recipe)
    table = metrics.gather(summaries)
    inputs.check()
    with files.write_folder(paths.PLOTS) as folder:
        files.write_csv(folder / "simclr_loss.csv", report.loss_rows(curves))
        rows = report.accuracy_rows(summaries)
        files.write_csv(folder / "probe_accuracy.csv", rows or [dict.fromkeys(("dataset", "backbone", "top1"))])
        if flows:
            files.write_csv(folder / Path(gradients.FLOW).name, flows)
            files.write_csv(folder / Path(mechanism.TRAINING).name, trainings)
        (folder / "images").mkdir()
        shown = [picture for name in params.datasets for picture in copy_pictures(name, folder / "images")]
        page = report.page(summaries, told, curves, shown, flows, trainings, judged(summaries), made())
        for path, drawing in sections.files(page).items():
            files.write_text(folder / Path(path).relative_to(paths.PLOTS.name), drawing)
    with files.write_folder(paths.CARDS) as folder:
        for name, summary in summaries.items():
            files.write_text(folder / f"{name}.md", card(name, params, summary))
    text = to_markdown(page, paths.PAGE.name)
    files.write_text(paths.REPORT, text)
    files.write_text(paths.PAGE, to_html(page))
    files.write_json(paths.ALL, {"metrics": table, "facts": report.facts(summaries), "made_with": read_used(params)})
    files.write_json(paths.METRICS, {name: table[name] for name in metrics.watched(table)})
    say("\n## ".join(text.split("\n## ")[:2]))


def read(params: Params) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]], dict[str, list[dict[str, str]]]]:
    """Return by dataset the stages' summaries and SimCLR's curves, and the rows of steps that were measured."""
    summaries: dict[str, dict[str, Any]] = {}
    curves, measured = {}, {}
    for name in params.datasets:
        simclr, probe = paths.simclr_metrics(name), paths.probe_metrics(name)
        own = {
            "simclr": (simclr, "train_simclr"),
            "probe": (probe, "fit_probe"),
            "baselines": (paths.baselines(name), "fit_baselines"),
        }
        summaries[name] = {key: files.read_json(at / "summary.json", made_by=by) for key, (at, by) in own.items()}
        targets = {target: paths.transfer_metrics(name, target) for target in params.probe.datasets}
        found = {target: files.read_json(at / "summary.json", made_by="transfer") for target, at in targets.items()}
        summaries[name]["transfer"] = found
        summaries[name]["data"] = files.read_json(simclr / "data.json", made_by="train_simclr")
        curves[name] = files.read_csv(simclr / "curve.csv", made_by="train_simclr")
        if (simclr / "diagnostics.csv").is_file():
            measured[name] = files.read_csv(simclr / "diagnostics.csv", made_by="train_simclr")
    return summaries, curves, measured


def judged(summaries: report.Summaries) -> dict[str, report.Judged]:
    """Return by labelled dataset what the probe found by class and by confidence."""

    def rows(name: str, file: str) -> list[dict[str, str]]:
        return files.read_csv(paths.probe_metrics(name) / file, made_by="fit_probe")

    return {
        name: (rows(name, "per_class.csv"), rows(name, "reliability.csv"))
        for name in summaries
        if report.is_labelled(summaries[name])
    }


def made() -> dict[str, str]:
    """Return by what the page is made: no time of day, so that an out repeats, but that of the commit."""
    state = provenance.git_state()
    commit = {"commit": provenance.commit(), "committed": state["git_time"]} if state else {}
    versions = {"Python": platform.python_version(), **{name: version(name) for name in ("torch", "torchvision")}}
    return {**commit, **versions}


def card(dataset: str, params: Params, summary: Mapping[str, Any]) -> str:
    """Return the model card of the workspace's backbone, which lies in models/simclr until it is exported."""
    data = summary["data"]
    used = Settings.of(dataset, params.backbone, params.data.standardize, data)
    scores = {"trained": summary["probe"]["trained"], "untrained": summary["baselines"]["untrained"]}
    here = "that of this file"
    return model_card(
        used,
        params.dataset(dataset).about,
        data,
        made_by(params.settings, dataset),
        scores,
        Origin(here, here, data["hash"]),
        [f"The weights lie in `{paths.simclr(dataset)}`; `make export` makes a folder that loads without Headstart."],
    )


def copy_pictures(dataset: str, folder: Path) -> list[Picture]:
    """Copy the stages' pictures of a dataset into a folder, and return them as a page shows them."""
    simclr, shown = paths.simclr_metrics(dataset), []
    confusion = paths.probe_metrics(dataset) / "confusion.png"
    for source in (simclr / "views.png", confusion, simclr / "reconstructions.png"):
        if source.exists():
            name = f"{dataset}_{source.name}"
            shutil.copyfile(source, folder / name)
            path = f"{paths.PLOTS.name}/images/{name}"
            picture = sections.captioned(Path(name).stem, source.read_bytes(), path)
            shown += [picture] if picture else []
    return shown


if __name__ == "__main__":
    run_stage(main)
