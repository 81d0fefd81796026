"""What can be done to a node, as values: the closed set of steps, the plan that they make, and what is held.

Owns the shapes that the planner hands to whoever prints or carries out; a new thing to do is a class in the union
`Step`, and mypy points at every `match` that lacks it. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from certmond.pki.assess import CertificateStatus
from certmond.pki.catalog import ServiceSpec
from certmond.pki.certificate import Anchor, Certificate
from certmond.pki.issuance import Template
from certmond.pki.restart import Target

Identity = tuple[str, str]
"""Name and path of an observation."""


class Cause(StrEnum):
    """Why something is done."""

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
    """A new certificate of an entry in the place of `old`, or, where that is None, of files that are damaged: it then
    has no predecessor, and `server` is what a kubeconfig says of its cluster, its name and the URL of the API server.
    `restarts` are the consumers that do not reload it. `under` is the anchor that it has to have, where it is not any
    of its entry's.
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
    """A generation of the archive in the place of an entry's damaged files. `certificate` is the one that it has.

    Without a generation, a kubeconfig keeps its credentials, of which `certificate` is one, and only its broken cluster
    is put right, with the present CA and the server that is known.
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
    """A derived file is made again from the entry `source`."""

    target: str
    path: str
    source: str
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class Restart:
    """A service takes up what is on disk. `instance` is what runs now; `targets` are for whose sake."""

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
    """The file `path` holds these anchors, in this order, and nothing else."""

    path: str
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True, slots=True)
class KeyOf:
    """The file `path` holds the private key of this anchor, which the state directory or the node has."""

    path: str
    anchor: Anchor


@dataclass(frozen=True, slots=True)
class Trusting:
    """The kubeconfig `path` embeds these CA certificates for the cluster of its context, and in the place of any of
    `anchors` for each other cluster that it has.
    """

    path: str
    certificates: tuple[Certificate, ...]
    anchors: frozenset[Certificate] = frozenset()


@dataclass(frozen=True, slots=True)
class Flags:
    """The static-pod manifest `path` gives its `container` these flags, which it has already, with these values."""

    path: str
    container: str
    flags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no file `path`."""

    path: str


Want = Bundle | KeyOf | Trusting | Flags | Gone


@dataclass(frozen=True, slots=True)
class Rotate:
    """What a phase of a rotation asks of files that belong together: all of it is so, or nothing has changed. `known`
    are the anchors of before and after: where the files hold another one, it is not for this step to replace it.
    """

    target: str
    path: str
    detail: str
    wants: tuple[Want, ...]
    cause: Cause = Cause.ROTATION
    known: tuple[Anchor, ...] = ()


Write = Issue | Restore | Derive | Rotate
"""What changes files."""
Step = Write | Restart


@dataclass(frozen=True, slots=True)
class Held:
    """What would be a step, and why it is none; `until` where the time alone will tell."""

    target: str
    path: str
    because: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order; what is held; and the instant until which time alone changes neither."""

    steps: tuple[Step, ...] = ()
    held: tuple[Held, ...] = ()
    changes_at: datetime | None = None

    @property
    def writes(self) -> tuple[Write, ...]:
        """The steps that change files: they come first, all of them."""
        return tuple(step for step in self.steps if not isinstance(step, Restart))

    @property
    def restartable(self) -> Plan:
        """The plan without the restarts of services for which it still writes files."""
        waiting = {service for step in self.writes if isinstance(step, Issue) for service in step.restarts}
        steps = (step for step in self.steps if not (isinstance(step, Restart) and step.target in waiting))
        return replace(self, steps=tuple(steps))
