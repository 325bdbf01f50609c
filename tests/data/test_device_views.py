"""Views as a GPU makes them against `render`: matrix products, Triton's kernels in its interpreter, compilation."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from headstart.data import device_views
from headstart.data import views as views_module
from headstart.data.arrays import Standardize
from headstart.data.device_views import colour, crop_filter, fixed_shape_views, network_input
from headstart.data.views import NEUTRAL, Draw, Views, draw, render, resized_crop, triangle_filter
from headstart.randomness import generator
from headstart.settings import read_settings
from tests.conftest import ROOT

pytest.importorskip("triton", reason="torch brings Triton to Linux on x86_64 alone")
PRESETS = {name: Views(**values) for name, values in read_settings(ROOT)["params.yaml"]["views"].items()}
SIZES = (8, 28, 32, 64, 96, 128)  # datasets.yaml's
STATISTICS = Standardize((0.49, 0.48, 0.45), (0.25, 0.24, 0.0))
NONE = ([0.0] * 3, [1.0] * 3)
STEP = 1 / 255


@pytest.fixture
def kernels(monkeypatch):
    """The Triton kernels in place of torch's, in Triton's interpreter: tests/conftest.py asks for it."""
    from headstart.data import kernels

    monkeypatch.setattr(device_views, "_kernels", lambda device: kernels)
    return kernels


@pytest.fixture
def float_crop(monkeypatch):
    """`render` without the CPU's crop in 8 bits, which rounds edges to whole stored pixels, and values."""

    def crop(images: Tensor, box: Tensor, size: int, flip: Tensor) -> Tensor:
        return resized_crop(images.permute(0, 3, 1, 2).float() / 255, box, size, flip) * 255

    monkeypatch.setattr(views_module, "_crop_8_bit", crop)


def pictures(photograph: Tensor, num: int, size: int) -> Tensor:
    """(num, size, size, 3) uint8 cuts of a photograph; the last one of one colour."""
    cuts = [photograph[:, 11 * k :, 17 * k : 17 * k + 200] for k in range(num)]
    whole = torch.cat([torch.nn.functional.interpolate(cut[None], (size, size)) for cut in cuts])
    whole[-1] = 0.25
    return (whole * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def drawn(views: Views, num: int, size: int, seed: int = 0) -> Draw:
    return draw(views, torch.full((num, 2), size), generator(seed, "device views"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_size_equals_render(kernels, float_crop, photograph, preset, size):
    """Stored at the size, where the interpreter is fast enough, and at twice the size."""
    views, num = PRESETS[preset], 6 if size < 64 else 2
    for stored in (size, 2 * size) if size < 64 else (2 * size,):
        images, parameters = pictures(photograph, num, stored), drawn(views, num, stored)
        ours = fixed_shape_views(images, parameters, views, size, STATISTICS)
        theirs = STATISTICS(render(images, parameters, views, size))
        assert ours.shape == theirs.shape and ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)  # of values that are divided by 0.24


@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_products_stay_within_a_step_of_8_bits(kernels, float_crop, photograph, preset):
    """Before the result becomes bfloat16, which rounds more; contrast and brightness may multiply an error by 3."""
    views, num, size = PRESETS[preset], 12, 32
    images, parameters = pictures(photograph, num, 2 * size), drawn(views, num, 2 * size)
    exact = fixed_shape_views(images, parameters, views, size, None)
    half = fixed_shape_views(images, parameters, views, size, None, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    rounding = (exact - exact.bfloat16().float()).abs()
    assert ((half.float() - exact).abs() - rounding).max() < STEP
    assert (half.float() - exact).abs().mean() < rounding.mean() + 0.1 * STEP


def test_the_8_bit_crop_of_the_cpu_differs_by_half_a_step_on_average(kernels, photograph):
    views, num, size = PRESETS["simclr"], 12, 32
    images, parameters = pictures(photograph, num, 2 * size), drawn(views, num, 2 * size)
    difference = fixed_shape_views(images, parameters, views, size, None) - render(images, parameters, views, size)
    assert 0 < difference.abs().mean() < 0.5 * STEP


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("place", range(4))
def test_each_adjustment_at_each_place_of_an_order(kernels, kind, place):
    """One of four acts, then all four with it at that place; images of more pixels than a program holds."""
    rest = [other for other in range(4) if other != kind]
    order = torch.tensor([[*rest[:place], kind, *rest[place:]]]).expand(4, 4).contiguous()
    x_BHCW = torch.rand(4, 40, 3, 40, generator=torch.Generator().manual_seed(kind)) * 255
    values = torch.tensor([[1.7, 0.3, 1.6, 0.15], [0.4, 1.8, 0.2, -0.2], [1.0, 1.0, 1.0, 0.0], [1.2, 1.8, 0.0, 0.5]])
    alone = NEUTRAL.repeat(4, 1)
    alone[:, kind] = values[:, kind]
    grey = torch.tensor([False, True, False, False])
    for factors in (alone, values):
        ours = colour(x_BHCW, factors, order, grey, *NONE, 255.0)
        theirs = torch_colour(x_BHCW, factors, order, grey)
        torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)


def torch_colour(x_BHCW: Tensor, factors: Tensor, order: Tensor, grey: Tensor) -> Tensor:
    """By `render`: a whole image that is neither cropped nor blurred."""
    num = len(x_BHCW)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(num, 4)
    no, zero = torch.zeros(num, dtype=torch.bool), torch.zeros(num)
    parameters = Draw(whole, zero, no, order, factors, grey, no, zero)
    x_BCHW = views_module._jitter((x_BHCW.permute(0, 2, 1, 3) / 255).contiguous(), parameters)
    x_BCHW[grey] = views_module.to_grey(x_BCHW[grey]).expand(-1, 3, -1, -1)
    return x_BCHW.permute(0, 2, 1, 3)


def test_nothing_drawn_changes_nothing(kernels):
    x_BHCW = torch.randint(0, 256, (3, 9, 3, 9)).float()
    order = torch.arange(4).repeat(3, 1)
    same = colour(x_BHCW, NEUTRAL.repeat(3, 1), order, torch.zeros(3, dtype=torch.bool), *NONE, 255.0)
    assert torch.equal(same, x_BHCW / 255)


def test_colours_without_triton_are_those_of_the_kernel(kernels, monkeypatch):
    views, x_BHCW = PRESETS["simclr"], torch.rand(20, 12, 3, 12) * 255
    one = drawn(views, 20, 12)
    ours = colour(x_BHCW, one.factors, one.order, one.grey, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7], 255.0)
    monkeypatch.setattr(device_views, "_kernels", lambda device: None)
    plain = colour(x_BHCW, one.factors, one.order, one.grey, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7], 255.0)
    torch.testing.assert_close(ours, plain, atol=5e-6, rtol=0)


@pytest.mark.parametrize(("num_in", "num_out"), [(8, 8), (24, 32), (200, 96), (33, 1), (1, 5)])
def test_filters_are_those_of_the_cpu_and_mirror(kernels, num_in, num_out):
    """Edges of whole pixels, of halves, which round to even, and of tiny boxes at the far end."""
    edges = torch.tensor([[0.0, 1.0], [0.5, 2.5], [1.5, 0.4], [num_in - 0.4, 0.4], [0.3, num_in / 2]]) / num_in
    box = edges.repeat_interleave(2, 1)[:, [0, 1, 2, 3]]
    flip = torch.tensor([False, True, False, True, False])
    for axis in (0, 1):
        start, length = box[:, axis] * num_in, box[:, 2 + axis] * num_in
        theirs = triangle_filter(start, length, num_in, num_out)
        theirs = torch.where(flip[:, None, None], theirs.flip(1), theirs)
        ours = crop_filter(box, flip, axis, num_in, num_out, torch.float32)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_operators_have_shapes_without_values(kernels):
    """What FakeTensorMode and torch.compile believe of them."""
    one = drawn(PRESETS["simclr"], 4, 16)
    for args in (
        (torch.rand(4, 8, 3, 8), one.factors, one.order, one.grey, *NONE, 255.0),
        (torch.rand(4, 8, 3, 8).half(), one.factors, one.order, one.grey, *NONE, 255.0),
    ):
        torch.library.opcheck(colour, args, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(
        crop_filter, (one.box, one.flip, 1, 16, 8, torch.float16), test_utils=("test_schema", "test_faketensor")
    )


def test_on_the_cpu_a_network_gets_render(photograph):
    views, images = PRESETS["simclr"], pictures(photograph, 6, 32)
    parameters = drawn(views, 6, 32)
    ours = network_input(images, parameters, views, 16, STATISTICS, torch.bfloat16)
    assert torch.equal(ours, STATISTICS(render(images, parameters, views, 16))) and ours.dtype == torch.float32


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headstart.data import kernels

for arch in (80, 90, 100):
    target = GPUTarget("cuda", arch, 32)
    for pixels in ("*fp16", "*fp32"):
        numbers = {name: "fp32" for name in ("scale", "mean0", "mean1", "mean2", "std0", "std1", "std2")}
        drawn = {"factors": "*fp32", "orders": "*i64", "greys": "*i1", "size": "i32"}
        colour = ASTSource(
            kernels.colour_kernel,
            {"x": pixels, "out": pixels} | drawn | numbers | {"block": "constexpr"},
            {"block": kernels.BLOCK},
        )
        signature = {"boxes": "*fp32", "flips": "*i1", "out": pixels, "axis": "i32", "num_in": "i32", "num_out": "i32"}
        signature |= {"rows": "constexpr", "columns": "constexpr"}
        crop = ASTSource(kernels.filter_kernel, signature, {"rows": 16, "columns": 256})
        for source in (colour, crop):
            assert len(triton.compile(source, target=target).asm["cubin"]) > 1000
    print(arch)
"""


def test_kernels_compile_for_three_generations_of_gpus(tmp_path):
    """In a process of its own, since this one interprets them; from an empty cache."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["80", "90", "100"], done.stderr[-2000:]
