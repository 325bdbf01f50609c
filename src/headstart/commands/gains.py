"""Print what one factor changes, by any axis of the runs, and draw it."""

import argparse

from headstart.commands import terminal
from headstart.commands.compare import SOURCES, read
from headstart.errors import UserError
from headstart.run.stage import say
from headstart.study import gains as study
from headstart.study import rows
from headstart.study.pdf import to_pdf

WIDE = 100  # columns of a terminal in which the whole table fits


def gains(options: argparse.Namespace) -> None:
    """Print the table, and write the figure where one is asked for."""
    figure = options.figure
    if figure is not None and figure.suffix not in (".svg", ".pdf"):
        raise UserError(f"--figure {figure}: must end in .svg or .pdf")
    runs, notes = read(options.rows, options.published_dir)
    source = SOURCES.get(options.rows, options.rows)
    found = rows.finished(runs, source)
    by = study.names(options.by or "")
    table = study.gains(found.runs, options.of, options.against, by, options.score)
    said = [rows.describe(found), *notes, *found.notes]
    if options.format == "latex":
        say(study.latex(table, options.of, options.against, options.title or f"Gains on {source}"), end="")
    elif options.format is None and terminal.is_terminal():
        heads, lines = study.cells(table, options.of, options.against)
        if terminal.width() < WIDE:  # without the two means
            heads, *lines = ([*row[:-4], *row[-2:]] for row in (heads, *lines))
        terminal.draw(heads, lines, heads[-2:])
        terminal.tell(study.stands_on(table), *said)
    else:
        say(study.markdown(table, options.of, options.against))
        say("\n".join(said))
    if figure is not None:
        from headstart.run import files  # with torch: seconds that only this option pays

        drawing = study.drawing(table, options.against, options.title or source)
        content = drawing.encode() if figure.suffix == ".svg" else to_pdf(drawing)
        with files.atomic(figure) as temporary:
            temporary.write_bytes(content)
