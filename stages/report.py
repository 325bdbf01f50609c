"""Gather the stages' summaries into metrics.json, plots and a page, as Markdown and as HTML."""

import shutil
from pathlib import Path

from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.params import Params
from headstart.run.stage import run_stage, say
from headstart.study import gradients, report
from headstart.study.page import to_html


def main() -> None:
    """Read only what params.yaml names: the folders may hold more from earlier runs."""
    inputs = Inputs("report", "report")
    params = inputs.params
    summaries = {
        name: {
            "simclr": files.read_json(paths.simclr_metrics(name) / "summary.json", made_by="train_simclr"),
            "probe": files.read_json(paths.probe_metrics(name) / "summary.json", made_by="fit_probe"),
            "transfer": {
                target: files.read_json(paths.transfer_metrics(name, target) / "summary.json", made_by="transfer")
                for target in params.probe.datasets
            },
        }
        for name in params.datasets
    }
    curves = {
        name: files.read_csv(paths.simclr_metrics(name) / "curve.csv", made_by="train_simclr")
        for name in params.datasets
    }
    measured = {
        name: files.read_csv(paths.simclr_metrics(name) / "diagnostics.csv", made_by="train_simclr")
        for name in params.datasets
        if (paths.simclr_metrics(name) / "diagnostics.csv").is_file()
    }
    flows = gradients.flow_rows(measured)
    with files.write_folder(paths.PLOTS) as folder:
        files.write_csv(folder / "simclr_loss.csv", report.loss_rows(curves))
        files.write_csv(folder / "probe_accuracy.csv", report.accuracy_rows(summaries))
        if flows:
            files.write_csv(folder / Path(gradients.FLOW).name, flows)
        images = folder / "images"
        images.mkdir()
        report.loss_figure(images / "simclr_loss.png", curves)
        pictures, shown = {}, []
        for name in params.datasets:
            sources = {
                f"{name}_views.png": paths.simclr_metrics(name) / "views.png",
                f"{name}_confusion.png": paths.probe_metrics(name) / "confusion.png",
                f"{name}_reconstructions.png": paths.simclr_metrics(name) / "reconstructions.png",
            }
            there = {target: source for target, source in sources.items() if source.exists()}
            for target, source in there.items():
                shutil.copyfile(source, images / target)
                picture = report.captioned(target.removesuffix(".png"), source.read_bytes())
                shown += [picture] if picture else []
            pictures[name] = [f"{paths.PLOTS.name}/images/{target}" for target in there]
    page = report.markdown(summaries, settings(params), {"Loss": ["plots/images/simclr_loss.png"], **pictures})
    files.write_text(paths.REPORT, page)
    files.write_text(paths.PAGE, to_html(report.page(summaries, settings(params), curves, shown, flows)))
    numbers = report.metrics(summaries, gradients.early(flows))
    files.write_json(paths.METRICS, numbers)
    files.write_json(paths.ALL, {"metrics": numbers, "facts": facts(summaries), "made_with": made_with(params)})
    say(page.partition("\n## ")[0])


def facts(summaries: report.Summaries) -> dict[str, dict[str, object]]:
    """Return dataset -> what its settings came to: frozen or not, an autoencoder or none, the precision in use."""
    return {
        name: {
            "projector_frozen": summary["simclr"]["projector_frozen"],
            "needs_autoencoder": summary["simclr"]["autoencoder"] is not None,
            "precision": summary["simclr"]["precision"],
        }
        for name, summary in summaries.items()
    }


def made_with(params: Params) -> dict[str, dict[str, dict[str, str]]]:
    """Return stage -> element -> the digests of the settings and code that made what this report rests on."""
    head = params.projector
    per_dataset = ("download", "prepare", "train_simclr", "fit_probe")
    wanted = {stage: list(params.datasets) for stage in per_dataset}
    wanted["prepare_source"] = [head.autoencoder_dataset]
    wanted["pretrain_autoencoder"] = [f"{name}-{head.init}-{head.hidden_dim}" for name in params.datasets]
    wanted["prepare_target"] = list(params.probe.datasets)
    wanted["transfer"] = [f"{name}-on-{target}" for name in params.datasets for target in params.probe.datasets]
    return {
        stage: {name: files.read_json(paths.used(stage, name), made_by=stage) for name in names}
        for stage, names in wanted.items()
    }


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
