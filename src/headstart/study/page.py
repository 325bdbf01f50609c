"""A report as data, and the same report as one self-contained HTML page or as Markdown.

The page needs no network and no server: style, script, drawings and pictures are in it, and its policy forbids
everything else. Equal reports give equal bytes.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup, escape

from headstart.study import writing
from headstart.study.svg import TEMPLATES


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` between back-ticks. style: "", "lead" or "note"."""

    kind: ClassVar[str] = "text"
    words: str
    style: str = ""


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Chip:
    """A verdict in a word. tone: yes, no, open or plain."""

    words: str
    tone: str
    note: str = ""


@dataclass(frozen=True)
class Chips:
    """Verdicts side by side."""

    kind: ClassVar[str] = "chips"
    items: tuple[Chip, ...]


@dataclass(frozen=True)
class Figure:
    """Drawings from svg.panel, side by side where there is room.

    name: unique on its page, the anchor of links to it. caption: what is seen, on how many runs and seeds. legend: each
    series' mark (svg.key) and name. path: where it also lies as an SVG file, as seen from the page in Markdown.
    """

    kind: ClassVar[str] = "figure"
    name: str
    caption: str
    panels: tuple[Markup, ...]
    legend: tuple[tuple[Markup, str], ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG. alt: what it shows, for those who do not see it. path: as that of a figure."""

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    png: bytes
    alt: str
    path: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")


@dataclass(frozen=True)
class Column:
    """A heading. numeric: right-aligned, sorted as numbers; choose: the reader may pick one of its values."""

    title: str
    numeric: bool = False
    choose: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; sortable and to be copied. searchable: with a search field and choices.

    brief: Markdown, which neither sorts nor scrolls, names the page instead of repeating the rows.
    """

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | Chip, ...], ...]
    searchable: bool = False
    brief: bool = False


@dataclass(frozen=True)
class Details:
    """Blocks that are shown on demand."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Any, ...]


Block = Text | Points | Chips | Figure | Picture | Table | Details


@dataclass(frozen=True)
class Section:
    """A heading with an anchor, its name in the navigation ("" leaves it out) and what stands under it."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    short: str = ""
    level: int = 2


@dataclass(frozen=True)
class Page:
    """A report: the question it answers, what the answer is in a sentence, and its sections."""

    title: str
    question: str
    lead: str
    sections: tuple[Section, ...]


def table(
    name: str, caption: str, records: Sequence[dict[str, str]], numeric: Iterable[str] = (), **more: Any
) -> Table:
    """Return a table of records with equal keys, which are its headings."""
    numbers = set(numeric)
    columns = tuple(Column(title, title in numbers) for title in records[0]) if records else ()
    return Table(name, caption, columns, tuple(tuple(row.values()) for row in records), **more)


def to_html(page: Page) -> str:
    """Return the page as one HTML file's text."""
    drawing, style, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("drawing.css", "page.css", "page.js")
    )
    return str(_template(TEMPLATES).render(page=page, style=Markup(drawing + style), script=Markup(script)))


@cache
def _template(folder: Path) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline
    return environment.get_template("page.html.jinja")


def _inline(words: str) -> Markup:
    """Escape, and set what stands between back-ticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(words))))


def to_markdown(page: Page, link: str) -> str:
    """Return the page's text and tables as Markdown; drawings become their descriptions with a link into the page,
    or are shown where they lie as files.

    link: the HTML page's path as seen from the Markdown file.
    """
    parts = [f"# {page.title}", page.question, page.lead]
    for section in page.sections:
        parts.append(f"{'#' * section.level} {section.title}")
        parts += [_block(block, link) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, link: str) -> str:
    match block:
        case Text():
            return block.words
        case Points():
            return "\n".join(f"- {item}" for item in block.items)
        case Chips():
            return "  \n".join(f"**{chip.words}** {chip.note}".strip() for chip in block.items)
        case Figure() | Picture():
            return _drawn(block, link)
        case Table() if block.brief:
            return f"{block.caption} {len(block.rows)} rows: see the [page]({link}#{block.name})."
        case Table():
            return f"{block.caption}\n\n{_table(block)}"
        case Details():
            return "\n\n".join([f"{block.summary}:", *(_block(inner, link) for inner in block.blocks)])


def _drawn(block: Figure | Picture, link: str) -> str:
    labels = (
        [block.alt]
        if isinstance(block, Picture)
        else [html.unescape(label) for label in re.findall('aria-label="(.*?)"', "".join(block.panels))]
    )
    if block.path:
        return f"![{' '.join(labels)}]({block.path})\n\n{block.caption}"
    if isinstance(block, Picture):
        return f"[Picture]({link}#{block.name}): {block.caption} {block.alt}"
    return "\n".join([f"[Figure]({link}#{block.name}): {block.caption}", "", *(f"- {label}" for label in labels)])


def _table(block: Table) -> str:
    rows = [[cell.words if isinstance(cell, Chip) else cell for cell in row] for row in block.rows]
    numeric = {column.title for column in block.columns if column.numeric}
    return writing.markdown([column.title for column in block.columns], rows, numeric)
