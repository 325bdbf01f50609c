"""Several processes that train one model: who they are, what they exchange, batch norm over all their images.

A `Group` describes processes that torch.distributed has joined already; the core neither starts nor finds them.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from headstart.training.resume import Checkpoint


@dataclass(frozen=True)
class Group:
    """The processes that train together, by default one alone, which exchanges nothing and needs no torch.distributed.

    rank: of this process, from 0; size: number of processes, all of which call each method at the same place.
    """

    rank: int = 0
    size: int = 1

    def own_pairs(self, num: int) -> Tensor:
        """Return the places of this process's share of a batch of `num` images, (2 * num / size,) int64.

        The batch holds all first views, then all second views; so does the share.
        """
        return torch.arange(2 * num).view(2, self.size, -1)[:, self.rank].flatten()

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, those of rank 0 first; every process has as many. No gradient passes."""
        if self.size == 1:
            return values
        gathered = values.new_empty(self.size * len(values), *values.shape[1:])
        dist.all_gather(list(gathered.chunk(self.size)), values.detach().contiguous())
        return gathered

    def sum(self, values: Tensor) -> Tensor:
        """Replace `values` by their sum over processes, and return them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: Any) -> Any:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared)
        return shared[0]

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process rank 0's buffers: running statistics differ where batch norm is not synchronised."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wrap(self, model: nn.Module, sync_batchnorm: bool, example: Tensor) -> nn.Module:
        """Return what to call in training steps: `model`, or its DistributedDataParallel, which averages gradients.

        Parameters and state dict stay the model's own. example: an input (B, ..), for one pass without effect: after
        its first pass DDP sorts gradients into other buckets, and in the first step of a resumed run sums of three and
        more processes would round otherwise than in an unbroken one.
        """
        if self.size == 1:
            return model
        if sync_batchnorm:
            synchronise_batch_norm(model)
        wrapped = DistributedDataParallel(model)
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told once: gradients of 1x1 convolutions are copied, their strides differ
            wrapped(example).sum().backward()
        model.zero_grad(set_to_none=True)
        return wrapped.train()


ALONE = Group()


class SharedCheckpoint:
    """A checkpoint of a group: rank 0 reads and writes it, all go on from its state."""

    def __init__(self, checkpoint: Checkpoint, group: Group):
        self.checkpoint, self.group = checkpoint, group

    def load(self) -> dict[str, Any] | None:
        """Return rank 0's last saved state, or None."""
        return self.group.agree(self.checkpoint.load() if self.group.rank == 0 else None)

    def due(self) -> bool:
        """Whether it is time for this process to save; never for others than rank 0."""
        return self.group.rank == 0 and self.checkpoint.due()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically."""
        self.checkpoint.save(state)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm inside `model` take its statistics in training over the images of all processes."""
    if next(model.parameters()).device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = HostSyncBatchNorm


class HostSyncBatchNorm(_BatchNorm):
    """nn.SyncBatchNorm for the CPU, where torch's does not run; outside a process group nn.BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        """Return nn.BatchNorm's output of the whole batch, (B, C, ..), of which every process has an equal share."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        x_wide = x.to(torch.promote_types(x.dtype, torch.float32))
        own_var, own_mean = torch.var_mean(x_wide, dims, correction=0)
        means, variances = _GatherStatistics.apply(torch.stack([own_mean, own_var])).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        self._track(mean.detach(), var.detach(), num=len(means) * x.numel() // x.shape[1])
        scale = torch.rsqrt(var + self.eps) * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        shape = [-1] + [1] * (x.dim() - 2)
        return (x_wide * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept (B, C) and all that have more."""

    def _track(self, mean: Tensor, var: Tensor, num: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(var * (num / (num - 1)), factor)


class _GatherStatistics(torch.autograd.Function):
    """(2, C) of each process -> (processes, 2, C) at every process, with its gradient."""

    @staticmethod
    def forward(ctx: Any, statistics: Tensor) -> Tensor:
        ctx.group = Group(dist.get_rank(), dist.get_world_size())
        return ctx.group.gather(statistics[None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return ctx.group.sum(grads[0].contiguous())[ctx.group.rank]
