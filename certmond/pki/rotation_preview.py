"""What a rotation would do on a node from its first phase to its last, before anything is begun.

Owns the forecast: the same comparison as `pki.rotation_steps` makes, phase after phase, each on the node as the one
before would have left it. Pure; it promises nothing of how long a phase takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from certmond.pki.assess import Assessment
from certmond.pki.holding import files_of
from certmond.pki.rotation import Desired, Phase, Rotation, desired, sequence
from certmond.pki.rotation_leaves import denial
from certmond.pki.rotation_steps import Ground, concerned, lacks, of_former


@dataclass(frozen=True, slots=True)
class Preview:
    """One phase: a sentence for each change of files, and the services that are restarted for them."""

    phase: Phase
    steps: tuple[str, ...]
    restarts: tuple[str, ...]


def preview(rotation: Rotation, ground: Ground, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
    """The phases from the present one on, up to one in which the node would stand still, which says why. `order` has
    the services in the order of their restarts.
    """
    phases, found = sequence(rotation), list[Preview]()
    trust_before = ground.trust
    for phase in phases[phases.index(rotation.phase) :]:
        here = replace(rotation, phase=phase)
        left, wanted = lacks(here, ground, assessment), desired(here)
        if left.frozen:
            return (*found, Preview(phase, (left.frozen,), ()))
        steps = [step.detail for step in left.steps if step.target == rotation.family]
        touched = _rewritten(ground, wanted)
        if wanted and frozenset(wanted.trust) != frozenset(trust_before):
            for status in concerned(rotation.family, assessment):
                for embedded in status.seen.embedded if status.seen.spec.embedded_ca == rotation.family else ():
                    if embedded.file is None:
                        steps.append(f"{embedded.path} is to trust the same")
                    touched.add(embedded.path)
        if wanted and wanted.leaves and phase is Phase.ISSUE:
            for status in of_former(rotation, assessment):
                if denied := denial(status, assessment):
                    steps.append(f"{status.seen.path} is not issued anew: the CA's key does not sign it: {denied}")
                    continue
                steps.append(f"{status.seen.path} is issued anew from the new CA")
                touched.update(files_of(status.seen))
        moved = ground.signer and any("sign with" in step for step in steps)
        restarts = [*_restarted(touched, assessment), *([ground.signer.container] if moved and ground.signer else [])]
        found.append(Preview(phase, tuple(dict.fromkeys(steps)), tuple(name for name in order if name in restarts)))
        if wanted:
            trust_before, ground = wanted.trust, _after(ground, wanted)
    return tuple(found)


def _rewritten(ground: Ground, wanted: Desired | None) -> set[str]:
    """The anchor's own files that are other ones for who reads them: a set of anchors, or another key."""
    found = set[str]()
    if wanted and frozenset(wanted.trust) != frozenset(ground.trust):
        found.add(ground.path)
    if wanted and ground.holds_key and ground.key_path and ground.key != wanted.signing.key:
        found.add(ground.key_path)
    return found


def _restarted(touched: set[str], assessment: Assessment) -> Iterator[str]:
    for status in assessment.statuses:
        for each in status.presence.consumers if status.seen.name == status.seen.spec.name else ():
            if not touched.isdisjoint(each.files) and (status.seen.embedded or not each.reloads):
                yield each.service


def _after(ground: Ground, wanted: Desired) -> Ground:
    """The node with the files that the phase asks for."""
    signer = ground.signer
    if signer and wanted.detached:
        signer = replace(
            signer, now=signer.apart, holds=(wanted.detached,), key=wanted.detached.key, present=signer.files
        )
    elif signer:
        signer = replace(signer, now=signer.shared)
    return replace(ground, trust=wanted.trust, key=wanted.signing.key if ground.holds_key else None, signer=signer)
