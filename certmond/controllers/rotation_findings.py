"""Findings about a rotation in progress on this node, and the CAs with which certmond must not sign."""

from __future__ import annotations

from collections.abc import Sequence

from certmond.pki.assessment.rule_input import finding
from certmond.pki.catalog.observation import Inventory
from certmond.pki.findings import Finding, Reason
from certmond.pki.rotation.phases import Phase, Rotation
from certmond.pki.rotation.replaced_ca_detection import is_refused
from certmond.pki.rotation.trust_anchor_state import Ground, freeze_reason, has_old_state, is_abandoned

EXPLANATION = "see: certmond explain rotation_frozen"


def findings_of(
    rotation: Rotation, ground: Ground, back: Rotation | None, waits: Sequence[str], inventory: Inventory
) -> tuple[dict[str, tuple[Finding, ...]], dict[str, str]]:
    """Return the findings about `rotation`, and the reasons for which certmond must not sign with a CA.

    The keys of both mappings are names of CA entries. `back` is the rotation that replaces `rotation`, or None. `waits`
    contains the conditions for which the phase waits.
    """
    unsure = dict[str, str]()
    if frozen := freeze_reason(rotation, ground):
        message = f"{frozen}; {EXPLANATION}"
        unsure = {} if has_old_state(rotation, ground) else {rotation.family: message}
        if back and back.new in ground.trust:
            message = f"{ground.path} was replaced again, by {back.new.called}; certmond rotates to that CA now"
            return {rotation.family: (finding(Reason.ROOT_CA_CHANGED, message),)}, unsure
        return {rotation.family: (finding(Reason.ROTATION_FROZEN, frozen),)}, unsure
    if is_abandoned(rotation, ground) and not has_old_state(rotation, ground):
        unsure = {
            rotation.family: f"{ground.path} and its key are not the pair that the abort of {rotation.name} restores; "
            "restore both files"
        }
    if (rotation.found and rotation.phase is Phase.TRUST) or back:
        fact = f"{rotation.name} has not reached the phase {Phase.ISSUE} yet"
        unsure = {rotation.family: f"{fact}; to see what the rotation waits for, run: certmond status"}
    waiting = f"; it waits: {waits[0]}" if waits else ""
    if len(waits) > 1:
        waiting += f" (and {len(waits) - 1} more)"
    message = (
        f"{rotation.name} has been in the phase {rotation.phase} since {rotation.since:%Y-%m-%d %H:%M} UTC{waiting}"
    )
    if is_refused(rotation, ground, inventory):
        fact = f"{ground.path} was replaced by another CA, and components reject certificates of the old CA"
        message = f"{fact} until certmond has replaced the files of this node: {message}"
        return {rotation.family: (finding(Reason.ROOT_CA_CHANGED, message),)}, unsure
    return {rotation.family: (finding(Reason.ROTATION_UNDER_WAY, message),)}, unsure
