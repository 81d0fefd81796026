"""The help of the command line."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.help import GROUPS
from certmond.cli.main import cli


def text(*arguments: str, columns: int = 80) -> str:
    return CliRunner().invoke(cli, [*arguments, "--help"], terminal_width=columns).output


def test_each_command_is_in_one_group() -> None:
    """The groups contain every command of certmond exactly once."""
    names = [name for _, group in GROUPS for name in group]
    assert sorted(names) == sorted(cli.every_command())


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_no_sentence_is_cut(columns: int) -> None:
    """The help contains the whole first sentence of each command, in lines that fit the terminal."""
    shown = text(columns=columns)
    assert max(map(len, shown.splitlines())) <= columns
    assert "..." not in shown.partition("Look at this node:")[2]
    words = " ".join(shown.split())
    for name, command in cli.every_command().items():
        first = " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].partition(" Exit:")[0]
        assert f"{name} {first.rstrip('.')}" in words


def test_the_help_names_an_example_and_the_manual_page() -> None:
    """The help ends with commands to try, and with the manual page."""
    assert re.search(r"Examples:\n  certmond check .*man certmond\n$", text(), re.DOTALL)


@pytest.mark.parametrize("group", ["archive", "config", "root-ca"])
def test_no_sentence_about_a_command_of_a_group_is_cut(group: str) -> None:
    """The help of a group contains the whole first sentence of each of its commands."""
    commands = cli.every_command()[group]
    assert isinstance(commands, DeferredCommands)
    shown = text(group).partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80
    for name, command in commands.every_command().items():
        first = " ".join((command.help or "").split()).partition(". ")[0].rstrip(".")
        assert f"{name} {first}" in " ".join(shown.split())
