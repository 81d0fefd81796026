"""Detection of a trust anchor that was replaced on disk without a rotation.

The evidence is in the recorded anchors, in the kubeconfigs, and in the signatures of the leaves. A name is not
evidence, because the old and the new CA can have the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.rotation.phases import Mode, Phase, Rotation, begin, desired
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.x509.certificate import Anchor, Certificate, certificates_of
from certmond.pki.x509.path_building import find_paths

OF_SEVERAL = (
    "to rotate a CA that several nodes share, run `certmond root-ca stage` on each node, then "
    "`certmond root-ca rotate` on one node"
)
"""Message for a cluster, in which certmond begins no rotation without a command of the operator."""


@immutable
class Change:
    """Replacement of the anchors `old` by the anchor `new` on disk, without a rotation.

    `because` is a clause with the evidence that another file still depends on an old anchor.
    """

    family: str
    old: tuple[Certificate, ...]
    new: Certificate
    because: str


def changed(family: str, ground: Ground, known: Sequence[Anchor], inventory: Inventory) -> Change | None:
    """Return the change if a user replaced an anchor without a rotation, otherwise None.

    `known` contains the recorded anchors of the node, the signing anchor first. Without a record, only files that root
    alone can write are evidence, because a user could otherwise make the node trust a CA.
    """
    trust = certificates_of(ground.trust)
    if not trust:
        return None  # no file on a node is evidence of an old token key
    new, evidence, by_hand = trust[0], dict[Certificate, str](), trust[0] in known
    # If the record contains the present signing anchor, the operator rotates the CA without certmond. An old anchor is
    # then only a recorded anchor that the node no longer trusts.
    accepted = trust if by_hand else (new,)
    candidates = [each for each in certificates_of(known) if each not in accepted] if known else [*trust[1:]]
    if by_hand and not candidates:
        return None
    # A file that another user can write is evidence only of the anchors in `sure`.
    counted, sure = frozenset(candidates), frozenset(known[:1] if by_hand else known)
    for seen in (each for each in inventory.observations if each.spec.embedded_ca == family and _is_own(each)):
        rooted = _is_of_root(seen)
        believed = counted if rooted else counted & sure
        for embedded in seen.embedded:
            trusted = [each for each in embedded.certificates if each in believed or (rooted and not known)]
            candidates += trusted
            if new not in embedded.certificates:
                evidence |= dict.fromkeys(trusted, f"{embedded.path} trusts the old CA")
    others = [each for each in dict.fromkeys(candidates) if each != new]
    if not others:
        return None  # without a search of up to ten thousand paths
    for seen in filter(_is_own, inventory.observations):
        believable = others if _is_of_root(seen) else [each for each in others if each in sure]
        for former in _signers(seen, family, accepted, believable):
            evidence.setdefault(former, f"{seen.path} is signed by the old CA")
    evidence.pop(new, None)
    if not evidence:
        return None
    return Change(family, tuple(evidence), new, next(iter(evidence.values())))


def has_signed_all(change: Change, inventory: Inventory) -> bool:
    """Return whether the node has leaves, and the present anchor has signed all leaves.

    In this case, the node does not need the old anchor.
    """
    leaves = [
        each for each in filter(_is_own, inventory.observations) if change.family in each.spec.ca and each.certificates
    ]
    paths = (find_paths(each.certificates[0], (change.new,), each.certificates[1:]).paths for each in leaves)
    return bool(leaves) and all(paths)


def overtaken(rotation: Rotation, ground: Ground, inventory: Inventory) -> Change | None:
    """Return the change if a third anchor has replaced the anchor that `rotation` found on disk, otherwise None."""
    trust = certificates_of(ground.trust)
    known = certificates_of((rotation.new, *rotation.old))
    if not rotation.found or not trust or trust[0] in known or ground.key != trust[0].key:
        return None
    second, former = known[0], known[1:] if rotation.phase in {Phase.TRUST, Phase.ISSUE} else ()
    leaves = (each for each in filter(_is_own, inventory.observations) if rotation.family in each.spec.ca)
    # kube-controller-manager can have signed certificates of other nodes with this anchor.
    signed = ground.signer is not None or second in trust or rotation.phase is not Phase.TRUST
    signed = signed or any(
        find_paths(each.certificates[0], (second,), each.certificates[1:]).paths
        for each in leaves if each.certificates
    )  # fmt: skip
    because = f"{rotation.name} was a rotation to {second.called}"
    return Change(rotation.family, (*former, second) if signed else former, trust[0], because)


def put_back(rotation: Rotation, ground: Ground, now: datetime) -> Rotation | None:
    """Return the reverse rotation if an operator has restored an old anchor, otherwise None.

    The key file must contain the key of the old anchor. If the new anchor has the same key, the trust file must instead
    contain only the old anchor.
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
    """Return whether the API server or its clients refuse certificates because of the anchor that `rotation` found.

    The API server reloads the file immediately (apiserver/pkg/server/dynamiccertificates). The clients of the API
    server trust the anchors in their kubeconfigs.
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
    """Return whether the observation is for the main certificate of an entry, and the entry is not a CA.

    The observation of any other certificate in the same file has the name of the entry with a suffix, such as `#2`.
    """
    return seen.name == seen.spec.name and not seen.spec.authority


def _is_of_root(seen: Observation) -> bool:
    """Return whether root owns all observed files, and no other user or group can write these files."""
    return all(each.owner.partition(":")[0] in {"root", "0"} and not each.mode & 0o022 for each in seen.permissions)


def _signers(
    seen: Observation, family: str, accepted: Sequence[Certificate], others: Sequence[Certificate]
) -> Iterator[Certificate]:
    """Yield each CA in `others` that has signed the certificate of `seen`.

    Yields no CA if an anchor in `accepted` has also signed the certificate.
    """
    if family not in seen.spec.ca or not seen.certificates or not others:
        return
    leaf, rest = seen.certificates[0], seen.certificates[1:]
    if find_paths(leaf, accepted, rest).paths:
        return
    yield from (each for each in others if find_paths(leaf, (each,), rest).paths)
