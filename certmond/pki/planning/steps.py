"""Types of the plan: each kind of step, and the held step.

The planner creates these values, and the executor or the output reads them. To add a kind of step, add its class to the
union `Step`. mypy then reports every `match` that lacks the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import ServiceSpec
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


@dataclass(frozen=True, slots=True)
class Issue:
    """Step that issues a new certificate, which replaces `old`, or damaged files if `old` is None.

    `restarts` are the services that use the certificate and do not reload it. `under` is the only anchor that may sign,
    or None if each anchor of the entry may sign. For a damaged kubeconfig, `server` has the name of the cluster and the
    URL of the API server.
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


@dataclass(frozen=True, slots=True)
class Restore:
    """Step that replaces damaged files of an entry with those of a `generation` of the archive.

    `certificate` is the certificate of the generation. If `generation` is None, the step repairs only the cluster of a
    kubeconfig, with the present CA and the known server. The kubeconfig then keeps its credentials with `certificate`.
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


@dataclass(frozen=True, slots=True)
class Derive:
    """Step that writes a derived file again from the entry `source`."""

    target: str
    path: str
    source: str
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Step that restarts a service. `targets` are the outdated or renewed certificates that cause the restart.

    `instance` identifies the running instance of the service. It is empty if certmond did not observe the service.
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


@dataclass(frozen=True, slots=True)
class Bundle:
    """Change after which the file `path` contains exactly the anchors in `anchors`, in this order."""

    path: str
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True, slots=True)
class KeyOf:
    """Change after which the file `path` contains the private key of `anchor`.

    certmond reads this key from the state directory or from a file of the node.
    """

    path: str
    anchor: Anchor


@dataclass(frozen=True, slots=True)
class Trusting:
    """Change after which the kubeconfig `path` embeds `certificates` as the CAs for the cluster of its current context.

    In the other clusters of the kubeconfig, `certificates` replace each certificate that is in `anchors`.
    """

    path: str
    certificates: tuple[Certificate, ...]
    anchors: frozenset[Certificate] = frozenset()


@dataclass(frozen=True, slots=True)
class Flags:
    """Change after which the static Pod manifest `path` sets the flags of `container` to the values in `flags`.

    The container already has these flags.
    """

    path: str
    container: str
    flags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AbsentFile:
    """Change after which the file `path` does not exist."""

    path: str


FileChange = Bundle | KeyOf | Trusting | Flags | AbsentFile


@dataclass(frozen=True, slots=True)
class Rotate:
    """Step that makes the changes of a rotation phase to files that belong together, in one transaction.

    `wants` are the changes. `known` are the old and the new anchors, and the step replaces no other anchor.
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


@dataclass(frozen=True, slots=True)
class Held:
    """A held step, with the reason. `until` is the end of the hold, or None if the end depends on an event."""

    target: str
    path: str
    because: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in their order, and the held steps. `changes_at` is the next time at which the plan would change.

    It is None if only an event on the node can change the plan.
    """

    steps: tuple[Step, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None

    @property
    def writes(self) -> tuple[Write, ...]:
        """The steps that change files. certmond executes these steps before all restarts."""
        return tuple(step for step in self.steps if not isinstance(step, Restart))

    @property
    def restartable(self) -> Plan:
        """The plan without restarts of services whose certificates the same plan renews."""
        waiting = {service for step in self.writes if isinstance(step, Issue) for service in step.restarts}
        steps = (step for step in self.steps if not (isinstance(step, Restart) and step.target in waiting))
        return replace(self, steps=tuple(steps))
