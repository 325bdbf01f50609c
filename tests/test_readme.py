"""README's commands, run or checked as they stand there."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.test_pipeline import BIN, ROOT, checkout, environment, metrics, run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def block_with(text: str) -> str:
    """The one bash block of README that holds `text`."""
    (found,) = [block for block in BLOCKS if text in block]
    return found


def bash(folder: Path, script: str) -> str:
    """Run a block as a newcomer's shell would, stopping at the first failure."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    folder = checkout(tmp_path_factory.mktemp("newcomer"))
    (folder / ".venv").symlink_to(BIN.parent, target_is_directory=True)
    run(folder, "dvc", "repro")
    return folder


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make (\w+)", "\n".join(BLOCKS)))
    assert named
    assert named <= targets


def test_every_override_names_a_key_of_params():
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    overrides = [
        word for block in BLOCKS for word in shlex.split(block, comments=True) if re.match(r"[a-z_.0-9]+=", word)
    ]
    assert len(overrides) >= 8
    for override in overrides:
        node = tree
        for part in override.partition("=")[0].split("."):
            assert part in node, override
            node = node[part]


def test_the_comparison_block_runs_as_it_stands(newcomer):
    output = bash(newcomer, block_with("dvc metrics diff"))
    assert "top1.digits" in output and "autoencoder_test_mse" in output
    assert "index.html" in output
    assert "autoencoder_test_mse" not in metrics(newcomer), "the last experiment has a random projector"
    bash(newcomer, "git checkout -q . && source .venv/bin/activate && dvc checkout -q")


def test_own_images_run_with_the_command_of_readme(newcomer, tmp_path):
    random = np.random.default_rng(0)
    for split, number in (("train", 40), ("test", 10)):
        for label, base in (("dark", 40), ("light", 200)):
            folder = tmp_path / "own" / split / label
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = (base + random.integers(-30, 30, (12, 10, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    run(tmp_path, "python", "-c", "import shutil; shutil.make_archive('own', 'zip', 'own')")
    command = block_with("data.mine.path").strip()
    tiny = " -S data.mine.batch_size=16 -S data.mine.image_size=8"
    output = bash(newcomer, command.replace("/path/to/cifar10-mini.zip", str(tmp_path / "own.zip")) + tiny)
    assert "mine: 72 train, 8 val, 20 test images of 2 classes" in output
    assert metrics(newcomer)["top1"]["mine"] == 1.0
