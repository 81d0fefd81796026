"""Groups of commands that import the module of a command only when a user gives the command, or asks for help."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class DeferredCommands(click.Group):
    """Group of commands, some of which are in modules that are not yet imported.

    `deferred` contains the place of each such command by its name, such as "certmond.cli.plan:plan".
    """

    def __init__(self, *args: Any, deferred: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deferred = deferred or {}

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the sorted names of all commands."""
        return sorted({*super().list_commands(context), *self._deferred})

    def get_command(self, context: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or None for an unknown name."""
        if cmd_name in self._deferred and cmd_name not in self.commands:
            module, _, name = self._deferred[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), name), cmd_name)
        return super().get_command(context, cmd_name)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name, the command and its arguments. Raises NoSuchCommand with the most similar names."""
        try:
            return super().resolve_command(context, arguments)
        except click.NoSuchCommand as error:  # click has compared the name only with commands that are imported
            names = self.list_commands(context)
            raise click.NoSuchCommand(error.command_name, possibilities=names, ctx=context) from None

    def every_command(self) -> dict[str, click.Command]:
        """Return each command by its name."""
        context = click.Context(self)
        found = {name: self.get_command(context, name) for name in self.list_commands(context)}
        return {name: command for name, command in found.items() if command}
