"""First aid for a trust anchor that was replaced without a rotation, if no rotation may begin.

First aid makes the node also trust the old anchor, like the first step of a rotation. First aid ends after the operator
has restored the old certificate and key, or has removed the old certificate. On a single node, certmond begins a
rotation instead. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from certmond.pki.planning.steps import Rotate
from certmond.pki.rotation.family_state import Ground, obstacle
from certmond.pki.rotation.phases import Mode, Phase, Rotation, begin, desired, following, sequence
from certmond.pki.rotation.planner import anchor_changes, describe
from certmond.pki.rotation.replaced_ca import Change, put_back
from certmond.pki.x509.certificate import Anchor, certificates_of


def aid_of(change: Change, ground: Ground, known: Sequence[Anchor], now: datetime, identity: str) -> Rotation | str:
    """Return the rotation whose first step is the first aid. Return a sentence if this node can have no first aid.

    The old anchors of the rotation are those in `change` that are recorded on this node (`known`) and valid at `now`.
    """
    former = tuple(
        each for each in certificates_of(known) if each in change.old and each.not_before <= now <= each.not_after
    )
    if not former:
        return "this node does not also trust an old CA: its record contains no old CA that is valid now"
    made = begin(Rotation(identity, change.family, Mode.OVERLAP, former, change.new, Phase.PREPARE, now, found=True))
    return obstacle(made, ground) or made


def advanced(
    aid: Rotation, ground: Ground, *, depends_on_former: bool, settled: bool, now: datetime
) -> Rotation | None:
    """Return the first aid in its next phase, unchanged if it must stay in its phase, or None if it has ended.

    The first aid leaves the phase `trust` after the operator has restored the old key. It also leaves this phase after
    the operator has removed the old anchor, if no file depends on this anchor (`depends_on_former` is False). The
    signer then uses the anchor's files again. When this change is `settled`, certmond removes the separate files.
    """
    if aid.phase is not Phase.TRUST:
        return aid if not settled else None if aid.over else following(aid, now)
    last = sequence(aid)[-2]
    if back := put_back(aid, ground, now):
        return replace(back, phase=last)
    removed = not depends_on_former and ground.trust == (aid.new,) and ground.key == aid.new.key
    return replace(aid, phase=last, since=now) if removed else aid


def next_step(aid: Rotation, ground: Ground) -> Rotate | None:
    """Return the step that first aid still needs, or None if the files are correct, or if first aid has an obstacle.

    First aid never writes the anchor's key file. So the step is also None if this file does not have the signing key.
    """
    wanted = desired(aid)
    if wanted is None or ground.key != wanted.signing.key or obstacle(aid, ground):
        return None
    wants = tuple(anchor_changes(wanted, ground))
    detail = f"first aid for {aid.family}: {describe(aid, wants)}"
    return Rotate(aid.family, ground.path, detail, wants, known=(*aid.old, aid.new)) if wants else None


def untrusted_signer(ground: Ground) -> str | None:
    """Return a sentence with the remedy if kube-controller-manager signs with a CA that this node does not trust.

    Return None if this CA is in the anchor's file, or if kube-controller-manager signs with the anchor's files.
    """
    signer = ground.signer
    if signer is None or signer.now != signer.apart or not signer.holds or signer.holds[0] in ground.trust:
        return None
    certificate, key = signer.files
    fact = f"{signer.container} signs with {certificate}, {signer.holds[0].called}, which is not in {ground.path}"
    return (
        f"{fact}: clients of this node refuse the certificates of this signer; in {signer.manifest}, set "
        f"--cluster-signing-cert-file to {signer.shared[0]} and --cluster-signing-key-file to {signer.shared[1]}, and "
        f"remove {certificate} and {key}"
    )


def is_reached(aid: Rotation, ground: Ground) -> bool:
    """Return whether the files have all contents that the present phase requires, and first aid has no obstacle."""
    wanted = desired(aid)
    as_wanted = wanted is not None and (ground.trust, ground.key) == (wanted.trust, wanted.signing.key)
    return as_wanted and next_step(aid, ground) is None and not obstacle(aid, ground)
