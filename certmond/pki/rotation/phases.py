"""The rotation of a trust anchor (RFC 4210, 4.4: root CA key update): its phases, and what each asks of every node.

Owns the one rule, *trust before use, use before distrust*, as values: a phase says which files a node should have, and
nothing more. Where a node is in it is seen from its files; which steps lead there is `pki.rotation_steps`'; when a
phase may be left is `pki.rotation_gates`'. Acts on nothing.

These hold in every phase and between any two that follow each other, on whatever node has come how far (proven by
`tests/pki/rotation/test_phases.py`):
  I1  Every server accepts the client certificates that anybody has.
  I2  Every client accepts the server certificates that anybody has.
  I3  What signs is trusted by everyone, before it signs anything.
  I4  The first certificate of the anchor's file belongs to the key beside it.
  I5  A leaf is issued again only where its new issuer is trusted by everyone.
  I6  An anchor is distrusted only where no leaf is left that it has signed.
  I7  In the end the former anchor is trusted nowhere.

The keys of service-account tokens are an anchor, too: a public key is trusted, tokens are what hangs on it, and nobody
issues these again: the former key goes when all have ended that it has signed.
  I8  Every API server accepts every token that is still alive.
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
    """How the anchor changes: while both are trusted; the same key with other dates; at once, with an outage."""

    OVERLAP = "overlap"
    REISSUE = "reissue"
    REPLACE = "replace"


class Phase(StrEnum):
    """How far a rotation is. Each phase is a state of files that is to be reached on every node."""

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
"""Where an abort goes on: the same machine, with what was new as the old."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation: `old` is to be followed by `new`, and `phase` is to be reached `since` then (UTC).

    `found` says that somebody had put the new anchor in place before anything was prepared, so that it signs from the
    start. `aborted` says that old and new were exchanged. `excluded` are nodes that are not waited for, `published`
    is when the phase was first seen to be everywhere: a CA in all namespaces, another key with all who sign tokens.
    `signature` is the former anchor's, over what `rotation_consent` says, as base64; empty where the node is alone.
    `released` is up to which place workers may act in the phase, from 0 to 1 (`rotation_batches`).
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
        """There is nothing more to be reached."""
        return self.phase is Phase.DONE

    @property
    def shared(self) -> bool:
        """Other nodes carry it on, too: it was signed for them."""
        return bool(self.signature)

    @property
    def name(self) -> str:
        """For people."""
        return f"the rotation {self.id} of {self.family}"

    @property
    def noun(self) -> str:
        """What follows what, for people."""
        return "CA" if isinstance(self.new, Certificate) else "public key"


@dataclass(frozen=True, slots=True)
class Desired:
    """What a phase asks of every node's files.

    `trust` are the anchors, in the order of their file: the first belongs to the key beside it. `detached` is what
    kube-controller-manager signs with from files of its own, None where it signs with the anchor's: it refuses a file
    with more than one certificate (pkg/controller/certificates/signer/ca_provider.go, setCA). `leaves` is the anchor
    that every end entity has to chain to, None where that does not matter. `tidy` says that files of the signer's own
    are not to be there.
    """

    trust: tuple[Anchor, ...]
    detached: Anchor | None = None
    leaves: Anchor | None = None
    tidy: bool = False

    @property
    def signing(self) -> Anchor:
        """The one whose key is the anchor's key on control-plane nodes."""
        return self.trust[0]


def sequence(rotation: Rotation) -> tuple[Phase, ...]:
    """The phases of this rotation, in their order."""
    phases = _SEQUENCES[rotation.mode]
    if rotation.family != SIGNER_FAMILY:
        phases = tuple(phase for phase in phases if phase not in {Phase.DETACH, Phase.ATTACH})
    if rotation.found:
        phases = tuple(phase for phase in phases if phase is not Phase.DETACH)
    return phases


def flaw(rotation: Rotation) -> str | None:
    """Why nobody can have begun it, a fact; None where somebody may have. Whoever reads a record has to ask."""
    if not rotation.old:
        return "it says nothing of what is to be followed"
    if len({type(each) for each in (rotation.new, *rotation.old)}) > 1:
        return "it has certificates and public keys, of which only the same kind follows the other"
    if len(rotation.old) > 1 and not rotation.found:
        return "it has several that are to be followed"
    if rotation.phase not in sequence(rotation):
        return f"by {rotation.mode}, a rotation of {rotation.family} has no phase {rotation.phase}"
    return None


def following(rotation: Rotation, now: datetime) -> Rotation:
    """The rotation in its next phase; itself where it is over."""
    phases = sequence(rotation)
    later = phases[phases.index(rotation.phase) + 1 :]
    return replace(rotation, phase=later[0], since=now, published=None, released=0.0) if later else rotation


def desired(rotation: Rotation) -> Desired | None:
    """What the phase asks of a node's files; None where it asks for nothing."""
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
    """The rotation at its beginning. What somebody asks for changes nothing yet; where the new anchor was *found* in
    place, nobody trusts it yet but who reads that file, so that both are trusted first, as soon as possible.
    """
    phases = sequence(rotation)
    return replace(rotation, phase=phases[1] if rotation.found else phases[0])


def forth(identity: str) -> str:
    """The id of the way there, of that or of the way back."""
    return identity.removesuffix(_BACK)


def may_turn_back(rotation: Rotation) -> bool:
    """The phase is one from which a way back leads: the former anchor is distrusted nowhere yet."""
    return rotation.phase in _MIRRORED and not (rotation.mode is Mode.REPLACE and rotation.phase is Phase.ISSUE)


def may_be_aborted(rotation: Rotation) -> bool:
    """Return whether `abort` leads it back to the former anchor."""
    return may_turn_back(rotation) and not (rotation.aborted or rotation.found)


def abort(rotation: Rotation, now: datetime) -> Rotation:
    """The way back: the same machine with old and new exchanged. Raises RotationError where there is none any more."""
    if rotation.over:
        raise RotationError(f"{rotation.name} is over; there is nothing to abort")
    if rotation.aborted:
        raise RotationError(f"{rotation.name} is on its way back already")
    if not may_turn_back(rotation):
        raise RotationError(
            f"{rotation.name} is in the phase {rotation.phase}, from which there is no way back: the former "
            f"{rotation.noun} is distrusted already somewhere; let it go on to its end"
        )
    if rotation.found:
        raise RotationError(
            f"{rotation.name} has begun with a CA that was put in place without one; put the former certificate and "
            "key back yourself, which is a rotation back, or let it go on to its end"
        )
    (old,) = rotation.old
    return replace(
        rotation,
        id=f"{rotation.id}{_BACK}",  # what nodes have said of it on the way there counts no more
        old=(rotation.new,),
        new=old,
        phase=_MIRRORED[rotation.phase],
        since=now,
        aborted=True,
        published=None,
        released=0.0,
    )
