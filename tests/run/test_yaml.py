"""What YAML itself can do to files that people write: each a line of at most 300 characters, at once."""

import time

import pytest

from headstart import yaml_files
from headstart.errors import UserError
from headstart.settings import DATASETS, PARAMS, read_settings
from headstart.sweep.grid import read_grid
from headstart.yaml_files import parse_by_hand, read_yaml
from tests.checkouts import ROOT

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
REFUSED = {
    "seed: 2020-13-45": "would be a date",
    "seed: 2020-01-01": "would be a date",
    "seed: 2020-01-01 10:00:00": "would be a date",
    "2020-01-01: 1": "would be a date",
    "seed: !!int foo": "",
    "seed: !!float foo": "",
    "seed: !!bool foo": "",
    "seed: !!timestamp foo": "",
    "seed: !!binary '=='": "the tag",
    "seed: !!python/object:os.system x": "the tag",
    "seed: !!set {a, b}": "the tag",
    "seed: !!omap [a: 1]": "the tag",
    "seed: !x y": "the tag",
    "a: &a [*a]": "an anchor that holds itself",
    "a: &a {b: {c: *a}}": "an anchor that holds itself",
    "a: *b": "not valid YAML",
    f"seed: {'9' * 5000}": "an integer of 5000 digits",
    f"seed: 0x{'f' * 5000}": "an integer of 5002 digits",
    LAUGHS: "more than 100000 values, anchors filled in",
    "a: " + "[" * 5000: "nested more than 32 deep",
    "a: " + "{x: " * 5000: "nested more than 32 deep",
    "- " * 5000: "nested more than 32 deep",
    "a: [" + "1, " * 250_000 + "1]": "more than 100000 values",
    "a: 1\na: 2": "'a' stands there twice",
    "a: {b: 1, 'b': 2}": "'b' stands there twice",
    "x: {1: a}": "the key '1' must be a text",
    "true: a": "the key 'true' must be a text",
    "yes: a": "DVC reads otherwise",
    "~: a": "must be a text",
    "? [a, b]\n: 1": "a key must be a text",
    "? {a: b}\n: 1": "a key must be a text",
    "seed: 010": "without a zero in front",
    "seed: 08": "without a zero in front",
    "seed: -007": "without a zero in front",
    "seed: 0o10": "without a zero in front",
    "seed: 1:40": "write one number",
    "seed: 190:20:30": "write one number",
    "seed: 1_000": "without _",
    "seed: 1_0.5": "without _",
    "seed: yes": "write true or false",
    "seed: [on, 1]": "write true or false",
    "seed: No": "write true or false",
    "seed: =": "the tag",
    "a: \x00": "not valid YAML",
    "a: \t- b: [": "not valid YAML",
    "%YAML 9.9\n---\na: 1": "not valid YAML",
    "a: 1\n---\nb: 2": "not valid YAML",
    "<<: 1": "not valid YAML",
    "a: {<<: [1, 2]}": "not valid YAML",
    "a: '" + "x" * 10_000: "not valid YAML",
    "x" * 10_000 + ": [": "not valid YAML",
    "a: \ud800": "",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_yaml_can_do_is_one_line_at_once(tmp_path, text):
    started = time.monotonic()
    (tmp_path / PARAMS).write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / PARAMS)
    message = str(error.value)
    assert message.startswith(str(tmp_path / PARAMS)) and REFUSED[text] in message
    assert "\n" not in message and len(message) <= 300
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 'yes'", "yes"),
        ('a: "010"', "010"),
        ("a: '1:40'", "1:40"),
        ("a: '2020-01-01'", "2020-01-01"),
        ("a: 1e-05", 1e-05),
        ("a: 0", 0),
        ("a: -0.5", -0.5),
        ("a: 0.5", 0.5),
        ("a: .5", 0.5),
        ("a: 1.0e+3", 1000.0),
        ("a: y", "y"),
        ("a: cifar10_10k", "cifar10_10k"),
        ("a: 10_k", "10_k"),
        ("a: http://host:80/x_1", "http://host:80/x_1"),
        ("a: null", None),
        ("a:", None),
        ("a: true", True),
        ("a: &x [1, 2]\nb: *x", [1, 2]),
        ("x: &x {p: 1}\na: {<<: *x, q: 2}", {"p": 1, "q": 2}),
        ("a: |\n  yes\n", "yes\n"),
    ],
)
def test_what_dvc_reads_alike_is_read(text, value):
    from dvc.utils.serialize import parse_yaml

    assert parse_by_hand(text)["a"] == value == parse_yaml(text, "x")["a"]


@pytest.mark.parametrize("text", ["a: 010", "a: 1:40", "a: yes", "a: 0o10", "a: on", "a: 08", "a: -010"])
def test_what_is_refused_for_that_is_read_otherwise_by_dvc(text):
    from dvc.utils.serialize import parse_yaml

    assert yaml_files.parse_yaml(text)["a"] != parse_yaml(text, "x")["a"]


def test_the_committed_files_are_read_as_before():
    tree = read_settings(ROOT)
    for name in (PARAMS, DATASETS):
        assert tree[name] == yaml_files.parse_yaml((ROOT / name).read_text())
    for file in sorted((ROOT / "sweeps").glob("*.yaml")):
        read_grid(file)


def test_a_grid_is_bounded_too(tmp_path):
    file = tmp_path / "large.yaml"
    axes = "".join(f"  simclr.k{n}: [{', '.join(map(str, range(100)))}]\n" for n in range(8))
    file.write_text(f"axes:\n{axes}")
    with pytest.raises(UserError, match="more than 100000 cells"):
        read_grid(file)
    file.write_text(LAUGHS)
    with pytest.raises(UserError, match="anchors filled in"):
        read_grid(file)


def test_a_file_that_has_no_end_is_one_line(tmp_path):
    (tmp_path / PARAMS).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="must be a plain file"):
        read_yaml(tmp_path / PARAMS)
    (tmp_path / DATASETS).write_text("#" * 5 * 2**20)
    with pytest.raises(UserError, match="4194304 are the most"):
        read_yaml(tmp_path / DATASETS)
    with pytest.raises(UserError, match="must be a plain file"):
        read_yaml(tmp_path)
