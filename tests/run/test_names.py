"""Names become parts of paths and of commands: what is no name is refused before DVC, a shell or a path has it."""

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headstart import settings
from headstart.errors import UserError
from headstart.run.params import to_params
from headstart.settings import DATASETS, PARAMS
from tests.checkouts import BIN, ROOT, checkout, environment, run

WRONG = [
    *("/home/x/photos", ".", "..", "../../src", "a/b", "a\\b", "~", "x y", "-h", "--help", "", " ", "x\n", "1st", "ü"),
    *("x$(touch PWNED)", "x`touch PWNED`", "x;touch PWNED", "x|touch PWNED", "x&touch PWNED", "x>PWNED", "'x'", '"x"'),
    *("*", "${seed}", "x" * 101, None, 7, 1.5, True, ["digits"], {"a": "b"}),
]
RIGHT = ["digits", "_x", "cifar10_10k", "a-b", "Z9", "x" * 100]
TREE = settings.read_settings(ROOT)


def with_name(key: str, name: object) -> dict:
    """The settings with a name, and a block of that name, so that nothing but the name is wrong."""
    listed = key in ("datasets", "probe.datasets")
    tree = settings.with_overrides(TREE, {key: [name] if listed else name})
    if isinstance(name, str):
        tree[DATASETS] = {**tree[DATASETS], name: tree[DATASETS]["digits"]}
    return tree


@pytest.mark.parametrize("key", ["datasets", "probe.datasets", "projector.autoencoder_dataset"])
@pytest.mark.parametrize("name", WRONG, ids=repr)
def test_what_is_no_name_is_refused(key, name):
    tree = with_name(key, name)
    with pytest.raises(UserError) as error:
        settings.check_names(tree)
    assert settings.NAMED in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) <= 300
    with pytest.raises(UserError):
        to_params(tree)


@pytest.mark.parametrize("name", RIGHT)
def test_names_are_accepted(name):
    for key in ("datasets", "probe.datasets", "projector.autoencoder_dataset"):
        to_params(with_name(key, name))


@pytest.mark.parametrize("name", [name for name in WRONG if isinstance(name, str)])
def test_a_block_of_a_wrong_name_is_refused_though_nothing_uses_it(name):
    with pytest.raises(UserError, match="must be a name"):
        to_params({**TREE, DATASETS: {**TREE[DATASETS], name: TREE[DATASETS]["digits"]}})


def test_every_committed_name_is_one():
    settings.check_names(TREE)


def test_all_that_dvc_puts_into_commands_and_paths_is_checked():
    """${item.x} is what a matrix takes from a key, so all other templates are keys."""
    text = (ROOT / "dvc.yaml").read_text()
    keys = {key for key in re.findall(r"\$\{([^}]+)\}", text) if not key.startswith("item.")}
    assert keys == set(settings.IN_COMMANDS)


@pytest.mark.parametrize("value", ["x$(touch PWNED)", "128", True, [128], None])
def test_the_other_values_in_commands_are_checked(value):
    for key in ("projector.init", "projector.hidden_dim"):
        if not (key == "projector.init" and value == "128"):
            with pytest.raises(UserError, match=key.replace(".", "[.]")):
                settings.check_names(settings.with_overrides(TREE, {key: value}))


# ---- through the real dvc and make


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return checkout(tmp_path_factory.mktemp("names"))


HOSTILE = ["x$(touch PWNED)", "x;touch PWNED", "../../src", ".", "x y", "-h"]


def set_name(folder: Path, name: str) -> None:
    tree = with_name("datasets", name)
    for file in (PARAMS, DATASETS):
        (folder / file).write_text(yaml.safe_dump(tree[file], sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_no_command_runs_and_no_file_goes_where_dvc_is_given_a_wrong_name(folder, name):
    before = sorted(path for path in folder.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    with contextlib.ExitStack() as after:
        after.callback(run, folder, "git", "checkout", "-q", ".")
        set_name(folder, name)
        done = run(folder, "dvc", "repro", check=False)
        assert done.returncode
        assert "Traceback" not in done.stdout + done.stderr
        assert not list(folder.rglob("PWNED"))
    now = sorted(path for path in folder.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    assert [path for path in now if "__pycache__" not in path.parts and path.name != "dvc.lock"] == [
        path for path in before if "__pycache__" not in path.parts and path.name != "dvc.lock"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE[:3])
def test_make_repro_refuses_a_wrong_name_before_dvc_begins(folder, name):
    with contextlib.ExitStack() as after:
        after.callback(run, folder, "git", "checkout", "-q", ".")
        set_name(folder, name)
        done = run(folder, sys.executable, "-m", "headstart", "check", check=False, PYTHONPATH="src")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and settings.NAMED in done.stderr
    recipe = (ROOT / "Makefile").read_text().partition("\nrepro:")[2].partition("\n\n")[0]
    assert recipe.index("headstart check") < recipe.index("dvc repro")


def test_a_sweep_refuses_a_wrong_name_before_anything_runs(tmp_path):
    from headstart.sweep.cells import make_cells
    from headstart.sweep.grid import read_grid

    for name in (PARAMS, DATASETS, "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("src", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    file = tmp_path / "odd.yaml"
    file.write_text("axes:\n  datasets: [digits, 'x$(touch PWNED)']\n")
    with pytest.raises(UserError, match=r"must be (a name|one of)"):
        make_cells(read_grid(file), tmp_path)


# ---- a stage's own arguments


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset", "-h"], "expected one argument"),
        (["--dataset", "x", "y"], "unrecognized arguments: y"),
        (["--dataset"], "expected one argument"),
        ([], "required: --dataset"),
        (["--dataset", "digits", "--help"], "unrecognized arguments: --help"),
        (["--dataset", "digits", "\x1b[31m"], "\\x1b[31m"),
    ],
)
def test_a_mistake_in_a_stages_arguments_is_one_line_and_status_1(words, told):
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert told in done.stderr and "python -m stages.prepare --help" in done.stderr


def test_help_alone_is_help():
    done = subprocess.run([BIN / "python", "-m", "stages.check", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Refuse names" in done.stdout
