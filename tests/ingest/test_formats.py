import bz2
import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from known import given
from samples import TAR_MODES, tree, write_archive
from sklearn.datasets import load_digits

from headstart.errors import UserError
from headstart.ingest.archives import Member, list_members, read_members
from headstart.ingest.formats import digits, image_archive
from headstart.ingest.tree import find_images

KINDS = ["zip", *TAR_MODES]


# ---- digits


def test_digits_are_scikit_learns():
    bunch = load_digits()
    listing = digits(Path("unused"))
    images = dict(listing.read())
    assert len(images) == len(listing.names) == 1797
    assert listing.classes == list("0123456789")
    assert (listing.labels == bunch.target).all()
    assert set(listing.splits) == {"train"}
    for index in (0, 5, 1796):
        levels = bunch.images[index]
        assert images[index].dtype == np.uint8
        assert (np.abs(images[index] - levels / 16 * 255) <= 0.5).all()
        assert images[index].max() == round(levels.max() / 16 * 255)


# ---- layout


def entries(*names: str) -> list[tuple[str, str, str]]:
    """Split, class and name of what is found among names; a trailing slash marks a folder."""
    members = [Member(name.rstrip("/"), name.endswith("/"), 1) for name in names]
    return [(entry.split, entry.label, entry.name) for entry in find_images("x.zip", members).entries]


def test_layout_with_all_splits():
    names = [f"{split}/{label}/1.png" for split in ("test", "train", "val") for label in "ab"]
    assert entries(*reversed(names)) == [(*name.split("/")[:2], name) for name in names]


@pytest.mark.parametrize("prefix", ["", "cats_and_dogs/"])
def test_layout_tolerates_what_people_and_systems_add(prefix):
    found = entries(
        *("README.md", "__MACOSX/train/a/._1.png", ".DS_Store", f"{prefix}train/a/.DS_Store", f"{prefix}LICENSE"),
        *(f"{prefix}train/", f"{prefix}train/a/", f"{prefix}train/a/Thumbs.db", f"{prefix}notes/plan.png"),
        *(f"{prefix}train/a/1.png", f"{prefix}train/a/deeper/2.png", f"{prefix}train/b/no_suffix"),
    )
    assert found == [
        ("train", "a", f"{prefix}train/a/1.png"),
        ("train", "a", f"{prefix}train/a/deeper/2.png"),
        ("train", "b", f"{prefix}train/b/no_suffix"),
    ]


@pytest.mark.parametrize("prefix", ["", "flowers/"])
def test_layout_of_class_folders_alone(prefix):
    assert entries(f"{prefix}rose/1.jpg", f"{prefix}aster/1.jpg") == [
        ("train", "aster", f"{prefix}aster/1.jpg"),
        ("train", "rose", f"{prefix}rose/1.jpg"),
    ]


def test_val_without_test_is_the_test_split():
    found = entries("train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")
    assert [split for split, _, _ in found] == ["test", "test", "train", "train"]


def test_split_folders_in_capitals():
    assert [split for split, _, _ in entries("Train/a/1.png", "Train/b/1.png")] == ["train", "train"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "train/b/1.png", "train/c/"], "x.zip: class folder 'train/c/' is empty"),
        (["a/1.png", "b/1.png", "c/"], "class folder 'c/' is empty"),
        (["train/a/1.png", "train/b/1.png", "train/c/", "train/c/.hidden"], "class folder 'train/c/' is empty"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "'test/1.png' lies in no class folder"),
        (["a/1.png", "b/1.png", "2.JPG"], "'2.JPG' lies in no class folder"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "class 'b' is in train/ but not in test/"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], "class 'b' is in train/ but not in val/"),
        (["train/a/1.png", "train/b/1.png", "test/"], "class 'a' is in train/ but not in test/"),
        (
            ["train/a/1.png", "train/b/1.png", *(f"test/{label}/1.png" for label in "abc")],
            "class 'c' is in test/ but not in train/",
        ),
        (["test/a/1.png", "test/b/1.png"], "has test/ but no train/<class>/ folders"),
        (["README.md", ".hidden/a/1.png"], "holds no images"),
        ([], "holds no images"),
    ],
)
def test_layouts_that_are_refused(names, message):
    with pytest.raises(UserError) as error:
        entries(*names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- archives: what is read


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_every_kind_hold_the_same(tmp_path, kind):
    files = {f"./{name}": data for name, data in tree("ba", train=3, test=2).items()} | {"./train": None}
    listing = image_archive(write_archive(tmp_path / f"x.{kind}", files))
    assert listing.classes == ["a", "b"]
    assert listing.names == sorted(name[2:] for name, data in files.items() if data)
    assert listing.splits.tolist() == ["test"] * 4 + ["train"] * 6
    assert listing.labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert listing.labels.dtype == np.int64
    assert {f"./{listing.names[index]}": data for index, data in listing.read()} == {
        name: data for name, data in files.items() if data
    }
    assert listing.num_bytes == sum(len(data) for data in files.values() if data)


def test_backslashes_of_windows_tools_are_slashes(tmp_path):
    files = {"train\\a\\1.png": b"x", "train\\b\\1.png": b"y"}
    listing = image_archive(write_archive(tmp_path / "x.zip", files))
    assert listing.names == ["train/a/1.png", "train/b/1.png"]


def test_an_archive_is_found_by_content_not_by_name(tmp_path):
    path = write_archive(tmp_path / "x.tar.xz", tree())
    assert len(image_archive(path.rename(tmp_path / "download")).names) == 10


def test_real_archive():
    listing = image_archive(given("cifar10-mini.zip"))
    assert np.unique(listing.splits, return_counts=True)[1].tolist() == [2000, 10000]
    assert listing.classes[:3] == ["airplane", "automobile", "bird"]
    assert np.bincount(listing.labels).tolist() == [1200] * 10
    assert all(f"/{listing.classes[label]}/" in name for label, name in zip(listing.labels, listing.names, strict=True))


# ---- archives: what is refused


def refuse(path: Path, message: str) -> None:
    with pytest.raises(UserError) as error:
        list_members(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def content(path: Path) -> list:
    return [list_members(path), list(read_members(path))]


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_archive_passes_for_a_whole_one(tmp_path, kind):
    whole = write_archive(tmp_path / f"x.{kind}", tree(train=2, size=16)).read_bytes()
    # past the last member a plain tar is zeros; its first block of them must be there
    end = len(whole.rstrip(b"\0")) + 511 if kind == "tar" else len(whole)
    cuts = {*range(0, end, 512), *np.random.default_rng(0).integers(0, end, 40).tolist(), end - 1}
    for cut in cuts:
        path = tmp_path / "cut"
        path.write_bytes(whole[:cut])
        refuse(path, "not a zip or tar archive" if cut == 0 else "")


@pytest.mark.parametrize(
    ("kind", "least"), [("zip", 110), ("tar", 15), ("tar.gz", 130), ("tar.bz2", 130), ("tar.xz", 130)]
)
def test_damaged_bytes_are_noticed(tmp_path, kind, least):
    """Wherever a byte is wrong: an error, or the original content. Only a plain tar has no sums over its members."""
    path = write_archive(tmp_path / f"x.{kind}", tree(train=2, size=16))
    whole, expected = path.read_bytes(), content(path)
    random = np.random.default_rng(0)
    noticed = 0
    for position in random.integers(0, len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            members, files = content(path)
        except UserError as error:
            assert "\n" not in str(error)
            noticed += 1
            continue
        assert len(members) == len(expected[0])
        noticed += any(isinstance(data, Exception) for _, data in files)
        for (_, data), (_, original) in zip(files, expected[1], strict=True):
            assert data == original or isinstance(data, Exception) or kind == "tar"
    assert noticed >= least


def test_damaged_member_of_a_zip_is_named_and_the_others_are_read(tmp_path):
    files = tree(train=2)
    path = write_archive(tmp_path / "x.zip", files)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("train/a/1.png")
    raw = bytearray(path.read_bytes())
    raw[entry.header_offset + 30 + len(entry.filename) + 40] ^= 0xFF
    path.write_bytes(raw)
    read = dict(read_members(path))
    assert isinstance(read.pop("train/a/1.png"), Exception)
    assert read == {name: data for name, data in files.items() if name != "train/a/1.png"}


@pytest.mark.parametrize(
    "data",
    [b"", b"hello, I am no archive\n" * 50, gzip.compress(b"text" * 999, mtime=0)],
    ids=["empty", "text", "gzip of text"],
)
def test_what_is_no_archive(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    refuse(tmp_path / "x", "not a zip or tar archive (plain, gz, bz2 or xz)")


def test_two_archives_in_one_file(tmp_path):
    tar = write_archive(tmp_path / "x.tar", tree()).read_bytes()
    (tmp_path / "x.tar").write_bytes(tar + tar)
    refuse(tmp_path / "x.tar", "damaged tar archive")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "train/../../x.png", "C:\\x.png", "\\\\host\\x.png"])
def test_names_that_lead_out(tmp_path, kind, name):
    refuse(write_archive(tmp_path / f"x.{kind}", tree() | {name: b"1"}), "leads out of the archive")


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "FIFOTYPE", "CHRTYPE", "BLKTYPE"])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    path = write_archive(tmp_path / "x.tar", tree())
    info = tarfile.TarInfo("train/a/link.png")
    info.type, info.linkname = getattr(tarfile, kind), "train/a/0.png"
    with tarfile.open(path, "a") as tar:
        tar.addfile(info)
    refuse(path, "'train/a/link.png' is a link or a device")


def test_link_in_a_zip(tmp_path):
    path = write_archive(tmp_path / "x.zip", tree())
    info = zipfile.ZipInfo("train/a/link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    refuse(path, "'train/a/link.png' is a link or a device")


def patch_zip(path: Path, offset_local: int, offset_central: int, value: int) -> None:
    """Overwrite 16 bits in the first local header and in its entry of the directory."""
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", offset_local), (b"PK\1\2", offset_central)):
        struct.pack_into("<H", raw, raw.index(magic) + offset, value)
    path.write_bytes(raw)


def test_encrypted_zip(tmp_path):
    path = write_archive(tmp_path / "x.zip", tree())
    patch_zip(path, 6, 8, 1)
    refuse(path, "'train/a/0.png' is encrypted")


def test_zip_with_a_method_that_python_lacks(tmp_path):
    path = write_archive(tmp_path / "x.zip", tree())
    patch_zip(path, 8, 10, 9)  # deflate64, of Windows' explorer
    refuse(path, "'train/a/0.png' has compression 9")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_the_same_name_twice(tmp_path, kind):
    files = tree()
    path = write_archive(tmp_path / f"x.{kind}", files)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("train/a/0.png", b"other")
    else:
        with tarfile.open(path, "a") as tar:
            tar.addfile(tarfile.TarInfo("train/a/0.png"))
    refuse(path, "holds 'train/a/0.png' twice")


def test_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(3):
            archive.writestr(f"train/a/{index}.png", bytes(2**25))
    refuse(tmp_path / "x.zip", "unpacks to 100663296 bytes")
    zeros = bytes(2**22)
    header = tarfile.TarInfo("train/a/0.png")
    header.size = 24 * len(zeros)
    for open_file, compress in ((gzip, gzip.compress), (bz2, bz2.compress)):
        # streams of equal zeros, one after the other; once in a member, once behind the end
        path = tmp_path / f"x.{open_file.__name__}"
        path.write_bytes(compress(header.tobuf()) + compress(zeros) * 24)
        refuse(path, "unpacks to")
        end = io.BytesIO()
        with tarfile.open(fileobj=end, mode="w"):
            pass
        path.write_bytes(compress(end.getvalue()) + compress(zeros) * 24)
        refuse(path, "unpacks to")


def test_folder_with_more_than_one_file(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="must hold one archive, holds 2 files"):
        image_archive(tmp_path)
