"""A drawing as PDF, for a paper: the SVG's light colours, as vectors."""

import re

from headstart.errors import UserError


def to_pdf(drawing: str) -> bytes:
    """Return the text of an SVG file, as svg.standalone makes it, as a PDF of one page.

    Raises UserError where cairosvg, or the library that it draws with, is not installed.
    """
    try:
        from cairosvg import svg2pdf
    except (ImportError, OSError) as error:  # OSError: without libcairo
        raise UserError(
            f"a PDF needs cairosvg (make optional) and libcairo (Debian: libcairo2): {error}".splitlines()[0]
        ) from None
    return bytes(svg2pdf(bytestring=in_light(drawing).encode(), background_color="white"))


def in_light(drawing: str) -> str:
    """Return a drawing whose style has no variables and no dark variant, which cairosvg does not know."""
    head, _, rest = drawing.partition("<style>")
    style, _, rest = rest.partition("</style>")
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", style)
    for name, value in re.findall(r"--([\w-]+):\s*([^;]+);", style):
        style = style.replace(f"var(--{name})", value)
    return f"{head}<style>{style.replace('.paper { fill: #fbfbf9; }', '.paper { fill: none; }')}</style>{rest}"
