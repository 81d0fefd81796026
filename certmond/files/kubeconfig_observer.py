"""Observation of the certificates and keys that a kubeconfig embeds or names.

The observation of an unusable file contains a `Fault`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from certmond.files.cache_entry import latest_change
from certmond.files.catalog_file_reader import DocumentReader, bundle_observations
from certmond.formats.kubeconfig import Cluster, Kubeconfig, Material, User
from certmond.formats.kubeconfig_certificates import Credentials, broken_cluster, missing_parts, own_user
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Embedded, Observation
from certmond.pki.findings import Fault, Reason, Severity
from certmond.pki.x509.certificate_file_parser import Document
from certmond.pki.x509.certificate_file_properties import (
    encrypted_key_in,
    is_broken,
    leaf_of,
    may_hide_key,
    without_missing,
)
from certmond.pki.x509.path_building import find_paths

_FOREIGN: dict[str, Any] = {"ca": (), "at_most": Severity.WARNING}
"""Fields of an entry for a certificate of another cluster. This node does not require such a certificate."""


class KubeconfigObserver:
    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader

    def is_wanted(self, seen: Observation) -> bool:
        """Return whether the file of the kubelet's client certificate should exist on the node."""
        return seen.wanted and self.is_named(seen)

    def is_named(self, seen: Observation) -> bool:
        """Return whether kubelet.conf refers to the file of the kubelet's client certificate.

        Return False if kubelet.conf embeds the certificate or the key. Return True if the current user in kubelet.conf
        has neither, or if the entry names no kubeconfig.
        """
        named = self._refers_to(seen, seen.spec.kubeconfig) if seen.spec.kubeconfig else None
        return named in {None, seen.path}

    def _refers_to(self, seen: Observation, kubeconfig: str) -> str | None:
        config = self._reader.credentials(kubeconfig).config
        user = next((user for user in config.users if user.name == config.current_user), None)
        refers_to = None
        for material in (user.certificate, user.key) if user else ():
            if material and refers_to in {None, seen.path}:  # report the first file that is not the kubelet's PEM
                refers_to = material.path if material.data is None else ""
        return refers_to

    def with_kubelet_conf(self, seen: Observation, kubeconfig: str) -> Observation:
        credentials, refers_to = self._reader.credentials(kubeconfig), self._refers_to(seen, kubeconfig)
        embedded, faults = self._trust(kubeconfig, credentials)
        return replace(
            seen, refers_to=refers_to, wanted=self.is_wanted(seen), embedded=embedded,
            faults=(*seen.faults, *credentials.faults, *faults),
            permissions=(*seen.permissions, *self._reader.permissions({kubeconfig: True})),
        )  # fmt: skip

    def observations(self, spec: CertificateSpec, path: str) -> Iterator[Observation]:
        config = (credentials := self._reader.credentials(path)).config
        embedded, trust_faults = self._trust(path, credentials)
        users = sorted(config.users, key=lambda user: user.name != config.current_user)
        users_with_certificate = [user for user in users if user.certificate]
        faults = [*credentials.faults, *(trust_faults if spec.embedded_ca else ())]
        own = own_user(config) if spec.subject else next(iter(users_with_certificate), None)
        # Other kinds of credentials count only for the user of the current context, or if no user has a certificate.
        others = [u for u in users if u.other and (not users_with_certificate or u.name == config.current_user)]
        if spec.subject and not credentials.faults and not (spec.optional and others and own is None):
            faults += missing_parts(path, credentials, others, embeds=spec.embedded_ca is not None)
        permissions = tuple(self._reader.permissions({path: True}))
        whole = Observation(
            spec.name, spec, path, embedded=embedded, permissions=permissions, faults=tuple(faults),
            wanted=self._reader.is_wanted(spec), changed_at=self._reader.entry(path).changed_at, renewable=not others,
            broken_cluster=broken_cluster(credentials) if spec.subject and spec.embedded_ca else "",
        )  # fmt: skip
        if own:
            yield self._with_user(whole, credentials, own)
        yield from self._users(spec, path, credentials, [user for user in users_with_certificate if user is not own])
        if faults and own is None:
            yield whole
        yield from self._clusters(spec, path, credentials, is_compared=bool(faults or own))

    def further_observations(self, spec: CertificateSpec, kubeconfig: str) -> Iterator[Observation]:
        """Yield an observation for each certificate of other users and other clusters in the kubelet's kubeconfig."""
        config = (credentials := self._reader.credentials(kubeconfig)).config
        plain = replace(spec, path=kubeconfig, kind=Kind.KUBECONFIG, key=None, kubeconfig=None)
        users = [
            user for user in config.users
            if config.current_user not in {None, user.name} and user.certificate and user.certificate.path != spec.path
        ]  # fmt: skip
        yield from self._users(plain, kubeconfig, credentials, users)
        yield from self._clusters(plain, kubeconfig, credentials, is_compared=True)

    def _users(
        self, spec: CertificateSpec, path: str, credentials: Credentials, users: Iterable[User]
    ) -> Iterator[Observation]:
        """Yield an observation for each of `users`, whose certificates certmond does not renew.

        A user belongs to the cluster of `_own_cluster` if a context connects the user to this cluster. A user also
        belongs to this cluster if a CA of the cluster has signed the certificate of the user. All other users belong to
        another cluster. If `_own_cluster` finds no cluster, no user belongs to another cluster.
        """
        cluster, config = _own_cluster(credentials.config), credentials.config
        anchors = self._ca(path, credentials, cluster).certificates if cluster else ()
        plain = replace(spec, subject=(), names=(), usages=("client auth",), **_of_operator(spec, path))
        foreign = replace(plain, **_FOREIGN)
        for user in users:
            seen = self._with_user(Observation(f"{spec.name}#{user.name}", plain, path), credentials, user)
            related = cluster is None or (user.name, cluster.name) in config.contexts
            if not related and seen.certificates:
                related = bool(find_paths(seen.certificates[0], anchors, seen.certificates[1:]).paths)
            yield seen if related else replace(seen, spec=foreign)

    def _with_user(self, seen: Observation, credentials: Credentials, user: User) -> Observation:
        certificate = self._material(seen.path, credentials, user.name, "certificate", user.certificate)
        key = self._material(seen.path, credentials, user.name, "key", user.key)
        key_path = (user.key and user.key.path) or seen.path
        faults = [*seen.faults, *certificate.faults, *without_missing(key.faults), *encrypted_key_in(key, key_path)]
        if not (is_broken(certificate) or certificate.certificates):
            location = (user.certificate and user.certificate.path) or f"{seen.path}, certificate of {user.name!r},"
            faults.append(Fault(Reason.MALFORMED, f"{location} contains no certificate"))
        referrer = self._reader.referrer(seen.path)
        named = referrer if key_path != seen.path else None
        permissions = self._reader.permissions({key_path: True}, named) if named else ()
        # If other users can change the kubeconfig, a file that the kubeconfig names does not belong to this entry.
        # Otherwise this entry and the entry of the named file would share this file.
        own = self._reader.entry((not referrer.writers and user.certificate and user.certificate.path) or seen.path)
        key_entry = self._reader.entry(key_path, named)
        return replace(
            seen, **leaf_of(certificate), key=key.key, key_unknown=may_hide_key(key), key_path=key_path,
            permissions=(*seen.permissions, *permissions), faults=tuple(dict.fromkeys(faults)),
            renewable=_is_embedded(user.certificate) and _is_embedded(user.key), holder=("user", user.name),
            certificate_file=own.own_file, key_file=key_entry.own_file, named_file=_named_file(user.certificate),
            foreign_key=bool(named and named.writers), changed_at=latest_change(own, key_entry),
        )  # fmt: skip

    def _clusters(
        self, spec: CertificateSpec, path: str, credentials: Credentials, *, is_compared: bool
    ) -> Iterator[Observation]:
        """Yield an observation for each CA certificate of a kubeconfig, because these certificates also expire.

        If `spec` has an `embedded_ca`, and `is_compared` is true, another observation compares the CA certificates of
        the current cluster. Then skip this cluster, and each cluster with the same CA certificates. If `spec` has an
        `embedded_ca`, and `is_compared` is false, the CA certificates of the current cluster need a path to it.
        """
        update: dict[str, Any] = {"subject": (), "names": (), "usages": (), "ca": (), "key": None, "key_optional": True}
        bare = replace(spec, **_of_operator(spec, path) | update)
        foreign = replace(bare, **_FOREIGN)
        if spec.embedded_ca and not is_compared:
            bare = replace(bare, ca=(spec.embedded_ca,), at_most=Severity.WARNING)
        own, skips = _own_cluster(credentials.config), bool(spec.embedded_ca) and is_compared
        known = self._ca(path, credentials, own).certificates if own and skips else ()
        for cluster in credentials.config.clusters:
            document = self._ca(path, credentials, cluster)
            if skips and (cluster is own or (known and set(document.certificates) == set(known))):
                continue
            whole = Observation(
                f"{spec.name}#ca:{cluster.name}", bare if own in {None, cluster} else foreign, path,
                faults=document.faults, holder=("cluster", cluster.name), named_file=_named_file(cluster.ca),
            )  # fmt: skip
            yield from (
                bundle_observations(whole, document.certificates) if document.certificates or document.faults else ()
            )

    def _ca(self, path: str, credentials: Credentials, cluster: Cluster) -> Document:
        return self._material(path, credentials, cluster.name, "ca", cluster.ca)

    def _trust(self, path: str, credentials: Credentials) -> tuple[tuple[Embedded, ...], tuple[Fault, ...]]:
        """Return the CA certificates for one cluster of a kubeconfig, and the faults of these certificates.

        The cluster is the current cluster, or the only cluster of the kubeconfig.
        """
        if (cluster := _own_cluster(credentials.config)) is None:
            return (), ()
        document = self._ca(path, credentials, cluster)
        # The entry of a separate file reports the faults of this file, unless other users can change the kubeconfig.
        own = cluster.ca and cluster.ca.data is None and not self._reader.referrer(path).writers
        faults = () if own else document.faults
        is_reported = not document.certificates and (faults or credentials.faults)
        file = cluster.ca.path if cluster.ca and cluster.ca.data is None else None
        others = bool(self._reader.entry(path).writers)
        absent = cluster.ca is None and not credentials.faults
        embedded = Embedded(path, document.certificates, file, cluster.name, others, absent)
        return () if is_reported else (embedded,), faults

    def _material(
        self, path: str, credentials: Credentials, owner: str, field: str, material: Material | None
    ) -> Document:
        """Return the parsed certificate, key or CA `material`, which the kubeconfig at `path` embeds or names.

        Return an empty document if `material` is None.
        """
        if material is None:
            return Document()
        if material.path and material.data is None:
            return self._reader.document(material.path, None, self._reader.referrer(path))
        return credentials.documents.get((owner, field), Document())


def _is_embedded(material: Material | None) -> bool:
    return material is not None and material.data is not None


def _named_file(material: Material | None) -> str:
    """Return the path of the file that a kubeconfig names, or "" for embedded or absent material."""
    return material.path or "" if material and material.data is None else ""


def _own_cluster(config: Kubeconfig) -> Cluster | None:
    """Return the cluster of the current context, or else the only cluster, or None if neither exists."""
    current = [cluster for cluster in config.clusters if cluster.name == config.current_cluster]
    return current[0] if current else config.clusters[0] if len(config.clusters) == 1 else None


def _of_operator(spec: CertificateSpec, path: str) -> dict[str, Any]:
    """Return the fields of an entry for a certificate that certmond neither renews nor embeds again."""
    return {"renewed_by": spec.renewed_by or f"its operator (the certificate is in {path})", "embedded_ca": None}
