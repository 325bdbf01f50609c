"""What of a sweep is done, what would run and in which order, and what that costs on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headstart.sweep.cells import Cell
from headstart.sweep.ledger import Finished, result_of


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep: all in the grid's order, the finished ones by name, those to run in their order.

    made: the autoencoders that finished cells have trained.
    """

    cells: tuple[Cell, ...]
    done: Mapping[str, Finished]
    todo: tuple[Cell, ...]
    made: frozenset[str]


def make_plan(cells: Sequence[Cell], finished: Mapping[str, Finished]) -> Plan:
    """Return what is done, by identity, and the rest in the order in which it is to run."""
    results = {cell.name: result_of(cell, finished) for cell in cells}
    done = {name: result for name, result in results.items() if result is not None}
    made = frozenset(cell.autoencoder for cell in cells if cell.name in done and cell.autoencoder)
    return Plan(tuple(cells), done, in_order([cell for cell in cells if cell.name not in done], made), made)


def in_order(cells: Sequence[Cell], made: frozenset[str]) -> tuple[Cell, ...]:
    """Return cells so that of those that share an autoencoder one comes first, and long before the others.

    Seed by seed: first one cell for each autoencoder that is not made yet, then those that need none, then the others.
    Workers that still meet at one autoencoder wait for each other (files.shared_result): it is trained once.
    """
    begun = set(made)
    rank: dict[str, int] = {}
    for cell in cells:
        if cell.autoencoder is None:
            rank[cell.name] = 1
        else:
            rank[cell.name] = 2 if cell.autoencoder in begun else 0
            begun.add(cell.autoencoder)
    seeds = list(dict.fromkeys(_seed(cell) for cell in cells))
    return tuple(sorted(cells, key=lambda cell: (seeds.index(_seed(cell)), rank[cell.name])))


def _seed(cell: Cell) -> object:
    return cell.overrides.get("seed")
