"""The text of a kubeconfig -> the same text with other credentials; and the text of a new one, as kubeadm writes it.

Owns which values of a kubeconfig change: the base64 of one user's certificate and key, the CA and the server of its
clusters; whatever others keep in the file stays byte for byte (`in_place`). Never reads or writes a file, and never
quotes the text: it holds a private key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

import yaml

from certmond.errors import MalformedError, WriteError
from certmond.host.credentials import broken_cluster, parse_credentials
from certmond.host.in_place import Place, decoded, encoded, exchanged
from certmond.host.kubeconfig import as_text, load_mapping, parse_kubeconfig
from certmond.pki.certificate import Certificate, to_pem
from certmond.pki.encoding import decode
from certmond.pki.reason import printable

_CERTIFICATE, _KEY, _TRUST = "client-certificate-data", "client-key-data", "certificate-authority-data"
_SERVER = "server"


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
    place: Place
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
    wanted: dict[Place, bytes | str] = {
        (*user.place, _CERTIFICATE): certificate_pem,
        (*user.place, _KEY): key_pem,
    }
    cluster = _cluster(document, contexts, user.name)
    if trust_pem is not None and cluster and cluster.fields.get(_TRUST):
        wanted[*cluster.place, _TRUST] = trust_pem
    return exchanged(data, document, wanted, f"the credentials of user {user.name!r} in {path}")


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


def unfit(data: bytes, path: str) -> str | None:
    """Return why `with_credentials` finds no place for new ones of the current user; None where it does."""
    try:
        document = _loaded(data, path)
        _user(document, _contexts(document), path, None)
    except WriteError as error:
        return str(error).partition(";")[0]
    return None


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
    wanted: dict[Place, bytes | str] = {(*cluster.place, _TRUST): _pem(trust)}
    for other in entries(document, "clusters", "cluster"):
        held = decode(decoded(other.fields.get(_TRUST)) or b"", "").certificates
        if other.place != cluster.place and not frozenset(held).isdisjoint(anchors):
            known = {*anchors, *trust}
            wanted[*other.place, _TRUST] = _pem((*trust, *(each for each in held if each not in known)))
    return exchanged(data, document, wanted, f"the CA of cluster {cluster.name!r} in {path}")


def with_cluster(data: bytes, path: str, trust: Sequence[Certificate], server: str | None) -> bytes:
    """The kubeconfig `data` with `trust` for the cluster of its current context, unless that refers to a file or skips
    verification; and with the URL `server` where it has none.

    Raises WriteError where the context would lead to no server that it trusts even so, or that is not possible without
    changing anything else.
    """
    document = _loaded(data, path)
    absent = f"certmond adds no cluster to {path}; add it there"
    try:
        cluster = _chosen(document, path)
    except WriteError:
        raise WriteError(absent) from None
    wanted: dict[Place, bytes | str] = {}
    refers = bool(cluster.fields.get("certificate-authority")) and not cluster.fields.get(_TRUST)
    if not refers and not cluster.fields.get("insecure-skip-tls-verify"):
        if not trust:
            raise WriteError(f"the file of the CA that {path} embeds holds no certificate; put the CA back first")
        wanted[*cluster.place, _TRUST] = _pem(trust)
    if not as_text(cluster.fields.get(_SERVER)):
        if not server:
            where = printable(f"where the API server of cluster {cluster.name!r} is, nothing here says")
            raise WriteError(f"{where}; write its URL into {path} as `server`")
        wanted[*cluster.place, _SERVER] = server
    result = exchanged(data, document, wanted, f"the CA and the server of cluster {cluster.name!r} in {path}")
    if broken_cluster(parse_credentials(result, path)):
        raise WriteError(absent)
    return result


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


def new_kubeconfig(*, cluster: str, server: str, user: str, trust_pem: bytes, credentials: Embedded | Files) -> bytes:
    """A kubeconfig with one context, byte for byte as kubeadm's (client-go, tools/clientcmd, WriteToFile)."""
    match credentials:
        case Embedded(certificate_pem, key_pem):
            fields = {_CERTIFICATE: encoded(certificate_pem), _KEY: encoded(key_pem)}
        case Files(certificate_path, key_path):
            fields = {"client-certificate": certificate_path, "client-key": key_path}
        case _:
            assert_never(credentials)
    context = f"{user}@{cluster}"
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": {_TRUST: encoded(trust_pem), "server": server}, "name": cluster}],
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
    data = decoded(entry.fields.get(_CERTIFICATE))
    return data is not None and certificate in decode(data, "").certificates


def _cluster(document: Mapping[str, Any], contexts: list[Entry], user: str) -> Entry | None:
    """The cluster that the user is for: of the current context, or else of the first that names the user."""
    names = [context.fields.get("cluster") for context in contexts if context.fields.get("user") == user]
    return next((entry for entry in entries(document, "clusters", "cluster") if entry.name in names[:1]), None)
