"""Conditions that keep a phase of a rotation open on one node.

`gates` defines the conditions of the other nodes. `controllers.rotation` advances the phase when no condition is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import Kind
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.awaited_leaves import is_awaited
from certmond.pki.rotation.phases import Mode, Phase, Rotation, desired
from certmond.pki.rotation.planner import anchor_names, differing_kubeconfigs, family_statuses, missing_steps
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS, Ground, is_abandoned
from certmond.pki.services.service_observation import Live
from certmond.pki.services.staleness import Surroundings, files_of

RECONNECT = timedelta(minutes=5)
"""Time for which client-go can use a connection with a client certificate that another file has replaced.

An example is the connection of kube-apiserver to a kubelet, which verifies the certificate again in each request. In
`distrust`, the kubelet would reject these requests (client-go/transport/cert_rotation.go, CertCallbackRefreshDuration).
"""


def open_conditions(
    rotation: Rotation, ground: Ground, assessment: Assessment, around: Surroundings, plan: Plan
) -> Iterator[str]:
    """Yield a sentence for each condition that this node does not meet yet in the present phase of the rotation.

    `plan` contains the reasons for held steps.
    """
    left, held = missing_steps(rotation, ground, assessment), {each.target: each.because for each in plan.held}
    if left.frozen:
        yield left.frozen
        return
    for step in (each for each in left.steps if each.path not in left.unawaited):
        yield f"{step.detail} ({held[step.target]})" if step.target in held else step.detail
    statuses = list(family_statuses(rotation.family, assessment))
    reissued = (each for each in statuses if each.seen.identity in left.reissue)
    for status in (each for each in reissued if is_awaited(rotation, each, assessment)):
        why = f" ({held[status.seen.name]})" if status.seen.name in held else ""
        yield f"{status.seen.path} is still signed by the old CA{why}"
    yield from (each.because for each in plan.held if each.target == rotation.family and not left.steps)
    if is_abandoned(rotation, ground):
        return
    if around.live is None:
        yield from _missing_observation(rotation, around)
        return
    running = {service.name: around.live.services.get(service.name) for service in around.services}
    if wanted := desired(rotation):
        others = (each for status in statuses for each in differing_kubeconfigs(rotation, wanted, status))
        for embedded in (each for each in others if each.file and not each.others):
            names = anchor_names(rotation, wanted.trust)
            yield f"{embedded.path} trusts {embedded.file}, which does not contain {names}"
    for status in statuses:
        for stale in status.presence.stale:
            yield f"{stale.detail} ({held[stale.service]})" if stale.service in held else stale.detail
        users = [use for use in status.presence.consumers if (seen := running.get(use.service)) and seen.running]
        if users and not status.presence.judged:
            names = ", ".join(use.service for use in users)
            yield f"certmond has not observed {names} since {status.seen.path} changed"
    yield from dict.fromkeys(_unobserved_services(statuses, around.live))
    yield from (f"the restart of {name} is in progress" for name, past in around.past.items() if past.episode)
    yield from signer_differences(ground, around)
    if ground.left and wanted and wanted.detached is None:
        files = " and ".join(ground.left)
        fact = f"{files} would remain: no manifest on this node starts a kube-controller-manager that signs"
        yield (
            f"{fact}; restore the manifest of kube-controller-manager, or remove these files if this node needs no "
            "kube-controller-manager"
        )


def unreachable_reason(rotation: Rotation, around: Surroundings) -> str | None:
    """Return why a node below another root (`--root`) never reaches a phase, or None if the node can reach the phase.

    certmond cannot observe services below another root. The mode `replace` does not wait for services.
    """
    if not around.elsewhere or not around.services or rotation.mode is Mode.REPLACE:
        return None
    names = [service.name for service in around.services]
    listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"no service runs below the directory in --root, so certmond cannot observe which files {listed} use"


def _missing_observation(rotation: Rotation, around: Surroundings) -> Iterator[str]:
    if not around.elsewhere:
        yield "certmond has not observed the services of this node yet"
    elif why := unreachable_reason(rotation, around):
        yield why


def _unobserved_services(statuses: Sequence[CertificateStatus], live: Live) -> Iterator[str]:
    """Yield a sentence for each service that certmond cannot observe."""
    for use in (use for status in statuses for use in status.presence.consumers):
        seen = live.services.get(use.service)
        if seen and seen.running is None and seen.problem and not seen.absent:
            yield f"certmond cannot observe which files {use.service} has in memory: {seen.problem}"


def reload_deadline(
    rotation: Rotation, assessment: Assessment, around: Surroundings, met: datetime, overlap: timedelta = timedelta()
) -> datetime:
    """Return the time by which services must have reloaded the changed files of the rotation.

    `met` is the time of the first observation in this phase. The function uses `met` if the clock was set back. If
    certmond has recorded no contents of these files, the function returns a time in the past. After a change of a
    client certificate in `issue`, the time includes `RECONNECT`, but at most `overlap`.
    """
    statuses, now = family_statuses(rotation.family, assessment), assessment.taken_at
    files = {path: _is_client_file(status) for status in statuses for path in files_of(status.seen)}
    since = {path: content.since for path, content in around.contents.items() if path in files}
    if not since:
        return min(rotation.since, met)
    past = (at for at in (*since.values(), rotation.since) if at <= now)
    deadline = max(past, default=met) + around.reload_within
    if rotation.phase is not Phase.ISSUE or rotation.mode is not Mode.OVERLAP:
        return deadline
    issued = (at for path, at in since.items() if files[path] and rotation.since <= at <= now)
    return max((deadline, *(at + min(overlap, RECONNECT) for at in issued)))


def _is_client_file(status: CertificateStatus) -> bool:
    """Return whether the certificate is a client certificate in a separate file, which client-go reads again."""
    return status.seen.spec.kind is Kind.FILE and "client auth" in status.usages


def signer_differences(ground: Ground, around: Surroundings) -> Iterator[str]:
    """Yield a sentence if kube-controller-manager does not run, or if its signing flags differ from its manifest."""
    signer = ground.signer
    if signer is None or around.live is None:
        return
    for service in around.services:
        seen = around.live.services.get(service.name)
        if service.pod == signer.container and seen and seen.running:
            given = (_flag_value(seen.command, flag) for flag in SIGNING_FLAGS)
            if any(value not in {None, wanted} for value, wanted in zip(given, signer.now, strict=True)):
                yield f"{service.name} does not run with the signing flags of {signer.manifest} yet"
        elif service.pod == signer.container and seen and seen.running is False:
            yield f"{service.name} does not run"


def _flag_value(command: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag in the command line of a Kubernetes component, or None if the flag is not set."""
    found = None
    for word, following in pairwise((*command, "")):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == f"--{flag}":
            found = value if equals else following
    return found
