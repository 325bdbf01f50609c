"""Train the autoencoder whose embedding layer the projector starts from, or leave a marker that none is needed."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from headstart.data.arrays import load_split
from headstart.experiment.embedding import train_embedding
from headstart.experiment.prepared import Prepared, prepare
from headstart.models.backbone import num_features
from headstart.models.projector import PROJECTOR_INITS
from headstart.run import files, interrupts, paths, tensors
from headstart.run.inputs import Inputs
from headstart.run.processes import pick_device
from headstart.run.stage import following, run_stage, say
from headstart.settings import SAME
from headstart.study.pictures import image_grid
from headstart.tracking import tracking

STAGE = "pretrain_autoencoder"
# What decides nothing of the layer: whose images they are, the arrays' hash says, and widths are part of the key
UNSEEN = ("projector.autoencoder_dataset", "block.image_size", "backbone.arch")
UNSEEN_CODE = ("projector.py", "rbf.py", "backbone.py", "convolution.py", "timm_models.py")


def main(dataset: str, init: str, dim: int) -> None:
    """Leave autoencoder.safetensors, summary.json, curve.csv and reconstructions.png, or none.json."""
    inputs = Inputs(STAGE, f"{dataset}-{init}-{dim}", dataset)
    params, out = inputs.params, paths.autoencoder(dataset, init, dim)
    learns_from = PROJECTOR_INITS[init].autoencoder
    if learns_from is None:
        with files.write_folder(out) as folder, inputs.leaving():
            files.write_json(folder / "none.json", {"init": init, "needs_autoencoder": False})
        return
    other = params.projector.autoencoder_dataset
    seen, arrays = (dataset, paths.prepared(dataset)) if other == SAME else (other, paths.source(other))
    meta = files.read_json(arrays / "meta.json", made_by="prepare")
    size, device = params.dataset(seen).image_size, pick_device(params.device)
    read, pretrain_on = partial(load_split, arrays), params.data.pretrain_on
    data = prepare(meta, read, size=size, standardize=False, device=device, pretrain_on=pretrain_on)
    widths, numerics = [size, num_features(params.backbone), dim], tensors.numerics(device, "fp32")
    key = inputs.digest(data.hash, widths, numerics, learns_from, leave_out=UNSEEN, code_leave_out=UNSEEN_CODE)
    # beyond this the layer depends on neither init nor head: one training serves them all, and workers that run at once
    with tracking.stage_run(STAGE, dataset, params) as run, files.shared_result(STAGE, key) as shared:
        run.log_dataset(seen, meta)
        if not shared.exists():
            train(inputs, data, seen, learns_from, dim, tensors.FileCheckpoint(STAGE, key), shared)
        curve = shared / "curve.csv"
        for row in files.read_csv(curve, made_by=STAGE) if curve.exists() else ():
            run.log_row("autoencoder", {name: float(value) for name, value in row.items()}, step="epoch")
        run.log_figure(shared / "reconstructions.png")
        with files.write_folder(out) as folder, inputs.leaving():
            shutil.copytree(shared, folder, dirs_exist_ok=True)


def train(
    inputs: Inputs,
    data: Prepared,
    seen: str,
    learns_from: str,
    dim: int,
    checkpoint: tensors.FileCheckpoint,
    out: Path,
) -> None:
    """Train one autoencoder and leave it in `out`, for all who need it."""
    recipe, features = inputs.params.autoencoder, num_features(inputs.params.backbone)
    watching = following(recipe.epochs, f"autoencoder {seen}", "epoch", inputs.warn)
    with interrupts.deferred(), watching as watch:
        made = train_embedding(
            data,
            recipe.arch,
            recipe,
            learns_from=learns_from,
            features=features,
            dim=dim,
            seed=inputs.params.seed,
            checkpoint=checkpoint,
            on_epoch=lambda row: watch.epoch(row.epoch, val_mse=row.val_mse),
        )
    with files.write_folder(out) as folder:
        curve = [asdict(row) for row in made.curve]
        weights = made.autoencoder.state_dict()
        outs = {"autoencoder.safetensors": weights, "summary.json": made.summary, "curve.csv": curve}
        tensors.write_outs(folder, outs)
        image_grid(folder / "reconstructions.png", made.examples(data))
    checkpoint.remove()
    best = made.summary["best_epoch"]
    say(f"autoencoder {seen} {dim}: test MSE {made.summary['test_mse']:.5f}, best epoch {best} of {len(curve)}")


if __name__ == "__main__":
    run_stage(main)
