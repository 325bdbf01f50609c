"""What only a GPU can show: `python -m pytest tests/cuda` on a machine that has one.

Needs torch, torchvision, numpy, scipy, scikit-learn, safetensors, pydantic and pytest alone. HEADSTART_REHEARSE=1 runs
it on a CPU with the stand-in of tests/standin.py in the device's place, which shows that the tests themselves run.
"""

import os

import pytest
import torch

from headstart import replay
from headstart.data import device_views
from headstart.data.device_views import fixed_shape_views
from headstart.evaluation import finetune
from headstart.precision import use_ieee_float32
from headstart.training import contrastive
from tests.standin import StandIn

REASON = "needs a CUDA device: python -m pytest tests/cuda on a GPU machine (HEADSTART_REHEARSE=1: on a CPU, as if)"
REHEARSED = not torch.cuda.is_available() and os.environ.get("HEADSTART_REHEARSE") == "1"


@pytest.fixture(autouse=True)
def device(monkeypatch) -> torch.device:
    """The GPU, its float32 IEEE's and its kernels deterministic; every test of this folder skips without one."""
    if REHEARSED:
        standin = StandIn()
        monkeypatch.setattr(replay, "cuda", lambda device: standin)
        monkeypatch.setattr(contrastive, "network_input", fixed_shape_views)
        monkeypatch.setattr(finetune, "network_input", fixed_shape_views)
        monkeypatch.setattr(finetune, "on_cuda", lambda parameters: True)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip(REASON)
    use_ieee_float32()
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    return torch.device("cuda")


@pytest.fixture
def real(device) -> None:
    """Skips a rehearsal: what no stand-in can do."""
    if REHEARSED:
        pytest.skip("of the device itself")


@pytest.fixture
def recorded(monkeypatch):
    """`recorded(True)`: from now on even a handful of calls is recorded; False: nothing is."""
    return lambda wanted: monkeypatch.setattr(replay, "LEAST_CALLS", 1 if wanted else 10**9)


@pytest.fixture
def kernels(device):
    """Whether Triton's kernels are in use, after a first try."""
    return device_views._kernels(device.type)
