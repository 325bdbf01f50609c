"""What is published stands on committed rows: tables are what the rows give, and README quotes the tables."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from headstart.__main__ import main
from headstart.study import rows
from tests.checkouts import ROOT

PUBLISHED = sorted((ROOT / "sweeps" / "results").glob("*.csv"))
NUMBERS = re.compile(r"[+-]\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> Path:
    """docs/results, made anew from the committed rows."""
    folder = tmp_path_factory.mktemp("rebuilt")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["headstart", "results"])
        main()
    return folder / "docs" / "results"


def test_tables_and_figures_are_what_the_committed_rows_give(rebuilt):
    committed = ROOT / "docs" / "results"
    assert {file.name for file in rebuilt.iterdir()} == {file.name for file in committed.iterdir()}
    for file in (*rebuilt.glob("*.md"), *rebuilt.glob("*.svg")):
        assert file.read_text() == (committed / file.name).read_text(), f"{file.name}: make results"
    for file in rebuilt.glob("*.png"):
        with Image.open(file) as new, Image.open(committed / file.name) as old:
            assert new.size == old.size, f"{file.name}: make results"


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_rows_say_what_made_them(file):
    table = rows.read_csv(file)
    first, second, *_ = table.attrs["comments"]
    grid, done, all_of = re.match(
        r"(sweeps/\S+\.yaml) at commit [0-9a-f]{10}(?:, [0-9a-f]{10})*: (\d+) of (\d+) cells", first
    ).groups()
    assert (ROOT / grid).is_file() and Path(grid).stem == file.stem
    assert int(done) == len(table) <= int(all_of)
    hours = float(re.match(r"(\d+\.\d) hours of cells", second)[1])
    assert hours == pytest.approx(table["wall_seconds"].sum() / 3600, abs=0.06)


@pytest.mark.parametrize(
    ("file", "begin", "least"), [("README.md", "## What it finds", 10), ("docs/findings.md", "# Findings", 40)]
)
def test_no_interval_is_quoted_that_the_rows_do_not_give(rebuilt, file, begin, least):
    text = (ROOT / file).read_text()
    section = text.partition(begin)[2].partition("\n## ")[0] if file == "README.md" else text
    quoted = NUMBERS.findall(" ".join(section.split()))
    given = {number for page in rebuilt.glob("*.md") for number in NUMBERS.findall(page.read_text())}
    assert len(quoted) >= least
    assert set(quoted) <= given
