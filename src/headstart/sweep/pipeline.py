"""What the stages of one dataset will read, from dvc.yaml: the same entries that dvc.lock gives of runs that were.

So a cell and a finished experiment are compared by what decided their numbers: settings as the active recipe resolves
them, the content of the code, and the prepared arrays where they are known.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart import settings, yaml_files
from headstart.errors import UserError
from headstart.lock import INGESTING, Entry, names_in, read_entries
from headstart.settings import Tree

_TEMPLATE = re.compile(r"\$\{([^}]+)\}")


class Pipeline:
    """dvc.yaml's stages, with the hashes of the code at hand and of the arrays that lie prepared in the workspace."""

    def __init__(self, stages: Mapping[str, Any], code: Mapping[str, str], prepared: Sequence[Entry] = ()):
        self.stages = stages
        self.code = code
        found = _TEMPLATE.finditer(json.dumps(self.stages))
        self._templates = sorted({text[0] for text in found if not text[1].strip().startswith("item.")})
        self._filled: dict[str, list[Entry]] = {}
        self._prepared = {_key_of_arrays(entry): entry.outs for entry in prepared if entry.stage in INGESTING[1:]}

    def entries(self, tree: Tree) -> list[Entry]:
        """Return the entries that a tree of settings leads to, one per stage and element of its matrix."""
        known = json.dumps([_filled(text, tree, {}) for text in self._templates])
        if known not in self._filled:
            self._filled[known] = [
                self._entry(name, stage, tree, element)
                for name, stage in self.stages.items()
                for element in _elements(stage.get("matrix", {}), tree)
            ]
        return [self._with_arrays(replace(entry, params=tree)) for entry in self._filled[known]]

    def _entry(self, name: str, stage: Mapping[str, Any], tree: Tree, element: Mapping[str, Any]) -> Entry:
        deps = _names(stage.get("deps", []), tree, element)
        outs = [out for kind in ("outs", "metrics", "plots") for out in _names(stage.get(kind, []), tree, element)]
        code = {path: self.code.get(path) for path in deps}
        # without a matrix the command names the dataset, if there is one
        named = names_in(str(_filled(stage["cmd"], tree, element)))
        return Entry(name, *named, code, dict.fromkeys(outs), tree)

    def _with_arrays(self, entry: Entry) -> Entry:
        """The entry with its outs' hashes, where the workspace has prepared just these arrays with this code."""
        outs = self._prepared.get(_key_of_arrays(entry)) if self._prepared and entry.stage in INGESTING[1:] else None
        return entry if outs is None else replace(entry, outs={path: outs.get(path) for path in entry.outs})


def read_pipeline(root: Path) -> Pipeline:
    """Return dvc.yaml below `root` with the hashes of the code that it names and of what dvc.lock says is prepared."""
    stages = settings.read_stages(root)
    named = {dep for stage in stages.values() for dep in stage.get("deps", []) if isinstance(dep, str)}
    code = {dep: settings.file_md5(root / dep) for dep in named if (root / dep).is_file()}
    lock = root / "dvc.lock"
    prepared = read_entries(yaml_files.read_yaml(lock, by_hand=False).get("stages", {})) if lock.is_file() else []
    return Pipeline(stages, code, prepared)


def _key_of_arrays(entry: Entry) -> str:
    return settings.digest(entry.stage, entry.block, entry.deciding, sorted(entry.code.items()))


def _elements(matrix: Mapping[str, Any], tree: Tree) -> Iterator[dict[str, Any]]:
    """The elements of a matrix, or one empty one without."""
    values = []
    for choices in matrix.values():
        chosen = _filled(choices, tree, {}) if isinstance(choices, str) else choices
        values.append([_filled(choice, tree, {}) if isinstance(choice, str) else choice for choice in chosen])
    for element in itertools.product(*values):
        yield dict(zip(matrix, element, strict=True))


def _names(rows: Sequence[Any], tree: Tree, element: Mapping[str, Any]) -> list[str]:
    """Paths, which dvc.yaml writes as texts or as mappings with options."""
    return [str(_filled(row if isinstance(row, str) else next(iter(row)), tree, element)) for row in rows]


def _filled(text: str, tree: Tree, element: Mapping[str, Any]) -> Any:
    """A text with its `${...}` filled in; a text that is one of them alone becomes its value."""

    def value(found: re.Match[str]) -> Any:
        key = found[1].strip()
        try:
            return element[key.removeprefix("item.")] if key.startswith("item.") else settings.lookup(tree, key)
        except KeyError:
            raise UserError(f"dvc.yaml: ${{{key}}}: no such key in params.yaml") from None

    if "$" not in text:
        return text
    whole = _TEMPLATE.fullmatch(text)
    return value(whole) if whole else _TEMPLATE.sub(lambda found: str(value(found)), text)
