"""README's "Add a variant", literally: its three changes applied to a checkout, and run with its command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

from tests.checkouts import ROOT, bash, checkout, executed, metrics, readme_block, run

DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def apply(folder: Path, diff: str) -> None:
    """Apply a diff without line numbers: what it names as old stands in the file once."""
    header, _, body = diff.partition("\n")
    path = folder / header.removeprefix("--- ")
    text = path.read_text()
    for hunk in body.split("@@\n"):
        old = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] != "+")
        new = "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] != "-")
        assert text.count(old) == 1, f"{path.name}: {old!r}"
        text = text.replace(old, new)
    path.write_text(text)


def draw_shapes(folder: Path) -> None:
    """Bars that lie and bars that stand, 12 px, noisy."""
    random = np.random.default_rng(0)
    for label in ("lying", "standing"):
        (folder / label).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 60, (12, 12, 3)).astype(np.uint8)
            pixels[random.integers(2, 9) :][:2] = 220
            Image.fromarray(pixels if label == "lying" else pixels.swapaxes(0, 1)).save(
                folder / label / f"{number}.png"
            )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = checkout(tmp_path_factory.mktemp("variants"))
    shutil.copy2(ROOT / "datasets.yaml", folder)  # with the comments that the diff rests on
    draw_shapes(folder / "shapes")
    for diff in DIFFS:
        apply(folder, diff.replace("/path/to/shapes", "shapes"))
    run(folder, "git", "add", "src", "datasets.yaml")
    run(folder, "git", "commit", "-qm", "variants")
    return folder


@pytest.fixture(scope="module")
def output(workspace) -> str:
    """What README's command printed; what it left lies in the workspace."""
    command = readme_block("projector.init=autoencoder_unit")
    return bash(workspace, f"{command.strip()} -S datasets.yaml:digits.batch_size=64")


@pytest.mark.slow
def test_three_variants_and_a_foreign_autoencoder_run_with_readmes_command(workspace, output):
    assert len(DIFFS) == 3
    assert metrics(workspace)["top1"]["shapes"] > 0.5
    shared = list((workspace / ".cache" / "shared" / "pretrain_autoencoder").glob("*/summary.json"))
    assert len(shared) == 1, "one autoencoder: that of the digits"
    source = workspace / "data" / "source" / "digits"
    assert json.loads((source / "meta.json").read_text())["num_images"]["test"] == 359
    layer = load_file(workspace / "models/autoencoder/shapes/autoencoder_unit-16/autoencoder.safetensors")
    head = load_file(workspace / "models/simclr/shapes/projector.safetensors")
    weight = layer["embedding.weight"]
    assert weight.shape == (16, 2048), "the width of a ResNeXt-50's features"
    np.testing.assert_allclose(head["0.weight"], weight / np.linalg.norm(weight, axis=1, keepdims=True), atol=1e-6)
    assert executed(output) >= {"prepare_source", "pretrain_autoencoder", "train_simclr"}


@pytest.mark.slow
def test_what_was_trained_is_exported_with_its_experiments_name(workspace, output):
    pytest.importorskip("onnxruntime")
    command = ["python", "-m", "headstart"]
    source = {"PYTHONPATH": str(workspace / "src")}
    assert "backbone.onnx" in run(workspace, *command, "export", **source).stdout
    card = (workspace / "export" / "shapes" / "README.md").read_text()
    name = run(workspace, "git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps/*/*/*").stdout.strip()
    assert f"DVC experiment: {name}\n" in card
    assert "licence: the images' own" in card
    assert "| `projector.autoencoder_dataset` | digits |" in card
    run(workspace, *command, "predict", "export/shapes", "shapes", "--out", "out.npz", **source)
    found = np.load(workspace / "out.npz")
    assert found["features"].shape == (60, 2048)
    right = [Path(path).parent.name == label for path, label in zip(found["paths"], found["predicted"], strict=True)]
    assert np.mean(right) > 0.8, "most were trained on"
    params = workspace / "params.yaml"
    edited = params.read_text().replace("temperature: 0.5", "temperature: 0.4")
    params.write_text(edited)
    done = run(workspace, *command, "export", check=False, **source)
    assert done.returncode == 1
    assert done.stderr.startswith("error: train_simclr@shapes: its settings were edited after the results were made")


@pytest.mark.slow
def test_autoencoder_is_trained_once_for_all_that_want_it(workspace, output):
    """For the digits themselves, now: prepared in another folder, the same images, so the same autoencoder."""
    shared = workspace / ".cache" / "shared" / "pretrain_autoencoder"
    before = {path: path.stat().st_mtime_ns for path in shared.glob("*/summary.json")}
    changes = ["datasets=[digits]", "backbone.arch=resnext50_32x4d", "projector.init=autoencoder"]
    tree = yaml.safe_load(run(workspace, "git", "show", "HEAD:params.yaml").stdout)
    for change in changes:
        *sections, name = change.partition("=")[0].split(".")
        node = tree[sections[0]] if sections else tree
        node[name] = yaml.safe_load(change.partition("=")[2])
    (workspace / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert "pretrain_autoencoder" in executed(run(workspace, "dvc", "repro", "pretrain_autoencoder").stdout)
    assert {path: path.stat().st_mtime_ns for path in shared.glob("*/summary.json")} == before
    assert [path.name for path in (workspace / "data" / "source" / "same").iterdir()] == ["none.json"]
