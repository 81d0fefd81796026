"""The pages of the documentation as data: their blocks of code, and the commands in them.

It defines a block, a command, and a call of certmond. It runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from certmond.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
    if not {"decisions", "reference"} & set(page.parts)  # records of their day; made from the code
)
_PROGRAMS = (
    "ansible-playbook|apt-get|apt|cat|cd|certmond|chmod|cp|crictl|crontab|curl|df|dpkg|echo|find|for|getcert|git|grep|"
    "install|journalctl|kops|kubeadm|kubectl|ln|ls|make|man|mkdir|mv|namei|openssl|pip|podman|printf|promtool|python3|rm|rpm|sed|sha256sum|source|ssh|sudo|"
    "sysctl|systemctl|systemd-analyze|systemd-sysusers|tail|tar|timedatectl|touch"
)
_COMMAND = re.compile(rf"\$ |\(umask |(\.{{1,2}}|\.ci|\.venv|/opt)/\S+( |$)|({_PROGRAMS})( |;|$)")
_END = frozenset("|;&()<>") | {"||", "&&", ";;", ">>", "do", "done"}


@dataclass(frozen=True)
class Block:
    """A block of code: its page, its first line, its language ("" where it is only indented), its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def is_script(self) -> bool:
        return self.text.startswith("#!")

    @property
    def is_commands(self) -> bool:
        """Return whether the block has commands to type: its first line that is no comment begins with a program."""
        if self.language not in {"", "sh", "bash", "console"} or self.is_script:
            return False
        first = next((line for line in self.text.splitlines() if line.strip() and not line.startswith("#")), "")
        return bool(_COMMAND.match(first))

    def commands(self) -> Iterator[str]:
        """Yield each command with its continuation lines; of a console, the text after the prompt."""
        lines = self.text.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        held = ""
        for line in lines:
            held += f"{line}\n"
            opened = len(re.findall(r"^\s*for ", held, re.MULTILINE)) - len(re.findall(r"^\s*done", held, re.MULTILINE))
            if not re.search(r"(\\|\||&&)\s*$", line) and not opened:
                if held.strip() and not held.lstrip().startswith("#"):
                    yield held.strip()
                held = ""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced and the indented blocks of a page; within a list, those that are indented further than its text."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number, inside = 0, 0  # inside: how far the text of a list is indented
    blank = True
    while number < len(lines):
        line = lines[number]
        start = number
        if fence := re.match(r"```(\w*)", line):
            number = lines.index("```", number + 1)
            yield Block(page, start + 1, fence[1], "\n".join(lines[start + 1 : number]))
        elif blank and line.startswith(" " * (inside + 4)):
            while number + 1 < len(lines) and (
                lines[number + 1].startswith(" " * (inside + 4))
                or (
                    not lines[number + 1].strip()
                    and lines[number + 2 : number + 3]
                    and lines[number + 2].startswith(" " * (inside + 4))
                )
            ):
                number += 1
            yield Block(page, start + 1, "", "\n".join(text[inside + 4 :] for text in lines[start : number + 1]))
        elif item := re.match(r"(\d+\.|-) +", line):
            inside = 4 if any(text.startswith("    ") for text in _item(lines, number)) else len(item[0])
        elif line and not line.startswith(" "):
            inside = 0
        blank = not lines[number].strip()
        number += 1


def _item(lines: list[str], number: int) -> Iterator[str]:
    """Return the lines after the item of a list up to the next item or the end of the list."""
    for line in lines[number + 1 :]:
        if line and not line.startswith(" "):
            return
        yield line


def calls(command: str) -> Iterator[list[str]]:
    """The arguments of each call of certmond in a command of the shell, those in quotes for another shell included."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    tokens = list(lexer)
    for number, token in enumerate(tokens):
        if re.search(r"\bcertmond \w", token) and " " in token:
            yield from calls(token)
        if token in {"certmond", ".venv/bin/certmond"} and (
            number == 0 or tokens[number - 1][-1] in "|;&($" or tokens[number - 1] in _END
        ):
            rest = tokens[number + 1 :]
            end = next(
                (place for place, word in enumerate(rest) if word in _END or set(word) <= set("|;&()<>")), len(rest)
            )
            yield rest[:end]


def refusal(arguments: list[str]) -> str | None:
    """Return the error of the verb or the options of a call, by click's own parser, or None."""
    command: click.Command = cli
    context = click.Context(cli, info_name="certmond")
    while isinstance(command, click.Group):
        try:
            _, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        except click.UsageError as error:
            return error.format_message()
        if not arguments:
            return "no verb"
        name, *arguments = arguments
        inner = command.get_command(context, name)
        if inner is None:
            return f"no verb {name}"
        command, context = inner, click.Context(inner, info_name=name, parent=context)
    try:
        given, left, _ = command.make_parser(context).parse_args(list(arguments))
    except click.UsageError as error:
        return error.format_message()
    for parameter in command.params:
        value = given.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and isinstance(value, str) and value not in parameter.type.choices:
            return f"{parameter.name} cannot be {value}"
    return f"too many arguments: {left}" if left else None
