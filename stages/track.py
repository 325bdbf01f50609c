"""Complete the run in MLflow: final metrics, report, figures, links to what DVC reused."""

from headstart.run import artifacts, paths, tracking
from headstart.run.params import load_params
from headstart.run.stage import run_stage


def main() -> None:
    """Write nothing but MLflow's record."""
    metrics = artifacts.read_json(paths.ALL, made_by="report")["metrics"]
    files = [paths.REPORT, paths.PAGE, *sorted(path for path in paths.PLOTS.rglob("*") if path.is_file())]
    tracking.complete(load_params(), metrics, files)


if __name__ == "__main__":
    run_stage(main)
