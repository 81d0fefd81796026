"""Comparison of a copy of a kubeconfig with its source.

Decides whether a kubeconfig has the cluster and the user of another one, and which parts of it are out of date. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from certmond.formats.kubeconfig import Cluster
from certmond.formats.kubeconfig_credentials import Credentials, own_user
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import Document


@dataclass(frozen=True, slots=True)
class Copy:
    """A kubeconfig with the cluster and the user of a source.

    `older` is its certificate and that of the source, if the copy has another one that ends earlier, or None. With
    `other_ca`, it embeds other CA certificates for the cluster than the source. With `alone`, it has only that cluster,
    by the same server, and that user.
    """

    older: tuple[Certificate, Certificate] | None
    other_ca: bool
    alone: bool


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
    alone = len(found.config.users) == len(found.config.clusters) == 1 and same.server == cluster.server
    older = (old, leaf) if old != leaf and old.not_after < leaf.not_after else None
    return Copy(older, bool(trust and old_trust and trust != old_trust), alone)


def _cluster(credentials: Credentials, name: str | None) -> Cluster | None:
    return next((each for each in credentials.config.clusters if each.name == name), None)


def _leaf(credentials: Credentials, user: str) -> Certificate | None:
    """Return the first certificate that the kubeconfig embeds for a user. client-go uses it as the leaf."""
    return next(iter(credentials.documents.get((user, "certificate"), Document()).certificates), None)


def _trust(credentials: Credentials, cluster: Cluster) -> frozenset[Certificate]:
    return frozenset(credentials.documents.get((cluster.name, "ca"), Document()).certificates)
