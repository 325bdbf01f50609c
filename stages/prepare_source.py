"""Bring and decode the other dataset that autoencoders learn from, or leave a marker that there is none."""

import shutil
from pathlib import Path

from headstart.errors import UserError
from headstart.run import artifacts, paths
from headstart.run.params import Params, load_params
from headstart.run.stage import run_stage
from stages.download import download
from stages.prepare import prepare


def main(source: str) -> None:
    """Leave a dataset's arrays as `prepare` does; none.json for `same` and where no autoencoder is needed."""
    params = load_params()
    out = paths.source(source)
    if source == "same" or not params.projector.needs_autoencoder:
        with artifacts.write_folder(out) as folder:
            artifacts.write_json(folder / "none.json", {"source": source})
        return
    bring(source, params, out)


def bring(source: str, params: Params, out: Path) -> None:
    """Download and prepare a dataset into `out`; its archives are not kept."""
    raw = out.parent / f".raw-{source}"  # not `.<source>.`: write_folder(out) would take it for a killed run's
    try:
        download(source, params, raw)()
        prepare(source, params, raw, out)
    except OSError as error:
        raise UserError(f"{source}: {error}") from None
    finally:
        shutil.rmtree(raw, ignore_errors=True)


if __name__ == "__main__":
    run_stage(main)
