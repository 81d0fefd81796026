"""The commands' reference: every verb with its arguments and options, as `--help` has them.

Owns the walk over the verbs, which the manual pages take as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import click

from certmond.cli.main import cli

_HEAD = """# Command reference

Every verb with its options, made from the program: the same as `certmond VERB --help` and certmond(8).

Exit codes are those of monitoring plugins: **0** all well, **1** a warning (of `plan`: there is something to do),
**2** a critical finding, **3** could not tell: a broken configuration, a wrong option, nothing to look at, no daemon
that runs. Of a verb that acts, 0 is all done, 1 something waits, 2 something failed or was refused, 3 it could not
begin.

"""


@dataclass(frozen=True)
class Option:
    """An option or argument: how it is written, and what it does."""

    written: str
    meaning: str


@dataclass(frozen=True)
class Verb:
    """One verb, such as `root-ca show`: how it is called, what it does, and its own options."""

    name: str
    usage: str
    meaning: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Group:
    """What stands behind `certmond` first, such as `renew` or `root-ca`: a verb alone, or several below one name."""

    name: str
    meaning: str
    verbs: tuple[Verb, ...]


def shared() -> tuple[Option, ...]:
    """The options that every verb takes."""
    return tuple(_options(cli, click.Context(cli, info_name="certmond")))


def verbs() -> tuple[Verb, ...]:
    """Every verb that does something, in the order of the alphabet; groups are told through theirs."""
    return tuple(_verbs(cli, click.Context(cli, info_name="certmond", **cli.context_settings)))


def groups() -> tuple[Group, ...]:
    """Every verb by its first word, in the order of the alphabet."""
    found = groupby(verbs(), key=lambda verb: verb.name.partition(" ")[0])
    return tuple(Group(name, _joined(cli.commands[name].help), tuple(below)) for name, below in found)


def reference() -> str:
    """docs/reference/commands.md."""
    text = _HEAD + "## Options of every verb\n\nThey stand before the verb or after it.\n\n" + _table(shared())
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
        if record and record[1] and "--help" not in parameter.opts:  # an argument is told by the usage alone
            yield Option(record[0], _joined(record[1]))


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())
