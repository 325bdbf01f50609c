"""How folders and archives of a user's own are understood, and that nothing is left out in silence."""

import csv
import io
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from samples import encode, noise, tree, write_archive, write_folder

from headstart.errors import UserError
from headstart.ingest import own
from headstart.ingest.archives import Member
from headstart.ingest.spelling import split_of
from headstart.ingest.tree import Layout, Reading, find_images, is_image

NFC, NFD = (unicodedata.normalize(form, "Grün") for form in ("NFC", "NFD"))


def layout(*names: str, **reading) -> Layout:
    """The layout of files by their names; a trailing slash marks a folder."""
    members = [Member(name.rstrip("/"), name.endswith("/"), 1) for name in names]
    return find_images("x.zip", members, Reading(**reading))


def counts(found: Layout) -> dict[tuple[str, str], int]:
    return dict(Counter((entry.split, entry.label) for entry in found.entries))


def below(*folders: str, number: int = 2) -> list[str]:
    return [f"{folder}/{index}.png" for folder in folders for index in range(number)]


# ---- splits by their names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(word, ("train", True)) for word in ("train", "Train", "TRAIN", "training", "Training")],
        *[(word, ("val", True)) for word in ("val", "valid", "Validation", "dev")],
        *[(word, ("test", True)) for word in ("test", "Testing", "TEST")],
        *[(word, ("unlabelled", True)) for word in ("unlabelled", "unlabeled", "Unlabeled")],
        *[
            (word, ("train", False))
            for word in ("Final_Training", "seg_train", "train2017", "TrainImages", "train-set")
        ],
        *[(word, ("test", False)) for word in ("TEST_SIMPLE", "Final_Test", "test images", "imagesTest")],
        *[(word, None) for word in ("trains", "contest", "latest", "valley", "a", "train_and_test", "dog", "日本", "")],
    ],
)
def test_names_of_splits(name, expected):
    assert split_of(name) == expected


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["Training", "Testing"], "train test"),
        (["train", "valid", "test"], "train val test"),
        (["train", "validation"], "train test"),  # for want of another, as ever
        (["TRAIN", "TEST"], "train test"),
        (["Final_Training", "Final_Test"], "train test"),
        (["seg_train/seg_train", "seg_test/seg_test"], "train test"),
        (["data/set/train", "data/set/test"], "train test"),  # two enclosing folders
        (["train", "TEST_SIMPLE"], "train test"),
    ],
)
def test_splits_are_known_by_their_names_and_seen_through(splits, expected):
    found = layout(*below(*(f"{split}/{label}" for split in splits for label in "ab")))
    assert counts(found) == {(split, label): 2 for split in expected.split() for label in "ab"}
    assert not found.passed


def test_gtsrb_as_published_has_its_classes():
    signs = [f"GTSRB/Final_Training/Images/{number:05d}" for number in range(43)]
    found = layout(*below(*signs), "GTSRB/Readme-Images.txt", *(f"{sign}/GT.csv" for sign in signs))
    assert counts(found) == {("train", f"{number:05d}"): 2 for number in range(43)}
    assert found.passed == {".csv files": (0, 43), "GTSRB/Readme-Images.txt": (0, 1)}
    with pytest.raises(
        UserError, match="Final_Test/ has one folder of images, 'Images', and not the classes of Final_Training/"
    ):
        layout(*below(*signs, "GTSRB/Final_Test/Images"))


def test_what_of_two_folders_of_a_split_is_not_read_is_named():
    found = layout(*below(*(f"{split}/{label}" for split in ("TRAIN", "TEST", "TEST_SIMPLE") for label in "ab")))
    assert counts(found) == {(split, label): 2 for split in ("train", "test") for label in "ab"}
    assert found.told() == "passed over: TEST_SIMPLE/ (4 images)"


@pytest.mark.parametrize(
    ("names", "message", "choices"),
    [
        (
            below("valid/a", "validation/a", "train/a"),
            "valid/, validation/: each could be the val split",
            ["splits: {valid: val"],
        ),
        (below("train_images/a", "train_masks/a"), "each could be the train split", ["splits: {train_images: train"]),
        (below("train", "bus", "car"), "train/ holds images and no class folders, beside bus, car", ["splits: {}"]),
        (below("test/a", "test/b"), "has test/ but no train/<class>/ folders", ["splits: {}"]),
        (
            below("photo/dog", "photo/cat", "sketch/dog", "sketch/cat"),
            "photo/ holds folders of images (cat, dog): the classes are photo, sketch, or the inner folders",
            ["class_level: 1", "class_level: 2"],
        ),
        (below("train/dogs/poodle", "train/dogs/beagle", "train/cats/manx"), "dogs", ["class_level: 2"]),
        (below("train/a", "train/b", "val"), "'val/0.png' lies in no class folder", ["labels: FILE.csv"]),
        ([*below("a", "b"), "stray.png"], "'stray.png' lies in no class folder", ["labels: FILE.csv"]),
        (below("train/Dog", "train/cat", "test/dog", "test/cat"), "capitals tell names apart", []),
        (["a/1.heic", "b/2.heic", "note.txt"], "holds no images (2 .heic, 1 .txt)", []),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused_with_the_line_to_write(names, message, choices):
    with pytest.raises(UserError) as error:
        layout(*names, ask=lambda argument: f"-S 'decoder={{{argument}}}'")
    assert message in str(error.value)
    assert all(f"-S 'decoder={{{choice}" in str(error.value) for choice in choices)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


def test_the_choices_work():
    domains = below("photo/dog", "photo/cat", "sketch/dog", "sketch/cat")
    assert counts(layout(*domains, class_level=2)) == {("train", "dog"): 4, ("train", "cat"): 4}
    assert counts(layout(*domains, class_level=1)) == {("train", "photo"): 4, ("train", "sketch"): 4}
    vehicles = below("train", "bus", "car")
    assert counts(layout(*vehicles, splits={})) == {("train", label): 2 for label in ("train", "bus", "car")}
    masks = below(*(f"{top}/{label}" for top in ("train_images", "train_masks") for label in "ab"))
    found = layout(*masks, splits={"train_images": "train"})
    assert counts(found) == {("train", label): 2 for label in "ab"}
    assert found.passed == {"train_masks/": (4, 0)}
    with pytest.raises(UserError, match="has no folder 'tran', which splits names; it has train_images, train_masks"):
        layout(*masks, splits={"tran": "train"})


def test_class_folders_that_are_called_like_splits_stay_classes():
    assert counts(layout(*below("steam_train", "bus"))) == {("train", "steam_train"): 2, ("train", "bus"): 2}
    assert counts(layout(*below("test_tubes", "beakers"))) == {("train", "test_tubes"): 2, ("train", "beakers"): 2}


def test_names_that_look_the_same_are_one_class():
    found = layout(*below(f"train/{NFC}", "train/Rot", f"test/{NFD}", "test/Rot"))
    assert counts(found) == {(split, label): 2 for split in ("train", "test") for label in (NFC, "Rot")}


# ---- unlabelled images


@pytest.mark.parametrize("names", [["1.png", "2.jpg"], ["all/1.png", "all/2.jpg"], ["x/all/1.png", "x/all/2.jpg"]])
def test_a_flat_folder_is_unlabelled(names):
    assert counts(layout(*names, "notes.txt")) == {("train", ""): 2}


def test_flat_splits_are_unlabelled_splits():
    assert counts(layout(*below("train", "test"))) == {("train", ""): 2, ("test", ""): 2}


@pytest.mark.parametrize("beside", [["a", "b"], ["train/a", "train/b", "test/a", "test/b"]])
@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "unlabeled_images", "unlabelled/2024/may"])
def test_unlabelled_images_beside_labelled_ones_are_trains(beside, name):
    found = layout(*below(*beside), *below(name, number=9))
    assert counts(found)[("train", "")] == 9
    assert len(found.entries) == 2 * len(beside) + 9
    train = [entry for entry in found.entries if entry.split == "train"]
    assert [entry.label for entry in train[-9:]] == [""] * 9, "labelled ones stand first"


def test_unlabelled_inside_train():
    assert counts(layout(*below("train/a", "train/b", "train/unlabelled")))[("train", "")] == 2


def test_one_class_tells_nothing_apart():
    found = layout(*below("train/cats", "test/cats"))
    assert counts(found) == {("train", ""): 2, ("test", ""): 2}
    assert "one class, 'cats', tells nothing apart: its images are unlabelled" in found.told()


# ---- what is no image


def test_what_is_no_image_is_counted_apart_or_stops():
    names = [
        *below("a", "b"),
        "a/GT-a.csv",
        "b/GT-b.csv",
        "b/@eaDir/0.png/SYNO_THUMB.jpg",
        "a/README",
        "about.pdf",
        ".git/x",
    ]
    found = layout(*names)
    assert found.passed == {".csv files": (0, 2), "README files": (0, 1), "about.pdf": (0, 1)}
    assert found.clutter == {"@eaDir": 1, ".git": 1}
    assert found.told() == (
        "passed over: 2 .csv files, 1 README files, about.pdf, 2 hidden or of the system (.git, @eaDir)"
    )
    with pytest.raises(
        UserError, match=r"holds what is no image: .csv files, README files, about.pdf; .*other_files: skip"
    ):
        layout(*names, other_files="stop")


def test_a_class_folder_without_any_image_is_named():
    found = layout(*below("train/a", "train/b"), "train/boxes/1.xml", "train/boxes/2.xml")
    assert counts(found) == {("train", "a"): 2, ("train", "b"): 2}
    assert found.passed == {"train/boxes/": (0, 2)}


# ---- images in = images packed + images named


def random_tree(random: np.random.Generator) -> list[str]:
    """Names of files as people leave them, of one to four levels."""
    words = [
        "train",
        "Training",
        "val",
        "valid",
        "test",
        "TEST_SIMPLE",
        "unlabelled",
        "a",
        "b",
        "cats",
        NFC,
        NFD,
        "x y",
    ]
    words += ["images", "extra", ".hidden", "@eaDir", "masks", "notes"]
    files = [
        "1.png",
        "2.JPG",
        "3.tif",
        "4.webp",
        "n.txt",
        "GT.csv",
        "README",
        "noext",
        "Thumbs.db",
        "._1.png",
        "5.heic",
    ]
    kinds = random.choice(words, random.integers(1, 7), replace=False)
    depth = random.integers(0, 4)
    found = set()
    for _ in range(random.integers(1, 40)):
        parts = [str(random.choice(kinds)) for _ in range(depth if random.random() < 0.8 else random.integers(0, 4))]
        found.add("/".join([*parts, str(random.choice(files))]))
    return sorted(found)


def test_images_in_are_images_packed_and_images_named():
    random, understood = np.random.default_rng(0), 0
    for _ in range(4000):
        names = random_tree(random)
        try:
            found = layout(*names)
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith("x.zip: ")
            continue
        understood += 1
        packed = [entry.name for entry in found.entries]
        assert len(set(packed)) == len(packed) and set(packed) <= set(names)
        rest = set(names) - set(packed)
        images, others = (sum(place[kind] for place in found.passed.values()) for kind in (0, 1))
        assert images + others + sum(found.clutter.values()) == len(rest)
        visible = [
            name
            for name in rest
            if not any(part[0] == "." or part in ("@eaDir", "Thumbs.db") for part in name.split("/"))
        ]
        assert images == sum(is_image(tuple(name.split("/"))) for name in visible)
        assert all(is_image(tuple(name.split("/"))) for name in packed)
        tops = {name.split("/")[0] for name in visible} - {name.split("/")[0] for name in packed}
        assert all(any(place.startswith(top) for place in found.passed) for top in tops), "each top that is passed over"
    assert understood > 800


# ---- what a user brings, as `download` takes it


def bring(path: Path, tmp_path: Path, **arguments) -> tuple[str, dict[str, tuple[str, str]], dict[str, bytes]]:
    """What is told, name -> (split, label) and name -> bytes of what `fetch` left."""
    folder = tmp_path / f"raw{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    told = own.fetch(path, folder, lambda done: None, lambda argument: argument, **arguments)
    listing = own.images(folder)
    labels = [listing.classes[label] if label >= 0 else "" for label in listing.labels.tolist()]
    known = dict(zip(listing.names, zip(listing.splits.tolist(), labels, strict=True), strict=True))
    return told, known, {listing.names[index]: data for index, data in listing.read()}


FLAT = {f"pictures/im {index}é.png": encode(noise(8, 8, index, 3)) for index in range(6)}


def labels_csv(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("file", "label"), separator: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([header, *rows])
    return text.getvalue().encode()


@pytest.mark.parametrize("place", ["inside", "beside", "absolute"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "folder"])
def test_labels_for_a_part(tmp_path, kind, place):
    table = labels_csv([("im 0é.png", "cat"), ("pictures/im 1é.png", "dog"), ("im 2é", "cat"), ("im 3é.png", "")])
    files = FLAT | ({"labels.csv": table} if place == "inside" else {})
    write = write_folder if kind == "folder" else write_archive
    path = write(tmp_path / f"x.{kind}", files)
    (tmp_path / ("labels.csv" if place == "beside" else "other.csv")).write_bytes(table)
    labels = str(tmp_path / "other.csv") if place == "absolute" else "labels.csv"
    told, known, data = bring(path, tmp_path, labels=labels)
    assert [label for _, label in known.values()] == ["cat", "cat", "dog", "", "", ""]
    assert known["pictures/im 1é.png"] == ("train", "dog")
    assert data == FLAT
    assert told == "3 of 6 images are unlabelled"


def test_labels_and_folders_of_splits(tmp_path):
    files = {
        f"{split}/{index}.png": encode(noise(8, 8, index, 3))
        for split in ("train", "test", "extra")
        for index in range(3)
    }
    rows = [(f"{split}/{index}.png", "ab"[index % 2]) for split in ("train", "test") for index in range(2)]
    path = write_folder(tmp_path / "x", files | {"t.tsv": labels_csv(rows, separator="\t")})
    known = bring(path, tmp_path, labels="t.tsv")[1]
    assert Counter(known.values()) == {(split, label): 1 for split in ("train", "test") for label in "ab"} | {
        ("train", ""): 5
    }


def test_a_list_of_images(tmp_path):
    write_folder(tmp_path / "disk", FLAT | {"not named.png": b"1"})
    names = list(FLAT)
    rows = [(names[0], "a", "train"), (str(tmp_path / "disk" / names[1]), "b", "Testing"), (names[2], "a", "test")]
    rows += [(names[3], "b", "train"), (names[4], "", "")]
    (tmp_path / "disk" / "list.csv").write_bytes(labels_csv(rows, ("path", "label", "split"), ";"))
    told, known, data = bring(tmp_path / "disk" / "list.csv", tmp_path)
    assert Counter(known.values()) == {
        ("train", "a"): 1,
        ("train", "b"): 1,
        ("test", "a"): 1,
        ("test", "b"): 1,
        ("train", ""): 1,
    }
    assert set(data.values()) == {FLAT[name] for name in names[:5]}
    assert told == "1 of 5 images are unlabelled"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "empty; its first line must be file,label"),
        (b"im 0\xe9.png,cat\n", "no text in UTF-8"),
        (b"im.png,cat\nim2.png,dog\n", "its first line must name the columns"),
        (b"a,b,c\n1,2,3\n", "its columns are a, b, c; one must be called file"),
        (b"file,label\n", "names no images"),
        (b"file,label\nnone.png,cat\n", "1 of 1 files are not in"),
        ("file,label\nim 0é.png,cat\nim 0é.png,dog\n".encode(), "stands there twice"),
        ("file,label,split\nim 0é.png,cat,tomorrow\n".encode(), "line 2: split 'tomorrow' must be train, val or test"),
    ],
)
def test_lists_that_are_refused(tmp_path, table, message):
    path = write_folder(tmp_path / "x", FLAT | {"labels.csv": table})
    with pytest.raises(UserError) as error:
        bring(path, tmp_path, labels="labels.csv")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_two_images_have_needs_its_folder(tmp_path):
    path = write_folder(tmp_path / "x", {"a/1.png": b"1", "b/1.png": b"2", "t.csv": b"file,label\n1.png,cat\n"})
    with pytest.raises(UserError, match=r"'1.png' may be a/1.png, b/1.png; give its folder too"):
        bring(path, tmp_path, labels="t.csv")
    with pytest.raises(UserError, match=r"labels: 'gone.csv' is neither in it nor beside it"):
        bring(path, tmp_path, labels="gone.csv")


def test_a_dangling_link_is_called_one(tmp_path):
    path = write_folder(tmp_path / "x", tree())
    (path / "train/b/dangling.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"dangling.png: a dangling link, to .*gone.png"):
        bring(path, tmp_path)
