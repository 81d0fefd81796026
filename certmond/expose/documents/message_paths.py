"""Paths and commands in messages about a node whose root is another directory (`--root DIR`).

Without this module, an operator who pastes `chmod 0600 /etc/kubernetes/pki/ca.key` would change the running node.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

_MESSAGES = frozenset({"message", "detail", "because", "steps"})
"""Fields with a message. `steps` is a list of messages in the preview of a rotation, and of documents in a plan."""
_START, _CHARACTER = r"(?<![\w/.:=~$-])", r"[^\s;,:()'\"`\]]"
_OF_NODE = "archive|check|discover|forecast|metrics|plan|renew|restart|root-ca|status"
_COMMAND = re.compile(
    rf"(?:(?<=: )|(?<=&& ))certmond (?=(?:init|{_OF_NODE})(?![\w-]))"
    rf"|(?<=`)certmond (?=(?:{_OF_NODE})(?![\w-]))"  # `certmond init` in backticks is the subject of a sentence
)
_PROGRAMS = tuple(
    f"{place}/{name}" for place in ("/usr", "/usr/local") for name in ("bin", "sbin", "lib/certmond", "libexec")
)
_OF_HOST = (*_PROGRAMS, "/usr/share/certmond", "/proc", "/etc/certmond", "/run/certmond")
"""Directories of this host: programs, files of certmond, processes, its configuration and its runtime directory."""


def rooted(document: Any, root: str) -> Any:
    """Return `document` with the real paths of files in its messages, and with `--root` in commands of certmond.

    If `root` is /, return `document` unchanged.
    """
    if root == "/":
        return document
    if isinstance(document, list):
        return [rooted(each, root) for each in document]
    if not isinstance(document, dict):
        return document
    return {
        name: _rooted_field(value, root) if name in _MESSAGES else rooted(value, root)
        for name, value in document.items()
    }


def _rooted_field(value: Any, root: str) -> Any:
    if isinstance(value, list):
        return [_rooted_field(each, root) for each in value]
    return rooted_message(value, root) if isinstance(value, str) else rooted(value, root)


def rooted_message(message: str, root: str, of_host: Iterable[str] = ()) -> str:
    """Return `message` with the real paths of files below `root`, and with `--root` in commands of certmond.

    The paths `of_host`, the paths below them and the same names with a suffix do not change.
    """
    top = root.rstrip("/")
    unchanged = "|".join(map(re.escape, sorted(_spellings((*_OF_HOST, top, *of_host)), key=len, reverse=True)))
    # A path of the host can contain any character, so look for its whole name first.
    path = rf"{_START}(?:(?P<of_host>(?:{unchanged})(?:[/.]{_CHARACTER}*)?(?!{_CHARACTER}))|/{_CHARACTER}+)"
    found = re.sub(path, lambda match: match.group() if match["of_host"] else _real(match.group(), top), message)
    command = f"certmond --root {shlex.quote(root)}"
    found = _COMMAND.sub(f"{command} ", found)
    return found.replace(f"{command} status", f"{command} check")  # the daemon of this host does not watch `root`


def _spellings(paths: Iterable[str]) -> set[str]:
    """Return the paths as they are, and as a shell reads them in quotes."""
    return {text for each in paths if each for text in (each, shlex.quote(each).removeprefix("'").removesuffix("'"))}


def _real(path: str, top: str) -> str:
    """Return the path of a file below `top`.

    Paths of the Kubernetes API, such as /readyz, have one part. The result does not depend on the files of the node, so
    that it does not disclose which files exist.
    """
    return path if path.count("/") == 1 else shlex.quote(top + path)
