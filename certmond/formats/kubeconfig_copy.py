"""Comparison of a copy of a kubeconfig with its source.

This module decides whether a kubeconfig has the cluster and the user of another one, and which parts are out of date.
"""

from __future__ import annotations

from dataclasses import dataclass

from certmond.formats.kubeconfig import Cluster, as_text, load_mapping
from certmond.formats.kubeconfig_credentials import Credentials, own_user
from certmond.formats.kubeconfig_edit import entries
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import Document


@dataclass(frozen=True, slots=True)
class Copy:
    """A kubeconfig with the cluster and the user of a source.

    `older` is its certificate and that of the source, if the copy has another one that ends earlier, or None. With
    `other_ca`, it embeds other CA certificates for the cluster than the source. With `same_server`, it names the
    server of the source.
    """

    older: tuple[Certificate, Certificate] | None
    other_ca: bool
    same_server: bool


def copy_of(source: Credentials, found: Credentials) -> Copy | None:
    """Return the comparison of a kubeconfig with `source`, or None if it is no copy of it.

    A copy has a cluster of the same name with the same server or a common CA certificate, and a user of the same name
    whose embedded certificate has the same common name. Kubernetes takes the name of the user from the common name. The
    groups can differ: kubeadm v1.29 changed those of admin.conf.
    """
    user = own_user(source.config)
    cluster = _cluster(source, source.config.current_cluster)
    if user is None or cluster is None:
        return None
    same, leaf, old = _cluster(found, cluster.name), _leaf(source, user.name), _leaf(found, user.name)
    if same is None or leaf is None or old is None or old.common_name != leaf.common_name:
        return None
    trust, old_trust = _trust(source, cluster), _trust(found, same)
    if same.server != cluster.server and trust.isdisjoint(old_trust):
        return None
    older = (old, leaf) if old != leaf and old.not_after < leaf.not_after else None
    return Copy(older, bool(trust and old_trust and trust != old_trust), same.server == cluster.server)


def content_names(data: bytes, _path: str) -> frozenset[str]:
    """Return the names of the fields, users, clusters and contexts in a kubeconfig.

    A copy with a name that its source lacks has its own content, which `cp` would delete.
    """
    document = load_mapping(data)
    names = {repr(as_text(key)) for key, value in document.items() if value}
    for plural, singular in (("users", "user"), ("clusters", "cluster"), ("contexts", "context")):
        for entry in entries(document, plural, singular):
            names.add(f"the {singular} {entry.name!r}")
            names |= {
                f"the {singular} {entry.name!r} with {as_text(key)!r}" for key, value in entry.fields.items() if value
            }
    return frozenset(names)


def _cluster(credentials: Credentials, name: str | None) -> Cluster | None:
    return next((each for each in credentials.config.clusters if each.name == name), None)


def _leaf(credentials: Credentials, user: str) -> Certificate | None:
    """Return the first certificate that the kubeconfig embeds for a user. client-go uses it as the leaf."""
    return next(iter(credentials.documents.get((user, "certificate"), Document()).certificates), None)


def _trust(credentials: Credentials, cluster: Cluster) -> frozenset[Certificate]:
    return frozenset(credentials.documents.get((cluster.name, "ca"), Document()).certificates)
