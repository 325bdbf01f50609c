"""The step as a GPU gets it, without a GPU: recorded and replayed by a stand-in, on fake CUDA tensors, on no values."""

import contextlib
import dataclasses
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headstart import replay
from headstart.data.arrays import Split, Standardize
from headstart.data.device_views import fixed_shape_views
from headstart.evaluation import finetune as finetune_module
from headstart.evaluation.features import extract_features
from headstart.evaluation.finetune import finetune
from headstart.models.autoencoder import build_autoencoder
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import Projector, build_projector
from headstart.training import contrastive, losses
from headstart.training.contrastive import Batches, Network, rates_apart, stepping, validating
from headstart.training.diagnostics import Diagnostics, Observer
from headstart.training.losses import LOSSES
from headstart.training.optimizers import OPTIMIZERS, build_optimizer
from headstart.training.reconstruction import Reconstruction, train_autoencoder
from tests.standin import StandIn, refuse_reads
from tests.training.recipe import RECIPE
from tests.training.test_contrastive import KilledError, Memory, equal, killed_at, run, small_network

SIMCLR = {"crop_scale": [0.08, 1.0], "crop_ratio": [0.75, 4 / 3], "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5}
SIMCLR |= {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur_kernel": 0.3, "rotate": 10.0}
STATISTICS = Standardize((0.3, 0.3, 0.3), (0.4, 0.4, 0.0))


@pytest.fixture
def batches(split_of, views_of):
    """As a GPU makes them: views of fixed shapes, all kinds of them."""
    views = views_of(**SIMCLR)
    return Batches(split_of(0, 70), views, 8, STATISTICS), Batches(split_of(70, 103), views, 8, STATISTICS)


@pytest.fixture
def gpu(monkeypatch) -> StandIn:
    """The CPU as a device that records, and whose views have fixed shapes."""
    found = StandIn()
    monkeypatch.setattr(replay, "cuda", lambda device: found)
    monkeypatch.setattr(replay, "LEAST_CALLS", 1)
    monkeypatch.setattr(contrastive, "network_input", fixed_shape_views)
    return found


def plainly(monkeypatch) -> None:
    """From here on kernel by kernel, all else as before."""
    monkeypatch.setattr(replay, "LEAST_CALLS", 10**9)


# ---- recorded and replayed -------------------------------------------------------------------------------------------


OTHERS = [{"optimizer": name} for name in OPTIMIZERS] + [{"loss": name} for name in LOSSES if name != "nt_xent"]
OTHERS += [{"optimizer": "adamw", "first_layer_learning_rate": 0.01}, {"head_learning_rate": 0.3}]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_a_replayed_training_equals_one_kernel_by_kernel(gpu, batches, monkeypatch, changes):
    """Warm-up rates, epochs' ends with validation, measured steps between replays: the same bits."""
    recipe = dataclasses.replace(RECIPE, **changes, learning_rate=0.1, epochs=4, warmup_epochs=2)
    observers = [Observer(Diagnostics(every=3, dense_steps=1)) for _ in range(2)]
    monkeypatch.setattr(losses, "_as_one_matrix", lambda *_: True)  # as on a GPU
    model, curve = run(batches, recipe, observer=observers[0])
    # 16 steps, 6 of them measured; 4 x 2 batches of validation
    assert (gpu.recorded, gpu.replayed) == (2, 16 - 6 + 8)
    plainly(monkeypatch)
    twin, plain_curve = run(batches, recipe, observer=observers[1])
    assert equal(model, twin) and curve == plain_curve and observers[0].rows() == observers[1].rows()
    assert gpu.recorded == 2


def test_a_run_resumed_before_and_in_the_middle_of_an_epoch_equals_an_unbroken_one(gpu, batches):
    model, curve = run(batches)
    for step in (3, 5):
        memory = Memory()
        with pytest.raises(KilledError):
            run(batches, checkpoint=memory, on_step=killed_at(step))
        resumed, again = run(batches, checkpoint=memory)
        assert equal(model, resumed) and curve == again


def test_the_replayed_training_is_the_cpus_up_to_rounding(gpu, batches, monkeypatch):
    _, curve = run(batches)
    monkeypatch.undo()
    _, plain = run(batches)
    for ours, theirs in zip(curve, plain, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=2e-3)
        assert ours.val_loss == pytest.approx(theirs.val_loss, abs=5e-3)


def test_a_replayed_autoencoder_equals_one_kernel_by_kernel(gpu, split_of, monkeypatch):
    """Its rate falls on a plateau, its last batch is smaller, the denoising one gets noise."""
    recipe = Reconstruction(epochs=4, batch_size=16, learning_rate=10.0, factor=0.1, patience=0)
    for arch in ("mlp", "denoising"):
        results = []
        for least in (1, 10**9):
            monkeypatch.setattr(replay, "LEAST_CALLS", least)
            model = build_autoencoder(arch, 8, 16, 8, seed=0)
            curve = train_autoencoder(model, split_of(0, 70), split_of(70, 90), recipe, image_size=8, seed=0)
            results.append((curve, model))
        assert results[0][0] == results[1][0] and equal(results[0][1], results[1][1])
        assert len({row.learning_rate for row in results[0][0]}) > 1
    assert (gpu.recorded, gpu.replayed) == (2, 2 * 4 * 4)


def test_replayed_fine_tuning_and_features_equal_plain_ones(gpu, split_of, views_of, monkeypatch):
    monkeypatch.setattr(finetune_module, "BATCH", 32)
    monkeypatch.setattr(finetune_module, "network_input", fixed_shape_views)
    monkeypatch.setattr(finetune_module, "on_cuda", lambda parameters: True)
    found = []
    for least in (1, 10**9):
        monkeypatch.setattr(replay, "LEAST_CALLS", least)
        settings = {"num_features": 8, "num_classes": 10, "epochs": 2, "seed": 0}
        views = views_of(rotate=10.0, crop_scale=[0.5, 1.0])
        tuned = finetune(small_network(), split_of(0, 70), split_of(70, 103), views, 8, STATISTICS, **settings)
        found.append((tuned, extract_features(small_network(), split_of(0, 70), 8, STATISTICS, batch_size=16)))
    assert found[0][0] == found[1][0] and (found[0][1] == found[1][1]).all()
    assert (gpu.recorded, gpu.replayed) == (2, 4 + 4)  # of 70 images the last 6 are no whole batch


# ---- what a step asks of a device ------------------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """Counts operators and copies from the host to `device`; refuses what would make the host wait."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.operators, self.copies = device, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        refuse_reads(func, args)
        result = func(*args, **(kwargs or {}))
        where = {each.device.type for each in tree_leaves((args, kwargs or {})) if isinstance(each, torch.Tensor)}
        there = {each.device.type for each in tree_leaves(result) if isinstance(each, torch.Tensor)}
        if self.device in there:
            self.operators += 1
            self.copies += "cpu" in where and self.device in there and "copy" in func.name()
            assert where <= {self.device} or "copy" in func.name() or not where, f"{func} on {where}"
        assert not (self.device in where and "cpu" in there), f"{func} brings a value to the host"
        return result


def network(**changes) -> Network:
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), 0)
    return Network(backbone, build_projector(Projector("random", False, 16, 8, "relu"), 512, 0), **changes)


def on(device: str, views_of, **changes) -> Batches:
    images = torch.empty(40, 32, 32, 3, dtype=torch.uint8, device=device)
    split = Split(images, torch.zeros(40, dtype=torch.int64), torch.full((40, 2), 32))
    return Batches(split, views_of(**{**SIMCLR, **changes}), 32, STATISTICS)


def counted_steps(step, batches: Batches, device: str, *inputs) -> list[tuple[int, int]]:
    found = []
    for k in range(4):
        with Counted(device) as counted:
            step(*inputs, *batches.draw(torch.arange(8), "step", k, seed=0))
        found.append((counted.operators, counted.copies))
    return found[2:]  # the first two make their buffers


@pytest.mark.parametrize(("rotate", "loss"), [(0.0, "nt_xent"), (10.0, "nt_xent"), (0.0, "dcl"), (0.0, "vicreg")])
def test_a_forward_on_a_fake_gpu_takes_one_copy_and_never_waits(monkeypatch, views_of, rotate, loss):
    """Draws, copy, views (the Triton kernels as operators with fakes), forward pass and loss."""
    monkeypatch.setattr(replay, "cuda", lambda device: StandIn())
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())  # needs a driver
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = network().eval()
        batches = on("cuda", views_of, rotate=rotate)
        step = validating(model, batches, dataclasses.replace(RECIPE, loss=loss), calls=0)
        found = counted_steps(step, batches, "cuda")
    assert [copies for _, copies in found] == [1, 1]
    assert found[0] == found[1] and found[0][0] <= 240


@pytest.fixture
def fused_on_meta(monkeypatch):
    """Torch's fused optimisers have no kernel for tensors without values; what they do needs none."""
    devices = ["meta", "cpu", "cuda"]
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: devices)
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name in ("_fused_sgd_", "_fused_adamw_"):
            library.impl(f"{name}.tensor_lr", lambda *args, **options: None, "Meta")
        yield


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_a_whole_step_takes_one_copy_and_never_waits(monkeypatch, fused_on_meta, views_of, changes, apart):
    """With backward pass and optimiser, on tensors without values: reading one raises."""
    recipe = dataclasses.replace(RECIPE, **changes)
    monkeypatch.setattr(replay, "cuda", lambda device: StandIn())
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    batches, model = on("meta", views_of), network(apart=apart).to("meta")
    own = build_optimizer(recipe.optimizer, model, 0.9, 1e-4, rates_apart(model[1], recipe))
    step = stepping(model, own, batches, recipe, calls=0)
    found = counted_steps(step, batches, "meta", 0.1)
    assert [copies for _, copies in found] == [1, 1]
    assert found[0] == found[1] and found[0][0] <= (800 if apart else 520)
