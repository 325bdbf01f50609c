"""Published archives that are damaged, incomplete or hostile: one line that names the file, never a traceback."""

import gzip
import io
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from known import archives, listing
from publications import PUBLICATIONS, idx, python2, rewrite_zip
from samples import write_archive

from headstart.errors import UserError
from headstart.ingest.archives import list_members
from headstart.ingest.pack import Packing, pack
from headstart.ingest.pickles import unpickle


def prepare(kind: str, folder: Path) -> dict:
    (folder / "out").mkdir()
    return pack(listing(kind, folder), folder / "out", Packing(32, None, 0.2, 0.2, 0, False), lambda done: None)


def refused(kind: str, folder: Path, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        prepare(kind, folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    for part in parts:
        assert part in message


def rewrite_tar(path: Path, change) -> None:
    """Write a tar.gz anew, each member as `change(name, data)` says; None: without it."""
    with tarfile.open(path) as tar:
        files = {info.name: change(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()}
    new = path.with_name("new.tar.gz")
    write_archive(new, {name: data for name, data in files.items() if data is not None}).rename(path)


def replaced(ending: str, by: bytes | None):
    return lambda name, data: by if name.endswith(ending) else data


# ---- every file of every family, cut


@pytest.mark.parametrize(
    "kind",
    [
        *("imagenette", "caltech101", "caltech256", "eurosat", "gtsrb", "flowers102", "oxford_iiit_pet", "cifar10"),
        *("mnist", "emnist_digits", "stl10_unlabelled", "svhn", "pneumoniamnist"),
    ],
)
def test_cut_files_are_refused_by_name(tmp_path, kind):
    PUBLICATIONS[kind](tmp_path)
    for archive in archives(kind):
        path = tmp_path / archive.file
        whole = path.read_bytes()
        for share in (0.0, 0.3, 0.6, 0.95):
            path.write_bytes(whole[: int(share * len(whole.rstrip(b"\0")))])
            with pytest.raises(UserError) as error:
                prepare(kind, tmp_path)
            assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
            for file in (tmp_path / "out").iterdir():
                file.unlink()
            (tmp_path / "out").rmdir()
        path.write_bytes(whole)
    prepare(kind, tmp_path)


@pytest.mark.parametrize("kind", ["cifar10", "mnist", "svhn", "dtd", "pathmnist", "eurosat"])
def test_files_that_are_not_there(tmp_path, kind):
    refused(kind, tmp_path, str(tmp_path), "o such file")


# ---- lists and labels


@pytest.mark.parametrize(
    ("kind", "member", "content", "parts"),
    [
        ("dtd", "labels/val1.txt", None, ["lacks 'dtd/labels/val1.txt'"]),
        ("dtd", "labels/val1.txt", b"no_slash\n", ["'no_slash' must have 2 fields"]),
        ("dtd", "labels/val1.txt", b"banded/gone.jpg\n", ["lacks 'dtd/images/banded/gone.jpg'", "val list"]),
        ("dtd", "labels/val1.txt", b"\xff\xfe\n", ["is no text"]),
        ("dtd", "labels/val1.txt", b"../../etc/passwd\n", ["lacks"]),
        ("fgvc_aircraft", "manufacturers.txt", None, ["lacks 'fgvc-aircraft-2013b/data/manufacturers.txt'"]),
        ("fgvc_aircraft", "manufacturers.txt", b"Boeing\n", ["class 'McDonnell Douglas', none of 1 classes"]),
        ("fgvc_aircraft", "images_manufacturer_test.txt", b"0000001\n", ["'0000001' must have 2 fields"]),
        ("fgvc_aircraft", "0000002.jpg", None, ["lacks", "0000002.jpg"]),
        ("food101", "train.json", b"[1, 2]", ["no lists of images by class"]),
        ("food101", "train.json", b"{", ["no lists of images by class"]),
        ("food101", "train.json", b"{}", ["has 0 usable train images"]),
        ("oxford_iiit_pet", "trainval.txt", b"Abyssinian_10 x 1 1\n", ["classes must be numbers"]),
        ("oxford_iiit_pet", "trainval.txt", b"a_10 1 1 1\nb_10 1 1 1\n", ["'b_10' has class 1, as 'a' has"]),
        ("country211", ".jpg", None, ["holds no train images"]),
    ],
)
def test_lists_that_do_not_fit(tmp_path, kind, member, content, parts):
    PUBLICATIONS[kind](tmp_path)
    for archive in archives(kind):
        rewrite_tar(tmp_path / archive.file, replaced(member, content))
    refused(kind, tmp_path, *parts)


@pytest.mark.parametrize(
    ("kind", "file", "member", "content", "parts"),
    [
        ("gtsrb", 2, "GT-final_test.csv", b"Filename,ClassId\n1.ppm,2\n", ["columns Filename and ClassId"]),
        ("gtsrb", 2, "GT-final_test.csv", b"Filename;ClassId\n00000.ppm;7\n", ["class '00007', none of 2 classes"]),
        ("gtsrb", 2, "GT-final_test.csv", None, ["lacks 'GT-final_test.csv'"]),
        ("tiny_imagenet", 0, "val_annotations.txt", b"val_0.JPEG n01\n", ["must have 3 fields"]),
        (
            "emnist_letters",
            0,
            "train-labels-idx1-ubyte.gz",
            idx(np.array([0, 1], np.uint8)),
            ["label -1, allowed: 0 to 25"],
        ),
        ("emnist_digits", 0, "test-images-idx3-ubyte.gz", b"\x1f\x8b\x08 no gzip", ["damaged or truncated"]),
        ("emnist_mnist", 0, "train-labels-idx1-ubyte.gz", None, ["lacks 'gzip/emnist-mnist-train-labels"]),
    ],
)
def test_members_of_zips_that_do_not_fit(tmp_path, kind, file, member, content, parts):
    PUBLICATIONS[kind](tmp_path)
    rewrite_zip(tmp_path / archives(kind)[file].file, replaced(member, content))
    refused(kind, tmp_path, *parts)


def test_a_list_that_names_an_image_twice(tmp_path):
    PUBLICATIONS["dtd"](tmp_path)
    rewrite_tar(tmp_path / "dtd-r1.0.1.tar.gz", lambda name, data: data * 2 if name.endswith("train1.txt") else data)
    refused("dtd", tmp_path, "a list names an image twice")


def test_links_in_a_published_archive_are_passed_over_and_never_followed(tmp_path):
    PUBLICATIONS["dtd"](tmp_path)
    path = tmp_path / "dtd-r1.0.1.tar.gz"
    with gzip.open(path) as file:
        content = file.read()
    buffer = io.BytesIO(content)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        info = tarfile.TarInfo("dtd/images/banded/link.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    path.write_bytes(gzip.compress(buffer.getvalue()))
    assert prepare("dtd", tmp_path)["num_images"] == {"train": 6, "val": 6, "test": 6}
    with pytest.raises(UserError, match="is a link or a device"):
        list_members(path)


# ---- pickles


class Evil:
    def __reduce__(self):
        return subprocess.run, (["touch", "/tmp/headstart-was-here"],)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"data": Evil()}, 2),
        pickle.dumps({"data": np.array([Evil()], dtype=object)}, 2),
        b"cposix\nsystem\n(S'touch /tmp/headstart-was-here'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        pickle.dumps([1, 2]),
        b"",
        b"\x80\x02}q",
    ],
    ids=["reduce", "in an array of objects", "system", "eval", "dotted", "no dictionary", "empty", "cut"],
)
def test_pickles_that_are_more_than_arrays(tmp_path, content):
    with pytest.raises(UserError, match=r"^x: (not a pickle of arrays alone|must hold a dictionary)") as error:
        unpickle("x", content)
    assert "\n" not in str(error.value)
    assert not Path("/tmp/headstart-was-here").exists()
    PUBLICATIONS["cifar100"](tmp_path)
    rewrite_tar(tmp_path / "cifar-100-python.tar.gz", replaced("/test", content))
    refused("cifar100", tmp_path, "cifar-100-python/test: ")


@pytest.mark.parametrize("protocol", range(5))
def test_pickled_arrays_of_every_protocol(protocol):
    array = np.arange(7, dtype=np.uint8)
    assert (unpickle("x", pickle.dumps({"data": array}, protocol))["data"] == array).all()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"fine_labels": [0] * 7 + [2]}, "label 2, allowed: 0 to 1"),
        ({"fine_labels": [0, 1]}, "has 2 labels but not as many images"),
        ({"fine_labels": [0, 1] * 20}, "has 40 labels but not as many images"),
        ({"fine_labels": "abc"}, "must be a list of numbers"),
        ({"data": np.zeros((8, 3072))}, "must be (n, 3072) bytes"),
        ({"data": [1, 2]}, "must be (n, 3072) bytes"),
    ],
)
def test_batches_that_do_not_fit(tmp_path, changes, part):
    PUBLICATIONS["cifar100"](tmp_path)

    def change(name: str, data: bytes) -> bytes:
        return python2(pickle.loads(data, encoding="latin1") | changes) if name.endswith("/test") else data

    rewrite_tar(tmp_path / "cifar-100-python.tar.gz", change)
    refused("cifar100", tmp_path, part)


# ---- IDX, STL-10, .mat, .npz


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("train-labels-idx1-ubyte.gz", idx(np.full(40, 10, np.uint8)), "label 10, allowed: 0 to 9"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros((40, 1), np.uint8)), "no IDX file of bytes in 1 dimensions"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"), "shorter than its header says"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x01ab"), "longer than its header says"),
        ("train-labels-idx1-ubyte.gz", b"<html>404</html>", "Not a gzipped file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "no IDX file"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((39, 28, 28), np.uint8)), "has 40 labels but not as many images"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((41, 28, 28), np.uint8)), "has 40 labels but not as many images"),
    ],
)
def test_idx_files_that_do_not_fit(tmp_path, file, content, part):
    PUBLICATIONS["mnist"](tmp_path)
    (tmp_path / file).write_bytes(content)
    refused("mnist", tmp_path, part)


@pytest.mark.parametrize(
    ("member", "content", "part"),
    [
        ("train_y.bin", b"\0" * 10, "label -1, allowed: 0 to 1"),
        ("train_y.bin", b"\3" * 10, "label 2, allowed: 0 to 1"),
        ("train_y.bin", None, "lacks 'stl10_binary/train_y.bin'"),
        ("train_X.bin", None, "lacks 'stl10_binary/train_X.bin'"),
        ("test_X.bin", bytes(96 * 96 * 3 * 4 - 1), "ends within an image"),
        ("unlabeled_X.bin", None, "lacks 'stl10_binary/unlabeled_X.bin'"),
    ],
)
def test_stl10_binaries_that_do_not_fit(tmp_path, member, content, part):
    PUBLICATIONS["stl10_unlabelled"](tmp_path)
    rewrite_tar(tmp_path / "stl10_binary.tar.gz", replaced(member, content))
    refused("stl10_unlabelled", tmp_path, part)


@pytest.mark.parametrize(
    ("kind", "file", "content", "part"),
    [
        ("svhn", "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [11]])}, "label 11"),
        ("svhn", "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [0]])}, "1 to 10"),
        ("svhn", "test_32x32.mat", {"X": np.zeros((32, 32, 3, 10)), "y": np.arange(1, 11)}, "X must be"),
        ("svhn", "test_32x32.mat", {"y": np.arange(1, 11)}, "lacks X"),
        ("svhn", "test_32x32.mat", {"y": np.array([[1.5], [2]])}, "y must be integers"),
        ("flowers102", "setid.mat", {"trnid": [1], "valid": [2], "tstid": [999]}, "tstid: image 999"),
        ("flowers102", "setid.mat", {"trnid": [1], "valid": [2]}, "lacks tstid"),
        ("flowers102", "imagelabels.mat", {"labels": np.full(306, 103)}, "label 103, allowed: 1 to 102"),
    ],
)
def test_matlab_files_that_do_not_fit(tmp_path, kind, file, content, part):
    PUBLICATIONS[kind](tmp_path)
    scipy.io.savemat(tmp_path / file, content)
    refused(kind, tmp_path, part)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"val_labels": np.array([Evil()], dtype=object)}, "damaged or truncated"),
        ({"val_images": np.array([Evil()] * 2, dtype=object)}, "damaged or truncated"),
        ({"val_labels": np.array([[9], [0]])}, "label 9, allowed: 0 to 1"),
        ({"val_labels": np.array([[0, 1], [1, 0]])}, "one integer per image"),
        ({"val_labels": None}, "lacks val_labels"),
        ({"val_images": np.zeros((2, 28, 28, 4), np.uint8)}, "val_images must be"),
        ({"val_images": np.zeros((3, 28, 28), np.uint8)}, "has 2 labels but not as many images"),
    ],
)
def test_npz_files_that_do_not_fit(tmp_path, changes, part):
    PUBLICATIONS["pneumoniamnist"](tmp_path)
    with np.load(tmp_path / "pneumoniamnist.npz") as arrays:
        content = {name: array for name, array in ({**arrays} | changes).items() if array is not None}
    np.savez(tmp_path / "pneumoniamnist.npz", **content)
    refused("pneumoniamnist", tmp_path, part)
    assert not Path("/tmp/headstart-was-here").exists()


def test_a_damaged_image_of_a_published_zip_is_named(tmp_path):
    PUBLICATIONS["eurosat"](tmp_path)
    path = tmp_path / "EuroSAT.zip"
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("2750/SeaLake/SeaLake_2.jpg")
    raw = bytearray(path.read_bytes())
    raw[entry.header_offset + 30 + len(entry.filename) + 60] ^= 0xFF
    path.write_bytes(raw)
    refused("eurosat", tmp_path, "1 unreadable: 2750/SeaLake/SeaLake_2.jpg")
