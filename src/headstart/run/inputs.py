"""What a stage reads besides its dependencies, its settings and code, as they were when it began.

DVC reads params.yaml and hashes code only after a stage's command has ended: what is edited meanwhile would be recorded
as if it had run. So a stage reads both once, compares before and after it leaves its outs, and writes the digests of
what it used beside them, which readers of dvc.lock compare. Two `dvc exp run` in one workspace would record each
other's parameters: the first one's process is noted in .dvc/tmp, and stages of another one end while it lives.
"""

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import tqdm

from headstart import settings
from headstart.data import SPLITS, UNLABELLED
from headstart.errors import UserError
from headstart.ingest.bring import META
from headstart.lock import made_with
from headstart.run import files, paths
from headstart.run.params import Params, to_params
from headstart.settings import DATASETS, PARAMS, SAME, Tree

SESSION = Path(".dvc/tmp/headstart.json")  # of the working copy: a temporary experiment has its own
SESSION_IGNORES = ("device", "tracking")
ADVICE = "put it back or run again"
VERIFIED_BYTES = 2**30


class Inputs:
    """The settings and the code of one execution of a stage.

    name: of the element of its matrix, as `digits`; dataset: whose block of datasets.yaml counts, by default the same.
    """

    def __init__(self, stage: str, name: str, dataset: str | None = None):
        self.stage, self.name, self.dataset = stage, name, name if dataset is None else dataset
        self._seen = _stamps()
        self.params: Params = to_params(settings.read_settings())
        self.deciding = settings.deciding(self.params.settings, stage, self.dataset)
        self.code = settings.code_of(stage)
        self._warned = False
        _check_session(self.params.settings)
        if (arrays := self._arrays()) and os.environ.get("RANK", "0") == "0":
            check_arrays(arrays)

    def _arrays(self) -> Path | None:
        """The folder of the prepared arrays that the stage reads, if it reads some."""
        if self.stage in ("train_simclr", "fit_probe", "fit_baselines"):
            return paths.prepared(self.dataset)
        if self.stage == "pretrain_autoencoder":
            other = self.params.projector.autoencoder_dataset
            return paths.prepared(self.dataset) if other == SAME else paths.source(other)
        return paths.target(self.name.removeprefix(f"{self.dataset}-on-")) if self.stage == "transfer" else None

    def change(self) -> str:
        """Return in words what differs now from what the stage read, empty where nothing does."""
        stamps = _stamps()
        if stamps != self._seen:
            try:
                now = settings.deciding(settings.read_settings(), self.stage, self.dataset)
            except UserError as error:
                return f"the settings were changed while {self.stage} ran ({error})"
            found = _difference(self.deciding, now, self._spelt)
            if found:
                return f"{found} while {self.stage} ran"
            self._seen = stamps  # of no account: not read again at each epoch
        try:
            code = settings.code_of(self.stage)
        except UserError as error:
            return f"the code was changed while {self.stage} ran ({error})"
        edited = [path for path in sorted({*self.code, *code}) if self.code.get(path) != code.get(path)]
        return f"{edited[0]} was changed while {self.stage} ran" if edited else ""

    def check(self) -> None:
        """Raise UserError where settings or code were changed meanwhile."""
        if change := self.change():
            raise UserError(f"{change}; nothing is recorded; {ADVICE}")

    def warn(self) -> None:
        """Say once, on stderr, that what was changed meanwhile will make the stage end without a result."""
        if not self._warned and (change := self.change()):
            self._warned = True
            line = f"warning: {change}: its result will not be recorded; put it back before it ends"
            tqdm.tqdm.write(line, file=sys.stderr)

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Surround the writing of outs: refuses what was changed, before and after; then writes the digests."""
        self.check()
        yield
        self.check()
        files.write_json(paths.used(self.stage, self.name), self.digests())

    def digest(self, *more: Any, leave_out: Collection[str] = (), code_leave_out: tuple[str, ...] = ()) -> str:
        """Return a digest of settings, code and what else decides a result: the key of what may be taken up again.

        leave_out: settings that do not count; code_leave_out: ends of the names of modules that do not.
        """
        code = [item for item in self.code.items() if not item[0].endswith(code_leave_out)]
        return settings.digest(settings.without(self.deciding, *leave_out), code, *more)

    def digests(self) -> dict[str, str]:
        """Return the digests of settings and code; lock.digests gives the same from a lock that tells the truth."""
        return made_with(self.deciding, self.code)

    def _spelt(self, key: str) -> str:
        section, _, knob = key.partition(".")
        if section == "block":
            return settings.file_and_key(f"{DATASETS}:{self.dataset}.{knob}")
        if section == "views":
            return f"{PARAMS}: views.{self.params.dataset(self.dataset).views}.{knob}"
        return settings.file_and_key(key)


def read_used(params: Params) -> dict[str, dict[str, Any]]:
    """Return stage -> element of its matrix -> the digests that it left, of all that a report rests on.

    Raises UserError where one is missing.
    """
    head, targets = params.projector, params.probe.datasets
    everywhere = ("download", "prepare", "train_simclr", "fit_probe", "fit_baselines")
    wanted = {
        **{stage: list(params.datasets) for stage in everywhere},
        "prepare_source": [head.autoencoder_dataset],
        "pretrain_autoencoder": [f"{name}-{head.init}-{head.hidden_dim}" for name in params.datasets],
        "prepare_target": list(targets),
        "transfer": [f"{name}-on-{target}" for name in params.datasets for target in targets],
    }
    return {
        stage: {name: files.read_json(paths.used(stage, name), made_by=stage) for name in names}
        for stage, names in wanted.items()
    }


def check_arrays(folder: Path) -> None:
    """Raise UserError where prepared arrays are not those whose digest their meta.json has.

    Not for arrays above VERIFIED_BYTES, which would cost each stage seconds, nor for those that have no digest.
    """
    if not (folder / META).is_file():
        return
    meta = files.read_json(folder / META, made_by="prepare")
    sizes = [path.stat().st_size for path in folder.glob("*.npy")]
    if not isinstance(meta, dict) or "hash" not in meta or sum(sizes) > VERIFIED_BYTES:
        return
    from headstart.ingest.pack import digest_arrays

    try:
        splits = [name for name in (*SPLITS, UNLABELLED) if name in meta["num_images"]]
        right = digest_arrays(folder, splits, any(folder.glob("*_whole.npy"))) == meta["hash"]
    except FileNotFoundError:
        right = False
    if not right:
        raise UserError(f"{folder}: not the arrays whose digest {META} has: damaged; remove the folder, then dvc repro")


def _stamps() -> list[tuple[int, int]]:
    """What changes whenever the settings' files are written."""
    with suppress(OSError):
        return [(stat.st_mtime_ns, stat.st_size) for stat in (Path(PARAMS).stat(), Path(DATASETS).stat())]
    return []


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], spelt: Any) -> str:
    nothing = object()
    for key in sorted({*before, *now}):
        old, new = before.get(key, nothing), now.get(key, nothing)
        if old != new:
            words = [_word(None if value is nothing else value) for value in (old, new)]
            return f"{spelt(key)} was changed from {words[0]} to {words[1]}"
    return ""


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ---- one run of dvc in a workspace -----------------------------------------------------------------------------------


def dvc_process() -> psutil.Process | None:
    """Return the process of dvc that runs this stage; None where nobody or something else does.

    DVC sets DVC_STAGE for a stage's command: dvc itself is the nearest ancestor without it.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    with suppress(psutil.Error, OSError):
        for parent in psutil.Process().parents():
            if "DVC_STAGE" not in parent.environ():
                return parent
    return None


def is_alive(pid: int, born: float) -> bool:
    """Whether the process of this number that began at `born` (seconds since 1970) still runs."""
    with suppress(psutil.Error, ValueError):
        process = psutil.Process(pid)
        return process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE
    return False


def _check_session(tree: Tree) -> None:
    """Raise UserError where another dvc works here, or where settings were changed since this one's first stage."""
    process = dvc_process()
    if process is None:
        return
    own = {"pid": process.pid, "born": process.create_time()}
    now = settings.without(settings.flat(settings.of_run(tree)), *SESSION_IGNORES)
    before = _read_session()
    if {key: before.get(key) for key in own} != own:
        if before and is_alive(int(before["pid"]), float(before["born"])):
            raise UserError(
                f"another dvc (process {before['pid']}) runs in this workspace, and each would record the other's "
                "settings; use dvc exp run --temp or --queue, or a sweep (python -m headstart sweep)"
            )
        with suppress(OSError):
            files.write_text(SESSION, json.dumps({**own, "settings": now}) + "\n")
        return
    found = _difference(before["settings"], now, settings.file_and_key)
    if found:
        raise UserError(
            f"{found} since this dvc (process {process.pid}) began; what is done is kept, the rest is not run; {ADVICE}"
        )


def _read_session() -> dict[str, Any]:
    try:
        session = json.loads(SESSION.read_text(encoding="utf-8"))
        return session if {"pid", "born", "settings"} <= set(session) else {}
    except (OSError, ValueError):
        return {}
