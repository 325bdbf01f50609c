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
from headstart.run.stage import say

SUFFIXES = (".npz", ".parquet")
SHOWN = 3  # classes of an image


def predict(options: argparse.Namespace) -> None:
    """Print each image's classes, or write one file and say where; raises UserError for what is no export or image."""
    out: Path | None = options.out
    if out is not None and out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: must end in {' or '.join(SUFFIXES)}")
    bundle = read_bundle(options.model)
    found = predictions_of(bundle, find_images(options.images), pick_device(options.device))
    if out is None:
        for line in told(found):
            say(line)
        return
    with files.atomic(out) as temporary:
        (write_npz if out.suffix == ".npz" else write_parquet)(found, temporary)
    labels = "" if found.probabilities is None else f", probabilities of {len(found.classes)} classes"
    say(f"{out}: {found.features.shape[1]} features of {len(found.paths)} images{labels}")


def told(found: Predictions) -> list[str]:
    """Return a line per image: its path and its likeliest classes with their probabilities.

    Raises UserError where the export has no probe, and so no classes.
    """
    if found.probabilities is None:
        raise UserError("this export has no probe, so no classes: --out FILE.npz writes its features")
    lines = []
    for path, row in zip(found.paths, found.probabilities, strict=True):
        best = row.argsort()[::-1][:SHOWN]
        lines.append(f"{path}: {', '.join(f'{found.classes[k]} {row[k]:.3f}' for k in best)}")
    return lines


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
