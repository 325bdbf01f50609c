"""Which batch would fit, where the one that was asked for has not."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from headstart.errors import UserError
from headstart.training.contrastive import Batches, SimCLR, training_step
from headstart.training.optimizers import build_optimizer

TRIED = (8, 16)  # pairs, of which a step's bytes are measured
USABLE = 0.9  # of what is free: the allocator rounds, cuDNN wants workspaces
GIB = 2**30


@contextmanager
def told_of_memory(model: nn.Module, train: Batches, recipe: SimCLR, batch_size: int) -> Iterator[None]:
    """Raise UserError in place of CUDA's out of memory, with an estimate of the batch that fits.

    The model may be changed by the estimate: its training is lost.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError:
        pass  # the traceback, which holds the step's tensors, ends here
    key = f"datasets.yaml: batch_size: {batch_size} does not fit in the device's memory"
    gc.collect()
    torch.cuda.empty_cache()
    free = free_bytes(train)
    found = fitting_batch(model, train, recipe, free)
    if not found:
        raise UserError(f"{key}: {free / GIB:.1f} GiB are free, too little for {TRIED[-1]} pairs; free some of it")
    raise UserError(
        f"{key}, of which {free / GIB:.1f} GiB are free: an estimate, from steps of {TRIED[0]} and {TRIED[1]} pairs, "
        f"is that {found} fits; lower it, or take precision bf16, a smaller backbone or image_size"
    ) from None


def fitting_batch(model: nn.Module, train: Batches, recipe: SimCLR, free: int) -> int:
    """Return the greatest multiple of 8 that `free` bytes hold, by a line through two measured steps; 0 if none."""
    try:
        least, more = (step_bytes(model, train, recipe, size) for size in TRIED)
    except torch.OutOfMemoryError:
        return 0
    each = (more - least) / (TRIED[1] - TRIED[0])
    fits = TRIED[0] + (USABLE * free - least) / max(each, 1)
    return max(0, int(fits) // 8 * 8)


def step_bytes(model: nn.Module, train: Batches, recipe: SimCLR, batch_size: int) -> int:
    """Return by how much a training step of so many pairs, optimiser's state included, raises the memory in use."""
    device = train.split.images.device
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model.zero_grad(set_to_none=True)
    optimizer = build_optimizer(recipe.optimizer, model, recipe.momentum, recipe.weight_decay)
    rows = torch.arange(batch_size) % len(train.split.labels)
    training_step(model, optimizer, train.pairs(rows, "room", seed=0), 0.0, recipe)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(train: Batches) -> int:
    """Return what the device can still give."""
    return torch.cuda.mem_get_info(train.split.images.device)[0]
