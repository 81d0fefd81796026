"""Phases of the rotation of a trust anchor (RFC 4210, 4.4: root CA key update), and the files of each phase.

Owns the rule *trust before use, use before distrust*, as values: a phase defines the files that a node should have. The
files of a node show which phase it has reached. `planner` owns the steps, and `gates` the end of a phase. Executes
nothing.

These invariants hold in every phase and between any two consecutive phases, for any progress of the nodes (proven by
`tests/pki/rotation/test_phases.py`):
  I1  Every server accepts every client certificate in use.
  I2  Every client accepts every server certificate in use.
  I3  All components trust an anchor before it signs.
  I4  The first certificate of the anchor's file belongs to the anchor's key.
  I5  certmond issues a leaf again only after all components trust its new issuer.
  I6  Components distrust an anchor only after no leaf is left that it has signed.
  I7  At the end of the rotation no component trusts the old anchor.

The keys of service-account tokens are an anchor as well: components trust a public key, and tokens depend on that key.
No component issues a token again. certmond removes the old key after all tokens that it signed have ended.
  I8  Every API server accepts every token that has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from certmond.errors import RotationError
from certmond.pki.catalog.field_types import Instant
from certmond.pki.x509.certificate import Anchor, Certificate

SIGNER_FAMILY = "ca"
"""The anchor with which the controller-manager signs."""


_BACK = "-back"


class Mode(StrEnum):
    """How the anchor changes: with trust in both for a time, with the same key and other dates, or with an outage."""

    OVERLAP = "overlap"
    REISSUE = "reissue"
    REPLACE = "replace"


class Phase(StrEnum):
    """Progress of a rotation. Each phase is a state of files that every node must reach."""

    PREPARE = "prepare"
    DETACH = "detach"
    TRUST = "trust"
    ISSUE = "issue"
    DISTRUST = "distrust"
    ATTACH = "attach"
    DONE = "done"


_SEQUENCES = {
    Mode.OVERLAP: tuple(Phase),
    Mode.REISSUE: (Phase.PREPARE, Phase.DISTRUST, Phase.DONE),
    Mode.REPLACE: (Phase.PREPARE, Phase.ISSUE, Phase.DONE),
}
_MIRRORED = {
    Phase.PREPARE: Phase.DONE,
    Phase.DETACH: Phase.ATTACH,
    Phase.TRUST: Phase.DISTRUST,
    Phase.ISSUE: Phase.ISSUE,
}
"""Phase in which an abort continues, by the phase at the abort. From then on, the old anchor is the new one."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation from the anchors `old` to the anchor `new`. It is in `phase` since the time `since` (UTC).

    `found` is True if the new anchor was installed before the rotation began, so that it signs from the start.
    `aborted` is True after an abort, which exchanges old and new. The rotation does not wait for the nodes in
    `excluded`. `published` is when certmond first observed the phase everywhere: a CA in all namespaces, or a token key
    with all API servers. `signature` is the old anchor's signature over the statement of `authorization`, in base64. It
    is empty for a node that rotates alone. `released` is the place, from 0 to 1, below which workers may act in the
    phase (`worker_batches`).
    """

    id: str
    family: str
    mode: Mode
    old: tuple[Anchor, ...]
    new: Anchor
    phase: Phase
    since: Instant
    aborted: bool = False
    found: bool = False
    excluded: tuple[str, ...] = ()
    published: Instant | None = None
    signature: str = ""
    released: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the rotation has ended."""
        return self.phase is Phase.DONE

    @property
    def shared(self) -> bool:
        """Whether other nodes take part, which requires a signature."""
        return bool(self.signature)

    @property
    def name(self) -> str:
        """The name of the rotation in messages."""
        return f"the rotation {self.id} of {self.family}"

    @property
    def noun(self) -> str:
        """The kind of the anchor in messages."""
        return "CA" if isinstance(self.new, Certificate) else "public key"


@dataclass(frozen=True, slots=True)
class Desired:
    """Files that a phase requires on every node.

    `trust` are the anchors, in the order of their file. The first belongs to the anchor's key. `detached` is the anchor
    with which kube-controller-manager signs from separate files, or None if it uses the anchor's files. Separate files
    are necessary because kube-controller-manager refuses a file with more than one certificate
    (pkg/controller/certificates/signer/ca_provider.go, setCA). `leaves` is the anchor of all end entities, or None if
    the phase permits each. With `tidy`, the separate files must not exist.
    """

    trust: tuple[Anchor, ...]
    detached: Anchor | None = None
    leaves: Anchor | None = None
    tidy: bool = False

    @property
    def signing(self) -> Anchor:
        """The anchor that signs: control-plane nodes have its private key in the key file of the family."""
        return self.trust[0]


def sequence(rotation: Rotation) -> tuple[Phase, ...]:
    """Return the phases of this rotation, in their order."""
    phases = _SEQUENCES[rotation.mode]
    if rotation.family != SIGNER_FAMILY:
        phases = tuple(phase for phase in phases if phase not in {Phase.DETACH, Phase.ATTACH})
    if rotation.found:
        phases = tuple(phase for phase in phases if phase is not Phase.DETACH)
    return phases


def flaw(rotation: Rotation) -> str | None:
    """Return why the rotation is impossible, or None. A caller that reads a record must check this."""
    if not rotation.old:
        return "it has no old anchor"
    if len({type(each) for each in (rotation.new, *rotation.old)}) > 1:
        return "its anchors are certificates and public keys, and all must be of one kind"
    if len(rotation.old) > 1 and not rotation.found:
        return "it has several old anchors"
    if rotation.phase not in sequence(rotation):
        return f"a rotation of {rotation.family} in the mode {rotation.mode} has no phase {rotation.phase}"
    return None


def following(rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation in its next phase, or unchanged if it has ended."""
    phases = sequence(rotation)
    later = phases[phases.index(rotation.phase) + 1 :]
    return replace(rotation, phase=later[0], since=now, published=None, released=0.0) if later else rotation


def desired(rotation: Rotation) -> Desired | None:
    """Return the files that the phase requires, or None in `prepare`, which requires no change."""
    old, new = rotation.old, rotation.new
    signer = rotation.family == SIGNER_FAMILY
    match rotation.phase:
        case Phase.PREPARE:
            return None
        case Phase.DETACH:
            return Desired(old, detached=old[0])
        case Phase.TRUST if rotation.found:
            return Desired((new, *old), detached=new if signer else None)
        case Phase.TRUST:
            return Desired((*old, new), detached=old[0] if signer else None)
        case Phase.ISSUE if rotation.mode is Mode.REPLACE:
            return Desired((new,), leaves=new)
        case Phase.ISSUE:
            return Desired((new, *old), detached=new if signer else None, leaves=new)
        case Phase.DISTRUST if rotation.mode is Mode.REISSUE:
            return Desired((new,))
        case Phase.DISTRUST:
            return Desired((new,), detached=new if signer else None, leaves=new)
        case Phase.ATTACH:
            return Desired((new,), leaves=new)
        case Phase.DONE:
            return Desired((new,), leaves=None if rotation.mode is Mode.REISSUE else new, tidy=True)
        case _:
            assert_never(rotation.phase)


def begin(rotation: Rotation) -> Rotation:
    """Return the rotation in its first phase.

    The first phase of a rotation that the operator starts changes no file. If the new anchor was *found* on disk, only
    readers of that file trust it, so that `prepare` and `detach` are left out.
    """
    phases = sequence(rotation)
    return replace(rotation, phase=phases[1] if rotation.found else phases[0])


def forth(identity: str) -> str:
    """Return the id that a rotation had before an abort. `identity` is its id before or after the abort."""
    return identity.removesuffix(_BACK)


def may_turn_back(rotation: Rotation) -> bool:
    """Return whether the phase permits an abort: no component distrusts the old anchor yet."""
    return rotation.phase in _MIRRORED and not (rotation.mode is Mode.REPLACE and rotation.phase is Phase.ISSUE)


def may_be_aborted(rotation: Rotation) -> bool:
    """Return whether `abort` can return to the old anchor."""
    return may_turn_back(rotation) and not (rotation.aborted or rotation.found)


def abort(rotation: Rotation, now: datetime) -> Rotation:
    """Return the aborted rotation: the same phases with old and new exchanged. Raises RotationError if impossible."""
    if rotation.over:
        raise RotationError(f"{rotation.name} is done, and cannot be aborted")
    if rotation.aborted:
        raise RotationError(f"{rotation.name} is an abort already")
    if not may_turn_back(rotation):
        raise RotationError(
            f"{rotation.name} is in the phase {rotation.phase} and cannot be aborted: a node may distrust the old "
            f"{rotation.noun} already; let the rotation continue to its end"
        )
    if rotation.found:
        raise RotationError(
            f"{rotation.name} began after a CA was replaced on disk; restore the old certificate and key, which "
            "starts a rotation back to the old CA, or let the rotation continue to its end"
        )
    (old,) = rotation.old
    return replace(
        rotation,
        id=f"{rotation.id}{_BACK}",  # so that reports from before the abort no longer count
        old=(rotation.new,),
        new=old,
        phase=_MIRRORED[rotation.phase],
        since=now,
        aborted=True,
        published=None,
        released=0.0,
    )
