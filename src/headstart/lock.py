"""What dvc.lock says: which stages left what, from which settings, code and inputs, and whether their outs agree.

A lock is the truth about results, whatever was edited since: rows, a sweep's finished cells and MLflow's links all come
from it. DVC writes it after a stage's command has ended, so each stage leaves the digests of what it really used
(run/inputs.py), the report gathers them, and a lock that says otherwise is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart import settings
from headstart.settings import DATASETS, PARAMS, Tree

AUTOENCODER = "pretrain_autoencoder"
GATHERING = "report"  # reads the results of every dataset
INGESTING = ("download", "prepare", "prepare_source", "prepare_target")  # what leaves a dataset's arrays
USED = "metrics/used"  # where stages say what they used
_COMMAND = re.compile(r"-m stages\.(\w+)")
_OPTION = re.compile(r"--(\w+)[ =]([^\s']+)")


@dataclass(frozen=True)
class Entry:
    """A stage on a dataset: files (None where the hash is not known yet) and settings as their files hold them.

    dataset: whose results it serves, empty for other datasets' arrays; target: the other dataset that a backbone is
    judged on, if that is what the stage does; block: whose block of datasets.yaml counts; num_bytes: of its outs;
    command: as dvc.lock has it.
    """

    stage: str
    dataset: str
    target: str
    block: str
    deps: Mapping[str, str | None]
    outs: Mapping[str, str | None]
    params: Tree
    num_bytes: int = 0
    command: str = ""

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what it leaves; see settings.deciding."""
        return settings.deciding(self.params, self.stage, self.block)

    @property
    def code(self) -> dict[str, str | None]:
        """Path -> md5 of its modules."""
        return {path: value for path, value in self.deps.items() if path.endswith(".py")}

    @property
    def name(self) -> str:
        """The element of its matrix, as the file is called in which it says what it used; empty without one."""
        found = [out for out in self.outs if out.startswith(f"{USED}/{self.stage}/")]
        return found[0].removeprefix(f"{USED}/{self.stage}/").removesuffix(".json") if found else ""


def read_entries(stages: Mapping[str, Any]) -> list[Entry]:
    """Return the entries of dvc.lock's `stages`; those whose command names no stage are left out."""
    entries = []
    for locked in stages.values():
        command = str(locked.get("cmd", ""))
        if stage := _COMMAND.search(command):
            deps, outs = ({row["path"]: row.get("md5") for row in locked.get(kind, [])} for kind in ("deps", "outs"))
            params = _tree(locked.get("params", {}))
            num_bytes = sum(row.get("size", 0) for row in locked.get("outs", []))
            entries.append(Entry(stage[1], *names_in(command), deps, outs, params, num_bytes, command))
    return entries


def _tree(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of an entry, file -> key, joined by dots -> value, as one tree."""
    blocks = {f"{DATASETS}:{key}": value for key, value in params.get(DATASETS, {}).items()}
    return settings.nested({**params.get(PARAMS, {}), **blocks}, texts=False)


def names_in(command: str) -> tuple[str, str, str]:
    """Return `names` of the options of a stage's command."""
    return names(dict(_OPTION.findall(command)))


def names(element: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return dataset, target and block of what a matrix's element or a command names; see Entry."""
    source, target = str(element.get("source", "")), str(element.get("target", ""))
    dataset = str(element.get("dataset", source if target else ""))
    return dataset, target, dataset or source or target


def involved(entries: Sequence[Entry], dataset: str, needs_autoencoder: bool) -> list[Entry]:
    """Return the entries that decide a dataset's results, all that they rest on included; empty where there are none.

    Where the first layer needs no autoencoder, the stage that leaves a marker then decides nothing.
    """
    gathered = [entry for entry in entries if entry.stage == GATHERING]
    folders = [path for entry in gathered for path in entry.deps if path != USED]
    # dvc.lock keeps those of earlier settings too
    chosen_targets = (entry.params[PARAMS].get("probe", {}).get("datasets") or [] for entry in gathered)
    targets = {"", *(target for some in chosen_targets for target in some)}
    makers = {path: entry for entry in entries for path in entry.outs}
    waiting = [
        entry
        for entry in entries
        if entry.dataset == dataset
        and entry.target in targets
        and any(out.startswith(f"{folder}/") for out in entry.outs for folder in folders if not out.startswith(USED))
    ]
    chosen: list[Entry] = []
    while waiting:
        entry = waiting.pop()
        if entry in chosen:
            continue
        chosen.append(entry)
        made_by = [makers[path] for path in entry.deps if path in makers]
        waiting += [maker for maker in made_by if needs_autoencoder or maker.stage != AUTOENCODER]
    return chosen


def is_whole(chosen: Sequence[Entry]) -> bool:
    """Whether entries of dvc.lock belong together: each read what the others left. What a failure leaves does not."""
    left = {path: value for entry in chosen for path, value in entry.outs.items()}
    return bool(chosen) and all(
        value is not None and left.get(path, value) == value for entry in chosen for path, value in entry.deps.items()
    )


def disagreeing(chosen: Sequence[Entry], made_with: Mapping[str, Any]) -> list[str]:
    """Return the stages whose lock says other settings or code than their outs were made with, in order.

    made_with: stage -> element -> digests, as the report gathers them.
    """
    return sorted(
        f"{entry.stage}@{entry.name}"
        for entry in chosen
        if entry.stage != GATHERING and made_with.get(entry.stage, {}).get(entry.name) != digests(entry)
    )


def stale(chosen: Sequence[Entry], tree: Tree) -> list[str]:
    """Return the stages whose settings are not those of a tree any more, in order."""
    return sorted(
        f"{entry.stage}@{entry.name}"
        for entry in chosen
        if entry.stage != GATHERING and entry.deciding != settings.deciding(tree, entry.stage, entry.block)
    )


def digests(entry: Entry) -> dict[str, str]:
    """Return the digests of settings and code as a lock tells them: those of run/inputs.py when it tells the truth."""
    return made_with(entry.deciding, entry.code)


def made_with(deciding: Mapping[str, Any], code: Mapping[str, str | None]) -> dict[str, str]:
    """Return the digests of a stage's settings (settings.deciding) and of its code (path -> md5)."""
    return {"settings": settings.digest(dict(deciding)), "code": settings.digest(sorted(code.items()))}


def identity(chosen: Sequence[Entry], frozen: bool | str, needs_autoencoder: bool, *leave_out: str) -> str:
    """Return 32 hex digits of what decides a dataset's results: settings as they count, and code.

    The code that makes arrays does not count, nor where their bytes come from: see `arrays`. leave_out: settings that
    do not count either.
    """
    rows = []
    for entry in chosen:
        values = settings.meaning(entry.deciding, frozen, needs_autoencoder)
        values = settings.without(values, "block.archives", *leave_out)
        code = [] if entry.stage in INGESTING else sorted(entry.code.items())
        rows.append([entry.stage, entry.dataset, entry.target, values, code])
    return settings.digest(sorted(rows, key=lambda row: row[:3]))


def arrays(chosen: Sequence[Entry]) -> str:
    """Return 10 hex digits of the prepared arrays that results rest on, empty where one of them is not known."""
    found = {path: value for entry in chosen if entry.stage in INGESTING[1:] for path, value in entry.outs.items()}
    known = {path: value for path, value in found.items() if not path.startswith(USED)}
    return "" if not known or None in known.values() else settings.digest(sorted(known.items()))[:10]


def autoencoder_of(chosen: Sequence[Entry]) -> Entry | None:
    """Return the entry of the autoencoder that is needed, or None."""
    return next((entry for entry in chosen if entry.stage == AUTOENCODER), None)


def upstream(chosen: Sequence[Entry], last: Entry) -> list[Entry]:
    """Return an entry and those of `chosen` that it rests on."""
    found = [last]
    for entry in found:
        found += [other for other in chosen if other not in found and set(other.outs) & set(entry.deps)]
    return found


def in_force(chosen: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return the settings that entries were made with, as one tree."""
    keys = {key: value for entry in chosen for key, value in settings.flat(entry.params).items()}
    return settings.nested(keys, texts=False)
