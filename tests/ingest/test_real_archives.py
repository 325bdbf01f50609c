"""Every real archive at hand: what `download` and `prepare` leave against a reader that shares no code with them."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from known import given, settle
from PIL import Image

from stages import download, prepare

FOLDER = os.environ.get("HEADSTART_TEST_DATA", "")
ARCHIVES = (
    sorted(path.relative_to(FOLDER).as_posix() for path in Path(FOLDER).rglob("*.zip")) if FOLDER else ["any.zip"]
)


def independent(path: Path) -> tuple[list[str], dict[str, list[tuple[str, str, bytes]]]]:
    """Classes, and split -> (class, name, pixels) by zipfile and Pillow alone: [split/]class/file, as the names say."""
    found: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "val": [], "test": []}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith((".png", ".jpg", ".jpeg")):
                *split, label, _ = name.split("/")
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    found[split[0] if split else "train"].append((label, name, image.convert("RGB").tobytes()))
    return sorted({label for rows in found.values() for label, _, _ in rows}), found


@pytest.mark.parametrize("name", ARCHIVES)
def test_counts_labels_and_pixels_are_those_of_an_independent_reader(name, workspace, capsys):
    path = given(name)
    classes, expected = independent(path)
    with zipfile.ZipFile(path) as archive:
        first = next(member for member in archive.namelist() if member.lower().endswith((".png", ".jpg")))
        side = min(Image.open(io.BytesIO(archive.read(first))).size)
    settle(workspace, {"datasets.yaml:mine.path": str(path), "datasets.yaml:mine.image_size": side})
    download.main("mine")
    prepare.main("mine")
    folder = workspace / "data" / "prepared" / "mine"
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["classes"] == classes and meta["stored_size"] == side and not meta["skipped"]
    seen = {}
    for split in ("train", "val", "test"):
        images, labels = (np.load(folder / f"{split}_{part}.npy") for part in ("images", "labels"))
        seen[split] = [(classes[label], image.tobytes()) for image, label in zip(images, labels, strict=True)]
    for split in [split for split in ("val", "test") if expected[split]]:
        assert seen.pop(split) == [(label, data) for label, _, data in sorted(expected[split])]
    cut = [row for rows in seen.values() for row in rows]  # of train, where it is not published
    assert sorted(cut) == sorted((label, data) for label, _, data in expected["train"])
    told = capsys.readouterr().out
    assert f"of {len(classes)} classes, stored at {side} px; classes: {classes[0]}, {classes[1]}" in told
    assert "passed over" not in told
