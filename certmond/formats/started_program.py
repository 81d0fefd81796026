"""Search for the program that a command line starts, directly or through programs such as `env` or a shell."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile
from typing import NamedTuple

from certmond.pki.catalog.component_certificate_flags import PROGRAMS

_HYPERKUBE, _ENV = "hyperkube", "env"
STARTERS = frozenset({"go-runner", _HYPERKUBE})
"""The programs that stay while they run a component. Others, such as `env`, replace themselves with the component."""
_SHELLS = frozenset({"sh", "bash", "dash", "ash"})
_MAX_SCRIPT = 1 << 15  # the time of shlex grows with the square of the length of a word
_MAX_STARTERS = 16
_CONTROLLERS = frozenset({"systemctl", "journalctl", "pkill", "killall", "logger", "echo"})
"""Programs that name a component and start none in their own service."""
_ARCHITECTURE = r"[-._](?:linux[-._])?(?:linux|amd64|x86_64|arm64|aarch64|arm|armhf|s390x|ppc64le|riscv64)"
_VERSIONED = re.compile(
    rf"({'|'.join(PROGRAMS)})(?:{_ARCHITECTURE})?(?:[-._]v?\d[\w.+~-]*)?(?:\.(?:real|bak|orig|old))?"
)
"""A component with its version or an architecture in its name, such as etcd-3.5.21 or k3s-arm64, or a copy of it.

A wrapper starts the program with the suffix `.real`.
"""
_DATA = ("/var/", "/etc/", "/run/")
"""Directories without programs, such as /var/lib/kubelet."""


_PRINTING = frozenset({"-h", *(f"--{name}{value}" for name in ("help", "version") for value in ("", "=true"))})
"""Options with which a component only prints a text. `--version=v1.36.0` sets the version that the component reports
(k8s.io/component-base, version/verflag/verflag.go).
"""


class _Starter(NamedTuple):
    """A program that starts another program.

    `short` and `long` are the options that have a value. `operands` is the number of operands before the other program.
    """

    short: str = ""
    long: tuple[str, ...] = ()
    operands: int = 0


_PREFIXES: Mapping[str, _Starter] = {
    _ENV: _Starter("uCS", ("unset", "chdir", "split-string")),
    "nice": _Starter("n", ("adjustment",)),
    "timeout": _Starter("ks", ("kill-after", "signal"), 1),
    "taskset": _Starter(operands=1),
    "ionice": _Starter("cn", ("class", "classdata")),
    "chrt": _Starter("TPD", ("sched-runtime", "sched-period", "sched-deadline"), 1),
    "systemd-cat": _Starter("tp", ("identifier", "priority", "stderr-priority", "level-prefix")),
}
_SHELL = _Starter("oO", ("rcfile", "init-file"))
"""A shell. The value of its option `-o` is the next word, also in `-oe`."""


class _Options(NamedTuple):
    """The options of a starter, and the words that follow the options."""

    names: str  # the letters of the short options
    script: str | None  # the value of -S or --split-string
    rest: Sequence[str]


def program_of(command: Sequence[str], arguments: Sequence[str] = ()) -> tuple[str, Sequence[str]]:
    """Return the name of the program, or "" for an empty `command`, and the words of the command line.

    For `sh -c SCRIPT`, return the program of a component in the script, and the words of the script. If another program
    starts the program, return the started program and its words. Such programs are those of coreutils, util-linux and
    systemd in _PREFIXES, `go-runner` (kubernetes/release, images/build/go-runner/go-runner.go) and `hyperkube`
    (cmd/hyperkube/main.go of v1.12).
    """
    words: Sequence[str] = [*command, *arguments]
    if not command:
        return "", words
    for _ in range(_MAX_STARTERS):
        name = _name(words)
        if name in _PREFIXES:
            inner = _started(name, words)
        elif name in STARTERS:
            inner = [*dropwhile(_precedes_program, words)]
            if name == _HYPERKUBE and (alias := f"kube-{_name(inner)}") in PROGRAMS:
                return alias, inner
        else:
            break
        if not inner:
            return name, []
        words = inner
    if _name(words) not in _SHELLS or (script := _script(words)) is None:
        return _name(words), words
    return next((name for name in map(program_name, script) if name in PROGRAMS), _name(words)), script


def only_prints(words: Sequence[str]) -> bool:
    """Return whether the words of a command line start a component that prints its version or its help, and ends.

    Return False if the words are a script with several commands.
    """
    programs = [word for word in words if program_name(word) in PROGRAMS and not word.startswith(_DATA)]
    return programs == [*words[:1]] and not _PRINTING.isdisjoint(words) and not any(map(_is_operator, words))


def subcommand_of(program: str, words: Sequence[str]) -> str:
    """Return the word after a program and its options, such as `server` for `k3s --debug server`, or "".

    Skip each word with a slash, such as a path that is the value of an option. If a script starts the program several
    times, return the first `server` or `agent` among the subcommands, otherwise the first subcommand.
    """
    found = list[str]()
    for position, word in enumerate(words):
        if program_name(word) == program:
            following = (each for each in words[position + 1 :] if not each.startswith("-") and "/" not in each)
            found += [*following][:1]
    return next((each for each in found if each in {"server", "agent"}), "".join(found[:1]))


def mentioned_component(command: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """Return the component that an unknown program might start, or "".

    The component is the first one whose name is a word of the command line. Return "" without such a word, for a known
    component, and for a program such as systemctl.
    """
    program, words = program_of(command, arguments)
    if program in PROGRAMS or program in _CONTROLLERS:
        return ""
    # An image has a tag or a digest after its name.
    parts = (part for word in words for part in word.split() if not part.startswith(_DATA))
    names = (program_name(re.split("[:@]", posixpath.basename(part))[0]) for part in parts)
    return next((PROGRAMS[name] for name in names if name in PROGRAMS), "")


def program_name(path: str) -> str:
    """Return the base name of a program. Omit a version or an architecture, as in kubelet-v1.33.2."""
    name = posixpath.basename(path)
    match = _VERSIONED.fullmatch(name)
    return match[1] if match else name


def _name(words: Sequence[str]) -> str:
    return program_name(words[0]) if words else ""


def _started(name: str, words: Sequence[str]) -> Sequence[str]:
    """Return the command line that the program `name`, one of the _PREFIXES, starts."""
    found = _options(words[1:], _PREFIXES[name])
    if name != _ENV:
        return found.rest[_PREFIXES[name].operands :]
    if found.script is not None:
        return [_ENV, *_script_words(found.script), *found.rest]
    return [*dropwhile(lambda word: "=" in word, found.rest)]


def _options(words: Sequence[str], starter: _Starter) -> _Options:
    """Return the options before the first operand, as getopt(3) finds them."""
    names, script, position = "", None, 0
    while position < len(words) and words[position].startswith(("-", "+")):
        word = words[position]
        position += 1
        if word == "--":
            break
        if word.startswith("--"):
            name, is_given, value = word[2:].partition("=")
            option, takes_value = name, name in starter.long
        else:
            before, option, value = _cluster(word[1:], starter.short)
            if starter is _SHELL:
                before, value = before + value, ""
            names, is_given, takes_value = names + before + option, value, bool(option)
        if takes_value and not is_given:
            value = words[position] if position < len(words) else ""
            position += 1
        if takes_value and option in {"S", "split-string"}:
            script = value
            break
    return _Options(names, script, words[position:])


def _cluster(letters: str, with_value: str) -> tuple[str, str, str]:
    """Return the letters before the first option with a value, this option or "", and the letters after this option."""
    for position, letter in enumerate(letters):
        if letter in with_value:
            return letters[:position], letter, letters[position + 1 :]
    return letters, "", ""


def _is_operator(word: str) -> bool:
    """Return whether the word separates two commands of a shell script."""
    return bool(word) and set(word) <= set(";&|()<>")


def _precedes_program(word: str) -> bool:
    """Return whether `word` belongs to the starter: its name, an option, the number of an option, or a variable."""
    return posixpath.basename(word) in STARTERS or word.startswith("-") or "=" in word or word.isdecimal()


def _script(words: Sequence[str]) -> Sequence[str] | None:
    """Return the words of the script of `sh -c`, with the arguments in the place of "$@".

    Return None if the command line contains no -c with a script.
    """
    found = _options(words[1:], _SHELL)
    if "c" not in found.names or not found.rest:
        return None
    arguments = found.rest[2:]  # the word after the script is $0
    script = list[str]()
    for word in _script_words(found.rest[0]):
        script += arguments if word in {"$@", "$*", "${@}", "${*}"} else [word]
    return script


def _script_words(script: str) -> list[str]:
    """Return the words of a shell script. An operator such as `;` is a separate word, except in a long script."""
    if len(script) > _MAX_SCRIPT:
        return script.split()
    lexer = shlex.shlex(script.replace("\\\n", ""), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list[str]()
    with suppress(ValueError):  # an open quote
        words.extend(lexer)
    return words
