"""`python -m headstart COMMAND`: what studies runs that the pipeline made. Each command imports what it needs."""

import argparse
import os
import sys
from pathlib import Path

from headstart.errors import UserError


def main() -> None:
    """Run a command; what a user can cause ends in one line on stderr and exit status 1."""
    options = parser().parse_args()
    try:
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="python -m headstart", description=__doc__)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare", help="judge the claims C1 to C8 on runs: verdicts, intervals, what is missing"
    )
    compare.add_argument(
        "--rows",
        default="dvc",
        metavar="SOURCE",
        help="published (the paper's runs), dvc (branches and experiments here: the default), mlflow, or a CSV file",
    )
    compare.add_argument("--claim", action="append", default=[], metavar="C1..C8", help="repeatable; default: all")
    compare.add_argument("--format", choices=["md", "brief", "csv", "json", "latex"], default="md")
    compare.add_argument(
        "--published-dir",
        type=Path,
        metavar="DIR",
        help="the authors' five CSV files, instead of downloading them once",
    )
    compare.add_argument(
        "--margin",
        type=float,
        default=1.0,
        help="accuracy points below which a difference does not matter (default: 1)",
    )
    compare.add_argument("--save-rows", type=Path, metavar="FILE", help="also write the rows as CSV, for --rows FILE")
    compare.set_defaults(run=_compare)
    gains = commands.add_parser("gains", help="what one factor changes, by any axis of the runs: table and figure")
    gains.add_argument("--rows", default="dvc", metavar="SOURCE", help="as of compare")
    gains.add_argument("--published-dir", type=Path, metavar="DIR", help="as of compare")
    add = gains.add_argument
    add(
        "--of", default="arm", metavar="COLUMN", help="the factor: arm (initialisation and freezing; default), a column"
    )
    add(
        "--against",
        default="random (trainable)",
        metavar="LEVEL",
        help="the factor's level that others are set against",
    )
    add("--by", metavar="COLUMN,..", help="a gain for each value of these columns, as projector_activation")
    add("--score", default="probe_test_top1", metavar="COLUMN", help="of which accuracy (default: probe_test_top1)")
    add("--figure", type=Path, metavar="FILE.png", help="draw it too")
    add("--title", help="of the figure")
    gains.set_defaults(run=_gains)
    report = commands.add_parser(
        "report", help="the study's report on runs as one HTML page, with its text as Markdown"
    )
    report.add_argument(
        "--rows",
        action="append",
        metavar="SOURCE",
        help="as of compare, and repeatable: all runs on one page (default: dvc, with the workspace's)",
    )
    report.add_argument("--out", type=Path, default=Path("report/index.html"), metavar="FILE.html")
    report.add_argument("--claim", action="append", default=[], metavar="C1..C8", help="repeatable; default: all")
    report.add_argument("--published-dir", type=Path, metavar="DIR", help="as of compare")
    report.add_argument("--margin", type=float, default=1.0, help="as of compare")
    report.set_defaults(run=_report)
    results = commands.add_parser("results", help="tables and figures of the committed rows: docs/results")
    results.set_defaults(run=_results)
    datasets = commands.add_parser("datasets", help="list the datasets: classes, images, size, licence, what is here")
    datasets.add_argument("--format", choices=["text", "json"], default="text")
    datasets.set_defaults(run=_datasets)
    export = commands.add_parser("export", help="the trained backbones as safetensors and ONNX, with probe and card")
    export.add_argument("--dataset", metavar="NAME", help="one of them; default: all of `datasets` in params.yaml")
    export.add_argument(
        "--out", type=Path, default=Path("export"), metavar="DIR", help="default: export; a folder each"
    )
    export.set_defaults(run=_export)
    predict = commands.add_parser("predict", help="features and class probabilities of images, by an export")
    predict.add_argument("model", type=Path, metavar="MODEL_DIR", help="what export has written, export/NAME")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    predict.add_argument("--out", type=Path, required=True, metavar="FILE.npz|FILE.parquet")
    predict.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or cuda:N")
    predict.set_defaults(run=_predict)
    sweep = commands.add_parser("sweep", help="plan, run and watch a grid of experiments: a file in sweeps/")
    _add_sweep(sweep.add_subparsers(title="actions", required=True, metavar="ACTION"))
    return top


def _add_sweep(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    helps = {
        "plan": "print the cells, what is done, what would run, hours and disk",
        "run": "run what is missing; again after a kill: goes on",
        "status": "show how far it is: a live table, failures with their log",
        "stop": "end what runs; checkpoints stay",
        "resume": "as run, with the engine and options that it was begun with",
        "retry": "as resume, with the failed cells",
        "rows": "write the rows of the finished cells as CSV, for compare, gains and report",
    }
    parsers = {name: actions.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for name, parser in parsers.items():
        parser.add_argument("file", type=Path, metavar="FILE", help="the grid: sweeps/NAME.yaml, or NAME")
        parser.set_defaults(run=_sweep, action=name)
    parsers["retry"].add_argument("--failed", action="store_true", required=True, help="the cells that failed")
    parsers["status"].add_argument("--once", action="store_true", help="print once and end; without a terminal: always")
    parsers["rows"].add_argument("--out", type=Path, metavar="FILE.csv", help="default: sweeps/results/NAME.csv")
    parsers["plan"].add_argument("--cells", action="store_true", help="list every cell, in the order of running")
    for name in ("plan", "run", "resume", "retry"):
        parsers[name].add_argument("--jobs", type=int, metavar="N", help="cells at once on this machine (default: 1)")
    for name in ("run", "resume", "retry"):
        add = parsers[name].add_argument
        add("--engine", metavar="NAME", help="queue (DVC's, on this machine: the default) or ray (a cluster)")
        add("--devices", metavar="0,1", help="queue: CUDA_VISIBLE_DEVICES of the runs, in turn (more jobs: they share)")
        add("--attempts", type=int, metavar="N", help="how often a cell is begun that is lost to a kill (default: 3)")
        add("--address", metavar="HOST:PORT", help="ray: the cluster's head (default: auto, the one on this machine)")
        add("--gpus-per-run", type=float, metavar="X", help="ray: of a GPU, as 0.25 for four runs on each (default: 0)")
        add("--cpus-per-run", type=float, metavar="X", help="ray: cores of each run (default: 1)")
        add(
            "--checkpoints", metavar="DIR", help="ray: a folder that all machines have; a lost one's runs go on from it"
        )


def _compare(options: argparse.Namespace) -> None:
    from headstart.commands.compare import compare

    compare(options)


def _gains(options: argparse.Namespace) -> None:
    from headstart.commands.gains import gains

    gains(options)


def _report(options: argparse.Namespace) -> None:
    from headstart.commands.report import report

    report(options)


def _results(options: argparse.Namespace) -> None:
    from headstart.commands.results import results

    results()


def _datasets(options: argparse.Namespace) -> None:
    from headstart.commands.datasets import datasets

    datasets(options)


def _export(options: argparse.Namespace) -> None:
    from headstart.commands.export import export

    export(options)


def _predict(options: argparse.Namespace) -> None:
    from headstart.commands.predict import predict

    predict(options)


def _sweep(options: argparse.Namespace) -> None:
    from headstart.commands.sweep import sweep

    sweep(options)


if __name__ == "__main__":
    main()
