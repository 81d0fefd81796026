"""Groups of commands whose modules are imported when they are needed."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.main import cli


def test_a_command_imports_only_its_own_module() -> None:
    """The command `version` imports the module of no deferred command."""
    script = "import sys; from certmond.cli.main import cli; cli.main(['version'], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(*sys.modules)"], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "certmond.cli.main" in loaded
    assert not loaded & {f"certmond.cli.{name}" for name in ("archive", "configuration", "pki_init", "plan", "renew")}
    assert "certmond.cli.root_ca.inspection" not in loaded


def groups(group: click.Command) -> list[DeferredCommands]:
    if not isinstance(group, DeferredCommands):
        return []
    return [group, *(each for below in group.every_command().values() for each in groups(below))]


@pytest.mark.parametrize("group", groups(cli), ids=lambda group: group.name)
def test_each_deferred_command_has_its_name(group: DeferredCommands) -> None:
    """The command that the module defines has the name under which the group lists it."""
    assert {name: command.name for name, command in group.every_command().items()} == {
        name: name for name in group.list_commands(click.Context(group))
    }


def test_an_unknown_command_imports_nothing() -> None:
    """A misspelled command gets a suggestion from the names alone."""
    group = DeferredCommands("group", deferred={"rotate": "certmond.there_is_no_such_module:rotate"})
    done = CliRunner().invoke(group, ["rotat"])
    assert done.exit_code == 2
    assert "rotate" in done.output
