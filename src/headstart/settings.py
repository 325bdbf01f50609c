"""params.yaml and datasets.yaml as one tree of plain values: read, resolved for a recipe, and which decide what.

The one answer to "which settings decide this number": keys of checkpoints, of shared
autoencoders, of a sweep's cells and of protocols all come from `deciding`, and list what does *not* count; so a
forgotten knob costs a training too many, never a wrong number. Stages and studies pass values on; the computing wings
never import this module.

A tree is {"params.yaml": {...}, "datasets.yaml": {...}}, the shape in which dvc.lock tells parameters. A key is spelt
as in DVC's -S: simclr.epochs, datasets.yaml:mine.path.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import UserError, brief, masked
from headstart.yaml_files import parse_yaml, read_yaml

PARAMS, DATASETS = "params.yaml", "datasets.yaml"
# A value may be given per recipe, {default: .., paper: ..}; a recipe that is left out there has the value of default.
# paper: arXiv:2408.14514, section 4; scratch: small photographs without pretrained weights, as
# github.com/dkobak/simclr-cifar10 trains them
RECIPES = ("default", "paper", "scratch")
SAME = "same"  # projector.autoencoder_dataset: no other dataset
# Names become parts of paths and of the commands that a shell runs; DVC's -S reaches no key that begins with a digit.
NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,99}"
NAMED = "must be a name: letters, digits, - and _, of which a letter or _ comes first"
# what dvc.yaml puts into commands and paths
IN_COMMANDS = ("datasets", "probe.datasets", "projector.autoencoder_dataset", "projector.init", "projector.hidden_dim")
Tree = Mapping[str, Mapping[str, Any]]

# Sections and keys that do not count for a stage. `block` is the dataset's own block of datasets.yaml.
_MODELS = ("projector", "backbone", "simclr", "diagnostics", "autoencoder", "probe", "views")
# of the head around the layer that is initialised
_AROUND = ("kind", "freeze", "out_dim", "activation", "num_layers", "position", "norm")
_HEAD = tuple(f"projector.{key}" for key in _AROUND)
_BRINGING = ("block.archives", "block.decoder", "block.path")
_PACKING = ("data.skip_unreadable", "data.stored_size", "data.test_fraction", "data.val_fraction")
_SOURCES = ("data.archives", "data.mirror")  # where bytes come from is not what they are
_EVERYWHERE = ("recipe", "datasets", "device", "tracking", "block.about")
_TRAINED_ON = (*_EVERYWHERE, *_SOURCES, *_PACKING, *_BRINGING)  # the arrays are a dependency of their own
NOT_COUNTED: Mapping[str, Collection[str]] = {
    "check": (
        *("recipe", "seed", "device", "tracking", "data", "block", *_HEAD),
        *(section for section in _MODELS if section not in ("projector", "probe")),
        *("probe.protocol", "probe.strengths", "probe.plateau", "probe.layers", "probe.finetune_epochs"),
        *("probe.few_labels", "probe.few_shares", "probe.few_draws"),
    ),
    "download": (
        *(*_EVERYWHERE, *_MODELS, "seed", "data"),
        *("block.image_size", "block.batch_size", "block.views"),
    ),
    "prepare": (
        *(*_EVERYWHERE, *_MODELS, *_SOURCES, "data.standardize"),
        *("block.archives", "block.path", "block.batch_size", "block.views", "data.pretrain_on"),
    ),
    "prepare_source": (
        *(*_EVERYWHERE, *_SOURCES, *_HEAD, "projector.hidden_dim", "projector.autoencoder_dataset"),
        *(section for section in _MODELS if section != "projector"),
        *("data.standardize", "data.pretrain_on", "block.batch_size", "block.views"),
    ),
    "prepare_target": (
        *(*_EVERYWHERE, *_MODELS, *_SOURCES, "data.standardize", "data.pretrain_on"),
        *("block.batch_size", "block.views"),
    ),
    "pretrain_autoencoder": (
        *(*_TRAINED_ON, "simclr", "diagnostics", "probe", "views", "data.standardize"),
        *("block.batch_size", "block.views", "backbone.stem", "backbone.weights"),
        # which layer is needed, and how wide: part of the stage's name
        *("projector.init", "projector.hidden_dim"),
        *_HEAD,
    ),
    "track": (*_EVERYWHERE, *_MODELS, "seed", "data", "block"),
    "report": (
        *(section for section in _MODELS if section not in ("projector", "probe")),
        *("device", "tracking", "data", "block", "probe.protocol", "probe.strengths", "probe.few_labels"),
        *("probe.plateau", "probe.few_shares", "probe.few_draws", "probe.layers", "probe.finetune_epochs"),
    ),
    "train_simclr": (*_TRAINED_ON, "autoencoder", "probe"),
    "fit_probe": (
        *(*_TRAINED_ON, "autoencoder", "simclr", "diagnostics", "probe.datasets"),
        *("data.pretrain_on", "block.batch_size"),
    ),
    "fit_baselines": (
        *(*_TRAINED_ON, "projector", "autoencoder", "simclr", "diagnostics", "probe.datasets", "probe.layers"),
        *("data.pretrain_on", "block.batch_size"),
    ),
    "transfer": (
        *(*_TRAINED_ON, *(section for section in _MODELS if section not in ("backbone", "probe"))),
        *("data.pretrain_on", "block.batch_size", "block.views"),
        *("probe.protocol", "probe.plateau", "probe.few_labels", "probe.few_shares"),
        *("probe.few_draws", "probe.layers", "probe.datasets", "probe.finetune_epochs"),
    ),
}


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_settings(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the settings below `root` as their files hold them, or raise UserError."""
    return {name: read_yaml(root / name) for name in (PARAMS, DATASETS)}


def read_stages(root: Path = Path()) -> dict[str, Any]:
    """Return the stages of dvc.yaml below `root`, or raise UserError."""
    return dict(read_yaml(root / "dvc.yaml", by_hand=False)["stages"])


# ---- keys ------------------------------------------------------------------------------------------------------------


def lookup(tree: Tree, key: str) -> Any:
    """Return the value of a key; raises KeyError where there is none."""
    file, parts = _parts(key)
    node: Any = tree[file]
    for part in parts:
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(key)
        node = node[part]
    return node


def with_overrides(tree: Tree, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a tree with other values at some keys; nothing is copied but what lies above them."""
    changed = {name: dict(section) for name, section in tree.items()}
    for key, value in overrides.items():
        file, parts = _parts(key)
        node = changed[file]
        for part in parts[:-1]:
            node[part] = dict(node[part])
            node = node[part]
        node[parts[-1]] = value
    return changed


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested mapping, their names joined by dots; an empty mapping is a value."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def flat(tree: Tree) -> dict[str, Any]:
    """Return key -> value of a tree, keys as -S spells them."""
    keys = dict(leaves(tree.get(PARAMS, {})))
    return keys | {f"{DATASETS}:{key}": value for key, value in leaves(tree.get(DATASETS, {}))}


def nested(keys: Mapping[str, Any], texts: bool = True) -> dict[str, dict[str, Any]]:
    """Return the tree of key -> value; texts: values that are texts are read as YAML, as trackers hold them."""
    tree: dict[str, dict[str, Any]] = {PARAMS: {}, DATASETS: {}}
    for key, value in keys.items():
        file, parts = _parts(key)
        node = tree[file]
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = parse_yaml(value) if texts and isinstance(value, str) else value
    return tree


def file_and_key(key: str) -> str:
    """Return a key as messages begin: `params.yaml: simclr.epochs`, `datasets.yaml: mine.path`."""
    file, parts = _parts(key)
    return f"{file}: {'.'.join(parts)}"


def _parts(key: str) -> tuple[str, list[str]]:
    file, found, inner = key.partition(":")
    return (file, inner.split(".")) if found and file in (PARAMS, DATASETS) else (PARAMS, key.split("."))


def check_names(tree: Tree) -> None:
    """Raise UserError for a name of a dataset, or what else dvc.yaml puts into commands and paths, that is none.

    Before DVC reads the files: a name like `x$(rm ..)` or `../src` must reach neither a shell nor a path.
    """
    for name in tree[DATASETS]:
        if not is_name(name):
            raise UserError(f"{DATASETS}: {brief(name)} {NAMED}")
    values = resolved({PARAMS: tree[PARAMS]})
    for key in IN_COMMANDS:
        try:
            value = lookup(values, key)
        except KeyError:
            raise UserError(f"{file_and_key(key)}: missing key") from None
        for item in value if isinstance(value, list) and key.endswith("datasets") else [value]:
            number = isinstance(item, int) and not isinstance(item, bool)
            if not (number if key == "projector.hidden_dim" else is_name(item)):
                allowed = "must be an integer" if key == "projector.hidden_dim" else NAMED
                raise UserError(f"{file_and_key(key)}: {brief(item)} {allowed}")


def is_name(value: Any) -> bool:
    """Return whether a value may name a dataset."""
    return isinstance(value, str) and re.fullmatch(NAME, value) is not None


# ---- recipes ---------------------------------------------------------------------------------------------------------


def resolved(tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the tree for its active recipe: every mapping of recipe names replaced by the value of that one."""
    recipe = tree[PARAMS].get("recipe", RECIPES[0])
    return {
        file: {name: of_recipe(value, str(recipe), file, name) for name, value in section.items()}
        for file, section in tree.items()
    }


def is_per_recipe(node: Any) -> bool:
    """Return whether a node gives values per recipe."""
    return isinstance(node, Mapping) and bool(set(node) & set(RECIPES))


def of_recipe(node: Any, recipe: str, file: str = PARAMS, key: str = "") -> Any:
    """Return a node for a recipe; raises UserError for a mapping of RECIPES to values that has no default."""
    if not isinstance(node, Mapping):
        return node
    if is_per_recipe(node):
        if RECIPES[0] not in node or not set(node) <= set(RECIPES):
            names = " and ".join(RECIPES[1:])
            allowed = f"a value per recipe needs {RECIPES[0]}, and may have {names}"
            raise UserError(f"{file}: {key}: {brief(dict(node))} {allowed}")
        return node.get(recipe, node[RECIPES[0]])
    return {name: of_recipe(value, recipe, file, f"{key}.{name}".lstrip(".")) for name, value in node.items()}


def of_run(tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the settings in force in a run: resolved, the blocks of its datasets alone, and the views that these draw.

    Archives and what is known about a dataset are left out: they are not chosen. No URI shows a user, a password or a
    query: this is what is stored and shown.
    """
    values = _masked(resolved(tree))
    params = dict(values[PARAMS])
    others = [params.get("projector", {}).get("autoencoder_dataset"), *(params.get("probe", {}).get("datasets") or [])]
    blocks = {
        name: {key: value for key, value in block.items() if key not in ("archives", "about")}
        for name, block in values.get(DATASETS, {}).items()
        if name in (*(params.get("datasets") or []), *others) and name != SAME
    }
    drawn = {block.get("views") for block in blocks.values()}
    params["views"] = {name: views for name, views in (params.get("views") or {}).items() if name in drawn}
    return {PARAMS: params, DATASETS: blocks}


def _masked(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {name: _masked(value) for name, value in node.items()}
    return masked(node) if isinstance(node, str) and "://" in node else node


# ---- what decides ----------------------------------------------------------------------------------------------------


def deciding(tree: Tree, stage: str, dataset: str) -> dict[str, Any]:
    """Return key -> value of the settings that decide what `stage` leaves of `dataset`, sorted by key.

    tree: whole, or what dvc.lock holds of the stage's parameters: both give the same. Values are those of the active
    recipe, whole floats as integers; keys of the dataset's block begin with `block.`, and of the views only those that
    are drawn stand there, as `views.<knob>`.
    """
    unseen = NOT_COUNTED.get(stage, ())
    recipe = str(tree[PARAMS].get("recipe", RECIPES[0]))
    sections = {name: section for name, section in tree[PARAMS].items() if name not in unseen}
    views = sections.pop("views", None)
    block = tree.get(DATASETS, {}).get(dataset) or {}
    found = dict(leaves(of_recipe(sections, recipe)))
    found |= dict(leaves({"block": of_recipe(block, recipe, DATASETS, dataset)}))
    if isinstance(views, Mapping):
        drawn = views.get(found.pop("block.views", None)) or {}
        found |= dict(leaves({"views": of_recipe(drawn, recipe)}))
    return {key: _plain(value) for key, value in sorted(found.items()) if not _is_among(key, unseen)}


def made_by(tree: Tree, dataset: str) -> dict[str, Any]:
    """Return key -> value of the settings that decide a dataset's arrays, weights and scores, for a model card."""
    stages = ("prepare", "pretrain_autoencoder", "train_simclr", "fit_probe")
    return {key: value for stage in stages for key, value in deciding(tree, stage, dataset).items()}


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return settings but for some keys or whole sections: what does not count for a purpose."""
    return {key: value for key, value in values.items() if not _is_among(key, keys)}


def meaning(values: Mapping[str, Any], frozen: bool | str, needs_autoencoder: bool) -> dict[str, Any]:
    """Return settings with `projector.freeze` as what it meant, without what an unneeded autoencoder reads."""
    changed = {key: frozen if key == "projector.freeze" else value for key, value in values.items()}
    return changed if needs_autoencoder else without(changed, "projector.autoencoder_dataset")


def _is_among(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ---- digests ---------------------------------------------------------------------------------------------------------


def digest(*parts: Any) -> str:
    """Return 32 hex digits of the JSON of `parts`, the same on every machine."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_md5(path: Path) -> str:
    """Return the md5 of a file's content: what dvc.lock says of a dependency."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def code_of(stage: str, root: Path = Path()) -> dict[str, str]:
    """Return path -> md5 of the modules that dvc.yaml names as a stage's dependencies; raises UserError without one."""
    declared = read_stages(root)[stage].get("deps", [])
    names = sorted(name for name in declared if isinstance(name, str) and name.endswith(".py"))
    try:
        return {name: file_md5(root / name) for name in names}
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; dvc.yaml names it as a dependency of {stage}") from None
