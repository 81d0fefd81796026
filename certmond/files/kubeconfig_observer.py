"""Observation of the certificates and keys that a kubeconfig embeds or names.

An unusable file has a `Fault` in its observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from certmond.files.cache_entry import latest_change
from certmond.files.document_reader import DocumentReader, bundle_observations
from certmond.formats.kubeconfig import Material, User
from certmond.formats.kubeconfig_credentials import Credentials, broken_cluster, missing_parts, own_user
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Embedded, Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.parsed_file import encrypted_key_in, is_broken, leaf_of, may_hide_key, without_missing
from certmond.pki.x509.parsing import Document


class KubeconfigObserver:
    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader

    def is_wanted(self, seen: Observation) -> bool:
        """Return whether the node should have the file of the kubelet's client certificate."""
        return seen.wanted and self.is_named(seen)

    def is_named(self, seen: Observation) -> bool:
        """Return whether kubelet.conf refers to the file of the kubelet's client certificate.

        Return False if kubelet.conf embeds the certificate, and True if kubelet.conf has no certificate.
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
        # Credentials of another kind count only for the user of the current context, or if no user has a certificate.
        others = [u for u in users if u.other and (not users_with_certificate or u.name == config.current_user)]
        if spec.subject and not credentials.faults:
            faults += missing_parts(path, credentials, others, embeds=spec.embedded_ca is not None)
        permissions = tuple(self._reader.permissions({path: True}))
        whole = Observation(
            spec.name, spec, path, embedded=embedded, permissions=permissions, faults=tuple(faults),
            wanted=self._reader.is_wanted(spec), changed_at=self._reader.entry(path).changed_at, renewable=not others,
            broken_cluster=broken_cluster(credentials) if spec.subject and spec.embedded_ca else "",
        )  # fmt: skip
        plain = spec.model_copy(update={"subject": (), "names": (), "usages": ("client auth",)})
        for user in users_with_certificate:
            bare = Observation(f"{spec.name}#{user.name}", plain, path)
            yield self._with_user(whole if user is own else bare, credentials, user)
        if faults and own is None:
            yield whole
        if spec.embedded_ca is None:
            yield from self._clusters(spec, path, credentials)

    def _with_user(self, seen: Observation, credentials: Credentials, user: User) -> Observation:
        certificate = self._material(seen.path, credentials, user.name, "certificate", user.certificate)
        key = self._material(seen.path, credentials, user.name, "key", user.key)
        key_path = (user.key and user.key.path) or seen.path
        faults = [*seen.faults, *certificate.faults, *without_missing(key.faults), *encrypted_key_in(key, key_path)]
        if not (is_broken(certificate) or certificate.certificates):
            location = (user.certificate and user.certificate.path) or f"{seen.path}, certificate of {user.name!r},"
            faults.append(Fault(Reason.MALFORMED, f"{location} holds no certificate"))
        referrer = self._reader.referrer(seen.path)
        named = referrer if key_path != seen.path else None
        permissions = self._reader.permissions({key_path: True}, named) if named else ()
        # If other users can change the kubeconfig, a file that it names does not belong to it. Otherwise this entry
        # and the entry of that file would share the file.
        own = self._reader.entry((not referrer.writers and user.certificate and user.certificate.path) or seen.path)
        key_entry = self._reader.entry(key_path, named)
        return replace(
            seen, **leaf_of(certificate), key=key.key, key_unknown=may_hide_key(key), key_path=key_path,
            permissions=(*seen.permissions, *permissions), faults=tuple(dict.fromkeys(faults)),
            renewable=_is_embedded(user.certificate) and _is_embedded(user.key), holder=("user", user.name),
            certificate_file=own.own_file, key_file=key_entry.own_file,
            foreign_key=bool(named and named.writers), changed_at=latest_change(own, key_entry),
        )  # fmt: skip

    def _clusters(self, spec: CertificateSpec, path: str, credentials: Credentials) -> Iterator[Observation]:
        """Yield an observation for each CA certificate of a kubeconfig, because these certificates expire too."""
        update: dict[str, Any] = {"subject": (), "names": (), "usages": (), "ca": (), "key": None, "key_optional": True}
        bare = spec.model_copy(update=update)
        for cluster in credentials.config.clusters:
            document = self._material(path, credentials, cluster.name, "ca", cluster.ca)
            whole = Observation(
                f"{spec.name}#ca:{cluster.name}", bare, path, faults=document.faults, holder=("cluster", cluster.name)
            )
            yield from (
                bundle_observations(whole, document.certificates) if document.certificates or document.faults else ()
            )

    def _trust(self, path: str, credentials: Credentials) -> tuple[tuple[Embedded, ...], tuple[Fault, ...]]:
        """Return the CA certificates for the current or only cluster of a kubeconfig, and their faults."""
        config = credentials.config
        current = [cluster for cluster in config.clusters if cluster.name == config.current_cluster]
        if not current and len(config.clusters) != 1:
            return (), ()
        cluster = (current or config.clusters)[0]
        document = self._material(path, credentials, cluster.name, "ca", cluster.ca)
        # A separate file has an entry, which reports its faults, unless other users can change the kubeconfig.
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
        """Return the parsed certificate, key or CA that the kubeconfig at `path` embeds or names."""
        if material is None:
            return Document()
        if material.path and material.data is None:
            return self._reader.document(material.path, None, self._reader.referrer(path))
        return credentials.documents.get((owner, field), Document())


def _is_embedded(material: Material | None) -> bool:
    return material is not None and material.data is not None
