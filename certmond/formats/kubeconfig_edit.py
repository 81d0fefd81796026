"""Edits of a kubeconfig: replacement of credentials in its text; and a new kubeconfig, as kubeadm writes it.

Owns the edit in place, which replaces the base64 of one user's certificate and key, and of its cluster's CA. Comments,
order, quotes and other content stay byte for byte. A parse of the result proves that. Accesses no file, and never
quotes the text, because it contains a private key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

import yaml

from certmond.errors import MalformedError, WriteError
from certmond.formats.kubeconfig import as_text, load_mapping, parse_kubeconfig
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.parsing import decode

_CERTIFICATE, _KEY, _TRUST = "client-certificate-data", "client-key-data", "certificate-authority-data"

_Position = tuple[str | int, ...]
"""The position of a value in a document: keys and indexes, starting at the root."""

# The text before a value: anchor and tag, then a quote, or the header of a block scalar with its first indentation.
_HEAD = re.compile(r"""(?:[&!]\S*\s+)*(?:["']|[|>][^\n]*\n\s*|)""")
_TAIL = "\"' \t\r\n"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A client certificate and its key, which the kubeconfig embeds."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Files:
    """The absolute paths of a client certificate and its key, as in kubelet.conf."""

    certificate_path: str
    key_path: str


class Entry(NamedTuple):
    """A user, a cluster or a context: its name, the position of its fields, and the fields."""

    name: str
    position: _Position
    fields: Mapping[str, Any]


def with_credentials(
    data: bytes,
    path: str,
    *,
    old: Certificate | None,
    certificate_pem: bytes,
    key_pem: bytes,
    trust_pem: bytes | None,
) -> bytes:
    """Return the kubeconfig `data` with a new certificate and key for the user that embeds `old`.

    If `old` is None, it is the user of the current context. `trust_pem` replaces the CA of the cluster of its context,
    if the kubeconfig embeds it. Raises WriteError if the edit would change other content. `path` is the file in the
    message.
    """
    document = _loaded(data, path)
    contexts = _contexts(document)
    user = _user(document, contexts, path, old)
    new_values = {
        (*user.position, _CERTIFICATE): certificate_pem,
        (*user.position, _KEY): key_pem,
    }
    cluster = _cluster(document, contexts, user.name)
    if trust_pem is not None and cluster and cluster.fields.get(_TRUST):
        new_values[*cluster.position, _TRUST] = trust_pem
    return _with_values(data, document, new_values, f"the credentials of user {user.name!r} in {path}")


def has_several_entries(data: bytes) -> bool:
    """Return whether a kubeconfig has more than one user, cluster or context, which a repair must preserve."""
    try:
        document = load_mapping(data)
    except MalformedError:
        return False
    kinds = (("users", "user"), ("clusters", "cluster"), ("contexts", "context"))
    return any(sum(1 for _ in entries(document, *each)) > 1 for each in kinds)


def with_credentials_of(data: bytes, source: bytes, path: str) -> bytes:
    """Return the kubeconfig `data` in which the current user has the credentials of the current user of `source`.

    Raises WriteError as `with_credentials` does.
    """
    config = parse_kubeconfig(source, path)
    user = next((user for user in config.users if user.name == config.current_user), None)
    certificate, key = (user.certificate, user.key) if user else (None, None)
    if not (certificate and certificate.data and key and key.data):
        fact = f"the archived {path} embeds no credentials of its current user"
        raise WriteError(f"{fact}; choose another generation: certmond archive list")
    return with_credentials(
        data, path, old=None, certificate_pem=certificate.data, key_pem=key.data, trust_pem=None
    )  # fmt: skip


def with_trust(data: bytes, path: str, trust: Sequence[Certificate], anchors: Collection[Certificate] = ()) -> bytes:
    """Return the kubeconfig `data` with `trust` for the cluster of its current context, which embeds its CA.

    In every other cluster that embeds one of `anchors`, `trust` replaces them, and other CAs of the cluster stay.
    Raises WriteError if the edit would change other content. `path` is the file in the message.
    """
    document = _loaded(data, path)
    clusters = list(entries(document, "clusters", "cluster"))
    names = [context.fields.get("cluster") for context in _contexts(document) if _is_current(document, context)]
    chosen = [entry for entry in clusters if entry.name in names] or (clusters if len(clusters) == 1 else [])
    if not chosen:
        raise WriteError(f"{path} has no current context with a cluster; set it with `kubectl config use-context`")
    cluster = chosen[0]
    if not cluster.fields.get(_TRUST):
        raise WriteError(
            f"{path} embeds no CA for the cluster {cluster.name!r}; embed it, or correct the file that it names"
        )
    new_values: dict[_Position, bytes] = {(*cluster.position, _TRUST): _pem(trust)}
    for other in clusters:
        embedded = decode(_decoded(other.fields.get(_TRUST)) or b"", "").certificates
        if other is not cluster and not frozenset(embedded).isdisjoint(anchors):
            known = {*anchors, *trust}
            new_values[*other.position, _TRUST] = _pem((*trust, *(each for each in embedded if each not in known)))
    return _with_values(data, document, new_values, f"the CA of cluster {cluster.name!r} in {path}")


def _pem(certificates: Sequence[Certificate]) -> bytes:
    return b"".join(map(to_pem, certificates))


def _loaded(data: bytes, path: str) -> Mapping[str, Any]:
    try:
        return load_mapping(data)
    except MalformedError as error:
        raise WriteError(f"{path} {error}; correct it, or issue it again") from None


def _contexts(document: Mapping[str, Any]) -> list[Entry]:
    """Return the contexts, the current one first."""
    return sorted(entries(document, "contexts", "context"), key=lambda entry: not _is_current(document, entry))


def _is_current(document: Mapping[str, Any], context: Entry) -> bool:
    return context.name == document.get("current-context")


def _with_values(data: bytes, document: Mapping[str, Any], new_values: Mapping[_Position, bytes], what: str) -> bytes:
    """Return the text with the values of `new_values`, after proving that nothing else changes. Raises WriteError."""
    # Equal values keep their text, so that an up-to-date file does not change.
    edits = {
        position: content for position, content in new_values.items() if _decoded(_value(document, position)) != content
    }
    try:
        result = _with_edits(data.decode("utf-8"), edits).encode("utf-8")
        proven = _is_proven(document, load_mapping(result), new_values)
    except Exception:  # noqa: BLE001 - after any exception of PyYAML or the proof, the result is not proven
        proven, result = False, b""
    if not proven:
        fact = f"certmond cannot replace {what} without another change to the file"
        raise WriteError(f"{fact}; write these values without YAML anchors and aliases, once, in UTF-8")
    return result


def new_kubeconfig(*, cluster: str, server: str, user: str, trust_pem: bytes, credentials: Embedded | Files) -> bytes:
    """Return a kubeconfig with one context, byte for byte as kubeadm writes it (client-go, clientcmd, WriteToFile)."""
    match credentials:
        case Embedded(certificate_pem, key_pem):
            fields = {_CERTIFICATE: _encoded(certificate_pem), _KEY: _encoded(key_pem)}
        case Files(certificate_path, key_path):
            fields = {"client-certificate": certificate_path, "client-key": key_path}
        case _:
            assert_never(credentials)
    context = f"{user}@{cluster}"
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": {_TRUST: _encoded(trust_pem), "server": server}, "name": cluster}],
        "contexts": [{"context": {"cluster": cluster, "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "preferences": {},
        "users": [{"name": user, "user": fields}],
    }
    text: str = yaml.safe_dump(document)
    return text.encode("utf-8")


def entries(document: Mapping[str, Any], plural: str, singular: str) -> Iterator[Entry]:
    """Yield the valid entries of the list `plural`, whose fields are in `singular`."""
    entries = document.get(plural)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        fields = entry.get(singular) if isinstance(entry, Mapping) else None
        if isinstance(fields, Mapping):
            yield Entry(as_text(entry.get("name")), (plural, number, singular), fields)


def _user(document: Mapping[str, Any], contexts: list[Entry], path: str, old: Certificate | None) -> Entry:
    """Return the user whose credentials change, which embeds both a certificate and a key. Raises WriteError."""
    is_current = bool(contexts) and _is_current(document, contexts[0])
    current = is_current and as_text(contexts[0].fields.get("user"))
    users = sorted(entries(document, "users", "user"), key=lambda entry: entry.name != current)
    if old is None:
        users = [entry for entry in users if entry.name == current]
        problem = f"{path} has no current context with a user; set it with `kubectl config use-context`"
    else:
        users_with_file = [entry for entry in users if entry.name == current and not entry.fields.get(_CERTIFICATE)]
        users = [entry for entry in users if _embeds(entry, old)] or users_with_file
        problem = f"{path} no longer embeds the certificate to renew; compare it with: certmond status"
    if not users:
        raise WriteError(problem)
    for field_name in (_CERTIFICATE, _KEY):
        if not users[0].fields.get(field_name):
            name = field_name.removesuffix("-data")
            where = f"user {users[0].name!r} in {path}"
            if users[0].fields.get(name):
                raise WriteError(f"{where} refers to a file with its {name}; renew that file, not this one")
            raise WriteError(f"{where} has no {name}; issue the file again")
    return users[0]


def _embeds(entry: Entry, certificate: Certificate) -> bool:
    data = _decoded(entry.fields.get(_CERTIFICATE))
    return data is not None and certificate in decode(data, "").certificates


def _cluster(document: Mapping[str, Any], contexts: list[Entry], user: str) -> Entry | None:
    """Return the cluster of the user: that of the current context, or else of the first context with the user."""
    names = [context.fields.get("cluster") for context in contexts if context.fields.get("user") == user]
    return next((entry for entry in entries(document, "clusters", "cluster") if entry.name in names[:1]), None)


def _with_edits(text: str, edits: Mapping[_Position, bytes]) -> str:
    """Return the text with other values at some positions. Raises ValueError if one of them is not a scalar."""
    # The loader in Python: its marks count characters, a BOM included.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = [(_node(root, position), content) for position, content in edits.items()]
    for node, content in sorted(nodes, key=lambda pair: -pair[0].start_mark.index):
        start, stop = node.start_mark.index, node.end_mark.index
        if head := _HEAD.match(text, start, stop):
            start = head.end()
        stop = start + len(text[start:stop].rstrip(_TAIL))
        text = f"{text[:start]}{_encoded(content)}{text[stop:]}"
    return text


def _node(node: Any, position: _Position) -> yaml.ScalarNode:
    for step in position:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is not a scalar")  # noqa: TRY004 - the text is wrong, not a type in this program
    return node


def _is_proven(before: Mapping[str, Any], after: Mapping[str, Any], new_values: Mapping[_Position, bytes]) -> bool:
    """Return whether `after` has the new values, and otherwise equals `before`, including types and order."""
    if any(_decoded(_value(after, position)) != content for position, content in new_values.items()):
        return False
    # Compare as text: this is fast with aliases, distinguishes 1 from true, and treats .nan as equal to .nan.
    bare = [yaml.safe_dump(_without(document, list(new_values)), sort_keys=False) for document in (before, after)]
    return bare[0] == bare[1]


def _without(document: Any, places: list[_Position]) -> Any:
    """Return a copy with None at `places`. It copies every level above them, so aliases of them keep the value."""
    for position in places:
        document = _blanked(document, position)
    return document


def _blanked(value: Any, position: _Position) -> Any:
    if not position:
        return None
    copy = value.copy()
    copy[position[0]] = _blanked(value[position[0]], position[1:])
    return copy


def _value(document: Any, position: _Position) -> Any:
    for step in position:
        document = document[step]
    return document


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _decoded(value: Any) -> bytes | None:
    """Return the decoded base64, which may have line breaks, or None if it is not base64."""
    try:
        return base64.b64decode("".join(as_text(value).split()), validate=True)
    except ValueError:
        return None
