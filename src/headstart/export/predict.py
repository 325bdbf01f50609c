"""Images in, features and class probabilities out, by an export alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headstart.data.arrays import Standardize
from headstart.data.views import resize
from headstart.errors import UserError
from headstart.export.bundle import Bundle, Settings, probabilities
from headstart.ingest.decode import FORMATS, UnreadableError, decode
from headstart.ingest.tree import is_clutter

BATCH = 256


@dataclass(frozen=True)
class Predictions:
    """Of N images: paths, features (N, D) float32 and, with a probe, probabilities (N, K) float64 of `classes`."""

    paths: list[str]
    features: np.ndarray
    probabilities: np.ndarray | None
    classes: list[str]

    def predicted(self) -> list[str]:
        """Return the likeliest class of each image; needs probabilities."""
        assert self.probabilities is not None
        return [self.classes[index] for index in self.probabilities.argmax(1)]


def find_images(given: Iterable[Path]) -> list[Path]:
    """Return the files among `given` as they are, and of folders the images below them, sorted; UserError for none."""
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        images = [file for file in inside if file == path or _is_image(file, path)]
        if not images:
            raise UserError(f"{path}: holds no images")
        found += images
    return found


def _is_image(file: Path, folder: Path) -> bool:
    known = Image.registered_extensions().get(file.suffix.lower()) in FORMATS
    return known and file.is_file() and not is_clutter(file.relative_to(folder).as_posix())


def predict(bundle: Bundle, paths: list[Path], device: torch.device) -> Predictions:
    """Return the predictions for image files, prepared as the training's were; UserError names an unreadable one."""
    network = bundle.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        features = torch.cat([network(x_NCHW.to(device)).float().cpu() for x_NCHW in batches(bundle.settings, paths)])
    shares = None if bundle.probe is None else probabilities(bundle.probe, features).numpy()
    return Predictions([str(path) for path in paths], features.numpy(), shares, bundle.settings.classes)


def batches(settings: Settings, paths: list[Path]) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) float32 batches of images as the network takes them."""
    standardize = None
    if settings.mean is not None and settings.std is not None:
        standardize = Standardize(tuple(settings.mean), tuple(settings.std))
    for start in range(0, len(paths), BATCH):
        stored = np.stack([_read(path, settings) for path in paths[start : start + BATCH]])
        x_NCHW = resize(torch.from_numpy(stored), settings.image_size)
        if standardize is not None:
            x_NCHW = standardize(x_NCHW)
        yield x_NCHW.contiguous(memory_format=torch.channels_last)


def _read(path: Path, settings: Settings) -> np.ndarray:
    try:
        return decode(path.read_bytes(), settings.stored_size, settings.crop_bottom)[0]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnreadableError as error:
        raise UserError(f"{path}: {error}") from None
