"""The commands in a shell script, in the line of a crontab, or in a unit.

This module reads only as much of the shell language as is necessary to find the program and the words of a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MAX_DEPTH = 4
"""Maximum number of nested command substitutions and arguments of `sh -c`."""
_TOKEN = re.compile(
    r"""
      (?P<comment>(?<![^\s;&|(])\#[^\n]*)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | (?P<redirect>&?\d*(?:>>?|<)[&|]?-?[ \t]*[^\s;&|()<>'"`]*)
    | (?P<end>\$?\(|[;&|()\n`]+)
    | (?P<space>[ \t\r]+|\\\n)
    | \\(?P<escaped>.)
    | (?P<plain>[^\s;&|()<>'"`\\$]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SUBSTITUTION = re.compile(r"(?:\$\(|`)([^()`]*)")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<-?[ \t]*[\"'\\]?([A-Za-z_]\w*)")
_ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_KEYWORDS = {
    "!", "{", "if", "then", "elif", "else", "while", "until", "do", "local", "export", "readonly", "declare", "typeset",
}  # fmt: skip
SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh"}


def shell_commands(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command. Omit comments, here-documents, redirections and assignments of variables.

    The program of a command can be in a variable that the text sets. The result also contains the commands in command
    substitutions, and in the arguments of `sh -c` and `eval`.
    """
    return _commands(_without_here_documents(text), {}, _MAX_DEPTH)


def program(words: tuple[str, ...]) -> str:
    """Return the name of the program of a command, without its directory."""
    return words[0].rpartition("/")[2]


def _commands(text: str, variables: dict[str, str], depth: int) -> Iterator[tuple[str, ...]]:
    for words, inner in _split(text):
        for each in inner if depth else ():
            yield from _commands(each, variables, depth - 1)
        command = _started(words, variables)
        if command:
            yield command
            for each in _arguments(command) if depth else ():
                yield from _commands(each, variables, depth - 1)


def _split(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words of each simple command, and the command substitutions in its double-quoted words."""
    words, inner, is_open = list[str](), list[str](), False
    for token in _TOKEN.finditer(text):
        kind, value = token.lastgroup, token[token.lastgroup or 0]
        if kind == "end":
            yield words, inner
            words, inner, is_open = [], [], False
        elif kind in {"comment", "redirect", "space"}:
            is_open = False
        else:
            if kind == "double":
                inner += _SUBSTITUTION.findall(value)
            words[-1:] = [words[-1] + value] if is_open else [*words[-1:], value]
            is_open = True
    yield words, inner


def _started(words: list[str], variables: dict[str, str]) -> tuple[str, ...]:
    """Return the command without keywords and assignments, and add the assignments to the variables."""
    for number, word in enumerate(words):
        if found := _ASSIGNMENT.fullmatch(word):
            variables[found[1]] = found[2]
        elif word not in _KEYWORDS:
            name = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), word)
            return (*(name.split() if name != word else [word]), *words[number + 1 :])
    return ()


def _arguments(command: tuple[str, ...]) -> Iterator[str]:
    """Yield the arguments of a command that a shell executes, such as that of `sh -c`."""
    if program(command) == "eval":
        yield " ".join(command[1:])
    names = [word.rpartition("/")[2] for word in command]
    for number, name in enumerate(names[:-2]):
        if name in SHELLS and re.fullmatch(r"-\w*c", command[number + 1]):
            yield command[number + 2]


def _without_here_documents(text: str) -> str:
    """Return the text without here-documents. A here-document for a shell stays in the text."""
    lines, end = list[str](), ""
    all_lines = text.split("\n")
    ends = {line.strip() for line in all_lines}
    for line in all_lines:
        if end:
            end = "" if line.strip() == end else end
        else:
            lines.append(line)
            found = _HERE_DOCUMENT.search(line)
            if found and found[1] in ends and not SHELLS & {*re.findall(r"\w+", line[: found.start()])}:
                end = found[1]
    return "\n".join(lines)
