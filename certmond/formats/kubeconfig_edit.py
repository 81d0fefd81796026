"""Edits of a kubeconfig, and the content of a new kubeconfig in the format of kubeadm.

An edit leaves all other bytes unchanged. No message quotes a kubeconfig, which can contain a private key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import Any, assert_never

import yaml

from certmond.errors import MalformedError, WriteError
from certmond.formats.kubeconfig import Entry, as_text, entries, load_mapping, parse_kubeconfig
from certmond.formats.kubeconfig_certificates import broken_cluster, parse_credentials
from certmond.formats.yaml_edit import Position, decoded, encoded, with_values
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode

_CERTIFICATE, _KEY, _TRUST = "client-certificate-data", "client-key-data", "certificate-authority-data"
_SERVER = "server"


@immutable
class Embedded:
    """A client certificate and its key, in PEM."""

    certificate_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@immutable
class Files:
    """The absolute paths of a client certificate and its key, as in kubelet.conf."""

    certificate_path: str
    key_path: str


def with_credentials(
    data: bytes,
    path: str,
    *,
    old: Certificate | None,
    certificate_pem: bytes,
    key_pem: bytes,
    trust_pem: bytes | None,
) -> bytes:
    """Return the kubeconfig `data` with new credentials for the user whose embedded certificate is `old`.

    If `old` is None, the current user gets the credentials. `trust_pem` replaces the embedded CA of the user's cluster.
    Raises WriteError if `data` is malformed, if no such user embeds credentials, or if the edit would change other
    content.
    """
    document = _loaded(data, path)
    contexts = _contexts(document)
    user = _user(document, contexts, path, old)
    new_values: dict[Position, bytes | str] = {
        (*user.position, _CERTIFICATE): certificate_pem,
        (*user.position, _KEY): key_pem,
    }
    cluster = _cluster(document, contexts, user.name)
    if trust_pem is not None and cluster and cluster.fields.get(_TRUST):
        new_values[*cluster.position, _TRUST] = trust_pem
    return with_values(data, document, new_values, f"the credentials of user {user.name!r} in {path}")


def has_several_entries(data: bytes) -> bool:
    """Return whether a kubeconfig contains more users, clusters or contexts than those of the current context.

    A repair must preserve these entries. Return False if `data` is malformed.
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


def credentials_obstacle(data: bytes, path: str) -> str | None:
    """Return the reason for which `with_credentials` cannot replace the credentials of the current user, or None."""
    try:
        document = _loaded(data, path)
        _user(document, _contexts(document), path, None)
    except WriteError as error:
        return str(error).partition(";")[0]
    return None


def embeds_ca(data: bytes) -> bool:
    """Return whether the cluster of the current context, or the only cluster, embeds a CA."""
    try:
        document = load_mapping(data)
        return bool(_current_cluster(document, "").fields.get(_TRUST))
    except (MalformedError, WriteError):
        return False


def with_credentials_of(data: bytes, source: bytes, path: str) -> bytes:
    """Return the kubeconfig `data` with the credentials of the current user from the archived kubeconfig `source`.

    Raises MalformedError if `source` is not a kubeconfig. Raises WriteError if `source` or `data` embeds no credentials
    of its current user, or if the edit would change other content.
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
    """Return the kubeconfig `data` with `trust` as the CA of its current cluster.

    In other clusters, `trust` replaces each embedded CA that is in `anchors`. Raises WriteError if the current cluster
    embeds no CA, or if the edit would change other content.
    """
    document = _loaded(data, path)
    cluster = _current_cluster(document, path)
    if not cluster.fields.get(_TRUST):
        raise WriteError(f"{path} embeds no CA for the cluster {cluster.name!r}; embed the CA, or correct the CA file")
    new_values: dict[Position, bytes | str] = {(*cluster.position, _TRUST): _pem(trust)}
    for other in entries(document, "clusters", "cluster"):
        embedded = decode(decoded(other.fields.get(_TRUST)) or b"", "").certificates
        if other.position != cluster.position and not frozenset(embedded).isdisjoint(anchors):
            known = {*anchors, *trust}
            new_values[*other.position, _TRUST] = _pem((*trust, *(each for each in embedded if each not in known)))
    return with_values(data, document, new_values, f"the CA of cluster {cluster.name!r} in {path}")


def with_cluster(data: bytes, path: str, trust: Sequence[Certificate], server: str | None) -> bytes:
    """Return the kubeconfig `data`. If the current cluster has no CA or no server, add the missing value.

    The CA is `trust`, and the URL of the server is `server`. Raises WriteError if the cluster would still be unusable,
    or if the edit would change other content.
    """
    document = _loaded(data, path)
    no_cluster = f"certmond adds no cluster to {path}; add the cluster to the file"
    try:
        cluster = _current_cluster(document, path)
    except WriteError:
        raise WriteError(no_cluster) from None
    new_values: dict[Position, bytes | str] = {}
    embedded = frozenset(decode(decoded(cluster.fields.get(_TRUST)) or b"", "").certificates)
    refers = bool(cluster.fields.get("certificate-authority")) and not cluster.fields.get(_TRUST)
    if not refers and not embedded and cluster.fields.get("insecure-skip-tls-verify") is not True:
        if not trust:
            raise WriteError(f"the file of the CA that {path} embeds contains no certificate; restore the CA first")
        new_values[*cluster.position, _TRUST] = _pem(trust)
    if not as_text(cluster.fields.get(_SERVER)).strip():
        if embedded and embedded.isdisjoint(trust):
            fact = printable(
                f"cluster {cluster.name!r} of {path} has no server, and trusts a CA other than the CA of this node"
            )
            raise WriteError(f"{fact}; write the URL of the API server of this cluster into the file as `server`")
        if not server:
            fact = printable(
                f"no file on this node contains the address of the API server for cluster {cluster.name!r}"
            )
            raise WriteError(f"{fact}; write the URL of this API server into {path} as `server`")
        new_values[*cluster.position, _SERVER] = server
    result = with_values(data, document, new_values, f"the CA and the server of cluster {cluster.name!r} in {path}")
    if broken_cluster(parse_credentials(result, path)):
        raise WriteError(no_cluster)
    return result


def _current_cluster(document: Mapping[str, Any], path: str) -> Entry:
    """Return the cluster of the current context, or the only cluster. Raises WriteError if neither exists."""
    clusters = list(entries(document, "clusters", "cluster"))
    names = [context.fields.get("cluster") for context in _contexts(document) if _is_current(document, context)]
    chosen = [entry for entry in clusters if entry.name in names] or (clusters if len(clusters) == 1 else [])
    if not chosen:
        fact = f"{path} contains no current context with a cluster"
        raise WriteError(f"{fact}; set one: kubectl config use-context NAME --kubeconfig {path}")
    return chosen[0]


def _pem(certificates: Sequence[Certificate]) -> bytes:
    return b"".join(map(to_pem, certificates))


def _loaded(data: bytes, path: str) -> Mapping[str, Any]:
    try:
        return load_mapping(data)
    except MalformedError as error:
        raise WriteError(f"{path} {error}; correct the file, or issue it again") from None


def _contexts(document: Mapping[str, Any]) -> list[Entry]:
    """Return the contexts, with the current context first."""
    return sorted(entries(document, "contexts", "context"), key=lambda entry: not _is_current(document, entry))


def _is_current(document: Mapping[str, Any], context: Entry) -> bool:
    return context.name == document.get("current-context")


def new_kubeconfig(*, cluster: str, server: str, user: str, trust_pem: bytes, credentials: Embedded | Files) -> bytes:
    """Return a kubeconfig with one context. kubeadm writes the same bytes (clientcmd, WriteToFile)."""
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


def _user(document: Mapping[str, Any], contexts: list[Entry], path: str, old: Certificate | None) -> Entry:
    """Return the user whose credentials `with_credentials` replaces.

    Raises WriteError if no such user embeds a certificate and a key.
    """
    is_current = bool(contexts) and _is_current(document, contexts[0])
    current = is_current and as_text(contexts[0].fields.get("user"))
    users = sorted(entries(document, "users", "user"), key=lambda entry: entry.name != current)
    if old is None:
        users = [entry for entry in users if entry.name == current]
        problem = (
            f"{path} contains no current context with a user; set one: "
            f"kubectl config use-context NAME --kubeconfig {path}"
        )
        if current:
            problem = (
                f"{path} contains no user {current!r} for its current context; add this user, or move the file away"
            )
    else:
        users_with_file = [entry for entry in users if entry.name == current and not entry.fields.get(_CERTIFICATE)]
        users = [entry for entry in users if _embeds(entry, old)] or users_with_file
        problem = f"{path} no longer embeds the certificate to renew; see the present certificate: certmond status"
    if not users:
        raise WriteError(problem)
    for field_name in (_CERTIFICATE, _KEY):
        if not users[0].fields.get(field_name):
            name = field_name.removesuffix("-data")
            where = f"user {users[0].name!r} in {path}"
            if users[0].fields.get(name):
                remedy = f"renew the certificate in that file, or embed the content of the file as `{field_name}`"
                raise WriteError(f"{where} refers to a file in `{name}`; {remedy}")
            raise WriteError(f"{where} has no {name}; issue the file again")
    return users[0]


def _embeds(entry: Entry, certificate: Certificate) -> bool:
    data = decoded(entry.fields.get(_CERTIFICATE))
    return data is not None and certificate in decode(data, "").certificates


def _cluster(document: Mapping[str, Any], contexts: list[Entry], user: str) -> Entry | None:
    """Return the cluster that the first context with the user `user` names, or None if this cluster does not exist."""
    names = [context.fields.get("cluster") for context in contexts if context.fields.get("user") == user]
    return next((entry for entry in entries(document, "clusters", "cluster") if entry.name in names[:1]), None)
