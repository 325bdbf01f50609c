"""SimCLR: backbone and projector trained with one of LOSSES on pairs of views."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from headstart.data.arrays import Split, Standardize
from headstart.data.device_views import network_input
from headstart.data.views import Draw, Views, draw
from headstart.errors import UserError
from headstart.knobs import OneOf, Range
from headstart.models.projector import numbered
from headstart.precision import use_bf16
from headstart.randomness import generator
from headstart.replay import Replayed, rated, restore_optimizer
from headstart.training.diagnostics import Observer
from headstart.training.distributed import ALONE, Group, SharedCheckpoint
from headstart.training.losses import LOSSES
from headstart.training.optimizers import OPTIMIZERS, build_optimizer
from headstart.training.resume import Checkpoint, NoCheckpoint
from headstart.training.schedules import SCHEDULES, learning_rate

STUCK_EPOCHS = 5  # whole epochs after warm-up at the loss of a collapsed head before the run is given up
STUCK_MARGIN = 1e-3  # from that loss
LESS = "lower simclr.learning_rate or raise simclr.warmup_epochs"


@dataclass(frozen=True)
class SimCLR:
    """The contrastive recipe.

    loss: one of LOSSES; temperature: of nt_xent and dcl, vicreg has none;
    learning_rate: at 256 images a batch, scaled by batch size / 256 (Goyal et al. 2017);
    schedule: one of SCHEDULES, down to final_lr times the peak; precision: `auto` is bf16 where the hardware has it;
    num_processes: that share each batch; sync_batchnorm: statistics over the batch, not over each process's share;
    optimizer: one of OPTIMIZERS; monitor_epochs: epochs from one look of the monitor to the next, 0: none;
    forward: both views of a batch go through the backbone `together`, or `apart`: batch norm then sees one view at a
    time, and updates its statistics twice a step; keep: the weights of the `best` validation loss, or the `last`.
    head_learning_rate: of the projector, None: the backbone's; first_layer_learning_rate: of the projector's first
    layer, None: the rest of the projector's. Both are given and scheduled as learning_rate is.
    """

    epochs: Annotated[int, Range(1)]
    temperature: Annotated[float, Range(0, open_low=True)]
    learning_rate: Annotated[float, Range(0, open_low=True)]
    momentum: Annotated[float, Range(0, 1)]
    weight_decay: Annotated[float, Range(0)]
    schedule: Annotated[str, OneOf(SCHEDULES)]
    warmup_epochs: Annotated[float, Range(0)]
    final_lr: Annotated[float, Range(0, 1)]
    precision: Literal["auto", "fp32", "bf16"]
    num_processes: Annotated[int, Range(1)]
    sync_batchnorm: bool
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    monitor_epochs: Annotated[int, Range(0)] = 0
    forward: Literal["together", "apart"] = "together"
    keep: Literal["best", "last"] = "best"
    loss: Annotated[str, OneOf(LOSSES)] = "nt_xent"
    head_learning_rate: Annotated[float | None, Range(0, open_low=True)] = None
    first_layer_learning_rate: Annotated[float | None, Range(0, open_low=True)] = None

    def rates(self) -> tuple[float, float]:
        """Return the rates of the projector and of its first layer, as multiples of the backbone's."""
        head = self.learning_rate if self.head_learning_rate is None else self.head_learning_rate
        first = head if self.first_layer_learning_rate is None else self.first_layer_learning_rate
        return head / self.learning_rate, first / self.learning_rate

    def loss_of(self, z_ND: Tensor, group: Group = ALONE) -> Tensor:
        """Return the loss of projections (2B, D), rows i and i + B of an image; of a `group`, that of all processes."""
        return LOSSES[self.loss].function(z_ND, self.temperature, group=group)


@dataclass(frozen=True)
class Epoch:
    """One row of the curve: losses in nats (means over batches), learning rate of the last step, images seen.

    monitor: what the monitor said of the backbone, None where it was not asked.
    """

    epoch: int
    train_loss: float
    val_loss: float
    learning_rate: float
    num_images: int
    monitor: float | None = None


@dataclass(frozen=True)
class Batches:
    """Where the images of a loss come from and how they become pairs of views."""

    split: Split
    views: Views
    image_size: int
    standardize: Standardize | None

    def blank(self) -> Tensor:
        """Return two black images in the shape of `pairs`."""
        return torch.zeros(2, 3, self.image_size, self.image_size, device=self.split.images.device)

    def draw(self, rows: Tensor, *purpose: str | int, seed: int, group: Group = ALONE) -> tuple[Tensor, ...]:
        """Return what a batch of pairs is made of, on the host: rows (2B,), or crops where images lie at full
        resolution, then the fields of Draw: first for all first views, then for all second views.

        In a `group`: the process's share of them, drawn as for the whole batch.
        """
        rows = rows.repeat(2)
        drawn = draw(self.views, self.split.sizes[rows], generator(seed, *purpose))
        if group.size > 1:
            own = group.own_pairs(len(rows) // 2)
            rows, drawn = rows[own], drawn.rows(own)
        if self.split.whole is None:
            return rows, *drawn.tensors()
        return self.split.whole.crops(rows, drawn.box, self.image_size), *drawn.cropped().tensors()

    def views_of(self, chosen: Tensor, *drawn: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return (2B, 3, S, S), channels last, of what `draw` returned, which lies where the split's images lie."""
        images = chosen if chosen.dim() > 1 else self.split.images[chosen]
        return network_input(images, Draw(*drawn), self.views, self.image_size, self.standardize, dtype)

    def pairs(self, rows: Tensor, *purpose: str | int, seed: int, group: Group = ALONE) -> Tensor:
        """Return (2B, 3, S, S) float32 on the split's device: first all first views, then all second views."""
        device = self.split.images.device
        return self.views_of(*(part.to(device) for part in self.draw(rows, *purpose, seed=seed, group=group)))


class Network(nn.Sequential):
    """Backbone, then projector: the projector in float32 at least, also under autocast.

    Features of different images are nearly parallel at first, so what tells them apart is little more than what
    bfloat16 resolves: they are not to be rounded again on the way to the loss.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, apart: bool = False):
        super().__init__(backbone, projector)
        self.apart = apart

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return projections (B, D); apart: in training each half of the batch, a view, passes the backbone alone."""
        if self.apart and self.training:
            features = torch.cat([self[0](view) for view in x_BCHW.chunk(2)])
        else:
            features = self[0](x_BCHW)
        with torch.autocast(features.device.type, enabled=False):
            return self[1](features.float() if features.dtype == torch.bfloat16 else features)


def train_simclr(
    backbone: nn.Module,
    projector: nn.Module,
    train: Batches,
    val: Batches,
    recipe: SimCLR,
    *,
    batch_size: int,
    seed: int,
    group: Group = ALONE,
    checkpoint: Checkpoint | None = None,
    observer: Observer | None = None,
    monitor: Callable[[nn.Module], float] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda row: None,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[Epoch]:
    """Train in place, keep the weights of the lowest validation loss or the last, and return the curve.

    The modules lie on the device of the images. Step k draws from generator(seed, "step", k) and epoch e's order from
    generator(seed, "order", e), so a run resumed from `checkpoint` ends with the same bits as an unbroken one.
    Validation uses augmented views from a fixed generator. In a `group` every process calls this with equal arguments
    and works on its share of each batch; all end with equal weights and curves, and rank 0 saves. `observer` measures
    steps and `monitor` judges the backbone every `monitor_epochs` epochs, both on rank 0 alone; neither changes a
    weight, and an interrupted run ends with the observer's rows of an unbroken one. Raises UserError
    where the batch is larger than the train split or not divisible by the processes, the loss is not finite, or it
    stays at that of a collapsed head.
    """
    steps = _steps_per_epoch(len(train.split.labels), batch_size, group)
    checkpoint = SharedCheckpoint(checkpoint or NoCheckpoint(), group)
    run = _Run(Network(backbone, projector, recipe.forward == "apart"), recipe, batch_size, steps, observer)
    wrapped = group.wrap(run.model, recipe.sync_batchnorm, train.blank())
    run.restore(checkpoint.load())
    step = stepping(wrapped, run.optimizer, train, recipe, recipe.epochs * steps - run.step, group)
    batch_loss = validating(
        run.model, val, recipe, (recipe.epochs - run.step // steps) * len(val.split.labels) // batch_size
    )
    while run.step < recipe.epochs * steps:
        epoch, begun = divmod(run.step, steps)
        order = torch.randperm(len(train.split.labels), generator=generator(seed, "order", epoch))
        for k in range(begun, steps):
            rows = order[k * batch_size : (k + 1) * batch_size]
            batch = train.draw(rows, "step", run.step, seed=seed, group=group)
            with run.watched(group) as is_watched:
                run.losses[k] = (step.kernel_by_kernel if is_watched else step)(run.rate_at(run.step), *batch)
            run.step += 1
            on_step(run.step)
            if k + 1 < steps and checkpoint.due():
                run.check_finite()
                checkpoint.save(run.state())
        run.check_finite()
        val_loss = validation_loss(run.model, val, recipe, batch_size, seed, group, batch_loss)
        judged = run.judge(monitor, epoch + 1, group)
        rate, seen = run.rate_at(run.step - 1), steps * batch_size
        row = Epoch(epoch + 1, run.losses.mean().item(), val_loss, rate, seen, judged)
        run.finish_epoch(row)
        on_epoch(row)
        if checkpoint.due():
            checkpoint.save(run.state())
    if recipe.keep == "best":
        run.model.load_state_dict(run.best)
    return run.history


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x_BCHW: Tensor,
    rate: float | Tensor,
    recipe: SimCLR,
    group: Group = ALONE,
) -> Tensor:
    """One optimiser step on a batch of view pairs; returns the loss, detached, without waiting for the device.

    rate: the learning rate, a number or 0-d on the device. In a `group`, x_BCHW is the process's share, `model` as
    Group.wrap returns it, and the loss that of the whole batch.
    """
    optimizer.zero_grad(set_to_none=True)
    with _autocast(x_BCHW.device, recipe):
        z_ND = model(x_BCHW)
    loss = recipe.loss_of(z_ND, group)
    # DistributedDataParallel averages gradients, of which each process has its part of a sum
    (loss if group.size == 1 else loss * group.size).backward()
    with rated(optimizer, rate):
        optimizer.step()
    return loss.detach()


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    val: Batches,
    recipe: SimCLR,
    batch_size: int,
    seed: int,
    group: Group = ALONE,
    batch_loss: Callable[..., Tensor] | None = None,
) -> float:
    """Return the mean loss over the validation split's batches of views, in eval mode; the views never change.

    Batches have the training size or, where the split is smaller, the split's; a last partial batch is dropped, since
    the loss depends on the number of negatives. In a `group` each process does whole batches, with rank 0's statistics.
    batch_loss: `validating`'s, for those who ask again and again.
    """
    batch_loss = batch_loss or validating(model, val, recipe, calls=0)
    num_val = len(val.split.labels)
    batch_size = min(batch_size, num_val)
    group.share_buffers(model)
    model.eval()
    losses = torch.zeros(num_val // batch_size, device=val.split.images.device)
    for k in range(group.rank, len(losses), group.size):
        rows = torch.arange(k * batch_size, (k + 1) * batch_size)
        losses[k] = batch_loss(*val.draw(rows, "validation", k, seed=seed))
    model.train()
    return group.sum(losses).mean().item()


def validating(model: nn.Module, val: Batches, recipe: SimCLR, calls: int) -> Replayed:
    """Return (*what Batches.draw returned) -> loss of a batch without gradients; calls: how many there will be."""
    device = val.split.images.device

    @torch.no_grad()
    def batch_loss(*batch: Tensor) -> Tensor:
        x_BCHW = val.views_of(*batch, dtype=_dtype(recipe, device))
        with _autocast(device, recipe):
            z_ND = model(x_BCHW)
        return recipe.loss_of(z_ND)

    return Replayed(batch_loss, device, name="validation", calls=calls)


def stepping(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Batches,
    recipe: SimCLR,
    calls: int,
    group: Group = ALONE,
) -> Replayed:
    """Return (rate, *what Batches.draw returned) -> loss of a training step, views included; calls: as `validating`'s.

    Several processes run kernel by kernel: their exchange of gradients is not recorded.
    """
    device = train.split.images.device

    def step(rate: float | Tensor, *batch: Tensor) -> Tensor:
        x_BCHW = train.views_of(*batch, dtype=_dtype(recipe, device))
        return training_step(model, optimizer, x_BCHW, rate, recipe, group)

    calls = calls if group.size == 1 else 0
    return Replayed(step, device, name="SimCLR's step", calls=calls, changes=(model, optimizer))


def rates_apart(projector: nn.Module, recipe: SimCLR) -> list[tuple[list[nn.Parameter], float]]:
    """Return the projector's trainable parameters by rate, as build_optimizer takes them: its first layer, the others.

    Raises UserError where a rate is given for what has none.
    """
    first, others = list[nn.Parameter](), list[nn.Parameter]()
    for number, layer in numbered(projector):
        own = first if number == 1 else others
        own += [each for each in layer.parameters(recurse=False) if each.requires_grad]
    asked = {"head_learning_rate": first + others, "first_layer_learning_rate": first}
    for key, parameters in asked.items():
        if getattr(recipe, key) is not None and not parameters:
            what = "the projector has" if key.startswith("head") else "the projector's first layer has"
            told = f"params.yaml: simclr.{key}: {getattr(recipe, key)} must be null: {what} nothing that is trained"
            raise UserError(f"{told}; see projector.freeze")
    head_rate, first_rate = recipe.rates()
    return [(others, head_rate), (first, first_rate)]


def _steps_per_epoch(num_train: int, batch_size: int, group: Group) -> int:
    if batch_size > num_train:
        raise UserError(f"batch_size {batch_size} is larger than the train split of {num_train} images: lower it")
    if batch_size % group.size:
        raise UserError(f"batch_size {batch_size} is not divisible by {group.size}, the number of processes")
    return num_train // batch_size


def _dtype(recipe: SimCLR, device: torch.device) -> torch.dtype:
    return torch.bfloat16 if use_bf16(recipe.precision, device) else torch.float32


def _autocast(device: torch.device, recipe: SimCLR) -> contextlib.AbstractContextManager[Any]:
    if use_bf16(recipe.precision, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


class _Run:
    """What changes while training, what a checkpoint holds of it, and when it can no longer end well."""

    def __init__(
        self, model: nn.Sequential, recipe: SimCLR, batch_size: int, steps: int, observer: Observer | None = None
    ):
        self.model = model.to(memory_format=torch.channels_last).train()
        self.recipe, self.batch_size, self.observer = recipe, batch_size, observer
        apart = rates_apart(model[1], recipe)
        self.optimizer = build_optimizer(recipe.optimizer, model, recipe.momentum, recipe.weight_decay, apart)
        self.rate_at = partial(
            learning_rate,
            peak=recipe.learning_rate * batch_size / 256,
            steps_per_epoch=steps,
            epochs=recipe.epochs,
            schedule=recipe.schedule,
            warmup_epochs=recipe.warmup_epochs,
            final=recipe.final_lr,
        )
        if observer:
            observer.begin(model[1])
        self.step = 0
        self.losses = torch.zeros(steps, device=next(model.parameters()).device)  # of this epoch
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def watched(self, group: Group) -> contextlib.AbstractContextManager[bool]:
        """Return what surrounds the next training step: the observer's look at it; it says whether there is one."""
        if self.observer is None:
            return contextlib.nullcontext(False)
        return self.observer.watching(self.step, self.model[0], self.model[1], scale=group.size)

    def judge(self, monitor: Callable[[nn.Module], float] | None, epoch: int, group: Group) -> float | None:
        """Return what the monitor says of the backbone after `epoch` on rank 0, None where it is not asked."""
        every = self.recipe.monitor_epochs
        if monitor is None or not every or epoch % every:
            return None
        value = group.agree(monitor(self.model[0]) if group.rank == 0 else None)
        self.model.train()
        return value

    def finish_epoch(self, row: Epoch) -> None:
        if not self.history or row.val_loss < min(past.val_loss for past in self.history):
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.history.append(row)
        self._check_epoch(row)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "losses": self.losses,
            "history": [asdict(row) for row in self.history],
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "observer": self.observer.state() if self.observer else None,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.step, self.best = state["step"], state["best"]
        self.losses.copy_(state["losses"])
        self.history = [Epoch(**row) for row in state["history"]]
        self.model.load_state_dict(state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.observer:
            self.observer.restore(state["observer"])

    def check_finite(self) -> None:
        """Stop at the first loss of this epoch that is not finite; before a checkpoint, which would keep it."""
        begun = (self.step - 1) // len(self.losses) * len(self.losses)
        bad = (~torch.isfinite(self.losses[: self.step - begun])).nonzero()
        if len(bad):
            raise UserError(f"SimCLR loss is not finite {self._where(begun + int(bad[0]))}: {LESS}")

    def _check_epoch(self, row: Epoch) -> None:
        """Stop a run that can no longer end well, saying where and what to try."""
        where = self._where(self.step - 1)
        if not math.isfinite(row.val_loss):
            raise UserError(f"SimCLR validation loss is not finite {where}: {LESS}")
        loss = LOSSES[self.recipe.loss]
        collapsed = loss.collapsed(self.batch_size)
        recent = [row for row in self.history if row.epoch > self.recipe.warmup_epochs][-STUCK_EPOCHS:]
        if len(recent) == STUCK_EPOCHS and all(abs(row.train_loss - collapsed) < STUCK_MARGIN for row in recent):
            temperature = "" if self.recipe.loss == "vicreg" else " or simclr.temperature"
            raise UserError(
                f"SimCLR loss is stuck at {loss.formula} = {collapsed:.4f} {where}: the head has collapsed; "
                f"lower simclr.learning_rate{temperature}, raise simclr.warmup_epochs, or try another "
                "projector.activation"
            )

    def _where(self, step: int) -> str:
        """Say where in the run `step`, from 0, lies."""
        epoch, rate = step // len(self.losses) + 1, self.rate_at(step)
        return f"at step {step + 1} (epoch {epoch}, lr {rate:.3g}, projector {_describe(self.model[1])})"


def _describe(projector: nn.Module) -> str:
    return " ".join(str(layer).replace(" ", "") for layer in projector.children()) or "without layers"
