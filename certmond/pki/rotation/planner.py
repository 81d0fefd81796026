"""Planner of one node in a phase of a rotation: missing steps, and the conditions that keep the phase open.

Owns the comparison of an observed node with `phases.desired`. A node that has neither the old nor the desired state is
*frozen*: another program changes the same files, and certmond touches no file. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import assert_never

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Embedded
from certmond.pki.planning.steps import Bundle, Flags, Gone, Identity, KeyOf, Plan, Rotate, Trusting, Want
from certmond.pki.rotation.awaited_leaves import is_awaited
from certmond.pki.rotation.phases import Desired, Mode, Phase, Rotation, desired
from certmond.pki.services.model import Live
from certmond.pki.services.staleness import Surroundings, files_of
from certmond.pki.x509.certificate import Anchor, Certificate, certificates_of
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import PublicKey

SIGNING_FLAGS = ("cluster-signing-cert-file", "cluster-signing-key-file")
"""Flags that select the signer of kube-controller-manager
(cmd/kube-controller-manager/app/options/csrsigningcontroller.go).
"""


@dataclass(frozen=True, slots=True)
class Signer:
    """The controller-manager of this node, and the files with which it signs.

    `now`, `shared` and `apart` are values of its two flags: those in its manifest, those with the anchor's files, and
    those with separate files, which are `files` on the host. `holds` and `key` are the contents of these files, and
    `present` those that exist. `problem` is why the signer cannot be moved.
    """

    manifest: str
    container: str
    now: tuple[str, str]
    shared: tuple[str, str]
    apart: tuple[str, str]
    files: tuple[str, str]
    holds: tuple[Anchor, ...] = ()
    key: PublicKey | None = None
    present: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """State of a family on a node: the anchor's file and key (`key_unknown`: the public half of the key is unknown).

    With `signs`, the node has a key for it, so that it should also have the present one. `left` are separate files of a
    signer without a manifest that could use them.
    """

    family: str
    path: str
    key_path: str | None
    trust: tuple[Anchor, ...] = ()
    key: PublicKey | None = None
    key_unknown: bool = False
    signer: Signer | None = None
    signs: bool = False
    left: tuple[str, ...] = ()

    @property
    def holds_key(self) -> bool:
        """Whether the node has the key: it is a control-plane node."""
        return self.key is not None or self.key_unknown


@dataclass(frozen=True, slots=True)
class Lacks:
    """Missing steps of a node for its phase: files first, then certificates to issue again, by identity.

    `unawaited` are the kubeconfigs for which the phase does not wait, because a user other than root can keep certmond
    from writing them. If the node is `frozen`, that is the reason, and there are no steps.
    """

    steps: tuple[Rotate, ...] = ()
    reissue: frozenset[Identity] = field(default_factory=frozenset)
    frozen: str | None = None
    unawaited: frozenset[str] = field(default_factory=frozenset)


def lacks(rotation: Rotation, ground: Ground, assessment: Assessment) -> Lacks:
    """Return the missing steps of this node in the phase."""
    wanted = desired(rotation)
    if why := standstill(rotation, ground) or (wanted and _failed(rotation, ground, assessment)):
        return Lacks(frozen=why)
    if wanted is None:
        return Lacks()
    if given_up(rotation, ground):
        theirs = tuple(_of_kubeconfigs(rotation, wanted, assessment, only=frozenset(certificates_of(rotation.old))))
        reissue = frozenset(status.seen.identity for status in of_former(rotation, assessment))
        return Lacks(theirs, reissue, unawaited=_of_others(assessment))
    anchor = tuple(of_anchor(wanted, ground))
    known = (*rotation.old, rotation.new)
    steps = [Rotate(rotation.family, ground.path, told(rotation, anchor), anchor, known=known)] if anchor else []
    steps += _of_kubeconfigs(rotation, wanted, assessment)
    former = () if anchor or wanted.leaves is None else of_former(rotation, assessment)
    reissue = frozenset(status.seen.identity for status in former)
    return Lacks(tuple(steps), reissue, unawaited=_of_others(assessment))


def _of_others(assessment: Assessment) -> frozenset[str]:
    """Return the kubeconfigs that a user other than root can change."""
    return frozenset(each.path for status in assessment.statuses for each in status.seen.embedded if each.others)


def standstill(rotation: Rotation, ground: Ground) -> str | None:
    """Return why the node is frozen, as a sentence, or None."""
    why = None if given_up(rotation, ground) else hindrance(rotation, ground)
    return f"{rotation.name} stands still: {why}" if why else None


def hindrance(rotation: Rotation, ground: Ground) -> str | None:
    """Return why this node could not execute the rotation, as a sentence with its remedy, or None."""
    return next(_strange(rotation, ground), None)


def given_up(rotation: Rotation, ground: Ground) -> bool:
    """Return whether the rotation was aborted and has ended, and the node's anchor has no part of the abandoned CA.

    Other faults then do not belong to this rotation, and do not keep it open.
    """
    abandoned, signer = {*rotation.old} - {rotation.new}, ground.signer
    if not (rotation.aborted and rotation.over) or not abandoned.isdisjoint(ground.trust):
        return False
    if ground.key in {each.key for each in abandoned} - {rotation.new.key}:
        return False
    return not ground.left if signer is None else signer.now != signer.apart and not signer.present


def is_as_before(rotation: Rotation, ground: Ground) -> bool:
    """Return whether the node has exactly the old state, as far as known: all components trust its signing anchor."""
    before = (rotation.new,) if given_up(rotation, ground) else rotation.old if rotation.phase is Phase.PREPARE else ()
    return bool(before) and ground.trust == before and ground.key in {None, before[0].key}


def _failed(rotation: Rotation, ground: Ground, assessment: Assessment) -> str | None:
    """Return why a service failed with the files of the phase, or None. Another write would stop it again.

    An aborted rotation ignores failures from before the abort.
    """
    if given_up(rotation, ground):
        return None
    failed = (status.presence for status in concerned(rotation.family, assessment))
    if rotation.aborted:
        failed = (each for each in failed if each.failed_at and each.failed_at > rotation.since)
    failures = (why for each in failed for why in each.failures)
    return next((f"{rotation.name} stands still: {why}; see restart_failed" for why in failures), None)


def concerned(family: str, assessment: Assessment) -> Iterator[CertificateStatus]:
    """Yield the anchor, the certificates that it signs, and the files that trust it."""
    for status in assessment.statuses:
        spec = status.seen.spec
        if spec.name == family or family in spec.ca or spec.embedded_ca == family:
            yield status


def unsettled(
    rotation: Rotation, ground: Ground, assessment: Assessment, around: Surroundings, plan: Plan
) -> Iterator[str]:
    """Yield a sentence for each condition that keeps the phase from being reached on this node.

    `plan` has the reasons for held steps. `settles_at` returns when time settles the rest.
    """
    left, held = lacks(rotation, ground, assessment), {each.target: each.because for each in plan.held}
    if left.frozen:
        yield left.frozen
        return
    for step in (each for each in left.steps if each.path not in left.unawaited):
        yield f"{step.detail} ({held[step.target]})" if step.target in held else step.detail
    statuses = list(concerned(rotation.family, assessment))
    reissued = (each for each in statuses if each.seen.identity in left.reissue)
    for status in (each for each in reissued if is_awaited(rotation, each, assessment)):
        why = f" ({held[status.seen.name]})" if status.seen.name in held else ""
        yield f"{status.seen.path} is still of the former CA{why}"
    yield from (each.because for each in plan.held if each.target == rotation.family and not left.steps)
    if given_up(rotation, ground):
        return
    if around.live is None:
        yield from _unknown(rotation, around)
        return
    running = {service.name: around.live.services.get(service.name) for service in around.services}
    if wanted := desired(rotation):
        differing = (each for status in statuses for each in _differing(rotation, wanted, status))
        for embedded in (each for each in differing if each.file and not each.others):
            yield f"{embedded.path} trusts what is in {embedded.file}, which is not {_named(rotation, wanted.trust)}"
    for status in statuses:
        for stale in status.presence.stale:
            yield f"{stale.detail} ({held[stale.service]})" if stale.service in held else stale.detail
        users = [use for use in status.presence.consumers if (seen := running.get(use.service)) and seen.running]
        if users and not status.presence.judged:
            yield f"{', '.join(use.service for use in users)} was not looked at since {status.seen.path} changed"
    yield from dict.fromkeys(_unseen(statuses, around.live))
    yield from (f"the restart of {name} is not over" for name, past in around.past.items() if past.episode)
    yield from signs_otherwise(ground, around)
    if ground.left and wanted and wanted.detached is None:
        fact = f"{' and '.join(ground.left)} would stay behind, as no manifest here has a controller-manager that signs"
        yield f"{fact}; put its manifest back, or take the files away if there is to be none"


def unattainable(rotation: Rotation, around: Surroundings) -> str | None:
    """Return why a phase of the rotation is never reached below another root, or None.

    A phase ends only after no running service has an older file, which certmond cannot observe below another root. The
    mode `replace` does not wait for that.
    """
    if not around.elsewhere or not around.services or rotation.mode is Mode.REPLACE:
        return None
    names = [service.name for service in around.services]
    listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"below another root nothing runs, so that it cannot be seen which files are used by {listed}"


def _unknown(rotation: Rotation, around: Surroundings) -> Iterator[str]:
    if not around.elsewhere:
        yield "nothing is known yet of what runs here"
    elif why := unattainable(rotation, around):
        yield why


def _unseen(statuses: Sequence[CertificateStatus], live: Live) -> Iterator[str]:
    """Yield services whose state is unknown, so that they may have the older file in memory."""
    for use in (use for status in statuses for use in status.presence.consumers):
        seen = live.services.get(use.service)
        if seen and seen.running is None and seen.problem and not seen.absent:
            yield f"what {use.service} holds cannot be told: {seen.problem}"


def settles_at(rotation: Rotation, assessment: Assessment, around: Surroundings, met: datetime) -> datetime:
    """Return when services that reload files have had the time to do so, as far as the files are watched.

    Ignores instants in the future, which are from before the clock was set back. `met` is when this process first
    observed the node in this phase, and applies if all instants are in the future.
    """
    paths = {path for status in concerned(rotation.family, assessment) for path in files_of(status.seen)}
    since = [content.since for path, content in around.contents.items() if path in paths]
    if not since:
        return min(rotation.since, met)
    past = (at for at in (*since, rotation.since) if at <= assessment.taken_at)
    return max(past, default=met) + around.reload_within


def _strange(rotation: Rotation, ground: Ground) -> Iterator[str]:
    """Yield the reasons for which the node has neither the old nor the new state."""
    known = {*rotation.old, rotation.new}
    if not ground.trust:
        yield f"{ground.path} holds no {rotation.noun}; put back what it held"
    for anchor in ground.trust:
        if anchor not in known:
            fact = f"{ground.path} holds {_by_digest(anchor)}, which is neither the former nor the new {rotation.noun}"
            pair = "put back the certificate and the key of one of these two, both files"
            third = rotation.found and anchor == ground.trust[0]
            yield f"{fact}; {pair if third else 'take it out, or put back what it held'}"
    if ground.signs and not ground.holds_key:
        yield f"{ground.key_path} is not there, on a node that signs; put the {rotation.noun}'s key back"
    if ground.key_unknown and ground.key is None:
        yield f"{ground.key_path} cannot be read as a key; put the right key there without a passphrase"
    elif ground.key and ground.key not in {each.key for each in known}:
        fact = f"{ground.key_path} is the key of neither the former nor the new {rotation.noun}"
        yield f"{fact}; put back the key of {ground.path}"
    if ground.signer and ground.signer.problem:
        yield ground.signer.problem
    if ground.signer:
        yield from _not_ours(ground.signer, known)


def _not_ours(signer: Signer, known: set[Anchor]) -> Iterator[str]:
    """Yield files of another program in place of the signer's separate files. Writing there would destroy its key."""
    certificate, key = signer.files
    ours = {certificate: bool(signer.holds) and {*signer.holds} <= known, key: signer.key in {a.key for a in known}}
    for path in (each for each in signer.present if not ours[each]):
        first = f"let {signer.container} sign with {signer.shared[0]}, and " if signer.now == signer.apart else ""
        fact = f"{path} is of neither the former nor the new CA, and would be replaced"
        yield f"{fact}; {first}keep it under another name"


def _by_digest(anchor: Anchor) -> str:
    """Return a text that distinguishes anchors with the same name."""
    name = anchor.subject if isinstance(anchor, Certificate) else f"a public key, {anchor}"
    return f"{name} (SHA-256 {anchor.sha256[:16]}…)"


def of_anchor(wanted: Desired, ground: Ground) -> Iterator[Want]:
    """Return what the anchor's own files and the signer's lack: keys before certificates, files before who is told."""
    signer = ground.signer
    if signer and wanted.detached:
        if signer.holds != (wanted.detached,) or signer.key != wanted.detached.key:
            yield KeyOf(signer.files[1], wanted.detached)
            yield Bundle(signer.files[0], (wanted.detached,))
        if signer.now != signer.apart:
            yield Flags(signer.manifest, signer.container, tuple(zip(SIGNING_FLAGS, signer.apart, strict=True)))
    elif signer and signer.now != signer.shared:
        yield Flags(signer.manifest, signer.container, tuple(zip(SIGNING_FLAGS, signer.shared, strict=True)))
    elif signer and wanted.tidy:
        yield from map(Gone, signer.present)
    if ground.holds_key and ground.key_path and ground.key != wanted.signing.key:
        yield KeyOf(ground.key_path, wanted.signing)
    if ground.trust != wanted.trust:
        yield Bundle(ground.path, wanted.trust)


def _of_kubeconfigs(
    rotation: Rotation, wanted: Desired, assessment: Assessment, only: frozenset[Certificate] = frozenset()
) -> Iterator[Rotate]:
    """Yield the changes to kubeconfigs, compared as sets without order. With `only`, those that trust one of these."""
    found = dict[str, str]()
    for status in assessment.statuses:
        for embedded in _differing(rotation, wanted, status):
            if embedded.file is None and not (only and only.isdisjoint(embedded.certificates)):
                found.setdefault(embedded.path, status.seen.name)
    for path, name in found.items():
        ours = frozenset(certificates_of((*rotation.old, rotation.new)))
        trusting = (Trusting(path, certificates_of(wanted.trust), ours),)
        yield Rotate(name, path, told(rotation, trusting), trusting)


def _differing(rotation: Rotation, wanted: Desired, status: CertificateStatus) -> Iterator[Embedded]:
    for embedded in status.seen.embedded if status.seen.spec.embedded_ca == rotation.family else ():
        if frozenset(embedded.certificates) != frozenset(wanted.trust):
            yield embedded


def of_former(rotation: Rotation, assessment: Assessment) -> Iterator[CertificateStatus]:
    """Yield the end entities that the old anchor has signed and the new one has not, whatever the node trusts."""
    for status in assessment.certificates:
        certificate, spec = status.certificate, status.seen.spec
        if certificate is None or status.stale or spec.authority or rotation.family not in spec.ca:
            continue
        if status.seen.name != spec.name or spec.kind is Kind.BUNDLE:
            continue
        rest = status.seen.certificates[1:]
        if find_paths(certificate, certificates_of((rotation.new,)), rest, status.usages).paths:
            continue
        if find_paths(certificate, certificates_of(rotation.old), rest, status.usages).paths:
            yield status


def signs_otherwise(ground: Ground, around: Surroundings) -> Iterator[str]:
    """Return how the controller-manager runs otherwise than with its manifest's flags: it was not restarted yet."""
    signer = ground.signer
    if signer is None or around.live is None:
        return
    for service in around.services:
        seen = around.live.services.get(service.name)
        if service.pod == signer.container and seen and seen.running:
            given = (_given(seen.command, flag) for flag in SIGNING_FLAGS)
            if any(value not in {None, wanted} for value, wanted in zip(given, signer.now, strict=True)):
                yield f"{service.name} does not run with the signer that {signer.manifest} names yet"
        elif service.pod == signer.container and seen and seen.running is False:
            yield f"{service.name} does not run"


def _given(command: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag, as components parse it: `--flag=value` or `--flag value`, `_` for `-`."""
    found = None
    for word, following in pairwise((*command, "")):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == f"--{flag}":
            found = value if equals else following
    return found


def told(rotation: Rotation, wants: tuple[Want, ...]) -> str:
    """Return for people what is to become of these files."""
    said = list[str]()
    for want in wants:
        match want:
            case Bundle():
                said.append(f"{want.path} is to hold {_named(rotation, want.anchors)}")
            case KeyOf():
                said.append(f"{want.path} is to be the key of {_named(rotation, (want.anchor,))}")
            case Trusting():
                said.append(f"{want.path} is to trust {_named(rotation, want.certificates)}")
            case Flags():
                said.append(f"{want.container} is to sign with {want.flags[0][1]}")
            case Gone():
                said.append(f"{want.path} is to go")
            case _:
                assert_never(want)
    return "; ".join(said)


def _named(rotation: Rotation, anchors: tuple[Anchor, ...]) -> str:
    """Return names of the anchors by their role in this rotation, because all may have the same subject."""
    what = rotation.noun
    former, later = (
        (f"the abandoned {what}", f"the {what} of before")
        if rotation.aborted
        else (f"the former {what}", f"the new {what}")
    )
    names: Mapping[Anchor, str] = dict.fromkeys(rotation.old, former) | {rotation.new: later}
    return " and ".join(names.get(each, each.called) for each in anchors)
