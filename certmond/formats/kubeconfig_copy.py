"""Comparison of a copy of a kubeconfig with its source.

This module decides whether a kubeconfig contains the cluster and the user of another kubeconfig, and which parts of the
copy are out of date.
"""

from __future__ import annotations

from certmond.formats.kubeconfig import Cluster, as_text, entries, load_mapping
from certmond.formats.kubeconfig_certificates import Credentials, own_user
from certmond.immutable_class import immutable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document


@immutable
class Copy:
    """A copy: a kubeconfig with the cluster and the user of a source.

    `older` contains the certificate of the copy and the certificate of the source if the certificate of the copy
    expires earlier, otherwise None. `other_ca` is true if the copy embeds different CA certificates for the cluster.
    `same_server` is true if the copy and the source name the same server.
    """

    older: tuple[Certificate, Certificate] | None
    other_ca: bool
    same_server: bool


def copy_of(source: Credentials, found: Credentials) -> Copy | None:
    """Return the comparison of the kubeconfig `found` with `source`, or None if `found` is not a copy of `source`.

    A copy contains a cluster of the same name with the same server or a common CA certificate. A copy also contains a
    user of the same name whose embedded certificate has the same common name, which Kubernetes uses as the user name.
    The groups can differ: kubeadm v1.29 changed the groups in admin.conf.
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

    If a copy contains a name that its source does not contain, `cp` from the source would delete content of the copy.
    Raises MalformedError if `data` is not a YAML mapping.
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
    """Return the first certificate that the kubeconfig embeds for a user, or None if there is no such certificate.

    client-go uses this certificate as the leaf.
    """
    return next(iter(credentials.documents.get((user, "certificate"), Document()).certificates), None)


def _trust(credentials: Credentials, cluster: Cluster) -> frozenset[Certificate]:
    return frozenset(credentials.documents.get((cluster.name, "ca"), Document()).certificates)
