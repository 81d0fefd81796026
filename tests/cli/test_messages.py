"""Messages of commands about a node below --root."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from certmond.cli.main import cli
from certmond.cli.messages import RootedErrors, print_error, print_message, record_root, refuse
from certmond.errors import CertmondError, ConfigError, StateError, WriteError
from tests.node import Node

KEY = "/etc/kubernetes/pki/ca.key"


@click.group(cls=RootedErrors)
@click.argument("root")
@click.pass_context
def group(context: click.Context, root: str) -> None:
    record_root(context, root)


@group.command()
@click.argument("file", required=False)
def fails(file: str | None) -> None:
    raise CertmondError(f"{KEY} does not match {file}; run: certmond check")


@group.command()
def misconfigured() -> None:
    raise ConfigError((f"config.yaml:3: {KEY} is no certificate",))


@group.command()
def is_exposed() -> None:
    raise StateError(f"other users can write {KEY}; run: chmod go-w {KEY}")


@group.command()
def prints_errors() -> None:
    for error in (StateError(f"{KEY} is open"), ConfigError((f"{KEY} is open",)), WriteError(f"{KEY} is open")):
        print_error(error)


@group.command()
def prints() -> None:
    print_message(f"{KEY} is missing")
    refuse([f"{KEY} is missing", f"{KEY} is missing"])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


def test_an_error_names_the_real_path_and_the_root(tmp_path: Path) -> None:
    """An error of a command contains real paths, and --root in the command that it names. A path that the operator has
    given stays as it is.
    """
    message = str(run(str(tmp_path), "fails", "/srv/new/ca.crt").exception)
    assert message == f"{tmp_path}{KEY} does not match /srv/new/ca.crt; run: certmond --root {tmp_path} check"


@pytest.mark.parametrize("given", ["/", "--root=/", "/srv/a new/ca.crt", "/srv/a=b/ca.crt"])
def test_any_path_can_be_an_argument(given: str, tmp_path: Path) -> None:
    """The path of a root that another --root overrides, and a path with a space, change nothing else."""
    root = tmp_path / "my node"
    message = str(run(str(root), "fails", "--", given).exception)
    assert message == f"'{root}{KEY}' does not match {given}; run: certmond --root '{root}' check"


def test_an_error_about_this_host_stays() -> None:
    """With the root /, the message of an error does not change."""
    assert str(run("/", "fails").exception) == f"{KEY} does not match None; run: certmond check"


def test_a_problem_of_the_configuration_stays(tmp_path: Path) -> None:
    """A problem of the configuration names paths as the operator has written them."""
    assert str(run(str(tmp_path), "misconfigured").exception) == f"config.yaml:3: {KEY} is no certificate"


def test_an_error_about_the_state_directory_stays(tmp_path: Path) -> None:
    """Such an error names the directory of --state-dir, or a directory above the root."""
    assert str(run(str(tmp_path), "is-exposed").exception) == f"other users can write {KEY}; run: chmod go-w {KEY}"


def test_a_printed_error_equals_a_raised_error(tmp_path: Path) -> None:
    """Only an error about a file of the node contains the path below the root."""
    said = run(str(tmp_path), "prints-errors").stderr.splitlines()
    assert said == [f"certmond: {place}{KEY} is open" for place in ("", "", tmp_path)]


def test_a_printed_message_names_the_real_path(tmp_path: Path) -> None:
    """A message on stdout or stderr contains real paths. A refusal prints each problem once and exits with 2."""
    result = run(str(tmp_path), "prints")
    assert (result.stdout, result.stderr) == (f"{tmp_path}{KEY} is missing\n", f"refused: {tmp_path}{KEY} is missing\n")
    assert result.exit_code == 2


@pytest.mark.parametrize("command", ["renew nonsense", "root-ca rotate", "archive restore apiserver"])
def test_the_option_counts_on_both_sides_of_a_command(node: Node, command: str) -> None:
    """--root before or after the command has the same effect on an error."""
    before = CliRunner().invoke(cli, ["--root", str(node.root), *command.split()])
    after = CliRunner().invoke(cli, [*command.split(), "--root", str(node.root)])
    assert str(before.exception) == str(after.exception)
    assert f"certmond --root {node.root} " in str(before.exception)
