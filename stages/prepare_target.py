"""Bring and decode another dataset that backbones are judged on."""

from headstart.run import paths
from headstart.run.params import load_params
from headstart.run.stage import run_stage
from stages.prepare_source import bring


def main(target: str) -> None:
    """Leave the dataset's arrays as `prepare` does."""
    bring(target, load_params(), paths.target(target))


if __name__ == "__main__":
    run_stage(main)
