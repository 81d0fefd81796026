"""Paths and commands in messages about a node whose root is another directory (`--root DIR`).

Without this module, an operator who pastes `chmod 0600 /etc/kubernetes/pki/ca.key` would change the running node.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

_MESSAGES = frozenset({"message", "detail", "because"})
_PATH = re.compile(r"(?<![\w/.:=~$-])/[^\s;,:()'\"`\]]+")
_COMMAND = re.compile(r"(?:(?<=: )|(?<=`))certmond (?=[a-z])(?!explain\b)")


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
        name: rooted_message(value, root) if name in _MESSAGES and isinstance(value, str) else rooted(value, root)
        for name, value in document.items()
    }


def rooted_message(message: str, root: str) -> str:
    """Return `message` with the real paths of files below `root`, and with `--root` in commands of certmond."""
    top = root.rstrip("/")
    found = _PATH.sub(lambda path: _real(path.group(), top), message)
    return _COMMAND.sub(f"certmond --root {shlex.quote(root)} ", found)


def _real(path: str, top: str) -> str:
    """Return the path of a file below `top`.

    Paths of the Kubernetes API, such as /readyz, have one part, and the files of certmond itself are in /usr. The
    result does not depend on the files of the node, so that it does not disclose which files exist.
    """
    of_node = path.count("/") > 1 and not path.startswith(("/usr/", "/proc/", f"{top}/"))
    return shlex.quote(top + path) if of_node else path
