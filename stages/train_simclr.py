"""Train backbone and projector with SimCLR."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from headstart.data.arrays import load_split
from headstart.experiment.prepared import prepare
from headstart.experiment.pretraining import Method, Run, Start, assemble
from headstart.models.backbone import num_features
from headstart.run import files, interrupts, paths, processes, tensors
from headstart.run.inputs import Inputs
from headstart.run.stage import following, run_stage, say
from headstart.study.pictures import image_grid
from headstart.tracking import tracking
from headstart.training.contrastive import Epoch
from headstart.training.distributed import Group

STAGE = "train_simclr"


def main(dataset: str) -> None:
    """Train as one process, or launch several that share each batch."""
    inputs = Inputs(STAGE, dataset)
    params, device = inputs.params, processes.pick_device(inputs.params.device)
    shares = (params.dataset(dataset).batch_size, params.simclr.num_processes)
    with processes.sharing(STAGE, dataset, *shares, device) as (group, device):
        if group is not None:
            train(dataset, inputs, group, device)


def train(dataset: str, inputs: Inputs, group: Group, device: torch.device) -> None:
    """Leave backbone and projector as safetensors; summary.json, curve.csv, views.png and, where steps are measured,
    diagnostics.csv beside the metrics. Of a group the first process tells, tracks and writes."""
    params, arrays, made = inputs.params, paths.prepared(dataset), paths.simclr_metrics(dataset)
    block, head = params.dataset(dataset), params.projector
    meta = files.read_json(arrays / "meta.json", made_by="prepare")
    data = prepare(
        meta,
        partial(load_split, arrays),
        size=block.image_size,
        standardize=params.data.standardize,
        device=device,
        pretrain_on=params.data.pretrain_on,
        batch_size=block.batch_size,
    )
    start, folder, maker = None, paths.autoencoder(dataset, head.init, head.hidden_dim), "pretrain_autoencoder"
    if head.needs_autoencoder:
        weights = tensors.read_tensors(folder / "autoencoder.safetensors", made_by=maker)
        start = Start(weights, files.read_json(folder / "summary.json", made_by=maker))
    recipe = (params.backbone_here(), head, params.simclr, params.diagnostics, params.views_of(dataset))
    run = assemble(Method(*recipe, block.batch_size, params.seed), data, start, group)
    numerics = tensors.numerics(device, run.precision)
    key = inputs.digest(data.hash, tensors.tensors_digest(run.state()), group.size, numerics)
    checkpoint = tensors.FileCheckpoint(STAGE, key)
    if group.rank > 0:
        run.train(checkpoint)
        return
    with tracking.stage_run(STAGE, dataset, params) as tracked:
        tracked.log_dataset(dataset, meta)
        watching = following(run.num_steps, f"simclr {dataset}", "step", inputs.warn)
        with interrupts.deferred(group.size == 1), watching as watch:

            def on_epoch(epoch: Epoch) -> None:
                seconds = watch.epoch(loss=epoch.train_loss, val=epoch.val_loss)
                row = asdict(epoch) | {"num_images": None, "images_per_second": epoch.num_images / seconds}
                tracked.log_row("simclr", row, step="epoch")
                for measured in run.measured_since_asked():
                    tracked.log_row("diagnostics", measured, step="step")

            result = run.train(checkpoint, on_epoch, watch.at)
        with files.write_folder(paths.simclr(dataset)) as kept, files.write_folder(made) as out, inputs.leaving():
            tensors.write_outs(kept, run.weights())
            tensors.write_outs(out, run.report(result, start) | {"data.json": described(meta, run)})
            image_grid(out / "views.png", run.example_views())
            if (folder / "reconstructions.png").exists():
                shutil.copyfile(folder / "reconstructions.png", out / "reconstructions.png")
        tracked.log_figure(made / "views.png")
        tracked.log_model(run.backbone, data.size, data.pretrain.standardize)
    checkpoint.remove()
    best, rate = result.best, result.curve[-1].num_images / watch.seconds()
    epochs = f"epoch {best.epoch} of {len(result.curve)}"
    say(f"simclr {dataset}: val loss {best.val_loss:.4f} at {epochs}, {rate:.0f} images/s")


def described(meta: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return what a model card says of the images that a backbone was trained on."""
    keys = ("classes", "num_images", "num_unlabelled", "stored_size", "crop_bottom", "mean", "std", "hash")
    size, features = run.data.size, num_features(run.method.backbone)
    return {key: meta[key] for key in keys if key in meta} | {"image_size": size, "num_features": features}


if __name__ == "__main__":
    run_stage(main)
