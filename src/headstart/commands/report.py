"""Write the study's report on runs as one self-contained HTML page, and as Markdown beside it."""

import argparse
from pathlib import Path

import pandas as pd

from headstart.commands.compare import SOURCES, read
from headstart.errors import UserError
from headstart.run import artifacts, paths
from headstart.study import claims, curves, figures, gradients, page, rows
from headstart.study.comparison import comparison
from headstart.study.page import Picture
from headstart.study.sections import captioned
from headstart.study.writing import counted


def report(options: argparse.Namespace) -> None:
    """Write the page and say where; raises UserError where there is no finished run or a row is not of the schema."""
    if not options.margin > 0:
        raise UserError(f"--margin {options.margin:g}: must be above 0 (accuracy points)")
    out: Path = options.out
    if out.suffix != ".html":
        raise UserError(f"--out {out}: must end in .html")
    sources = list(dict.fromkeys(options.rows or ["dvc"]))
    tables, notes = [], []
    for source in sources:
        table, said = read(source, options.published_dir, workspace=True)
        tables.append(table)
        notes += said
    name = " and ".join(SOURCES.get(source, Path(source).name) for source in sources)
    data = rows.finished(pd.concat(tables, ignore_index=True), name)
    own = "dvc" in sources
    content = comparison(
        data,
        claims.evaluate(data.runs, options.claim, options.margin),
        source=name,
        margin=options.margin,
        notes=notes,
        curves=_curves(data.runs) if own else [],
        pictures=workspace_pictures() if own else [],
        flows=_flows(data.runs) if own else [],
    )
    artifacts.write_text(out, page.to_html(content))
    artifacts.write_text(out.with_suffix(".md"), page.to_markdown(content, out.name))
    count, text = counted(len(data.runs), "run"), out.with_suffix(".md")
    print(f"{out}: {count}, {out.stat().st_size / 1e6:.2f} MB; the same as text: {text}")


def _curves(runs: pd.DataFrame) -> list[curves.Curve]:
    table = figures.labelled(runs)
    columns = (table[name] for name in ("run", "dataset", "arm", "seed"))
    return curves.read_experiments(Path(), zip(*columns, strict=True))


def _flows(runs: pd.DataFrame) -> list[gradients.Flow]:
    table = figures.labelled(runs)
    layers = table["projector_num_layers"].map(lambda number: f", {number} layers" if number > 2 else "")
    table = table.assign(head=table["projector_activation"] + layers)
    columns = (table[name] for name in ("run", "dataset", "arm", "head", "seed"))
    return gradients.read_experiments(Path(), zip(*columns, strict=True))


def workspace_pictures() -> list[Picture]:
    """Return the views and reconstructions that the workspace's report stage has gathered."""
    found = sorted((paths.PLOTS / "images").glob("*_*.png"))
    return [picture for path in found if (picture := captioned(path.stem, path.read_bytes()))]
