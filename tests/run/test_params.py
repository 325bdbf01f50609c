"""params.yaml as committed, under both recipes, and every way to get it wrong."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from headstart.errors import UserError
from headstart.run.params import Params, load_params
from headstart.settings import DATASETS, PARAMS, file_and_key

ROOT = Path(__file__).parents[2]
ABSENT = object()


@pytest.fixture(scope="module")
def tree() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load((ROOT / name).read_text()) for name in (PARAMS, DATASETS)}


@pytest.fixture
def edited(tree, tmp_path):
    """`edited({"simclr.epochs": 5})`: the committed files with those keys set, or removed where ABSENT."""

    def write(changes: dict[str, Any]) -> Path:
        changed = copy.deepcopy(tree)
        for key, value in changes.items():
            file, inner = key.split(":") if ":" in key else (PARAMS, key)
            *sections, name = inner.split(".")
            node = changed[file]
            for section in sections:
                node = node[section]
            if value is ABSENT:
                del node[name]
            else:
                node[name] = value
        for name, content in changed.items():
            (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path

    return write


@pytest.fixture
def loaded(edited):
    return lambda **changes: load_params(edited({key.replace("__", "."): value for key, value in changes.items()}))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_params(path)
    message = str(error.value)
    assert "\n" not in message
    assert message
    return message


# --- what it says ---


def test_committed_file_is_the_digits_default():
    params = load_params(ROOT)
    assert (params.datasets, params.recipe, params.seed) == (["digits"], "default", 0)
    assert params.dataset("digits").decoder == "digits"
    assert params.views_of("digits") is params.views["digits"]
    assert params.views_of("digits").flip == 0  # a mirrored 2 is no 2
    assert params.backbone.weights == "none"


PAPER_ROWS = {  # DESIGN.md, section 3: image size, batch size
    "imagenette": (128, 392),
    "stl10": (96, 500),
    "cifar10": (32, 1280),
    "fgvc_aircraft": (128, 666),
    "cifar100": (32, 1280),
}


@pytest.mark.parametrize("dataset", PAPER_ROWS)
def test_paper_recipe_is_the_papers_protocol(loaded, dataset):
    params = loaded(recipe="paper", datasets=[dataset])
    row, views = params.dataset(dataset), params.views_of(dataset)
    assert (row.image_size, row.batch_size) == PAPER_ROWS[dataset]
    assert (views.crop_scale, views.crop_ratio) == ([0.08, 1.0], pytest.approx([3 / 4, 4 / 3]))
    assert (views.rotate, views.flip, views.grey) == (0, 0.5, 0.2)
    assert (views.jitter, views.brightness, views.contrast, views.saturation, views.hue) == (0.8, 0.8, 0.8, 0.8, 0.2)
    assert (views.blur, views.blur_kernel, views.blur_sigma) == (0.5, 0.1, [0.1, 2.0])
    assert (params.backbone.arch, params.backbone.stem, params.backbone.weights) == (
        *("resnet34", "imagenet", "imagenet1k"),
    )
    simclr = params.simclr
    assert (simclr.epochs, simclr.temperature, simclr.learning_rate) == (150, 0.5, 0.3)
    assert (simclr.momentum, simclr.weight_decay) == (0.9, 1e-5)
    assert (simclr.schedule, simclr.warmup_epochs, simclr.final_lr) == ("cosine_per_epoch", 0, 1 / 50)
    ae = params.autoencoder
    assert (ae.arch, ae.epochs, ae.batch_size, ae.learning_rate) == ("mlp", 100, 100, 1e-4)
    assert (ae.factor, ae.patience) == (0.5, 10)
    assert (params.probe.protocol, params.data.val_fraction) == ("paper", 0.1)


def test_every_dataset_is_valid_under_both_recipes(loaded, tree):
    names = [name for name in tree[DATASETS] if name != "same"]
    assert {*PAPER_ROWS, "digits", "mine"} <= set(names)
    for recipe in ("default", "paper"):
        big_enough = [name for name in names if recipe == "default" or name != "digits"]  # 8 px bear no 7x7 stem
        assert loaded(recipe=recipe, datasets=big_enough).datasets == big_enough


def test_recipe_chooses_and_a_plain_value_holds_under_both(loaded):
    both = {recipe: {"recipe": recipe, "datasets": ["cifar10"]} for recipe in ("default", "paper")}
    assert [loaded(**chosen).backbone.arch for chosen in both.values()] == ["resnet18", "resnet34"]
    assert [loaded(**chosen, simclr__epochs=7).simclr.epochs for chosen in both.values()] == [7, 7]
    per_recipe = {"default": 0.1, "paper": 0.4}
    assert [loaded(**chosen, simclr__temperature=per_recipe).simclr.temperature for chosen in both.values()] == [
        0.1,
        0.4,
    ]


def test_settings_are_the_files(loaded, tree):
    own = loaded(recipe="paper", datasets=["cifar10"]).settings
    assert own[DATASETS] == tree[DATASETS]
    assert own[PARAMS] == {**tree[PARAMS], "recipe": "paper", "datasets": ["cifar10"]}


def test_what_dvc_dumps_is_read_back_the_same(edited):
    """DVC rewrites the file with its own dumper on -S: ruamel, 1e-05 for 0.00001, null as nothing."""
    from dvc.utils.serialize import dump_yaml, load_yaml

    folder = edited({"recipe": "paper", "datasets": ["cifar10"]})
    before = load_params(folder)
    for name in (PARAMS, DATASETS):
        dump_yaml(folder / name, load_yaml(folder / name))
    assert load_params(folder) == before


def test_values_keep_their_types(loaded):
    params = loaded(simclr__learning_rate=1, projector__freeze=True, data__stored_size=64)
    assert params.simclr.learning_rate == 1
    assert params.projector.freeze is True
    assert loaded(projector__freeze="auto").projector.frozen
    assert not loaded(projector__init="random").projector.frozen
    assert params.data.stored_size == 64
    assert loaded(data__stored_size=None).data.stored_size is None


@pytest.mark.parametrize("mirror", [None, "http://host:8000/sets", "https://host", "file:///sets"])
def test_mirrors(loaded, mirror):
    options = loaded(data__mirror=mirror, data__archives="~/sets").data
    assert (options.mirror, options.archives) == (mirror, "~/sets")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(loaded, device):
    assert loaded(device=device).device == device


def test_dataset_that_is_not_known_later(loaded):
    params = loaded()
    assert isinstance(params, Params)
    with pytest.raises(UserError, match=r"'cifar11' must be one of digits, .*\(nearest: cifar10\)"):
        params.dataset("cifar11")


# --- what it refuses: key, value, what the line must say ---

WRONG_TYPES = [
    ("simclr.epochs", "ten", "must be an integer"),
    ("simclr.epochs", 1.5, "must be an integer"),
    ("simclr.epochs", True, "must be an integer"),
    ("simclr.epochs", None, "must be an integer"),
    ("simclr.epochs", [3], "must be an integer"),
    ("simclr.learning_rate", "fast", "must be a number"),
    ("seed", "0", "must be an integer"),
    ("projector", 3, "must be a mapping"),
    ("projector.hidden_dim", "128", "must be an integer"),
    *(
        ("projector.freeze", value, "must be true, false, auto or a list of layers from 1 to 6, as in [1, 2]")
        for value in ("maybe", 1, None, {}, [0], [7], ["1"], [1.5], [True])
    ),
    ("backbone.weights", 5, "must be a string"),
    ("datasets", "digits", "must be a list"),
    ("datasets", None, "must be a list"),
    ("tracking.enabled", "yes", "must be a boolean"),
    ("views.digits", 0.5, "must be a mapping"),
    ("views.digits.crop_scale", 0.5, "must be a list"),
    ("probe.strengths", 0.1, "must be a list"),
    ("probe.few_labels", 5, "must be a list"),
    ("data", 7, "must be a mapping"),
    ("datasets.yaml:digits", 7, "must be a mapping"),
    ("datasets.yaml:digits.path", 7, "must be a string"),
    ("data.standardize", "no", "must be a boolean"),
    ("data.stored_size", "large", "must be an integer"),
    ("data.archives", 7, "must be a string"),
    ("data.mirror", ["https://host"], "must be a string"),
]
OUT_OF_RANGE = [
    ("seed", -1, "must be at least 0"),
    ("projector.hidden_dim", 0, "must be at least 1 and at most 65536"),
    ("projector.out_dim", 10**6, "must be at least 1 and at most 65536"),
    ("simclr.epochs", 0, "must be at least 1"),
    ("simclr.temperature", 0, "must be above 0"),
    ("simclr.learning_rate", -0.1, "must be above 0"),
    ("simclr.learning_rate", float("inf"), "must be a finite number"),
    ("simclr.learning_rate", float("nan"), "must be a finite number"),
    ("simclr.momentum", 1.5, "must be at least 0 and at most 1"),
    ("simclr.weight_decay", -1e-05, "must be at least 0"),
    ("simclr.warmup_epochs", -1, "must be at least 0"),
    ("simclr.final_lr", 2.0, "must be at least 0 and at most 1"),
    ("autoencoder.batch_size", 0, "must be at least 1"),
    ("autoencoder.factor", 0, "must be above 0 and at most 1"),
    ("autoencoder.patience", -1, "must be at least 0"),
    ("probe.finetune_epochs", -1, "must be at least 0"),
    ("probe.few_draws", 0, "must be at least 1"),
    ("probe.strengths", [], "must hold at least one number"),
    ("views.digits.crop_scale", [0.9, 0.1], "must be a pair [low, high] with low <= high"),
    ("views.digits.crop_scale", [0.1, 0.5, 0.9], "must be a pair [low, high]"),
    ("views.digits.crop_scale", [], "must be a pair [low, high]"),
    ("views.digits.crop_scale", [0.0, 1.0], "each above 0 and at most 1"),
    ("views.digits.crop_scale", [0.1, 1.5], "each above 0 and at most 1"),
    ("views.digits.flip", 1.1, "must be at least 0 and at most 1"),
    ("views.digits.hue", 0.6, "must be at least 0 and at most 0.5"),
    ("views.digits.rotate", 200, "must be at least 0 and at most 180"),
    ("data.val_fraction", 0.6, "must be above 0 and at most 0.5"),
    ("data.val_fraction", 0, "must be above 0 and at most 0.5"),
    ("datasets.yaml:digits.image_size", 2, "must be at least 4"),
    ("datasets.yaml:cifar10.batch_size", 1, "must be at least 2"),
    ("data.stored_size", 1, "must be at least 4"),
    ("data.mirror", "ftp://host", "must be null or a URL that begins with http://, https:// or file://"),
    ("data.mirror", "host/path", "must be null or a URL that begins with http://, https:// or file://"),
    ("data.mirror", "https://host/a b", "must be null or a URL that begins with http://, https:// or file://"),
    (
        "datasets.yaml:digits.image_size",
        7,
        "is too small for backbone.stem stride2: must be at least 8, or choose stem cifar",
    ),
    ("projector.num_layers", 7, "must be at least 0 and at most 6"),
    ("projector.num_layers", -1, "must be at least 0 and at most 6"),
    ("projector.freeze", [3], "must name no layer above projector.num_layers: the head has 2 layers"),
    ("projector.freeze", [2, 2], "must name no layer twice"),
    ("projector.init", "kmeans", "needs projector.kind rbf"),
    ("projector.kind", "rbv", "must be one of mlp, rbf (nearest: rbf)"),
    ("projector.position", 2, "must be below projector.num_layers, 2"),
    ("probe.datasets", ["mine", "mine"], "must not name a dataset twice"),
    ("datasets", [], "must name at least one dataset"),
    ("datasets", ["digits", "digits"], "must not name a dataset twice"),
]
UNKNOWN_CHOICES = [
    ("recipe", "papr", "must be one of default, paper, scratch (nearest: paper)"),
    ("projector.init", "autoencodr", "autoencoder_aligned, orthogonal, pca, kmeans (nearest: autoencoder)"),
    ("projector.activation", "relu6", "leaky_relu, sigmoid, tanh, identity (nearest: relu)"),
    ("backbone.arch", "resnet-34", "(nearest: resnet34)"),
    ("backbone.stem", "stride", "must be one of imagenet, cifar, stride2 (nearest: stride2)"),
    ("projector.norm", "bach", "must be one of none, batch (nearest: batch)"),
    ("projector.autoencoder_dataset", "cifar11", "(nearest: cifar10)"),
    ("simclr.optimizer", "lar", "must be one of sgd, lars, adamw (nearest: lars)"),
    ("backbone.arch", "resnet19", "resnet152, timm/<name> (nearest: resnet18)"),
    ("simclr.schedule", "cosin", "must be one of cosine, cosine_per_epoch, constant (nearest: cosine)"),
    ("simclr.precision", "fp16", "must be 'auto', 'fp32' or 'bf16'"),
    ("autoencoder.arch", "mpl", "must be one of mlp, mlp_deep, mlp_wide, conv, denoising (nearest: mlp)"),
    ("probe.protocol", "papers", "must be 'converged' or 'paper'"),
    ("datasets.yaml:digits.decoder", "image_archiv", "(nearest: image_archive)"),
    ("datasets.yaml:digits.views", "digit", "must be one of digits, mild, unmirrored, light, simclr (nearest: digits)"),
    ("device", "gpu", "must be auto, cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("key", "value", "says"), [*WRONG_TYPES, *OUT_OF_RANGE, *UNKNOWN_CHOICES])
def test_wrong_value_is_one_line_with_file_key_value_and_what_is_allowed(edited, key, value, says):
    message = refused(edited({key: value}))
    assert message.startswith(f"{file_and_key(key)}: {value!r} ")
    assert says in message
    assert message.count("must be") <= 1


@pytest.mark.parametrize(
    ("key", "value", "item", "says"),
    [
        ("datasets", ["digits", 3], "datasets.1: 3", "must be a string"),
        ("probe.strengths", [0.1, "much"], "probe.strengths.1: 'much'", "must be a number"),
        ("probe.strengths", [0.1, 0], "probe.strengths.1: 0", "must be above 0"),
        ("probe.few_labels", [5, 0], "probe.few_labels.1: 0", "must be at least 1"),
        ("probe.few_shares", [0.1, 10.0], "probe.few_shares.1: 10.0", "must be above 0 and at most 1"),
        ("probe.layers", ["hiden"], "probe.layers.0: 'hiden'", "must be 'backbone', 'hidden' or 'output'"),
        ("views.digits.crop_scale", [0.1, "1"], "views.digits.crop_scale.1: '1'", "must be a number"),
    ],
)
def test_wrong_item_of_a_list_is_named(edited, key, value, item, says):
    message = refused(edited({key: value}))
    assert message.startswith(f"params.yaml: {item} ")
    assert says in message


def test_stem_of_a_model_that_has_none(edited):
    message = refused(edited({"backbone.arch": "timm/convnext_tiny", "backbone.stem": "stride2"}))
    assert message.startswith("params.yaml: backbone.stem: 'stride2' is for ResNets (resnet18, ")
    assert message.endswith("for timm/convnext_tiny it must be imagenet: as published")
    assert load_params(edited({"backbone.arch": "timm/convnext_tiny", "backbone.stem": "imagenet"})).backbone.is_timm


def test_adamw_takes_momentum_for_its_beta(edited):
    assert load_params(edited({"simclr.momentum": 1})).simclr.momentum == 1
    message = refused(edited({"simclr.momentum": 1, "simclr.optimizer": "adamw"}))
    assert message == "params.yaml: simclr.momentum: 1.0 must be below 1: it is adamw's beta 1"


def test_names_with_a_meaning_are_no_datasets(edited, tree):
    block = tree[DATASETS]["digits"]
    assert "datasets.yaml: mean: no name for a dataset" in refused(edited({"datasets.yaml:mean": block}))
    assert "'same' must be one of digits" in refused(edited({"datasets": ["same"]}))


def test_dataset_of_the_probe_without_a_row(edited):
    message = refused(edited({"probe.datasets": ["mine", "cifar11"]}))
    assert message.startswith("params.yaml: probe.datasets: 'cifar11' must be one of digits, mine, ")
    assert message.endswith("(nearest: cifar10)")


def test_active_dataset_without_a_row(edited):
    message = refused(edited({"datasets": ["digits", "cifar11"]}))
    assert message.startswith("params.yaml: datasets: 'cifar11' must be one of digits, mine, ")
    assert message.endswith("(nearest: cifar10)")


@pytest.mark.parametrize(
    ("key", "nearest", "allowed"),
    [
        ("projektor", "projector", "datasets, recipe, seed"),
        ("simclr.epoch", "epochs", "temperature"),
        ("projector.hidden_dims", "hidden_dim", "out_dim"),
        ("backbone.stems", "stem", "weights"),
        ("autoencoder.learn_rate", "learning_rate", "patience"),
        ("probe.strength", "strengths", "few_labels"),
        ("tracking.enable", "enabled", "experiment"),
        ("views.digits.crop", "crop_scale", "blur_sigma"),
        ("datasets.yaml:cifar10.batchsize", "batch_size", "image_size"),
        ("datasets.yaml:cifar10.about.titles", "title", "citation"),
        ("data.standardise", "standardize", "val_fraction"),
    ],
)
def test_unknown_key_is_one_line_with_the_nearest_and_the_allowed(edited, key, nearest, allowed):
    message = refused(edited({key: 1}))
    assert message.startswith(f"{file_and_key(key)}: unknown key (nearest: {nearest}); allowed here: ")
    assert allowed in message


@pytest.mark.parametrize(
    "key",
    [
        *("seed", "projector", "simclr.epochs", "projector.freeze", "backbone.weights", "autoencoder.arch"),
        *(
            "probe.strengths",
            "views.digits.flip",
            "data.standardize",
            "datasets.yaml:digits.decoder",
            "datasets.yaml:digits.path",
            "recipe",
        ),
        *("tracking", "datasets", "views", "data"),
    ],
)
def test_missing_key_is_one_line(edited, key):
    assert refused(edited({key: ABSENT})) == f"{file_and_key(key)}: missing key"


@pytest.mark.parametrize("value", [{"default": 3, "paper": 5, "other": 7}, {"paper": 5}, {"scratch": 5, "other": 1}])
def test_value_per_recipe_needs_a_default_and_known_names(edited, value):
    message = refused(edited({"simclr.epochs": value}))
    allowed = "a value per recipe needs default, and may have paper and scratch"
    assert message == f"params.yaml: simclr.epochs: {value!r} {allowed}"


SIXTEEN = {"datasets.yaml:digits.image_size": 16}  # the paper's stem on fewer pixels is refused


@pytest.mark.parametrize(("recipe", "epochs"), [("default", 3), ("paper", 5), ("scratch", 3)])
def test_a_recipe_that_is_left_out_has_the_default(edited, recipe, epochs):
    assert (
        load_params(edited({"simclr.epochs": {"default": 3, "paper": 5}, "recipe": recipe, **SIXTEEN})).simclr.epochs
        == epochs
    )


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_wrong_value_of_another_recipe_is_told_at_once(edited, recipe):
    message = refused(edited({"simclr.epochs": {"default": 3, "paper": "many"}, "recipe": recipe, **SIXTEEN}))
    own = "" if recipe == "paper" else " (recipe paper)"
    assert message == f"params.yaml: simclr.epochs: 'many' must be an integer{own}"
    per_recipe = {"default": 32, "scratch": 2}
    message = refused(edited({"datasets.yaml:cifar10.image_size": per_recipe, "recipe": recipe, **SIXTEEN}))
    assert message == ("datasets.yaml: cifar10.image_size: 2 must be at least 4 and at most 1024 (recipe scratch)")


TOO_MUCH = [
    *(("simclr.epochs", 10**60), ("autoencoder.epochs", 10**6), ("probe.finetune_epochs", 10**9)),
    *(("probe.few_labels", [1, 10**30]), ("simclr.warmup_epochs", 2**70), ("probe.strengths", [0.1, 1e308])),
    *(("datasets.yaml:digits.batch_size", 2**63), ("autoencoder.batch_size", 2**63), ("seed", 2**63)),
    *(("simclr.num_processes", 10**6), ("diagnostics.every", 10**30), ("probe.few_draws", 10**8)),
    *(("simclr.temperature", 1e300), ("simclr.weight_decay", 1e200), ("data.stored_size", 10**9)),
    *(("simclr.learning_rate", 1e39), ("simclr.epochs", {"default": 3, "paper": 10**12})),
]


@pytest.mark.parametrize(("key", "value"), TOO_MUCH)
def test_a_number_that_nobody_means_is_refused(edited, key, value):
    message = refused(edited({key: value}))
    assert message.startswith(f"{file_and_key(key)}: ") and " must be at most " in message and len(message) <= 300


@pytest.mark.parametrize("value", ["x" * 5000, list(range(5000)), {f"k{n}": n for n in range(5000)}])
@pytest.mark.parametrize(
    "key", ["simclr.epochs", "device", "projector.init", "data.mirror", "datasets.yaml:digits.path"]
)
def test_a_long_value_is_told_in_300_characters(edited, key, value):
    if key == "datasets.yaml:digits.path" and isinstance(value, str):
        return
    assert len(refused(edited({key: value}))) <= 300


def test_a_recipes_name_at_the_top_is_an_unknown_key(edited):
    message = refused(edited({"default": 3}))
    assert message.startswith("params.yaml: default: unknown key") and len(message) <= 300


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"simclr: [1, 2\nseed: 0\n", "not valid YAML"),
        (b"seed: 0\n\tx: 1\n", "not valid YAML"),
        (b"- 1\n- 2\n", "must be a mapping of sections"),
        (b"", "must be a mapping of sections"),
        (b"seed: \xff\xfe\n", "not valid YAML"),
        (b"seed: \x00\n", "not valid YAML"),
    ],
)
def test_file_that_is_no_mapping(tmp_path, content, says):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    message = refused(tmp_path)
    assert str(path) in message
    assert says in message


def test_file_that_is_not_there(tmp_path):
    message = refused(tmp_path)
    assert "No such file" in message
    assert "repository's root" in message


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1j])
def test_weights_that_no_network_computes_with_are_refused(loaded, workspace, suffix, value):
    state = {"a": torch.ones(3), "conv1.weight": torch.tensor([1.0, value])}
    file = workspace / f"own.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    with pytest.raises(UserError) as error:
        loaded(backbone__weights=file.name).backbone_here()
    what = "complex numbers" if isinstance(value, complex) else "values that are not finite"
    assert str(error.value) == f"params.yaml: backbone.weights {file}: 'conv1.weight' holds {what}"


@pytest.mark.parametrize("weights", ["~nobody-there/x", "x" * 5000])
def test_paths_of_weights_that_lead_nowhere_are_one_line(loaded, workspace, weights):
    with pytest.raises(UserError) as error:
        loaded(backbone__weights=weights).backbone_here()
    assert str(error.value).startswith("params.yaml: backbone.weights: '") and len(str(error.value)) <= 400
