"""Help of the command line: commands in groups, with whole sentences, an example and the manual page."""

from __future__ import annotations

from collections.abc import Iterable

import click

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.messages import RootedErrors

GROUPS = (
    ("Look at this node", ("check", "status", "plan", "forecast", "explain", "discover")),
    ("Change this node", ("renew", "restart", "archive", "root-ca", "init")),
    ("Run the daemon", ("run", "serve", "metrics", "config")),
    ("Try and install", ("demo", "completion", "version")),
)
"""The commands of certmond by task, in the order of the help."""
EPILOG = "`certmond COMMAND --help` prints the options of a command. The manual page is certmond(1): man certmond"
_EXAMPLES = (
    ("certmond check", "the certificates of this node, and each problem with its remedy"),
    ("certmond plan", "the steps that enforce mode would execute now"),
    ("certmond renew apiserver", "a new certificate, and a restart of its services"),
)


class ExplainedCommands(DeferredCommands):
    """Group of commands whose help has a whole sentence about each command."""

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help. The sentence wraps, but is never cut."""
        commands = self.every_command()
        for title, names in self.sections(commands):
            with formatter.section(title):
                formatter.write_dl([(name, _first_sentence(commands[name])) for name in names])

    def sections(self, commands: Iterable[str]) -> Iterable[tuple[str, Iterable[str]]]:
        """Return the titles of the sections of the help, and the commands in each section."""
        return (("Commands", commands),)


class GroupedCommands(ExplainedCommands, RootedErrors):
    """Group of commands whose help lists the commands by task, and examples."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by task, and the examples."""
        super().format_commands(context, formatter)
        with formatter.section("Examples"):
            formatter.write_dl(list(_EXAMPLES))

    def sections(self, _: Iterable[str]) -> Iterable[tuple[str, Iterable[str]]]:
        """Return the tasks, and the commands for each task."""
        return GROUPS


def _first_sentence(command: click.Command) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.partition(". ")[0].partition(" Exit:")[0].rstrip(".")
