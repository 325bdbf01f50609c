"""Names of protocols: what differs between runs beyond the axes of the study, in words instead of a hash."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

# what rows of any source tell of a protocol, where they do not hold its settings
_COLUMNS = ("image_size", "batch_size", "epochs", "backbone", "loss", "optimizer", "precision", "transfer_datasets")


def groups(runs: pd.DataFrame) -> pd.Series:
    """Return each run's dataset, and behind it what tells its protocol from the dataset's others, if there are any."""
    found = runs["dataset"].astype(str)
    for dataset, own in runs.groupby("dataset"):
        names = protocol_names(own)
        if len(names) > 1:
            found.loc[own.index] = own["protocol"].map(lambda key, of=dataset, told=names: f"{of}, {told[key]}")
    return found


def protocol_names(runs: pd.DataFrame) -> dict[str, str]:
    """Return protocol -> the keys that differ among the runs' protocols with their values; unique in any case.

    runs: of one dataset. Rows of this repository hold their settings; of others, whose rows do not, what columns tell
    is named, and where that is nothing, its number of runs, or the protocol's digest where that does not tell, either.
    """
    sizes = Counter(runs["protocol"].astype(str))
    firsts = {str(key): own.iloc[0] for key, own in runs.groupby("protocol")}
    told = {key: _settings(row) for key, row in firsts.items()}
    keys = dict.fromkeys(name for values in told.values() for name in values)
    differing = [name for name in keys if len({values.get(name) for values in told.values()}) > 1]
    names = {
        key: ", ".join(f"{_short(name, differing)} {values.get(name, 'unset')}" for name in differing)
        for key, values in told.items()
    }
    return _apart(_apart(names, {key: f"{number} runs" for key, number in sizes.items()}), {key: key for key in names})


def _apart(names: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The names, and behind equal ones what more is known of each."""
    count = Counter(names.values())
    return {key: f"{name} {more[key]}".strip() if count[name] > 1 else name for key, name in names.items()}


def _settings(row: Mapping[str, Any]) -> dict[str, str]:
    if row["settings"]:
        return {name: _word(value) for name, value in json.loads(row["settings"]).items()}
    return {name: _word(row[name]) or "unknown" for name in _COLUMNS}


def _short(name: str, among: list[str]) -> str:
    """The last part of a key, with all before it where that alone would not tell."""
    last = name.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in among].count(last) == 1 else name


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
