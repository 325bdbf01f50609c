"""Stage scripts: their declared dependencies, and how they answer what a user can get wrong."""

import ast
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from headstart.data.arrays import load_split
from headstart.run.params import load_params
from stages import prepare_target, pretrain_autoencoder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "headstart"
COMPUTING = {"data", "models", "training", "evaluation"}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imports_of(script: Path) -> set[Path]:
    """The files of this repository that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("headstart", "stages.")):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("headstart")]
        else:
            continue
        files = [top / Path(*name.split(".")).with_suffix(".py") for name in names for top in (SOURCE.parent, ROOT)]
        found |= {file for file in files if file.is_file()}
    return found


def computing_closure(script: Path) -> set[Path]:
    """All computing modules that a script reaches through computing modules; run/ and study/ are not followed."""
    closure: set[Path] = set()
    waiting = imports_of(script)
    while waiting:
        file = waiting.pop()
        wing = file.relative_to(SOURCE).parts[0] if file.is_relative_to(SOURCE) else file.parent.name
        if wing in {*COMPUTING, "randomness.py", "stages"} and file not in closure:
            closure.add(file)
            waiting |= imports_of(file)
    return closure


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in ("report", "track")])
def test_declared_dependencies_are_the_import_closure_of_the_script(stage):
    script = ROOT / "stages" / f"{stage}.py"
    declared = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == {script} | computing_closure(script)


def test_report_depends_on_its_script_and_the_study_modules_that_it_reaches():
    closure, waiting = set(), {ROOT / "stages" / "report.py"}
    while waiting:
        file = waiting.pop()
        closure.add(file)
        waiting |= {found for found in imports_of(file) if found.is_relative_to(SOURCE / "study")} - closure
    declared = {ROOT / dep for dep in STAGES["report"]["deps"] if dep.startswith(("src/", "stages/"))}
    assert declared == closure | {SOURCE / "study" / "templates"}


def test_changing_the_probe_does_not_retrain():
    for stage in ("download", "prepare", "pretrain_autoencoder", "train_simclr"):
        assert not [dep for dep in STAGES[stage]["deps"] if "evaluation" in dep]
        assert "probe" not in STAGES[stage]["params"]


def test_every_params_key_that_a_stage_names_exists():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in STAGES.items():
        for template in stage.get("params", []):
            node = params
            key = re.sub(r"\$\{item.\w+\}", "digits", template).replace("${projector.autoencoder_dataset}", "same")
            for part in key.split("."):
                assert part in node, f"{name}: {key}"
                node = node[part]


def test_an_autoencoder_is_shared_by_inits_and_heads_but_not_by_image_sizes(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load_params()

    def key(params, dim=128):
        return pretrain_autoencoder.shared_key(params, "digits", "hash of the arrays", dim, torch.device("cpu"))

    head = replace(params.projector, init="random_matched", activation="tanh")
    assert key(replace(params, projector=head)) == key(params)
    row = replace(params.data["digits"], image_size=16)
    assert key(replace(params, data=params.data | {"digits": row})) != key(params)
    assert key(replace(params, seed=1)) != key(params)
    assert key(params, dim=64) != key(params)


@pytest.mark.parametrize("kind", ["image_archive", "image_folder"])
def test_another_datasets_images_are_brought_and_only_its_arrays_stay(kind, tmp_path, monkeypatch):
    images = tmp_path / "images"
    for number in range(40):
        file = images / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    path = images if kind == "image_folder" else shutil.make_archive(str(tmp_path / "images"), "zip", images)
    monkeypatch.chdir(ROOT)
    params = load_params()
    monkeypatch.chdir(tmp_path)
    row = replace(params.data["mine"], kind=kind, path=str(path), image_size=8)
    monkeypatch.setattr(prepare_target, "load_params", lambda: replace(params, data=params.data | {"mine": row}))
    prepare_target.main("mine")
    assert [file.name for file in (tmp_path / "data" / "target").iterdir()] == ["mine"]
    assert load_split(tmp_path / "data" / "target" / "mine", "train").images.shape[1:] == (8, 8, 3)
