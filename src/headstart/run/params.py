"""params.yaml, read once, validated whole, resolved for one recipe and one dataset.

A knob may be given per recipe (`{default: 40, paper: 150}`): `load_params` picks the value of the active recipe before
anything is checked. Every error names the file, the key, the value and what is allowed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pydantic.dataclasses
import yaml

from headstart.data.table import KINDS
from headstart.data.views import Views
from headstart.errors import UserError
from headstart.evaluation.probe import Probe
from headstart.knobs import OneOf, Range, nearest
from headstart.models.autoencoder import AUTOENCODERS
from headstart.models.backbone import Backbone, check_image_size
from headstart.models.projector import Projector
from headstart.training.contrastive import SimCLR
from headstart.training.diagnostics import Diagnostics
from headstart.training.reconstruction import Reconstruction

PARAMS_FILE = Path("params.yaml")
RECIPES = ("default", "paper")


@dataclass(frozen=True)
class Autoencoder(Reconstruction):
    """The autoencoder's architecture and its recipe."""

    arch: Annotated[str, OneOf(AUTOENCODERS)]


@dataclass(frozen=True)
class Dataset:
    """A row of `data`: which decoder reads it (a row of KINDS), where it lies, how it is trained on."""

    kind: Annotated[str, OneOf(KINDS)]
    path: str | None
    image_size: Annotated[int, Range(4, 1024)]
    batch_size: Annotated[int, Range(2)]
    views: str


@dataclass(frozen=True)
class DataOptions:
    """What holds for every dataset; same: no dataset, and no name for one."""

    standardize: bool
    archives: str | None
    mirror: str | None
    skip_unreadable: bool
    stored_size: Annotated[int, Range(4)] | None
    val_fraction: Annotated[float, Range(0, 0.5, open_low=True)]
    test_fraction: Annotated[float, Range(0, 0.5, open_low=True)]
    same: None


@dataclass(frozen=True)
class Tracking:
    """Whether to mirror runs in MLflow, into which experiment, and whether with the trained backbone."""

    enabled: bool
    experiment: str
    log_model: bool


# nested standard dataclasses take over this configuration
@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False))
class Params:
    """The whole file for the active recipe; `raw` is that resolved tree of plain values, for the tracker."""

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
    options: DataOptions
    data: dict[str, Dataset]
    tracking: Tracking
    raw: dict[str, Any]

    def dataset(self, name: str) -> Dataset:
        """Return the row of a dataset, or raise UserError with the known ones."""
        if name not in self.data:
            raise UserError(_line("datasets", name, f"must be one of {', '.join(self.data)}{nearest(name, self.data)}"))
        return self.data[name]

    def views_of(self, name: str) -> Views:
        """Return how the views of a dataset are drawn."""
        return self.views[self.dataset(name).views]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Return the validated parameters; raises UserError with one line for the first thing that is wrong."""
    return to_params(read_yaml(path))


def to_params(tree: dict[str, Any]) -> Params:
    """Return the validated parameters of a tree as the file holds it; raises UserError as `load_params` does."""
    for key in ("recipe", "data"):
        if key not in tree:
            raise UserError(f"params.yaml: {key}: missing key")
    recipe = tree["recipe"]
    try:
        OneOf(RECIPES).check(recipe)
    except ValueError as error:
        raise UserError(_line("recipe", recipe, str(error))) from None
    raw = of_recipe(tree, str(recipe))
    sections = dict(raw)
    rows = sections.get("data")
    if not isinstance(rows, dict):
        raise UserError(_line("data", rows, "must be a mapping"))
    option_names = DataOptions.__dataclass_fields__
    for key, value in rows.items():
        if key not in option_names and not isinstance(value, dict):
            allowed = f"must be a mapping (a dataset's row); options here: {', '.join(option_names)}"
            raise UserError(_line(f"data.{key}", value, f"{allowed}{nearest(str(key), option_names)}"))
    sections["options"] = {key: value for key, value in rows.items() if key in option_names}
    sections["data"] = {key: value for key, value in rows.items() if key not in option_names}
    try:
        params = _ADAPTER.validate_json(json.dumps({**sections, "raw": raw}, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error)) from None
    _check_references(params)
    return params


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2 floats: PyYAML alone reads the `1e-05` that DVC writes as a string."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_INT = r"[-+]?[0-9]+$"
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?!{_INT})({_FLOAT})$"), list("-+.0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file that holds a mapping, or raise UserError."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run from the repository's root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    return tree


def of_recipe(node: Any, recipe: str, key: str = "") -> Any:
    """Return a tree with every mapping of recipe names replaced by the value of the active one."""
    if not isinstance(node, dict):
        return node
    if node and set(node) & set(RECIPES):
        if set(node) != set(RECIPES):
            raise UserError(_line(key, node, f"a value per recipe needs exactly the keys {', '.join(RECIPES)}"))
        return node[recipe]
    return {name: of_recipe(value, recipe, f"{key}.{name}".lstrip(".")) for name, value in node.items()}


# JSON mode: the only strict mode that makes dataclasses of mappings, and still takes no "3" for 3
_ADAPTER = pydantic.TypeAdapter(Params)


def _explain(error: pydantic.ValidationError) -> str:
    """The first problem in one line; a near miss of an unknown key is answered with the nearest known one."""
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "unexpected_keyword_argument"]
    problem = (unknown or problems)[0]
    where = _key_parts(problem)
    key = ".".join(where)
    if unknown:
        known = _known_keys(where[:-1])
        return f"params.yaml: {key}: unknown key{nearest(where[-1], known)}; allowed here: {', '.join(known)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"params.yaml: {key}: missing key"
    # a union has one problem per alternative
    messages = [_wording(other["msg"]) for other in problems if _key_parts(other) == where]
    return _line(
        key, problem["input"], "must be " + " or ".join(message.removeprefix("must be ") for message in messages)
    )


def _key_parts(problem: Any) -> list[str]:
    """The key as the file spells it: without pydantic's words for the alternatives of a union."""
    parts = [
        str(part)
        for part in problem["loc"]
        if not re.match(r"function-|literal\[|bool$|int$|constrained|nullable", str(part))
    ]
    return ["data", *parts[1:]] if parts[:1] == ["options"] else parts


def _wording(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    for theirs, ours in (
        ("a valid array", "a list"),
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
        "data": Dataset,
        "tracking": Tracking,
    }
    if not where:
        return [name for name in Params.__dataclass_fields__ if name not in ("options", "raw")]
    return list(sections[where[0]].__dataclass_fields__)


def _line(key: str, value: Any, allowed: str) -> str:
    return f"params.yaml: {key}: {value!r} {allowed}"


def _check_references(params: Params) -> None:
    """What no single key can tell: names that must exist elsewhere in the file."""
    if not params.datasets:
        raise UserError(_line("datasets", params.datasets, "must name at least one dataset"))
    if len(set(params.datasets)) != len(params.datasets):
        raise UserError(_line("datasets", params.datasets, "must not name a dataset twice"))
    for name in params.datasets:
        check_image_size(params.backbone, params.dataset(name).image_size, f"data.{name}.image_size")
    _check_projector(params)
    _check_mirror(params.options.mirror)
    if "mean" in params.data:
        raise UserError("params.yaml: data.mean: no name for a dataset: metrics.json has its mean over datasets there")
    for name, row in params.data.items():
        if row.views not in params.views:
            allowed = f"must be one of {', '.join(params.views)}{nearest(row.views, params.views)}"
            raise UserError(_line(f"data.{name}.views", row.views, allowed))
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", params.device):
        raise UserError(_line("device", params.device, "must be auto, cpu, cuda or cuda:N"))
    _check_probe(params)


def _check_mirror(mirror: str | None) -> None:
    if mirror is not None and not re.fullmatch(r"(https?|file)://\S+", mirror):
        raise UserError(
            _line("data.mirror", mirror, "must be null or a URL that begins with http://, https:// or file://")
        )


def _check_projector(params: Params) -> None:
    head, seen = params.projector, params.projector.autoencoder_dataset
    if head.position >= head.num_layers:
        allowed = f"must be below projector.num_layers, {head.num_layers}: the last layer is not initialised by init"
        raise UserError(_line("projector.position", head.position, allowed))
    if seen != "same" and seen not in params.data:
        allowed = f"must be same or one of {', '.join(params.data)}{nearest(seen, ['same', *params.data])}"
        raise UserError(_line("projector.autoencoder_dataset", seen, allowed))
    if params.simclr.optimizer == "adamw" and params.simclr.momentum == 1:
        raise UserError(_line("simclr.momentum", params.simclr.momentum, "must be below 1: it is adamw's beta 1"))


def _check_probe(params: Params) -> None:
    for name in params.probe.datasets:
        if name not in params.data:
            allowed = f"must be one of {', '.join(params.data)}{nearest(name, params.data)}"
            raise UserError(_line("probe.datasets", name, allowed))
    if len(set(params.probe.datasets)) != len(params.probe.datasets):
        raise UserError(_line("probe.datasets", params.probe.datasets, "must not name a dataset twice"))
    if not params.probe.strengths:
        raise UserError(_line("probe.strengths", params.probe.strengths, "must hold at least one number"))
