"""Small images and archives, made with Pillow."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

Files = dict[str, bytes | None]  # None: a folder
TAR_MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def tree(classes: str = "ab", train: int = 5, test: int = 0, val: int = 0, size: int = 8) -> Files:
    """A layout of noise images: every one differs."""
    files: Files = {}
    for split, number in (("train", train), ("val", val), ("test", test)):
        for label in classes:
            for index in range(number):
                seed = len(files)
                files[f"{split}/{label}/{index}.png"] = encode(noise(size, size, seed, 3))
    return files


def write_archive(path: Path, files: Files) -> Path:
    """Write a zip or tar, as its name ends."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name if data is not None else f"{name}/", data or b"")
        return path
    with tarfile.open(path, TAR_MODES[path.name.split(".", 1)[1]]) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            if data is None:
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(data or b""))
    return path


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        target = path / name
        (target if data is None else target.parent).mkdir(parents=True, exist_ok=True)
        if data is not None:
            target.write_bytes(data)
    return path
