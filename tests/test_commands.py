"""The command line itself: every command can be asked for help, and a mistake is one line and exit status 1."""

import importlib

import pytest

from headstart.__main__ import COMMANDS, parser


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function_and_its_help(name, capsys):
    assert callable(getattr(importlib.import_module(f"headstart.commands.{name}"), name))
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m headstart {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
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
