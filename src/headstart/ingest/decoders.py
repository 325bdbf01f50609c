"""The decoders by name: what a block of datasets.yaml may say under `decoder`, and what it must say beside it.

To add a published dataset in a format that stands here: a block of datasets.yaml. Another format is one function that
lists its images (formats.py tells) and a row of DECODERS.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.ingest import binaries, folders, matlab, own, pickles
from headstart.ingest.download import record_digits
from headstart.ingest.formats import Listing, digits
from headstart.knobs import Marker, OneOf, nearest


@dataclass(frozen=True)
class Decoder:
    """How a dataset is read and, where it has no archives, how it comes in.

    list_images(folder, **arguments): what is in the folder that `download` left. fetch(path, folder, on_progress, ask,
    **arguments): leave the source there and return what is to be told of it; None where archives are downloaded
    instead. needs_path: what fetch wants the block's `path` to name, None where it takes no path.
    """

    list_images: Callable[..., Listing]
    fetch: Callable[..., str] | None = None
    needs_path: str | None = None


DECODERS = {
    "digits": Decoder(digits, fetch=record_digits),
    "images": Decoder(own.images, fetch=own.fetch, needs_path="file or folder"),
    "image_folder": Decoder(own.images, fetch=own.fetch, needs_path="folder"),
    "image_archive": Decoder(own.images, fetch=own.fetch, needs_path="file"),
    "by_folder": Decoder(folders.by_folder),
    "imagenette": Decoder(folders.imagenette),
    "stl10": Decoder(binaries.stl10),
    "cifar10": Decoder(pickles.cifar10),
    "cifar100": Decoder(pickles.cifar100),
    "aircraft": Decoder(folders.aircraft),
    "mnist": Decoder(binaries.mnist),
    "emnist": Decoder(binaries.emnist),
    "medmnist": Decoder(binaries.medmnist),
    "dtd": Decoder(folders.dtd),
    "food101": Decoder(folders.food101),
    "flowers102": Decoder(matlab.flowers102),
    "gtsrb": Decoder(folders.gtsrb),
    "pets": Decoder(folders.pets),
    "svhn": Decoder(matlab.svhn),
    "tiny_imagenet": Decoder(folders.tiny_imagenet),
}
Chosen = str | dict[str, Any]  # a name, or {name: arguments}


@dataclass(frozen=True)
class KnownDecoder(Marker):
    """A name of DECODERS, or a mapping of one name to its arguments."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with what is allowed."""
        if not (isinstance(value, str) or (isinstance(value, dict) and _is_call(value))):
            raise ValueError("must be a decoder's name, or a mapping of one name to its arguments")
        name, given = name_of(value), arguments(value)
        OneOf(DECODERS).check(name)
        signature = inspect.signature(DECODERS[name].list_images)
        known = list(signature.parameters)[1:]
        for argument in given:
            if argument not in known:
                allowed = ", ".join(known) or "nothing"
                raise ValueError(f"must give {name} no {argument}{nearest(argument, known)}; allowed: {allowed}")
        try:
            signature.bind(Path(), **given)
        except TypeError as error:
            raise ValueError(f"must give {name} its arguments: {error}") from None
        return value


def name_of(chosen: Chosen) -> str:
    """Return the decoder's name."""
    return chosen if isinstance(chosen, str) else str(next(iter(chosen)))


def list_images(chosen: Chosen, folder: Path) -> Listing:
    """Return what the folder that `download` left holds."""
    return DECODERS[name_of(chosen)].list_images(folder, **arguments(chosen))


def arguments(chosen: Chosen) -> dict[str, Any]:
    """Return what the decoder is given besides the folder."""
    return {} if isinstance(chosen, str) else dict(next(iter(chosen.values())))


def _is_call(value: dict[Any, Any]) -> bool:
    return len(value) == 1 and all(isinstance(key, str) and isinstance(given, dict) for key, given in value.items())
