"""`python -m headstart ui`: MLflow's pages on this workspace's runs; lost runs are closed first."""

import argparse
import os
import sys
from pathlib import Path

from headstart.errors import UserError
from headstart.run import paths
from headstart.run.params import load_params
from headstart.tracking import tracking


def ui(options: argparse.Namespace) -> None:
    """Serve the pages until interrupted; raises UserError where there are no runs here."""
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    if elsewhere:
        raise UserError("MLFLOW_TRACKING_URI is set: the runs go there, open that")
    store = paths.mlflow_store()
    if not store.is_file():
        raise UserError("no runs here yet: make repro")
    experiment = load_params().tracking.experiment
    closed, number = tracking.close_lost(experiment)
    if closed:
        print(f"{closed} runs that a kill had left running are closed as KILLED")
    if not number:
        raise UserError(f"no runs of the experiment {experiment} here yet: make repro")
    print(f"The runs: http://127.0.0.1:{options.port}/#/experiments/{number}/runs?workflowType=machine_learning")
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    where = ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(paths.mlflow_artifacts())]
    words = ["ui", "--host", "127.0.0.1", "--port", str(options.port), "--workers", "1", *where]
    sys.stdout.flush()
    program = Path(sys.executable).parent / "mlflow"
    os.execve(program, [str(program), *words], os.environ | settings)
