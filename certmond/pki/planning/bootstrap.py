"""Planner of `certmond init`: the steps that create the missing files, or the problems that prevent these steps.

`certmond init` changes no existing file. `bootstrap_steps` defines the contents of each step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.missing_ca_certificate import ca_copy_remedy
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.unmet_requirements import node_name_of
from certmond.pki.findings import Finding, Reason, Severity, printable
from certmond.pki.planning.bootstrap_steps import SUPER_ADMIN, Drafts, InitStep
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.x509.certificate import Certificate

_LAST = "admin.conf"
# A name of a node in Kubernetes that YAML reads as text, which `on`, `1` and `1e3` are not.
_NODE_NAME = re.compile(r"(?!(?:on|off|yes|no|true|false|null|y|n)$)[a-z]([a-z0-9.-]{0,251}[a-z0-9])?")


@immutable
class Bootstrap:
    """The steps of `certmond init`, or the problems that prevent the steps."""

    steps: tuple[InitStep, ...] = ()
    problems: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()  # the entries with existing files


@immutable
class Ground:
    """State of the node: the assessed certificates, and the known paths at which a file exists.

    `given` is the Root CA from the operator (`--root-ca-cert`). `joins` is True if the node joins a cluster.
    """

    present: Assessment
    paths: frozenset[str]
    given: Certificate | None = None
    joins: bool = False


def bootstrap(specs: Sequence[CertificateSpec], ground: Ground, init: InitSpec, policy: Policy) -> Bootstrap:
    """Return the steps that create the missing files of `specs`, or the problems that prevent the steps."""
    return _Bootstrapper(specs, ground, init, policy).run()


class _Bootstrapper:
    def __init__(self, specs: Sequence[CertificateSpec], ground: Ground, init: InitSpec, policy: Policy) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._facts = ground.present.facts
        self._given, self._joins, self._paths = ground.given, ground.joins, ground.paths
        self._drafts = Drafts(init, policy, ground.present.facts, ground.present.taken_at)
        self._present: Mapping[str, CertificateStatus] = {
            status.seen.name: status for status in ground.present.statuses if status.seen.path in ground.paths
        }
        self._steps: list[InitStep] = []
        self._problems: list[str] = []
        self._ends: dict[str, datetime] = {}
        self._unsigned: dict[str, list[str]] = {}

    def run(self) -> Bootstrap:
        for spec in self._ordered():
            if status := self._present.get(spec.name):
                self._keep(spec, status)
            else:
                self._make(spec)
        self._problems += map(self._lacking_key, self._unsigned)
        if self._problems:
            return Bootstrap(problems=tuple(self._problems))
        return Bootstrap(tuple(self._steps), kept=tuple(name for name in self._specs if name in self._present))

    def _ordered(self) -> Iterator[CertificateSpec]:
        """Yield the entries, with the CAs first. admin.conf is last, because it marks a completed `certmond init`."""
        yield from sorted(self._specs.values(), key=lambda spec: (not spec.authority, spec.name == _LAST))

    def _keep(self, spec: CertificateSpec, status: CertificateStatus) -> None:
        """Add a problem for each finding that blocks `init`, and for a Root CA that differs from the given Root CA.

        Also add the step for a missing kubeconfig that refers to the existing certificate.
        """
        passed_over = set() if status.anchors else {Reason.NO_PATH}  # the missing CA already has a problem
        if spec.kubeconfig and spec.kubeconfig not in self._paths:
            passed_over.add(Reason.MISSING)  # a step creates the kubeconfig
        for found in status.findings:
            blocks = found.severity is Severity.CRITICAL and found.reason.blocks_issuing
            if blocks and found.reason not in passed_over:
                self._problems.append(self._problem(found, spec))
        if spec.authority and status.certificate:
            self._ends[spec.name] = status.certificate.not_after
            if spec.name == "ca" and self._given and status.certificate != self._given:
                self._problems.append(
                    f"{spec.path} differs from --root-ca-cert, but `certmond init` does not replace a CA; omit "
                    "--root-ca-cert"
                )
        self._refer_to(spec)

    def _problem(self, found: Finding, spec: CertificateSpec) -> str:
        """Return the problem for a finding. For a certificate of another node, the remedy is the name of this node."""
        name = self._other_node_name
        if found.reason is Reason.WRONG_SUBJECT and name and self._node_names[spec.name]:
            fact, setting = found.message.partition("; ")[0], f"set `node_name: {name}` in the configuration"
            return printable(f"{fact}; if this node is {name}, {setting}, or move the file away")
        return f"{found.message} (`certmond init` does not replace the file: repair it, or move it away)"

    @cached_property
    def _node_names(self) -> dict[str, str | None]:
        """The node names in the subjects of the present certificates, by the names of the entries."""
        return {
            name: node_name_of(status.certificate, self._specs[name], self._facts)
            for name, status in self._present.items()
            if status.certificate and name in self._specs
        }

    @property
    def _other_node_name(self) -> str | None:
        """The node name in the subjects of all certificates of the node, if this node has another name."""
        names = set(filter(None, self._node_names.values()))
        name = names.pop() if len(names) == 1 and self._facts.get("node_name") not in names else ""
        return name if _NODE_NAME.fullmatch(name) else None

    def _make(self, spec: CertificateSpec) -> None:
        """Add the step that creates a missing file, or the problem that prevents the step."""
        beside = next((path for path in (spec.key, spec.kubeconfig) if path in self._paths), None)
        if signed := ", ".join(self._signed_by(spec)):
            self._problems.append(
                f"{spec.path} is missing, but certificates of this CA exist: {signed}; restore the CA from a backup, "
                f"or {ca_copy_remedy(spec.path)}; to create another PKI, move these files away"
            )
        elif beside:
            self._problems.append(f"{beside} exists without {spec.path}; restore {spec.path}, or move {beside} away")
        elif self._joins and (spec.authority or spec.kind is Kind.KEY_PAIR):
            self._problems.append(
                f"{spec.path}, which all control-plane nodes share, is missing; "
                f"copy it and {spec.key} from another control-plane node"
            )
        elif spec.authority:
            step = self._drafts.authority(spec, self._given if spec.name == "ca" else None)
            self._ends[spec.name] = step.not_after
            self._steps.append(step)
        elif spec.kind is Kind.KEY_PAIR:
            self._steps.append(self._drafts.key_pair(spec))
        elif spec.name != SUPER_ADMIN or self._makes_super_admin():
            self._issue(spec)

    def _signed_by(self, authority: CertificateSpec) -> Iterator[str]:
        for spec in self._specs.values():
            if authority.authority and authority.name in spec.ca and spec.name in self._present:
                yield self._present[spec.name].seen.path

    def _issue(self, spec: CertificateSpec) -> None:
        authority = self._specs.get(spec.ca[0])
        if authority is None:
            return  # the CA does not belong to the cluster, so the owner of the CA issues the certificate
        holder = self._present.get(authority.name)
        if holder is not None and holder.certificate and holder.key_matches is None:
            self._unsigned.setdefault(authority.name, []).append(spec.path)
            return
        try:
            self._steps.append(self._drafts.certificate(spec, authority, self._ends.get(authority.name)))
        except ValueError as error:
            fact = f"certmond cannot create {spec.path}: its entry {spec.name} has an invalid value ({error})"
            self._problems.append(f"{fact}; correct the entry")
        self._refer_to(spec)

    def _refer_to(self, spec: CertificateSpec) -> None:
        """Add the step for a missing kubeconfig that refers to the certificate."""
        authority = self._specs.get(spec.ca[0]) if spec.ca else None
        if spec.kubeconfig and spec.kubeconfig not in self._paths and authority:
            self._steps.append(self._drafts.kubeconfig(spec, spec.kubeconfig, authority))

    def _makes_super_admin(self) -> bool:
        """Return whether to create super-admin.conf, which kubeadm creates from v1.29 on.

        Returns False if the node joins a cluster. Also returns False if admin.conf exists, because an operator might
        have moved super-admin.conf away.
        """
        return not self._joins and _LAST not in self._present and self._drafts.current_admins

    def _lacking_key(self, name: str) -> str:
        targets, key = ", ".join(self._unsigned[name]), self._specs[name].key
        if self._present[name].seen.key_unknown:
            fact = f"{key} is unreadable or encrypted, so certmond cannot issue {targets}"
            return f"{fact}; decrypt it: openssl pkey -in {key}"
        return f"{key} is missing, so certmond cannot issue {targets}; copy these files, or the key, to this node"
