"""Interim trust for a trust anchor that was replaced without a rotation, on a node where no rotation may begin.

During interim trust, the node trusts the old anchor in addition to the new anchor. Interim trust ends after the
operator has restored the old certificate and key, or has removed the old certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from certmond.pki.planning.steps import Rotate
from certmond.pki.rotation.phases import Mode, Phase, Rotation, begin, desired, following, sequence
from certmond.pki.rotation.planner import anchor_changes, describe
from certmond.pki.rotation.replaced_ca_detection import Change, put_back
from certmond.pki.rotation.trust_anchor_state import Ground, obstacle
from certmond.pki.x509.certificate import Anchor, certificates_of


def interim_of(change: Change, ground: Ground, known: Sequence[Anchor], now: datetime, identity: str) -> Rotation | str:
    """Return the rotation whose first step is the interim trust, or a sentence with the reason against this rotation.

    The old anchors of the rotation are the old anchors in `change` that this node has recorded (`known`) and that are
    valid at `now`.
    """
    former = tuple(
        each for each in certificates_of(known) if each in change.old and each.not_before <= now <= each.not_after
    )
    if not former:
        return "this node cannot trust the old CA again: the record of the node contains no old CA that is valid now"
    made = begin(Rotation(identity, change.family, Mode.OVERLAP, former, change.new, Phase.PREPARE, now, found=True))
    return obstacle(made, ground) or made


def advanced(
    interim: Rotation, ground: Ground, *, depends_on_former: bool, settled: bool, now: datetime
) -> Rotation | None:
    """Return the interim trust in its next phase, or None if the interim trust has ended.

    If the phase cannot end, return `interim` unchanged.

    The phase `trust` ends after the operator has restored the old key, or has removed an old anchor on which no file
    depends.
    """
    if interim.phase is not Phase.TRUST:
        return interim if not settled else None if interim.over else following(interim, now)
    last = sequence(interim)[-2]
    if back := put_back(interim, ground, now):
        return replace(back, phase=last)
    removed = not depends_on_former and ground.trust == (interim.new,) and ground.key == interim.new.key
    return replace(interim, phase=last, since=now) if removed else interim


def next_step(interim: Rotation, ground: Ground) -> Rotate | None:
    """Return the step that interim trust still needs, or None if no step is missing.

    Returns None also if the key file does not contain the signing key, or if an obstacle prevents the step. The step
    never writes the key file of the anchor.
    """
    wanted = desired(interim)
    if wanted is None or ground.key != wanted.signing.key or obstacle(interim, ground):
        return None
    wants = tuple(anchor_changes(wanted, ground))
    detail = f"interim trust for {interim.family}: {describe(interim, wants)}"
    return Rotate(interim.family, ground.path, detail, wants, known=(*interim.old, interim.new)) if wants else None


def untrusted_signer(ground: Ground) -> str | None:
    """Return a sentence if kube-controller-manager signs with a CA that this node does not trust, otherwise None."""
    signer = ground.signer
    if signer is None or signer.now != signer.apart or not signer.holds or signer.holds[0] in ground.trust:
        return None
    certificate, key = signer.files
    fact = f"{signer.container} signs with {certificate}, but {ground.path} lacks this CA, {signer.holds[0].called}"
    return (
        f"{fact}: clients of this node reject the certificates of this signer; in {signer.manifest}, set "
        f"--cluster-signing-cert-file to {signer.shared[0]} and --cluster-signing-key-file to {signer.shared[1]}, and "
        f"remove {certificate} and {key}"
    )


def is_reached(interim: Rotation, ground: Ground) -> bool:
    """Return whether the files have the contents of the present phase, and no obstacle prevents interim trust."""
    wanted = desired(interim)
    as_wanted = wanted is not None and (ground.trust, ground.key) == (wanted.trust, wanted.signing.key)
    return as_wanted and next_step(interim, ground) is None and not obstacle(interim, ground)
