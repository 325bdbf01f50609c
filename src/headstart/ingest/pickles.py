"""Decoders of pickled arrays (CIFAR), read by an unpickler that makes nothing but arrays and plain containers.

Guarded against: calls of anything (a name of ALLOWED stands for a function of this module), states that crash numpy's
own readers (of a dtype only the code and the byte order are taken, of an array its shape and bytes, if they fit), and
memo tables and lists that grow without bounds (the unpickler is Python's, of plain objects; labels must be plain
integers). Not guarded against: a long time, which a file of a gigabyte may take.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.errors import UserError, fitted, reason
from headstart.ingest.archives import list_members, open_members, read_all, reading
from headstart.ingest.formats import Listing, Part, stacked

PLAIN = re.compile(r"[<>|=]?(b1|u[1248]|i[1248]|f[248])")  # booleans, integers, floats


class _Dtype:
    """A dtype as a pickle makes it: its code, and then a state of which the byte order alone is taken."""

    def __init__(self, code: object, align: object = False, copy: object = False):
        if not isinstance(code, str) or not PLAIN.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):  # type: ignore[index]
            raise pickle.UnpicklingError("a dtype that is not plain")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array as a pickle makes it: empty, and then a state with its shape, dtype and bytes."""

    array: np.ndarray = np.zeros(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without a state")
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not plain")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise pickle.UnpicklingError("an array whose shape is none")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape[:4]} with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _array(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of another kind")
    return _Array()


def _encoded(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in another encoding")
    return text.encode("latin1")


# All that a pickled numpy array calls, by every name it had: the module moved in numpy 2, and protocol 2 encodes the
# bytes of an array through _codecs.encode.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}


class ArrayUnpickler(pickle._Unpickler):
    """An unpickler for which every global but those of ALLOWED does not exist: Python's own, whose memo is a dict."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for what the pickle names, if it is needed for arrays."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return ALLOWED[module, name]


def unpickle(source: str, data: bytes) -> dict[str, Any]:
    """Return a pickled dictionary, Python 2's too; raises UserError for anything but arrays and plain containers."""
    try:
        content = ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
        if isinstance(content, dict):
            content = {name: value.array if isinstance(value, _Array) else value for name, value in content.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(
            f"{source}: not a pickle of arrays alone ({fitted(reason(error), 120)}); get it again"
        ) from None
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
        contents = {name: unpickle(f"{path}: {name}", read_all(file)) for name, file in open_members(path, wanted)}
    classes = contents[f"{base}/{meta}"].get(names)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: {base}/{meta}: {names} must be a list of names; get it again")
    parts = []
    for split, files in batches.items():
        for name in (f"{base}/{file}" for file in files):
            found, data = contents[name].get(labels), contents[name].get("data")
            if not isinstance(found, list) or not all(type(label) is int and abs(label) < 2**31 for label in found):
                raise UserError(f"{path}: {name}: {labels} must be a list of numbers; get it again")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
                raise UserError(f"{path}: {name}: data must be (n, 3072) bytes; get it again")
            parts.append(Part(split, np.array(found, np.int64), partial(_images, data)))
    return stacked(str(path), classes, parts, 3 * 32 * 32)


def _images(data: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images from the (n, 3072) planes of colour of a batch."""
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
