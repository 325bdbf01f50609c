"""From what a folder or archive holds to the arrays: decoding, splits, statistics, and the two stages."""

import dataclasses
import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from known import copy_settings, given, settle
from PIL import Image
from samples import encode, noise, tree, write_archive, write_folder
from sklearn.datasets import load_digits, load_sample_image

from headstart.errors import UserError
from headstart.ingest import pack as pack_module
from headstart.ingest.decode import UnreadableError, decode, decode_whole
from headstart.ingest.download import pack_folder
from headstart.ingest.formats import Listing, digits, image_archive
from headstart.ingest.pack import Packing, pack, stored_side
from stages import download, prepare

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")


def packing(image_size: int = 8, **changes) -> Packing:
    return dataclasses.replace(Packing(image_size, None, 0.2, 0.2, seed=0, skip_unreadable=False), **changes)


def pack_into(folder: Path, listing: Listing, settings: Packing) -> tuple[dict, dict[str, np.ndarray]]:
    """The meta file's content and all arrays; checks that progress ends at the number of images."""
    folder.mkdir()
    done: list[int] = []
    meta = pack(listing, folder, settings, done.append)
    assert sum(done) == sum(meta["num_images"].values())
    return meta, {path.stem: np.load(path) for path in folder.iterdir()}


# ---- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_lossless_colour_comes_back_as_it_is(kind):
    # 64 colours, for GIF's palette
    pixels = noise(12, 12, 0, 3) // 64 * 85
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded, size = decode(encode(pixels, kind, **options), 12)
    assert decoded.dtype == np.uint8
    assert size == (12, 12)
    assert (decoded == pixels).all()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_become_rgb(mode):
    values = noise(12, 12, 0)
    expected = np.repeat(values[..., None], 3, axis=2)
    image = Image.fromarray(values)
    if mode == "1":
        image = image.point(lambda value: 255 * (value > 99), "1")
        expected = np.where(expected > 99, 255, 0)
    elif mode == "P":
        palette = noise(256, 1, 1, 3).reshape(256, 3)
        image = Image.frombytes("P", (12, 12), values.tobytes())
        image.putpalette(palette.ravel().tolist())
        expected = palette[values]
    assert image.mode == mode
    assert (decode(encode(image), 12)[0] == expected).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "tRNS"])
def test_transparent_pixels_are_composited_onto_black(mode):
    colour, alpha = noise(12, 12, 0, 3), noise(12, 12, 1)
    if mode == "RGBA":
        data = encode(np.dstack([colour, alpha]))
    elif mode == "LA":
        colour = np.repeat(colour[..., :1], 3, axis=2)
        data = encode(Image.merge("LA", [Image.fromarray(colour[..., 0]), Image.fromarray(alpha)]))
    elif mode == "PA":  # a palette with an alpha for each entry
        index = np.arange(144, dtype=np.uint8).reshape(12, 12)
        image = Image.frombytes("P", (12, 12), index.tobytes())
        image.putpalette(colour.ravel().tolist())
        data = encode(image, transparency=alpha.tobytes())
    else:  # one colour of an RGB image is transparent
        colour[:6] = (10, 20, 30)
        alpha = np.where((colour == (10, 20, 30)).all(2), 0, 255)
        data = encode(Image.fromarray(colour), transparency=(10, 20, 30))
    expected = colour * (alpha[..., None] / 255)
    assert np.abs(decode(data, 12)[0] - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind):
    values = np.linspace(0, 65535, 144).astype(np.uint16).reshape(12, 12)
    decoded, _ = decode(encode(Image.fromarray(values), kind), 12)
    assert (np.abs(decoded - values[..., None] / 257) <= 0.5).all()


def test_cmyk():
    inks = np.zeros((12, 12, 4), dtype=np.uint8)
    inks[:6, :, 0] = 255  # cyan above, black below
    inks[6:, :, 3] = 255
    decoded, _ = decode(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100), 12)
    assert np.abs(decoded[:6] - np.array([0, 255, 255.0])).max() < 12
    assert decoded[6:].max() < 12


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_exif_orientation(orientation, undo):
    """Tags as in the standard: 6, say, means that the first row of the file is the right side of the scene."""
    pixels = noise(12, 12, 0, 3)
    exif = Image.Exif()
    exif[274] = orientation
    assert (decode(encode(pixels, exif=exif), 12)[0] == undo(pixels)).all()
    size = decode(encode(noise(12, 30, 0, 3), exif=exif), 12)[1]
    assert size == ((30, 12) if orientation >= 5 else (12, 30))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_tiffs_which_pillow_turns_itself(orientation):
    """The size and the pixels are those of the same image as a PNG."""
    pixels, exif = noise(12, 30, 0, 3), Image.Exif()
    exif[274] = orientation
    expected = decode(encode(pixels, exif=exif), 12)
    tiff = encode(pixels, "TIFF", tiffinfo={274: orientation})
    assert decode(tiff, 12)[1] == expected[1] == ((30, 12) if orientation >= 5 else (12, 30))
    assert (decode(tiff, 12)[0] == expected[0]).all()
    assert decode_whole(tiff).shape[:2] == expected[1]


def exif_of(entry_type: int, count: int, value: bytes) -> bytes:
    """EXIF of one entry, Orientation, of any type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 274, entry_type, count) + value + bytes(4)


@pytest.mark.parametrize(
    "exif",
    [
        *(exif_of(3, 1, struct.pack(">HH", value, 0)) for value in (0, 9, 65535)),
        exif_of(2, 4, b"six\0"),  # a text
        exif_of(5, 1, struct.pack(">I", 4000)),  # a fraction that lies behind the end
        b"Exif\0\0not a TIFF header",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_nonsense_in_exif_makes_no_image_unreadable(kind, exif):
    pixels = noise(12, 30, 0, 3)
    decoded, size = decode(encode(pixels, kind, exif=exif), 12)
    assert size == (12, 30)
    assert (decoded == decode(encode(pixels, kind), 12)[0]).all()


def triangle_weights(before: int, after: int) -> np.ndarray:
    """(after, before) float64: an anti-aliased linear filter, by its definition."""
    scale = before / after
    support = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (7, 9), (12, 40), (12, 12)])
def test_resizing_to_a_square(height, width):
    pixels = noise(height, width, 0, 3)
    rows, columns = triangle_weights(height, 12), triangle_weights(width, 12)
    expected = np.einsum("ah,bw,hwc->abc", rows, columns, pixels.astype(float))
    decoded, size = decode(encode(pixels), 12)
    assert size == (height, width)
    assert np.abs(decoded - expected).max() <= 1.01


def test_large_jpegs_reduced_by_their_decoder_look_the_same():
    photograph = Image.fromarray(load_sample_image("china.jpg"))  # 427 x 640
    data = encode(photograph, "JPEG", quality=95)
    expected = np.asarray(photograph.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    decoded, size = decode(data, 64)
    assert size == (427, 640)
    assert np.abs(decoded - expected).mean() < 2
    # at 128 px nothing is reduced: 427 is less than four times as much
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((128, 128), Image.Resampling.BILINEAR))
    assert (decode(data, 128)[0] == expected).all()


@pytest.mark.parametrize("side", [12, 20])
def test_rows_cut_off_the_bottom_leave_no_trace(side):
    """What remains is decoded as an image of its own, also where the JPEG decoder reduces first."""
    pixels = noise(140, 120, 0, 3)
    pixels[120:] = (255, 0, 0)
    kept, size = decode(encode(pixels), side, crop_bottom=20)
    assert size == (120, 120)
    assert (kept == decode(encode(pixels[:120]), side)[0]).all()
    red = np.full((1400, 1200, 3), (0, 0, 255), dtype=np.uint8)
    red[1380:] = (255, 0, 0)
    reduced, size = decode(encode(red, "JPEG", quality=95, subsampling=0), side, crop_bottom=20)
    assert size == (1380, 1200)
    assert reduced[..., 0].max() < 40
    with pytest.raises(UnreadableError, match="at least 4x4"):
        decode(encode(noise(22, 30, 0, 3)), side, crop_bottom=20)


def huge_png() -> bytes:
    """A valid header of 60,000 x 60,000 pixels over nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + end


UNREADABLE = {
    "empty": (b"", "not an image"),
    "text": (b"class,index\ncat,0\n", "not an image"),
    "cut": (encode(noise(40, 40, 0, 3))[:900], "truncated"),
    "cut_jpeg": (encode(noise(40, 40, 0, 3), "JPEG")[:900], "truncated"),
    "tiny": (encode(noise(3, 90, 0, 3)), "90x3 pixels, at least 4x4"),
    "huge": (huge_png(), "more than 89478485 pixels"),
    "float": (encode(np.ones((8, 8), dtype=np.float32), "TIFF"), "floating-point"),
    "wide": (encode(np.full((8, 8), 70000, dtype=np.int32), "TIFF"), "32-bit"),
    "postscript": (encode(noise(8, 8, 0, 3), "EPS"), "not an image"),
    "error": (zipfile.BadZipFile("Bad CRC-32"), "Bad CRC-32"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_images_say_why(name):
    data, reason = UNREADABLE[name]
    with pytest.raises(UnreadableError, match=reason):
        decode(data, 8)


def test_no_damage_to_an_image_ends_in_another_error():
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO"):
        whole = encode(noise(16, 16, 0, 3), kind)
        for _ in range(60):
            damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
            damaged[random.integers(len(damaged))] ^= int(random.integers(1, 256))
            try:
                pixels, _ = decode(bytes(damaged), 8)
            except UnreadableError as error:
                assert str(error) and "\n" not in str(error)
            else:
                assert pixels.shape == (8, 8, 3)


# ---- packing


def test_digits_end_to_end(tmp_path):
    settings = packing(val_fraction=0.1)
    meta, arrays = pack_into(tmp_path / "out", digits(tmp_path), settings)
    bunch = load_digits()
    expected = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    # every digit is in exactly one split, with its label
    images, labels = (np.concatenate([arrays[f"{split}_{part}"] for split in SPLITS]) for part in ("images", "labels"))
    found = sorted((image[..., 0].tobytes(), label) for image, label in zip(images, labels, strict=True))
    assert found == sorted((image.tobytes(), label) for image, label in zip(expected, bunch.target, strict=True))
    # stratified: each class gives a fifth to test, then a tenth of the rest to val, to the nearest image
    for label, count in enumerate(np.bincount(bunch.target)):
        test = (arrays["test_labels"] == label).sum()
        assert test == round(0.2 * count)
        assert (arrays["val_labels"] == label).sum() == round(0.1 * (count - test))
    assert meta["classes"] == list("0123456789")
    assert meta["num_images"] == {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    assert (meta["image_size"], meta["stored_size"], meta["skipped"]) == (8, 8, [])
    assert all((arrays[f"{split}_sizes"] == 8).all() for split in SPLITS)
    train = arrays["train_images"] / 255
    np.testing.assert_allclose(meta["mean"], train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(meta["std"], train.std((0, 1, 2)), rtol=1e-12)
    json.dumps(meta)


def test_statistics_are_those_of_the_train_split_and_by_channel(tmp_path):
    fade = np.array([1, 2, 4], dtype=np.uint8)
    files = {
        f"{split}/{label}/{index}.png": encode(noise(8, 8, index, 3) // fade + shift)
        for label in "ab"
        for split, shift in (("train", 0), ("test", 5), ("val", 9))
        for index in range(70)
    }
    meta, arrays = pack_into(tmp_path / "out", image_archive(write_archive(tmp_path / "x.zip", files)), packing())
    train = arrays["train_images"] / 255
    np.testing.assert_allclose(meta["mean"], train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(meta["std"], train.std((0, 1, 2)), rtol=1e-12)
    assert meta["mean"][0] > 1.5 * meta["mean"][1] > 2 * meta["mean"][2]


def test_official_splits_are_kept_and_rows_are_sorted_by_class_and_name(tmp_path):
    files = tree("ba", train=4, test=2, val=1)
    meta, arrays = pack_into(tmp_path / "out", image_archive(write_archive(tmp_path / "x.tar.gz", files)), packing())
    assert meta["num_images"] == {"train": 8, "val": 2, "test": 4}
    for split in SPLITS:
        names = sorted(name for name in files if name.startswith(split))
        expected = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in names]
        assert (arrays[f"{split}_images"] == expected).all()
        assert arrays[f"{split}_labels"].tolist() == ["ab".index(name.split("/")[1]) for name in names]


def test_folder_and_archives_of_every_kind_give_the_same_bytes(tmp_path):
    files = tree(train=6, test=2) | {"train/a/big.jpg": encode(noise(21, 33, 1, 3), "JPEG")}
    reversed_files = dict(reversed(files.items()))
    (tmp_path / "packed").mkdir()
    folder = write_folder(tmp_path / "folder", files)
    pack_folder(folder, tmp_path / "packed", lambda done: None)
    archives = [write_archive(tmp_path / f"x.{kind}", reversed_files) for kind in ("zip", "tar", "tar.gz", "tar.xz")]
    sources = [tmp_path / "packed", *archives]
    metas = [pack_into(tmp_path / f"out{i}", image_archive(source), packing())[0] for i, source in enumerate(sources)]
    assert all(meta == metas[0] for meta in metas)
    assert metas[0]["stored_size"] == 16


def test_hash_tells_contents_apart(tmp_path):
    hashes = []
    for index, (classes, seed) in enumerate([("ab", 0), ("ab", 0), ("ab", 1), ("ac", 0)]):
        path = write_archive(tmp_path / f"{index}.zip", tree(classes, train=9))
        hashes.append(pack_into(tmp_path / f"out{index}", image_archive(path), packing(seed=seed))[0]["hash"])
    same, again, other_seed, other_name = hashes
    assert same == again != other_seed
    assert same == other_name  # the names of classes are no part of the arrays
    files = tree(train=9) | {"train/a/0.png": encode(noise(8, 8, 99, 3))}
    changed = pack_into(tmp_path / "out", image_archive(write_archive(tmp_path / "x.zip", files)), packing())[0]["hash"]
    assert changed not in hashes


def test_worker_processes_and_threads_give_the_same_bytes(tmp_path, monkeypatch):
    files = tree(train=150, test=20) | {"train/a/bad.png": b"nothing"}
    listing = image_archive(write_archive(tmp_path / "x.zip", files))
    serial = pack_into(tmp_path / "serial", listing, packing(skip_unreadable=True))[0]
    monkeypatch.setattr(pack_module, "SERIAL_IMAGES", 0)
    assert pack_into(tmp_path / "processes", listing, packing(skip_unreadable=True))[0] == serial
    monkeypatch.setattr(pack_module, "THREADS_BYTES", 0)
    assert pack_into(tmp_path / "threads", listing, packing(skip_unreadable=True))[0] == serial


@pytest.mark.parametrize("threads_bytes", [0, 2**30], ids=["threads", "processes"])
def test_an_archive_that_fails_while_workers_decode_is_an_error_and_no_wait(tmp_path, monkeypatch, threads_bytes):
    listing = image_archive(write_archive(tmp_path / "x.zip", tree(train=200)))

    def read():
        for number, image in enumerate(listing.read()):
            if number == 390:  # long after the first images went to the workers
                raise UserError("x.zip: gone")
            yield image

    monkeypatch.setattr(pack_module, "SERIAL_IMAGES", 0)
    monkeypatch.setattr(pack_module, "THREADS_BYTES", threads_bytes)
    monkeypatch.setattr(pack_module, "CHUNK_IMAGES", 8)
    with pytest.raises(UserError, match="gone"):
        pack_into(tmp_path / "out", dataclasses.replace(listing, read=read), packing())


@pytest.mark.parametrize(
    ("sizes", "stored_size", "expected"),
    [
        ([(8, 8)], None, 16),  # smaller: enlarged to the training size
        ([(16, 400)], None, 16),  # the short side counts
        ([(8, 8), (20, 30)], None, 20),  # at most the original
        ([(20, 20), (500, 400)], None, 32),  # twice the training size
        ([(20, 20), (500, 400)], 100, 100),
        ([(60, 90)], 100, 60),
        ([(10, 10)], 100, 16),
    ],
)
def test_stored_side(sizes, stored_size, expected):
    assert stored_side(sizes, packing(16, stored_size=stored_size)) == expected


def test_images_of_many_sizes_the_first_of_which_mislead(tmp_path):
    """More small images than are looked at first, then a larger one."""
    files = tree(train=80) | {"train/b/z.png": encode(noise(13, 60, 0, 3))}
    meta, arrays = pack_into(tmp_path / "out", image_archive(write_archive(tmp_path / "x.zip", files)), packing())
    assert meta["stored_size"] == 13
    sizes = np.concatenate([arrays[f"{split}_sizes"] for split in SPLITS])
    assert sorted(map(tuple, sizes.tolist())) == [(8, 8)] * 160 + [(13, 60)]
    for split in SPLITS:
        assert arrays[f"{split}_images"].shape == (meta["num_images"][split], 13, 13, 3)
    everything = {image.tobytes() for split in SPLITS for image in arrays[f"{split}_images"]}
    assert everything == {decode(data, 13)[0].tobytes() for data in files.values()}


def test_unreadable_images_are_named_and_may_be_skipped(tmp_path):
    files = tree(train=80)
    bad = {f"train/a/bad{index:02}.png": b"nothing" for index in range(13)}
    bad["train/b/tiny.png"] = UNREADABLE["tiny"][0]
    listing = image_archive(write_archive(tmp_path / "bad.zip", files | bad))
    with pytest.raises(UserError) as error:
        pack_into(tmp_path / "refused", listing, packing())
    assert str(error.value).startswith(f"{tmp_path / 'bad.zip'}: 14 unreadable: train/a/bad00.png (not an image")
    assert "train/a/bad02.png (not an image that Pillow knows) and 11 more; " in str(error.value)
    assert "data.skip_unreadable" in str(error.value)
    assert "bad03" not in str(error.value)
    assert [name for name, _ in error.value.rows] == sorted(bad)
    skipped, _ = pack_into(tmp_path / "skipped", listing, packing(skip_unreadable=True))
    without, _ = pack_into(tmp_path / "without", image_archive(write_archive(tmp_path / "good.zip", files)), packing())
    assert skipped == without | {"skipped": sorted(bad)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (tree(train=2), "class 'a' has 2 usable train images, at least 3 are needed to split off test and val"),
        (tree(train=1, test=1), "class 'a' has 1 usable train images, at least 2 are needed to split off val"),
        (tree(train=4) | {f"train/b/{i}.png": b"bad" for i in range(4)}, "class 'b' has 0 usable train images"),
        (tree(train=4, test=1) | {"test/b/0.png": b"bad"}, "class 'b' has no usable image in test"),
    ],
)
def test_splits_that_cannot_be_made(tmp_path, files, message):
    listing = image_archive(write_archive(tmp_path / "x.zip", files))
    with pytest.raises(UserError, match=message):
        pack_into(tmp_path / "out", listing, packing(skip_unreadable=True))


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_even_the_smallest_classes_are_in_every_split(tmp_path, count, fraction):
    listing = image_archive(write_archive(tmp_path / "x.zip", tree(train=count)))
    _, arrays = pack_into(tmp_path / "out", listing, packing(val_fraction=fraction, test_fraction=fraction))
    for split in SPLITS:
        assert set(arrays[f"{split}_labels"]) == {0, 1}


def test_real_images(tmp_path):
    mini = given("cifar10-mini.zip")
    listing = image_archive(mini)
    meta, arrays = pack_into(tmp_path / "out", listing, packing(32, val_fraction=0.1))
    assert meta["num_images"] == {"train": 9000, "val": 1000, "test": 2000}
    assert meta["stored_size"] == 32
    with zipfile.ZipFile(mini) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("test/"))
        for row in range(0, 2000, 97):
            assert (arrays["test_images"][row] == np.asarray(Image.open(archive.open(names[row])))).all()
    # CIFAR-10's published train statistics; this is a fifth of it
    np.testing.assert_allclose(meta["mean"], [0.4914, 0.4822, 0.4465], atol=0.005)
    np.testing.assert_allclose(meta["std"], [0.2470, 0.2435, 0.2616], atol=0.005)


# ---- stages


@pytest.fixture
def project(workspace):
    """A workspace with the repository's settings, and a function that changes keys: block__key, or one of `data`."""

    def change(**changes) -> None:
        keys = {key: f"datasets.yaml:{key.replace('__', '.')}" if "__" in key else f"data.{key}" for key in changes}
        settle(workspace, {keys[key]: value for key, value in changes.items()})

    change()
    return change


def test_stages_on_digits(project, workspace, capsys):
    project(digits__image_size=16)
    download.main("digits")
    prepare.main("digits")
    assert [path.name for path in (workspace / "data/raw/digits").iterdir()] == ["source.json"]
    folder = workspace / "data/prepared/digits"
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["dataset"], meta["decoder"], meta["image_size"], meta["stored_size"]) == ("digits", "digits", 16, 16)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["meta.json", *(f"{split}_{part}.npy" for split in SPLITS for part in ("images", "labels", "sizes"))]
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    prepare.main("digits")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "1797" in str(sum(meta["num_images"].values()))
    assert "of 10 classes, stored at 16 px" in capsys.readouterr().out


@pytest.mark.parametrize("decoder", ["image_archive", "image_folder"])
def test_stages_on_ones_own_images(project, workspace, tmp_path_factory, monkeypatch, decoder):
    """The path is relative to the main workspace, also where the stage runs in DVC's copy of it."""
    copy = tmp_path_factory.mktemp("copy")
    files = tree(train=6) | {"train/a/.DS_Store": b"1", "train/a/bad.png": b"2"}
    write = write_archive if decoder == "image_archive" else write_folder
    write(workspace / "mine.zip", files)
    project(mine__path="mine.zip", mine__decoder=decoder, skip_unreadable=True)
    copy_settings(workspace, copy)
    monkeypatch.chdir(copy)
    download.main("mine")
    first = {path.name: path.read_bytes() for path in (copy / "data/raw/mine").iterdir()}
    download.main("mine")
    assert {path.name: path.read_bytes() for path in (copy / "data/raw/mine").iterdir()} == first
    assert sorted(first) == sorted(["images.csv", "mine.zip" if decoder == "image_archive" else "images.tar"])
    prepare.main("mine")
    meta = json.loads((copy / "data/prepared/mine/meta.json").read_text())
    assert meta["skipped"] == ["train/a/bad.png"]
    assert sum(meta["num_images"].values()) == 12
    assert not (workspace / "data").exists()


def test_copied_archive_is_no_link(project, workspace):
    """DVC makes its files read-only; the user's must stay as it is."""
    source = write_archive(workspace / "mine.zip", tree())
    project(mine__path=str(source))
    download.main("mine")
    copied = workspace / "data/raw/mine/mine.zip"
    assert copied.read_bytes() == source.read_bytes()
    assert copied.stat().st_ino != source.stat().st_ino


def test_packed_folder_does_not_depend_on_times_and_owners(tmp_path):
    results = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.out").mkdir()
        folder = write_folder(tmp_path / name, tree())
        if name == "two":
            (folder / "train/a/0.png").touch()
            (folder / "train/a/1.png").chmod(0o600)
        pack_folder(folder, tmp_path / f"{name}.out", lambda done: None)
        results.append((tmp_path / f"{name}.out" / "images.tar").read_bytes())
    assert results[0] == results[1]


def test_links_in_a_folder(tmp_path):
    folder = write_folder(tmp_path / "folder", tree())
    (folder / "train/a/0.png").rename(tmp_path / "0.png")
    (folder / "train/a/0.png").symlink_to(tmp_path / "0.png")
    (tmp_path / "out").mkdir()
    pack_folder(folder, tmp_path / "out", lambda done: None)
    assert dict(image_archive(tmp_path / "out").read())[0] == tree()["train/a/0.png"]
    (folder / "train/c").symlink_to(folder / "train/a")
    with pytest.raises(UserError, match="a link to a folder"):
        pack_folder(folder, tmp_path / "out", lambda done: None)


def no_half_outs(workspace: Path) -> bool:
    return not [path for path in workspace.glob("data/*/*") if path.name != "digits"]


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        (
            *({}, None),
            "datasets.yaml: mine.path: null; decoder images needs a file or folder of images: "
            "-S datasets.yaml:mine.path=...",
        ),
        (
            {"mine__path": "gone.zip"},
            None,
            "datasets.yaml: mine.path: 'gone.zip': no such file or folder (looked ",
        ),
        (
            *({"mine__path": ".", "mine__decoder": "image_archive"}, None),
            "datasets.yaml: mine.path: '.' is no file; -S datasets.yaml:mine.decoder=images",
        ),
        (
            *({"mine__path": "x.zip", "mine__decoder": "image_folder"}, tree()),
            "datasets.yaml: mine.path: 'x.zip' is no folder; -S datasets.yaml:mine.decoder=images",
        ),
        ({"mine__path": "x.zip"}, {"readme": b"1"}, "x.zip: holds no images"),
        ({"mine__path": "x.zip"}, tree() | {"train/c": None}, "x.zip: class folder 'train/c/' is empty"),
    ],
)
def test_download_refuses_in_one_line(project, workspace, changes, files, message):
    if files:
        write_archive(workspace / "x.zip", files)
    project(**changes)
    with pytest.raises(UserError) as error:
        download.main("mine")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert no_half_outs(workspace)


def test_prepare_refuses_in_one_line(project, workspace):
    with pytest.raises(UserError, match="data/raw/mine: no such file; stage download makes it: dvc repro"):
        prepare.main("mine")
    write_archive(workspace / "x.zip", tree())
    project(mine__path="x.zip", stored_size=31)
    download.main("mine")
    with pytest.raises(UserError, match=r"data.stored_size: 31 must be .* the image_size of mine in datasets.yaml, 32"):
        prepare.main("mine")
    assert not (workspace / "data/prepared/mine").exists()


def test_a_stage_that_fails_keeps_the_earlier_out_and_leaves_nothing_else(project, workspace):
    write_archive(workspace / "x.zip", tree())
    project(mine__path="x.zip")
    download.main("mine")
    prepare.main("mine")
    before = sorted((path, path.read_bytes()) for path in workspace.glob("data/**/*") if path.is_file())
    (workspace / "x.zip").write_bytes((workspace / "x.zip").read_bytes()[:300])
    with pytest.raises(UserError, match="damaged or truncated zip archive"):
        download.main("mine")
    assert sorted((path, path.read_bytes()) for path in workspace.glob("data/**/*") if path.is_file()) == before
    write_archive(workspace / "data/raw/mine/x.zip", tree() | {"train/a/0.png": b"bad"})
    with pytest.raises(UserError, match=r"1 unreadable: train/a/0\.png \(not an image"):
        prepare.main("mine")
    prepared = sorted((path, path.read_bytes()) for path in workspace.glob("data/prepared/**/*") if path.is_file())
    assert prepared == [(path, data) for path, data in before if "prepared" in path.parts]


def test_command_line(project, workspace):
    """As DVC calls it: exit status 1, one line on stderr, no traceback."""
    (workspace / "x.zip").write_bytes(b"PK\3\4 cut")
    project(mine__path="x.zip")
    result = subprocess.run(
        [sys.executable, "-m", "stages.download", "--dataset", "mine"],
        cwd=workspace,
        env={"PYTHONPATH": str(ROOT), "DVC_ROOT": str(workspace), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "damaged or truncated zip archive" in result.stderr
    assert result.stderr.count("\n") == 1
    assert no_half_outs(workspace)
