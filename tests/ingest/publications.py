"""Small archives in the form that each dataset is published in: member names, codings, quirks.

`PUBLICATIONS[name](folder)` writes a dataset's archives and returns what they hold: Published. Pixels are noise: no two
images are alike. JPEGs are compared after Pillow's decoding, everything else exactly.
"""

import functools
import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.io
from known import BLOCKS, decoder_arguments
from PIL import Image
from samples import Files, encode, noise, write_archive

from headstart.ingest.binaries import EMNIST_CLASSES
from headstart.ingest.decoders import name_of
from headstart.ingest.flowers import FLOWERS

Pixels = list[tuple[str, str, np.ndarray]]  # split, class, (H, W) or (H, W, 3) uint8


@dataclass
class Published:
    """What a publication holds; a class with no images in it need not exist."""

    images: Pixels = field(default_factory=list)
    size: int = 32  # to prepare it at: the images' own where they have one

    def add(self, split: str, label: str, pixels: np.ndarray) -> None:
        self.images.append((split, label, pixels))


class Maker:
    """Images of differing sizes, each with its own noise."""

    def __init__(self) -> None:
        self.count = 0
        self.published = Published()

    def image(self, split: str, label: str, kind: str = "JPEG", size: tuple[int, int] | None = None, crop: int = 0):
        """Encode an image, remember what a reader will see of it."""
        self.count += 1
        height, width = size or (36 + self.count % 5 + crop, 40 + self.count % 7)
        data = encode(noise(height, width, self.count, 3), kind)
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        self.published.add(split, label, pixels[: height - crop])
        return data

    def stack(self, split: str, labels: list[str], size: int, *channels: int) -> np.ndarray:
        """Draw (n, size, size, ...) noise for images of these classes."""
        self.count += 1
        images = np.random.default_rng(self.count).integers(0, 256, (len(labels), size, size, *channels), np.uint8)
        for label, pixels in zip(labels, images, strict=True):
            self.published.add(split, label, pixels)
        self.published.size = size
        return images


def numbers(classes: list[str], num: int = 5) -> list[int]:
    """Return `num` labels of every class, shuffled."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(classes)), num)).tolist()


# ---- folders


def imagenette(folder: Path) -> Published:
    make = Maker()
    files: Files = {"imagenette2": None, "imagenette2/noisy_imagenette.csv": b"path,noisy_labels_0\n"}
    for wnid, name in (("n01440764", "tench"), ("n03888257", "parachute")):
        for index in range(4):
            files[f"imagenette2/train/{wnid}/{wnid}_{index}.JPEG"] = make.image("train", name)
        files[f"imagenette2/val/{wnid}/ILSVRC2012_val_{index}{wnid}.JPEG"] = make.image("test", name)
    write_archive(folder / "x.tar.gz", files).rename(folder / "imagenette2.tgz")
    return make.published


def aircraft(folder: Path, level: str) -> Published:
    make, base = Maker(), "fgvc-aircraft-2013b/data"
    names = {
        "manufacturer": {"A": "Boeing", "B": "McDonnell Douglas"},
        "family": {"A": "Boeing 737", "B": "MD-80"},
        "variant": {"A": "737-300", "B": "MD-87"},
    }
    files: Files = {f"{base}/images_box.txt": b"0 1 2 3 4\n", "fgvc-aircraft-2013b/vl_argparse.m": b"%\n"}
    lists = {(each, split): "" for each in names for split in ("train", "val", "test", "trainval")}
    for number, (split, letter) in enumerate(
        [("train", "A"), ("val", "A"), ("test", "A"), ("train", "B"), ("val", "B"), ("test", "B")] * 3
    ):
        image = f"{number:07d}"
        files[f"{base}/images/{image}.jpg"] = make.image(split, names[level][letter], crop=20)
        for each in names:
            lists[each, split] += f"{image} {names[each][letter]}\n"
    for each, file in (("manufacturer", "manufacturers"), ("family", "families"), ("variant", "variants")):
        files[f"{base}/{file}.txt"] = "".join(f"{name}\n" for name in names[each].values()).encode()
    files |= {f"{base}/images_{each}_{split}.txt": text.encode() for (each, split), text in lists.items()}
    write_archive(folder / "fgvc-aircraft-2013b.tar.gz", files)
    return make.published


def caltech101(folder: Path) -> Published:
    make, base = Maker(), "101_ObjectCategories"
    files: Files = {f"{base}/BACKGROUND_Google/image_0001.jpg": encode(noise(40, 40, 99, 3), "JPEG")}
    files[f"{base}/BACKGROUND_Google/tmp"] = b"a list"
    for label in ("Faces", "ant"):
        files |= {f"{base}/{label}/image_{index:04d}.jpg": make.image("train", label) for index in range(1, 6)}
    inner = write_archive(folder / "x.tar.gz", files)
    outer: Files = {
        "caltech-101/": None,
        "caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes(),
        "caltech-101/Annotations.tar": b"outlines",
        "__MACOSX/caltech-101/._Annotations.tar": b"mac",
    }
    write_archive(folder / "caltech-101.zip", {name.rstrip("/"): data for name, data in outer.items()})
    inner.unlink()
    return make.published


def caltech256(folder: Path) -> Published:
    make, base = Maker(), "256_ObjectCategories"
    files: Files = {f"{base}/198.spider/RENAME2": b"#!/bin/sh\n", f"{base}/056.dog/greg/vision309/056_0100.jpg": b"?"}
    for label in ("056.dog", "198.spider", "257.clutter"):
        prefix = f"{base}/{label}/{label[:3]}"
        files |= {f"{prefix}_{index:04d}.jpg": make.image("train", label) for index in range(1, 6)}
    write_archive(folder / "256_ObjectCategories.tar", files)
    return make.published


def dtd(folder: Path) -> Published:
    make = Maker()
    files: Files = {"dtd/imdb/imdb.mat": b"matlab", "dtd/images/banded/.directory": b"kde"}
    lists = dict.fromkeys(("train", "val", "test"), "")
    for number, split in enumerate([*lists] * 3):
        for label in ("banded", "zigzagged"):
            name = f"{label}/{label}_{number:04d}.jpg"
            files[f"dtd/images/{name}"] = make.image(split, label)
            lists[split] += f"{name}\n"
    for split, text in lists.items():
        files |= {f"dtd/labels/{split}1.txt": text.encode(), f"dtd/labels/{split}2.txt": b"other/x.jpg\n"}
    files["dtd/labels/labels_joint_anno.txt"] = b"banded/banded_0000.jpg banded lined\n"
    write_archive(folder / "x.tar.gz", files).rename(folder / "dtd-r1.0.1.tar.gz")
    return make.published


def country211(folder: Path) -> Published:
    make = Maker()
    files: Files = {}
    for split, ours, num in (("train", "train", 3), ("valid", "val", 1), ("test", "test", 2)):
        for label in ("AD", "ZW"):
            for index in range(num):
                files[f"country211/{split}/{label}/{split}{index}{label}.jpg"] = make.image(ours, label)
    write_archive(folder / "x.tar.gz", files).rename(folder / "country211.tgz")
    return make.published


def food101(folder: Path) -> Published:
    make = Maker()
    files: Files = {"food-101/README.txt": b"?", "food-101/meta/classes.txt": b"apple_pie\nwaffles\n"}
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for split, num in (("train", 4), ("test", 2)):
        for label in ("apple_pie", "waffles"):
            lists[split][label] = [f"{label}/{split}{index}" for index in range(num)]
            files |= {f"food-101/images/{name}.jpg": make.image(split, label) for name in lists[split][label]}
    files |= {f"food-101/meta/{split}.json": json.dumps(lists[split]).encode() for split in lists}
    write_archive(folder / "food-101.tar.gz", files)
    return make.published


def eurosat(folder: Path) -> Published:
    make = Maker()
    make.published.size = 64
    write_archive(
        folder / "EuroSAT.zip",
        {
            f"2750/{label}/{label}_{index}.jpg": make.image("train", label, size=(64, 64))
            for label in ("AnnualCrop", "SeaLake")
            for index in range(1, 6)
        },
    )
    return make.published


def gtsrb(folder: Path) -> Published:
    make = Maker()
    train: Files = {"GTSRB/Readme-Images.txt": b"?"}
    for label in ("00000", "00042"):
        train[f"GTSRB/Training/{label}/GT-{label}.csv"] = b"Filename;Width\n"
        train |= {f"GTSRB/Training/{label}/00000_{i:05d}.ppm": make.image("train", label, "PPM") for i in range(5)}
    table, test = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n", {}
    for index, label in enumerate(("00042", "00000", "00042")):
        test[f"GTSRB/Final_Test/Images/{index:05d}.ppm"] = make.image("test", label, "PPM")
        table += f"{index:05d}.ppm;53;54;6;5;48;49;{int(label)}\r\n"
    test["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = b"Filename;Width\n"
    write_archive(folder / "GTSRB-Training_fixed.zip", train)
    write_archive(folder / "GTSRB_Final_Test_Images.zip", test)
    write_archive(folder / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": table.encode()})
    return make.published


def pets(folder: Path) -> Published:
    make = Maker()
    images: Files = {"images/Abyssinian_100.mat": b"matlab", "images/Abyssinian_5.jpg": b"listed nowhere"}
    lists = {"trainval": "", "test": ""}
    for index in range(1, 6):
        for number, breed in ((1, "Abyssinian"), (2, "american_bulldog")):
            split = "test" if index == 1 else "trainval"
            # some of the published .jpg files are PNG and GIF inside
            images[f"images/{breed}_{index}0.jpg"] = make.image(
                split[:5].rstrip("v"), breed, "PNG" if index == 2 else "JPEG"
            )
            lists[split] += f"{breed}_{index}0 {number} {number} 1\n"
    notes: Files = {f"annotations/{name}.txt": text.encode() for name, text in lists.items()}
    notes |= {"annotations/trimaps/._Abyssinian_10.png": b"mac", "annotations/list.txt": b"#Image CLASS-ID\n"}
    write_archive(folder / "images.tar.gz", images)
    write_archive(folder / "annotations.tar.gz", notes)
    return make.published


def tiny_imagenet(folder: Path) -> Published:
    make, base = Maker(), "tiny-imagenet-200"
    make.published.size = 64
    files: Files = {f"{base}/test/images/test_0.JPEG": b"unlabelled", f"{base}/words.txt": b"n01443537\tgoldfish\n"}
    notes = ""
    for wnid in ("n01443537", "n12267677"):
        image = functools.partial(make.image, label=wnid, size=(64, 64))
        files |= {f"{base}/train/{wnid}/images/{wnid}_{i}.JPEG": image("train") for i in range(4)}
        files[f"{base}/train/{wnid}/{wnid}_boxes.txt"] = b"x"
        files[f"{base}/val/images/val_{wnid}.JPEG"] = image("test")
        notes += f"val_{wnid}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    files[f"{base}/val/val_annotations.txt"] = notes.encode()
    write_archive(folder / "tiny-imagenet-200.zip", files)
    return make.published


def flowers102(folder: Path) -> Published:
    make = Maker()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 103), 3)).astype(np.uint8)
    order, sets, files = np.argsort(labels, kind="stable") + 1, {}, {}
    for column, (name, split) in enumerate((("trnid", "train"), ("valid", "val"), ("tstid", "test"))):
        sets[name] = order[column::3].astype(np.uint16)[None]
        for number in sets[name][0].tolist():
            files[f"jpg/image_{number:05d}.jpg"] = make.image(split, FLOWERS[labels[number - 1] - 1])
    write_archive(folder / "x.tar.gz", files).rename(folder / "102flowers.tgz")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    scipy.io.savemat(folder / "setid.mat", sets)
    return make.published


# ---- arrays


def cifar(folder: Path, file: str, base: str, batches: dict[str, str], meta: str, key: str, names: str) -> Published:
    make = Maker()
    classes = ["airplane", "truck"] if key == "labels" else ["apple", "worm"]
    files: Files = {base: None, f"{base}/readme.html": b"?"}
    files[f"{base}/{meta}"] = pickle.dumps({names: classes, "num_cases_per_batch": 10000}, protocol=2)
    for batch, split in batches.items():
        found = numbers(classes, 4 if len(batches) == 2 else 1)
        images = make.stack(split, [classes[label] for label in found], 32, 3)
        content = {"batch_label": batch, key: found, "data": images.transpose(0, 3, 1, 2).reshape(-1, 3072)}
        files[f"{base}/{batch}"] = python2(content | {"filenames": [f"{i}.png" for i in range(len(found))]})
    write_archive(folder / file, files)
    return make.published


def python2(content: dict) -> bytes:
    """Pickle as Python 2 did, arrays as numpy 1 named them."""
    return pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + np.ascontiguousarray(array).tobytes(), mtime=0)


def mnist(folder: Path, classes: list[str]) -> Published:
    make = Maker()
    for split, prefix, num in (("train", "train", 4), ("test", "t10k", 1)):
        labels = numbers(classes, num)
        images = make.stack(split, [classes[label] for label in labels], 28)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(np.array(labels, np.uint8)))
    return make.published


def emnist(folder: Path, split: str) -> Published:
    make, classes = Maker(), EMNIST_CLASSES[split]
    files: Files = {f"gzip/emnist-{split}-mapping.txt": b"0 48\n"}
    for part, num in (("train", 4), ("test", 1)):
        labels = numbers(classes, num)
        images = make.stack(part, [classes[label] for label in labels], 28)
        files[f"gzip/emnist-{split}-{part}-images-idx3-ubyte.gz"] = idx(images.transpose(0, 2, 1))
        files[f"gzip/emnist-{split}-{part}-labels-idx1-ubyte.gz"] = idx(
            np.array(labels, np.uint8) + (split == "letters")
        )
    write_archive(folder / "gzip.zip", files)
    return make.published


def stl10(folder: Path, unlabelled: bool) -> Published:
    make, classes = Maker(), ["airplane", "bird"]
    files: Files = {"stl10_binary/class_names.txt": b"airplane\nbird\n", "stl10_binary/fold_indices.txt": b"0 1\n"}
    for split, num in (("test", 2), ("train", 5), ("unlabelled", 7)):
        labels = numbers(classes, num) if split != "unlabelled" else [-1] * num
        names = [classes[label] if label >= 0 else "" for label in labels]
        images = make.stack(split, names, 96, 3)
        name = "unlabeled" if split == "unlabelled" else split
        files[f"stl10_binary/{name}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
        if split != "unlabelled":
            files[f"stl10_binary/{name}_y.bin"] = (np.array(labels, np.uint8) + 1).tobytes()
    write_archive(folder / "stl10_binary.tar.gz", files)
    make.published.images = [image for image in make.published.images if unlabelled or image[0] != "unlabelled"]
    return make.published


def svhn(folder: Path) -> Published:
    make, classes = Maker(), list("0123456789")
    for split, num in (("train", 4), ("test", 1)):
        labels = numbers(classes, num)
        images = make.stack(split, [classes[label] for label in labels], 32, 3)
        found = np.array([[label or 10] for label in labels], np.uint8)
        content = {"X": images.transpose(1, 2, 3, 0), "y": found}
        scipy.io.savemat(folder / f"{split}_32x32.mat", content, do_compression=True)
    return make.published


def medmnist(folder: Path, name: str) -> Published:
    make, row = Maker(), decoder_arguments(name)
    arrays = {}
    colour = (3,) if name in ("pathmnist", "bloodmnist", "dermamnist", "retinamnist") else ()
    for split, num in (("train", 3), ("val", 1), ("test", 1)):
        labels = numbers(row["classes"], num)
        arrays[f"{split}_images"] = make.stack(split, [row["classes"][label] for label in labels], 28, *colour)
        arrays[f"{split}_labels"] = np.array(labels, np.uint8)[:, None]
    np.savez_compressed(folder / row["file"], **arrays)
    return make.published


def cifar10(folder: Path) -> Published:
    batches = {f"data_batch_{number}": "train" for number in range(1, 6)} | {"test_batch": "test"}
    return cifar(
        folder, "cifar-10-python.tar.gz", "cifar-10-batches-py", batches, "batches.meta", "labels", "label_names"
    )


def cifar100(folder: Path) -> Published:
    batches = {"train": "train", "test": "test"}
    file, base = "cifar-100-python.tar.gz", "cifar-100-python"
    return cifar(folder, file, base, batches, "meta", "fine_labels", "fine_label_names")


MEDICAL = [name for name, block in BLOCKS.items() if name_of(block.decoder) == "medmnist"]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PUBLICATIONS: dict[str, Callable[[Path], Published]] = {
    "imagenette": imagenette,
    "stl10": functools.partial(stl10, unlabelled=False),
    "stl10_unlabelled": functools.partial(stl10, unlabelled=True),
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fgvc_aircraft": functools.partial(aircraft, level="manufacturer"),
    "fgvc_aircraft_family": functools.partial(aircraft, level="family"),
    "fgvc_aircraft_variant": functools.partial(aircraft, level="variant"),
    "caltech101": caltech101,
    "caltech256": caltech256,
    "mnist": functools.partial(mnist, classes=list("0123456789")),
    "fashion_mnist": functools.partial(mnist, classes=FASHION),
    **{f"emnist_{split}": functools.partial(emnist, split=split) for split in EMNIST_CLASSES},
    "dtd": dtd,
    "country211": country211,
    "food101": food101,
    "eurosat": eurosat,
    "flowers102": flowers102,
    "gtsrb": gtsrb,
    "oxford_iiit_pet": pets,
    "svhn": svhn,
    "tiny_imagenet": tiny_imagenet,
    **{name: functools.partial(medmnist, name=name) for name in MEDICAL},
}


def rewrite_zip(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a zip anew, each member as `change` says; None: without it."""
    with zipfile.ZipFile(path) as archive:
        files = {name: change(name, archive.read(name)) for name in archive.namelist() if name[-1] != "/"}
    write_archive(path, {name: data for name, data in files.items() if data is not None})
