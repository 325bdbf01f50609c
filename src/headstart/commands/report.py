"""Write the study's report on runs as one self-contained HTML page, and as Markdown beside it."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from headstart.commands.compare import SOURCES, endpoint, read
from headstart.errors import UserError
from headstart.run import files, paths
from headstart.study import claims, curves, figures, gradients, mechanism, page, rows
from headstart.study.comparison import comparison
from headstart.study.lines import Line, read_experiments
from headstart.study.page import Picture
from headstart.study.sections import Measured, captioned
from headstart.study.writing import counted


def report(options: argparse.Namespace) -> None:
    """Write the page and say where; raises UserError where there is no finished run or a row is not of the schema."""
    out: Path = options.out
    if out.suffix != ".html":
        raise UserError(f"--out {out}: must end in .html")
    sources = list(dict.fromkeys(options.rows or ["dvc"]))
    score, margin, judged_by = endpoint(options, sources)
    tables, notes = [], [judged_by]
    for source in sources:
        table, said = read(source, options.published_dir, workspace=True)
        tables.append(table)
        notes += said
    name = " and ".join(SOURCES.get(source, Path(source).name) for source in sources)
    data = rows.finished(pd.concat(tables, ignore_index=True), name)
    own = "dvc" in sources
    runs = rows.judged_by(data.runs, score)
    content = comparison(
        replace(data, runs=runs),
        claims.evaluate(data.runs, options.claim, margin, score),
        source=name,
        score=score,
        margin=margin,
        notes=notes,
        pictures=workspace_pictures() if own else [],
        lines=_measured(data.runs) if own else None,
    )
    files.write_text(out, page.to_html(content))
    files.write_text(out.with_suffix(".md"), page.to_markdown(content, out.name))
    count, text = counted(len(data.runs), "run"), out.with_suffix(".md")
    print(f"{out}: {count}, {out.stat().st_size / 1e6:.2f} MB; the same as text: {text}")


def _measured(runs: pd.DataFrame) -> Measured:
    """What the commits of the runs hold of their training."""
    table = figures.labelled(runs)
    layers = table["projector_num_layers"].map(lambda number: f", {number} layers" if number != 2 else "")
    rates = table["first_layer_rate"].map(lambda rate: "" if rate == 1 else f", first layer at {rate:g} of the rate")
    between = table["projector_activation"].where(table["projector_kind"] == "mlp", table["projector_kind"])
    table = table.assign(head=between + layers + rates)

    def those(*columns: str) -> Iterator[tuple[Any, ...]]:
        return zip(*(table[name] for name in columns), strict=True)

    def by_column(*of_one: Any) -> list[tuple[str, Line]]:  # of every commit the file is read once
        return [(column, line) for column in mechanism.PLOTS for line in mechanism.line(column, *of_one)]

    of_run, of_head = ("run", "dataset", "group", "arm", "seed"), ("run", "dataset", "group", "arm", "head", "seed")
    measured = read_experiments(Path(), mechanism.TRAINING, those(*of_head), by_column)
    return Measured(
        read_experiments(Path(), curves.CURVES, those(*of_run), curves.curve),
        read_experiments(Path(), gradients.FLOW, those(*of_head), gradients.flow),
        {column: [line for name, line in measured if name == column] for column in mechanism.PLOTS},
        figures.losses_named(runs),
    )


def workspace_pictures() -> list[Picture]:
    """Return the views and reconstructions that the workspace's report stage has gathered."""
    found = sorted((paths.PLOTS / "images").glob("*_*.png"))
    return [picture for path in found if (picture := captioned(path.stem, path.read_bytes()))]
