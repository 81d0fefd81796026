"""What `certmond init` makes: the PKI of a control-plane node that is not there yet, as steps in their order.

Owns which certificates a control-plane node has, what each says before there is an old one to take it from, and when
nothing may be made. Pure, as `plan` is; what exists is kept, and only checked. Sources are files of
kubernetes/kubernetes, below cmd/kubeadm/app.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import CertificateSpec, KeyAlgorithm, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.demand import missing_names
from certmond.pki.fields import expand, subject_attributes
from certmond.pki.issuance import Template, Terms, first
from certmond.pki.plan import Policy
from certmond.pki.reason import Reason, Severity
from certmond.pki.settings import InitSpec, split_endpoint, subject_alternative_name

_DEFAULT_DIR = "/etc/kubernetes/pki"
_AUTHORITIES = {
    "ca": "kubernetes",
    "etcd-ca": "etcd-ca",
    "front-proxy-ca": "front-proxy-ca",
}  # phases/certs/certlist.go
_LOCAL = frozenset({"controller-manager.conf", "scheduler.conf"})  # reach this node's API server (kubeconfig.go)
_BEFORE_ADMIN = "super-admin.conf"  # from v1.29 on, and only where no admin.conf is there yet: it may be in a safe
_ADMINS_CHANGED = (1, 29)  # kubernetes/kubernetes#121837: kubeadm:cluster-admins in place of system:masters
_OLD_ADMINS = "O=system:masters"
_HARMLESS = frozenset({Reason.NEARING_EXPIRY, Reason.STILL_DUE, Reason.OUTLIVES_CA})


@dataclass(frozen=True, slots=True)
class MakeAuthority:
    """A Root CA and its key: made, or `given` by the operator, whose key is then with the caller."""

    spec: CertificateSpec
    template: Template | None
    given: Certificate | None
    detail: str


@dataclass(frozen=True, slots=True)
class MakeKeyPair:
    """The keys that sign service-account tokens."""

    spec: CertificateSpec
    key: KeyAlgorithm
    detail: str


@dataclass(frozen=True, slots=True)
class NewKubeconfig:
    """What a new kubeconfig says besides credentials and trust."""

    path: str
    cluster: str
    server: str
    user: str


@dataclass(frozen=True, slots=True)
class IssueFirst:
    """The first certificate of an entry, signed by the CA of the entry `authority`."""

    spec: CertificateSpec
    template: Template
    authority: CertificateSpec
    detail: str
    kubeconfig: NewKubeconfig | None = None


@dataclass(frozen=True, slots=True)
class WriteKubeconfig:
    """A kubeconfig that refers to the kubelet's rotating PEM."""

    spec: CertificateSpec
    kubeconfig: NewKubeconfig
    authority: CertificateSpec
    detail: str


InitStep = MakeAuthority | MakeKeyPair | IssueFirst | WriteKubeconfig


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The steps, and everything that forbids them: then none may be carried out."""

    steps: tuple[InitStep, ...] = ()
    problems: tuple[str, ...] = ()
    kept: tuple[str, ...] = field(default=())


def facts_of(init: InitSpec, node_name: str, address: str) -> dict[str, str]:
    """The facts of the catalogue (`${…}`) as the cluster's configuration has them."""
    host = split_endpoint(init.control_plane_endpoint)[0] if init.control_plane_endpoint else address
    return {
        "node_name": node_name,
        "advertise_address": address,
        "service_ip": str(ip_network(init.service_subnet.partition(",")[0], strict=False)[1]),
        "dns_domain": init.dns_domain,
        "control_plane_name": subject_alternative_name(host),
    }


def relocated(specs: Sequence[CertificateSpec], init: InitSpec) -> tuple[CertificateSpec, ...]:
    """The entries that a control-plane node of this cluster has, where its `certificates_dir` has them."""

    def moved(path: str | None) -> str | None:
        if path and path.startswith(f"{_DEFAULT_DIR}/"):
            return posixpath.join(init.certificates_dir, path[len(_DEFAULT_DIR) + 1 :])
        return path

    return tuple(
        spec.model_copy(update={"path": moved(spec.path), "key": moved(spec.key)})
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
    return bool(spec.subject) and bool(spec.ca) and (not spec.optional or spec.name == _BEFORE_ADMIN)


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is: the certificates of the node, judged with the cluster's facts, and the paths at which anything is.

    `given` is the Root CA that the operator brought, already found to be a good one.
    """

    present: Assessment
    paths: frozenset[str]
    given: Certificate | None = None


def bootstrap(specs: Sequence[CertificateSpec], ground: Ground, init: InitSpec, policy: Policy) -> Bootstrap:
    """What of `specs` is to be made on this ground, at the instant that it was looked at."""
    return _Bootstrapper(specs, ground, init, policy).run()


class _Bootstrapper:
    def __init__(self, specs: Sequence[CertificateSpec], ground: Ground, init: InitSpec, policy: Policy) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._init, self._policy, self._given, self._paths = init, policy, ground.given, ground.paths
        self._now, self._facts = ground.present.taken_at, ground.present.facts
        self._present: Mapping[str, CertificateStatus] = {
            status.seen.name: status for status in ground.present.statuses if status.seen.path in ground.paths
        }
        self._steps: list[InitStep] = []
        self._problems: list[str] = []
        self._ends: dict[str, datetime] = {}
        self._unsigned: dict[str, list[str]] = {}

    def run(self) -> Bootstrap:
        for spec in self._ordered():
            status = self._present.get(spec.name)
            if status is not None:
                self._keep(spec, status)
            elif spec.key in self._paths:
                self._problems.append(f"{spec.key} is there without {spec.path}; put that back, or the key away")
            elif spec.authority:
                self._make_authority(spec)
            elif spec.kind is Kind.KEY_PAIR:
                algorithm = self._key(spec)
                self._steps.append(MakeKeyPair(spec, algorithm, f"a new pair of keys, {algorithm.value}"))
            elif spec.name != _BEFORE_ADMIN or self._makes_super_admin():
                self._issue(spec)
        for name, targets in self._unsigned.items():
            lacking = self._specs[name].key
            self._problems.append(
                f"{lacking} is not here, so {', '.join(targets)} cannot be made; bring them, or the key"
            )
        if self._problems:
            return Bootstrap(problems=tuple(self._problems))
        return Bootstrap(tuple(self._steps), kept=tuple(name for name in self._specs if name in self._present))

    def _ordered(self) -> Iterator[CertificateSpec]:
        """The authorities first; admin.conf last, as its being there says that the node was made."""
        yield from (spec for spec in self._specs.values() if spec.authority)
        yield from (spec for spec in self._specs.values() if not spec.authority and spec.name != "admin.conf")
        yield from (spec for spec in self._specs.values() if spec.name == "admin.conf")

    def _keep(self, spec: CertificateSpec, status: CertificateStatus) -> None:
        """What is there has to be good, and to be the operator's where they brought one."""
        for found in status.findings:
            if found.severity is Severity.CRITICAL and found.reason not in _HARMLESS:
                self._problems.append(f"{found.message} (it is kept as it is: put it right or away first)")
        if spec.authority and status.certificate:
            self._ends[spec.name] = status.certificate.not_after
            if spec.name == "ca" and self._given and status.certificate != self._given:
                self._problems.append(f"{spec.path} is another CA than the given one; a CA is not replaced by `init`")
        if spec.kubeconfig and spec.kubeconfig not in self._paths:
            self._write_kubeconfig(spec)

    def _make_authority(self, spec: CertificateSpec) -> None:
        orphans = [
            self._present[other.name].seen.path
            for other in self._specs.values()
            if spec.name in other.ca and other.name in self._present
        ]
        if orphans:
            these = ", ".join(orphans)
            self._problems.append(
                f"{spec.path} is not there, but what it signed is: {these}; put the CA back, or that away"
            )
            return
        if spec.name == "ca" and self._given:
            self._ends[spec.name] = self._given.not_after
            detail = f"{self._given.subject} as given, until {_day(self._given.not_after)}"
            self._steps.append(MakeAuthority(spec, None, self._given, detail))
            return
        name = _AUTHORITIES[spec.name]
        validity = self._init.ca_validity or spec.validity or self._policy.validity
        terms = Terms(self._now, None, self._facts, validity, self._policy.key)
        lasting = spec.model_copy(update={"validity": validity})
        template = first(lasting, f"CN={name}", (f"DNS:{name}",), terms, is_ca=True)
        self._ends[spec.name] = template.not_after
        detail = f"a new Root CA CN={name}, {template.key.value}, until {_day(template.not_after)}"
        self._steps.append(MakeAuthority(spec, template, None, detail))

    def _issue(self, spec: CertificateSpec) -> None:
        authority = self._specs.get(spec.ca[0])
        if authority is None:
            return
        holder = self._present.get(authority.name)
        if holder is not None and not (holder.key_matches or holder.seen.key_unknown):
            self._unsigned.setdefault(authority.name, []).append(spec.name)
            return
        subject = self._subject(spec)
        names = (*missing_names(spec, self._facts, ()), *self._further_names(spec))
        terms = Terms(self._now, self._ends.get(authority.name), self._facts, self._policy.validity, self._policy.key)
        template = first(spec, subject, dict.fromkeys(names), terms)
        detail = f"{subject}, {template.key.value}, signed by {authority.name}, until {_day(template.not_after)}"
        if names:
            detail += f", for {', '.join(dict.fromkeys(names))}"
        kubeconfig = self._kubeconfig(spec.name, spec.path, subject) if spec.kind is Kind.KUBECONFIG else None
        self._steps.append(IssueFirst(spec, template, authority, detail, kubeconfig))
        if spec.kubeconfig and spec.kubeconfig not in self._paths:
            self._write_kubeconfig(spec)

    def _write_kubeconfig(self, spec: CertificateSpec) -> None:
        path = spec.kubeconfig or ""
        kubeconfig = self._kubeconfig(spec.name, path, self._subject(spec))
        detail = f"refers to {spec.path}, server {kubeconfig.server}"
        self._steps.append(WriteKubeconfig(spec, kubeconfig, self._specs[spec.ca[0]], detail))

    def _kubeconfig(self, name: str, path: str, subject: str) -> NewKubeconfig:
        user = next((text[3:] for text in sorted(subject_attributes(subject)) if text.startswith("CN=")), subject)
        return NewKubeconfig(path, self._init.cluster_name, self._server(local=name in _LOCAL), user)

    def _server(self, *, local: bool) -> str:
        """Where the API server is reached (util/endpoint.go): by its endpoint, or on this node."""
        port = self._init.bind_port
        host: str = self._facts["advertise_address"]
        if self._init.control_plane_endpoint and not local:
            host, given = split_endpoint(self._init.control_plane_endpoint)
            port = given or port
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def _subject(self, spec: CertificateSpec) -> str:
        """The subject that a kubeadm of the cluster's version would issue; the newest where that is not told."""
        old = [text for text in spec.subject if _OLD_ADMINS in text]
        version = _version(self._init.kubernetes_version)
        text = old[0] if old and version is not None and version < _ADMINS_CHANGED else spec.subject[0]
        return expand(text, self._facts) or text

    def _further_names(self, spec: CertificateSpec) -> Iterator[str]:
        given = {
            "apiserver": self._init.cert_sans,
            "etcd-server": self._init.etcd_server_cert_sans,
            "etcd-peer": self._init.etcd_peer_cert_sans,
        }
        return map(subject_alternative_name, given.get(spec.name, ()))

    def _makes_super_admin(self) -> bool:
        version = _version(self._init.kubernetes_version)
        return "admin.conf" not in self._present and (version is None or version >= _ADMINS_CHANGED)

    def _key(self, spec: CertificateSpec) -> KeyAlgorithm:
        """Tokens are signed with RSA or ECDSA (pkg/serviceaccount/jwt.go)."""
        wanted = spec.key_algorithm or self._policy.key
        return KeyAlgorithm.RSA_2048 if wanted is KeyAlgorithm.ED25519 else wanted


def _version(text: str | None) -> tuple[int, int] | None:
    match = re.match(r"v?([0-9]+)\.([0-9]+)", text or "")
    return (int(match[1]), int(match[2])) if match else None


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d}"
