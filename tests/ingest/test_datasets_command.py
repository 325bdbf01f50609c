"""`python -m headstart datasets`: one line per block of datasets.yaml, readable, fast, the same as JSON."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from known import ROOT, archives
from publications import PUBLICATIONS

from headstart.commands.datasets import read_rows, to_json, to_text
from headstart.errors import UserError


@pytest.fixture
def blocks(workspace) -> Path:
    shutil.copy(ROOT / "datasets.yaml", workspace)
    return workspace / "datasets.yaml"


def test_every_block_is_a_line_of_at_most_120_columns(blocks):
    rows = read_rows(blocks)
    tree = yaml.safe_load(blocks.read_text())
    assert [row["name"] for row in rows] == [name for name in tree if name != "same"]
    lines = to_text(rows).splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1 : 1 + len(rows)]] == [row["name"] for row in rows]
    assert not any("\t" in line or line != line.rstrip() for line in lines)


def test_numbers_are_those_of_the_file(blocks):
    rows = {row["name"]: row for row in json.loads(to_json(read_rows(blocks)))}
    assert rows["stl10_unlabelled"]["num_images"] == {"train": 5000, "test": 8000, "unlabelled": 100000}
    assert rows["gtsrb"]["num_bytes"] == sum(archive.num_bytes for archive in archives("gtsrb"))
    assert rows["country211"]["num_bytes"] is None  # not published
    assert rows["dermamnist"]["licence"] == "CC BY-NC 4.0"
    text = to_text(list(rows.values()))
    assert "276.6 MB" in text and "100,000" in text


def test_what_is_here(blocks, workspace):
    def here() -> dict[str, str]:
        return {row["name"]: row["here"] for row in read_rows(blocks)}

    assert set(here().values()) == {"no"}
    raw = workspace / "data/raw/mnist"
    raw.mkdir(parents=True)
    PUBLICATIONS["mnist"](raw)
    assert here()["mnist"] == "raw"
    prepared = workspace / "data/prepared/mnist"
    prepared.mkdir(parents=True)
    assert here()["mnist"] == "raw"  # a folder without its meta file is not finished
    (prepared / "meta.json").write_text("{}")
    assert here()["mnist"] == "prepared"


BLOCK = "{decoder: mnist, archives: , path: , about: }"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "datasets.yaml: No such file or directory; run from the repository's root"),
        ("x: [", "datasets.yaml: not valid YAML: while parsing "),
        ("[]", "datasets.yaml: must be a mapping of "),
        ("x:", "datasets.yaml: x: None is no block of a dataset"),
        ("x: [1]", "datasets.yaml: x: [1] is no block of a dataset"),
        ("x: {path: }", "datasets.yaml: x.decoder: missing key"),
        ("x: {decoder: mnist}", "datasets.yaml: x.archives: missing key"),
        (f"x: {BLOCK.replace('mnist', 'cifar11')}", "datasets.yaml: x.decoder: 'cifar11' must be one of digits, "),
        (f"x: {BLOCK.replace('mnist', '[]')}", "datasets.yaml: x.decoder: [] must be a decoder's name, or "),
        (f"x: {BLOCK.replace('mnist', 'emnist')}", "datasets.yaml: x.decoder: 'emnist' must give emnist its arguments"),
        (f"x: {BLOCK.replace('archives: ', 'archives: [x.zip]')}", "datasets.yaml: x: no block of a dataset: "),
        (f"x: {BLOCK.replace('about: ', 'about: [x]')}", "datasets.yaml: x: no block of a dataset: "),
        (f"x: {BLOCK.replace('about: ', 'about: {num_images: 7}')}", "datasets.yaml: x: no block of a dataset: "),
        (f"x: {BLOCK.replace('about: ', 'about: {num_images: {train: many}}')}", "datasets.yaml: x: no block of a "),
        (f"x: {BLOCK.replace('archives: ', 'archives: [{file: x, num_bytes: 9 MB}]')}", "datasets.yaml: x: no block "),
    ],
)
def test_a_file_that_cannot_be_read(blocks, text, message):
    blocks.unlink() if text is None else blocks.write_text(text)
    with pytest.raises(UserError) as error:
        to_text(read_rows(Path("datasets.yaml")))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_ones_own_images(blocks):
    """A line, also before the path is known; archives need not say how large they are."""
    with blocks.open("a") as file:
        file.write(f"own: {BLOCK}\nother: {BLOCK.replace('archives: ', 'archives: [{file: x.gz, urls: []}]')}\n")
    rows = {row["name"]: row for row in read_rows(blocks)}
    assert (rows["own"]["files"], rows["own"]["num_bytes"], rows["own"]["licence"]) == ([], 0, "yours")
    assert (rows["other"]["files"], rows["other"]["num_bytes"]) == (["x.gz"], None)


def test_command_line_takes_no_torch(blocks, workspace):
    code = (
        "import sys, headstart.__main__ as m; sys.argv[1:] = ['datasets', '--format', 'json']; m.main(); "
        "assert not {'torch', 'scipy', 'sklearn', 'pandas'} & set(sys.modules), 'heavy imports'"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)) == len(read_rows(blocks))
