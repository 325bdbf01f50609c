"""Decoding: images per second of `prepare` against a plain Pillow loop on one core, and its peak memory.

Photographs are random crops of scikit-learn's two, JPEGs of 500 x 375 in a zip; small images are 32-px PNGs in a zip
and CIFAR-10's pickles, and CIFAR-10 itself where it is at hand. Both sides read the archive and end with the same array
on disk; ours also lists, checks, splits, counts and hashes. Workers are started anew in every repeat.
"""

import functools
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.measure import Row, in_new_process, interleave, ratios, skipped, spread
from headstart.ingest.formats import Listing, image_archive
from headstart.ingest.pack import Packing, pack
from headstart.ingest.pickles import cifar10

REAL = "HEADSTART_CIFAR10"  # where CIFAR-10 lies as a zip of train/<class>/*.png and test/<class>/*.png
BAR = 1.7
MEMORY_BAR = 2e9


@dataclass(frozen=True)
class Case:
    """One kind of archive: how many images, the training size, how it is written, listed and plainly read."""

    num: int
    image_size: int
    write: Callable[[Path, int], None]
    list_images: Callable[[Path], Listing]
    plain: Callable[[Path], Iterator[Image.Image]]
    bar: float | None
    whole: bool = False  # an archive that is there, also where little is to be measured


def link_real(folder: Path, num: int) -> None:
    """Let images.zip be the archive that REAL names."""
    (folder / "images.zip").symlink_to(Path(os.environ[REAL]).resolve())


def write_zip(folder: Path, num: int, kind: str, height: int, width: int) -> None:
    """Write `num` random crops of photographs, ten classes, as a zip of encoded images."""
    random, photographs = np.random.default_rng(0), load_sample_images().images
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for index in range(num):
            photograph = photographs[index % 2]
            share = random.uniform(0.5, 0.85)
            rows, columns = int(share * photograph.shape[0]), int(share * photograph.shape[1])
            top, left = (int(random.integers(0, n)) for n in (427 - rows + 1, 640 - columns + 1))
            image = Image.fromarray(photograph[top : top + rows, left : left + columns]).resize((width, height))
            buffer = io.BytesIO()
            image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
            archive.writestr(f"train/{index % 10}/{index}.{kind.lower()}", buffer.getvalue())


def write_cifar(folder: Path, num: int) -> None:
    """Write CIFAR-10's archive with `num` images of noise, a sixth of them for testing."""
    random = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {"batches.meta": {"label_names": [str(number) for number in range(10)]}}
    files |= {
        name: {"data": random.integers(0, 256, (num // 6, 3072), np.uint8), "labels": [i % 10 for i in range(num // 6)]}
        for name in names
    }
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info, data = tarfile.TarInfo(f"cifar-10-batches-py/{name}"), pickle.dumps(content, 2)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def plain_zip(folder: Path) -> Iterator[Image.Image]:
    """Yield the images of a zip as Pillow opens them."""
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for name in archive.namelist():
            yield Image.open(io.BytesIO(archive.read(name)))


def plain_cifar(folder: Path) -> Iterator[Image.Image]:
    """Yield the images of CIFAR-10's archive one by one, as torchvision's dataset does."""
    with tarfile.open(folder / "cifar-10-python.tar.gz") as tar:
        for info in tar:
            content = pickle.loads(tar.extractfile(info).read(), encoding="latin1")
            for planes in content.get("data", ()):
                yield Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0))


def plain_loop(case: Case, folder: Path, side: int, num: int) -> None:
    """Decode, convert, resize and store every image on one core."""
    array = np.lib.format.open_memmap(folder / "plain.npy", "w+", np.uint8, (num, side, side, 3))
    for row, image in enumerate(case.plain(folder)):
        array[row] = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    array.flush()


def ours(case: Case, folder: Path) -> None:
    """Do what the stage `prepare` does."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    packing = Packing(case.image_size, None, 0.1, 0.2, seed=0, skip_unreadable=False)
    pack(case.list_images(folder), out, packing, lambda done: None)
    get_reusable_executor().shutdown()


CASES = {
    **{
        f"JPEG 500 x 375 for {size} px": Case(
            2000,
            size,
            functools.partial(write_zip, kind="JPEG", height=375, width=500),
            lambda folder: image_archive(folder / "images.zip"),
            plain_zip,
            BAR,
        )
        for size in (96, 128)
    },
    "PNG 32 px": Case(
        10000,
        32,
        functools.partial(write_zip, kind="PNG", height=32, width=32),
        lambda folder: image_archive(folder / "images.zip"),
        plain_zip,
        None,
    ),
    # no bar: one compressed stream on one core takes most of the time, and is read once more to be checked
    "CIFAR-10's pickles": Case(60000, 32, write_cifar, cifar10, plain_cifar, None),
}
if REAL in os.environ:
    CASES["CIFAR-10 itself, 60,000 PNGs"] = Case(
        60000, 32, link_real, lambda folder: image_archive(folder / "images.zip"), plain_zip, None, whole=True
    )


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Return images per second, the ratio to the plain loop, and the peak memory of a process that prepares."""
    rows = []
    for name, case in CASES.items():
        num = case.num // 20 if quick and not case.whole else case.num
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            case.write(folder, num)
            side = 2 * case.image_size if case.image_size > 32 else case.image_size
            runs = {
                "ours": functools.partial(ours, case, folder),
                "plain": functools.partial(plain_loop, case, folder, side, num),
            }
            seconds = interleave(runs, 1 if quick else 5, torch.device("cpu"))
            for run, title in (("ours", "prepare"), ("plain", "plain loop on one core")):
                rows.append(spread(f"{name}: {title}", [num / value for value in seconds[run]], "images/s"))
            quotients = ratios(seconds["plain"], seconds["ours"])
            rows.append(spread(f"{name}: prepare over plain loop", quotients, "x", bar=case.bar))
            peak = in_new_process("benchmarks.prepare", name, folder)
            title = f"{name}: peak memory, workers included"
            if "error" in peak:
                rows.append(skipped(title, peak["error"]))
            else:
                rows.append(Row(title, peak["bytes"], unit="bytes", bar=MEMORY_BAR, at_most=True))
    return rows, "uint8"


def peak_of(work: Callable[[], None]) -> int:
    """Return the most memory that this process and its children held at once while `work` ran, shared pages once."""
    import psutil  # not on every machine: the row then says so

    done, peak, process = threading.Event(), 0, psutil.Process()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            total = 0
            for each in (process, *process.children(recursive=True)):
                try:
                    total += each.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


if __name__ == "__main__":
    print(json.dumps({"bytes": peak_of(functools.partial(ours, CASES[sys.argv[1]], Path(sys.argv[2])))}))
