"""Gather the stages' summaries into metrics files, plots and a page, as Markdown and as HTML."""

import shutil
from pathlib import Path

from headstart.run import artifacts, paths
from headstart.run.params import Params, load_params
from headstart.run.stage import run_stage, say
from headstart.study import gradients, metrics, report, sections
from headstart.study.page import Picture, to_html, to_markdown


def main() -> None:
    """Read only what params.yaml names: the folders may hold more from earlier runs."""
    params = load_params()
    summaries = {
        name: {
            "simclr": artifacts.read_json(paths.simclr_metrics(name) / "summary.json", made_by="train_simclr"),
            "probe": artifacts.read_json(paths.probe_metrics(name) / "summary.json", made_by="fit_probe"),
            "transfer": {
                target: artifacts.read_json(paths.transfer_metrics(name, target) / "summary.json", made_by="transfer")
                for target in params.probe.datasets
            },
        }
        for name in params.datasets
    }
    curves = {
        name: artifacts.read_csv(paths.simclr_metrics(name) / "curve.csv", made_by="train_simclr")
        for name in params.datasets
    }
    measured = {
        name: artifacts.read_csv(paths.simclr_metrics(name) / "diagnostics.csv", made_by="train_simclr")
        for name in params.datasets
        if (paths.simclr_metrics(name) / "diagnostics.csv").is_file()
    }
    flows = gradients.flow_rows(measured)
    for name, values in gradients.early(flows).items():
        summaries[name]["early"] = values
    with artifacts.write_folder(paths.PLOTS) as folder:
        artifacts.write_csv(folder / "simclr_loss.csv", report.loss_rows(curves))
        artifacts.write_csv(folder / "probe_accuracy.csv", report.accuracy_rows(summaries))
        if flows:
            artifacts.write_csv(folder / Path(gradients.FLOW).name, flows)
        (folder / "images").mkdir()
        shown = [picture for name in params.datasets for picture in copy_pictures(name, folder / "images")]
        page = report.page(summaries, settings(params), curves, shown, flows)
        for path, drawing in sections.files(page).items():
            (folder / Path(path).relative_to(paths.PLOTS.name)).write_text(drawing, encoding="utf-8")
    text = to_markdown(page, paths.PAGE.name)
    artifacts.write_text(paths.REPORT, text)
    artifacts.write_text(paths.PAGE, to_html(page))
    table = metrics.gather(summaries)
    artifacts.write_json(paths.ALL, {"metrics": table})
    artifacts.write_json(paths.METRICS, {name: table[name] for name in metrics.watched(table)})
    say("\n## ".join(text.split("\n## ")[:2]))


def copy_pictures(dataset: str, folder: Path) -> list[Picture]:
    """Copy the stages' pictures of a dataset into a folder, and return them as a page shows them."""
    shown = []
    for source in (
        paths.simclr_metrics(dataset) / "views.png",
        paths.probe_metrics(dataset) / "confusion.png",
        paths.simclr_metrics(dataset) / "reconstructions.png",
    ):
        if source.exists():
            name = f"{dataset}_{source.name}"
            shutil.copyfile(source, folder / name)
            path = f"{paths.PLOTS.name}/images/{name}"
            picture = sections.captioned(Path(name).stem, source.read_bytes(), path)
            shown += [picture] if picture else []
    return shown


def settings(params: Params) -> dict[str, object]:
    """Return what the page says about the run."""
    head = params.projector
    first = f"{head.init} ({'frozen' if head.frozen else 'trainable'})"
    text = f"{first} first layer, {head.hidden_dim} hidden, {head.out_dim} out, {head.activation}"
    if (head.num_layers, head.position, head.norm) != (2, 1, "none"):
        text += f"; {head.num_layers} layers, {head.init} at {head.position}, norm {head.norm}"
    if head.needs_autoencoder and head.autoencoder_dataset != "same":
        text += f"; autoencoder of {head.autoencoder_dataset}"
    return {"projector": text, "activation": head.activation, "seed": params.seed, "recipe": params.recipe}


if __name__ == "__main__":
    run_stage(main)
