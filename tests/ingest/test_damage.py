"""Damaged images stop before anything is kept, in a short line with a list; the same command sees what was repaired."""

import csv

import pytest
from known import settle
from samples import encode, noise, tree, write_folder

from headstart.errors import UserError
from stages import download, prepare


def test_many_damaged_images_are_a_short_line_and_a_list_and_a_repair_is_seen(workspace):
    bad = {f"train/a/bad{index:02}.png": encode(noise(8, 8, index, 3))[:60] for index in range(44)}
    folder = write_folder(workspace / "photos", tree(train=9) | bad | {"train/a/notes.txt": b"no image"})
    settle(workspace, {"datasets.yaml:mine.path": str(folder), "datasets.yaml:mine.image_size": 8})
    with pytest.raises(UserError) as error:
        download.main("mine")
    text = str(error.value)
    assert text.startswith(f"{folder}: 44 unreadable: train/a/bad00.png (") and " and 41 more; " in text
    assert "repair or remove them and run again, or set data.skip_unreadable" in text
    assert len(text) - 2 * len(str(workspace)) < 300 and "\n" not in text
    listed = workspace / ".cache" / "unreadable" / "mine.csv"
    assert text.endswith(f"all are listed in {listed}")
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    assert [row["file"] for row in rows] == sorted(bad) and all(row["reason"] for row in rows)
    assert not (workspace / "data" / "raw" / "mine").exists(), "nothing that DVC would keep"
    for name in bad:
        (folder / name).unlink()
    download.main("mine")
    prepare.main("mine")


def test_they_may_be_skipped_and_what_is_no_image_is_another_matter(workspace, capsys):
    files = tree(train=9) | {
        "train/a/bad.png": b"bad",
        "train/a/notes.txt": b"no image",
        "train/b/@eaDir/0.png": b"thumb",
    }
    folder = write_folder(workspace / "photos", files)
    own = {"datasets.yaml:mine.path": str(folder), "datasets.yaml:mine.image_size": 8}
    settle(workspace, own | {"data.skip_unreadable": True})
    download.main("mine")
    prepare.main("mine")
    told = capsys.readouterr().out
    assert "passed over: 1 .txt files, 1 hidden or of the system (@eaDir)" in told
    assert "mine: skipped 1 unreadable images" in told
    assert "of 2 classes, stored at 8 px; classes: a, b" in told
    settle(workspace, own)  # the damaged one is in what `download` left before
    with pytest.raises(UserError, match=r"run dvc repro -f download@mine, or set data\.skip_unreadable"):
        prepare.main("mine")
    key = "datasets.yaml:mine.decoder.images.other_files"
    settle(workspace, own | {"data.skip_unreadable": True, key: "stop"})
    with pytest.raises(
        UserError, match=r"holds what is no image: \.txt files; -S 'datasets.yaml:mine.decoder.images.other"
    ):
        download.main("mine")


def test_messages_name_the_command(workspace):
    folder = write_folder(
        workspace / "pacs",
        {f"{d}/{c}/{i}.png": encode(noise(8, 8, i, 3)) for d in "ps" for c in "xy" for i in range(3)},
    )
    settle(workspace, {"datasets.yaml:mine.path": str(folder), "datasets.yaml:mine.image_size": 8})
    with pytest.raises(UserError, match=r"-S 'datasets\.yaml:mine\.decoder\.images\.class_level=2'"):
        download.main("mine")
    settle(workspace, {"datasets.yaml:mine.path": str(folder), "datasets.yaml:mine.decoder": "image_folder"})
    with pytest.raises(UserError, match=r"-S 'datasets\.yaml:mine\.decoder={image_folder: {class_level: 2}}'"):
        download.main("mine")
