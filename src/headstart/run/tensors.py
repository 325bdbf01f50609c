"""Tensors on disk: weights, feature maps that need no memory, a training's checkpoint, and digests of their bytes."""

import hashlib
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import tqdm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.errors import UserError, brief, of_system, reason
from headstart.memory import allocate
from headstart.run import interrupts, paths
from headstart.run.files import atomic, damaged, missing, naming, remove_debris, write_csv, write_json
from headstart.run.stage import say
from headstart.settings import digest

CHECKPOINT_SECONDS = 60.0
SEAL = b"headstart sha256 "  # stands behind a checkpoint, before its digest


def mapped_array(shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 array of zeros in a nameless file under `.cache`, which ends with the process."""
    paths.scratch().mkdir(parents=True, exist_ok=True)
    with naming(paths.scratch()), tempfile.TemporaryFile(dir=paths.scratch()) as file:
        allocate(file.fileno(), math.prod(shape) * 4)
        return np.asarray(np.memmap(file, np.float32, "w+", shape=shape))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    with atomic(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def read_tensors(path: Path, made_by: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or raise UserError naming the stage that makes it."""
    if not path.is_file():
        raise missing(path, made_by)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise damaged(path, made_by, error) from None


def check_weights(path: Path) -> None:
    """Raise UserError where a file of weights holds values that no network computes with: NaN, infinite, complex ones.

    What is no file of weights at all, the backbone's own reader says.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception:
        return
    for name, value in tensors.items():
        if value.is_complex() or (value.is_floating_point() and not torch.isfinite(value).all()):
            what = "complex numbers" if value.is_complex() else "values that are not finite"
            raise UserError(f"params.yaml: backbone.weights {path}: {brief(name)} holds {what}")


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


def write_features(path: Path, names: Mapping[str, list[str]], features: Mapping[str, np.ndarray]) -> None:
    """Write names, splits and features (N, D) of all images as .npz, atomically and the same bytes for the same values.

    names and features: by split.
    """
    splits = [split for split, own in names.items() for _ in own]
    together = np.concatenate([features[split] for split in names])
    with atomic(path) as temporary, temporary.open("wb") as file:
        called = np.array([name for own in names.values() for name in own])
        np.savez(file, allow_pickle=False, names=called, splits=np.array(splits), features=together)


class FileCheckpoint:
    """A training's state under `checkpoints/<stage>/<key>` of the shared folder, the main workspace's `.cache`.

    The key is a digest of everything that decides the result, so a killed run, also one killed in DVC's queue, goes on
    only from a state with equal inputs. Behind the state, as torch writes it, stands its digest. Never a DVC out: see
    `persist: true` in DVC's known problems.
    """

    def __init__(self, stage: str, key: str, seconds: float = CHECKPOINT_SECONDS):
        self.path = paths.shared() / "checkpoints" / stage / f"{key}.pt"
        self.bad = self.path.with_suffix(".bad")
        self.seconds = _seconds(os.environ.get("HEADSTART_CHECKPOINT_SECONDS"), seconds)
        self.saved_at = time.monotonic()
        self._warned = False

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, or None; one that is not as it was saved is set aside, training starts anew."""
        remove_debris(self.path)
        if not self.path.is_file():
            return None
        try:
            with self.path.open("rb") as file:
                _check_seal(file)
                state = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError("holds no state")
        except Exception as error:  # damaged bytes make torch raise nearly anything
            with suppress(OSError):
                self.path.replace(self.bad)
            say(f"{self.path}: {reason(error)}; kept as {self.bad.name}, starts anew")
            return None
        say(f"{self.path.parent.name}: goes on from its checkpoint")
        return state

    def due(self) -> bool:
        """Whether enough seconds have passed since the last save, or a Ctrl-C waits for one."""
        return time.monotonic() - self.saved_at >= self.seconds or interrupts.asked()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically; where that is not possible, warn once: training does not need it."""
        try:
            with atomic(self.path) as temporary, temporary.open("wb") as file:
                sealed = _Sealed(file)
                try:
                    torch.save(state, sealed)  # type: ignore[arg-type]
                except RuntimeError:  # torch's own words for what its file raises
                    raise sealed.error or OSError("torch cannot write it") from None
                file.write(SEAL + sealed.digest.digest())
        except OSError as error:
            if not self._warned:
                told = f"{of_system(error)}; training goes on, and after a kill would begin anew"
                tqdm.tqdm.write(f"warning: {told}", file=sys.stderr)
            self._warned = True
        self.saved_at = time.monotonic()
        interrupts.saved()

    def remove(self) -> None:
        """Forget the state: the training is finished and its outs are written."""
        for path in (self.path, self.bad):
            with suppress(OSError):
                path.unlink(missing_ok=True)


class _Sealed:
    """A file for torch to write into: notes the digest of what passes, and what the system refuses."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _check_seal(file: BinaryIO) -> None:
    """Raise ValueError where a file does not end with SEAL and the digest of what stands before it; rewinds it."""
    rest = os.fstat(file.fileno()).st_size - len(SEAL) - hashlib.sha256().digest_size
    found = hashlib.sha256()
    while rest > 0:
        block = file.read(min(rest, 2**20))
        found.update(block)
        rest -= len(block) or rest
    if rest < 0 or file.read() != SEAL + found.digest():
        raise ValueError("a damaged checkpoint")
    file.seek(0)


def _seconds(given: str | None, default: float) -> float:
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UserError(f"HEADSTART_CHECKPOINT_SECONDS: {brief(given)} must be a number of seconds, at least 0")
    return seconds
