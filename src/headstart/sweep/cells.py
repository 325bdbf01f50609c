"""A grid's cells: each one experiment on one dataset, known by what decides its numbers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart import lock, settings
from headstart.data import UNLABELLED
from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.run.files import write_text
from headstart.settings import DATASETS, PARAMS, Tree
from headstart.sweep.grid import Grid, Overrides
from headstart.sweep.pipeline import Pipeline, read_pipeline

if TYPE_CHECKING:
    from headstart.run.params import Params

VAL_SHARE = 0.1  # of the train split, where the dataset publishes no val split
DIGITS = 10  # of the identity, in a name: among 10,000 cells two are alike with probability 5e-5


@dataclass(frozen=True)
class Work:
    """What decides how long a cell takes on a given machine.

    num_train: images that SimCLR trains on, None where that is not known beforehand; evaluation: a digest of the
    probe's and the diagnostics' settings; autoencoder: architecture and epochs, if needed.
    """

    dataset: str
    num_train: int | None
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

    name: the DVC experiment's; overrides: key, as -S spells it -> value; identity: of what decides its numbers, but for
    the prepared arrays; arrays: their digest, empty where they are not known here; autoencoder: of the trained
    autoencoder that it needs, None where it needs none. Cells with equal ones share it.
    """

    name: str
    overrides: Overrides = field(hash=False)
    identity: str
    arrays: str
    dataset: str
    autoencoder: str | None
    work: Work | None = None


def make_cells(grid: Grid, root: Path = Path()) -> tuple[Cell, ...]:
    """Return the cells of a grid over the settings, dvc.yaml and code below `root`, in the grid's order.

    Cells that come to the same settings, as `freeze: auto` and what it means, are one. Raises UserError, before
    anything runs, for a key that no file of settings has and for the first cell whose parameters are not valid.
    """
    from headstart.run.params import to_params  # with torch: seconds that nobody pays who only looks

    tree = settings.read_settings(root)
    to_params(tree)  # what is wrong from here on is the grid's
    stages = read_pipeline(root)
    _check_keys(grid, tree)
    cells: dict[str, Cell] = {}
    for overrides in grid.cells():
        changed = settings.with_overrides(tree, overrides)
        try:
            params = _validated(changed, overrides)
        except UserError as error:
            raise UserError(f"{grid.path}: {str(error).removeprefix(f'{PARAMS}: ')}") from None
        if len(params.datasets) != 1:
            raise UserError(f"{grid.path}: datasets: params.yaml has {params.datasets}; make one fixed, or an axis")
        cell = _cell(grid.name, overrides, params, stages, changed)
        cells.setdefault(cell.name, cell)
    return tuple(cells.values())


def differing(cells: Sequence[Cell]) -> set[str]:
    """Return the keys whose values are not those of the first cell everywhere."""
    first = cells[0].overrides
    return {key for cell in cells for key, value in cell.overrides.items() if first.get(key) != value}


def exp_run_arguments(cell: Cell) -> list[str]:
    """Return what `dvc exp run` needs to run a cell: `-S key=value` for each override."""
    return [word for key, value in cell.overrides.items() for word in ("-S", f"{key}={_override(value)}")]


def work_of(params: "Params", dataset: str) -> Work:
    """Return what a run on a dataset has to do."""
    row, coder = params.dataset(dataset), params.autoencoder
    values = settings.resolved({PARAMS: params.settings[PARAMS]})[PARAMS]
    return Work(
        dataset,
        num_train(row.about.num_images) if row.about else None,
        params.backbone.arch,
        params.backbone.stem,
        row.image_size,
        row.batch_size,
        params.simclr.epochs,
        settings.digest(values["probe"], values.get("diagnostics"))[:8],
        f"{coder.arch}, {coder.epochs} epochs" if params.projector.needs_autoencoder else "",
    )


def num_train(num_images: Mapping[str, int]) -> int:
    """Return how many images SimCLR trains on, from the numbers of images by split as they are published."""
    if UNLABELLED in num_images:
        return num_images[UNLABELLED]
    return num_images["train"] if "val" in num_images else round(num_images["train"] * (1 - VAL_SHARE))


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


def _cell(sweep: str, overrides: Overrides, params: "Params", stages: Pipeline, tree: Tree) -> Cell:
    dataset, head = params.datasets[0], params.projector
    chosen = lock.involved(stages.entries(tree), dataset, head.needs_autoencoder)
    identity = lock.identity(chosen, head.frozen, head.needs_autoencoder)
    last = lock.autoencoder_of(chosen)
    shared = None
    if last is not None:
        # the initialisation, in the name of the stage's out, decides of the training what is learnt from, no more
        key = lock.identity(lock.upstream(chosen, last), head.frozen, True, "projector.init")
        shared = f"{dataset}-{head.hidden_dim}-{params.seed}-{head.learns_from}-{key[:8]}"
    name = f"{sweep}-{identity[:DIGITS]}"
    return Cell(name, overrides, identity, lock.arrays(chosen), dataset, shared, work_of(params, dataset))


def _validated(tree: Tree, overrides: Overrides) -> "Params":
    """The validated settings of a cell, over files that are valid: most blocks need no second look."""
    from headstart.run.params import to_params

    named = {key.removeprefix(f"{DATASETS}:").split(".")[0] for key in overrides if key.startswith(f"{DATASETS}:")}
    for value in (*overrides.values(), *(tree[PARAMS].get("datasets") or [])):
        named |= set(value if isinstance(value, list) else [value])
    blocks = {key: block for key, block in tree[DATASETS].items() if key in named}
    try:
        return to_params({**tree, DATASETS: blocks}, every_recipe=False)
    except UserError:
        return to_params(tree)  # may name a block that was left out; an error names all blocks


def _check_keys(grid: Grid, tree: Tree) -> None:
    """Every key must be there: DVC would refuse a misspelt one at each cell."""
    places = [
        ("fixed", grid.fixed),
        ("axes", grid.axes),
        *((f"include[{n}]", row) for n, row in enumerate(grid.include)),
    ]
    known = [*_keys(tree[PARAMS]), *(f"{DATASETS}:{key}" for key in _keys(tree[DATASETS]))]
    for place, keys in places:
        for key in keys:
            if key not in known:
                close = nearest(key, known)
                raise UserError(f"{grid.path}: {place}.{key}: no such key in {PARAMS} or {DATASETS}{close}")
            value = settings.lookup(tree, key)
            if isinstance(value, dict) and not settings.is_per_recipe(value):
                raise UserError(f"{grid.path}: {place}.{key}: a section; name one of its keys")


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
