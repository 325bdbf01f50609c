"""What protocols of one dataset are called."""

import json

import pandas as pd
import pytest

from headstart.study.protocols import groups, protocol_names
from tests.study.runs import make


def of_protocols(**sizes: int) -> pd.DataFrame:
    """Runs of digits, so many of each protocol, that differ in nothing else."""
    runs = make(lambda row: 0.9).assign(settings="", epochs=20.0)
    return pd.concat([runs[:number].assign(protocol=name) for name, number in sizes.items()], ignore_index=True)


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({"a": 3}, {"a": ""}),
        ({"a": 3, "b": 5}, {"a": "3 runs", "b": "5 runs"}),
        ({"a": 3, "b": 3}, {"a": "3 runs a", "b": "3 runs b"}),
        ({"a": 3, "b": 5, "c": 3}, {"a": "3 runs a", "b": "5 runs", "c": "3 runs c"}),
    ],
)
def test_equal_columns_are_told_apart_by_numbers_of_runs_and_then_by_digests(sizes, names):
    assert protocol_names(of_protocols(**sizes)) == names


def test_what_differs_is_the_name():
    runs = of_protocols(a=3, b=5)
    runs["epochs"] = runs["protocol"].map({"a": 20.0, "b": 24.0})
    assert protocol_names(runs) == {"a": "epochs 20", "b": "epochs 24"}
    assert set(groups(runs)) == {"digits, epochs 20", "digits, epochs 24"}
    runs["settings"] = runs["protocol"].map(
        lambda key: json.dumps({"simclr.epochs": 24, "views.flip": 0.5 * (key == "a")})
    )
    assert protocol_names(runs) == {"a": "flip 0.5", "b": "flip 0"}


def test_one_protocol_adds_nothing_to_the_datasets_name():
    assert set(groups(of_protocols(a=3))) == {"digits"}
