"""A file in sweeps/: axes over keys of the settings, fixed overrides, cells that are left out or added."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.yaml_files import read_yaml

KEYS = ("description", "endpoint", "margins", "fixed", "axes", "exclude", "include", "results")
# what `headstart results` makes of the rows -> the options of each, as texts; claims are names
RESULTS: dict[str, tuple[str, ...]] = {
    "claims": (),
    "gains": ("of", "against", "by", "score"),
    "means": ("by", "score"),
}
ENDPOINT = "top1"
MOST_CELLS = 100_000
Overrides = dict[str, Any]  # key of params.yaml, its parts joined by dots -> plain value


@dataclass(frozen=True)
class Grid:
    """A grid as its file has it: values are plain (texts, numbers, truths, null, lists of those).

    The last axis varies fastest, but for `seed`, which varies slowest: a sweep that is stopped has whole grids for its
    first seeds. A cell in `exclude` is left out where all keys of one of its rows match; `include` adds cells to the
    fixed overrides. endpoint: the score that its verdicts rest on, `margins` the points of each score below which a
    difference does not matter: both fixed before it ran, and names of study.metrics.SCORES. results: what
    `headstart results` makes of the rows: `claims`; `gains`, each a mapping of options of `headstart gains`; `means`,
    each with columns to group `by` and those to average as `score`, joined by commas.
    """

    path: Path
    description: str
    fixed: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    include: tuple[Mapping[str, Any], ...] = ()
    results: Mapping[str, list[Any]] = field(default_factory=dict)
    endpoint: str = ENDPOINT
    margins: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The sweep's name: its file's."""
        return self.path.stem

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that the grid is judged by, its endpoint first."""
        return tuple(dict.fromkeys([self.endpoint, *self.margins]))

    def cells(self) -> tuple[Overrides, ...]:
        """Return each cell's overrides; `datasets` is a list of one name."""
        names = sorted(self.axes, key=lambda key: key != "seed")
        every = itertools.product(*(self.axes[name] for name in names))
        values = [dict(zip(names, row, strict=True)) for row in every] if names else []
        product = [{name: row[name] for name in self.axes} for row in values]
        chosen = [{**self.fixed, **cell} for cell in product if not any(_matches(cell, row) for row in self.exclude)]
        chosen += [{**self.fixed, **cell} for cell in self.include]
        return tuple(_with_one_dataset(cell) for cell in chosen)


def read_grid(path: Path) -> Grid:
    """Return the grid in a file; raises UserError naming the file, the key, the value and what is allowed.

    Whether the keys exist in params.yaml and the values are allowed there, `cells.make_cells` tells.
    """
    if not path.is_file() and not path.suffix and (named := Path("sweeps") / f"{path.name}.yaml").is_file():
        path = named
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", path.stem):
        raise UserError(f"{path}: a sweep's name must be of a-z, 0-9, - and _: it begins its experiments' names")
    tree = read_yaml(path)
    for key in tree:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: unknown key{nearest(str(key), KEYS)}; allowed here: {', '.join(KEYS)}")
    description = tree.get("description") or ""
    if not isinstance(description, str):
        raise UserError(f"{path}: description: {description!r} must be a text")
    fixed, axes = (_mapping(path, key, tree.get(key)) for key in ("fixed", "axes"))
    for key, value in fixed.items():
        _check_plain(path, f"fixed.{key}", value)
    grid = Grid(
        path,
        " ".join(description.split()),
        fixed,
        {key: _values(path, f"axes.{key}", values) for key, values in axes.items()},
        tuple(_excluded(path, f"exclude[{n}]", row, axes) for n, row in enumerate(_rows(path, tree, "exclude"))),
        tuple(_included(path, f"include[{n}]", row) for n, row in enumerate(_rows(path, tree, "include"))),
        _results(path, tree.get("results") or {}),
        _endpoint(path, tree.get("endpoint", ENDPOINT)),
        _margins(path, tree.get("margins") or {}),
    )
    _check_shape(grid)
    return grid


def _matches(cell: Mapping[str, Any], row: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(_is_among(cell[key], values) for key, values in row.items())


def _is_among(value: Any, values: Iterable[Any]) -> bool:
    """As `in`, but true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _with_one_dataset(cell: Overrides) -> Overrides:
    if isinstance(cell.get("datasets"), str):
        return {**cell, "datasets": [cell["datasets"]]}
    return cell


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{path}: {key}: {value!r} must be a mapping of keys as -S spells them, such as projector.init")
    return value


def _rows(path: Path, tree: Mapping[str, Any], key: str) -> list[Any]:
    rows = tree.get(key) or []
    if not isinstance(rows, list):
        raise UserError(f"{path}: {key}: {rows!r} must be a list of mappings")
    return rows


def _check_plain(path: Path, key: str, value: Any) -> None:
    leaves = value if isinstance(value, list) else [value]
    if not all(leaf is None or isinstance(leaf, (str, int, float)) for leaf in leaves):
        raise UserError(f"{path}: {key}: {value!r} must be a text, a number, true, false, null or a list of those")
    if any(isinstance(leaf, str) and "${" in leaf for leaf in leaves):
        raise UserError(f"{path}: {key}: {value!r} must not hold ${{: dvc exp run -S would fill it in")


def _values(path: Path, key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: {key}: {values!r} must be a list of at least one value")
    for place, value in enumerate(values):
        _check_plain(path, key, value)
        if _is_among(value, values[:place]):
            raise UserError(f"{path}: {key}: {value!r} must not stand there twice")
    return tuple(values)


def _excluded(path: Path, key: str, row: Any, axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """A misspelt row would leave nothing out: its keys and values must be those of axes."""
    chosen: dict[str, tuple[Any, ...]] = {}
    if not row:
        raise UserError(f"{path}: {key}: {row!r} must name at least one axis")
    for name, value in _mapping(path, key, row).items():
        if name not in axes:
            raise UserError(f"{path}: {key}.{name}: no axis{nearest(name, axes)}; axes: {', '.join(axes)}")
        whole = _is_among(value, axes[name])
        chosen[name] = tuple(value) if isinstance(value, list) and not whole else (value,)
        for one in chosen[name]:
            if not _is_among(one, axes[name]):
                raise UserError(f"{path}: {key}.{name}: {one!r} must be one of the axis: {axes[name]}")
    return chosen


def _included(path: Path, key: str, row: Any) -> dict[str, Any]:
    cell = _mapping(path, key, row)
    for name, value in cell.items():
        _check_plain(path, f"{key}.{name}", value)
    return cell


def _endpoint(path: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: endpoint: {value!r} must be the name of a score, as few5")
    return value


def _margins(path: Path, tree: Any) -> dict[str, float]:
    for name, value in _mapping(path, "margins", tree).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{path}: margins.{name}: {value!r} must be a number of points above 0")
    return dict(tree)


def _results(path: Path, tree: Any) -> dict[str, list[Any]]:
    """Which columns and claims there are, those who read rows know."""
    if not isinstance(tree, dict) or not all(isinstance(value, list) for value in tree.values()):
        raise UserError(f"{path}: results: {tree!r} must hold lists: {', '.join(RESULTS)}")
    for key in tree:
        if key not in RESULTS:
            raise UserError(
                f"{path}: results.{key}: unknown key{nearest(str(key), RESULTS)}; allowed: {', '.join(RESULTS)}"
            )
    for key, options in RESULTS.items():
        for row in tree.get(key, []) if options else []:
            for name, value in _mapping(path, f"results.{key}", row).items():
                if name not in options or not isinstance(value, str):
                    raise UserError(
                        f"{path}: results.{key}.{name}: {value!r}: texts are allowed, of {', '.join(options)}"
                    )
            if key == "means" and set(row) != set(options):
                raise UserError(f"{path}: results.means: {row!r} must have both of {', '.join(options)}")
    return tree


def _check_shape(grid: Grid) -> None:
    if math.prod(len(values) for values in grid.axes.values()) > MOST_CELLS:
        raise UserError(f"{grid.path}: axes: more than {MOST_CELLS} cells")
    if not grid.axes and not grid.include:
        raise UserError(f"{grid.path}: axes: missing; must hold at least one axis, as seed: [0, 1]")
    for key in grid.axes:
        if key in grid.fixed:
            raise UserError(f"{grid.path}: {key}: must not be both an axis and fixed")
        outer = [other for other in (*grid.axes, *grid.fixed) if key.startswith(f"{other}.")]
        if outer:
            raise UserError(f"{grid.path}: {key}: lies within {outer[0]}, which the grid sets too")
    if "seed" in grid.axes and list(grid.axes)[-1] != "seed":
        raise UserError(f"{grid.path}: axes.seed: must be the last axis; after it stands {list(grid.axes)[-1]}")
    for cell in grid.cells():
        datasets = cell.get("datasets")
        if "datasets" in cell and (not isinstance(datasets, list) or len(datasets) != 1):
            raise UserError(f"{grid.path}: datasets: {datasets!r} must name one dataset a cell; make it an axis")
