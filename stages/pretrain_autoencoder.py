"""Train the autoencoder whose embedding layer the projector starts from, or leave a marker that none is needed."""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from headstart.data.views import resize
from headstart.models.autoencoder import build_autoencoder, count_parameters, peak_signal_to_noise
from headstart.models.backbone import num_features
from headstart.models.projector import PROJECTOR_INITS
from headstart.run import artifacts, paths, tracking
from headstart.run.inputs import Prepared, load_prepared, pick_device
from headstart.run.params import Params, load_params
from headstart.run.stage import progress, run_stage, say
from headstart.study.pictures import image_grid
from headstart.training.reconstruction import AutoencoderEpoch, reconstruction_error, train_autoencoder

STAGE = "pretrain_autoencoder"


def main(dataset: str, init: str, dim: int) -> None:
    """Leave autoencoder.safetensors, summary.json, curve.csv and reconstructions.png, or none.json."""
    params = load_params()
    out = paths.autoencoder(dataset, init, dim)
    if not PROJECTOR_INITS[init].needs_autoencoder:
        with artifacts.write_folder(out) as folder:
            artifacts.write_json(folder / "none.json", {"init": init, "needs_autoencoder": False})
        return
    seen = params.projector.autoencoder_dataset
    folder = paths.prepared(dataset) if seen == "same" else paths.source(seen)
    seen = dataset if seen == "same" else seen
    data = load_prepared(seen, params, pick_device(params.device), folder)
    features = num_features(params.backbone)
    key = shared_key(params, seen, data.meta["hash"], dim, data.train.images.device)
    # the layer depends on neither init nor head: one training serves them all, and workers that run at once
    with tracking.stage_run(STAGE, dataset, params) as run, artifacts.shared_result(STAGE, key) as shared:
        run.log_dataset(seen, data.meta)
        if not shared.exists():
            with artifacts.write_folder(shared) as folder:
                train(params, seen, data, features, dim, artifacts.FileCheckpoint(STAGE, key), folder)
        for row in artifacts.read_csv(shared / "curve.csv", made_by=STAGE):
            metrics = {f"autoencoder/{name}": float(value) for name, value in row.items() if name != "epoch"}
            run.log_metrics(metrics, step=int(row["epoch"]))
        run.log_figure(shared / "reconstructions.png")
        with artifacts.write_folder(out) as folder:
            shutil.copytree(shared, folder, dirs_exist_ok=True)


def shared_key(params: Params, dataset: str, data_hash: str, dim: int, device: torch.device) -> str:
    """Return the digest of all that decides the trained autoencoder: nothing of the head but the layer's width."""
    widths = [params.dataset(dataset).image_size, num_features(params.backbone), dim]
    # these say whether a layer is needed and how wide, not how it is trained
    code = artifacts.code_digest(STAGE, leave_out=("projector.py", "backbone.py", "convolution.py"))
    recipe = params.raw["autoencoder"]
    return artifacts.digest(data_hash, recipe, params.seed, widths, code, artifacts.numerics(device))


def train(
    params: Params,
    dataset: str,
    data: Prepared,
    features: int,
    dim: int,
    checkpoint: artifacts.FileCheckpoint,
    folder: Path,
) -> None:
    """Train one autoencoder and write what the stage leaves into `folder`."""
    image_size = params.dataset(dataset).image_size
    device = data.train.images.device
    autoencoder = build_autoencoder(params.autoencoder.arch, image_size, features, dim, params.seed).to(device)
    recipe = params.autoencoder
    with progress(recipe.epochs, f"autoencoder {dataset}", "epoch") as bar:

        def on_epoch(row: AutoencoderEpoch) -> None:
            bar.update(row.epoch - bar.n)
            bar.set_postfix(val_mse=f"{row.val_mse:.4f}")

        curve = train_autoencoder(
            autoencoder,
            data.pretrain,
            data.val,
            recipe,
            image_size=image_size,
            seed=params.seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
    best = min(curve, key=lambda row: row.val_mse)
    test_mse = reconstruction_error(autoencoder, data.test, image_size)
    summary = {
        "train_mse": reconstruction_error(autoencoder, data.pretrain, image_size),
        "val_mse": best.val_mse,
        "test_mse": test_mse,
        "test_psnr": peak_signal_to_noise(test_mse),
        "best_epoch": best.epoch,
        "num_parameters": count_parameters(autoencoder),
        "latent_dim": dim,
    }
    artifacts.write_tensors(folder / "autoencoder.safetensors", autoencoder.state_dict())
    artifacts.write_json(folder / "summary.json", summary)
    artifacts.write_csv(folder / "curve.csv", [asdict(row) for row in curve])
    x_NCHW = resize(data.test.images[:12], image_size)
    with torch.no_grad():
        image_grid(folder / "reconstructions.png", [x_NCHW, autoencoder(x_NCHW)])
    checkpoint.remove()
    say(f"autoencoder {dataset} {dim}: test MSE {summary['test_mse']:.5f}, best epoch {best.epoch} of {len(curve)}")


if __name__ == "__main__":
    run_stage(main)
