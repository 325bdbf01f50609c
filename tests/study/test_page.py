"""The report's page: what stands on it, as HTML and as Markdown, on every kind of rows."""

import itertools
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from headstart.__main__ import main
from headstart.study import claims, curves, figures, lines, page, rows, svg
from headstart.study.comparison import comparison
from tests.study.runs import make, needs_paper

ROOT = Path(__file__).parents[2]


def build(runs, *names, **options):
    data = rows.finished(runs.drop(columns="failed", errors="ignore"), "synthetic")
    answers = claims.evaluate(data.runs, names or ["C1"])
    return comparison(data, answers, source="synthetic runs", score="top1", margin=1.0, **options)


def section(content, name):
    return next(part for part in content.sections if part.name == name)


@pytest.fixture
def write(monkeypatch, capsys, tmp_path):
    """`write(*options)`: the page that the command writes, and what it prints."""

    def call(*options, out="page.html"):
        monkeypatch.setattr(sys, "argv", ["headstart", "report", "--out", str(tmp_path / out), *map(str, options)])
        main()
        return (tmp_path / out).read_text(), capsys.readouterr().out

    return call


class Checker(HTMLParser):
    """Open elements at the end, and every attribute."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_whole_file_that_names_no_other():
    text = page.to_html(build(make(lambda row: 0.8), "C1", "C2", "C7"))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert ("content", policy) in checker.attributes
    linked = [value for name, value in checker.attributes if name in ("src", "href", "action", "data")]
    assert linked and all(value.startswith(("#", "data:")) for value in linked)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text


def test_equal_runs_give_equal_bytes():
    first, second = (page.to_html(build(make(lambda row: 0.8))) for _ in range(2))
    assert first == second


def test_the_verdict_and_its_numbers_stand_on_the_page_with_and_without_failed_runs():
    runs = make(lambda row: 0.8 + 0.02 * (row["projector_init"] == "autoencoder"))
    runs.loc[0, "probe_test_top1"] = 0.3
    content = build(runs)
    answer = claims.evaluate(rows.finished(runs.drop(columns="failed"), "x").runs, ["C1"])[0]
    chips = section(content, "C1").blocks[0].items
    assert [(chip.words, chip.note.partition(";")[0]) for chip in chips] == [
        (answer.everything.verdict, "all runs"),
        (answer.without_failed.verdict, "without failed runs"),
    ]
    text = page.to_markdown(content, "page.html")
    assert answer.everything.reason in text and answer.without_failed.reason in text
    value, (low, high) = answer.everything.effects[0].value, figures.hull(answer.everything.effects, FIRST)
    assert f"digits {value:+.2f} [{low:.2f}, {high:.2f}]" in text
    assert "1 failed" in section(content, "distribution").blocks[0].caption


FIRST = "autoencoder (frozen) - random (trainable)"


def test_a_single_run_gets_a_sentence_in_place_of_numbers(write, tmp_path):
    runs = make(lambda row: 0.8, arms=[("random", False)], out=[64], activations=["relu"], seeds=[0])
    (tmp_path / "one.csv").write_text(rows.to_csv(runs))
    text, said = write("--rows", tmp_path / "one.csv")
    assert "1 run, 1 seed: nothing to compare. Run <code>dvc exp run --queue -S" in text
    assert "There is no run of autoencoder (frozen)." in text
    assert "No run has" not in text and "nan" not in re.sub("<script>.*", "", text, flags=re.DOTALL)
    assert said.startswith(f"{tmp_path / 'page.html'}: 1 run, 0.") and (tmp_path / "page.md").exists()


def test_missing_controls_are_named_with_the_commands_that_make_them():
    text = page.to_markdown(build(make(lambda row: 0.8), "C7"), "page.html")
    assert "Controls without matching runs: random (frozen), random_matched (frozen)" in text
    assert "`dvc exp run -S projector.init=orthogonal -S projector.freeze=true`" in text


def test_what_cannot_be_read_is_one_line(write, tmp_path):
    text = rows.to_csv(make(lambda row: 0.8))
    (tmp_path / "unknown.csv").write_text(text.replace("seed", "sede", 1))
    (tmp_path / "empty.csv").write_text(text.splitlines()[0] + "\n")
    for options, words in (
        (["--rows", tmp_path / "unknown.csv"], "column 'sede' is unknown (nearest: seed)"),
        (["--rows", tmp_path / "empty.csv"], "empty.csv: no finished run (0 rows read)"),
        (["--rows", "publishd"], "--rows publishd: must be published, published_rbf, dvc, mlflow or a CSV file"),
        (["--rows", tmp_path / "empty.csv", "--margin", "0"], "--margin 0: must be above 0"),
    ):
        with pytest.raises(SystemExit, match=re.escape(words)) as end:
            write(*options)
        assert "\n" not in end.value.code
    with pytest.raises(SystemExit, match=r"page\.txt: must end in \.html"):
        write("--rows", tmp_path / "empty.csv", out="page.txt")
    assert not list(tmp_path.glob("page*"))


def test_rows_of_several_sources_stand_on_one_page(write, tmp_path):
    for name, arm in (("a", ("autoencoder", True)), ("b", ("random", False))):
        (tmp_path / f"{name}.csv").write_text(rows.to_csv(make(lambda row: 0.8, arms=[arm])))
    text, _ = write("--rows", tmp_path / "a.csv", "--rows", tmp_path / "b.csv", "--claim", "C1")
    assert "Headstart: a.csv and b.csv" in text and "over 30 pairs" in text


def test_what_others_wrote_stays_text_everywhere():
    runs = make(lambda row: 0.8)
    runs["dataset"] = '<i onload="x">'
    runs["run"] = "a|<script>"
    content = build(runs)
    text = page.to_html(content)
    assert "<i onload" not in text and text.count("<script>") == 1
    assert "| a\\|<script> |" in page.to_markdown(content, "page.html")


def test_a_dataset_of_two_protocols_is_drawn_as_two():
    runs = make(lambda row: 0.8)
    runs.loc[::2, "protocol"] = "q"
    half = len(runs) // 2
    assert set(figures.labelled(runs)["group"]) == {f"digits, {half} runs p", f"digits, {half} runs q"}


def test_protocols_are_named_by_what_differs_between_them():
    runs = make(lambda row: 0.8)
    runs.loc[::2, "protocol"] = "q"
    runs["settings"] = runs["protocol"].map(
        {"p": '{"simclr.temperature": 0.2, "simclr.epochs": 5}', "q": '{"simclr.temperature": 0.5, "simclr.epochs": 5}'}
    )
    named = {"digits, temperature 0.2", "digits, temperature 0.5"}
    assert set(figures.labelled(runs)["group"]) == named
    content = page.to_html(build(runs))
    assert all(name in content for name in named) and "mean over 2 datasets" not in content
    runs["settings"] = ""  # rows of a file: what their columns say
    runs["epochs"] = runs["protocol"].map({"p": 5.0, "q": 10.0})
    assert set(figures.labelled(runs)["group"]) == {"digits, epochs 5", "digits, epochs 10"}


def test_the_table_of_runs_has_their_names_and_what_differs():
    content = build(make(lambda row: 0.8, hidden=(64, 128)))
    (table,) = [
        block for part in content.sections for block in part.blocks if getattr(block, "name", "") == "runs-table"
    ]
    titles = [column.title for column in table.columns]
    assert titles[:3] == ["run", "init", "first layer"] and "hidden" in titles
    assert "dataset" not in titles and "dataset digits" in table.caption, "equal in all runs"


def test_heat_map_cells_are_the_means_of_their_runs():
    runs = make(lambda row: 0.5 + row["projector_hidden_dim"] / 1000, hidden=(64, 128), noise=0)
    ((_, figure),) = figures.heat_maps(runs)
    assert len([panel for panel in figure.panels if "aria-label" in panel]) == 4  # two arms, two activations
    assert "64-32 56.4, 64-64 56.4, 64-128 56.4, 128-32 62.8" in figure.panels[0]
    both = make(lambda row: 0.5 + 0.2 * (row["dataset"] == "b"), datasets=("a", "b"), noise=0)
    (name, overall), *single = figures.heat_maps(both)
    assert name == figures.MEAN and [name for name, _ in single] == ["a", "b"]
    assert "128-32 +0.0" in overall.panels[0]


RUNS = (("a", 0, (5, 3)), ("b", 1, (4, 2)))


def test_curves_are_averaged_within_an_arm_and_a_lost_value_breaks_the_line():
    def rows_of(*losses):
        return [{"epoch": str(k), "train_loss": str(loss), "val_loss": "nan"} for k, loss in enumerate(losses, 1)]

    found = [curves.curve(run, "digits", "digits", "random", seed, rows_of(*losses)) for run, seed, losses in RUNS]
    figure = lines.figure(curves.plot("nt_xent"), [*found[0], *found[1]], ["autoencoder", "random"])
    assert "random: training loss 4.50 to 2.50 over 2 epochs" in figure.panels[0]
    assert [name for _, name in figure.legend] == ["random"] and figure.caption.endswith(" 2 runs, 2 seeds.")
    assert svg.curve([(0, 0), (1, math.nan), (2, 2)], "s0").count("M") == 2


def test_curves_come_from_the_commits_of_experiments_and_from_the_workspace(tmp_path):
    def git(*words):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / curves.CURVES
    file.parent.mkdir(parents=True)
    git("init", "-qb", "main")
    for branch, loss in (("main", 5), ("exp", 4)):
        file.write_text(f"dataset,epoch,train_loss,val_loss,learning_rate\ndigits,1,{loss},{loss},0.1\n")
        git("add", ".")
        git("commit", "-qm", branch)
    git("update-ref", f"refs/exps/ab/{'0' * 38}/wild-name", "HEAD")
    git("update-ref", "refs/heads/main", "HEAD~")
    file.write_text(file.read_text().replace("digits,1,4", "digits,1,3"))
    asked = [(run, "digits", "digits", "random", 0) for run in ("main", "wild-name", "workspace", "gone")]
    asked.append(("main", "other", "other", "random", 0))
    found = lines.read_experiments(tmp_path, curves.CURVES, asked, curves.curve)
    losses = {"main": (5, 5), "wild-name": (4, 4), "workspace": (3, 4)}
    assert [(item.run, item.points, item.dashed) for item in found] == [
        (run, {1: loss}, dashed)
        for run, both in losses.items()
        for loss, dashed in zip(both, (False, True), strict=True)
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 8.1), (0.0049, 0.0061), (20, 1e6), (7.99, 8.01)])
def test_ticks_are_round_and_within(low, high):
    marks = svg.ticks(low, high)
    assert 2 <= len(marks) <= 6 and low - 1e-9 <= marks[0] and marks[-1] <= high + 1e-9
    steps = {round(math.log10(b - a) % 1, 6) for a, b in itertools.pairwise(marks)}
    assert steps <= {0.0, 0.30103, 0.69897, 1.0}
    assert len({svg.number(value, marks) for value in marks}) == len(marks)
    for shown in (marks, marks[::2], marks[1:2]):
        for value in shown:
            said = float(svg.number(value, shown).replace("−", "-"))
            assert said == pytest.approx(value, rel=1e-9, abs=1e-12), "what is printed is where the tick stands"


def test_a_scale_of_shares_ends_at_a_hundred_percent():
    _, marks = svg.scale([97.0, 100.0], 0, 100, limits=svg.PERCENT)
    position, _ = svg.scale([97.0, 100.0], 0, 100, limits=svg.PERCENT)
    assert max(marks) == 100 and position(100.0) == 100
    assert svg.number(0.0045, [0.0035, 0.0045]) == "0.0045"


def test_a_scale_maps_its_range_and_survives_none():
    at, _ = svg.scale([1, 3], 0, 100, pad=0)
    assert [at(1), at(2), at(3)] == [0, 50, 100]
    for values in ([], [math.nan], [4.0], [0.0, math.inf]):
        at, marks = svg.scale(values, 0, 100)
        assert all(0 <= at(mark) <= 100 for mark in marks)


def test_the_published_figures_stand_on_their_page(write):
    paper = needs_paper()
    text, _ = write("--rows", "published", "--published-dir", paper / "simclr-ae-results", "--claim", "C1")
    assert "765 runs, 5 datasets, 1 seed. 48 failed" in text
    assert "+2.81 points [2.16, 3.47] over 360 pairs" in text and "Best run minus best run: +1.74 on average" in text
    assert "an arbitrary tie-break moves the mean between 0.46 and 0.94" in text
    assert "imagenette +1.40 [-1.37, 4.17]" in text  # in the drawing's description
    assert "720 runs, 1 seed" in text and len(text) < 3e6
    speeds = re.findall(r'<td>(\w+)</td><td class="n">153</td>.*?<td class="n">(\d+)</td></tr>', text)
    known = {"cifar10": "1042", "cifar100": "987", "fgvc_aircraft": "81", "imagenette": "187", "stl10": "307"}
    assert dict(speeds) == known
