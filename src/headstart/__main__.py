"""`python -m headstart COMMAND`: what studies runs that the pipeline made. Each command imports what it needs."""

import argparse
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from headstart import __version__
from headstart.run.stage import CommandLine, end_output, ending
from headstart.study.statements import STATEMENTS


def main() -> None:
    """Run a command; what a user can cause ends in a line on stderr and exit status 1. Without one: the help."""
    top = parser()
    options = top.parse_args()
    if options.command is None:
        top.print_help()
        return
    try:
        with ending("interrupted"):
            run = getattr(import_module(f"headstart.commands.{options.command}"), options.command)
            run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has enough
        end_output()
        sys.exit(1)


def parser() -> CommandLine:
    """Return the command line."""
    top = CommandLine(prog="python -m headstart", description=__doc__)
    top.add_argument("--version", action="version", version=f"headstart {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, (text, options) in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        options(command)
    return top


GAINS_COLUMNS = {
    "arm": "initialisation, and whether it is frozen",
    "projector_activation": "relu, tanh, ..",
    "projector_num_layers": "also _hidden_dim, _out_dim, _position, _norm",
    "autoencoder_arch": "also autoencoder_dataset",
    "learning_rate": "also epochs, batch_size, image_size, seed, standardize",
    "backbone": "also optimizer, precision, dataset",
}


def _listed(rows: Mapping[str, str]) -> str:
    """Names with what they are, a line each, for a command's help."""
    wide = max(map(len, rows))
    return "\n".join(f"  {name:{wide}}  {text}" for name, text in rows.items())


def _compare_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--rows",
        default="dvc",
        metavar="SOURCE",
        help="published (the paper's runs), published_rbf (those of arXiv:2606.21590), dvc (branches and experiments "
        "here: the default), mlflow, or a CSV file",
    )
    add("--claim", action="append", default=[], metavar="C1..C9", help="repeatable; default: all")
    command.epilog = f"claims:\n{_listed(STATEMENTS)}"
    add(
        "--format",
        choices=["md", "brief", "csv", "json", "latex"],
        help="default: a short table on a terminal, else md, which has every number",
    )
    add(
        "--published-dir",
        type=Path,
        metavar="DIR",
        help="the authors' CSV files, instead of downloading them once",
    )
    _endpoint_options(command)
    add(
        "--best-learning-rate",
        action="store_true",
        help="compare each arm at its own best learning rate, chosen by validation accuracy",
    )
    add("--save-rows", type=Path, metavar="FILE", help="also write the rows as CSV, for --rows FILE")


def _endpoint_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--score",
        metavar="NAME",
        help="what runs are judged by: top1, few1, few5, few10, knn20, knn200 (default: what the grid of the rows "
        "says, else top1)",
    )
    add("--margin", type=float, help="points below which a difference does not matter (default: the grid's, else 1)")


def _gains_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--rows", default="dvc", metavar="SOURCE", help="as of compare")
    add("--published-dir", type=Path, metavar="DIR", help="as of compare")
    add("--of", default="arm", metavar="COLUMN", help="the factor: arm (initialisation, freezing; default), a column")
    add("--against", default="random (trainable)", metavar="LEVEL", help="the level that others are set against")
    add("--by", metavar="COLUMN,..", help="a gain for each value of these columns, as projector_activation")
    add("--format", choices=["md", "latex"], help="default: a table on a terminal, else md")
    command.epilog = f"columns, among others:\n{_listed(GAINS_COLUMNS)}"
    add("--score", default="top1", metavar="NAME", help="of which score: as of compare, or a column (default: top1)")
    add("--figure", type=Path, metavar="FILE.svg|pdf", help="draw it too")
    add("--title", help="of the figure")


def _scores_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--rows", default="dvc", metavar="SOURCE", help="as of compare")
    add("--published-dir", type=Path, metavar="DIR", help="as of compare")
    add("--score", metavar="NAME", help="the accuracy: as of compare")


def _report_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--rows",
        action="append",
        metavar="SOURCE",
        help="as of compare, and repeatable: all runs on one page (default: dvc, with the workspace's)",
    )
    add("--out", type=Path, default=Path("report/index.html"), metavar="FILE.html")
    add("--claim", action="append", default=[], metavar="C1..C9", help="repeatable; default: all")
    add("--published-dir", type=Path, metavar="DIR", help="as of compare")
    _endpoint_options(command)


def _results_options(command: argparse.ArgumentParser) -> None:
    """None: what is drawn of which rows is said in the sweeps' files."""


def _datasets_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=["text", "json"], default="text")


def _check_options(command: argparse.ArgumentParser) -> None:
    """None: the files are where they are."""


def _ui_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=int, default=5000, metavar="N", help="on 127.0.0.1 (default: 5000)")


def _export_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--dataset", metavar="NAME", help="one of them; default: all of `datasets` in params.yaml")
    add("--out", type=Path, default=Path("export"), metavar="DIR", help="default: export; a folder each")


def _predict_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", type=Path, metavar="MODEL_DIR", help="what export has written, export/NAME")
    add("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    add("--out", type=Path, metavar="FILE.npz|FILE.parquet", help="features too; without it classes are printed")
    add("--device", default="auto", help="auto (the default), cpu, cuda or cuda:N")


def _sweep_options(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")
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
        parser.set_defaults(action=name)
    parsers["retry"].add_argument("--failed", action="store_true", required=True, help="the cells that failed")
    parsers["status"].add_argument("--once", action="store_true", help="print once and end; without a terminal: always")
    parsers["rows"].add_argument("--out", type=Path, metavar="FILE.csv", help="default: sweeps/results/NAME.csv")
    parsers["plan"].add_argument("--cells", action="store_true", help="list every cell, in the order of running")
    for name in ("plan", "run", "resume", "retry"):
        parsers[name].add_argument("--jobs", type=int, metavar="N", help="cells at once on this machine (default: 1)")
    for name in ("run", "resume", "retry"):
        add = parsers[name].add_argument
        add("--engine", metavar="NAME", help="pool (clones on this machine: the default) or ray (a cluster)")
        add("--devices", metavar="0,1", help="pool: CUDA_VISIBLE_DEVICES of the runs, in turn (more jobs: they share)")
        add("--attempts", type=int, metavar="N", help="how often a cell is begun that is lost to a kill (default: 3)")
        add("--address", metavar="HOST:PORT", help="ray: the cluster's head (default: auto, the one on this machine)")
        add("--gpus-per-run", type=float, metavar="X", help="ray: of a GPU, as 0.25 for four runs on each (default: 0)")
        add("--cpus-per-run", type=float, metavar="X", help="ray: cores of each run (default: 1)")
        add(
            "--checkpoints", metavar="DIR", help="ray: a folder that all machines have; a lost one's runs go on from it"
        )


COMMANDS = {
    "compare": ("judge the claims C1 to C9 on runs: verdicts, intervals, what is missing", _compare_options),
    "gains": ("what one factor changes, by any axis of the runs: table and figure", _gains_options),
    "scores": ("whether a score without labels picks the better backbone among runs", _scores_options),
    "report": ("the study's report on runs as one HTML page, with its text as Markdown", _report_options),
    "results": ("tables and figures of the committed rows: docs/results", _results_options),
    "datasets": ("list the datasets: classes, images, size, licence, what is here", _datasets_options),
    "check": (
        "the first thing that is wrong in params.yaml and datasets.yaml, before anything runs",
        _check_options,
    ),
    "ui": ("MLflow's pages on the runs of this workspace", _ui_options),
    "export": ("the trained backbones as safetensors and ONNX, with probe and card", _export_options),
    "predict": ("features and class probabilities of images, by an export", _predict_options),
    "sweep": ("plan, run and watch a grid of experiments: a file in sweeps/", _sweep_options),
}


if __name__ == "__main__":
    main()
