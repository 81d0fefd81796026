"""Commands and scripts that renew the certificates of kubeadm."""

from __future__ import annotations

import re

from certmond.pki.catalog.shell_commands import SHELLS, program, shell_commands

_RENEWAL = re.compile(r"""\bcerts\b[\s"',]+renew\b""")
_SILENT = re.compile(r"(?<![^\s;&|(])(?:#[^\n]*|(?:log|print)\b[^;&|\n]*)")
"""A comment, or a command that only prints a text, in a script that is not a shell script."""
_OTHER_LANGUAGE = re.compile(r"#![^\n]*(?:python|perl|ruby|node)")
_INTERPRETER = re.compile(r"(?:python|perl|ruby|node)[\d.]*")
"""Programs whose first argument is a script in another language than that of the shell."""
_PRINTERS = {"awk", "echo", "grep", "log", "logger", "mail", "mailx", "print", "printf", "sed", "wall"}
"""Programs whose arguments are texts."""
_WRAPPERS = {
    "chronic", "command", "cronic", "env", "exec", "flock", "ionice", "nice", "nohup", "setsid", "sudo", "systemd-cat",
    "systemd-run", "time", "timeout",
}  # fmt: skip
"""Programs that start another program, whose path is one of their arguments."""


def runs_renewal(text: str) -> bool:
    """Return whether a script or command runs `kubeadm certs renew`, or `kubeadm alpha certs renew`.

    Ignore comments, and commands that only print a text. A script in another language than that of the shell can
    contain the program and the arguments in separate strings.
    """
    if "kubeadm" not in text.lower():
        return False
    if _OTHER_LANGUAGE.match(text):
        return _RENEWAL.search(_SILENT.sub("", text)) is not None
    return any(map(_is_renewal, shell_commands(text)))


def started_programs(text: str) -> tuple[str, ...]:
    """Return the programs and scripts that a shell script or a command starts, as names or paths, without duplicates.

    The result can contain other arguments of a program that starts a program, such as the lock file of `flock`.
    """
    found = dict[str, None]()
    for words in shell_commands(text) if not _OTHER_LANGUAGE.match(text) else ():
        found[words[0]] = None
        name = program(words)
        if name in SHELLS or name in {".", "source"} or _INTERPRETER.fullmatch(name):
            found |= dict.fromkeys([word for word in words[1:] if not word.startswith("-")][:1])
        elif name in _WRAPPERS:
            found |= dict.fromkeys(word for word in words[1:] if word.startswith("/"))
    return tuple(found)


def _is_renewal(words: tuple[str, ...]) -> bool:
    if program(words) in _PRINTERS:
        return False
    for number, word in enumerate(words):
        if "kubeadm" in word.rpartition("/")[2].lower() and " " not in word:
            rest = words[number + 1 :]
            return "certs" in rest and "renew" in rest[rest.index("certs") :]
    return False
