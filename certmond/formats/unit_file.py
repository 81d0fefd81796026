"""Parsers of systemd unit files, system.conf, command lines and environment files.

This module defines the formats of systemd.syntax(7), systemd.service(5) and src/basic/env-file.c of systemd. Like
systemd, the parsers ignore invalid lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from certmond.formats.manifest import flag_values

_ASSIGNMENT = re.compile(r"\s*(\w+)\s*=\s*(.*)")
_SHARED = (
    {"BindPaths", "BindReadOnlyPaths"}, {"LoadCredential", "LoadCredentialEncrypted"},
    {"SetCredential", "SetCredentialEncrypted"},
)  # fmt: skip
"""The settings with a common list, which an empty value of either setting resets (systemd.exec(5))."""
_SETTINGS = frozenset({
    "ExecStart", "ExecStartPre", "ExecStartPost", "Environment", "EnvironmentFile", "UnsetEnvironment",
    "RootDirectory", "RootImage", "TemporaryFileSystem", "MountImages",
}).union(*_SHARED)  # fmt: skip
"""The settings that affect which files a service reads."""
_SECRETS = ("SetCredential", "SetCredentialEncrypted")
"""The settings whose value can contain a private key after the colon."""
_PREFIXES = "-@:+!|"
"""Characters before the path of a program. With "@", the second word is the name of the process.

With "|", "@" selects a login shell instead (systemd, src/core/load-fragment.c and dbus-execute.c).
"""
_ESCAPES = {"n": "\n", "t": "\t", "s": " ", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPES |= {each: each for each in "\\\"';"}
_NUMBER = re.compile("x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[0-3][0-7]{2}")
_CODES = 0x110000
_QUOTED = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)')""", re.DOTALL)
_PLAIN = re.compile(r"[ \t]*((?:[^\n\\]|\\.)*)", re.DOTALL)
_NAME = re.compile(r"[ \t]*([A-Za-z_]\w*)[ \t]*=")
_IN_WORD = re.compile(r"\$(?:\$|\{(\w+)\})")
_SPECIFIER = re.compile(r"%(.)")
UNKNOWN_SPECIFIER = re.compile("%[A-Za-z]")
"""A specifier that `with_specifiers` has not replaced, such as %H (systemd.unit(5))."""
_DIRECTORY_SPECIFIERS = {
    "C": "/var/cache", "E": "/etc", "L": "/var/log", "S": "/var/lib", "t": "/run",
}  # fmt: skip
_MAX_SUBSTITUTED = 1 << 20
"""Maximum length of the values of variables in a command. The kernel limits a command to 2 MiB (execve(2))."""

Environment = Mapping[str, tuple[str, str]]
"""Variable -> its value, and the file that sets it."""
_DIRECTORIES = ("CACHE", "CONFIGURATION", "LOGS", "RUNTIME", "STATE")
_OF_SYSTEMD: dict[str, tuple[str, str]] = {
    name: (f"${{{name}}}", "") for name in ("HOME", *(f"{each}_DIRECTORY" for each in _DIRECTORIES))
}
"""The variables whose values systemd chooses (systemd.exec(5))."""


class Setting(NamedTuple):
    """A setting of a unit, or of the configuration of systemd."""

    name: str
    value: str


class Word(NamedTuple):
    """A word of a command line, and the file that contains this word."""

    text: str
    file: str


def parse_unit(data: bytes, _path: str) -> tuple[Setting, ...]:
    """Return the settings of the section [Service] that certmond uses, in order. An empty value resets a setting."""
    return tuple(_settings_in("[Service]", data, _SETTINGS))


def parse_timer(data: bytes, _path: str) -> tuple[Setting, ...]:
    """Return the `Unit=` settings of a timer, in order (systemd.timer(5))."""
    return tuple(_settings_in("[Timer]", data, {"Unit"}))


def parse_manager(data: bytes, _path: str) -> tuple[Setting, ...]:
    """Return the `DefaultEnvironment=` settings in system.conf, in order (systemd-system.conf(5))."""
    return tuple(_settings_in("[Manager]", data, {"DefaultEnvironment"}))


def _settings_in(wanted: str, data: bytes, names: Collection[str]) -> Iterator[Setting]:
    section = ""
    for line in _lines(data.decode("utf-8", "replace")):
        if line.startswith("["):
            section = line
        elif section == wanted and (match := _ASSIGNMENT.fullmatch(line)) and match[1] in names:
            name, value = match.groups()
            yield Setting(name, value.partition(":")[0] if name in _SECRETS else value)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines without comments. A backslash at the end of a line continues the line."""
    begun = ""
    for line in text.split("\n"):
        part = line.lstrip()
        if part.startswith(("#", ";")) or not (part or begun):
            continue
        if (len(part) - len(part.rstrip("\\"))) % 2:
            begun += f"{part[:-1]} "
        else:
            yield (begun + part).rstrip()
            begun = ""
    yield begun.rstrip()


def split_words(text: str, *, has_c_escapes: bool = True) -> list[str]:
    """Return the words of a value. Quotes and backslashes protect white space.

    Without C escapes, a backslash only protects the next character (systemd, src/basic/extract-word.c).
    """
    return ["".join(fields) for fields in _split(text, "", has_c_escapes=has_c_escapes)]


def split_fields(text: str) -> list[list[str]]:
    """Return the words of a value without C escapes. Colons separate the fields of a word."""
    return _split(text, ":", has_c_escapes=False)


def _split(text: str, separator: str, *, has_c_escapes: bool) -> list[list[str]]:
    words, fields, quote, at = list[list[str]](), list[list[str]](), "", 0  # a field is a list of its characters
    while at < len(text):
        each = text[at]
        at += 1
        if each.isspace() and not quote:
            words += [["".join(field) for field in fields]] if fields else []
            fields = []
            continue
        fields = fields or [[]]
        if each == "\\":
            character, at = _escaped(text, at) if has_c_escapes else (text[at : at + 1] or "\\", at + 1)
            fields[-1].append(character)
        elif each == quote:
            quote = ""
        elif each in "\"'" and not quote:
            quote = each
        elif each == separator and not quote:
            fields.append([])
        else:
            fields[-1].append(each)
    words += [["".join(field) for field in fields]] if fields else []
    return [[field.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for field in word] for word in words]


def _escaped(text: str, at: int) -> tuple[str, int]:
    """Return the character of the C escape after a backslash, and the offset of the rest (src/basic/escape.c).

    A byte of UTF-8 becomes a surrogate. Keep the backslash of an unknown escape.
    """
    if match := _NUMBER.match(text, at):
        letter = match[0][0]
        code = int(match[0], 8) if letter.isdigit() else int(match[0][1:], 16)
        if letter in "uU" and 0 < code < _CODES and not 0xD800 <= code < 0xE000:
            return chr(code), match.end()
        if letter not in "uU" and code:
            return chr(code if code < 0x80 else 0xDC00 + code), match.end()
    following = text[at : at + 1]
    return _ESCAPES.get(following, f"\\{following}"), at + 1


def parse_environment(data: bytes, _path: str) -> dict[str, str]:
    """Return the variables of an environment file."""
    text, found, at = data.decode("utf-8", "replace"), dict[str, str](), 0
    while at < len(text):
        if match := _NAME.match(text, at):
            value, at = _value(text, match.end())
            found[match[1]] = value
        else:
            end = text.find("\n", at)
            at = len(text) if end < 0 else end + 1
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that starts at the offset `at`, and the offset of the next line."""
    parts = list[str]()
    while match := _QUOTED.match(text, at):
        if match[1] is None:
            parts.append(match[2])
        else:
            parts.append(re.sub(r'\\(["\\`$])', r"\1", match[1].replace("\\\n", "")))
        at = match.end()
    if match := _PLAIN.match(text, at):
        parts.append(re.sub(r"\\(.)", r"\1", match[1].replace("\\\n", "")).rstrip())
        at = match.end()
    return "".join(parts), at + 1


def settings(parts: Sequence[tuple[str, Sequence[Setting]]]) -> dict[str, list[Word]]:
    """Return the values of each setting. An empty value removes all earlier values of the setting.

    An empty value also removes the values of a setting with the same list, such as BindReadOnlyPaths= for BindPaths=.

    `parts` contains (file, settings) of the unit, followed by those of its drop-ins.
    """
    found = dict[str, list[Word]]()
    for file, each in parts:
        for name, value in each:
            if value:
                found.setdefault(name, []).append(Word(value, file))
            else:
                names = next((group for group in _SHARED if name in group), {name})
                found.update((other, []) for other in names)
    return found


def credentials_directory(unit: str) -> str:
    """Return the directory in which a service of the system finds its credentials."""
    return f"/run/credentials/{unit}"


def with_specifiers(text: str, unit: str) -> str:
    """Return the text with values for the specifiers of the unit's name and of directories (systemd.unit(5)).

    Keep all other specifiers.
    """
    stem = unit.rpartition(".")[0]
    prefix, _, instance = stem.partition("@")
    known = {"%": "%", "n": unit, "N": stem, "p": prefix, "i": instance, "d": credentials_directory(unit)}
    known |= _DIRECTORY_SPECIFIERS
    return _SPECIFIER.sub(lambda match: known.get(match[1], match[0]), text)


def command_line(command: Word, environment: Environment, unit: str) -> list[Word]:
    """Return the words of an ExecStart= command after the substitution of variables.

    If the command would become too long, keep its variables.
    """
    marks = len(command.text) - len(command.text.lstrip(_PREFIXES))
    prefix, words = command.text[:marks], split_words(command.text[marks:])
    environment = {"CREDENTIALS_DIRECTORY": (credentials_directory(unit), command.file), **environment}
    if "@" in prefix and "|" not in prefix:
        del words[1:2]
    result = list[Word]()
    texts = [with_specifiers(word, unit) for word in words]
    variables = [name for text in texts[1:] for name in (_variable(text), *_IN_WORD.findall(text)) if name]
    is_short = sum(len(environment[name][0]) for name in variables if name in environment) <= _MAX_SUBSTITUTED
    for number, text in enumerate(texts):
        if number == 0 or ":" in prefix or not is_short:
            result.append(Word(text, command.file))
        elif name := _variable(text):
            value, file = environment.get(name, ("", command.file))
            result += (Word(each, file) for each in split_words(value, has_c_escapes=False))
        else:
            result.append(_substituted(Word(text, command.file), environment))
    return result


def _variable(text: str) -> str:
    """Return NAME for a word `$NAME`, whose value becomes separate words. For any other word, return ""."""
    return text[1:] if text.startswith("$") and not text.startswith(("${", "$$")) else ""


def _substituted(word: Word, environment: Environment) -> Word:
    """Return the word after the substitution of `${NAME}`, with the file of the last variable.

    Keep a variable whose value systemd chooses.
    """
    file = word.file
    for name in _IN_WORD.findall(word.text):
        file = environment[name][1] if name in environment else file
    return Word(_IN_WORD.sub(lambda match: _value_of(match[1], environment) if match[1] else "$", word.text), file)


def _value_of(name: str, environment: Environment) -> str:
    value, _ = environment.get(name) or _OF_SYSTEMD.get(name, ("", ""))
    return value


def places(words: Sequence[Word]) -> dict[str, str]:
    """Return the file that contains the value of each flag, by the name of the flag."""
    found = dict[str, str]()
    for word, following in pairwise([*words, Word("--", "")]):
        for name, _ in flag_values([word.text], single_dash=True):
            is_separate = "=" not in word.text and not following.text.startswith("-")
            found[name] = following.file if is_separate else word.file
    return found
