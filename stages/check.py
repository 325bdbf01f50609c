"""Refuse names that a shell or a path would take for something else, before DVC runs a command that holds them."""

from headstart import settings
from headstart.run.stage import run_stage


def main() -> None:
    """Leave nothing; raises UserError for the first wrong name."""
    settings.check_names(settings.read_settings())


if __name__ == "__main__":
    run_stage(main)
