"""Preview of the remaining phases of a rotation on one node.

The preview of a phase starts from the state in which the previous phase would leave the node. `expected_downtime`
estimates the downtime of services.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.rotation.awaited_leaves import denial
from certmond.pki.rotation.phases import Desired, Phase, Rotation, desired, sequence
from certmond.pki.rotation.planner import family_statuses, missing_steps, old_ca_leaves
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.services.staleness import files_of


@immutable
class Preview:
    """Preview of one phase: the changes to files, and the services that certmond then restarts.

    `because` maps each service to a changed file that makes the restart necessary.
    """

    phase: Phase
    steps: tuple[str, ...]
    restarts: tuple[str, ...]
    because: Mapping[str, str] = field(default_factory=dict, compare=False)


def preview(rotation: Rotation, ground: Ground, assessment: Assessment, order: Sequence[str]) -> tuple[Preview, ...]:
    """Return the previews of the present and the later phases.

    `order` contains the services in restart order. If the node would be frozen in a phase, the preview of this phase is
    the last one.
    """
    phases, found = sequence(rotation), list[Preview]()
    trust_before = ground.trust
    for phase in phases[phases.index(rotation.phase) :]:
        here = replace(rotation, phase=phase)
        left, wanted = missing_steps(here, ground, assessment), desired(here)
        if left.frozen:
            return (*found, Preview(phase, (left.frozen,), ()))
        steps = [step.detail for step in left.steps if step.target == rotation.family]
        touched = _rewritten(ground, wanted)
        if wanted and frozenset(wanted.trust) != frozenset(trust_before):
            for status in family_statuses(rotation.family, assessment):
                for embedded in status.seen.embedded if status.seen.spec.embedded_ca == rotation.family else ():
                    if embedded.file is None:
                        steps.append(f"{embedded.path} will trust the same CAs")
                    touched.add(embedded.path)
        if wanted and wanted.leaves and phase is Phase.ISSUE:
            for status in old_ca_leaves(rotation, assessment):
                if denied := denial(status, assessment):
                    steps.append(
                        f"{status.seen.path} is not issued again: certmond does not sign the "
                        f"certificate with the CA's key: {denied}"
                    )
                    continue
                steps.append(f"{status.seen.path} is issued again by the new CA")
                touched.update(files_of(status.seen))
        restarts = dict(_restarted(touched, assessment))
        if ground.signer and any("sign with" in step for step in steps):
            restarts.setdefault(ground.signer.container, ground.signer.manifest)
        names = tuple(name for name in order if name in restarts)
        found.append(Preview(phase, tuple(dict.fromkeys(steps)), names, restarts))
        if wanted:
            trust_before, ground = wanted.trust, _after(ground, wanted)
    return tuple(found)


def _rewritten(ground: Ground, wanted: Desired | None) -> set[str]:
    """Return the paths of the anchor's files that the phase changes. A mere change of order does not count."""
    found = set[str]()
    if wanted and frozenset(wanted.trust) != frozenset(ground.trust):
        found.add(ground.path)
    if wanted and ground.holds_key and ground.key_path and ground.key != wanted.signing.key:
        found.add(ground.key_path)
    return found


def _restarted(touched: set[str], assessment: Assessment) -> Iterator[tuple[str, str]]:
    """Yield each service that does not reload a changed file, with the path of this file."""
    for status in assessment.statuses:
        for each in status.presence.consumers if status.seen.name == status.seen.spec.name else ():
            changed = [path for path in each.files if path in touched]
            if changed and (status.seen.embedded or not each.reloads):
                yield each.service, changed[0]


def _after(ground: Ground, wanted: Desired) -> Ground:
    """Return the state of the node after the changes that the phase requires."""
    signer = ground.signer
    if signer and wanted.detached:
        signer = replace(
            signer, now=signer.apart, holds=(wanted.detached,), key=wanted.detached.key, present=signer.files
        )
    elif signer:
        signer = replace(signer, now=signer.shared)
    return replace(ground, trust=wanted.trust, key=wanted.signing.key if ground.holds_key else None, signer=signer)
