"""Tensors on disk: weights, feature maps that need no memory, a training's checkpoint, and digests of their bytes."""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.run import interrupts, paths
from headstart.run.files import atomic, missing, remove_debris, write_csv, write_json
from headstart.run.stage import say
from headstart.settings import digest

CHECKPOINT_SECONDS = 60.0


def mapped_array(shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 array of zeros in a nameless file under `.cache`, which ends with the process."""
    paths.scratch().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=paths.scratch()) as file:
        return np.asarray(np.memmap(file, np.float32, "w+", shape=shape))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    with atomic(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def read_tensors(path: Path, made_by: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or raise UserError naming the stage that makes it."""
    if not path.is_file():
        raise missing(path, made_by)
    return load_file(path)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return 32 hex digits of named tensors' bytes."""
    return digest(
        [(name, hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()) for name, value in tensors.items()]
    )


def numerics(device: torch.device, precision: str) -> list[str]:
    """Return what else decides the bits of a training: torch's version, kind of device, threads, precision in use."""
    return [torch.__version__, device.type, str(torch.get_num_threads()), precision]


def write_outs(folder: Path, outs: Mapping[str, Any]) -> None:
    """Write name -> tensors (.safetensors), a value (.json) or rows (.csv) into a folder; no rows make no file."""
    for name, content in outs.items():
        suffix = Path(name).suffix
        if suffix == ".safetensors":
            write_tensors(folder / name, content)
        elif suffix == ".json":
            write_json(folder / name, content)
        elif content:
            write_csv(folder / name, content)


class FileCheckpoint:
    """A training's state under `checkpoints/<stage>/<key>` of the shared folder, the main workspace's `.cache`.

    The key is a digest of everything that decides the result, so a killed run, also one killed in DVC's queue, goes on
    only from a state with equal inputs. Never a DVC out: see `persist: true` in DVC's known problems.
    """

    def __init__(self, stage: str, key: str, seconds: float = CHECKPOINT_SECONDS):
        self.path = paths.shared() / "checkpoints" / stage / f"{key}.pt"
        self.seconds = float(os.environ.get("HEADSTART_CHECKPOINT_SECONDS", seconds))
        self.saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None; an unreadable one is removed and training starts anew."""
        remove_debris(self.path)
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:
            self.path.unlink(missing_ok=True)
            return None
        say(f"{self.path.parent.name}: goes on from its checkpoint")
        return state

    def due(self) -> bool:
        """Whether enough seconds have passed since the last save, or a Ctrl-C waits for one."""
        return time.monotonic() - self.saved_at >= self.seconds or interrupts.asked()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically."""
        with atomic(self.path) as temporary:
            torch.save(state, temporary)
        self.saved_at = time.monotonic()
        interrupts.saved()

    def remove(self) -> None:
        """Forget the state: the training is finished and its outs are written."""
        self.path.unlink(missing_ok=True)
