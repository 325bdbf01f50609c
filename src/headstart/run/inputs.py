"""What the training stages start from: the device and the prepared arrays."""

from dataclasses import dataclass
from typing import Any

import torch

from headstart.data.arrays import Split, Standardize, load_split
from headstart.errors import UserError
from headstart.run import artifacts, paths
from headstart.run.params import Params


@dataclass(frozen=True)
class Prepared:
    """A dataset as `prepare` left it: its meta file, its splits on the device, its standardisation (None where off)."""

    meta: dict[str, Any]
    train: Split
    val: Split
    test: Split
    standardize: Standardize | None


def pick_device(name: str) -> torch.device:
    """Return the device that params.yaml names; `auto` is the first CUDA device where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"params.yaml: device: {name!r} but torch sees no CUDA device; use auto or cpu")
    return torch.device(name)


def load_prepared(dataset: str, params: Params, device: torch.device) -> Prepared:
    """Return a prepared dataset with its images on `device`, or raise UserError where `prepare` has not run."""
    folder = paths.prepared(dataset)
    meta = artifacts.read_json(folder / "meta.json", made_by="prepare")
    train, val, test = (load_split(folder, split).to(device) for split in ("train", "val", "test"))
    standardize = Standardize(tuple(meta["mean"]), tuple(meta["std"])) if params.options.standardize else None
    return Prepared(meta, train, val, test, standardize)
