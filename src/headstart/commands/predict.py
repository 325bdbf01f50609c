"""`python -m headstart predict`: images in, features and, with a probe, class probabilities out."""

import argparse
from pathlib import Path

import numpy as np

from headstart.errors import UserError
from headstart.export.bundle import read_bundle
from headstart.export.predict import Predictions, find_images
from headstart.export.predict import predict as predictions_of
from headstart.run import files
from headstart.run.processes import pick_device

SUFFIXES = (".npz", ".parquet")


def predict(options: argparse.Namespace) -> None:
    """Write one file and say where; raises UserError for what is no export, no image, or no known kind of file."""
    out: Path = options.out
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: must end in {' or '.join(SUFFIXES)}")
    bundle = read_bundle(options.model)
    found = predictions_of(bundle, find_images(options.images), pick_device(options.device))
    with files.atomic(out) as temporary:
        (write_npz if out.suffix == ".npz" else write_parquet)(found, temporary)
    labels = "" if found.probabilities is None else f", probabilities of {len(found.classes)} classes"
    print(f"{out}: {found.features.shape[1]} features of {len(found.paths)} images{labels}")


def write_npz(found: Predictions, path: Path) -> None:
    """Write paths, features and, with a probe, probabilities, classes and predicted, as arrays without pickle."""
    arrays = {"paths": np.array(found.paths), "features": found.features}
    if found.probabilities is not None:
        arrays |= {"probabilities": found.probabilities, "classes": np.array(found.classes)}
        arrays["predicted"] = np.array(found.predicted())
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_parquet(found: Predictions, path: Path) -> None:
    """Write a row per image: path, features (a list) and, with a probe, predicted and `probability <class>`."""
    import pandas as pd

    table = pd.DataFrame({"path": found.paths, "features": list(found.features)})
    if found.probabilities is not None:
        table["predicted"] = found.predicted()
        named = {f"probability {name}": found.probabilities[:, k] for k, name in enumerate(found.classes)}
        table = pd.concat([table, pd.DataFrame(named)], axis=1)
    table.to_parquet(path, engine="pyarrow", index=False)
