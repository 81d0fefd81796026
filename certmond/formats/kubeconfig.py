"""Parser of kubeconfig files (k8s.io/client-go, tools/clientcmd/api/v1/types.go).

The parser does not read the files to which a kubeconfig refers. A relative path starts at the directory of the
kubeconfig, as in client-go.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from certmond.errors import LimitError, MalformedError
from certmond.formats.yaml_documents import load_documents
from certmond.immutable_class import immutable

_PEM_IN_BASE64 = base64.b64encode(b"-----BEGIN").decode()[:-3]
MAX_STRUCTURE = 50_000
"""Maximum number of lines, keys and items in a YAML text, because PyYAML is slow."""
_STRUCTURE = (b"\n", b":", b",", b"[", b"{")
_OTHERS = ("exec", "token", "tokenFile", "auth-provider", "username")
"""Fields of a user that authenticates without a certificate (tools/clientcmd/api/v1/types.go, AuthInfo)."""


@immutable
class Material:
    """A certificate or key of a kubeconfig: the embedded bytes, or the path of a file.

    If a kubeconfig contains both, client-go uses the bytes.
    """

    data: bytes | None = None
    path: str | None = None

    def __repr__(self) -> str:
        return f"Material({'embedded' if self.data is not None else self.path})"  # the bytes can be a private key


@immutable
class User:
    """A user of a kubeconfig. `other` names a credential other than a certificate, such as "token"."""

    name: str
    certificate: Material | None
    key: Material | None
    other: str = ""


@immutable
class Cluster:
    """A cluster of a kubeconfig.

    Clients verify the certificate of the server for `server_name`, unless `skips_verification` is True.
    """

    name: str
    server: str
    server_name: str
    ca: Material | None
    skips_verification: bool = False


@immutable
class Kubeconfig:
    """The content of a kubeconfig. `problems` are the errors in single users, clusters and contexts.

    `contexts` contains the user and the cluster of each context.
    """

    users: tuple[User, ...]
    clusters: tuple[Cluster, ...]
    current_user: str | None
    current_cluster: str | None
    problems: tuple[str, ...]
    contexts: tuple[tuple[str, str], ...] = ()


def parse_kubeconfig(data: bytes, path: str) -> Kubeconfig:
    """Return the content of the kubeconfig `data`, which is the file at `path`.

    Raises MalformedError if `data` is not a kubeconfig. Errors in single users, clusters and contexts become
    `problems`.
    """
    document = load_mapping(data)
    if "users" not in document and "clusters" not in document:
        raise MalformedError("is not a kubeconfig: it contains neither users nor clusters")
    directory = posixpath.dirname(path)
    problems: list[str] = []
    users = []
    for name, fields in _entries(document, "users", "user", problems):
        certificate = _material(fields, "client-certificate", directory, f"user {name!r}", problems)
        key = _material(fields, "client-key", directory, f"user {name!r}", problems)
        users.append(User(name, certificate, key, next((field for field in _OTHERS if fields.get(field)), "")))
    clusters = []
    for name, fields in _entries(document, "clusters", "cluster", problems):
        server = as_text(fields.get("server")).strip()
        ca = _material(fields, "certificate-authority", directory, f"cluster {name!r}", problems)
        server_name = as_text(fields.get("tls-server-name")) or _host(server)
        clusters.append(Cluster(name, server, server_name, ca, fields.get("insecure-skip-tls-verify") is True))
    contexts = {
        name: (as_text(fields.get("user")), as_text(fields.get("cluster")))
        for name, fields in _entries(document, "contexts", "context", problems)
    }
    user, cluster = contexts.get(as_text(document.get("current-context")), ("", ""))
    return Kubeconfig(
        tuple(users), tuple(clusters), user or None, cluster or None, tuple(problems), tuple(contexts.values())
    )


def load_mapping(data: bytes) -> Mapping[str, Any]:
    """Return the mapping in the first YAML document, as Kubernetes components do (kubernetes-sigs/yaml, yaml.go).

    Raises MalformedError for other content. The message never quotes the content, which can be a private key.
    """
    if sum(map(data.count, _STRUCTURE)) > MAX_STRUCTURE:
        raise MalformedError(f"is too large: it contains more than {MAX_STRUCTURE:,} lines, keys and items")
    try:
        document = next(load_documents(data), None)
    except LimitError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise MalformedError(f"is not YAML{line}") from None
    except Exception:  # noqa: BLE001 - PyYAML also raises exceptions of its internals, such as KeyError for `!!bool x`
        raise MalformedError("is not YAML") from None
    if not isinstance(document, Mapping):
        raise MalformedError("is not a YAML mapping")
    return document


class Entry(NamedTuple):
    """A named user, cluster or context, with its fields and the position of the fields in the document."""

    name: str
    position: tuple[str | int, ...]
    fields: Mapping[str, Any]


def entries(document: Mapping[str, Any], plural: str, singular: str) -> Iterator[Entry]:
    """Yield the valid entries of the list `plural`, such as "users".

    `singular` is the key of the fields in an entry, such as "user".
    """
    entries = document.get(plural)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        fields = entry.get(singular) if isinstance(entry, Mapping) else None
        if isinstance(fields, Mapping):
            yield Entry(as_text(entry.get("name")), (plural, number, singular), fields)


def _entries(
    document: Mapping[str, Any], plural: str, singular: str, problems: list[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    entries = document.get(plural) or []
    found: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        fields = entry.get(singular) if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping) or not (fields is None or isinstance(fields, Mapping)):
            problems.append(f"entry {number} of {plural} is not a {singular}")
        elif (name := as_text(entry.get("name"))) in found:
            problems.append(
                f"entry {number} of {plural} has the name {name!r} of another entry, and client-go "
                "refuses duplicate names"
            )
        else:
            found[name] = fields or {}
    return list(found.items())


def _material(
    fields: Mapping[str, Any], field: str, directory: str, where: str, problems: list[str]
) -> Material | None:
    data, path = fields.get(f"{field}-data"), fields.get(field)
    if data:
        with suppress(ValueError):
            if text := "".join(as_text(data).split()):
                return Material(data=base64.b64decode(text, validate=True))
        problems.append(f"{where}: {field}-data is not base64")
    elif path:
        if _is_path(text := as_text(path)):
            return Material(path=posixpath.normpath(posixpath.join(directory, text)))
        problems.append(f"{where}: {field} is not a path")
    return None


def _is_path(text: str) -> bool:
    """Return whether `text` can be a path.

    PEM does not count as a path, because PEM can be a private key, and certmond publishes paths.
    """
    return bool(text) and not any(part in text for part in ("\x00", "-----BEGIN", _PEM_IN_BASE64))


def _host(server: str) -> str:
    try:
        return urlsplit(server).hostname or ""
    except ValueError:
        return ""


def as_text(value: Any) -> str:
    """Return `value` if it is a YAML string, otherwise "".

    This function does not convert lists and mappings to text, because YAML aliases can make the text unbounded.
    """
    return value if isinstance(value, str) else ""
