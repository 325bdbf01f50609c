"""A stand-in for a GPU's runtime: it records a function's operators once and replays them as a CUDA graph would.

The recorded calls keep their constants and their memory: a learning rate that is a number, a buffer that was replaced
after the recording, a branch on a value stay as they were. What makes a real capture fail, reading a value on the host,
fails here too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headstart.replay import WARM_UPS, Slot

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}


class WaitError(RuntimeError):
    """What CUDA calls `operation not permitted when stream is capturing`."""


def refuse_reads(func: Any, args: tuple) -> None:
    """Raise WaitError where an operator's result, or its shape, depends on values: the host would wait for them."""
    masks = [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor) and one.dtype == torch.bool]
    indexing = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
    if func in READS or (indexing and masks):
        raise WaitError(f"{func}: operation not permitted when stream is capturing")


class Recorder(TorchDispatchMode):
    """Keeps each operator's call and what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        refuse_reads(func, args)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class Event:
    """Notes in a log when it is recorded and waited for."""

    def __init__(self, log: list[tuple], number: int):
        self.log, self.number = log, number

    def record(self) -> None:
        self.log.append(("record", self.number))

    def synchronize(self) -> None:
        self.log.append(("wait", self.number))


class StandIn:
    """What `Cuda` does, on the CPU; log: copies and events in their order."""

    def __init__(self) -> None:
        self.log: list[tuple] = []
        self.events = self.recorded = self.replayed = 0

    def pinned(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def event(self) -> Event:
        self.events += 1
        return Event(self.log, self.events)

    def send(self, slot: Slot) -> None:
        self.log.append(("copy", slot.copied.number, slot.free.number))
        slot.buffer.copy_(slot.pinned)

    def warm_up(self, function: Callable[[], Any]) -> None:
        for _ in range(WARM_UPS):
            function()

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        # a capture launches nothing: what the recording changes here is put back by whoever called
        self.recorded += 1
        with Recorder() as recorder:
            result = function()

        def replay() -> None:
            self.replayed += 1
            recorder.replay()

        return replay, result
