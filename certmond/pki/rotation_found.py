"""The trust anchor on disk is another one than the node lives by: whether that is so, and which one was before.

Owns the evidence: what the node is known to have lived by, what its kubeconfigs embed, what its leaves are signed with.
A name proves nothing, because every CA of a cluster has the same. Whether the new one is any good is `candidate`'s to
judge. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from certmond.pki.certificate import Anchor, Certificate, certificates_of
from certmond.pki.inventory import Inventory, Observation
from certmond.pki.path import find_paths
from certmond.pki.rotation import Mode, Phase, Rotation, begin, desired
from certmond.pki.rotation_steps import Ground

OF_SEVERAL = "a CA of several nodes is rotated by `certmond root-ca stage` on each of them and `rotate` on one"
"""Why no rotation begins by itself in a cluster."""


@dataclass(frozen=True, slots=True)
class Change:
    """`new` stands where `old` stood, and something on the node is still of the old."""

    family: str
    old: tuple[Certificate, ...]
    new: Certificate
    because: str


def changed(family: str, ground: Ground, known: Sequence[Anchor], inventory: Inventory) -> Change | None:
    """The change of an anchor that was not a rotation of ours; None where there is none, or nothing is left of it.

    `known` are the anchors that the node has lived by, the one that signed first. Where they are not remembered, only
    files count that nobody but root can write: what stands in any other file would be anybody's way to have a CA of
    theirs trusted. The same holds for one that was only trusted beside the one that signed.

    Where the one that signs now is remembered, somebody rotates by hand: nothing is changed as long as the others are
    trusted beside it, and only those count that are not.
    """
    trust = certificates_of(ground.trust)
    if not trust:
        return None  # nothing on a node is evidence of a former key of tokens
    new, evidence, by_hand = trust[0], dict[Certificate, str](), trust[0] in known
    accepted = trust if by_hand else (new,)
    candidates = [each for each in certificates_of(known) if each not in accepted] if known else [*trust[1:]]
    if by_hand and not candidates:
        return None
    counted, sure = frozenset(candidates), frozenset(known[:1] if by_hand else known)
    for seen in (each for each in inventory.observations if each.spec.embedded_ca == family and _is_own(each)):
        rooted = _is_of_root(seen)
        believed = counted if rooted else counted & sure
        for embedded in seen.embedded:
            trusted = [each for each in embedded.certificates if each in believed or (rooted and not known)]
            candidates += trusted
            if new not in embedded.certificates:
                evidence |= dict.fromkeys(trusted, f"{embedded.path} trusts the former one")
    others = [each for each in dict.fromkeys(candidates) if each != new]
    if not others:
        return None  # before ten thousand paths are searched
    for seen in filter(_is_own, inventory.observations):
        believable = others if _is_of_root(seen) else [each for each in others if each in sure]
        for former in _signers(seen, family, accepted, believable):
            evidence.setdefault(former, f"{seen.path} is of the former one")
    evidence.pop(new, None)
    if not evidence:
        return None
    return Change(family, tuple(evidence), new, next(iter(evidence.values())))


def has_signed_all(change: Change, inventory: Inventory) -> bool:
    """Return whether every leaf of the node has a path to the anchor that is in place, and there is one: the former
    anchor is at most trusted here. It is so with a certificate of the former key as well.
    """
    leaves = [
        each for each in filter(_is_own, inventory.observations) if change.family in each.spec.ca and each.certificates
    ]
    paths = (find_paths(each.certificates[0], (change.new,), each.certificates[1:]).paths for each in leaves)
    return bool(leaves) and all(paths)


def overtaken(rotation: Rotation, ground: Ground, inventory: Inventory) -> Change | None:
    """The change from the anchor that `rotation` has found in place to a third one, which somebody has put there with
    its key meanwhile; None where nobody has.

    What has signed nothing is trusted no longer. A controller-manager that signs may have done so for other nodes.
    """
    trust = certificates_of(ground.trust)
    known = certificates_of((rotation.new, *rotation.old))
    if not rotation.found or not trust or trust[0] in known or ground.key != trust[0].key:
        return None
    second, former = known[0], known[1:] if rotation.phase in {Phase.TRUST, Phase.ISSUE} else ()
    leaves = (each for each in filter(_is_own, inventory.observations) if rotation.family in each.spec.ca)
    signed = ground.signer is not None or second in trust or rotation.phase is not Phase.TRUST
    signed = signed or any(
        find_paths(each.certificates[0], (second,), each.certificates[1:]).paths
        for each in leaves if each.certificates
    )  # fmt: skip
    because = f"{rotation.name} was to follow {second.called}"
    return Change(rotation.family, (*former, second) if signed else former, trust[0], because)


def put_back(rotation: Rotation, ground: Ground, now: datetime) -> Rotation | None:
    """The rotation back, where somebody has put the former key in the place of the one that was found there: nobody but
    they had that, so that it cannot go on. None where they have not.
    """
    if not rotation.found:
        return None
    for old in rotation.old:
        theirs = ground.trust == (old,) if old.key == rotation.new.key else ground.key == old.key
        if theirs:
            others = tuple(each for each in (rotation.new, *rotation.old) if each != old)
            identity, back = f"{rotation.id}-back", not rotation.aborted
            return begin(
                replace(rotation, id=identity, old=others, new=old, phase=Phase.PREPARE, since=now, aborted=back)
            )
    return None


def is_refused(rotation: Rotation, ground: Ground, inventory: Inventory) -> bool:
    """Return whether the exchange of an anchor that `rotation` has found in place still keeps clients out.

    The API server takes what the anchor's file holds at once (apiserver/pkg/server/dynamiccertificates), and its
    clients trust what the kubeconfigs embed. Where the former anchor is trusted no longer, each leaf has to follow.
    """
    wanted = desired(rotation) if rotation.found else None
    if wanted is None or rotation.mode is Mode.REISSUE:
        return False
    if rotation.mode is Mode.REPLACE:
        return rotation.phase is Phase.ISSUE
    trust = frozenset(wanted.trust)
    differing = (
        each.file is None and frozenset(each.certificates) != trust
        for seen in inventory.observations if seen.spec.embedded_ca == rotation.family
        for each in seen.embedded
    )  # fmt: skip
    return rotation.phase is Phase.TRUST and (ground.trust != wanted.trust or any(differing))


def _is_own(seen: Observation) -> bool:
    """It is an entry of its own, of no CA."""
    return seen.name == seen.spec.name and not seen.spec.authority


def _is_of_root(seen: Observation) -> bool:
    """Nobody but root can have written it."""
    return all(each.owner.partition(":")[0] in {"root", "0"} and not each.mode & 0o022 for each in seen.permissions)


def _signers(
    seen: Observation, family: str, accepted: Sequence[Certificate], others: Sequence[Certificate]
) -> Iterator[Certificate]:
    """Those of the others that have signed an end entity which none of the accepted has."""
    if family not in seen.spec.ca or not seen.certificates or not others:
        return
    leaf, rest = seen.certificates[0], seen.certificates[1:]
    if find_paths(leaf, accepted, rest).paths:
        return
    yield from (each for each in others if find_paths(leaf, (each,), rest).paths)
