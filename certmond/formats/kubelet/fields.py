"""The fields of a KubeletConfiguration: merge patches of drop-ins, and relative paths."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from certmond.formats.kubeconfig import as_text

_PATHS = ("staticPodPath", "tlsCertFile", "tlsPrivateKeyFile")
"""Fields with a path that is relative to the directory of the file. clientCAFile is another such field.

The source is KubeletConfigurationPathRefs in kubernetes/kubernetes.
"""
_MAX_DEPTH = 8  # of a merge patch


def patched(target: Any, patch: Any, depth: int = 0) -> Any:
    """Return the JSON document `target` after the merge patch `patch` (RFC 7396).

    Below `_MAX_DEPTH` levels, a value of `patch` replaces the value of `target`.
    """
    if not isinstance(patch, Mapping) or depth > _MAX_DEPTH:
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value, depth + 1)
    return result


def resolved(fields: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """Return the fields with each relative path joined to `directory`."""
    result = dict(fields)
    for name in _PATHS:
        if path := as_text(result.get(name)):
            result[name] = posixpath.join(directory, path)
    authentication = result.get("authentication")
    x509 = authentication.get("x509") if isinstance(authentication, Mapping) else None
    if (
        isinstance(authentication, Mapping)
        and isinstance(x509, Mapping)
        and (path := as_text(x509.get("clientCAFile")))
    ):
        result["authentication"] = {
            **authentication,
            "x509": {**x509, "clientCAFile": posixpath.join(directory, path)},
        }
    return result
