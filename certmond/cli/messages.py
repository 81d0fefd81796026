"""Messages of commands on stderr and stdout, with the paths and the commands of the node that --root selects."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from certmond.errors import CertmondError, ConfigError, StateError
from certmond.pki.findings import printable

REFUSED = 2
_ROOT, _ARGUMENTS = "certmond.root", "certmond.arguments"
"""Keys in the `meta` of the contexts of click, which the groups and the commands of an invocation share."""
_WITH_PATHS_OF_HOST = (ConfigError, StateError)
"""Errors with the paths of the host: paths as the operator has written them, and the state directory."""


class RootedErrors(click.Group):
    """Group of commands that completes the message of each CertmondError with `below_root`."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Record the arguments of the invocation, and parse the options of the group."""
        context.meta[_ARGUMENTS] = tuple(arguments)
        return super().parse_args(context, arguments)

    def invoke(self, context: click.Context) -> Any:
        """Run the command. Raises the exceptions of the command."""
        try:
            return super().invoke(context)
        except CertmondError as error:
            error.args = (_rooted_error(error), *error.args[1:])
            raise


def record_root(context: click.Context, root: str) -> None:
    """Record the directory of --root for the messages of this invocation."""
    context.meta[_ROOT] = root


def below_root(text: str) -> str:
    """Return the message `text` with real paths, and with --root in the commands of certmond.

    A path that the operator has given as an argument is already a real path.
    """
    context = click.get_current_context(silent=True)
    root = context.meta.get(_ROOT, "/") if context else "/"
    if context is None or root == "/":
        return text
    from certmond.expose.documents.message_paths import rooted_message

    arguments = context.meta.get(_ARGUMENTS, ())
    given = (argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments)
    return rooted_message(text, root, [path.rstrip("/") for path in given if path.startswith("/")])


def _rooted_error(error: CertmondError) -> str:
    return str(error) if isinstance(error, _WITH_PATHS_OF_HOST) else below_root(str(error))


def print_message(text: str, *, err: bool = False) -> None:
    """Print a message about the node, by default to stdout. Escape terminal control characters, except newlines."""
    click.echo(_printable_lines(below_root(text)), err=err)


def print_error(error: CertmondError) -> None:
    """Print the message of an error to stderr."""
    click.echo(f"certmond: {_printable_lines(_rooted_error(error))}", err=True)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def refuse(problems: Iterable[str]) -> NoReturn:
    """Print the problems to stderr and exit with 2."""
    print_message("\n".join(f"refused: {problem}" for problem in dict.fromkeys(problems)), err=True)
    sys.exit(REFUSED)
