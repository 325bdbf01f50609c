"""Decoders of pickled arrays (CIFAR), read by an unpickler that makes nothing but arrays and plain containers."""

import io
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import UserError
from headstart.ingest.archives import list_members, open_members, reading
from headstart.ingest.formats import Listing, Part, stacked

# All that a pickled numpy array calls, by every name it had: the module moved in numpy 2, and protocol 2 encodes the
# bytes of an array through _codecs.encode. Neither runs anything that the pickle brings along.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler for which every global but those of ALLOWED does not exist."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names, if it is needed for arrays."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def unpickle(source: str, data: bytes) -> dict[str, Any]:
    """Return a pickled dictionary, Python 2's too; raises UserError for anything but arrays and plain containers."""
    try:
        content = ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{source}: not a pickle of arrays alone ({reason}); get it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{source}: must hold a dictionary, holds a {type(content).__name__}; get it again")
    return content


def cifar10(folder: Path) -> Listing:
    """Return CIFAR-10: 50,000 train and 10,000 test images of 32 px."""
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _cifar(
        folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", batches, "batches.meta", "labels", "label_names"
    )


def cifar100(folder: Path) -> Listing:
    """Return CIFAR-100, its 100 fine classes: 50,000 train and 10,000 test images of 32 px."""
    batches = {"train": ["train"], "test": ["test"]}
    return _cifar(
        folder / "cifar-100-python.tar.gz", "cifar-100-python", batches, "meta", "fine_labels", "fine_label_names"
    )


def _cifar(path: Path, base: str, batches: dict[str, list[str]], meta: str, labels: str, names: str) -> Listing:
    list_members(path, published=True)
    wanted = [f"{base}/{file}" for file in (meta, *(file for files in batches.values() for file in files))]
    with reading(path):  # in one pass, batch by batch: the archive is one compressed stream
        contents = {name: unpickle(f"{path}: {name}", file.read()) for name, file in open_members(path, wanted)}
    classes = contents[f"{base}/{meta}"].get(names)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: {base}/{meta}: {names} must be a list of names; get it again")
    parts = []
    for split, files in batches.items():
        for name in (f"{base}/{file}" for file in files):
            found, data = np.asarray(contents[name].get(labels)), contents[name].get("data")
            if found.dtype.kind != "i" or found.ndim != 1:
                raise UserError(f"{path}: {name}: {labels} must be a list of numbers; get it again")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
                raise UserError(f"{path}: {name}: data must be (n, 3072) bytes; get it again")
            parts.append(Part(split, found, partial(_images, data)))
    return stacked(str(path), classes, parts, 3 * 32 * 32)


def _images(data: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images from the (n, 3072) planes of colour of a batch."""
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
