"""Views against torchvision: every stage with given parameters, every distribution with given bounds."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop

from headstart.data.views import Draw, draw, gaussian_blur, hue_shift, odd, render, resize, resized_crop
from headstart.randomness import generator

ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
SIMCLR = {
    "crop_scale": [0.08, 1.0],
    "crop_ratio": [3 / 4, 4 / 3],
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.8,
    "contrast": 0.8,
    "saturation": 0.8,
    "hue": 0.2,
    "grey": 0.2,
    "blur": 0.5,
}
ALMOST_NEVER = 1e-4  # p value under which a fixed-seed test says that two distributions differ


@pytest.fixture(scope="module")
def stored(photograph) -> Tensor:
    """(6, 24, 24, 3) uint8: pieces of a photograph, one of them constant."""
    pieces = torch.stack([photograph[:, y : y + 24, x : x + 24] for y in (0, 96) for x in (0, 100, 200)])
    pieces[5] = 0.25
    return (pieces * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def floats(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def nothing(num: int, **changes) -> Draw:
    """Parameters that leave `num` images as they are, but for the changes."""
    return Draw(
        **{
            "box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(num, 4),
            "angle": torch.zeros(num),
            "flip": torch.zeros(num, dtype=torch.bool),
            "order": torch.arange(4).expand(num, 4),
            "factors": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(num, 4),
            "grey": torch.zeros(num, dtype=torch.bool),
            "blurred": torch.zeros(num, dtype=torch.bool),
            "sigma": torch.ones(num),
            **changes,
        }
    )


def drawn(views, num: int, seed: int = 0, size: tuple[int, int] = (24, 24)) -> Draw:
    return draw(views, torch.tensor([size]).expand(num, 2), generator(seed, "test"))


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# --- one stage at a time ---


def test_no_change_gives_the_stored_pixels(stored, views_of):
    close(render(stored, nothing(6), views_of(), 24), floats(stored), atol=1e-6)


@pytest.mark.parametrize("size", [1, 8, 23, 24, 40])
@pytest.mark.parametrize(
    "box", [(0, 0, 24, 24), (3, 5, 17, 11), (0, 13, 24, 11), (20, 1, 4, 23), (7, 9, 1, 1), (23, 23, 1, 1), (0, 0, 2, 9)]
)
def test_crop_equals_torchvision_up_and_down(stored, box, size):
    shares = torch.tensor([box]).expand(6, 4) / 24
    theirs = TF.resized_crop(floats(stored), *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
    close(resized_crop(floats(stored), shares, size), theirs)


def test_crop_of_an_oblong_image_equals_torchvision(photograph):
    box = (17, 40, 101, 67)
    shares = torch.tensor([box]) / torch.tensor([240, 320, 240, 320])
    theirs = TF.resized_crop(photograph[None], *box, [32, 32], InterpolationMode.BILINEAR, antialias=True)
    close(resized_crop(photograph[None], shares, 32), theirs)


@pytest.mark.parametrize("corner", [0.0, 0.97, 0.99])
def test_crop_smaller_than_half_a_pixel_shows_that_pixel(stored, corner):
    x_BCHW = floats(stored)
    box = torch.tensor([[corner, corner, 0.01, 0.01]]).expand(6, 4)
    pixel = x_BCHW[:, :, -1:, -1:] if corner else x_BCHW[:, :, :1, :1]
    close(resized_crop(x_BCHW, box, 3), pixel.expand(-1, -1, 3, 3))


def test_flip_mirrors_the_chosen_images_alone(stored, views_of):
    flip = torch.tensor([True, False, False, True, False, True])
    ours = render(stored, nothing(6, flip=flip), views_of(), 16)
    plain = render(stored, nothing(6), views_of(), 16)
    close(ours, torch.where(flip[:, None, None, None], TF.horizontal_flip(plain), plain), atol=1e-6)


@pytest.mark.parametrize("size", [23, 24])
def test_rotation_equals_torchvision(stored, views_of, size):
    stored = stored[:, :size, :size]
    angles = torch.tensor([0.0, 15.0, -7.5, 90.0, 133.3, -180.0])
    theirs = torch.stack(
        [
            TF.rotate(x, angle.item(), InterpolationMode.BILINEAR)
            for x, angle in zip(floats(stored), angles, strict=True)
        ]
    )
    close(render(stored, nothing(6, angle=angles), views_of(), size), theirs, atol=2e-5)


@pytest.mark.parametrize("kind", range(4))
def test_each_adjustment_equals_torchvision(stored, views_of, kind):
    values = [-0.5, -0.21, 0.0, 0.1, 0.3, 0.5] if kind == 3 else [0.0, 0.2, 0.9, 1.0, 1.3, 2.0]
    factors = nothing(6).factors.clone()
    factors[:, kind] = torch.tensor(values)
    theirs = torch.stack([ADJUST[kind](x, value) for x, value in zip(floats(stored), values, strict=True)])
    close(render(stored, nothing(6, factors=factors), views_of(), 24), theirs)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_in_every_order_equals_torchvision(stored, views_of, order):
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]) + torch.tensor([0.8, 0.8, 0.8, 0.2]) * (
        2 * torch.rand(6, 4, generator=generator(1)) - 1
    )
    theirs = floats(stored)
    for row in range(6):
        for kind in order:
            theirs[row] = ADJUST[kind](theirs[row], factors[row, kind].item())
    drawn = nothing(6, factors=factors, order=torch.tensor([order]).expand(6, 4))
    close(render(stored, drawn, views_of(), 24), theirs, atol=2e-5)


def test_hue_of_every_colour_equals_torchvision():
    levels = torch.linspace(0, 1, 9)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 27, 27)
    for turns in (-0.5, -1 / 3, -0.1, 0.0, 1 / 6, 0.25, 0.5):
        close(hue_shift(cube, torch.full((1, 1, 1, 1), turns)), TF.adjust_hue(cube, turns))


def test_grey_equals_torchvision(stored, views_of):
    grey = torch.tensor([True, False, True, False, False, True])
    theirs = torch.where(
        grey[:, None, None, None], TF.rgb_to_grayscale(floats(stored), num_output_channels=3), floats(stored)
    )
    close(render(stored, nothing(6, grey=grey), views_of(), 24), theirs)


@pytest.mark.parametrize("taps", [1, 3, 9, 23])
def test_blur_equals_torchvision(stored, taps):
    sigma = torch.tensor([0.1, 0.3, 0.7, 1.1, 1.6, 2.0])
    theirs = [
        TF.gaussian_blur(x, [taps, taps], [s.item(), s.item()]) for x, s in zip(floats(stored), sigma, strict=True)
    ]
    close(gaussian_blur(floats(stored), sigma, taps), torch.stack(theirs))


def test_blur_kernel_wider_than_the_image_still_averages(stored):
    flat = torch.full((1, 3, 4, 4), 0.3)
    close(gaussian_blur(flat, torch.tensor([2.0]), 13), flat)


def test_only_blurred_images_are_blurred_with_odd_share_of_the_size(stored, views_of):
    blurred = torch.tensor([False, True, False, True, True, False])
    ours = render(stored, nothing(6, blurred=blurred, sigma=torch.full((6,), 1.5)), views_of(blur_kernel=0.3), 24)
    theirs = TF.gaussian_blur(floats(stored), [7, 7], [1.5, 1.5])  # int(7.2) = 7
    close(ours, torch.where(blurred[:, None, None, None], theirs, floats(stored)))


def test_odd():
    assert [odd(x) for x in (0.8, 1.0, 2.0, 3.2, 9.6, 12.8)] == [1, 1, 3, 3, 9, 13]


# --- the whole ---


def reference(x_CHW: Tensor, drawn: Draw, row: int, taps: int, size: int) -> Tensor:
    """One view by torchvision, in SimCLR's order."""
    if drawn.angle[row]:
        x_CHW = TF.rotate(x_CHW, drawn.angle[row].item(), InterpolationMode.BILINEAR)
    side = x_CHW.shape[-1]
    box = (drawn.box[row] * side).round().int().tolist()
    if size < x_CHW.shape[-1] and not drawn.angle.any():  # shrunk in 8 bits
        x_CHW = (x_CHW * 255).round().byte()
    x_CHW = TF.resized_crop(x_CHW, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
    if x_CHW.dtype == torch.uint8:
        x_CHW = x_CHW.float() / 255
    if drawn.flip[row]:
        x_CHW = TF.horizontal_flip(x_CHW)
    for kind in drawn.order[row].tolist():
        x_CHW = ADJUST[kind](x_CHW, drawn.factors[row, kind].item())
    if drawn.grey[row]:
        x_CHW = TF.rgb_to_grayscale(x_CHW, num_output_channels=3)
    if drawn.blurred[row]:
        x_CHW = TF.gaussian_blur(x_CHW, [taps, taps], [drawn.sigma[row].item()] * 2)
    return x_CHW


@pytest.mark.parametrize("rotate", [0.0, 30.0])
@pytest.mark.parametrize("size", [16, 32])
def test_whole_views_equal_torchvision(stored, views_of, rotate, size):
    views = views_of(**SIMCLR, rotate=rotate, blur_kernel=0.2)
    images = stored.repeat(8, 1, 1, 1)
    parameters = drawn(views, len(images))
    ours = render(images, parameters, views, size)
    theirs = [reference(x, parameters, row, odd(0.2 * size), size) for row, x in enumerate(floats(images))]
    close(ours, torch.stack(theirs), atol=1e-4)


def test_batch_size_changes_no_view(stored, views_of, monkeypatch):
    """The CPU works through a batch in pieces that fit its cache."""
    views = views_of(**SIMCLR, rotate=10.0)
    parameters = drawn(views, len(stored))
    whole = render(stored, parameters, views, 32)
    monkeypatch.setattr("headstart.data.views.CHUNK_BYTES", 4 * 12 * 32 * 32)
    close(render(stored, parameters, views, 32), whole)


def test_shrunk_crops_have_edges_at_whole_stored_pixels(stored, views_of):
    boxes = torch.tensor([[0.1, 0.23, 0.62, 0.71], [0.999, 0.999, 0.001, 0.001]])
    ours = render(stored[:2], nothing(2, box=boxes), views_of(), 8)
    theirs = [(2, 6, 15, 17), (23, 23, 1, 1)]  # of 24 px: top, left, height, width
    for image, x_CHW, box in zip(stored, ours, theirs, strict=False):
        crop = TF.resized_crop(image.permute(2, 0, 1), *box, [8, 8], InterpolationMode.BILINEAR, antialias=True)
        close(x_CHW, crop.float() / 255)


def test_views_are_floats_in_range_and_leave_the_images_alone(stored, views_of):
    before = stored.clone()
    views = views_of(**SIMCLR, rotate=10.0)
    ours = render(stored, drawn(views, 6), views, 16)
    assert ours.shape == (6, 3, 16, 16)
    assert ours.dtype == torch.float32
    assert ours.min() >= 0
    assert ours.max() <= 1 + 1e-6
    assert torch.equal(stored, before)


def test_equal_generators_give_equal_views_and_others_do_not(stored, views_of):
    views = views_of(**SIMCLR, rotate=10.0)
    first, second, other = (render(stored, drawn(views, 6, seed), views, 16) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_every_image_of_a_batch_draws_its_own_parameters(views_of):
    parameters = drawn(views_of(**SIMCLR, rotate=10.0), 64, size=(240, 320))
    for name in ("angle", "sigma"):
        assert len(getattr(parameters, name).unique()) == 64, name
    assert len(parameters.box.unique(dim=0)) == 64
    jittered = parameters.factors[(parameters.factors != nothing(64).factors).all(1)]
    assert len(jittered.unique(dim=0)) == len(jittered) > 40
    for name in ("flip", "grey", "blurred"):
        assert 0 < getattr(parameters, name).sum() < 64, name


def test_squashed_image_keeps_its_geometry(photograph, views_of):
    """Crops of the photograph squashed to a square show what crops of the photograph show, in its proportions."""
    square = TF.resize(photograph, [128, 128], antialias=True)
    images = (square * 255).round().byte().permute(1, 2, 0)[None].expand(16, -1, -1, -1)
    views = views_of(crop_scale=[0.1, 0.6], crop_ratio=[0.75, 4 / 3])
    parameters = drawn(views, 16, size=(240, 320))
    ours = render(images, parameters, views, 32)
    errors = []
    for row, box in enumerate((parameters.box * torch.tensor([240, 320, 240, 320])).round().int().tolist()):
        assert 0.74 < box[3] / box[2] < 1.35  # pixels of the original
        theirs = TF.resized_crop(photograph, *box, [32, 32], antialias=True)
        errors.append((ours[row] - theirs).abs().mean().item())
    assert max(errors) < 0.02
    unaware = render(images, drawn(views, 16, size=(128, 128)), views, 32)
    assert (unaware - ours).abs().mean() > 0.05


@pytest.mark.parametrize("size", [8, 16, 24, 30])
def test_resize_equals_torchvision(stored, size):
    close(resize(stored, size), TF.resize(floats(stored), [size, size], antialias=True))


# --- distributions ---


@pytest.mark.parametrize("size", [(97, 64), (32, 32), (30, 90)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0)])
def test_crop_boxes_are_distributed_as_torchvisions(views_of, size, scale):
    num, ratio = 3000, (3 / 4, 4 / 3)
    ours = drawn(views_of(crop_scale=list(scale), crop_ratio=list(ratio)), num, size=size).box * torch.tensor(size * 2)
    transform = RandomResizedCrop(8, scale=scale, ratio=ratio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, *size)
        params = [transform.make_params([image]) for _ in range(num)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in params], dtype=torch.float32)
    for name, of in {
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "centre": lambda box: box[:, 0] + box[:, 2] / 2,
    }.items():
        test = scipy.stats.ks_2samp(of(ours.round()).numpy(), of(theirs).numpy())
        assert test.pvalue > ALMOST_NEVER, name


def test_crops_lie_anywhere_in_the_image(views_of):
    """Of the slack + 1 places that a crop can begin at, each is as likely, the first and the last included."""
    boxes = drawn(views_of(crop_scale=[0.08, 1.0], crop_ratio=[3 / 4, 4 / 3]), 4000, size=(48, 64)).box
    boxes = (boxes * torch.tensor([48, 64, 48, 64])).round().numpy()
    within = np.random.default_rng(0).random((4000, 2))  # spreads each whole place over its share of [0, 1]
    places = (boxes[:, :2] + within) / (np.array([48, 64]) - boxes[:, 2:] + 1)
    for places_along in places.T:
        assert scipy.stats.kstest(places_along, "uniform").pvalue > ALMOST_NEVER
        assert places_along.max() > 0.998


@pytest.mark.parametrize("size", [(10, 200), (200, 10), (9, 100), (100, 9), (7, 8), (53, 40)])
def test_crop_that_cannot_be_drawn_falls_back_as_torchvisions(views_of, size):
    scale, ratio = (0.999, 1.0), (3 / 4, 4 / 3)
    ours = drawn(views_of(crop_scale=list(scale), crop_ratio=list(ratio)), 1, size=size).box[0] * torch.tensor(size * 2)
    transform = RandomResizedCrop(8, scale=scale, ratio=ratio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [transform.make_params([torch.empty(3, *size)]) for _ in range(20)]
    boxes = {(p["top"], p["left"], p["height"], p["width"]) for p in theirs}
    assert tuple(ours.round().int().tolist()) in boxes
    if max(size) > 2 * min(size):
        assert len(boxes) == 1  # nothing of that share fits: the fall-back is what was compared


@pytest.mark.parametrize("name", ["flip", "grey", "blur"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_shares_of_flipped_grey_and_blurred_images(views_of, name, share):
    field = {"blur": "blurred"}.get(name, name)
    mean = getattr(drawn(views_of(**{name: share}), 4000), field).float().mean().item()
    assert abs(mean - share) <= 4 * math.sqrt(share * (1 - share) / 4000)


def test_share_and_bounds_of_jitter(views_of):
    strengths = np.array([0.8, 0.4, 0.6, 0.2])
    names = ("brightness", "contrast", "saturation", "hue")
    views = views_of(jitter=0.8, **dict(zip(names, strengths.tolist(), strict=True)))
    factors = drawn(views, 4000).factors.numpy()
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    jittered = (factors != centre).any(1)
    assert abs(jittered.mean() - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 4000)
    for kind, strength in enumerate(strengths):
        uniform = scipy.stats.uniform(centre[kind] - strength, 2 * strength)
        assert scipy.stats.kstest(factors[jittered, kind], uniform.cdf).pvalue > ALMOST_NEVER, names[kind]
    assert np.abs(np.corrcoef(factors[jittered].T) - np.eye(4)).max() < 0.08  # drawn independently


def test_every_order_of_jitter_is_as_likely(views_of):
    orders = drawn(views_of(jitter=1.0, brightness=0.5), 4800).order
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(4800, 4))
    counts = orders.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts.numpy()).pvalue > ALMOST_NEVER


def test_angle_and_sigma_are_uniform(views_of):
    parameters = drawn(views_of(rotate=15.0, blur_sigma=[0.1, 2.0]), 4000)
    for values, low, high in ((parameters.angle, -15, 15), (parameters.sigma, 0.1, 2.0)):
        uniform = scipy.stats.uniform(low, high - low)
        assert scipy.stats.kstest(values.numpy(), uniform.cdf).pvalue > ALMOST_NEVER


def test_parameters_of_different_kinds_are_independent(views_of):
    parameters = drawn(views_of(**SIMCLR, rotate=10.0), 4000)
    columns = [
        getattr(parameters, field.name).float().reshape(4000, -1).T
        for field in dataclasses.fields(Draw)
        if field.name in ("angle", "flip", "grey", "blurred", "sigma")
    ]
    assert np.abs(np.corrcoef(torch.cat(columns).numpy()) - np.eye(5)).max() < 0.08
