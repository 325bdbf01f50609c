"""Whether the settings can be used: what `make repro` asks before DVC reads them."""

import argparse
from pathlib import Path

from headstart import settings


def check(options: argparse.Namespace) -> None:
    """Print nothing where params.yaml and datasets.yaml can be used; raises UserError for the first thing that cannot.

    Names and YAML come first: they are what DVC would hand to a shell, or read otherwise.
    """
    tree = settings.read_settings(Path())
    settings.check_names(tree)
    from headstart.run.params import to_params  # with torch: seconds

    to_params(tree)
