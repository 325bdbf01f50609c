"""Complete the run in MLflow: final metrics, report, figures, links to what DVC reused."""

from pathlib import Path

from headstart import history
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import run_stage
from headstart.tracking import tracking


def main() -> None:
    """Write nothing but MLflow's record; raises UserError where dvc.lock tells other settings than were used."""
    inputs = Inputs("track", "track")
    history.check_workspace(Path())
    known = files.read_json(paths.ALL, made_by="report")
    shown = [paths.REPORT, paths.PAGE, *sorted(path for path in paths.PLOTS.rglob("*") if path.is_file())]
    tracking.complete(inputs.params, known["metrics"], shown, known["facts"])


if __name__ == "__main__":
    run_stage(main)
