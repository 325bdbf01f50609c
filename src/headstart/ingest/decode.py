"""One encoded image -> stored RGB pixels. Worker processes import this module alone: no torch, no scikit-learn."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

# No more: Pillow would also run Ghostscript for EPS, and takes noise for formats that have no signature
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
MIN_SIDE = 4

Encoded = bytes | np.ndarray | Exception


class UnreadableError(Exception):
    """Says in a few words why an image cannot be used."""


@dataclass(frozen=True)
class Job:
    """One image to store: its index in the listing, the split and row it goes to, its content."""

    index: int
    split: str
    row: int
    data: Encoded


@dataclass(frozen=True)
class Stored:
    """What came of some jobs.

    sizes: original (height, width) by index; unreadable: reason by index; histogram: (3, 256) int64 counts of the
    stored train pixels by channel.
    """

    sizes: dict[int, tuple[int, int]]
    unreadable: dict[int, str]
    histogram: np.ndarray


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings but of images too large; process-wide, so not to be entered by one thread of many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def store(jobs: list[Job], files: dict[str, Path], side: int, crop_bottom: int = 0) -> Stored:
    """Decode jobs into the rows of the .npy file of their split, (N, side, side, 3) uint8 each, which must exist.

    To be called under `quiet`, by one thread of many or in a process of its own.
    """
    # mapped anew for each call: a mapping that lives on would count every written page as this process's memory
    arrays = {split: np.lib.format.open_memmap(files[split], mode="r+") for split in {job.split for job in jobs}}
    stored = Stored({}, {}, np.zeros((3, 256), dtype=np.int64))
    for job in jobs:
        try:
            pixels, size = _decode(job.data, side, crop_bottom)
        except UnreadableError as error:
            stored.unreadable[job.index] = str(error)
            continue
        arrays[job.split][job.row] = pixels
        stored.sizes[job.index] = size
    train = [job.row for job in jobs if job.split == "train" and job.index in stored.sizes]
    if train:
        stored.histogram[:] = histogram(arrays["train"][train])
    return stored


def store_quietly(jobs: list[Job], files: dict[str, Path], side: int, crop_bottom: int = 0) -> Stored:
    """Do as `store`, in a process of its own."""
    with quiet():
        return store(jobs, files, side, crop_bottom)


def histogram(pixels: np.ndarray) -> np.ndarray:
    """Return (3, 256) counts of the values of (N, H, W, 3) uint8 pixels by channel."""
    column = Image.fromarray(pixels.reshape(-1, pixels.shape[2], 3))
    return np.reshape(column.histogram(), (3, 256))


def decode(data: Encoded, side: int, crop_bottom: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (side, side, 3) uint8 RGB pixels and the original (height, width), both as EXIF orients the image.

    Squashed to the square by an anti-aliased bilinear filter (JPEGs at least four times too large are first reduced by
    their decoder). Grey becomes three equal channels; transparent pixels are composited onto black; 16-bit grey is
    divided by 257. Of several frames the first counts. crop_bottom: rows cut off first; the original is what remains.
    Raises UnreadableError, also below MIN_SIDE pixels a side, for floating-point or 32-bit pixels, and for more pixels
    than Pillow's Image.MAX_IMAGE_PIXELS.
    """
    with quiet():
        return _decode(data, side, crop_bottom)


def _decode(data: Encoded, side: int, crop_bottom: int) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        image, size = _open(data, crop_bottom)
        return stored_pixels(image, side, crop_bottom), size
    except Exception as error:  # decoders raise nearly anything on corrupt bytes
        raise UnreadableError(_reason(error)) from None


def why_unreadable(data: Encoded, crop_bottom: int = 0) -> str:
    """Return in a few words why `decode` cannot read an image, "" where it can.

    To be called under `quiet`, by one thread of many.
    """
    try:
        _decode(data, MIN_SIDE, crop_bottom)
    except UnreadableError as error:
        return str(error)
    return ""


def decode_whole(data: Encoded, crop_bottom: int = 0) -> np.ndarray:
    """Return (height, width, 3) uint8 RGB pixels of an image that `decode` can read, at its original size.

    To be called under `quiet`, by one thread of many.
    """
    image, (height, _) = _open(data, crop_bottom)
    return np.asarray(upright(image, turn_of(image), height + crop_bottom, crop_bottom))


def measure(data: Encoded, crop_bottom: int = 0) -> tuple[int, int] | None:
    """Return the original (height, width) from an image's header, None where it has none; as `decode` does."""
    try:
        with quiet():
            return _open(data, crop_bottom)[1]
    except Exception:
        return None


def _open(data: Encoded, crop_bottom: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image whose pixels are not read yet, and its (height, width) as oriented."""
    if isinstance(data, Exception):
        raise data
    image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = upright_size(image)
    height -= crop_bottom
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"{width}x{height} pixels, at least {MIN_SIDE}x{MIN_SIDE} needed")
    return image, (height, width)


# ---- what becomes of an opened image: an exported model's card holds these functions as they stand


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how an opened image must be turned to stand upright, by EXIF; None for not at all, or where that lies."""
    if image.format == "TIFF":  # Pillow turns these itself
        return None
    turn = Image.Transpose
    turns = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
    turns |= {6: turn.ROTATE_270, 7: turn.TRANSVERSE, 8: turn.ROTATE_90}
    try:
        return turns.get(image.getexif()[274])
    except Exception:  # there is none; damaged EXIF raises nearly anything
        return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened image as it will stand."""
    turn = Image.Transpose
    swapping = (turn.TRANSPOSE, turn.TRANSVERSE, turn.ROTATE_90, turn.ROTATE_270)
    return image.size[::-1] if turn_of(image) in swapping else image.size


def upright(image: Image.Image, turn: Image.Transpose | None, height: int, crop_bottom: int) -> Image.Image:
    """Return an image in RGB, turned, without the lowest crop_bottom of the `height` rows that it had when opened.

    Transparent pixels are composited onto black, 16-bit grey is divided by 257.
    """
    if turn is not None:
        image = image.transpose(turn)
    if crop_bottom:  # its decoder may have reduced it
        image = image.crop((0, 0, image.width, image.height * (height - crop_bottom) // height))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16-bit values off at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def stored_pixels(image: Image.Image, side: int, crop_bottom: int = 0) -> np.ndarray:
    """Return (side, side, 3) uint8 RGB pixels of an opened image without its lowest rows, as the pipeline stores it."""
    turn, height = turn_of(image), upright_size(image)[1]
    image.draft(None, (2 * side, 2 * side))  # of large JPEGs less is decoded
    image = upright(image, turn, height, crop_bottom)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


CARD = (turn_of, upright_size, upright, stored_pixels)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    return " ".join(str(error).split())[:80] or type(error).__name__
