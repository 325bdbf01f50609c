"""Train backbone and projector with SimCLR."""

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch
from torch import nn

from headstart.errors import UserError
from headstart.models.autoencoder import count_parameters
from headstart.models.backbone import build_backbone, check_forward, num_features
from headstart.models.projector import Embedding, Projector, build_projector
from headstart.run import artifacts, paths, processes, tracking
from headstart.run.inputs import Prepared, backbone_of, load_prepared, pick_device
from headstart.run.monitor import neighbours_monitor
from headstart.run.params import Params, load_params
from headstart.run.stage import Stopwatch, progress, run_stage, say
from headstart.study.pictures import image_grid
from headstart.training.contrastive import Batches, Epoch, train_simclr, use_bf16
from headstart.training.diagnostics import Observer
from headstart.training.distributed import Group
from headstart.training.initial import initial_features

STAGE = "train_simclr"


def main(dataset: str) -> None:
    """Leave backbone and projector as safetensors; summary.json, curve.csv, views.png and, where steps are measured,
    diagnostics.csv beside the metrics."""
    params = load_params()
    device, num = pick_device(params.device), params.simclr.num_processes
    if num > 1 and not processes.launched():
        processes.check_batch(params, dataset, num)
        processes.check_devices(device, num)
        processes.launch(STAGE, dataset, num)
        return
    with processes.joined(device) as (group, device):
        processes.check_batch(params, dataset, group.size)
        train(dataset, params, group, device)


def train(dataset: str, params: Params, group: Group, device: torch.device) -> None:
    """Train as one of a group; its first process tells, tracks and writes."""
    row = params.dataset(dataset)
    data = load_prepared(dataset, params, device)
    backbone = build_backbone(backbone_of(params), params.seed).to(device)
    check_forward(backbone, params.backbone, row.image_size)
    embedding, autoencoder_summary = read_autoencoder(dataset, params)
    if params.projector.needs_features:
        embedding = {"features": features_of(backbone, dataset, params, data)}
    projector = head_of(params, embedding).to(device)
    views = params.views_of(dataset)
    train_batches, val_batches = (
        Batches(split, views, row.image_size, data.standardize) for split in (data.pretrain, data.val)
    )
    key = checkpoint_key(dataset, params, data, nn.Sequential(backbone, projector).state_dict(), group)
    checkpoint = artifacts.FileCheckpoint(STAGE, key)
    observer = Observer(params.diagnostics) if params.diagnostics.every and group.rank == 0 else None
    run_training = partial(
        train_simclr,
        backbone,
        projector,
        train_batches,
        val_batches,
        params.simclr,
        batch_size=row.batch_size,
        seed=params.seed,
        group=group,
        checkpoint=checkpoint,
        observer=observer,
        monitor=neighbours_monitor(
            data.train,
            data.val,
            len(data.meta["classes"]),
            row.image_size,
            data.standardize,
            use_bf16(params.simclr.precision, device),
        ),
    )
    if group.rank > 0:
        run_training()
        return
    with tracking.stage_run(STAGE, dataset, params) as run:
        run.log_dataset(dataset, data.meta)
        num_train = len(data.pretrain.labels)
        num_steps = params.simclr.epochs * (num_train // row.batch_size)
        curve, rate = watch(run_training, run, num_steps, dataset, observer)
        best = min(curve, key=lambda epoch: epoch.val_loss)
        summary = summarise(best, len(curve), num_train, [backbone, projector], params.projector)
        summary["autoencoder"] = autoencoder_summary
        measured = observer.rows() if observer else []
        write_outs(dataset, params.projector, [backbone, projector], summary, curve, train_batches, measured)
        run.log_figure(paths.simclr_metrics(dataset) / "views.png")
        run.log_model(backbone, train_batches.blank())
    checkpoint.remove()
    say(f"simclr {dataset}: val loss {best.val_loss:.4f} at epoch {best.epoch} of {len(curve)}, {rate:.0f} images/s")


def watch(
    run_training: Callable[..., list[Epoch]],
    run: tracking.StageRun,
    num_steps: int,
    dataset: str,
    observer: Observer | None = None,
) -> tuple[list[Epoch], float]:
    """Return the curve of a training and its images per second; a bar and the tracker show how it goes."""
    stopwatch, told = Stopwatch(), 0

    def tell_measured() -> None:
        nonlocal told
        rows = observer.rows(told) if observer else []
        told += len(rows)
        for row in rows:
            finite = {f"diagnostics/{name}": value for name, value in row.items() if math.isfinite(value)}
            run.log_metrics(finite, step=int(finite.pop("diagnostics/step")))

    with progress(num_steps, f"simclr {dataset}", "step") as bar:

        def on_epoch(epoch: Epoch) -> None:
            rate = epoch.num_images / stopwatch.lap()
            metrics = {
                f"simclr/{name}": value
                for name, value in asdict(epoch).items()
                if name not in ("epoch", "num_images") and value is not None
            }
            run.log_metrics({**metrics, "simclr/images_per_second": rate}, step=epoch.epoch)
            tell_measured()
            bar.set_postfix(loss=f"{epoch.train_loss:.3f}", val=f"{epoch.val_loss:.3f}", images_s=f"{rate:.0f}")

        curve = run_training(on_epoch=on_epoch, on_step=lambda step: bar.update(step - bar.n))
    return curve, curve[-1].num_images / stopwatch.median()


def summarise(
    best: Epoch, num_epochs: int, num_train: int, modules: list[nn.Module], head: Projector
) -> dict[str, object]:
    """Return what summary.json says of the training."""
    backbone, projector = modules
    return {
        "train_loss": best.train_loss,
        "val_loss": best.val_loss,
        "best_epoch": best.epoch,
        "num_epochs": num_epochs,
        "num_train": num_train,
        "backbone_parameters": count_parameters(backbone),
        "projector_parameters": count_parameters(projector),
        "projector_frozen": head.frozen,
    }


def read_autoencoder(dataset: str, params: Params) -> tuple[Embedding | None, dict[str, float] | None]:
    """Return the embedding layer that the projector starts from and the autoencoder's errors, or twice None."""
    head = params.projector
    folder = paths.autoencoder(dataset, head.init, head.hidden_dim)
    if not head.needs_autoencoder:
        return None, None
    tensors = artifacts.read_tensors(folder / "autoencoder.safetensors", made_by="pretrain_autoencoder")
    embedding = {name: tensors[f"embedding.{name}"] for name in ("weight", "bias")}
    return embedding, artifacts.read_json(folder / "summary.json", made_by="pretrain_autoencoder")


def features_of(backbone: nn.Module, dataset: str, params: Params, data: Prepared) -> torch.Tensor:
    """Return features of training images, as the head will see them first."""
    row = params.dataset(dataset)
    return initial_features(
        backbone, data.pretrain, row.image_size, data.standardize, batch_size=row.batch_size, seed=params.seed
    )


def head_of(params: Params, embedding: Embedding | None) -> nn.Sequential:
    """Return the projector, or raise UserError where what it starts from does not fit its widths."""
    try:
        return build_projector(params.projector, num_features(params.backbone), params.seed, embedding)
    except ValueError as error:
        raise UserError(f"params.yaml: {error}") from None


def checkpoint_key(dataset: str, params: Params, data: Prepared, initial: dict[str, torch.Tensor], group: Group) -> str:
    """Return the digest of all that decides the trained weights, which begin as `initial`."""
    row = asdict(params.dataset(dataset)) | {"views": asdict(params.views_of(dataset)), "path": None}
    settings = [
        params.seed,
        asdict(params.simclr) | {"num_processes": group.size},
        row,
        params.options.standardize,
        data.meta["hash"],
        params.projector.frozen,
        asdict(params.diagnostics),
    ]
    head = params.projector
    begun_from = [artifacts.tensors_digest(initial), head.activation, head.num_layers, head.position, head.norm]
    numerics = artifacts.numerics(data.train.images.device)
    return artifacts.digest(settings, begun_from, numerics, artifacts.code_digest(STAGE))


def write_outs(
    dataset: str,
    head: Projector,
    modules: list[nn.Module],
    summary: dict[str, object],
    curve: list[Epoch],
    train: Batches,
    measured: list[dict[str, float]],
) -> None:
    """Write what the stage leaves; each of its two folders whole or not at all."""
    with artifacts.write_folder(paths.simclr(dataset)) as folder:
        for name, module in zip(("backbone", "projector"), modules, strict=True):
            artifacts.write_tensors(folder / f"{name}.safetensors", module.state_dict())
    with artifacts.write_folder(paths.simclr_metrics(dataset)) as folder:
        artifacts.write_json(folder / "summary.json", summary)
        artifacts.write_csv(folder / "curve.csv", curve_rows(curve))
        if measured:
            artifacts.write_csv(folder / "diagnostics.csv", measured)
        rows = torch.arange(min(12, len(train.split.labels)))
        plain = Batches(train.split, train.views, train.image_size, None)
        pairs = [plain.pairs(rows, "views picture", number, seed=0).chunk(2) for number in range(2)]
        image_grid(folder / "views.png", [view for pair in pairs for view in pair])
        reconstructions = paths.autoencoder(dataset, head.init, head.hidden_dim) / "reconstructions.png"
        if reconstructions.exists():
            shutil.copyfile(reconstructions, folder / "reconstructions.png")


def curve_rows(curve: list[Epoch]) -> list[dict[str, object]]:
    """Return the curve's rows, with the column `monitor` where the monitor was asked at least once."""
    rows = [asdict(epoch) for epoch in curve]
    if all(row["monitor"] is None for row in rows):
        for row in rows:
            del row["monitor"]
    return rows


if __name__ == "__main__":
    run_stage(main)
