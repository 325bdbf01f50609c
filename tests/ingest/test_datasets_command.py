"""`python -m headstart datasets`: one line per row of params.yaml, readable, fast, the same as JSON."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from headstart.ingest.table import KINDS
from publications import PUBLICATIONS

from headstart.commands.datasets import read_rows, to_json, to_text
from headstart.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(workspace) -> Path:
    shutil.copy(ROOT / "params.yaml", workspace)
    return workspace / "params.yaml"


def test_every_row_of_params_is_a_line_of_at_most_120_columns(params):
    rows = read_rows(params)
    tree = yaml.safe_load(params.read_text())["data"]
    assert [row["name"] for row in rows] == [name for name, row in tree.items() if isinstance(row, dict)]
    lines = to_text(rows).splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1 : 1 + len(rows)]] == [row["name"] for row in rows]
    assert not any("\t" in line or line != line.rstrip() for line in lines)


def test_numbers_are_those_of_the_table(params):
    rows = {row["name"]: row for row in json.loads(to_json(read_rows(params)))}
    assert rows["stl10_unlabelled"]["num_images"] == {"train": 5000, "test": 8000, "unlabelled": 100000}
    assert rows["gtsrb"]["num_bytes"] == sum(archive.num_bytes for archive in KINDS["gtsrb"].archives)
    assert rows["country211"]["num_bytes"] is None  # not published
    assert rows["dermamnist"]["licence"] == "CC BY-NC 4.0"
    text = to_text(list(rows.values()))
    assert "276.6 MB" in text and "100,000" in text


def test_what_is_here(params, workspace):
    def here() -> dict[str, str]:
        return {row["name"]: row["here"] for row in read_rows(params)}

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "params.yaml: No such file or directory; run from the repository's root"),
        ("data: [", "params.yaml: no rows of datasets in it"),
        ("datasets: []", "params.yaml: no rows of datasets in it"),
        ("data: {x: {kind: cifar11}}", "params.yaml: datasets.yaml:x.decoder: 'cifar11' must be one of digits, "),
    ],
)
def test_a_file_that_cannot_be_read(params, text, message):
    params.unlink() if text is None else params.write_text(text)
    with pytest.raises(UserError) as error:
        read_rows(Path("params.yaml"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_command_line_takes_no_torch(params, workspace):
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
    assert len(json.loads(result.stdout)) == len(read_rows(params))
