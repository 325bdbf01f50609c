"""A grid's cells: each one experiment on one dataset, known by what decides its numbers."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.run.artifacts import digest, write_text
from headstart.run.params import read_yaml
from headstart.sweep import pipeline
from headstart.sweep.grid import Grid, Overrides
from headstart.sweep.pipeline import Pipeline

if TYPE_CHECKING:  # its checks import torch, which saved cells do without
    from headstart.run.params import Params

DIGITS = 10  # of the identity, in a name: among 10,000 cells two are alike with probability 5e-5


@dataclass(frozen=True)
class Work:
    """What decides how long a cell takes on a given machine.

    evaluation: a digest of the probe's and the diagnostics' settings; autoencoder: architecture and epochs, if needed.
    """

    dataset: str
    kind: str
    arch: str
    stem: str
    image_size: int
    batch_size: int
    epochs: int
    evaluation: str
    autoencoder: str


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep.

    name: the DVC experiment's; overrides: key of params.yaml -> value; identity: of all that decides its numbers;
    autoencoder: of the trained autoencoder that it needs, None where it needs none. Cells with equal ones share it.
    """

    name: str
    overrides: Overrides = field(hash=False)
    identity: str
    dataset: str
    autoencoder: str | None
    work: Work | None = None


def make_cells(grid: Grid, root: Path = Path()) -> tuple[Cell, ...]:
    """Return the cells of a grid over the params.yaml, dvc.yaml and code below `root`, in the grid's order.

    Cells that come to the same settings, as `freeze: auto` and what it means, are one. Raises UserError, before
    anything runs, for a key that params.yaml does not have and for the first cell whose parameters are not valid.
    """
    from headstart.run.params import to_params

    tree = read_yaml(root / "params.yaml")
    to_params(tree)  # what is wrong from here on is the grid's
    stages = read_pipeline(root)
    _check_keys(grid, tree)
    cells: dict[str, Cell] = {}
    for overrides in grid.cells():
        changed = pipeline.with_overrides(tree, overrides)
        try:
            params = _validated(changed, overrides)
        except UserError as error:
            raise UserError(f"{grid.path}: {str(error).removeprefix('params.yaml: ')}") from None
        if len(params.datasets) != 1:
            raise UserError(f"{grid.path}: datasets: params.yaml has {params.datasets}; make one fixed, or an axis")
        cell = _cell(grid.name, overrides, work_of(params, params.datasets[0]), stages, changed)
        cells.setdefault(cell.name, cell)
    return tuple(cells.values())


def differing(cells: Sequence[Cell]) -> set[str]:
    """Return the keys whose values are not those of the first cell everywhere."""
    first = cells[0].overrides
    return {key for cell in cells for key, value in cell.overrides.items() if first.get(key) != value}


def exp_run_arguments(cell: Cell) -> list[str]:
    """Return what `dvc exp run` needs to run a cell: `-S key=value` for each override."""
    return [word for key, value in cell.overrides.items() for word in ("-S", f"{key}={_override(value)}")]


def read_pipeline(root: Path) -> Pipeline:
    """Return dvc.yaml below `root` with the hashes of the code that it names, as DVC computes them."""
    definition = read_yaml(root / "dvc.yaml")
    named = {dep for stage in definition["stages"].values() for dep in stage.get("deps", []) if isinstance(dep, str)}
    return Pipeline(definition, {dep: _md5(root / dep) for dep in named if (root / dep).is_file()})


def work_of(params: "Params", dataset: str) -> Work:
    """Return what a run on a dataset has to do."""
    row, coder = params.dataset(dataset), params.autoencoder
    return Work(
        dataset,
        row.kind,
        params.backbone.arch,
        params.backbone.stem,
        row.image_size,
        row.batch_size,
        params.simclr.epochs,
        digest(params.raw["probe"], params.raw.get("diagnostics"))[:8],
        f"{coder.arch}, {coder.epochs} epochs" if params.projector.needs_autoencoder else "",
    )


def save_cells(cells: Iterable[Cell], file: Path) -> None:
    """Write cells so that `load_cells` gives them back: whatever becomes of the code meanwhile."""
    write_text(file, json.dumps([asdict(cell) for cell in cells]) + "\n")


def load_cells(file: Path) -> tuple[Cell, ...]:
    """Return saved cells, none where there is no file."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return ()
    return tuple(Cell(**{**row, "work": Work(**row["work"]) if row["work"] else None}) for row in rows)


def _cell(sweep: str, overrides: Overrides, work: Work, stages: Pipeline, tree: Mapping[str, Any]) -> Cell:
    chosen = pipeline.involved(stages.entries(tree), work.dataset)
    identity = pipeline.identity(chosen)
    last = pipeline.autoencoder_of(chosen)
    shared = None
    if last is not None:
        (out,) = last.outs
        width = out.rpartition("-")[2]  # the initialisation in the path decides nothing of the training
        key = pipeline.identity(pipeline.upstream(chosen, last), leave_out=("projector.init",))
        shared = f"{last.dataset}-{width}-{tree['seed']}-{key[:8]}"
    return Cell(f"{sweep}-{identity[:DIGITS]}", overrides, identity, work.dataset, shared, work)


def _validated(tree: Mapping[str, Any], overrides: Overrides) -> "Params":
    """The validated parameters of a cell, over a file that is valid: most rows of `data` need no second look."""
    from headstart.run.params import to_params

    named = {key.split(".")[1] for key in overrides if key.startswith("data.")}
    for value in (*overrides.values(), *(tree.get("datasets") or [])):
        named |= set(value if isinstance(value, list) else [value])
    rows = {key: row for key, row in tree["data"].items() if not isinstance(row, dict) or key in named}
    try:
        return to_params({**tree, "data": rows})
    except UserError:
        return to_params(dict(tree))  # may name a row that was left out; an error names all rows


def _check_keys(grid: Grid, tree: Mapping[str, Any]) -> None:
    """Every key must be there: DVC would refuse a misspelt one at each cell."""
    places = [
        ("fixed", grid.fixed),
        ("axes", grid.axes),
        *((f"include[{n}]", row) for n, row in enumerate(grid.include)),
    ]
    known = list(_keys(tree))
    for place, keys in places:
        for key in keys:
            if key not in known:
                close = nearest(key, known)
                raise UserError(f"{grid.path}: {place}.{key}: no such key in params.yaml{close}")
            if isinstance(pipeline.lookup(tree, key), dict) and set(pipeline.lookup(tree, key)) != {"default", "paper"}:
                raise UserError(f"{grid.path}: {place}.{key}: a section of params.yaml; name one of its keys")


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _override(value: Any) -> str:
    """A value in the syntax of `-S`, which is Hydra's: texts that could be read as something else are quoted."""
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    if isinstance(value, str) and value.lower() in (
        "null",
        "none",
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "nan",
        "inf",
    ):
        return f"'{value}'"
    return value if isinstance(value, str) else json.dumps(value)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
