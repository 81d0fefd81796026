"""Steps as values: the closed set of changes to a node, the plan, and held steps.

Owns the types between the planner and the executor or the output. A new kind of step is a class in the union `Step`,
and mypy reports every `match` that lacks it. Decides nothing.
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
    """Step that issues a new certificate of an entry. It replaces `old`, or damaged files if `old` is None.

    For a damaged kubeconfig, `server` has the name of the cluster and the URL of the API server. `restarts` are the
    consumers that do not reload the certificate. `under` is the required anchor if not every anchor of the entry is
    permitted.
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
    """Step that replaces an entry's damaged files by a `generation` of the archive, with its `certificate`.

    Without a generation, the step repairs only the broken cluster of a kubeconfig, with the present CA and the known
    server. The kubeconfig keeps its credentials, and `certificate` is one of them.
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
    """Step that restarts a service. `instance` is the running instance, and `targets` are the reason."""

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
    """The file `path` contains exactly these anchors, in this order."""

    path: str
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True, slots=True)
class KeyOf:
    """The file `path` contains the private key of this anchor, from the state directory or the node."""

    path: str
    anchor: Anchor


@dataclass(frozen=True, slots=True)
class Trusting:
    """The kubeconfig `path` embeds these CA certificates for the cluster of its context.

    In its other clusters, they replace any certificate in `anchors`.
    """

    path: str
    certificates: tuple[Certificate, ...]
    anchors: frozenset[Certificate] = frozenset()


@dataclass(frozen=True, slots=True)
class Flags:
    """The static Pod manifest `path` sets these flags, which its `container` already has, to these values."""

    path: str
    container: str
    flags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AbsentFile:
    """The file `path` does not exist."""

    path: str


FileChange = Bundle | KeyOf | Trusting | Flags | AbsentFile


@dataclass(frozen=True, slots=True)
class Rotate:
    """Step that makes changes of a rotation phase to files that belong together, in one transaction.

    `known` are the old and new anchors. The step does not replace another anchor in the files.
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
    """A held step, with the reason. `until` is the end of the hold, if only time ends it."""

    target: str
    path: str
    because: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in their order, the held steps, and the time at which the passage of time next changes them."""

    steps: tuple[Step, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None

    @property
    def writes(self) -> tuple[Write, ...]:
        """The steps that change files. They come before all restarts."""
        return tuple(step for step in self.steps if not isinstance(step, Restart))

    @property
    def restartable(self) -> Plan:
        """The plan without restarts of services for which it still writes files."""
        waiting = {service for step in self.writes if isinstance(step, Issue) for service in step.restarts}
        steps = (step for step in self.steps if not (isinstance(step, Restart) and step.target in waiting))
        return replace(self, steps=tuple(steps))
