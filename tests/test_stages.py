"""Stage scripts: their declared dependencies, and what they share."""

import ast
import shutil
from pathlib import Path

import pytest
from PIL import Image

from headstart import settings
from headstart.data.arrays import load_split
from headstart.run.inputs import Inputs
from stages import prepare_target, pretrain_autoencoder
from tests.checkouts import ROOT, edit

SOURCE = ROOT / "src" / "headstart"
STAGES = settings.read_stages(ROOT)
# What decides no number, so that no change of it retrains: reading of settings, bounds and messages, the allocator, how
# a run touches the world, the tracker, the drawing of pictures. Their imports are not followed either.
UNSEEN = (
    "settings.py",
    "yaml_files.py",
    "lock.py",
    "knobs.py",
    "errors.py",
    "memory.py",
    "run/",
    "tracking/",
    "study/pictures.py",
)


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
        parts = [top.joinpath(*name.split(".")) for name in names for top in (SOURCE.parent, ROOT)]
        found |= {file for part in parts for file in (part.with_suffix(".py"), part / "__init__.py") if file.is_file()}
    return found


def is_seen(file: Path) -> bool:
    """Whether a change of a module must be seen: one of UNSEEN, or of a package's docstring alone, need not be."""
    name = file.relative_to(SOURCE).as_posix() if file.is_relative_to(SOURCE) else ""
    return not name.startswith(UNSEEN) and len(ast.parse(file.read_text()).body) > 1


def reached(stage: str) -> set[Path]:
    """All modules that a stage's script reaches by import and that must be seen."""
    found: set[Path] = set()
    waiting = {ROOT / "stages" / f"{stage}.py"}
    while waiting:
        file = waiting.pop()
        if file not in found and is_seen(file):
            found.add(file)
            waiting |= imports_of(file)
    return found


# track always runs
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])
def test_declared_dependencies_are_the_modules_that_the_script_reaches(stage):
    declared = {ROOT / dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == reached(stage)


def test_nobody_computes_out_of_sight():
    """What is unseen reads, writes and draws; the wings that compute are all seen by some stage."""
    seen = {file.relative_to(SOURCE).parts[0] for stage in STAGES for file in reached(stage) if SOURCE in file.parents}
    assert {"data", "ingest", "models", "training", "evaluation", "experiment", "study", "randomness.py"} <= seen
    everywhere = set.union(*(reached(stage) for stage in STAGES))
    wings = ("data", "ingest", "models", "training", "evaluation", "experiment")
    computing = {file for wing in wings for file in (SOURCE / wing).glob("*.py") if is_seen(file)}
    assert computing <= everywhere


def test_changing_the_probe_does_not_retrain():
    tree = settings.read_settings(ROOT)
    other = settings.with_overrides(tree, {"probe.strengths": [9.0], "probe.few_draws": 1})
    for stage in ("download", "prepare", "pretrain_autoencoder", "train_simclr"):
        names = {file.name for file in reached(stage)}
        assert not names & {"probe.py", "few_labels.py", "judging.py", "logistic.py"}
        assert settings.deciding(other, stage, "digits") == settings.deciding(tree, stage, "digits")
    assert settings.deciding(other, "fit_probe", "digits") != settings.deciding(tree, "fit_probe", "digits")


def test_an_autoencoder_is_shared_by_inits_and_heads_but_not_by_recipes(tmp_path, monkeypatch):
    for name in ("params.yaml", "datasets.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("src", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)

    def key(**changes):
        edit(tmp_path, {key.replace("__", "."): value for key, value in changes.items()})
        own = Inputs("pretrain_autoencoder", "digits-x-128", "digits")
        return own.digest(leave_out=pretrain_autoencoder.UNSEEN, code_leave_out=pretrain_autoencoder.UNSEEN_CODE)

    first = key()
    assert key(projector__init="random_matched", projector__activation="tanh", backbone__arch="resnet50") == first
    assert key(seed=1) != first
    assert key(seed=0, autoencoder__epochs=3) != first
    assert key(autoencoder__epochs={"default": 30, "paper": 5}) == first, "of the recipe that is not in use"


@pytest.mark.parametrize("kind", ["image_archive", "image_folder"])
def test_another_datasets_images_are_brought_and_only_its_arrays_stay(kind, tmp_path, monkeypatch):
    images = tmp_path / "images"
    for number in range(40):
        file = images / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    path = images if kind == "image_folder" else shutil.make_archive(str(tmp_path / "images"), "zip", images)
    for name in ("params.yaml", "datasets.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("src", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    mine = {"decoder": kind, "path": str(path), "image_size": 8}
    edit(tmp_path, {f"datasets.yaml:mine.{key}": value for key, value in mine.items()})
    prepare_target.main("mine")
    assert [file.name for file in (tmp_path / "data" / "target").iterdir()] == ["mine"]
    assert load_split(tmp_path / "data" / "target" / "mine", "train").images.shape[1:] == (8, 8, 3)
    assert (tmp_path / "metrics" / "used" / "prepare_target" / "mine.json").is_file()
