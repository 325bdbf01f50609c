"""Parquet as the Hugging Face hub writes it, and WebDataset shards, each written by the library that people use."""

import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import encode, noise
from webdataset import TarWriter

from headstart.errors import UserError
from headstart.ingest import own
from headstart.ingest.formats import Listing

NAMES = ["zebra", "apple", "mule"]  # the hub keeps the order of its ClassLabel


def bring(path: Path, tmp_path: Path, **arguments) -> tuple[str, Listing]:
    folder = tmp_path / f"raw{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    told = own.fetch(path, folder, lambda done: None, lambda argument: argument, **arguments)
    return told, own.images(folder, **arguments)


def counts(listing: Listing) -> dict[tuple[str, str], int]:
    labels = [listing.classes[label] if label >= 0 else "" for label in listing.labels.tolist()]
    return dict(Counter(zip(listing.splits.tolist(), labels, strict=True)))


def parquet(path: Path, seeds: list[int], labels: list[int | None], column: str = "label", names=NAMES, **more) -> Path:
    """A file as `datasets` pushes it: image a struct of bytes and path, the ClassLabel's names in the metadata."""
    images = [{"bytes": encode(noise(8, 9, seed, 3)), "path": f"{seed}.png"} for seed in seeds]
    columns = {"image": pa.array(images), column: pa.array(labels, pa.int64()), **more}
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    features |= {name: {"names": NAMES, "_type": "ClassLabel"} for name in more}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_parquet_of_the_hub(tmp_path):
    hub = tmp_path / "hub"
    parquet(hub / "data" / "train-00000-of-00002.parquet", [0, 1, 2, 3], [0, 1, 2, 0])
    parquet(hub / "data" / "train-00001-of-00002.parquet", [4, 5], [1, 2])
    parquet(hub / "data" / "test-00000-of-00001.parquet", [6, 7, 8], [2, 1, 0])
    (hub / "README.md").write_text("card")
    told, listing = bring(hub, tmp_path)
    assert told == ""
    assert listing.classes == NAMES
    assert counts(listing) == {(split, name): n for split, n in (("train", 2), ("test", 1)) for name in NAMES}
    expected = {f"data/train-00000-of-00002.parquet:{row}": row for row in range(4)}
    expected |= {f"data/train-00001-of-00002.parquet:{row}": 4 + row for row in range(2)}
    expected |= {f"data/test-00000-of-00001.parquet:{row}": 6 + row for row in range(3)}
    read = {listing.names[index]: data for index, data in listing.read()}
    assert read == {name: encode(noise(8, 9, seed, 3)) for name, seed in expected.items()}
    truth = dict(zip(range(9), [0, 1, 2, 0, 1, 2, 2, 1, 0], strict=True))
    assert {name: listing.labels[k] for k, name in enumerate(listing.names)} == {
        name: truth[seed] for name, seed in expected.items()
    }


def test_one_parquet_file_and_labels_that_are_missing(tmp_path):
    told, listing = bring(parquet(tmp_path / "x.parquet", [0, 1, 2, 3], [0, -1, None, 1]), tmp_path)
    assert counts(listing) == {("train", "zebra"): 1, ("train", "apple"): 1, ("train", ""): 2}
    assert told == "2 of 4 images are unlabelled"
    assert listing.labels.tolist() == [1, 0, -1, -1] or listing.labels.tolist() == [0, 1, -1, -1]


def test_the_hubs_converted_folders_and_unlabelled_tests(tmp_path):
    parquet(tmp_path / "hub" / "default" / "train" / "0000.parquet", [0, 1], [0, 1])
    parquet(tmp_path / "hub" / "default" / "test" / "0000.parquet", [2, 3], [-1, -1])
    listing = bring(tmp_path / "hub", tmp_path)[1]
    assert counts(listing) == {("train", "zebra"): 1, ("train", "apple"): 1, ("train", ""): 2}


def test_two_labels_are_chosen_by_column(tmp_path):
    path = parquet(tmp_path / "c.parquet", [0, 1], [0, 1], "fine_label", coarse_label=pa.array([1, 2]))
    with pytest.raises(UserError, match="label_column: fine_label or label_column: coarse_label"):
        bring(path, tmp_path)
    assert set(counts(bring(path, tmp_path, label_column="coarse_label")[1])) == {("train", "apple"), ("train", "mule")}
    with pytest.raises(UserError, match="has no column 'colour'; it has image, fine_label, coarse_label"):
        bring(path, tmp_path, label_column="colour")


def test_plain_tables_of_bytes_and_texts(tmp_path):
    images = [encode(noise(8, 8, seed, 3)) for seed in range(3)]
    pq.write_table(pa.table({"img": images, "label": ["b", "a", "b"]}), tmp_path / "x.parquet")
    listing = bring(tmp_path / "x.parquet", tmp_path)[1]
    assert listing.classes == ["a", "b"] and [data for _, data in sorted(listing.read())] == [images[1], *images[::2]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no parquet file, or damaged"),
        ({"text": ["a"]}, "no column of encoded images called image among text"),
        ({"image": [b"1"], "label": [1.5]}, "must hold numbers or texts, not float"),
    ],
)
def test_parquet_that_is_refused(tmp_path, table, message):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 cut") if table is None else pq.write_table(pa.table(table), path)
    with pytest.raises(UserError) as error:
        bring(path, tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


# ---- WebDataset


def shard(path: Path, samples: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def sample(seed: int, **more) -> dict:
    return {"__key__": f"set/{seed:04d}", "png": encode(noise(8, 9, seed, 3)), **more}


def test_shards(tmp_path):
    shard(tmp_path / "wds" / "train-000000.tar", [sample(k, cls=k % 2) for k in range(4)])
    shard(tmp_path / "wds" / "train-000001.tar", [sample(k, cls=k % 2) for k in range(4, 6)])
    shard(tmp_path / "wds" / "test-000000.tar", [sample(k, json={"label": k % 2}) for k in range(6, 8)])
    (tmp_path / "wds" / "info.json").write_text("{}")
    told, listing = bring(tmp_path / "wds", tmp_path)
    assert told == "" and listing.classes == ["0", "1"]
    assert counts(listing) == {("train", "0"): 3, ("train", "1"): 3, ("test", "0"): 1, ("test", "1"): 1}
    read = {listing.names[index]: data for index, data in listing.read()}
    assert len(read) == 8
    assert all(data == encode(noise(8, 9, int(name[-8:-4]), 3)) for name, data in read.items())
    assert all(listing.labels[k] == int(name[-8:-4]) % 2 for k, name in enumerate(listing.names))


def test_one_shard_some_without_labels_or_image(tmp_path):
    samples = [sample(0, cls="cat"), sample(1, cls="dog"), sample(2), {"__key__": "set/0003", "txt": "no image"}]
    told, listing = bring(shard(tmp_path / "x.tar", samples), tmp_path)
    assert counts(listing) == {("train", "cat"): 1, ("train", "dog"): 1, ("train", ""): 1}
    assert told == "1 samples have no image; 1 of 3 images are unlabelled"


def test_shards_that_are_refused(tmp_path):
    path = shard(tmp_path / "x.tar", [sample(0, cls=1, jpg=encode(noise(8, 8, 0, 3), "JPEG"))])
    with pytest.raises(UserError, match=r"sample 'set/0000' has several images \((png, jpg|jpg, png)\)"):
        bring(path, tmp_path)
    path = shard(tmp_path / "y.tar", [{"__key__": "a", "cls": 1}])
    with pytest.raises(UserError, match="no sample of it has an image"):
        bring(path, tmp_path)
    with pytest.raises(UserError, match="a shard tells labels itself"):
        bring(path, tmp_path, labels="x.csv")


def test_a_tar_of_images_is_no_shard(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for seed in range(4):
            info, data = tarfile.TarInfo(f"{'ab'[seed % 2]}/{seed}.png"), encode(noise(8, 8, seed, 3))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert counts(bring(tmp_path / "x.tar", tmp_path)[1]) == {("train", "a"): 2, ("train", "b"): 2}
