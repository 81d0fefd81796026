"""Types of the plan: the kinds of steps, and the held step.

To add a kind of step, add its class to the union `Step`. mypy then reports every `match` that lacks the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime
from enum import StrEnum

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.services.restart_episode import Target
from certmond.pki.signing.template import Template
from certmond.pki.x509.certificate import Anchor, Certificate

Identity = tuple[str, str]
"""Name and path of an observation."""


class Cause(StrEnum):
    """Reason for a step."""

    DUE = "due"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NOT_A_SYMLINK = "not_a_symlink"
    DAMAGED = "damaged"
    ASKED = "asked"
    MISSING = "missing"
    SOURCE_CHANGED = "source_changed"
    RENEWED = "renewed"
    ROTATION = "rotation"
    SERVED_DIFFERS = "served_differs"
    RESTART_PENDING = "restart_pending"
    RENEWED_AT_START = "renewed_at_start"


@immutable
class Issue:
    """Step that issues a new certificate.

    `old` is None if the step replaces damaged files. `under` is the only anchor that may sign, or None if any anchor of
    the entry may sign. `server` contains the cluster name and the URL of the API server for a damaged kubeconfig.
    """

    status: CertificateStatus
    old: Certificate | None
    cause: Cause
    detail: str
    template: Template
    signer: str
    authority: str | None
    keep_key: bool
    restarts: tuple[str, ...]
    node: str
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)
    trust: tuple[Certificate, ...] = field(default=(), repr=False)
    under: Certificate | None = field(default=None, repr=False)
    server: tuple[str, str] | None = None

    @property
    def target(self) -> str:
        return self.status.seen.name

    @property
    def path(self) -> str:
        return self.status.seen.path

    @property
    def identity(self) -> Identity:
        return self.status.seen.identity


@immutable
class Restore:
    """Step that restores the damaged files of an entry from the archive.

    If `generation` is None, the step keeps the certificate and repairs only the cluster of the kubeconfig.
    """

    status: CertificateStatus
    generation: str | None
    certificate: Certificate
    detail: str
    cause: Cause = Cause.DAMAGED

    @property
    def target(self) -> str:
        return self.status.seen.name

    @property
    def path(self) -> str:
        return self.status.seen.path

    @property
    def identity(self) -> Identity:
        return self.status.seen.identity


@immutable
class Derive:
    """Step that writes a derived file again from the files of the entry `source`.

    `restarts` contains the services that read the derived file only at their start.
    """

    target: str
    path: str
    source: str
    cause: Cause
    detail: str
    restarts: tuple[str, ...] = ()


@immutable
class Restart:
    """Step that restarts a service because of the certificates in `targets`.

    `instance` identifies the running instance, and is empty if certmond has observed no instance.
    """

    service: ServiceSpec
    targets: tuple[Target, ...]
    cause: Cause
    detail: str
    instance: str = ""

    @property
    def target(self) -> str:
        return self.service.name

    @property
    def path(self) -> str:
        return self.targets[0].path if self.targets else ""


@immutable
class Bundle:
    """Change that writes exactly the anchors in `anchors` to a file, in this order."""

    path: str
    anchors: tuple[Anchor, ...]


@immutable
class KeyOf:
    """Change that writes the private key of `anchor` to a file."""

    path: str
    anchor: Anchor


@immutable
class Trusting:
    """Change that embeds `certificates` as the CAs of a kubeconfig's current cluster.

    In the other clusters of the kubeconfig, `certificates` replace each certificate in `anchors`.
    """

    path: str
    certificates: tuple[Certificate, ...]
    anchors: frozenset[Certificate] = frozenset()


@immutable
class Flags:
    """Change that sets flags of a container in a static Pod manifest. The container must already have the flags."""

    path: str
    container: str
    flags: tuple[tuple[str, str], ...]


@immutable
class AbsentFile:
    """Change that removes a file."""

    path: str


FileChange = Bundle | KeyOf | Trusting | Flags | AbsentFile


@immutable
class Rotate:
    """Step that makes the file changes of a rotation phase in one transaction.

    The step replaces only anchors in `known`.
    """

    target: str
    path: str
    detail: str
    wants: tuple[FileChange, ...]
    cause: Cause = Cause.ROTATION
    known: tuple[Anchor, ...] = ()


Write = Issue | Restore | Derive | Rotate
"""Steps that change files."""
Step = Write | Restart


@immutable
class Held:
    """Step that must wait. `until` is the end of the hold, or None if an event ends the hold."""

    target: str
    path: str
    because: str
    until: datetime | None = None


@immutable
class Plan:
    """Steps in their order, and the held steps.

    `changes_at` is the next time at which the plan changes, or None if only an event can change the plan.
    """

    steps: tuple[Step, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None

    @property
    def writes(self) -> tuple[Write, ...]:
        """Steps that change files. certmond executes these steps before all restarts."""
        return tuple(step for step in self.steps if not isinstance(step, Restart))

    @property
    def restartable(self) -> Plan:
        """The plan without the restarts that a step `Issue` or `Derive` of the same plan lists in `restarts`."""
        waiting = {service for step in self.writes if isinstance(step, Issue | Derive) for service in step.restarts}
        steps = (step for step in self.steps if not (isinstance(step, Restart) and step.target in waiting))
        return replace(self, steps=tuple(steps))
