"""Phases of the rotation of a trust anchor (RFC 4210, 4.4: root CA key update), and the files of each phase.

The rule is *trust before use, use before distrust*. `planner` returns the steps. `phase_conditions` and `gates`
decide when a phase ends, and `controllers.rotation` advances the phase.

These invariants hold in every phase and between two consecutive phases (tests/pki/test_rotation_walks.py). In the mode
`replace`, only I4 and I7 hold. For an anchor that certmond found on disk, only I4 holds until the phase `trust` ends.
  I1  Every server accepts every client certificate in use.
  I2  Every client accepts every server certificate in use.
  I3  All components trust an anchor before this anchor signs.
  I4  The first certificate of the anchor's file belongs to the anchor's key.
  I5  certmond issues a leaf again only after all components trust its new issuer.
  I6  Components distrust an anchor only after no leaf depends on this anchor.
  I7  At the end of the rotation, no component trusts the old anchor.

A service-account key is also an anchor. certmond removes the old key after all tokens of the old key have expired.
  I8  Every API server accepts every token that has not expired.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from certmond.errors import RotationError
from certmond.immutable_class import immutable
from certmond.pki.instant import Instant
from certmond.pki.x509.certificate import Anchor, Certificate

SIGNER_FAMILY = "ca"
"""Name of the entry of the CA with which kube-controller-manager signs."""


CERTIFICATE_PREFIX = "x509:"
"""Prefix of a `signature` that contains a rotation certificate in base64."""

_BACK = "-back"


class Mode(StrEnum):
    """Way in which a rotation changes the anchor.

    With `overlap`, components trust both anchors for a time. With `reissue`, the new anchor has the key of the old
    anchor. With `replace`, components never trust both anchors at the same time, which causes an outage.
    """

    OVERLAP = "overlap"
    REISSUE = "reissue"
    REPLACE = "replace"


class Phase(StrEnum):
    """Phase of a rotation. Each phase defines the files that every node must have."""

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
"""Phase in which a rotation continues after an abort, which exchanges the old and the new anchor."""


@immutable
class Rotation:
    """One rotation from the anchors `old` to the anchor `new`, in a phase that began at `since` (UTC).

    `found` is True if the new anchor was installed before the rotation began. An abort exchanges `old` and `new`.

    `published` is the time of the first observation on which the phase depends. In `trust`, all namespaces contain both
    CAs. In `issue`, Pods have certificates that the old CA might have signed. For a service-account key, all API
    servers accept the new key (`trust`), or sign with the new key (`issue`).

    `signature` is the base64 signature of the old anchor over `authorization.statement`, or the rotation certificate of
    an external CA (`signing.rotation_certificate`). The field is empty if a node rotates alone. `released` is a number
    from 0 to 1. Workers whose place (`worker_batches`) is below this number may act.
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
        """Whether other nodes take part in the rotation."""
        return bool(self.signature)

    @property
    def external(self) -> bool:
        """Whether a certificate of the old CA authorizes the rotation, because no node has the key of the CA."""
        return self.signature.startswith(CERTIFICATE_PREFIX)

    @property
    def name(self) -> str:
        """The name of the rotation in messages."""
        return f"the rotation {self.id} of {self.family}"

    @property
    def noun(self) -> str:
        """The word for the anchor in messages: "CA" or "public key"."""
        return "CA" if isinstance(self.new, Certificate) else "public key"


@immutable
class Desired:
    """Files that a phase requires on every node.

    `trust` contains the anchors in the order of the file. The first anchor belongs to the key file. `detached` is the
    anchor in separate files for kube-controller-manager, which refuses a file with more than one certificate
    (pkg/controller/certificates/signer/ca_provider.go, setCA). `leaves` is the anchor that must have signed all leaves,
    or None for any anchor. If `tidy` is True, the separate files must not exist.
    """

    trust: tuple[Anchor, ...]
    detached: Anchor | None = None
    leaves: Anchor | None = None
    tidy: bool = False

    @property
    def signing(self) -> Anchor:
        """The anchor that signs. On control-plane nodes, the key file contains the private key of this anchor."""
        return self.trust[0]


def sequence(rotation: Rotation) -> tuple[Phase, ...]:
    """Return the phases of the rotation in their order."""
    phases = _SEQUENCES[rotation.mode]
    if rotation.family != SIGNER_FAMILY:
        phases = tuple(phase for phase in phases if phase not in {Phase.DETACH, Phase.ATTACH})
    if rotation.found:
        phases = tuple(phase for phase in phases if phase is not Phase.DETACH)
    return phases


def flaw(rotation: Rotation) -> str | None:
    """Return the reason why the rotation is invalid, or None if the rotation is valid.

    The reader of a record must call this function.
    """
    if not rotation.old:
        return "it has no old anchor"
    if len({type(each) for each in (rotation.new, *rotation.old)}) > 1:
        return "it mixes certificates and public keys as anchors, but all anchors must be of one kind"
    if len(rotation.old) > 1 and not rotation.found:
        return "it has several old anchors"
    if rotation.phase not in sequence(rotation):
        return f"a rotation of {rotation.family} in the mode {rotation.mode} has no phase {rotation.phase}"
    return None


def following(rotation: Rotation, now: datetime) -> Rotation:
    """Return the rotation in its next phase, or the unchanged rotation if the rotation has ended."""
    phases = sequence(rotation)
    later = phases[phases.index(rotation.phase) + 1 :]
    return replace(rotation, phase=later[0], since=now, published=None, released=0.0) if later else rotation


def desired(rotation: Rotation) -> Desired | None:
    """Return the files that the present phase requires, or None for `prepare`, which requires no change."""
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

    A rotation to an anchor that was found on disk skips `prepare` and `detach`.
    """
    phases = sequence(rotation)
    return replace(rotation, phase=phases[1] if rotation.found else phases[0])


def forth(identity: str) -> str:
    """Return the id that the rotation had before its abort."""
    return identity.removesuffix(_BACK)


def may_turn_back(rotation: Rotation) -> bool:
    """Return whether the present phase permits an abort, because all components still trust the old anchor."""
    return rotation.phase in _MIRRORED and not (rotation.mode is Mode.REPLACE and rotation.phase is Phase.ISSUE)


def may_be_aborted(rotation: Rotation) -> bool:
    """Return whether an operator can abort the rotation."""
    return may_turn_back(rotation) and not (rotation.aborted or rotation.found)


def abort(rotation: Rotation, now: datetime) -> Rotation:
    """Return the aborted rotation, in which the old and the new anchor are exchanged.

    Raises RotationError if the rotation cannot be aborted.
    """
    if rotation.over:
        raise RotationError(f"{rotation.name} is done, and cannot be aborted")
    if rotation.aborted:
        raise RotationError(f"{rotation.name} is an abort already; to see its progress, run: certmond root-ca show")
    if not may_turn_back(rotation):
        raise RotationError(
            f"{rotation.name} is in the phase {rotation.phase} and cannot be aborted: a node might distrust the old "
            f"{rotation.noun} already; let the rotation continue to its end"
        )
    if rotation.found:
        raise RotationError(
            f"{rotation.name} began after a CA was replaced on disk, and cannot be aborted; let the rotation continue "
            "to its end, or, to start a rotation back to the old CA, restore the old certificate and key"
        )
    (old,) = rotation.old
    return replace(
        rotation,
        id=f"{rotation.id}{_BACK}",  # a new id, so that reports from before the abort no longer count
        old=(rotation.new,),
        new=old,
        phase=_MIRRORED[rotation.phase],
        since=now,
        aborted=True,
        published=None,
        released=0.0,
    )
