"""Functions that a GPU computes again and again: their inputs come in one copy, their kernels from one CUDA graph.

A training step of a ResNet launches some hundred kernels, each shorter than the host needs to launch it. `Replayed`
lets CUDA record them once and launch them all by one call. On the CPU it calls the function, no more.

What a CUDA graph demands of a function: fixed shapes, no branch on a value, no wait for the device; a number that
changes is an input, else it stays what it was; memory that it reads or writes stays where it is, so states are restored
before the first call (load_state_dict of an optimiser replaces its tensors); autocast is entered and left inside.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headstart.errors import reason

WARM_UPS = 3  # calls before the recording: cuDNN and cuBLAS get their workspaces, optimisers their states
LEAST_CALLS = 20  # a recording costs some five calls, and seconds where Triton compiles: not for a handful
ALIGNED = 16  # bytes
Changing = nn.Module | torch.optim.Optimizer
Layout = tuple[tuple[int, int, torch.dtype, torch.Size], ...]  # first byte, last byte, dtype, shape of each input


class Replayed:
    """A function of host tensors and numbers, computed on a device; on CUDA its kernels are recorded and replayed.

    function: gets the inputs on the device (numbers as 0-d float32 tensors; on the CPU as they are) and returns
    tensors there, which the next call overwrites. changes: the modules and optimisers whose tensors it changes, in
    place. calls: how often it will be called; below LEAST_CALLS, or 0 to forbid it, nothing is recorded. name: of the
    function in the one line on stderr that says why it could not be recorded; it then runs kernel by kernel.

    The recording happens in the first call, before anything changes: what its warm-up has changed is put back. Inputs
    of other shapes than the first call's, the rest of an epoch, run kernel by kernel.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        *,
        name: str,
        calls: int,
        changes: Sequence[Changing] = (),
    ):
        self._function, self._name, self._changes = function, name, changes
        self._cuda = cuda(device)
        self._feed = Feed(device, self._cuda) if self._cuda else None
        self._undecided = calls >= LEAST_CALLS
        self._graph: _Graph | None = None

    def __call__(self, *inputs: Tensor | float) -> Any:
        """Return what the function returns, without waiting for the device."""
        if self._feed is None:
            return self._function(*inputs)
        with self._feed.sent(inputs) as (layout, buffer):
            if self._undecided:
                self._graph = self._recorded(layout, buffer)
                self._undecided = False
            if self._graph is None or self._graph.layout != layout:
                return self._function(*_parts(buffer, layout))
            self._graph.buffer.copy_(buffer)
            self._graph.replay()
            return self._graph.result

    def kernel_by_kernel(self, *inputs: Tensor | float) -> Any:
        """Return the same without a graph: where hooks are to see what passes."""
        if self._feed is None:
            return self._function(*inputs)
        with self._feed.sent(inputs) as (layout, buffer):
            return self._function(*_parts(buffer, layout))

    def _recorded(self, layout: Layout, buffer: Tensor) -> "_Graph | None":
        assert self._cuda is not None
        own = buffer.clone()  # a graph reads its inputs where they were when it was recorded

        def run() -> Any:
            return self._function(*_parts(own, layout))

        try:
            with unchanged(self._changes):
                self._cuda.warm_up(run)
                return _Graph(layout, own, *self._cuda.record(run))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # torch, cuDNN and Triton raise many kinds
            why = reason(error, 120)
            line = f"warning: {self._name}: no CUDA graph ({why}); kernel by kernel it takes 2 to 9 times as long"
            print(line, file=sys.stderr)
            return None


class _Graph(NamedTuple):
    layout: Layout
    buffer: Tensor
    replay: Callable[[], None]
    result: Any


@contextmanager
def unchanged(changes: Sequence[Changing]) -> Iterator[None]:
    """Put all tensors of modules and optimisers back, in place, at the end; a state that is new then is set to 0.

    To an optimiser that is what a new state is: a momentum of 0, of which the first step makes the gradient.
    """
    before = {id(tensor): tensor.detach().clone() for tensor in _tensors(changes)}
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor in _tensors(changes):
                kept = before.get(id(tensor))
                tensor.zero_() if kept is None else tensor.copy_(kept)


def _tensors(changes: Sequence[Changing]) -> list[Tensor]:
    found: list[Tensor] = []
    for each in changes:
        if isinstance(each, nn.Module):
            found += [*each.parameters(), *each.buffers()]
        else:
            found += [value for state in each.state.values() for value in state.values() if isinstance(value, Tensor)]
    return found


# ---- optimisers ------------------------------------------------------------------------------------------------------


@contextmanager
def rated(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> Iterator[None]:
    """Let the optimiser step at this learning rate inside the block; a 0-d tensor is read on its device.

    A group that has a `scale` steps at so many times the rate.
    In param_groups a rate stays a number for checkpoints and schedulers, and a CUDA graph must not keep that of the
    step in which it was recorded.
    """
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"] if "scale" in group else rate
    try:
        yield
    finally:
        for group, own in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = own


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict, which may have been made on another kind of device, into an optimiser."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = on_cuda(group["params"])


def on_cuda(parameters: list[nn.Parameter]) -> bool:
    """Whether a CUDA graph may come to hold the step: Adam then counts its steps on the device."""
    return any(parameter.device.type == "cuda" for parameter in parameters)


# ---- from host to device ---------------------------------------------------------------------------------------------


@dataclass
class Slot:
    """A buffer on the host, one on the device, and events: the copy is done, the device's buffer is free again."""

    pinned: Tensor
    buffer: Tensor
    copied: Any
    free: Any


class Feed:
    """Takes inputs to a device in one copy a call, while the device works on the call before.

    Two slots in turn: the host waits for nothing but the copy of two calls ago, whose memory it is about to overwrite.
    """

    def __init__(self, device: torch.device, cuda: "Cuda"):
        self._device, self._cuda = device, cuda
        self._slots: list[Slot | None] = [None, None]

    @contextmanager
    def sent(self, inputs: Sequence[Tensor | float]) -> Iterator[tuple[Layout, Tensor]]:
        """Yield the layout of the inputs, and their bytes on the device until the end of the block."""
        values = [value if isinstance(value, Tensor) else torch.tensor(value) for value in inputs]
        layout = _layout(values)
        slot = self._slot(layout[-1][1])
        slot.copied.synchronize()
        for part, value in zip(_parts(slot.pinned, layout), values, strict=True):
            part.copy_(value)
        self._cuda.send(slot)
        yield layout, slot.buffer[: layout[-1][1]]
        slot.free.record()

    def _slot(self, num_bytes: int) -> Slot:
        self._slots.reverse()
        slot = self._slots[0]
        if slot is None or len(slot.pinned) < num_bytes:
            buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
            slot = Slot(self._cuda.pinned(num_bytes), buffer, self._cuda.event(), self._cuda.event())
            slot.free.record()  # the buffer's memory may have been another's, in work that is still queued
            self._slots[0] = slot
        return slot


def _layout(values: Sequence[Tensor]) -> Layout:
    """Where each value's bytes lie in one buffer."""
    places, end = [], 0
    for value in values:
        start = -(-end // ALIGNED) * ALIGNED
        end = start + value.numel() * value.element_size()
        places.append((start, end, value.dtype, value.shape))
    return tuple(places)


def _parts(buffer: Tensor, layout: Layout) -> list[Tensor]:
    return [buffer[start:end].view(dtype).view(shape) for start, end, dtype, shape in layout]


# ---- all that is asked of CUDA ---------------------------------------------------------------------------------------


class Cuda:
    """What a GPU's runtime does for the above; the tests put a stand-in in its place."""

    def __init__(self, device: torch.device):
        self._device, self._copies = device, torch.cuda.Stream(device)

    def pinned(self, num_bytes: int) -> Tensor:
        """Return host memory that the device can read while the host works."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def event(self) -> Any:
        """Return an event, which counts as past until it is recorded."""
        return torch.cuda.Event()

    def send(self, slot: Slot) -> None:
        """Copy a slot's bytes beside the work that is queued; what is queued from now on waits for them."""
        work = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.free)
            slot.buffer.copy_(slot.pinned, non_blocking=True)
            slot.copied.record()
        work.wait_event(slot.copied)

    def warm_up(self, function: Callable[[], Any]) -> None:
        """Call it some times on a stream of its own; the device's random stream stays where it is."""
        work, aside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        aside.wait_stream(work)
        with torch.random.fork_rng([self._device]), torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function()
        work.wait_stream(aside)

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return what replays the function's kernels, in a memory pool of their own, and its result.

        Where that fails the device's random stream is what it was; torch alone would leave it unusable.
        """
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may pin memory meanwhile
        with drawable_afterwards(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


@contextmanager
def drawable_afterwards(device: torch.device) -> Iterator[None]:
    """Give the device's generator a state of the same numbers where the block fails.

    A recording that fails leaves the old one believing that it is still recorded, and its next draw raises "Offset
    increment outside graph capture" (seen with torch 2.11: CUDAGraph::capture_end throws before its epilogue).
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    before = generator.get_state()
    try:
        yield
    except BaseException:
        fresh = torch.Generator(device)
        fresh.set_state(before)
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        raise


def cuda(device: torch.device) -> Cuda | None:
    """Return what records on this device, None on one that cannot."""
    return Cuda(device) if device.type == "cuda" else None
