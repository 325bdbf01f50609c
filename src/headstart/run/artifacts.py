"""Files that are whole or absent: temporary file, fsync, rename. Checkpoints and results shared between workers."""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.errors import UserError
from headstart.run import paths
from headstart.run.stage import say

CHECKPOINT_SECONDS = 60.0


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; an out is as readable as any other file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_debris(path: Path) -> None:
    """Remove the temporary files and folders that a killed writer of `path` left beside it."""
    for stale in path.parent.glob(f".{path.name}.*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in order; refuses NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Return a JSON file, or raise UserError naming the stage that makes it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise missing(path, made_by) from None


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path, made_by: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file as strings, or raise UserError naming the stage that makes it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        raise missing(path, made_by) from None


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one .npy file atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


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


def missing(path: Path, made_by: str) -> UserError:
    """Return the error for an input that is not there."""
    return UserError(f"{path}: no such file; stage {made_by} makes it: dvc repro")


def digest(*parts: Any) -> str:
    """Return 32 hex digits of the JSON of `parts`, the same on every machine."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return 32 hex digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def code_digest(stage: str, leave_out: Sequence[str] = ()) -> str:
    """Return a digest of the modules that dvc.yaml names as a stage's dependencies, apart from those left out."""
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    files = [Path(name) for name in declared if name.endswith(".py") and Path(name).name not in leave_out]
    return digest([(str(file), file_digest(file)) for file in sorted(files)])


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return 32 hex digits of named tensors' bytes."""
    return digest(
        [(name, hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()) for name, value in tensors.items()]
    )


def numerics(device: torch.device) -> list[str]:
    """Return what else decides the bits of a training: torch's version, the kind of device, its number of threads."""
    return [torch.__version__, device.type, str(torch.get_num_threads())]


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
        _remove_debris(self.path)
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
        """Whether enough seconds have passed since the last save."""
        return time.monotonic() - self.saved_at >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state atomically."""
        with atomic(self.path) as temporary:
            torch.save(state, temporary)
        self.saved_at = time.monotonic()

    def remove(self) -> None:
        """Forget the state: the training is finished and its outs are written."""
        self.path.unlink(missing_ok=True)


@contextmanager
def shared_result(stage: str, key: str) -> Iterator[Path]:
    """Yield the folder of a finished result, `shared/<stage>/<key>` of the shared folder, locked against other workers.

    Where the folder does not exist yet, the caller makes it (`write_folder`); parallel workers so do the work once.
    """
    folder = paths.shared() / "shared" / stage / key
    with locked(folder, stage):
        yield folder


@contextmanager
def locked(folder: Path, stage: str) -> Iterator[None]:
    """Hold `<folder>.lock` against other workers; the lock of a killed one is free."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"{stage}: waits for another worker that makes the same")
        lock.acquire()
    with lock:
        lock.release()  # `with` holds it once more
        yield


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` on success and vanishes on error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_debris(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
