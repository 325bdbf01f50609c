"""Grids: the order of cells, what is left out, and what a wrong file is told."""

import json
from pathlib import Path

import pytest

from headstart.errors import UserError
from headstart.sweep.grid import read_grid


@pytest.fixture
def grid(tmp_path):
    """`grid(text)`: the grid in a file g.yaml with that text."""

    def read(text: str):
        file = tmp_path / "g.yaml"
        file.write_text(text)
        return read_grid(file)

    return read


def test_the_last_axis_varies_fastest_but_seeds_slowest(grid):
    text = "fixed: {datasets: digits}\naxes:\n  projector.init: [random, autoencoder]\n"
    text += "  simclr.epochs: [1, 2]\n  seed: [3, 4]"
    cells = grid(text).cells()
    assert [(cell["seed"], cell["projector.init"], cell["simclr.epochs"]) for cell in cells] == [
        (3, "random", 1),
        (3, "random", 2),
        (3, "autoencoder", 1),
        (3, "autoencoder", 2),
        (4, "random", 1),
        (4, "random", 2),
        (4, "autoencoder", 1),
        (4, "autoencoder", 2),
    ]
    assert all(cell["datasets"] == ["digits"] for cell in cells)


def test_exclude_leaves_out_where_all_keys_match_and_include_adds(grid):
    text = (
        "fixed: {datasets: digits}\n"
        "axes:\n  projector.init: [random, orthogonal, autoencoder]\n  projector.freeze: [false, true]\n"
        "exclude:\n- projector.init: [random, orthogonal]\n  projector.freeze: true\n"
        "include:\n- projector.init: random\n  seed: 9\n"
    )
    cells = [(cell["projector.init"], cell.get("projector.freeze"), cell.get("seed")) for cell in grid(text).cells()]
    assert cells == [
        ("random", False, None),
        ("orthogonal", False, None),
        ("autoencoder", False, None),
        ("autoencoder", True, None),
        ("random", None, 9),
    ]


def test_datasets_is_an_axis_of_names(grid):
    cells = grid("axes:\n  datasets: [digits, cifar10]\n  seed: [0]").cells()
    assert [cell["datasets"] for cell in cells] == [["digits"], ["cifar10"]]


WRONG = {
    "axis: {seed: [0]}": "g.yaml: axis: unknown key (nearest: axes); allowed here: description, endpoint",
    "description: x": "g.yaml: axes: missing; must hold at least one axis",
    "axes: {seed: 0}": "g.yaml: axes.seed: 0 must be a list of at least one value",
    "axes: {seed: []}": "g.yaml: axes.seed: [] must be a list of at least one value",
    "axes: {seed: [0, 1, 0]}": "g.yaml: axes.seed: 0 must not stand there twice",
    "axes: {seed: [{a: 1}]}": "g.yaml: axes.seed: {'a': 1} must be a text, a number, true, false, null or a list",
    "axes: [seed]": "g.yaml: axes: ['seed'] must be a mapping of keys as -S spells them",
    "fixed: {seed: 1}\naxes: {seed: [0]}": "g.yaml: seed: must not be both an axis and fixed",
    "fixed: {simclr.epochs: 1}\naxes: {simclr.epochs.default: [0]}": "simclr.epochs.default: lies within simclr.epochs",
    "axes: {seed: [0], simclr.epochs: [1]}": "g.yaml: axes.seed: must be the last axis; after it stands simclr.epochs",
    "axes: {seed: [0]}\nexclude: [{seed: 1}]": "g.yaml: exclude[0].seed: 1 must be one of the axis: [0]",
    "axes: {seed: [0]}\nexclude: [{sead: 0}]": "g.yaml: exclude[0].sead: no axis (nearest: seed); axes: seed",
    "axes: {seed: [0]}\nexclude: [{}]": "g.yaml: exclude[0]: {} must name at least one axis",
    "axes: {seed: [0]}\nexclude: {seed: 0}": "g.yaml: exclude: {'seed': 0} must be a list of mappings",
    "fixed: {datasets: [digits, mine]}\naxes: {seed: [0]}": "datasets: ['digits', 'mine'] must name one dataset",
    "axes: {data.archives: ['${x}']}": "axes.data.archives: '${x}' must not hold ${",
    "axes: {seed: [0}": "g.yaml: not valid YAML",
    "axes: {seed: [0]}\nendpoint: [few5]": "g.yaml: endpoint: ['few5'] must be the name of a score, as few5",
    "axes: {seed: [0]}\nmargins: {few5: 0}": "g.yaml: margins.few5: 0 must be a number of points above 0",
    "axes: {seed: [0]}\nmargins: {few5: true}": "g.yaml: margins.few5: True must be a number of points above 0",
    "axes: {seed: [0]}\nmargins: [few5]": "g.yaml: margins: ['few5'] must be a mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_told_where_and_what_is_allowed(grid, text):
    with pytest.raises(UserError) as error:
        grid(text)
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_no_experiment_can_have_is_refused(tmp_path):
    (tmp_path / "My Grid.yaml").write_text("axes: {seed: [0]}")
    with pytest.raises(UserError, match="a sweep's name must be of a-z"):
        read_grid(tmp_path / "My Grid.yaml")


def test_a_grid_is_found_by_its_name_alone(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "small.yaml").write_text("axes: {seed: [0]}")
    monkeypatch.chdir(tmp_path)
    assert read_grid(Path("small")).path == Path("sweeps/small.yaml")
    with pytest.raises(UserError, match="large: No such file or directory"):
        read_grid(Path("large"))


def test_the_endpoint_and_its_margin_are_named_beforehand(grid):
    named = grid("endpoint: knn20\nmargins: {knn20: 0.5, top1: 1}\naxes: {seed: [0]}")
    assert (named.endpoint, named.margins) == ("knn20", {"knn20": 0.5, "top1": 1})
    assert (grid("axes: {seed: [0]}").endpoint, grid("axes: {seed: [0]}").margins) == ("top1", {})


def test_what_results_are_made_of_the_rows_is_named_and_checked(grid):
    text = "axes:\n  seed: [0]\nresults:\n  claims: [C1]\n  gains:\n  - {by: seed}\n"
    assert grid(text).results == {"claims": ["C1"], "gains": [{"by": "seed"}]}
    assert grid("axes:\n  seed: [0]").results == {}
    means = {"by": "arm,seed", "score": "train_loss"}
    assert grid(f"axes:\n  seed: [0]\nresults:\n  means: [{json.dumps(means)}]\n").results == {"means": [means]}
    for wrong, words in (
        ("claims: C1", "must hold lists"),
        ("claim: [C1]", r"results\.claim: unknown key \(nearest: claims\)"),
        ("gains: [{bye: seed}]", r"results\.gains\.bye: .*of, against, by, score"),
        ("gains: [{by: [seed]}]", r"results\.gains\.by: \['seed'\]"),
        ("means: [{by: seed}]", r"results\.means: .*must have both of by, score"),
    ):
        with pytest.raises(UserError, match=words):
            grid(f"axes:\n  seed: [0]\nresults:\n  {wrong}\n")
