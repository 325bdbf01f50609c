"""The report's pages in Debian's chromium, driven by Playwright; no browser is downloaded."""

import os
import shutil
from pathlib import Path

import pytest

from headstart.study import claims, page, rows
from headstart.study.comparison import comparison
from tests.study.runs import make

MISSING = "the browser tests need chromium: apt-get install chromium (Debian), or another chromium on the PATH"


@pytest.fixture(scope="session")
def chromium():
    """A running headless chromium. Without one the tests are skipped, but fail where CI=true."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """The page on 96 synthetic runs, two of which failed; a run's name is hostile to HTML, CSV, Markdown and LaTeX."""
    table = make(
        lambda row: (0.7 if row["dataset"] == "digits" else 0.5) + 0.02 * (row["projector_init"] == "autoencoder"),
        datasets=("digits", "mine"),
        hidden=(64, 128),
        seeds=(0, 1),
    )
    table["run"] = [f"run-{number}" for number in range(len(table))]
    table.loc[0, "run"] = HOSTILE
    table.loc[[3, 5], "probe_test_top1"] = 0.1
    table["train_seconds"] = 60.0 + table.index
    table.loc[7, "val_loss"] = float("nan")
    data = rows.finished(table.drop(columns="failed"), "synthetic")
    answers = claims.evaluate(data.runs, ["C1", "C7"])
    content = comparison(data, answers, source="synthetic runs", score="top1", margin=1.0, notes=["A <b>note</b>."])
    path = tmp_path_factory.mktemp("page") / "report page.html"
    path.write_text(page.to_html(content), encoding="utf-8")
    return path


HOSTILE = 'a|b, "c" & 50% $x_1 <script>document.title="bad"</script>'
