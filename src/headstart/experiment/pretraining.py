"""SimCLR on a dataset: backbone, head and batches put together, trained, and summed up."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headstart.data.views import Views
from headstart.errors import UserError
from headstart.experiment.monitor import neighbours_monitor
from headstart.experiment.prepared import Prepared
from headstart.models.autoencoder import Autoencoder, build_autoencoder, count_parameters
from headstart.models.backbone import Backbone, build_backbone, check_forward, num_features
from headstart.models.projector import Projector, build_projector
from headstart.precision import use_bf16
from headstart.training.contrastive import Batches, Epoch, Network, SimCLR, train_simclr
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.distributed import ALONE, Group
from headstart.training.initial import initial_features, initial_units
from headstart.training.resume import Checkpoint
from headstart.training.room import told_of_memory

SHOWN = 12  # images whose views are drawn


@dataclass(frozen=True)
class Method:
    """All that decides how a backbone is trained, but for the images and what the head starts from."""

    backbone: Backbone
    head: Projector
    simclr: SimCLR
    diagnostics: Diagnostics
    views: Views
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Start:
    """The trained autoencoder that a head starts from: its state dict, and what its summary.json says."""

    weights: Mapping[str, Tensor]
    summary: Mapping[str, Any]

    def embedding(self) -> dict[str, Tensor]:
        """Return weight (d, F) and bias (d,) of its embedding layer."""
        return {name: self.weights[f"embedding.{name}"] for name in ("weight", "bias")}

    def autoencoder(self) -> Autoencoder:
        """Return the autoencoder itself."""
        dim, features = self.weights["embedding.weight"].shape
        built = build_autoencoder(self.summary["arch"], self.summary["image_size"], features, dim, seed=0)
        built.load_state_dict(self.weights)
        return built


@dataclass(frozen=True)
class Result:
    """What a training gave: the curve, the epoch whose weights were kept, and the rows of measured steps."""

    curve: list[Epoch]
    measured: list[dict[str, float]]
    num_train: int
    keep: str = "best"

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept: that of the lowest validation loss, or the last."""
        return self.curve[-1] if self.keep == "last" else min(self.curve, key=lambda epoch: epoch.val_loss)

    def curve_rows(self) -> list[dict[str, Any]]:
        """Return the curve's rows, with the column `monitor` where the monitor was asked at least once."""
        rows = [asdict(epoch) for epoch in self.curve]
        asked = any(row["monitor"] is not None for row in rows)
        return [{key: value for key, value in row.items() if asked or key != "monitor"} for row in rows]


@dataclass
class Run:
    """A training that is ready to start, as one of a group of processes; `train` changes backbone and projector."""

    method: Method
    data: Prepared
    backbone: nn.Module
    projector: nn.Sequential
    train_batches: Batches
    val_batches: Batches
    group: Group
    observer: Observer | None
    _num_told: int = field(default=0, init=False)

    @property
    def precision(self) -> str:
        """The precision that is really used: fp32 or bf16."""
        return "bf16" if use_bf16(self.method.simclr.precision, self.data.device) else "fp32"

    @property
    def num_steps(self) -> int:
        """Optimiser steps in all."""
        return self.method.simclr.epochs * (len(self.data.pretrain.split.labels) // self.method.batch_size)

    def state(self) -> dict[str, Tensor]:
        """Return all weights as they are now."""
        return nn.Sequential(self.backbone, self.projector).state_dict()

    def train(
        self,
        checkpoint: Checkpoint,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Result:
        """Train in place and keep the weights of the lowest validation loss; see train_simclr."""
        method, data = self.method, self.data
        network = Network(self.backbone, self.projector, method.simclr.forward == "apart")
        with told_of_memory(network, self.train_batches, method.simclr, method.batch_size):
            curve = train_simclr(
                self.backbone,
                self.projector,
                self.train_batches,
                self.val_batches,
                method.simclr,
                batch_size=method.batch_size,
                seed=method.seed,
                group=self.group,
                checkpoint=checkpoint,
                observer=self.observer,
                monitor=self._monitor() if data.num_classes else None,
                on_epoch=on_epoch,
                on_step=on_step,
            )
        measured = self.observer.rows() if self.observer else []
        return Result(curve, measured, len(data.pretrain.split.labels), method.simclr.keep)

    def _monitor(self) -> Callable[[nn.Module], float]:
        data = self.data
        return neighbours_monitor(
            data.train.split,
            data.val.split,
            data.num_classes,
            data.size,
            data.train.standardize,
            bf16=self.precision == "bf16",
        )

    def measured_since_asked(self) -> list[dict[str, float]]:
        """Return the rows of the steps that were measured since the last call."""
        rows = self.observer.rows(self._num_told) if self.observer else []
        self._num_told += len(rows)
        return rows

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return file -> tensors of what is kept of the training."""
        modules = {"backbone": self.backbone, "projector": self.projector}
        return {f"{name}.safetensors": module.state_dict() for name, module in modules.items()}

    def report(self, result: Result, start: Start | None) -> dict[str, Any]:
        """Return file -> what is told of the training."""
        summary = self.summary(result) | {"autoencoder": start and start.summary}
        return {"summary.json": summary, "curve.csv": result.curve_rows(), "diagnostics.csv": result.measured}

    def summary(self, result: Result) -> dict[str, Any]:
        """Return the training in numbers."""
        best = result.best
        return {
            "loss": self.method.simclr.loss,
            "train_loss": best.train_loss,
            "val_loss": best.val_loss,
            "best_epoch": best.epoch,
            "num_epochs": len(result.curve),
            "num_train": result.num_train,
            "backbone_parameters": count_parameters(self.backbone),
            "projector_parameters": count_parameters(self.projector),
            "projector_frozen": self.method.head.frozen,
            "precision": self.precision,
        }

    def example_views(self) -> list[Tensor]:
        """Return a row of training images, (N, 3, S, S), and four rows of their random views, none standardised."""
        train = self.train_batches
        rows = torch.arange(min(SHOWN, len(train.split.labels)))
        plain = Batches(train.split, train.views, train.image_size, None)
        pairs = [plain.pairs(rows, "views picture", number, seed=0).chunk(2) for number in range(2)]
        return [self.data.pretrain.plain(rows), *(view for pair in pairs for view in pair)]


def assemble(method: Method, data: Prepared, start: Start | None, group: Group = ALONE) -> Run:
    """Return the training of a method on a dataset.

    start: the autoencoder that the head starts from, None where it needs none. Raises UserError where the backbone does
    not run at the images' size, the embedding does not fit the head, or views are to be rotated that are cut from
    images at full resolution.
    """
    if method.views.rotate and data.pretrain.split.whole is not None:
        raise UserError("params.yaml: data.stored_size: full must be null or pixels with views that rotate")
    backbone = build_backbone(method.backbone, method.seed).to(data.device)
    check_forward(backbone, method.backbone, data.size)
    projector = _head(method, backbone, data, start).to(data.device)
    train, val = (
        Batches(images.split, method.views, images.size, images.standardize) for images in (data.pretrain, data.val)
    )
    observer = Observer(method.diagnostics) if method.diagnostics.every and group.rank == 0 else None
    return Run(method, data, backbone, projector, train, val, group, observer)


def _head(method: Method, backbone: nn.Module, data: Prepared, start: Start | None) -> nn.Sequential:
    images, drawn = data.pretrain, {"batch_size": method.batch_size, "seed": method.seed}
    found: dict[str, Tensor] = {} if start is None else start.embedding()
    if method.head.needs_features:
        found["features"] = initial_features(backbone, images.split, images.size, images.standardize, **drawn)
    if method.head.needs_units and start is not None:
        autoencoder = start.autoencoder().to(data.device)
        found["units"] = initial_units(autoencoder.encoder, images.split, start.summary["image_size"], **drawn)
    try:
        return build_projector(method.head, num_features(method.backbone), method.seed, found)
    except ValueError as error:
        raise UserError(f"params.yaml: {error}") from None
