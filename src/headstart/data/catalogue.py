"""What is published where: the archives of every known dataset, and what its page says about it.

Addresses and hashes: torchvision.datasets (0.29), MedMNIST's info.py (3.0.2), for Aircraft and Tiny ImageNet public
loaders. Sizes: tensorflow-datasets' url_checksums; where it has not this very file, the lengths that servers gave in
public logs of these addresses. What table.py says of each: its homepage, README or record, and where these are silent
tensorflow-datasets' catalogue and Hugging Face's cards and viewer. None and "not stated" are where nothing was found.
Licences are what a dataset's own page or repository states, not advice.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from headstart.data.sources import Archive


@dataclass(frozen=True)
class About:
    """What is known of a dataset without having it.

    num_images: by split as published; image_size: pixels, in words; the other fields: as its page or paper states them.
    """

    title: str
    classes: int
    num_images: dict[str, int] = field(hash=False)
    image_size: str
    licence: str
    citation: str
    homepage: str


# ---- the paper's five

IMAGENETTE = (
    Archive(
        "imagenette2.tgz",
        ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",),
        "md5:fe2fc210e6bb7c5664d602c3cd71e612",
        num_bytes=1556914727,
    ),
)
STL10 = (
    Archive(
        "stl10_binary.tar.gz",
        ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
        "md5:91f7769df0f17e558f3565bffb0c7dfb",
        num_bytes=2640397119,
    ),
)
CIFAR10 = (
    Archive(
        "cifar-10-python.tar.gz",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://cave.cs.toronto.edu/kriz/cifar-10-python.tar.gz",  # where the first redirects to
        ),
        "md5:c58f30108f718f92721af3b95e74349a",
        num_bytes=170498071,
    ),
)
CIFAR100 = (
    Archive(
        "cifar-100-python.tar.gz",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://cave.cs.toronto.edu/kriz/cifar-100-python.tar.gz",
        ),
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        num_bytes=169001437,
    ),
)
AIRCRAFT = (
    # torchvision has no hash for it; this md5 is google-deepmind's and R torchvision's; its README states 2.75 GB
    Archive(
        "fgvc-aircraft-2013b.tar.gz",
        ("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
        "md5:d4acdd33327262359767eeaa97a4f732",
        num_bytes=2753340328,
    ),
)

# ---- others that the authors' code lists

CALTECH101 = (
    Archive(
        "caltech-101.zip",
        ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
        "md5:3138e1922a9193bfa496528edbbc45d0",
        num_bytes=137414764,
    ),
)
CALTECH256 = (
    Archive(
        "256_ObjectCategories.tar",
        ("https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",),
        "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
        num_bytes=1183006720,
    ),
)


def _idx(bases: tuple[str, ...], hashes: dict[str, tuple[str, int, tuple[str, ...]]]) -> tuple[Archive, ...]:
    return tuple(
        Archive(file, tuple(base + file for base in bases), f"md5:{md5}", also, num_bytes)
        for file, (md5, num_bytes, also) in hashes.items()
    )


MNIST = _idx(
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    {
        "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422, ()),
        "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 28881, ()),
        "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 1648877, ()),
        "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 4542, ()),
    },
)
# The second hashes are those of Debian's package dataset-fashion-mnist 0.0~git20200523.55506a9-1, which took name and
# time out of the gzip headers. With both put back (2017-08-31, 10:50:06 UTC for train, 10:50:27 for t10k) all four
# files have upstream's md5: tests/data/test_fashion.py does it where the package is installed.
FASHION_MNIST = _idx(
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte.gz": (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            26421880,
            ("sha256:b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",),
        ),
        "train-labels-idx1-ubyte.gz": (
            "25c81989df183df01b3e8a0aad5dffbe",
            29515,
            ("sha256:0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",),
        ),
        "t10k-images-idx3-ubyte.gz": (
            "bef4ecab320f06d8554ea6380940ec79",
            4422102,
            ("sha256:cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",),
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "bb300cfdad3c16e7a12a480ee83cd310",
            5148,
            ("sha256:8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",),
        ),
    },
)
EMNIST = (
    Archive(
        "gzip.zip",
        # www.itl.nist.gov, where it was at first, answers with a web page now
        ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
        "md5:58c8d27c78d21e728a6bc7b3cc06412e",
        num_bytes=561753746,
    ),
)
DTD = (
    Archive(
        "dtd-r1.0.1.tar.gz",
        ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
        "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
        num_bytes=625239812,
    ),
)
COUNTRY211 = (
    Archive(
        "country211.tgz",
        ("https://openaipublic.azureedge.net/clip/data/country211.tgz",),
        "md5:84988d7644798601126c29e9877aab6a",
    ),
)
FOOD101 = (
    Archive(
        "food-101.tar.gz",
        ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
        "md5:85eeb15f3717b99a5da872d97d918f87",
        num_bytes=4996278331,
    ),
)
EUROSAT = (
    Archive(
        "EuroSAT.zip",
        (
            "https://madm.dfki.de/files/sentinel/EuroSAT.zip",
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        ),
        "md5:c8fa014336c82ac7804f0398fcb19387",
        num_bytes=94280567,
    ),
)
FLOWERS102 = tuple(
    Archive(file, (f"https://www.robots.ox.ac.uk/~vgg/data/flowers/102/{file}",), f"md5:{md5}", num_bytes=num_bytes)
    for file, md5, num_bytes in (
        ("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", 344862509),
        ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", 502),
        ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", 14989),
    )
)
# sizes: logs of wget from these addresses, and lists with the sha256 that torchvision's prototypes had
GTSRB = tuple(
    Archive(
        file,
        (f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{file}",),
        f"md5:{md5}",
        num_bytes=num_bytes,
    )
    for file, md5, num_bytes in (
        ("GTSRB-Training_fixed.zip", "513f3c79a4c5141765e10e952eaa2478", 187490228),
        ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185", 88978620),
        ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5", 99620),
    )
)
PETS = tuple(
    Archive(file, (f"https://www.robots.ox.ac.uk/~vgg/data/pets/data/{file}",), f"md5:{md5}", num_bytes=num_bytes)
    for file, md5, num_bytes in (
        ("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", 791918971),
        ("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", 19173078),
    )
)

# ---- for domain shift

SVHN = tuple(
    Archive(file, (f"http://ufldl.stanford.edu/housenumbers/{file}",), f"md5:{md5}", num_bytes=num_bytes)
    for file, md5, num_bytes in (
        ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182040794),
        ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64275384),
    )
)
TINY_IMAGENET = (
    # the page publishes no hash; this one and the size are those that many public loaders of it check
    Archive(
        "tiny-imagenet-200.zip",
        ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
        "md5:90528d7ca1a48142e341f4ef8d21d0de",
        num_bytes=248100043,
    ),
)


class Medical(NamedTuple):
    """A 2-D set of MedMNIST: md5 of its 28-px file, images by split, classes in order, licence."""

    title: str
    md5: str
    num_images: tuple[int, int, int]
    classes: tuple[str, ...]
    licence: str = "CC BY 4.0"

    @property
    def file(self) -> str:
        """Return the name of its one file."""
        return f"{self.title.lower()}.npz"

    @property
    def archives(self) -> tuple[Archive, ...]:
        """Return its one file on Zenodo, in the record that info.py names."""
        url = f"https://zenodo.org/records/10519652/files/{self.file}?download=1"
        return (Archive(self.file, (url,), f"md5:{self.md5}"),)

    @property
    def about(self) -> About:
        """Return what is known of it."""
        counts = dict(zip(("train", "val", "test"), self.num_images, strict=True))
        citation = "Yang et al., MedMNIST v2, Scientific Data 2023"
        return About(self.title, len(self.classes), counts, "28", self.licence, citation, "https://medmnist.github.io")


_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
# ChestMNIST, the twelfth 2-D set, has several labels an image: no linear probe of one class each
MEDICAL = {
    "pathmnist": Medical(
        "PathMNIST",
        "a8b06965200029087d5bd730944a56c1",
        (89996, 10004, 7180),
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
    ),
    "bloodmnist": Medical(
        "BloodMNIST",
        "7053d0359d879ad8a5505303e11de1dc",
        (11959, 1712, 3421),
        (
            *("basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
    ),
    "dermamnist": Medical(
        "DermaMNIST",
        "0744692d530f8e62ec473284d019b0c7",
        (7007, 1003, 2005),
        (
            *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma"),
            *("benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        ),
        "CC BY-NC 4.0",
    ),
    "octmnist": Medical(
        "OCTMNIST",
        "c68d92d5b585d8d81f7112f81e2d0842",
        (97477, 10832, 1000),
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": Medical(
        "PneumoniaMNIST", "28209eda62fecd6e6a2d98b1501bb15f", (4708, 524, 624), ("normal", "pneumonia")
    ),
    "retinamnist": Medical(
        "RetinaMNIST",
        "bd4c0672f1bba3e3a89f0e4e876791e4",
        (1080, 120, 400),
        ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    ),
    "breastmnist": Medical(
        "BreastMNIST", "750601b1f35ba3300ea97c75c52ff8f6", (546, 78, 156), ("malignant", "normal or benign")
    ),
    "tissuemnist": Medical(
        "TissueMNIST",
        "ebe78ee8b05294063de985d821c1c34b",
        (165466, 23640, 47280),
        (
            *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
            *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
            "thick ascending limb",
        ),
    ),
    "organamnist": Medical("OrganAMNIST", "68e3f8846a6bd62f0c9bf841c0d9eacc", (34561, 6491, 17778), _ORGANS),
    "organcmnist": Medical("OrganCMNIST", "b9ceb9546e10131b32923c5bbeaea2b1", (12975, 2392, 8216), _ORGANS),
    "organsmnist": Medical("OrganSMNIST", "9ab87b696fb54e2a387ebe992d6ed5f1", (13932, 2452, 8827), _ORGANS),
}
