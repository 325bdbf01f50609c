"""The settings as the stages use them: read once, validated whole, resolved for one recipe and one dataset.

A knob may be given per recipe (`{default: 40, paper: 150}`): `load_params` picks the value of the active recipe before
anything is checked. Every error names the file, the key, the value and what is allowed.
"""

import functools
import json
import re
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
import pydantic.dataclasses

from headstart import settings, yaml_files
from headstart.data.views import Views
from headstart.errors import UserError, brief, reason
from headstart.evaluation.probe import Probe
from headstart.ingest import decoders
from headstart.ingest.about import About
from headstart.ingest.decoders import Chosen, KnownDecoder
from headstart.ingest.sources import Archive
from headstart.knobs import OneOf, Range, nearest
from headstart.models.autoencoder import AUTOENCODERS
from headstart.models.backbone import Backbone, check_image_size
from headstart.models.projector import Projector
from headstart.run import paths
from headstart.settings import DATASETS, PARAMS, RECIPES, SAME, Tree
from headstart.training.contrastive import SimCLR
from headstart.training.diagnostics import Diagnostics
from headstart.training.reconstruction import Reconstruction


@dataclass(frozen=True)
class Autoencoder(Reconstruction):
    """The autoencoder's architecture and its recipe."""

    arch: Annotated[str, OneOf(AUTOENCODERS)]


@dataclass(frozen=True)
class Dataset:
    """A block of datasets.yaml: which decoder reads it, where it comes from, how it is trained on, what is known of it.

    archives: the published files, None where there are none; path: of the user's own images; about: None for those.
    """

    decoder: Annotated[Chosen, KnownDecoder()]
    archives: tuple[Archive, ...] | None
    path: str | None
    image_size: Annotated[int, Range(4, 1024)]
    batch_size: Annotated[int, Range(2)]
    views: str
    about: About | None = None


@dataclass(frozen=True)
class DataOptions:
    """What holds for every dataset."""

    standardize: bool
    archives: str | None
    mirror: str | None
    skip_unreadable: bool
    stored_size: Annotated[int, Range(4)] | Literal["full"] | None
    pretrain_on: Literal["train", "train_and_val"]
    val_fraction: Annotated[float, Range(0, 0.5, open_low=True)]
    test_fraction: Annotated[float, Range(0, 0.5, open_low=True)]


@dataclass(frozen=True)
class Tracking:
    """Whether to mirror runs in MLflow, into which experiment, whether with the backbone, and registered as what."""

    enabled: bool
    experiment: str
    log_model: bool
    registered_model: str | None = None


# nested standard dataclasses take over this configuration
@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Params:
    """Both files for the active recipe; rows: datasets.yaml's blocks by name.

    settings: the same as they stand in the files, for `settings.deciding` and the tracker.
    """

    datasets: list[str]
    recipe: Annotated[str, OneOf(RECIPES)]
    seed: Annotated[int, Range(0)]
    device: str
    projector: Projector
    backbone: Backbone
    simclr: SimCLR
    diagnostics: Diagnostics
    autoencoder: Autoencoder
    probe: Probe
    views: dict[str, Views]
    data: DataOptions
    tracking: Tracking
    rows: dict[str, Dataset]
    settings: dict[str, Any]

    def dataset(self, name: str) -> Dataset:
        """Return the block of a dataset, or raise UserError with the known ones."""
        if name not in self.rows:
            raise UserError(_line("datasets", name, f"must be one of {', '.join(self.rows)}{nearest(name, self.rows)}"))
        return self.rows[name]

    def views_of(self, name: str) -> Views:
        """Return how the views of a dataset are drawn."""
        return self.views[self.dataset(name).views]

    def backbone_here(self) -> Backbone:
        """Return the backbone's settings; a relative path of weights starts at the main workspace, as all paths do."""
        from headstart.run.tensors import check_weights

        weights = self.backbone.weights
        if weights in ("none", "imagenet1k"):
            return self.backbone
        try:
            path = paths.main_workspace() / Path(weights).expanduser()
            if path.is_file():
                check_weights(path)
        except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a zero byte
            raise UserError(_line("backbone.weights", weights, f"cannot be read: {reason(error)}")) from None
        return replace(self.backbone, weights=str(path))


def load_params(root: Path = Path()) -> Params:
    """Return the validated settings below `root`; raises UserError with one line for the first thing that is wrong."""
    return to_params(settings.read_settings(root))


def to_params(tree: Tree, every_recipe: bool = True) -> Params:
    """Return the validated settings of a tree as the files hold it; raises UserError as `load_params` does.

    every_recipe: values for the recipes that are not active are validated too, each by itself.
    """
    try:
        if "recipe" not in tree[PARAMS]:
            raise UserError(f"{PARAMS}: recipe: missing key")
        recipe = tree[PARAMS]["recipe"]
        try:
            OneOf(RECIPES).check(recipe)
        except ValueError as error:
            raise UserError(_line("recipe", recipe, str(error))) from None
        params = _validated(tree, recipe)
        _check_references(params)
        for other in RECIPES if every_recipe else ():
            if other != recipe:
                _check_other(tree, recipe, other)
        return params
    except UserError as error:
        raise UserError(str(error), yaml_files.LINE) from None


def _validated(tree: Tree, recipe: str) -> Params:
    """The settings for a recipe, each value validated by itself."""
    values = settings.resolved({**tree, PARAMS: {**tree[PARAMS], "recipe": recipe}})
    rows = {name: block for name, block in values[DATASETS].items() if name != SAME}
    for name, block in rows.items():
        if not isinstance(block, dict):
            raise UserError(_line(f"{DATASETS}:{name}", block, "must be a mapping: a dataset's block"))
    try:
        whole = {**values[PARAMS], "rows": rows, "settings": tree}
        params = _ADAPTER.validate_json(json.dumps(whole, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error)) from None
    _check_limits(values)
    for name, row in params.rows.items():
        if row.views not in params.views:
            allowed = f"must be one of {', '.join(params.views)}{nearest(row.views, params.views)}"
            raise UserError(_line(f"{DATASETS}:{name}.views", row.views, allowed))
        _check_arguments(name, row.decoder)
    return params


def _check_other(tree: Tree, recipe: str, other: str) -> None:
    """Validate what another recipe than the active one has of its own."""
    blocks = {
        name: block
        for name, block in tree[DATASETS].items()
        if settings.of_recipe(block, other, DATASETS, name) != settings.of_recipe(block, recipe, DATASETS, name)
    }
    try:
        _validated({**tree, DATASETS: blocks}, other)
    except UserError as error:
        raise UserError(f"{error} (recipe {other})") from None


def _check_limits(values: Tree) -> None:
    """Raise UserError for a number that nobody means: each is a limit of sense, not of what would run."""
    params, blocks = settings.leaves(values[PARAMS]), values[DATASETS].items()
    batches = ((f"{DATASETS}:{name}.batch_size", block["batch_size"]) for name, block in blocks if name != SAME)
    for key, value in (*params, *batches):
        most = LIMITS.get(key.partition(":")[0] if ":" in key else key, MOST)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int | float) and abs(item) > most:
                raise UserError(_line(key, item, f"must be at most {most:g}"))


MOST = 1e9  # of a number in params.yaml, but for these
FLOAT32 = 3e38
LIMITS = {
    "seed": 2**63 - 1,
    "simclr.epochs": 100_000,
    "simclr.warmup_epochs": 100_000,
    "simclr.learning_rate": FLOAT32,
    "simclr.num_processes": 1024,
    "autoencoder.epochs": 100_000,
    "autoencoder.batch_size": 2**20,
    "autoencoder.learning_rate": FLOAT32,
    "probe.few_labels": 1_000_000,
    "probe.few_draws": 10_000,
    "probe.finetune_epochs": 100_000,
    "data.stored_size": 2**14,
    DATASETS: 2**20,  # a batch
}


# JSON mode: the only strict mode that makes dataclasses of mappings, and still takes no "3" for 3
_ADAPTER = pydantic.TypeAdapter(Params)


def _explain(error: pydantic.ValidationError, above: tuple[str, ...] = ()) -> str:
    """The first problem in one line; a near miss of an unknown key is answered with the nearest known one.

    above: the key of the value that was validated.
    """
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "unexpected_keyword_argument"]
    problem = (unknown or problems)[0]
    where = _key_parts(problem)
    key = ".".join([*above, *where])
    if unknown:
        known = _known_keys(where[:-1])
        allowed = f"allowed here: {', '.join(known)}"
        return f"{settings.file_and_key(key)}: unknown key{nearest(where[-1].rpartition(':')[2], known)}; {allowed}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{settings.file_and_key(key)}: missing key"
    # a union has one problem per alternative
    messages = [_wording(other["msg"]) for other in problems if _key_parts(other) == where]
    alternatives = [message.removeprefix("must be ") for message in messages[1:]]
    return _line(key, problem["input"], " or ".join([messages[0], *alternatives]))


def _key_parts(problem: Any) -> list[str]:
    """The key as the file spells it: without pydantic's words for the alternatives of a union."""
    parts = [
        str(part)
        for part in problem["loc"]
        if not re.match(r"function-|literal\[|bool$|int$|str$|dict\[|constrained|nullable", str(part))
    ]
    return [f"{DATASETS}:{parts[1]}", *parts[2:]] if parts[:1] == ["rows"] and len(parts) > 1 else parts


def _wording(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    for theirs, ours in (
        ("a valid array", "a list"),
        ("a valid tuple", "a list"),
        ("an object", "a mapping"),
        ("a valid ", "a "),
        ("a integer", "an integer"),
    ):
        message = message.replace(theirs, ours)
    return message


def _known_keys(where: list[str]) -> list[str]:
    sections: dict[str, Any] = {
        "projector": Projector,
        "backbone": Backbone,
        "simclr": SimCLR,
        "diagnostics": Diagnostics,
        "autoencoder": Autoencoder,
        "probe": Probe,
        "views": Views,
        "data": DataOptions,
        "tracking": Tracking,
    }
    if not where:
        return [name for name in Params.__dataclass_fields__ if name not in ("rows", "settings")]
    inner = {"about": About, "archives": Archive}.get(where[1], Dataset) if len(where) > 1 else Dataset
    return list(sections.get(where[0], inner).__dataclass_fields__)


def _line(key: str, value: Any, allowed: str) -> str:
    return f"{settings.file_and_key(key)}: {brief(value)} {allowed}"


def _check_references(params: Params) -> None:
    """What no single key can tell: names that must exist elsewhere in the file."""
    settings.check_names(params.settings)
    if not params.datasets:
        raise UserError(_line("datasets", params.datasets, "must name at least one dataset"))
    if len(set(params.datasets)) != len(params.datasets):
        raise UserError(_line("datasets", params.datasets, "must not name a dataset twice"))
    for name in params.datasets:
        check_image_size(params.backbone, params.dataset(name).image_size, f"{DATASETS}: {name}.image_size")
    _check_projector(params)
    _check_mirror(params.data.mirror)
    if "mean" in params.rows:
        raise UserError(f"{DATASETS}: mean: no name for a dataset: metrics.json has its mean over datasets there")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", params.device):
        raise UserError(_line("device", params.device, "must be auto, cpu, cuda or cuda:N"))
    _check_probe(params)


def _check_arguments(dataset: str, decoder: Chosen) -> None:
    """Raise UserError for an argument that the decoder's signature does not allow."""
    name = decoders.name_of(decoder)
    for argument, value in decoders.arguments(decoder).items():
        try:
            _argument_adapter(name, argument).validate_json(json.dumps(value, default=str), strict=True)
        except pydantic.ValidationError as error:
            raise UserError(_explain(error, (f"{DATASETS}:{dataset}", "decoder", name, argument))) from None


@functools.cache
def _argument_adapter(decoder: str, argument: str) -> pydantic.TypeAdapter[Any]:
    hints = typing.get_type_hints(decoders.DECODERS[decoder].list_images, include_extras=True)
    return pydantic.TypeAdapter(hints[argument])


def _check_mirror(mirror: str | None) -> None:
    if mirror is None:
        return
    allowed = "must be null or a URL that begins with http://, https:// or file://"
    if not re.fullmatch(r"(https?|file)://\S+", mirror):
        raise UserError(_line("data.mirror", mirror, allowed))
    try:
        parts = urlsplit(mirror)
        right = parts.scheme == "file" or bool(parts.hostname and (parts.port is None or parts.port > 0))
    except ValueError:
        right = False
    if not right:
        raise UserError(_line("data.mirror", mirror, f"{allowed}, and names a host; in a password / is %2F and @ %40"))


def _check_projector(params: Params) -> None:
    head, seen = params.projector, params.projector.autoencoder_dataset
    if (problem := head.problem()) is not None:
        key, value, allowed = problem
        raise UserError(_line(f"projector.{key}", value, allowed))
    if seen != SAME and seen not in params.rows:
        allowed = f"must be {SAME} or one of {', '.join(params.rows)}{nearest(seen, [SAME, *params.rows])}"
        raise UserError(_line("projector.autoencoder_dataset", seen, allowed))
    if params.simclr.optimizer == "adamw" and params.simclr.momentum == 1:
        raise UserError(_line("simclr.momentum", params.simclr.momentum, "must be below 1: it is adamw's beta 1"))


def _check_probe(params: Params) -> None:
    for name in params.probe.datasets:
        if name not in params.rows:
            allowed = f"must be one of {', '.join(params.rows)}{nearest(name, params.rows)}"
            raise UserError(_line("probe.datasets", name, allowed))
    if len(set(params.probe.datasets)) != len(params.probe.datasets):
        raise UserError(_line("probe.datasets", params.probe.datasets, "must not name a dataset twice"))
    if not params.probe.strengths:
        raise UserError(_line("probe.strengths", params.probe.strengths, "must hold at least one number"))
