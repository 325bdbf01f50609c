"""The command line itself: every command can be asked for help, and a mistake is one line and exit status 1."""

import importlib
import tomllib

import pytest

from headstart.__main__ import COMMANDS, GAINS_COLUMNS, main, parser
from headstart.study import rows
from headstart.study.statements import STATEMENTS
from tests.checkouts import ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function_and_its_help(name, capsys):
    assert callable(getattr(importlib.import_module(f"headstart.commands.{name}"), name))
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m headstart {name}" in capsys.readouterr().out


def test_alone_it_prints_its_help_and_knows_its_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["headstart"])
    main()
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m headstart") and all(name in shown for name in COMMANDS)
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ended.value.code == 0 and capsys.readouterr().out == f"headstart {version}\n"


def test_help_names_the_claims_and_the_columns(capsys):
    for command, words in (("compare", STATEMENTS), ("gains", GAINS_COLUMNS)):
        with pytest.raises(SystemExit):
            parser().parse_args([command, "--help"])
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown and text in shown for name, text in words.items())
    assert {name for name in GAINS_COLUMNS if name != "arm"} <= set(rows.COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "'frobnicate' (choose from 'compare', 'gains'"),
        (["sweep", "run"], "FILE; python -m headstart sweep run --help"),
        (["compare", "--format", "x"], "argument --format: invalid choice: 'x'"),
        (["compare", "--margin", "wide"], "argument --margin: invalid float value: 'wide'"),
        (["results", "all"], "unrecognized arguments: all"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_status_1(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    message = ended.value.code  # a text is printed to stderr, with exit status 1
    assert message.startswith("error: ") and told in message and "\n" not in message
    assert capsys.readouterr() == ("", "")
