"""Real images for every test: scikit-learn's digits, 8 px, grey as RGB."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from headstart.data.arrays import Split
from headstart.data.views import Views

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where the kernels are defined
torch.set_num_threads(1)  # tiny tensors gain nothing from a second thread, and a shared machine loses

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 digits: (N, 8, 8, 3) uint8 and (N,) int64, in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    grey = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    return grey.repeat(3, axis=3)[order], labels[order].astype(np.int64)


@pytest.fixture(scope="session")
def split_of(digits):
    """`split_of(start, stop)`: those digits as a Split."""

    def make(start: int, stop: int) -> Split:
        images, labels = (torch.from_numpy(array[start:stop].copy()) for array in digits)
        return Split(images, labels, torch.full((stop - start, 2), 8))

    return make


@pytest.fixture(scope="session")
def photograph() -> torch.Tensor:
    """A real photograph, (3, 240, 320) float32 in [0, 1], that no symmetry leaves as it is."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).float() / 255
    return pixels[:, 60:300, 120:440]


@pytest.fixture(scope="session")
def views_of():
    """`views_of(flip=.5)`: views that change nothing but what is named."""
    nothing = {
        "crop_scale": [1.0, 1.0],
        "crop_ratio": [1.0, 1.0],
        "rotate": 0.0,
        "flip": 0.0,
        "jitter": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "grey": 0.0,
        "blur": 0.0,
        "blur_kernel": 0.1,
        "blur_sigma": [0.1, 2.0],
    }
    return lambda **changes: Views(**{**nothing, **changes})


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty main workspace: checkpoints, locks and shared results go there."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_make_parametrize_id(config, val, argname):
    """Name bytes by their length: they may hold a time, and two workers must name every test alike."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None
