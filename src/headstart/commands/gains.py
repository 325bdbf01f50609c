"""Print what one factor changes, by any axis of the runs, and draw it."""

import argparse

from headstart.commands.compare import SOURCES, read
from headstart.errors import UserError
from headstart.study import gains as study
from headstart.study import rows


def gains(options: argparse.Namespace) -> None:
    """Print the table, and write the figure where one is asked for."""
    picture = options.figure
    if picture is not None and picture.suffix != ".png":
        raise UserError(f"--figure {picture}: must end in .png")
    runs, notes = read(options.rows, options.published_dir)
    source = SOURCES.get(options.rows, options.rows)
    found = rows.finished(runs, source)
    by = study.names(options.by or "")
    table = study.gains(found.runs, options.of, options.against, by, options.score)
    print(study.markdown(table, options.of, options.against))
    print("\n".join([rows.describe(found), *notes, *found.notes]))
    if picture is not None:
        study.picture(picture, table, options.against, options.title or source)
