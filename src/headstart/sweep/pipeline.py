"""What the stages of one dataset read: from dvc.yaml for a run to come, from a commit's dvc.lock for one that was.

Both give the same entries, so a cell and a finished experiment are compared by what decided their numbers: parameters
as the active recipe resolves them, and the content of the code. Data follow from both: a dataset's kind, path, split
and seed are parameters, the hashes of what is published stand in the code.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.errors import UserError
from headstart.models.projector import PROJECTOR_INITS
from headstart.run.artifacts import digest
from headstart.run.params import of_recipe

AUTOENCODER = "pretrain_autoencoder"
GATHERING = "report"  # reads the results of every dataset
_TEMPLATE = re.compile(r"\$\{([^}]+)\}")
_COMMAND = re.compile(r"-m stages\.(\w+)")
_OPTION = re.compile(r"--(\w+)[ =]([^\s']+)")


@dataclass(frozen=True)
class Entry:
    """A stage on a dataset: files (None where the hash is not known yet) and parameters by dvc.yaml's names.

    target: the other dataset that a backbone is judged on, if that is what the stage does; num_bytes: of its outs,
    where they are known.
    """

    stage: str
    dataset: str
    target: str
    deps: Mapping[str, str | None]
    outs: Mapping[str, str | None]
    params: Mapping[str, Any]
    num_bytes: int = 0


class Pipeline:
    """dvc.yaml, with the hashes of the code at hand."""

    def __init__(self, definition: Mapping[str, Any], code: Mapping[str, str]):
        self.stages: Mapping[str, Any] = definition["stages"]
        self.code = code
        found = _TEMPLATE.finditer(json.dumps(self.stages))
        self._templates = sorted({text[0] for text in found if not text[1].strip().startswith("item.")})
        self._filled: dict[str, list[Entry]] = {}

    def entries(self, tree: Mapping[str, Any]) -> list[Entry]:
        """Return the entries that params.yaml's tree leads to, one per stage and element of its matrix."""
        known = json.dumps([_filled(text, tree, {}) for text in self._templates])
        if known not in self._filled:
            self._filled[known] = [
                self._entry(name, stage, tree, item)
                for name, stage in self.stages.items()
                for item in _items(stage.get("matrix", {}), tree)
            ]
        return [
            replace(entry, params={key: lookup(tree, key) for key in entry.params}) for entry in self._filled[known]
        ]

    def _entry(self, name: str, stage: Mapping[str, Any], tree: Mapping[str, Any], item: Mapping[str, Any]) -> Entry:
        deps, keys = (_names(stage.get(kind, []), tree, item) for kind in ("deps", "params"))
        outs = [out for kind in ("outs", "metrics", "plots") for out in _names(stage.get(kind, []), tree, item)]
        code = {path: self.code.get(path) for path in deps}
        return Entry(name, *_datasets(item), code, dict.fromkeys(outs), dict.fromkeys(keys))


def locked_entries(stages: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of dvc.lock's `stages`; those whose command names no stage are left out."""
    entries = []
    for locked in stages.values():
        command = str(locked.get("cmd", ""))
        if stage := _COMMAND.search(command):
            deps, outs = ({row["path"]: row.get("md5") for row in locked.get(kind, [])} for kind in ("deps", "outs"))
            params = locked.get("params", {}).get("params.yaml", {})
            num_bytes = sum(row.get("size", 0) for row in locked.get("outs", []))
            entries.append(Entry(stage[1], *_datasets(dict(_OPTION.findall(command))), deps, outs, params, num_bytes))
    return entries


def involved(entries: Sequence[Entry], dataset: str) -> list[Entry]:
    """Return the entries that decide a dataset's results, all that they rest on included; empty where there are none.

    Where the first layer needs no autoencoder, the stage that leaves a marker then decides nothing.
    """
    gathered = [entry for entry in entries if entry.stage == GATHERING]
    folders = [path for entry in gathered for path in entry.deps]
    # dvc.lock keeps those of earlier parameters too
    targets = {"", *(target for entry in gathered for target in entry.params.get("probe.datasets") or [])}
    makers = {path: entry for entry in entries for path in entry.outs}
    waiting = [
        entry
        for entry in entries
        if entry.dataset == dataset
        and entry.target in targets
        and any(out.startswith(f"{folder}/") for out in entry.outs for folder in folders)
    ]
    chosen: list[Entry] = []
    while waiting:
        entry = waiting.pop()
        if entry in chosen:
            continue
        chosen.append(entry)
        makers_here = [makers[path] for path in entry.deps if path in makers]
        if "projector" in entry.params and not _needs_autoencoder(entry):
            makers_here = [maker for maker in makers_here if maker.stage != AUTOENCODER]
        waiting += makers_here
    return chosen


def is_whole(chosen: Sequence[Entry]) -> bool:
    """Whether entries of dvc.lock belong together: each read what the others left. What a failure leaves does not."""
    left = {path: value for entry in chosen for path, value in entry.outs.items()}
    return bool(chosen) and all(
        value is not None and left.get(path, value) == value for entry in chosen for path, value in entry.deps.items()
    )


def identity(chosen: Sequence[Entry], leave_out: Sequence[str] = ()) -> str:
    """Return 32 hex digits of all that decides a dataset's results: parameters as resolved, but for some, and code."""
    rows = []
    for entry in chosen:
        values = {key: value for key, value in settings(entry).items() if key not in leave_out}
        rows.append([entry.stage, entry.dataset, entry.target, values, _code(entry)])
    return digest(sorted(rows, key=lambda row: row[:3]))


def settings(entry: Entry) -> dict[str, Any]:
    """Return an entry's parameters as they count: of the active recipe, and of the views those that are drawn.

    Numbers that are equal are written alike, and `projector.freeze: auto` as what it means.
    """
    recipe = str(entry.params.get("recipe", "default"))
    values = {key: _plain(of_recipe(value, recipe, key)) for key, value in entry.params.items() if key != "recipe"}
    drawn = values.get(f"data.{entry.dataset}.views")
    if drawn is not None and isinstance(values.get("views"), dict):
        values["views"] = values["views"].get(drawn)
        del values[f"data.{entry.dataset}.views"]
    head = values.get("projector")
    if isinstance(head, dict) and (init := PROJECTOR_INITS.get(str(head.get("init")))):
        frozen = init.frozen if head.get("freeze") == "auto" else head.get("freeze")
        unused = () if init.needs_autoencoder else ("autoencoder_dataset",)
        values["projector"] = {key: value for key, value in head.items() if key not in unused} | {"freeze": frozen}
    return values


def autoencoder_of(chosen: Sequence[Entry]) -> Entry | None:
    """Return the entry of the autoencoder that is needed, or None."""
    return next((entry for entry in chosen if entry.stage == AUTOENCODER), None)


def upstream(chosen: Sequence[Entry], last: Entry) -> list[Entry]:
    """Return an entry and those of `chosen` that it rests on."""
    found = [last]
    for entry in found:
        found += [other for other in chosen if other not in found and set(other.outs) & set(entry.deps)]
    return found


def lookup(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key of params.yaml, its parts joined by dots; raises KeyError where there is none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise KeyError(key)
        node = node[part]
    return node


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with other values at some keys; nothing is copied but what lies above them."""
    changed = dict(tree)
    for key, value in overrides.items():
        node, *inner = (changed, *key.split("."))
        for part in inner[:-1]:
            node[part] = dict(node[part])
            node = node[part]
        node[inner[-1]] = value
    return changed


def _needs_autoencoder(entry: Entry) -> bool:
    init = entry.params["projector"].get("init")
    return init not in PROJECTOR_INITS or PROJECTOR_INITS[init].needs_autoencoder


def _datasets(named: Mapping[str, Any]) -> tuple[str, str]:
    """The dataset and the target that a matrix or a command names; a source alone, an autoencoder's, is neither."""
    source = named["source"] if "source" in named and "target" in named else ""
    return str(named.get("dataset", source)), str(named.get("target", ""))


def _code(entry: Entry) -> list[tuple[str, str | None]]:
    return sorted((path, value) for path, value in entry.deps.items() if path.endswith(".py"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _items(matrix: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The elements of a matrix, or one empty one without."""
    values = []
    for choices in matrix.values():
        chosen = _filled(choices, tree, {}) if isinstance(choices, str) else choices
        values.append([_filled(choice, tree, {}) if isinstance(choice, str) else choice for choice in chosen])
    for element in itertools.product(*values):
        yield dict(zip(matrix, element, strict=True))


def _names(rows: Sequence[Any], tree: Mapping[str, Any], item: Mapping[str, Any]) -> list[str]:
    """Paths or keys, which dvc.yaml writes as texts or as mappings with options."""
    return [str(_filled(row if isinstance(row, str) else next(iter(row)), tree, item)) for row in rows]


def _filled(text: str, tree: Mapping[str, Any], item: Mapping[str, Any]) -> Any:
    """A text with its `${...}` filled in; a text that is one of them alone becomes its value."""

    def value(found: re.Match[str]) -> Any:
        key = found[1].strip()
        try:
            return item[key.removeprefix("item.")] if key.startswith("item.") else lookup(tree, key)
        except KeyError:
            raise UserError(f"dvc.yaml: ${{{key}}}: no such key in params.yaml") from None

    if "$" not in text:
        return text
    whole = _TEMPLATE.fullmatch(text)
    return value(whole) if whole else _TEMPLATE.sub(lambda found: str(value(found)), text)
