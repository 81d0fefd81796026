"""Steps of `certmond init`, and the contents of each first certificate and kubeconfig.

certmond writes the same contents as kubeadm does for the Kubernetes version of the cluster. The comments cite files of
kubernetes/kubernetes below cmd/kubeadm/app.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address, ip_network

from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm, Kind
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.catalog.init_cluster_spec import InitSpec, split_endpoint, subject_alternative_name
from certmond.pki.catalog.unmet_requirements import missing_names
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.signing.policy import Fixed, fixed_by
from certmond.pki.signing.template import Template, Terms, first
from certmond.pki.x509.certificate import Certificate

SUPER_ADMIN = "super-admin.conf"
_DEFAULT_DIR = "/etc/kubernetes/pki"
_AUTHORITIES = {
    "ca": "kubernetes",
    "etcd-ca": "etcd-ca",
    "front-proxy-ca": "front-proxy-ca",
}  # phases/certs/certlist.go
_LOCAL = frozenset({"controller-manager.conf", "scheduler.conf"})  # use this node's API server (kubeconfig.go)
_ADMINS_CHANGED = (1, 29)  # kubernetes/kubernetes#121837: kubeadm:cluster-admins replaces system:masters
_KUBELET_LOCAL = (1, 33)  # from v1.33 on, also the kubelet uses this node's API server (ControlPlaneKubeletLocalMode)
_OLD_ADMINS = "O=system:masters"


@immutable
class MakeAuthority:
    """Step that installs a Root CA and its key. `given` is the operator's CA, or None if certmond creates the CA."""

    spec: CertificateSpec
    template: Template | None
    given: Certificate | None
    not_after: datetime
    detail: str


@immutable
class MakeKeyPair:
    """Step that creates the key pair for service-account tokens."""

    spec: CertificateSpec
    key: KeyAlgorithm
    detail: str


@immutable
class NewKubeconfig:
    """Contents of a new kubeconfig, except the credentials and the CA certificates."""

    path: str
    cluster: str
    server: str
    user: str


@immutable
class IssueFirst:
    """Step that issues the first certificate of an entry. The CA of the entry `authority` signs the certificate."""

    spec: CertificateSpec
    template: Template
    fixed: Fixed  # the contents that the entry fixes, and the names from the cluster's configuration
    authority: CertificateSpec
    detail: str
    kubeconfig: NewKubeconfig | None = None


@immutable
class WriteKubeconfig:
    """Step that writes the kubelet's kubeconfig, which refers to the PEM file that the kubelet rotates."""

    spec: CertificateSpec
    kubeconfig: NewKubeconfig
    authority: CertificateSpec
    detail: str


InitStep = MakeAuthority | MakeKeyPair | IssueFirst | WriteKubeconfig


def facts_of(init: InitSpec, node_name: str, address: str) -> dict[str, str]:
    """Return the facts for the catalogue, such as `${node_name}`, from the cluster's configuration."""
    host = split_endpoint(init.control_plane_endpoint)[0] if init.control_plane_endpoint else address
    return {
        "node_name": node_name,
        "advertise_address": address,
        "service_ip": str(ip_network(init.service_subnet.partition(",")[0], strict=False)[1]),
        "dns_domain": init.dns_domain,
        "control_plane_name": subject_alternative_name(host),
    }


def relocated(specs: Sequence[CertificateSpec], init: InitSpec) -> tuple[CertificateSpec, ...]:
    """Return the entries in `specs` that a control-plane node of this cluster needs.

    Paths below /etc/kubernetes/pki become paths below `certificates_dir`.
    """

    def moved(path: str) -> str:
        if path.startswith(f"{_DEFAULT_DIR}/"):
            return posixpath.join(init.certificates_dir, path[len(_DEFAULT_DIR) + 1 :])
        return path

    return tuple(
        replace(spec, path=moved(spec.path), key=spec.key and moved(spec.key))
        for spec in specs
        if _belongs(spec) and not (init.external_etcd and (spec.name == "etcd-ca" or "etcd-ca" in spec.ca))
    )


def _belongs(spec: CertificateSpec) -> bool:
    if spec.is_glob or spec.kind is Kind.BUNDLE or spec.signer is not None:
        return False
    if spec.authority:
        return spec.name in _AUTHORITIES and spec.key is not None
    if spec.kind is Kind.KEY_PAIR:
        return True
    if spec.kind is Kind.FILE and spec.key in {None, spec.path}:
        return False  # certmond only checks an entry without a separate key file
    return bool(spec.subject) and bool(spec.ca) and (not spec.optional or spec.name == SUPER_ADMIN)


class Drafts:
    """Factory for the steps of `certmond init`."""

    def __init__(self, init: InitSpec, policy: Policy, facts: Mapping[str, str], now: datetime) -> None:
        self._init, self._policy, self._facts, self._now = init, policy, facts, now
        version = re.match(r"v?([0-9]+)\.([0-9]+)", init.kubernetes_version or "")
        self._version = (int(version[1]), int(version[2])) if version else None

    def authority(self, spec: CertificateSpec, given: Certificate | None) -> MakeAuthority:
        """Return the step that creates a Root CA, or that installs `given`."""
        if given is not None:
            detail = f"the Root CA {given.subject} of --root-ca-cert, until {_day(given.not_after)}"
            return MakeAuthority(spec, None, given, given.not_after, detail)
        name = _AUTHORITIES[spec.name]
        lasting = replace(spec, validity=self._init.ca_validity or spec.validity)
        terms = Terms(self._now, None, self._facts, self._policy.validity, self._policy.key)
        template = first(lasting, f"CN={name}", (f"DNS:{name}",), terms, is_ca=True)
        detail = f"a new Root CA CN={name}, {template.key.value}, until {_day(template.not_after)}"
        return MakeAuthority(spec, template, None, template.not_after, detail)

    def key_pair(self, spec: CertificateSpec) -> MakeKeyPair:
        """Return the step for the key pair of service-account tokens.

        Kubernetes signs tokens only with RSA or ECDSA (pkg/serviceaccount/jwt.go), so the step uses RSA-2048 instead of
        Ed25519.
        """
        wanted = spec.key_algorithm or self._policy.key
        algorithm = KeyAlgorithm.RSA_2048 if wanted is KeyAlgorithm.ED25519 else wanted
        return MakeKeyPair(spec, algorithm, f"a new key pair, {algorithm.value}")

    def certificate(self, spec: CertificateSpec, authority: CertificateSpec, issuer_end: datetime | None) -> IssueFirst:
        """Return the step that issues the first certificate of `spec`.

        `issuer_end` is the end of the CA's validity period, or None if the end is unknown. Raises ValueError for an
        invalid subject or name.
        """
        subject = self._subject(spec)
        names = _in_order((*missing_names(spec, self._facts, ()), *self._further_names(spec)))
        terms = Terms(self._now, issuer_end, self._facts, self._policy.validity, self._policy.key)
        template = first(spec, subject, names, terms)
        detail = f"{subject}, {template.key.value}, signed by {authority.name}, until {_day(template.not_after)}"
        if names:
            detail += f", for {', '.join(names)}"
        kubeconfig = self._kubeconfig(spec, spec.path) if spec.kind is Kind.KUBECONFIG else None
        fixed = replace(fixed_by(spec, self._facts), names=names)
        return IssueFirst(spec, template, fixed, authority, detail, kubeconfig)

    def kubeconfig(self, spec: CertificateSpec, path: str, authority: CertificateSpec) -> WriteKubeconfig:
        """Return the step that writes the kubeconfig at `path`, which refers to the certificate of `spec`."""
        kubeconfig = self._kubeconfig(spec, path)
        return WriteKubeconfig(spec, kubeconfig, authority, f"refers to {spec.path}, server {kubeconfig.server}")

    @property
    def current_admins(self) -> bool:
        """Whether kubeadm uses the group kubeadm:cluster-admins and super-admin.conf. True for an unknown version."""
        return self._since(_ADMINS_CHANGED)

    def _since(self, version: tuple[int, int]) -> bool:
        return self._version is None or self._version >= version

    def _kubeconfig(self, spec: CertificateSpec, path: str) -> NewKubeconfig:
        subject = self._subject(spec)
        user = next((text[3:] for text in sorted(subject_attributes(subject)) if text.startswith("CN=")), subject)
        local = spec.name in _LOCAL or (spec.kind is Kind.KUBELET and self._since(_KUBELET_LOCAL))
        return NewKubeconfig(path, self._init.cluster_name, self._server(local=local), user)

    def _server(self, *, local: bool) -> str:
        """Return the URL of the control-plane endpoint, or of this node's API server (util/endpoint.go).

        The URL is that of this node's API server if `local` is True, or if the configuration contains no endpoint.
        """
        port = self._init.bind_port
        host: str = self._facts["advertise_address"]
        if self._init.control_plane_endpoint and not local:
            host, given = split_endpoint(self._init.control_plane_endpoint)
            port = given or port
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def _subject(self, spec: CertificateSpec) -> str:
        """Return the subject that kubeadm uses for this certificate in the Kubernetes version of the cluster."""
        old = [text for text in spec.subject if _OLD_ADMINS in text]
        text = old[0] if old and not self.current_admins else spec.subject[0]
        return expand(text, self._facts) or text

    def _further_names(self, spec: CertificateSpec) -> Iterator[str]:
        given = {
            "apiserver": self._init.cert_sans,
            "etcd-server": self._init.etcd_server_cert_sans,
            "etcd-peer": self._init.etcd_peer_cert_sans,
        }
        return map(subject_alternative_name, given.get(spec.name, ()))


def _in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name once: the sorted DNS names, and then the addresses (util/pkiutil, RemoveDuplicateAltNames)."""
    distinct = dict.fromkeys(names)
    dns = sorted(name for name in distinct if name.startswith("DNS:"))
    return (*dns, *(name for name in distinct if not name.startswith("DNS:")))


def is_usable_address(text: str | None) -> bool:
    """Return whether `text` is an IP address other than 0.0.0.0 and ::, or False if `text` is None.

    Raises ValueError for a text that is not an IP address.
    """
    return text is not None and not ip_address(text).is_unspecified


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d}"
