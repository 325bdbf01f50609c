"""Tables as text, with cells that each format must escape."""

import csv
import io
import math

from headstart.study import writing

HEADINGS = ["name", "points"]


def test_markdown_escapes_bars_and_says_how_cells_stand():
    rows = [["a|b", "1.0"], ["c", ""]]
    assert writing.markdown(HEADINGS, rows, {"points"}).splitlines() == [
        "| name | points |",
        "| --- | --: |",
        "| a\\|b | 1.0 |",
        "| c |  |",
    ]
    assert writing.markdown(["x|y"], [], ()) == "| x\\|y |\n| --- |"
    assert writing.markdown(HEADINGS, rows).splitlines()[1] == "|---|---|"


def test_csv_quotes_what_it_must_and_keeps_every_digit():
    cells = ['say "a, b"', "two\nlines", 0.1 + 0.2, math.nan, None, 3]
    text = writing.csv(list("abcdef"), [cells])
    (line,) = csv.DictReader(io.StringIO(text))
    assert [line["a"], line["b"], line["d"], line["e"], line["f"]] == [*cells[:2], "", "", "3"]
    assert float(line["c"]) == 0.1 + 0.2
    assert text.startswith('a,b,c,d,e,f\n"say ""a, b""","two\nlines",') and text.endswith(",,,3\n")


def test_latex_escapes_all_that_is_special():
    text = writing.latex(HEADINGS, [["50 % of $x_1$ & {y}", "#2"], ["a\\b~c^d", "−1–2"]], "Of 1 %", "tab:x")
    lines = text.splitlines()
    assert lines.pop(2) == "\\label{tab:x}"
    assert lines[:4] == ["\\begin{table}", "\\caption{Of 1 \\%}", "\\begin{tabular}{ll}", "\\toprule"]
    assert lines[4:6] == ["name & points \\\\", "\\midrule"]
    assert lines[6] == "50 \\% of \\$x\\_1\\$ \\& \\{y\\} & \\#2 \\\\"
    assert lines[7] == "a\\textbackslash{}b\\textasciitilde{}c\\textasciicircum{}d & $-$1--2 \\\\"
    assert lines[8:] == ["\\bottomrule", "\\end{tabular}", "\\end{table}"]


def test_numbers_that_are_unknown_say_so():
    assert [writing.number(value, ".1f") for value in (1.25, None, math.nan)] == ["1.2", "–", "–"]
    assert writing.number(math.nan, ".1f", unknown="") == ""
    assert writing.span(1, -0.5, 2.25) == "+1.00 [-0.50, 2.25]" and writing.span(-1, math.nan, math.nan) == "-1.00"
    assert (writing.counted(1, "run"), writing.counted(2, "run")) == ("1 run", "2 runs")
