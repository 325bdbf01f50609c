"""YAML as DVC reads it, and of what people write only what DVC and PyYAML take for the same: the one reader of YAML."""

import re
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import UserError, brief, reason

LINE = 300  # characters of a message on settings
MOST_DEPTH, MOST_NODES, MOST_DIGITS, MOST_BYTES = 32, 100_000, 300, 2**22
_TAG = "tag:yaml.org,2002:"
# of what PyYAML makes values of: a tag that its text does not fit
_BROKEN = (KeyError, TypeError, AttributeError, RecursionError, OverflowError)
_SCALARS = tuple(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null"))
# YAML 1.1, which PyYAML reads, and 1.2, which DVC reads, differ in these
_OTHERWISE = (
    (re.compile("yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"), "write true or false"),
    (re.compile(r"[-+]?0[0-9_]+|[-+]?0o[0-7_]+"), "write the number without a zero in front"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+"), "write one number"),
    (re.compile(r"[-+]?[0-9.][0-9_.]*_[0-9_.]*([eE][-+]?[0-9]+)?"), "write the number without _"),
)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2 floats: PyYAML alone reads the `1e-05` that DVC writes as a string."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_INT = r"[-+]?[0-9]+$"
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?!{_INT})({_FLOAT})$"), list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """Return what YAML says; raises ValueError in one line for what is none."""
    try:
        return yaml.load(text, Loader=Loader)
    except (*_BROKEN, yaml.YAMLError) as error:
        raise ValueError(f"not valid YAML: {reason(error)}") from None


def parse_by_hand(text: str) -> Any:
    """Return what YAML that people write says; raises ValueError, in one line, for more than settings need.

    That is: nesting deeper than MOST_DEPTH, more than MOST_NODES values once anchors are filled in, an anchor that
    holds itself, tags, keys that are no texts or stand twice, and spellings that DVC, which reads YAML 1.2, takes for
    another value than we do: `yes`, `010`, `1:40`, dates.
    """
    try:
        _check_depth(text)
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Check().visit(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (*_BROKEN, yaml.YAMLError) as error:
        raise ValueError(f"not valid YAML: {reason(error)}") from None


def _check_depth(text: str) -> None:
    """Before anything is made of it: what makes nodes of events does so by recursion."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH or number > 2 * MOST_NODES:
            assert event.start_mark is not None
            too_much = f"nested more than {MOST_DEPTH} deep" if depth > MOST_DEPTH else f"more than {MOST_NODES} values"
            raise ValueError(f"line {event.start_mark.line + 1}: {too_much}")


class _Check:
    """Looks at each node of a file; its size is that with all anchors filled in."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def visit(self, node: yaml.Node) -> int:
        """Return how many values a node holds; raises ValueError with its line."""
        line = f"line {node.start_mark.line + 1}"
        if id(node) in self._open:
            raise ValueError(f"{line}: an anchor that holds itself")
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        self._open.add(id(node))
        size = 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, line)
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            self._check_keys(node)
            size += sum(self.visit(value) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            size += sum(self.visit(value) for value in node.value)
        else:
            raise ValueError(f"{line}: the tag {brief(node.tag)} is not read here")
        self._open.remove(id(node))
        if size > MOST_NODES:
            raise ValueError(f"{line}: more than {MOST_NODES} values, anchors filled in")
        self._sizes[id(node)] = size
        return size

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set[str]()
        for key, _ in node.value:
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{line}: a key must be a text")
            if key.tag == f"{_TAG}merge":
                continue
            _check_scalar(key, line)
            if key.tag != f"{_TAG}str":
                raise ValueError(f"{line}: the key {brief(key.value)} must be a text; put it in quotes")
            if key.value in seen:
                raise ValueError(f"{line}: the key {brief(key.value)} stands there twice")
            seen.add(key.value)


def _check_scalar(node: yaml.ScalarNode, line: str) -> None:
    if node.tag not in _SCALARS:
        what = "a date" if node.tag == f"{_TAG}timestamp" else f"of the tag {brief(node.tag)}"
        raise ValueError(f"{line}: {brief(node.value)} would be {what}, which is not read here; a text has quotes")
    if node.style in (None, ""):
        for pattern, advice in _OTHERWISE:
            if pattern.fullmatch(node.value):
                raise ValueError(f"{line}: {brief(node.value)}, which DVC reads otherwise: {advice}, a text has quotes")
    if node.tag == f"{_TAG}int" and len(node.value) > MOST_DIGITS:
        raise ValueError(f"{line}: an integer of {len(node.value)} digits; {MOST_DIGITS} are the most")


def read_yaml(path: Path, by_hand: bool = True) -> dict[str, Any]:
    """Return a YAML file that holds a mapping, or raise UserError; by_hand: see parse_by_hand, DVC writes others."""
    try:
        if by_hand and path.exists() and not path.is_file():
            raise UserError(f"{path}: must be a plain file")
        if by_hand and path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes; {MOST_BYTES} are the most")
        text = path.read_text(encoding="utf-8")
        tree = parse_by_hand(text) if by_hand else parse_yaml(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run from the repository's root") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}", LINE) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}", LINE) from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    return tree
