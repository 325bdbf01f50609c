"""What the tests of the real pipeline share: temporary checkouts with tiny settings, and commands run in them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from headstart import settings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("running", "datasets"))]
README_BLOCKS = [
    block for page in PAGES if page.is_file() for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
]
DATASET_STAGES = ("download", "prepare", "pretrain_autoencoder", "train_simclr", "fit_probe", "fit_baselines")


def environment(**extra: str) -> dict[str, str]:
    """The tests' own environment, without what the caller's would change."""
    dropped = ("MLFLOW_", "DVC_", "HEADSTART_", "GIT_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    identity = {
        f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {**env, **identity, "PATH": f"{BIN}:{env['PATH']}", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", **extra}


def run(folder: Path, *command: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=400)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def edit(folder: Path, changes: dict[str, object]) -> None:
    """Set keys, spelt as in -S, in the settings of a folder."""
    tree = settings.with_overrides(settings.read_settings(folder), changes)
    for name, content in tree.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))


def shrink(folder: Path, tracking: bool = False) -> None:
    """Settings with which the whole pipeline takes seconds."""
    few = {"simclr.epochs": 2, "autoencoder.epochs": 2, "probe.few_draws": 1, "probe.strengths": [0.01]}
    few |= {"projector.hidden_dim": 16, "projector.out_dim": 8, "datasets.yaml:digits.batch_size": 256}
    edit(folder, {**few, "tracking.enabled": tracking, "tracking.log_model": False})


def checkout(folder: Path, tracking: bool = False) -> Path:
    """A git repository with the working tree's files, tiny settings and one commit."""
    names = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith("metrics/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shrink(folder, tracking)
    (folder / "dvc.lock").unlink(missing_ok=True)
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    return folder


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Every number, name -> dataset -> value."""
    return json.loads((folder / "metrics" / "all.json").read_text())["metrics"]


def outs(folder: Path) -> dict[str, bytes]:
    """Every file below models/ and metrics/; of the pages of the report without the commit that made them."""
    files = [file for top in ("models", "metrics") for file in sorted((folder / top).rglob("*")) if file.is_file()]
    contents = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    made = re.compile(rb"\b[0-9a-f]{40}\b( with changes to the code)?|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}")
    pages = {name: made.sub(b"", text) for name, text in contents.items() if name.startswith("metrics/report.")}
    return contents | pages


def executed(output: str) -> set[str]:
    """The stages that dvc says it ran (not: restored or skipped)."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return {line.split("'")[1].split("@")[0] for line in lines}


def restore(folder: Path) -> None:
    """Bring the workspace back to its last commit."""
    run(folder, "git", "checkout", "-q", ".")
    run(folder, "git", "clean", "-fdq", "metrics")
    run(folder, "dvc", "checkout", "--force")


def readme_block(text: str) -> str:
    """The one bash block of README, and of the pages that go on where it ends, that holds `text`."""
    (found,) = [block for block in README_BLOCKS if text in block]
    return found


def bash(folder: Path, script: str) -> str:
    """Run a block as a newcomer's shell would, stopping at the first failure."""
    return run(folder, "bash", "-euo", "pipefail", "-c", script).stdout
