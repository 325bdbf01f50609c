"""The settings: read, spelt, resolved, and which of them decide what."""

import json
from pathlib import Path

import pytest
import yaml

from headstart import settings, yaml_files
from headstart.errors import UserError
from headstart.settings import DATASETS, PARAMS

ROOT = Path(__file__).parents[1]
STAGES = settings.read_stages(ROOT)


@pytest.fixture(scope="module")
def tree():
    return settings.read_settings(ROOT)


# ---- what decides, against what dvc.yaml names -----------------------------------------------------------------------


def named_by_dvc(stage: str, tree, dataset: str) -> set[str]:
    """The leaves of the parameters that dvc.yaml names for a stage, as `deciding` spells them."""
    filled = {"item.dataset": dataset, "item.target": dataset, "item.source": dataset}
    filled["projector.autoencoder_dataset"] = dataset
    found = set()
    for row in STAGES[stage].get("params", []):
        for file, keys in row.items() if isinstance(row, dict) else [(PARAMS, [row])]:
            for key in keys:
                for name, value in filled.items():
                    key = key.replace(f"${{{name}}}", value)
                value = settings.lookup(settings.resolved(tree), key if file == PARAMS else f"{file}:{key}")
                spelt = key if file == PARAMS else f"block.{key.partition('.')[2]}"
                found |= {name for name, _ in settings.leaves({spelt: value})}
    return found


@pytest.mark.parametrize("recipe", settings.RECIPES)
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])
def test_deciding_is_what_dvc_yaml_names(tree, stage, recipe):
    tree = settings.with_overrides(tree, {"recipe": recipe})
    named = named_by_dvc(stage, tree, "cifar10") - {"recipe"}
    if "block.views" in named:  # of the views those that are drawn count, whatever they are called
        drawn = settings.lookup(settings.resolved(tree), "datasets.yaml:cifar10.views")
        kept = {f"views.{key.removeprefix(f'views.{drawn}.')}" for key in named if key.startswith(f"views.{drawn}.")}
        named = {key for key in named if not key.startswith("views.") and key != "block.views"} | kept
    assert set(settings.deciding(tree, stage, "cifar10")) - {"recipe"} == named


def test_a_new_knob_counts_until_somebody_says_that_it_does_not(tree):
    more = settings.with_overrides(tree, {"simclr.novelty": 1, "novelty": {"knob": 2}})
    for stage in ("train_simclr", "fit_probe"):
        added = set(settings.deciding(more, stage, "digits")) - set(settings.deciding(tree, stage, "digits"))
        assert added == ({"novelty.knob", "simclr.novelty"} if stage == "train_simclr" else {"novelty.knob"})


def test_a_lock_and_the_files_give_the_same(tree):
    """dvc.lock holds a stage's parameters alone, with values of both recipes, and numbers in other spellings."""
    locked = {
        PARAMS: {key: tree[PARAMS][key] for key in ("recipe", "seed", "backbone", "projector", "simclr")},
        DATASETS: {"digits": {key: tree[DATASETS]["digits"][key] for key in ("batch_size", "image_size", "views")}},
    }
    locked[PARAMS] |= {key: tree[PARAMS][key] for key in ("diagnostics", "views")} | {
        "data": {"standardize": False, "pretrain_on": "train"}
    }
    told = yaml_files.parse_yaml(yaml.safe_dump(json.loads(json.dumps(locked)))) | {}
    told[PARAMS]["seed"] = 0.0
    assert settings.deciding(told, "train_simclr", "digits") == settings.deciding(tree, "train_simclr", "digits")


def test_a_recipe_and_the_same_values_written_out_are_one(tree):
    paper = settings.with_overrides(tree, {"recipe": "paper"})
    plain = settings.with_overrides(settings.resolved(paper), {"recipe": "default"})
    for stage in STAGES:
        left = [settings.without(settings.deciding(own, stage, "cifar10"), "recipe") for own in (paper, plain)]
        assert left[0] == left[1], stage


def test_views_of_another_name_that_draw_the_same_are_one(tree):
    views = tree[PARAMS]["views"]
    other = settings.with_overrides(tree, {"views.mine": views["digits"], "datasets.yaml:digits.views": "mine"})
    assert settings.deciding(other, "train_simclr", "digits") == settings.deciding(tree, "train_simclr", "digits")
    strong = settings.with_overrides(tree, {"datasets.yaml:digits.views": "simclr"})
    assert settings.deciding(strong, "train_simclr", "digits") != settings.deciding(tree, "train_simclr", "digits")


def test_an_url_touches_one_datasets_download_and_nothing_else(tree):
    archives = [{**archive, "urls": ["https://elsewhere"]} for archive in tree[DATASETS]["cifar10"]["archives"]]
    moved = settings.with_overrides(tree, {"datasets.yaml:cifar10.archives": archives})
    touched = {
        (stage, dataset)
        for stage in STAGES
        for dataset in ("cifar10", "cifar100", "digits")
        if settings.deciding(moved, stage, dataset) != settings.deciding(tree, stage, dataset)
    }
    assert touched == {(stage, "cifar10") for stage in ("download", "prepare_source", "prepare_target")}


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_spelt_as_dvc_spells_them(tree):
    keys = settings.flat(tree)
    assert keys["simclr.temperature"] == 0.5
    assert keys["datasets.yaml:mine.decoder.images.other_files"] == "skip"
    assert settings.nested(keys, texts=False) == {name: dict(section) for name, section in tree.items()}
    assert settings.lookup(tree, "datasets.yaml:cifar10.batch_size") == {"default": 256, "paper": 1280, "scratch": 512}
    with pytest.raises(KeyError):
        settings.lookup(tree, "datasets.yaml:cifar10.size")
    assert settings.file_and_key("datasets.yaml:mine.path") == "datasets.yaml: mine.path"
    assert settings.file_and_key("simclr.epochs") == "params.yaml: simclr.epochs"


def test_overrides_leave_the_tree_alone(tree):
    before = json.dumps(tree)
    changed = settings.with_overrides(tree, {"simclr.epochs": 3, "datasets.yaml:mine.path": "/photos"})
    assert (changed[PARAMS]["simclr"]["epochs"], changed[DATASETS]["mine"]["path"]) == (3, "/photos")
    assert json.dumps(tree) == before


def test_settings_of_a_run_are_those_in_force_and_of_its_datasets(tree):
    tree = settings.with_overrides(tree, {"recipe": "paper", "datasets": ["cifar10"], "probe.datasets": ["stl10"]})
    own = settings.of_run(tree)
    assert set(own[DATASETS]) == {"cifar10", "stl10"} and set(own[PARAMS]["views"]) == {"simclr"}
    assert own[DATASETS]["cifar10"]["batch_size"] == 1280 and own[PARAMS]["backbone"]["arch"] == "resnet34"
    assert len(settings.flat(own)) < 90


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "1.0e-5", "0.00001", ".00001", "+1e-5"])
def test_floats_as_dvc_writes_them(text):
    assert yaml_files.parse_yaml(f"x: {text}") == {"x": 1e-5}
    assert yaml_files.parse_yaml("x: 12") == {"x": 12}


# ---- digests ---------------------------------------------------------------------------------------------------------


def test_digest_is_of_the_content_alone(tmp_path):
    assert settings.digest({"a": 1, "b": [2.5]}, "x") == settings.digest({"b": [2.5], "a": 1}, "x")
    assert len({settings.digest(*parts) for parts in [("a", "b"), ("ab",), (["a", "b"],), ("a", "c"), ()]}) == 5
    assert settings.digest("headstart") == "5af3a828f65962965ccb7e38800691c8"  # the same on every machine
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"content")
    assert settings.file_md5(tmp_path / "a") == settings.file_md5(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"contents")
    assert settings.file_md5(tmp_path / "a") != settings.file_md5(tmp_path / "b")


def test_code_is_the_modules_that_dvc_yaml_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deps = ["stages/train.py", "src/losses.py", "data/digits"]
    Path("dvc.yaml").write_text(json.dumps({"stages": {"train": {"deps": deps}}}))
    for name in ("stages/train.py", "src/losses.py", "src/report.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("pass")
    seen = [settings.code_of("train")]
    assert list(seen[0]) == ["src/losses.py", "stages/train.py"]
    for name in ("src/report.py", "src/losses.py", "stages/train.py"):
        Path(name).write_text("changed")
        seen.append(settings.code_of("train"))
    assert seen[0] == seen[1]
    assert seen[1]["src/losses.py"] != seen[2]["src/losses.py"] == seen[3]["src/losses.py"]
    Path("src/losses.py").unlink()
    with pytest.raises(UserError, match=r"losses.py: No such file or directory; dvc.yaml names it as a dependency"):
        settings.code_of("train")
