"""Tables as text: headings and rows in, Markdown, CSV or LaTeX out; and how numbers with bounds read in them."""

import csv as csv_
import io
import math
from collections.abc import Collection, Iterable, Sequence

UNKNOWN = "–"  # in a cell that has no number

Cells = Iterable[Sequence[str]]

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$"}


def markdown(headings: Sequence[str], rows: Cells, numeric: Collection[str] | None = None) -> str:
    """Return a table in Markdown without a newline at its end; a | in a cell is escaped.

    numeric: the headings whose cells stand to the right; None says nothing of how cells stand.
    """
    if numeric is None:
        rule = "|" + "---|" * len(headings)
    else:
        rule = _piped(["--:" if title in numeric else "---" for title in headings])
    escaped = (_piped([cell.replace("|", "\\|") for cell in row]) for row in (headings, *rows))
    first, *rest = escaped
    return "\n".join([first, rule, *rest])


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def csv(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV, lines ending in a newline: numbers at full precision, NaN and None as empty cells.

    For people, who open it in a spreadsheet: a text that would be a formula there begins with a quotation mark.
    """
    file = io.StringIO()
    writer = csv_.writer(file, lineterminator="\n")
    writer.writerow([_no_formula(title) for title in headings])
    writer.writerows([None if cell != cell else _no_formula(cell) for cell in row] for row in rows)
    return file.getvalue()


def _no_formula(cell: object) -> object:
    """A text that a spreadsheet would compute, or send somewhere, as a text; a number in words stays one."""
    if not isinstance(cell, str) or cell[:1] not in tuple("=+-@\t\r"):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def latex(headings: Sequence[str], rows: Cells, caption: str, label: str, columns: Sequence[str] = ()) -> str:
    """Return a table in LaTeX (booktabs) with caption and label; everything special in the texts is escaped.

    columns: how they stand (default: all to the left), as `p{3cm}` for one that breaks its lines.
    """
    lines = (f"{' & '.join(map(escaped, row))} \\\\" for row in (headings, *rows))
    first, *rest = lines
    return "\n".join(
        [
            "\\begin{table}",
            f"\\caption{{{escaped(caption)}}}",
            f"\\label{{{label}}}",
            f"\\begin{{tabular}}{{{''.join(columns) or 'l' * len(headings)}}}",
            *("\\toprule", first, "\\midrule", *rest, "\\bottomrule"),
            *("\\end{tabular}", "\\end{table}"),
        ]
    )


def escaped(text: str) -> str:
    """Return the text as LaTeX sets it."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def counted(number: int, word: str) -> str:
    """Return "1 run" or "2 runs"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def gain(value: float, low: float, high: float) -> str:
    """Return a difference with its interval, or that it has none; what stands for an unknown one where it is NaN."""
    if math.isnan(value):
        return UNKNOWN
    return span(value, low, high) + (" no interval" if math.isnan(low) else "")


def points(number: float) -> str:
    """Return "1 point" or "0.5 points"."""
    return f"{number:g} point{'' if number == 1 else 's'}"


def number(value: float | None, style: str, unknown: str = UNKNOWN) -> str:
    """Return a number in a style of `format`, or what stands for an unknown one: None or NaN."""
    return unknown if value is None or math.isnan(value) else format(value, style)


def bounds(low: float, high: float) -> str:
    """Return an interval's bounds; "" where they are unknown."""
    return "" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def span(value: float, low: float, high: float) -> str:
    """Return a difference with the bounds of its interval, where they are known."""
    return f"{value:+.2f} {bounds(low, high)}".rstrip()
