"""First aid where somebody has replaced a trust anchor, and no rotation may begin: the node trusts the former one, too.

Owns when that may be done, what it asks of the anchor's files, and what follows when the former pair was put back. It
is the first step of the rotation that would follow on a node by itself, and that step alone. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from certmond.pki.certificate import Anchor, certificates_of
from certmond.pki.rotation import Mode, Phase, Rotation, begin, desired, following, sequence
from certmond.pki.rotation_found import Change, put_back
from certmond.pki.rotation_steps import Ground, hindrance, of_anchor, told
from certmond.pki.steps import Rotate


def aid_of(change: Change, ground: Ground, known: Sequence[Anchor], now: datetime, identity: str) -> Rotation | str:
    """Return the rotation of which the first step is the aid; or why there is none, a sentence. The former anchors are
    those that the node has lived by, as it remembers them in `known`, and that are valid `now`.
    """
    former = tuple(
        each for each in certificates_of(known) if each in change.old and each.not_before <= now <= each.not_after
    )
    if not former:
        return "no former CA is trusted beside it, as none that this node remembers is valid now"
    made = begin(Rotation(identity, change.family, Mode.OVERLAP, former, change.new, Phase.PREPARE, now, found=True))
    return hindrance(made, ground) or made


def carried_on(
    aid: Rotation, ground: Ground, *, lives_by_former: bool, settled: bool, now: datetime
) -> Rotation | None:
    """Return the aid as it goes on: itself where nothing has happened, and None where it is over.

    Its end begins where the former key is back, or where a person has taken the former anchor out and nothing on the
    node `lives_by_former`. Then the signer goes back to the anchor's files, and its own go when that is `settled`.
    """
    if aid.phase is not Phase.TRUST:
        return aid if not settled else None if aid.over else following(aid, now)
    last = sequence(aid)[-2]
    if back := put_back(aid, ground, now):
        return replace(back, phase=last)
    taken_out = not lives_by_former and ground.trust == (aid.new,) and ground.key == aid.new.key
    return replace(aid, phase=last, since=now) if taken_out else aid


def step_of(aid: Rotation, ground: Ground) -> Rotate | None:
    """Return what the anchor's files lack of the aid; None where they lack nothing, or are not to be touched. The key
    beside the anchor is never written.
    """
    wanted = desired(aid)
    if wanted is None or ground.key != wanted.signing.key or hindrance(aid, ground):
        return None
    wants = tuple(of_anchor(wanted, ground))
    detail = f"first aid for {aid.family}: {told(aid, wants)}"
    return Rotate(aid.family, ground.path, detail, wants, known=(*aid.old, aid.new)) if wants else None


def untrusted_signer(ground: Ground) -> str | None:
    """Return that the controller-manager signs with a CA which the anchor's file does not hold, with the remedy; None
    where it signs with the anchor's own files, or with a CA that is trusted.
    """
    signer = ground.signer
    if signer is None or signer.now != signer.apart or not signer.holds or signer.holds[0] in ground.trust:
        return None
    certificate, key = signer.files
    fact = f"{signer.container} signs with {certificate}, {signer.holds[0].called}, which {ground.path} does not hold"
    return (
        f"{fact}: no client of this node accepts what it signs; let {signer.manifest} name {signer.shared[0]} and "
        f"{signer.shared[1]}, and remove {certificate} and {key}"
    )


def is_reached(aid: Rotation, ground: Ground) -> bool:
    """Return whether the anchor's files are as the aid asks."""
    wanted = desired(aid)
    as_wanted = wanted is not None and (ground.trust, ground.key) == (wanted.trust, wanted.signing.key)
    return as_wanted and step_of(aid, ground) is None and not hindrance(aid, ground)
