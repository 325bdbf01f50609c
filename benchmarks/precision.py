"""Whether bf16 trains as well as fp32: the probe's accuracy over five seeds, paired, on digits and CIFAR-10-mini."""

import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import setting
from benchmarks.measure import Row, skipped, spread
from benchmarks.probe import STRENGTHS
from headstart.data.arrays import Split, load_split
from headstart.data.views import Views
from headstart.evaluation.features import extract_features
from headstart.evaluation.probe import Labelled, converged_probe, score
from headstart.ingest.formats import digits, image_archive
from headstart.ingest.pack import Packing, pack
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import Projector, build_projector
from headstart.precision import use_bf16
from headstart.training.contrastive import Batches, train_simclr

SEEDS = range(5)
BACKBONE = Backbone(arch="resnet18", stem="stride2", weights="none")
PROJECTOR = Projector(init="random", freeze=False, hidden_dim=128, out_dim=64, activation="relu")
# the default recipe's views and settings for both datasets, as in params.yaml
_PLAIN = {"grey": 0.0, "hue": 0.0, "saturation": 0.0, "blur": 0.0, "brightness": 0.4, "contrast": 0.4}
DIGITS_VIEWS = replace(setting.VIEWS, **_PLAIN, crop_scale=[0.5, 1.0], crop_ratio=[0.8, 1.25], rotate=15.0, flip=0.0)
MILD_VIEWS = replace(
    setting.VIEWS, crop_scale=[0.2, 1.0], brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0
)
ARCHIVE = "HEADSTART_CIFAR10_MINI"  # names the zip of CIFAR-10 images
CIFAR = {"cuda": (32, 40), "cpu": (16, 5)}  # its pixels and epochs: as far as minutes allow


def probe_top1(
    folder: Path, size: int, views: Views, batch_size: int, epochs: int, precision: str, seed: int, device: torch.device
) -> float:
    """Train SimCLR with the default recipe and return the converged probe's test accuracy."""
    train, val, test = (load_split(folder, name).to(device) for name in ("train", "val", "test"))
    backbone = build_backbone(BACKBONE, seed).to(device)
    head = build_projector(PROJECTOR, 512, seed).to(device)
    recipe = replace(
        setting.recipe(precision), epochs=epochs, weight_decay=1e-4, schedule="cosine", warmup_epochs=min(3, epochs / 5)
    )
    train_simclr(
        backbone,
        head,
        Batches(train, views, size, None),
        Batches(val, views, size, None),
        recipe,
        batch_size=batch_size,
        seed=seed,
    )
    parts = [_labelled(backbone, split, size) for split in (train, val, test)]
    fit = converged_probe(parts[0], parts[1], STRENGTHS, 10)
    return score(fit.probe.logits(parts[2].features), parts[2].labels)["top1"]


def _labelled(backbone: torch.nn.Module, split: Split, size: int) -> Labelled:
    return Labelled(extract_features(backbone, split, size, None), split.labels.numpy())


def compare(
    name: str, folder: Path, size: int, views: Views, batch_size: int, epochs: int, device: torch.device, seeds: range
) -> list[Row]:
    """Return accuracies in both precisions and the paired difference with Student's 95 % interval over seeds."""
    tops: dict[str, list[float]] = {"fp32": [], "bf16": []}
    laps: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in seeds:
        for precision in tops:
            started = time.perf_counter()
            top1 = probe_top1(folder, size, views, batch_size, epochs, precision, seed, device)
            laps[precision].append(time.perf_counter() - started)
            tops[precision].append(top1)
    rows = [spread(f"{name}: probe top-1, {precision}", values, "") for precision, values in tops.items()]
    rows += [spread(f"{name}: one run, {precision}", values, "s") for precision, values in laps.items()]
    points = [100 * (b - f) for b, f in zip(tops["bf16"], tops["fp32"], strict=True)]
    if len(points) > 1:
        from scipy import stats

        half = stats.t.ppf(0.975, len(points) - 1) * statistics.stdev(points) / np.sqrt(len(points))
        mean = statistics.fmean(points)
        note = f"mean and 95 % interval over {len(points)} seeds"
        rows.append(Row(f"{name}: bf16 - fp32", mean, mean - half, mean + half, "points", note=note))
    return rows


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Compare on digits, and on CIFAR-10-mini where its archive is named and the device computes in bf16 itself."""
    seeds, rows = SEEDS[:1] if quick else SEEDS, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(digits(folder), folder, Packing(8, None, 0.1, 0.2, 0, False), lambda done: None)
        rows += compare("digits", folder, 8, DIGITS_VIEWS, 128, 1 if quick else 40, device, seeds)
    archive = os.environ.get(ARCHIVE)
    if archive is None or not use_bf16("auto", device):  # where bf16 is emulated, its rounding is the same, hours later
        rows.append(skipped("CIFAR-10-mini", f"needs a device with bf16 and {ARCHIVE} naming its zip"))
        return rows, "both"
    size, epochs = CIFAR[device.type]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(image_archive(Path(archive)), folder, Packing(size, None, 0.1, 0.2, 0, False), lambda done: None)
        case = f"CIFAR-10-mini, {size} px, {epochs} epochs"
        rows += compare(case, folder, size, MILD_VIEWS, 256, 1 if quick else epochs, device, seeds)
    return rows, "both"
