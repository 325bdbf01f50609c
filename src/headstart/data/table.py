"""The kinds of dataset: how each comes in, how it is read, what is known about it.

To add one: a function that lists its images (formats.py tells), a row of KINDS, a block under `data` in params.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headstart.data import binaries, catalogue, folders, matlab, pickles
from headstart.data.catalogue import About
from headstart.data.download import Progress, copy_archive, pack_folder, record_digits
from headstart.data.formats import Listing, digits, image_archive
from headstart.data.sources import Archive


@dataclass(frozen=True)
class Kind:
    """How a dataset comes in and how it is read.

    list_images(folder): what is in the folder that `download` left. archives: what `download` fetches into it; or else
    fetch(path, folder, on_progress): leave the source there, needs_path: "file" or "folder" where fetch wants
    `data.<name>.path` to name one, None where it takes no path. about: None for a user's own images.
    """

    list_images: Callable[[Path], Listing]
    archives: tuple[Archive, ...] = ()
    about: About | None = None
    fetch: Callable[[Path | None, Path, Progress], None] | None = None
    needs_path: str | None = None


def _about(
    title: str, classes: int, num_images: dict[str, int], size: str, licence: str, citation: str, homepage: str
) -> About:
    return About(title, classes, num_images, size, licence, citation, f"https://{homepage}")


def _train_test(train: int, test: int) -> dict[str, int]:
    return {"train": train, "test": test}


def _train_val_test(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


_AIRCRAFT_COUNTS = _train_val_test(3334, 3333, 3333)
_VGG = "www.robots.ox.ac.uk/~vgg/data"
_STL10 = ("not stated", "Coates, Lee and Ng, AISTATS 2011", "cs.stanford.edu/~acoates/stl10")
_CIFAR = ("not stated", "Krizhevsky, technical report 2009", "www.cs.toronto.edu/~kriz/cifar.html")
_AIRCRAFT = ("non-commercial research", "Maji et al., arXiv:1306.5151", f"{_VGG}/fgvc-aircraft")
_EMNIST = ("not stated", "Cohen et al., arXiv:1702.05373", "www.nist.gov/itl/products-and-services/emnist-dataset")
_AIRCRAFT_CLASSES = {"manufacturer": 30, "family": 70, "variant": 100}
_EMNIST_COUNTS = {
    "byclass": (697932, 116323),
    "bymerge": (697932, 116323),
    "balanced": (112800, 18800),
    "letters": (124800, 20800),
    "digits": (240000, 40000),
    "mnist": (60000, 10000),
}


def _aircraft(level: str) -> Kind:
    title = f"FGVC-Aircraft, {level}"
    about = _about(title, _AIRCRAFT_CLASSES[level], _AIRCRAFT_COUNTS, "775 to 1,600 wide", *_AIRCRAFT)
    return Kind(partial(folders.aircraft, level=level), catalogue.AIRCRAFT, about)


def _emnist(split: str) -> Kind:
    num_classes = len(binaries.EMNIST_CLASSES[split])
    about = _about(f"EMNIST, {split}", num_classes, _train_test(*_EMNIST_COUNTS[split]), "28, grey", *_EMNIST)
    return Kind(partial(binaries.emnist, split=split), catalogue.EMNIST, about)


def _medical(row: catalogue.Medical) -> Kind:
    return Kind(partial(binaries.medmnist, file=row.file, classes=row.classes), row.archives, row.about)


KINDS = {
    "digits": Kind(
        digits,
        about=_about(
            *("digits", 10, {"train": 1797}, "8, grey", "CC BY 4.0", "Alpaydin and Kaynak, UCI 1998"),
            "archive.ics.uci.edu/dataset/80",
        ),
        fetch=record_digits,
    ),
    "image_folder": Kind(image_archive, fetch=pack_folder, needs_path="folder"),
    "image_archive": Kind(image_archive, fetch=copy_archive, needs_path="file"),
    # ---- the paper's five
    "imagenette": Kind(
        folders.imagenette,
        catalogue.IMAGENETTE,
        _about(
            *("Imagenette", 10, _train_test(9469, 3925), "varied", "Apache-2.0"),
            *("Howard, fast.ai 2019", "github.com/fastai/imagenette"),
        ),
    ),
    "stl10": Kind(
        binaries.stl10, catalogue.STL10, _about("STL-10, labelled", 10, _train_test(5000, 8000), "96", *_STL10)
    ),
    # SimCLR and the autoencoder train on the unlabelled images, probes as above
    "stl10_unlabelled": Kind(
        partial(binaries.stl10, unlabelled=True),
        catalogue.STL10,
        _about("STL-10, all", 10, _train_test(5000, 8000) | {"unlabelled": 100000}, "96", *_STL10),
    ),
    "cifar10": Kind(
        pickles.cifar10, catalogue.CIFAR10, _about("CIFAR-10", 10, _train_test(50000, 10000), "32", *_CIFAR)
    ),
    "cifar100": Kind(
        pickles.cifar100, catalogue.CIFAR100, _about("CIFAR-100", 100, _train_test(50000, 10000), "32", *_CIFAR)
    ),
    "fgvc_aircraft": _aircraft("manufacturer"),
    "fgvc_aircraft_family": _aircraft("family"),
    "fgvc_aircraft_variant": _aircraft("variant"),
    # ---- others that the authors' code knows
    "caltech101": Kind(
        # without BACKGROUND_Google, which is no class
        partial(
            folders.by_folder,
            file="caltech-101.zip",
            pattern=r"101_ObjectCategories/(?P<label>(?!BACKGROUND_Google/)[^/]+)/image_\d+\.jpg",
            inner="caltech-101/101_ObjectCategories.tar.gz",
        ),
        catalogue.CALTECH101,
        _about(
            *(
                "Caltech-101",
                101,
                {"train": 8677},
                "about 300 x 200",
                "CC BY 4.0",
                "Fei-Fei, Fergus and Perona, CVPRW 2004",
            ),
            "data.caltech.edu/records/mzrjq-6wc02",
        ),
    ),
    "caltech256": Kind(
        # with 257.clutter, as torchvision; without 198.spider/RENAME2 and the folder 056.dog/greg, left by mistake
        partial(
            folders.by_folder,
            file="256_ObjectCategories.tar",
            pattern=r"256_ObjectCategories/(?P<label>\d{3}\.[^/]+)/\d+_\d+\.jpg",
        ),
        catalogue.CALTECH256,
        _about(
            *("Caltech-256", 257, {"train": 30607}, "varied", "CC BY 4.0"),
            *("Griffin, Holub and Perona, CNS-TR-2007-001", "data.caltech.edu/records/nyy15-4j048"),
        ),
    ),
    "mnist": Kind(
        binaries.mnist,
        catalogue.MNIST,
        _about(
            *("MNIST", 10, _train_test(60000, 10000), "28, grey", "not stated", "LeCun et al., Proc. IEEE 1998"),
            "yann.lecun.com/exdb/mnist",
        ),
    ),
    "fashion_mnist": Kind(
        partial(binaries.mnist, classes=binaries.FASHION_CLASSES),
        catalogue.FASHION_MNIST,
        _about(
            *("Fashion-MNIST", 10, _train_test(60000, 10000), "28, grey", "MIT"),
            *("Xiao, Rasul and Vollgraf, arXiv:1708.07747", "github.com/zalandoresearch/fashion-mnist"),
        ),
    ),
    **{f"emnist_{split}": _emnist(split) for split in binaries.EMNIST_CLASSES},
    "dtd": Kind(
        folders.dtd,
        catalogue.DTD,
        _about(
            *("DTD", 47, _train_val_test(1880, 1880, 1880), "about 300 to 640", "research", "Cimpoi et al., CVPR 2014"),
            f"{_VGG}/dtd",
        ),
    ),
    "country211": Kind(
        partial(
            folders.by_folder,
            file="country211.tgz",
            pattern=r"country211/(?P<split>train|valid|test)/(?P<label>[^/]+)/[^/]+\.jpg",
            splits={"train": "train", "valid": "val", "test": "test"},
        ),
        catalogue.COUNTRY211,
        _about(
            *("Country211", 211, _train_val_test(31650, 10550, 21100), "varied", "each image its own CC licence"),
            *("Radford et al., ICML 2021", "github.com/openai/CLIP/blob/main/data/country211.md"),
        ),
    ),
    "food101": Kind(
        folders.food101,
        catalogue.FOOD101,
        _about(
            *("Food-101", 101, _train_test(75750, 25250), "up to 512", "scientific fair use"),
            *("Bossard, Guillaumin and Van Gool, ECCV 2014", "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"),
        ),
    ),
    "eurosat": Kind(
        partial(folders.by_folder, file="EuroSAT.zip", pattern=r"2750/(?P<label>[^/]+)/[^/]+\.jpg"),
        catalogue.EUROSAT,
        _about(
            *("EuroSAT, RGB", 10, {"train": 27000}, "64", "MIT", "Helber et al., JSTARS 2019"),
            "github.com/phelber/EuroSAT",
        ),
    ),
    "flowers102": Kind(
        matlab.flowers102,
        catalogue.FLOWERS102,
        _about(
            *("Flowers-102", 102, _train_val_test(1020, 1020, 6149), "500 and more", "not stated"),
            *("Nilsback and Zisserman, ICVGIP 2008", f"{_VGG}/flowers/102"),
        ),
    ),
    "gtsrb": Kind(
        folders.gtsrb,
        catalogue.GTSRB,
        _about(
            *("GTSRB", 43, _train_test(26640, 12630), "15 to 250", "not stated"),
            *("Stallkamp et al., Neural Networks 2012", "benchmark.ini.rub.de"),
        ),
    ),
    "oxford_iiit_pet": Kind(
        folders.pets,
        catalogue.PETS,
        _about(
            *("Oxford-IIIT Pet", 37, _train_test(3680, 3669), "varied", "CC BY-SA 4.0", "Parkhi et al., CVPR 2012"),
            f"{_VGG}/pets",
        ),
    ),
    # ---- for domain shift
    "svhn": Kind(
        matlab.svhn,
        catalogue.SVHN,
        _about(
            *("SVHN, cropped", 10, _train_test(73257, 26032), "32", "non-commercial"),
            *("Netzer et al., NIPS workshop 2011", "ufldl.stanford.edu/housenumbers"),
        ),
    ),
    "tiny_imagenet": Kind(
        folders.tiny_imagenet,
        catalogue.TINY_IMAGENET,
        _about(
            *("Tiny ImageNet", 200, _train_test(100000, 10000), "64", "not stated"),
            *("Le and Yang, CS231n report 2015", "cs231n.stanford.edu"),
        ),
    ),
    **{name: _medical(row) for name, row in catalogue.MEDICAL.items()},
}
