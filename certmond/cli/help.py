"""Help of the command line: commands in groups, with whole sentences, an example and the manual page."""

from __future__ import annotations

import click

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


class GroupedCommands(RootedErrors):
    """Group of commands whose help lists the commands by task."""

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help. The sentence wraps, but is never cut."""
        for title, names in GROUPS:
            with formatter.section(title):
                formatter.write_dl([(name, _first_sentence(self.commands[name])) for name in names])
        with formatter.section("Examples"):
            formatter.write_dl(list(_EXAMPLES))


def _first_sentence(command: click.Command) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.partition(". ")[0].partition(" Exit:")[0].rstrip(".")
