"""The shortcut for small maps against F.conv2d, in float64."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from headstart.models.backbone import STEMS, Backbone, build_backbone
from headstart.models.convolution import SmallMapConv2d, covers, dense_convolution, seen, use_small_map_convolutions
from headstart.randomness import generator

CASES = [
    (size, kernel, stride, padding)
    for size, kernel, stride, padding in itertools.product((1, 2, 3, 4), (1, 2, 3, 5, 7), (1, 2, 3), (0, 1, 2, 3))
    if size + 2 * padding >= kernel
]
COVERED = [(size, kernel, stride, padding) for size, kernel, stride, padding in CASES if covers(size, kernel, padding)]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, *shape), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("case", CASES)
def test_covers_says_whether_every_output_sees_every_input(case):
    """One output's gradient reaches exactly the inputs that it sees."""
    size, kernel, stride, padding = case
    x_BCHW = torch.ones(1, 1, size, size, requires_grad=True)
    y_BCHW = F.conv2d(x_BCHW, torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding)
    seen = [torch.autograd.grad(y, x_BCHW, retain_graph=True)[0] for y in y_BCHW.flatten()]
    assert covers(size, kernel, padding) == all(bool(reached.all()) for reached in seen)


def test_the_networks_own_cases_are_covered():
    """3x3 kernels of stride 1 and 2 on maps of 1 and 2 pixels, 1x1 kernels on a pixel."""
    assert {(1, 3, 1, 1), (1, 3, 2, 1), (2, 3, 1, 1), (2, 3, 2, 1), (1, 1, 1, 0), (1, 1, 2, 0)} <= set(COVERED)


@pytest.mark.parametrize("case", COVERED)
def test_dense_convolution_equals_conv2d_with_its_gradients(case):
    size, kernel, stride, padding = case
    x_BCHW, weight = normal(3, 4, size, size), normal(5, 4, kernel, kernel)
    ours = dense_convolution(x_BCHW, weight, stride, padding)
    theirs = F.conv2d(x_BCHW, weight, stride=stride, padding=padding)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    slope = torch.randn(theirs.shape, generator=generator(1), dtype=torch.float64)
    for mine, other in zip(
        torch.autograd.grad(ours, (x_BCHW, weight), slope),
        torch.autograd.grad(theirs, (x_BCHW, weight), slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)


class Operations(TorchDispatchMode):
    """Records the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("size", "shortcut"), [(1, True), (2, True), (3, False), (8, False)])
def test_module_takes_the_shortcut_on_small_maps_alone(size, shortcut):
    conv = nn.Conv2d(4, 5, 3, padding=1, bias=False)
    network = nn.Sequential(copy.deepcopy(conv))
    use_small_map_convolutions(network)
    x_BCHW = torch.randn(2, 4, size, size, generator=generator(0))
    with Operations() as run:
        ours = network(x_BCHW)
    assert ("convolution.default" not in run.names) == shortcut
    torch.testing.assert_close(ours, conv(x_BCHW), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_oblong_maps_are_convolved(shape):
    network = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, bias=False))
    plain = copy.deepcopy(network)
    use_small_map_convolutions(network)
    x_BCHW = torch.randn(2, 4, *shape, generator=generator(0))
    torch.testing.assert_close(network(x_BCHW), plain(x_BCHW), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "case",
    [
        (size, kernel, stride, padding, dilation)
        for size, kernel, stride, padding in CASES
        for dilation in (1, 2)
        if size + 2 * padding > dilation * (kernel - 1)
    ],
)
def test_seen_says_which_weights_meet_a_pixel(case):
    """A weight's gradient under ones is the number of pixels that it meets."""
    size, kernel, stride, padding, dilation = case
    weight = torch.ones(1, 1, kernel, 1, requires_grad=True)
    F.conv2d(
        torch.ones(1, 1, size, 1), weight, stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1)
    ).sum().backward()
    assert list(seen(*case)) == (weight.grad.flatten() > 0).tolist()


@pytest.mark.parametrize(
    ("size", "conv"),
    [
        (1, nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=2, bias=False)),
        (1, nn.Conv2d(64, 64, 3, stride=2, padding=1)),
        (3, nn.Conv2d(64, 64, 5, stride=4, padding=2, bias=False)),
        (1, nn.Conv2d(64, 64, (3, 5), stride=2, padding=(1, 2), bias=False)),
        (2, nn.Conv2d(64, 64, 3, stride=4, padding=4, dilation=4, bias=False)),
    ],
    ids=["groups", "bias", "stride", "oblong", "dilation"],
)
def test_weights_that_meet_padding_alone_get_no_gradient(size, conv):
    """Also in bfloat16 and in memory that was full of NaN, which AMX kernels of oneDNN leave there."""
    network = nn.Sequential(copy.deepcopy(conv)).to(memory_format=torch.channels_last)
    use_small_map_convolutions(network)
    x_BCHW = torch.randn(8, 64, size, size, generator=generator(0)).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(conv).double()
    exact(x_BCHW.double()).square().sum().backward()
    dead = exact.weight.grad == 0
    assert dead.any()
    for _ in range(3):
        network.zero_grad()
        fill_freed_memory(math.nan)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(x_BCHW).float().square().sum().backward()
        found = network[0].weight.grad
        assert (found[dead] == 0).all()
        assert (found - exact.weight.grad).norm() <= 0.02 * exact.weight.grad.norm()


def fill_freed_memory(value: float) -> None:
    """Leave `value` in what the allocator gives out next."""
    blocks = [torch.full((2**size,), value) for size in range(6, 23, 2) for _ in range(4)]
    del blocks


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(4, 4, 3, stride=(2, 1), padding=1, bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
    ],
    ids=["bias", "groups", "dilation", "kernel", "stride", "same", "circular"],
)
def test_other_convolutions_are_left_as_they_are(conv):
    network = nn.Sequential(conv)
    x_BCHW = torch.randn(2, 4, 2, 2, generator=generator(0))
    before = network(x_BCHW)
    use_small_map_convolutions(network)
    assert torch.equal(network(x_BCHW), before)


@pytest.mark.parametrize(("arch", "stem"), [*(("resnet18", stem) for stem in STEMS), ("resnet50", "stride2")])
def test_network_computes_what_the_plain_one_does(arch, stem):
    """Values and gradients of a whole ResNet whose last maps are 1 and 2 pixels wide."""
    network = build_backbone(Backbone(arch, stem, "none"), seed=0).double().eval()
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if type(module) is SmallMapConv2d:
            module.__class__ = nn.Conv2d
    size = {"imagenet": 32, "cifar": 8, "stride2": 16}[stem]
    x_BCHW = torch.rand(2, 3, size, size, generator=generator(0), dtype=torch.float64)
    with Operations() as run:
        ours = network(x_BCHW)
    assert "mm.default" in run.names or "addmm.default" in run.names
    theirs = plain(x_BCHW)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for (name, mine), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-9 * other.grad.norm(), name


def test_state_dict_and_types_stay():
    network = build_backbone(Backbone("resnet18", "cifar", "none"), seed=0)
    assert isinstance(network.conv1, nn.Conv2d)
    assert sum(type(module) is SmallMapConv2d for module in network.modules()) == 20
