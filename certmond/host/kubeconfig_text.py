"""The text of a kubeconfig -> the same text with other credentials; and the text of a new one, as kubeadm writes it.

Owns the editing in place: the base64 of one user's certificate and key, and of its clusters' CA, is exchanged where it
stands; comments, order, quotes and whatever others keep in the file stay byte for byte, and the result is read again to
prove it. Never reads or writes a file, and never quotes the text: it holds a private key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

import yaml

from certmond.errors import MalformedError, WriteError
from certmond.host.kubeconfig import as_text, load_mapping, parse_kubeconfig
from certmond.pki.certificate import Certificate, to_pem
from certmond.pki.encoding import decode

_CERTIFICATE, _KEY, _TRUST = "client-certificate-data", "client-key-data", "certificate-authority-data"

_Place = tuple[str | int, ...]
"""Where a value stands in a document: keys and numbers, from the outside in."""

# What stands before a value: anchor and tag, then a quote, or the head of a block with its first indentation.
_HEAD = re.compile(r"""(?:[&!]\S*\s+)*(?:["']|[|>][^\n]*\n\s*|)""")
_TAIL = "\"' \t\r\n"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A client certificate and its key, to be held by the kubeconfig itself."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Files:
    """The absolute paths of a client certificate and its key, as kubelet.conf has them."""

    certificate_path: str
    key_path: str


class Entry(NamedTuple):
    """One of the users, clusters or contexts: its name, the place of its fields, and these."""

    name: str
    place: _Place
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
    """The kubeconfig `data` with a new certificate and key for the user that embeds `old` (None: the current context's
    user), and with the bundle `trust_pem` for the cluster of its context, where that embeds its CA.

    Raises WriteError where that is not possible, or not without changing anything else; `path` names the file in it.
    """
    document = _loaded(data, path)
    contexts = _contexts(document)
    user = _user(document, contexts, path, old)
    wanted = {
        (*user.place, _CERTIFICATE): certificate_pem,
        (*user.place, _KEY): key_pem,
    }
    cluster = _cluster(document, contexts, user.name)
    if trust_pem is not None and cluster and cluster.fields.get(_TRUST):
        wanted[*cluster.place, _TRUST] = trust_pem
    return _exchanged(data, document, wanted, f"the credentials of user {user.name!r} in {path}")


def has_others(data: bytes) -> bool:
    """Return whether it is a kubeconfig with more than one user, cluster or context, or with another user than its
    current context names: what a repair must not lose.
    """
    try:
        document = load_mapping(data)
    except MalformedError:
        return False
    kinds = (("users", "user"), ("clusters", "cluster"), ("contexts", "context"))
    named = {as_text(each.fields.get("user")) for each in _contexts(document) if _is_current(document, each)}
    if named and any(each.name not in named for each in entries(document, "users", "user")):
        return True
    return any(sum(1 for _ in entries(document, *each)) > 1 for each in kinds)


def embeds_a_ca(data: bytes) -> bool:
    """Return whether it is a kubeconfig that embeds the CA of the cluster of its current context."""
    try:
        document = load_mapping(data)
        return bool(_chosen(document, "").fields.get(_TRUST))
    except (MalformedError, WriteError):
        return False


def with_credentials_of(data: bytes, source: bytes, path: str) -> bytes:
    """The kubeconfig `data` with the certificate and key that the current user of `source` embeds, for its own current
    user. Raises WriteError as `with_credentials` does.
    """
    config = parse_kubeconfig(source, path)
    user = next((user for user in config.users if user.name == config.current_user), None)
    certificate, key = (user.certificate, user.key) if user else (None, None)
    if not (certificate and certificate.data and key and key.data):
        raise WriteError(f"the archived {path} embeds no credentials for its current user; look at it")
    return with_credentials(
        data, path, old=None, certificate_pem=certificate.data, key_pem=key.data, trust_pem=None
    )  # fmt: skip


def with_trust(data: bytes, path: str, trust: Sequence[Certificate], anchors: Collection[Certificate] = ()) -> bytes:
    """The kubeconfig `data` with `trust` for the cluster of its current context, which embeds its CA; and in the place
    of `anchors` for every other cluster that embeds one of these, beside whatever else that one trusts.

    Raises WriteError where that is not possible, or not without changing anything else; `path` names the file in it.
    """
    document = _loaded(data, path)
    cluster = _chosen(document, path)
    if not cluster.fields.get(_TRUST):
        raise WriteError(
            f"{path} embeds no CA for the cluster {cluster.name!r}; embed it, or correct the file it names"
        )
    wanted: dict[_Place, bytes] = {(*cluster.place, _TRUST): _pem(trust)}
    for other in entries(document, "clusters", "cluster"):
        held = decode(_decoded(other.fields.get(_TRUST)) or b"", "").certificates
        if other.place != cluster.place and not frozenset(held).isdisjoint(anchors):
            known = {*anchors, *trust}
            wanted[*other.place, _TRUST] = _pem((*trust, *(each for each in held if each not in known)))
    return _exchanged(data, document, wanted, f"the CA of cluster {cluster.name!r} in {path}")


def _chosen(document: Mapping[str, Any], path: str) -> Entry:
    """The cluster of the current context, or the only one. Raises WriteError where there is none."""
    clusters = list(entries(document, "clusters", "cluster"))
    names = [context.fields.get("cluster") for context in _contexts(document) if _is_current(document, context)]
    chosen = [entry for entry in clusters if entry.name in names] or (clusters if len(clusters) == 1 else [])
    if not chosen:
        raise WriteError(f"{path} has no current context with a cluster; set it with `kubectl config use-context`")
    return chosen[0]


def _pem(certificates: Sequence[Certificate]) -> bytes:
    return b"".join(map(to_pem, certificates))


def _loaded(data: bytes, path: str) -> Mapping[str, Any]:
    try:
        return load_mapping(data)
    except MalformedError as error:
        raise WriteError(f"{path} {error}; correct it, or issue it again") from None


def _contexts(document: Mapping[str, Any]) -> list[Entry]:
    """The current one first."""
    return sorted(entries(document, "contexts", "context"), key=lambda entry: not _is_current(document, entry))


def _is_current(document: Mapping[str, Any], context: Entry) -> bool:
    return context.name == document.get("current-context")


def _exchanged(data: bytes, document: Mapping[str, Any], wanted: Mapping[_Place, bytes], what: str) -> bytes:
    """The text with the values of `wanted`, proven to be the same but for them. Raises WriteError."""
    # What is there already stays as it is written: nothing changes, then, in a file that needs no change.
    edits = {place: content for place, content in wanted.items() if _decoded(_value(document, place)) != content}
    try:
        result = _spliced(data.decode("utf-8"), edits).encode("utf-8")
        proven = _proves(document, load_mapping(result), wanted)
    except Exception:  # noqa: BLE001 - whatever PyYAML or the proof stumbles over: then it is not proven
        proven, result = False, b""
    if not proven:
        fact = f"{what} cannot be exchanged without changing more than that"
        raise WriteError(f"{fact}; write them as plain values, in UTF-8, each once and shared by no anchor")
    return result


def new_kubeconfig(*, cluster: str, server: str, user: str, trust_pem: bytes, credentials: Embedded | Files) -> bytes:
    """A kubeconfig with one context, byte for byte as kubeadm's (client-go, tools/clientcmd, WriteToFile)."""
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
    """Those that can be read at all."""
    entries = document.get(plural)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        fields = entry.get(singular) if isinstance(entry, Mapping) else None
        if isinstance(fields, Mapping):
            yield Entry(as_text(entry.get("name")), (plural, number, singular), fields)


def _user(document: Mapping[str, Any], contexts: list[Entry], path: str, old: Certificate | None) -> Entry:
    """The user whose credentials are to change: one that embeds both a certificate and a key."""
    is_current = bool(contexts) and _is_current(document, contexts[0])
    current = is_current and as_text(contexts[0].fields.get("user"))
    users = sorted(entries(document, "users", "user"), key=lambda entry: entry.name != current)
    if old is None:
        users = [entry for entry in users if entry.name == current]
        absent = f"{path} has no current context with a user; set it with `kubectl config use-context`"
        if current:
            absent = f"{path} has no user {current!r} for its current context; add it, or move the file away"
    else:
        referring = [entry for entry in users if entry.name == current and not entry.fields.get(_CERTIFICATE)]
        users = [entry for entry in users if _embeds(entry, old)] or referring
        absent = f"{path} embeds no longer the certificate that is to be renewed; look at what it holds now"
    if not users:
        raise WriteError(absent)
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
    """The cluster that the user is for: of the current context, or else of the first that names the user."""
    names = [context.fields.get("cluster") for context in contexts if context.fields.get("user") == user]
    return next((entry for entry in entries(document, "clusters", "cluster") if entry.name in names[:1]), None)


def _spliced(text: str, edits: Mapping[_Place, bytes]) -> str:
    """The text with other values at some places. Raises ValueError where one of them is not a single scalar."""
    # The loader written in Python: its marks count characters, from a BOM on.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = [(_node(root, place), content) for place, content in edits.items()]
    for node, content in sorted(nodes, key=lambda pair: -pair[0].start_mark.index):
        start, stop = node.start_mark.index, node.end_mark.index
        if head := _HEAD.match(text, start, stop):
            start = head.end()
        stop = start + len(text[start:stop].rstrip(_TAIL))
        text = f"{text[:start]}{_encoded(content)}{text[stop:]}"
    return text


def _node(node: Any, place: _Place) -> yaml.ScalarNode:
    for step in place:
        if isinstance(step, str):
            (node,) = [value for key, value in node.value if key.value == step]
        else:
            node = node.value[step]
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("is no scalar")  # noqa: TRY004 - what is wrong is the text, not a type of ours
    return node


def _proves(before: Mapping[str, Any], after: Mapping[str, Any], wanted: Mapping[_Place, bytes]) -> bool:
    """The new document has exactly what is wanted, and all else as it was, down to types and order."""
    if any(_decoded(_value(after, place)) != content for place, content in wanted.items()):
        return False
    # As text, since that is quick with aliases in it, and tells 1 from true and not .nan from itself.
    bare = [yaml.safe_dump(_without(document, list(wanted)), sort_keys=False) for document in (before, after)]
    return bare[0] == bare[1]


def _without(document: Any, places: list[_Place]) -> Any:
    """A copy in which the values at `places` are None. It shares nothing on the way there: an alias of such a value, or
    of what holds it, still shows it.
    """
    for place in places:
        document = _blanked(document, place)
    return document


def _blanked(value: Any, place: _Place) -> Any:
    if not place:
        return None
    copy = value.copy()
    copy[place[0]] = _blanked(value[place[0]], place[1:])
    return copy


def _value(document: Any, place: _Place) -> Any:
    for step in place:
        document = document[step]
    return document


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _decoded(value: Any) -> bytes | None:
    """The bytes behind base64, which may be broken into lines; None where it is none."""
    try:
        return base64.b64decode("".join(as_text(value).split()), validate=True)
    except ValueError:
        return None
