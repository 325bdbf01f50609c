"""`python -m headstart export`: the workspace's trained backbones as folders that load without Headstart."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart import history, lock, settings
from headstart.data.arrays import Standardize, load_split
from headstart.data.views import resize
from headstart.errors import UserError
from headstart.export import graph
from headstart.export.bundle import CARD, ONNX, PROBE, SETTINGS, WEIGHTS, Settings, plain_network
from headstart.export.card import Origin, how_to_use, model_card
from headstart.models.backbone import Backbone, build_backbone
from headstart.run import files, paths, tensors
from headstart.run.params import Params, load_params
from headstart.run.stage import say
from headstart.tracking import provenance

CHECKED_IMAGES = 16


@dataclass(frozen=True)
class Trained:
    """What the pipeline has left of one dataset."""

    settings: Settings
    network: nn.Module
    probe: dict[str, torch.Tensor] | None
    meta: dict[str, Any]
    scores: dict[str, dict[str, float]]


def export(options: argparse.Namespace) -> None:
    """Write a folder per dataset; raises UserError where a result is missing or older than its parameters."""
    params = load_params()
    names = [options.dataset] if options.dataset else params.datasets
    if missing := graph.missing_packages():
        say(f"{ONNX} is left out, for want of {', '.join(missing)}: python -m pip install -r requirements-optional.txt")
    for name in names:
        params.dataset(name)
        check_fresh(name, params)
        trained = read_trained(name, params)
        with files.write_folder(options.out / name, mark=PROBE) as folder:
            write(folder, name, params, trained, with_graph=not missing)
        say(f"{options.out / name}: {', '.join(sorted(file.name for file in (options.out / name).iterdir()))}")


def check_fresh(dataset: str, params: Params) -> None:
    """Raise UserError where settings were edited after the results were made: the card would say what is not so."""
    found = history.read_workspace(Path())
    made = next((result for result in found.results if result.dataset == dataset), None)
    if made is None:
        why = f": {found.left_out[0]}" if found.left_out else ""
        raise UserError(f"{dataset}: no finished results in this workspace{why}: dvc repro")
    if stale := lock.stale(made.entries, params.settings):
        raise UserError(f"{stale[0]}: its settings were edited after the results were made: dvc repro")


def read_trained(dataset: str, params: Params) -> Trained:
    """Return a dataset's trained backbone, its probe, and what is known about them."""
    meta = files.read_json(paths.prepared(dataset) / "meta.json", made_by="prepare")
    scores = {
        name: files.read_json(folder / "summary.json", made_by=maker)[name]
        for name, folder, maker in (
            ("trained", paths.probe_metrics(dataset), "fit_probe"),
            ("untrained", paths.baselines(dataset), "fit_baselines"),
        )
    }
    state = tensors.read_tensors(paths.simclr(dataset) / WEIGHTS, made_by="train_simclr")
    probe = tensors.read_tensors(paths.probe(dataset) / PROBE, made_by="fit_probe") if meta["classes"] else None
    seen = meta | {"image_size": params.dataset(dataset).image_size}
    settings = Settings.of(dataset, params.backbone, params.data.standardize, seen)
    network = plain_network(build_backbone(Backbone(settings.arch, settings.stem, "none"), seed=0))
    network.load_state_dict(state)
    return Trained(settings, network, probe, meta, scores)


def write(folder: Path, dataset: str, params: Params, trained: Trained, with_graph: bool) -> None:
    """Write an export's files into a folder."""
    files.write_text(folder / SETTINGS, trained.settings.to_json())
    tensors.write_tensors(folder / WEIGHTS, trained.network.state_dict())
    if trained.probe is not None:
        tensors.write_tensors(folder / PROBE, trained.probe)
    if with_graph:
        x_NCHW = example_images(dataset, trained.settings)
        graph.write_graph(trained.network, x_NCHW, folder / ONNX)
        graph.check_graph(folder / ONNX, trained.network, x_NCHW)
    names = [file.name for file in folder.iterdir()]
    about = params.dataset(dataset).about
    used, use = settings.made_by(params.settings, dataset), how_to_use(trained.settings, names)
    card = model_card(trained.settings, about, trained.meta, used, trained.scores, origin(trained), use)
    files.write_text(folder / CARD, card)


def example_images(dataset: str, settings: Settings) -> torch.Tensor:
    """Return a few test images as the network takes them."""
    split = load_split(paths.prepared(dataset), "test")
    x_NCHW = resize(split.images[:CHECKED_IMAGES], settings.image_size)
    if settings.mean is not None and settings.std is not None:
        x_NCHW = Standardize(tuple(settings.mean), tuple(settings.std))(x_NCHW)
    return x_NCHW


def origin(trained: Trained) -> Origin:
    """Return where the results come from."""
    commit = provenance.commit() or "unknown"
    return Origin(commit, provenance.experiment_of_workspace() or "none: plain dvc repro", trained.meta["hash"])
