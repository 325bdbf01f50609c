"""Print whether a score without labels picks the better backbone among runs."""

import argparse

from headstart.commands import terminal
from headstart.commands.compare import SOURCES, endpoint, read
from headstart.errors import UserError
from headstart.run.stage import say
from headstart.study import rows, selection


def scores(options: argparse.Namespace) -> None:
    """Print a table per dataset; raises UserError where no dataset has runs enough."""
    options.margin = None
    score, _, _ = endpoint(options, [options.rows])
    runs, notes = read(options.rows, options.published_dir)
    source = SOURCES.get(options.rows, options.rows)
    table = rows.finished(runs, source)
    judged = selection.pooled([rows.judged_by(table.runs, score)])
    found, lacking = {}, []
    for dataset, own in judged.groupby("dataset"):
        try:
            found[str(dataset)] = selection.ranked(own)
        except UserError as error:
            lacking.append(str(error))
    if not found:
        raise UserError("; ".join(lacking) or f"{source}: every run failed")
    for dataset, own_scores in found.items():
        title, told = f"{dataset}, by {score}", selection.answer(own_scores, score)
        if terminal.is_terminal():
            heads, lines = selection.cells(own_scores)
            terminal.tell(title, told)
            terminal.draw(heads, lines, heads[2:])
        else:
            say(f"# {title}\n\n{told}\n\n{selection.markdown(own_scores)}\n")
    tell = terminal.tell if terminal.is_terminal() else say
    for line in (selection.EXPLAINED, *lacking, *notes, *table.notes):
        tell(line)
