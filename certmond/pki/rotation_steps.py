"""What a node lacks of what a phase of a rotation asks, as steps; and what keeps the phase from being reached there.

Owns the comparison of one node, as it was seen, with `pki.rotation.desired`. A node that is neither as it was before
nor as it should be is *frozen*: somebody else changes the same files, and nothing is touched. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import assert_never

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import Kind
from certmond.pki.certificate import Anchor, Certificate, PublicKey, certificates_of
from certmond.pki.holding import Surroundings, files_of
from certmond.pki.inventory import Embedded
from certmond.pki.path import find_paths
from certmond.pki.rotation import Desired, Mode, Phase, Rotation, desired
from certmond.pki.rotation_leaves import is_awaited
from certmond.pki.service import Live
from certmond.pki.steps import Bundle, Flags, Gone, Identity, KeyOf, Plan, Rotate, Trusting, Want

SIGNING_FLAGS = ("cluster-signing-cert-file", "cluster-signing-key-file")
"""What tells kube-controller-manager its signer (cmd/kube-controller-manager/app/options/csrsigningcontroller.go)."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The controller-manager of this node, and what it signs with.

    `now`, `shared` and `apart` are values of its two flags: those in its manifest, those that name the anchor's files,
    and those that name files of its own, which the host has as `files`. `holds` and `key` are what is in these;
    `present` are those that are there at all. `problem` says why it cannot be moved.
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
    """What a node shows of a family: the anchor's file and key (`key_unknown`: one is there that cannot be told).
    `signs` says that a key for it is kept on the node, so that it should have the present one, too. `left` are files of
    a signer's own, where no manifest has one that they could be for.
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
        """It is a node that signs: a control plane."""
        return self.key is not None or self.key_unknown


@dataclass(frozen=True, slots=True)
class Lacks:
    """What is to be done on a node for its phase: files first, then certificates to be issued again, by identity.

    `unawaited` are the kubeconfigs that the phase does not wait for, as another user than root can keep certmond from
    writing them. Where it is `frozen`, the sentence says why, and there is nothing else.
    """

    steps: tuple[Rotate, ...] = ()
    reissue: frozenset[Identity] = field(default_factory=frozenset)
    frozen: str | None = None
    unawaited: frozenset[str] = field(default_factory=frozenset)


def lacks(rotation: Rotation, ground: Ground, assessment: Assessment) -> Lacks:
    """What this node lacks of the phase."""
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
    """The kubeconfigs that another user than root can change."""
    return frozenset(each.path for status in assessment.statuses for each in status.seen.embedded if each.others)


def standstill(rotation: Rotation, ground: Ground) -> str | None:
    """Why nothing is touched on this node, a sentence; None where it is as the rotation has left it."""
    why = None if given_up(rotation, ground) else hindrance(rotation, ground)
    return f"{rotation.name} stands still: {why}" if why else None


def hindrance(rotation: Rotation, ground: Ground) -> str | None:
    """Why this node could not carry it through, a sentence with its remedy; None where it could."""
    return next(_strange(rotation, ground), None)


def given_up(rotation: Rotation, ground: Ground) -> bool:
    """It was led back to its end, and the node's anchor has nothing of the abandoned CA: whatever else is there is not
    of this rotation, which is no reason to keep it.
    """
    abandoned, signer = {*rotation.old} - {rotation.new}, ground.signer
    if not (rotation.aborted and rotation.over) or not abandoned.isdisjoint(ground.trust):
        return False
    if ground.key in {each.key for each in abandoned} - {rotation.new.key}:
        return False
    return not ground.left if signer is None else signer.now != signer.apart and not signer.present


def is_as_before(rotation: Rotation, ground: Ground) -> bool:
    """Nothing was changed by it, or nothing is any more, and by nobody else: what the node signs with is trusted by
    all, as far as can be told.
    """
    before = (rotation.new,) if given_up(rotation, ground) else rotation.old if rotation.phase is Phase.PREPARE else ()
    return bool(before) and ground.trust == before and ground.key in {None, before[0].key}


def _failed(rotation: Rotation, ground: Ground, assessment: Assessment) -> str | None:
    """A service did not come up with what the phase asks for: to write the same again would bring it down again. What
    went wrong on the way there is what the way back leads out of.
    """
    if given_up(rotation, ground):
        return None
    failed = (status.presence for status in concerned(rotation.family, assessment))
    if rotation.aborted:
        failed = (each for each in failed if each.failed_at and each.failed_at > rotation.since)
    failures = (why for each in failed for why in each.failures)
    return next((f"{rotation.name} stands still: {why}; see restart_failed" for why in failures), None)


def concerned(family: str, assessment: Assessment) -> Iterator[CertificateStatus]:
    """The anchor itself, all that it signs, and all that trusts it."""
    for status in assessment.statuses:
        spec = status.seen.spec
        if spec.name == family or family in spec.ca or spec.embedded_ca == family:
            yield status


def unsettled(
    rotation: Rotation, ground: Ground, assessment: Assessment, around: Surroundings, plan: Plan
) -> Iterator[str]:
    """What keeps the phase from being reached on this node, a sentence each; none where it is reached. `plan` says why
    what is lacking is not done at once.

    Time alone may settle the rest: `settles_at` says when.
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
    """Return why a phase of the rotation is never reached below another root; None where it can be reached.

    A service that holds an older file ends each phase but those of a rotation at once, and is never seen there.
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
    """Those that should be seen, and are not: what they hold nobody knows, so that it may be the older one."""
    for use in (use for status in statuses for use in status.presence.consumers):
        seen = live.services.get(use.service)
        if seen and seen.running is None and seen.problem and not seen.absent:
            yield f"what {use.service} holds cannot be told: {seen.problem}"


def settles_at(rotation: Rotation, assessment: Assessment, around: Surroundings, met: datetime) -> datetime:
    """Return when those that read files again by themselves have had the time to do so, as far as files are watched.

    An instant in the future was noted before a clock was set back, and does not count. Where all are, `met` does: when
    this process has first seen the node in this phase, by the clock as it is now.
    """
    paths = {path for status in concerned(rotation.family, assessment) for path in files_of(status.seen)}
    since = [content.since for path, content in around.contents.items() if path in paths]
    if not since:
        return min(rotation.since, met)
    past = (at for at in (*since, rotation.since) if at <= assessment.taken_at)
    return max(past, default=met) + around.reload_within


def _strange(rotation: Rotation, ground: Ground) -> Iterator[str]:
    """What is on the node that is neither of before nor of after."""
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
    """Files where the signer's own go that somebody else has put there: to write there would destroy their key."""
    certificate, key = signer.files
    ours = {certificate: bool(signer.holds) and {*signer.holds} <= known, key: signer.key in {a.key for a in known}}
    for path in (each for each in signer.present if not ours[each]):
        first = f"let {signer.container} sign with {signer.shared[0]}, and " if signer.now == signer.apart else ""
        fact = f"{path} is of neither the former nor the new CA, and would be replaced"
        yield f"{fact}; {first}keep it under another name"


def _by_digest(anchor: Anchor) -> str:
    """Which one it is, where all of them have the same name."""
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
    """As sets: in which order a kubeconfig trusts does not matter. With `only`, those that trust one of these."""
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
    """The end entities that the former anchor has signed, and the new one has not, whatever the node trusts now."""
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
    """The value of a flag as components take it: `--flag=value` or `--flag value`, `_` for `-`, and the last counts."""
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
    """By what they are to this rotation: all of them may well have the same subject."""
    what = rotation.noun
    former, later = (
        (f"the abandoned {what}", f"the {what} of before")
        if rotation.aborted
        else (f"the former {what}", f"the new {what}")
    )
    names: Mapping[Anchor, str] = dict.fromkeys(rotation.old, former) | {rotation.new: later}
    return " and ".join(names.get(each, each.called) for each in anchors)
