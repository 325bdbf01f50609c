"""Complete the run in MLflow: final metrics, report, figures, links to what DVC reused."""

from pathlib import Path

from headstart import history
from headstart.run import files, paths
from headstart.run.inputs import Inputs
from headstart.run.stage import run_stage
from headstart.tracking import tracking
from headstart.tracking.mirror import Ended
from headstart.tracking.tracking import dataset_row


def main() -> None:
    """Write nothing but MLflow's record; raises UserError where dvc.lock tells other settings than were used."""
    inputs = Inputs("track", "track")
    history.check_workspace(Path())
    known = files.read_json(paths.ALL, made_by="report")
    shown = [paths.REPORT, paths.PAGE, *sorted(path for path in paths.PLOTS.rglob("*") if path.is_file())]
    prepared = {name: paths.prepared(name) / "meta.json" for name in inputs.params.datasets}
    told = [dataset_row(name, files.read_json(at, made_by="prepare")) for name, at in prepared.items() if at.is_file()]
    first = "\n## ".join(paths.REPORT.read_text(encoding="utf-8").split("\n## ")[:2])
    watched = files.read_json(paths.METRICS, made_by="report")
    tracking.complete(inputs.params, Ended(known["metrics"], shown, known["facts"], list(watched), told, first))


if __name__ == "__main__":
    run_stage(main)
