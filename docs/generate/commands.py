"""Reference of the commands: every verb with its arguments and options, as `--help` prints them.

Owns the iteration over the verbs, which the manual pages use, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import click

from certmond.cli.main import cli

_HEAD = """# Command reference

Every verb with its options, generated from the program: the same text as `certmond VERB --help` and certmond(8).

Exit codes are those of monitoring plugins: **0** no finding, **1** a warning (`plan`: steps, or a due certificate
without a step), **2** a critical finding (`plan`: one that no step clears), **3** unknown: an invalid configuration, a
wrong option, no certificate found, no running daemon.
A verb that acts exits with 0 if all steps are done, 1 if a step waits, 2 if a step failed or was refused, and 3 if
it could not begin.

"""


@dataclass(frozen=True)
class Option:
    """An option or argument: its syntax, and its effect."""

    written: str
    meaning: str


@dataclass(frozen=True)
class Verb:
    """One verb, such as `root-ca show`: its usage, its effect, and its own options."""

    name: str
    usage: str
    meaning: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Group:
    """The first word after `certmond`, such as `renew` or `root-ca`: one verb, or several with that prefix."""

    name: str
    meaning: str
    verbs: tuple[Verb, ...]


def shared() -> tuple[Option, ...]:
    """Return the options of every verb."""
    return tuple(_options(cli, click.Context(cli, info_name="certmond")))


def verbs() -> tuple[Verb, ...]:
    """Return every verb that is not a group, in alphabetical order."""
    return tuple(_verbs(cli, click.Context(cli, info_name="certmond", **cli.context_settings)))


def groups() -> tuple[Group, ...]:
    """Return the verbs grouped by their first word, in alphabetical order."""
    found = groupby(verbs(), key=lambda verb: verb.name.partition(" ")[0])
    commands = cli.every_command()
    return tuple(Group(name, _joined(commands[name].help), tuple(below)) for name, below in found)


def reference() -> str:
    """Return docs/reference/commands.md."""
    text = _HEAD + "## Options of every verb\n\nGive them before or after the verb.\n\n" + _table(shared())
    for verb in verbs():
        text += f"\n## certmond {verb.name}\n\n    {verb.usage}\n\n{verb.meaning}\n"
        text += f"\n{_table(verb.options)}" if verb.options else ""
    return text


def _table(options: tuple[Option, ...]) -> str:
    rows = "".join(f"| `{_cell(option.written)}` | {_cell(option.meaning)} |\n" for option in options)
    return f"| option | |\n|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _verbs(group: click.Group, context: click.Context) -> Iterator[Verb]:
    common = {option.written for option in shared()}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _verbs(command, inner)
            continue
        pieces = command.collect_usage_pieces(inner)
        options = tuple(option for option in _options(command, inner) if option.written not in common)
        path = inner.command_path.removeprefix("certmond ")
        yield Verb(path, " ".join(("certmond", path, *pieces)), _joined(command.help), options)


def _options(command: click.Command, context: click.Context) -> Iterator[Option]:
    for parameter in command.get_params(context):
        record: Any = parameter.get_help_record(context)
        if record and record[1] and "--help" not in parameter.opts:  # the usage describes arguments
            yield Option(record[0], _joined(record[1]))


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())
