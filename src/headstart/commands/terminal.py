"""Tables for those who read at a terminal, within its width."""

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.errors import printable


def is_terminal() -> bool:
    """Return whether somebody reads what is printed; if not, it goes into a file or a program."""
    return sys.stdout.isatty()


def width() -> int:
    """Return the terminal's columns."""
    return Console().width


def draw(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Print a table that fits the terminal: long cells break, nothing is cut. right: headings of numbers."""
    numbers, rows = set(right), list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, cells in zip(headings, zip(*rows, strict=True), strict=True):
        wide = max(map(len, cells)) if title in numbers else None  # numbers stay whole
        side = "right" if title in numbers else "left"
        table.add_column(Text(printable(title)), justify=side, overflow="fold", min_width=wide)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def tell(*lines: str) -> None:
    """Print lines, broken between words at the terminal's width."""
    console = Console()
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=False)
