"""Every random draw of the project comes from a generator named by the seed and its purpose.

Step k draws from `generator(seed, "step", k)`, never from a running stream, so a resumed run equals an unbroken one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed that is a function of `seed` and the words of `purpose` alone, the same on every machine."""
    words = "/".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose: `generator(0, "step", 17)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the NumPy counterpart of `generator`."""
    return np.random.default_rng(derived_seed(seed, *purpose))


@contextmanager
def global_seed(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global CPU stream inside the block (module constructors draw from it) and restore it after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, *purpose))
        yield
