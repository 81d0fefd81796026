"""Parser of argument files, each of which contains flags of a component of MicroK8s or Canonical Kubernetes.

This module parses the files as kubelite does (canonical/microk8s, Kubelite-integration.patch, ReadArgsFromFile). For
flags with paths, the shell that reads the files of Canonical Kubernetes yields the same words (canonical/k8s-snap,
k8s/lib.sh, execute_service).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MAX_WORD = 4096  # characters; a longer word names no file


def parse_arguments(data: bytes, _path: str) -> tuple[str, ...]:
    """Return the words of an argument file.

    Remove all quotes. Ignore lines that begin with "#", and words that are too long for a path.
    """
    lines = (line.strip() for line in data.decode("utf-8", "replace").split("\n"))
    return tuple(
        word
        for line in lines
        if not line.startswith("#")
        for word in re.sub("[\"']", "", line).split()
        if len(word) <= _MAX_WORD
    )


def expanded(words: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """Return the words after the substitution of variables. Keep an unknown variable unchanged."""
    return [_VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), word) for word in words]
