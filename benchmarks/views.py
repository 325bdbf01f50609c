"""Views alone: our batched ones, torchvision's per-image transforms on Pillow images, kornia's batched ones."""

import warnings
from collections.abc import Callable

import torch
from PIL import Image
from torch import nn

from benchmarks import setting
from benchmarks.authors import transform
from benchmarks.measure import Row, interleave, ratios, skipped, spread
from headstart.data.views import odd
from headstart.replay import Replayed

SIZES = (32, 96, 128)
STORED = {32: 32, 96: 192, 128: 256}  # `prepare` keeps larger images at twice the training size
VIEWS = 512


def ours(size: int, device: torch.device) -> Callable[[], None]:
    """Return a function that makes VIEWS views as training does, draws and all."""
    source = setting.batches(VIEWS // 2, size, device, STORED[size])
    rows = torch.arange(VIEWS // 2)
    views = Replayed(source.views_of, device, name="views", calls=10**6)

    def run() -> None:
        views(*source.draw(rows, "views", seed=0))

    return run


def torchvision_views(size: int, num: int) -> Callable[[], None]:
    """Return a function that makes `num` views one by one on one core; a DataLoader's worker does just this."""
    images = [Image.fromarray(image) for image in setting.pictures(num, STORED[size])]
    make = transform(size)

    def run() -> None:
        torch.stack([make(image) for image in images])

    return run


def kornia_views(size: int, device: torch.device) -> Callable[[], None]:
    """Return a function that makes VIEWS views with kornia, parameters per image, on the device."""
    import kornia.augmentation as K

    make = nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), same_on_batch=False),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((odd(0.1 * size),) * 2, (0.1, 2.0), p=0.5),
    ).to(device)
    images = torch.from_numpy(setting.pictures(VIEWS, STORED[size])).to(device)

    @torch.no_grad()
    def run() -> None:
        make(images.permute(0, 3, 1, 2).float().div(255))

    return run


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure every size."""
    rows = []
    for size in SIZES[:1] if quick else SIZES:
        per_image = 64 if quick else VIEWS // 2
        runs = {"ours": ours(size, device), "torchvision, one core": torchvision_views(size, per_image)}
        counts = {"ours": VIEWS, "torchvision, one core": per_image, "kornia": VIEWS}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runs["kornia"] = kornia_views(size, device)
        except ImportError as error:
            rows.append(skipped(f"{size} px: kornia", f"{error}; make bench installs it"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds = interleave(runs, 2 if quick else 9, device)
        rates = {name: [counts[name] / lap for lap in laps] for name, laps in seconds.items()}
        rows += [spread(f"{size} px from {STORED[size]} px: {name}", rate, "views/s") for name, rate in rates.items()]
        for name in list(rates)[1:]:
            rows.append(spread(f"{size} px: ours over {name}", ratios(rates["ours"], rates[name]), "x"))
    return rows, "fp32"
