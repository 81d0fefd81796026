"""Planner of the steps that one node still needs in the present phase of a rotation.

This module compares the node with `phases.desired`. `phase_conditions` defines the conditions that keep the phase open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import assert_never

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Embedded
from certmond.pki.planning.steps import AbsentFile, Bundle, FileChange, Flags, Identity, KeyOf, Rotate, Trusting
from certmond.pki.rotation.phases import Desired, Rotation, desired
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS, Ground, freeze_reason, is_abandoned
from certmond.pki.x509.certificate import Anchor, Certificate, certificates_of
from certmond.pki.x509.path_building import find_paths


@immutable
class MissingSteps:
    """Steps that a node still needs in a phase: changes to files, then certificates to issue again.

    The phase does not wait for the kubeconfigs in `unawaited`, which a user other than root can change. `frozen` is the
    reason why the node is frozen, or None if the node is not frozen.
    """

    steps: tuple[Rotate, ...] = ()
    reissue: frozenset[Identity] = field(default_factory=frozenset)
    frozen: str | None = None
    unawaited: frozenset[str] = field(default_factory=frozenset)


def missing_steps(rotation: Rotation, ground: Ground, assessment: Assessment) -> MissingSteps:
    """Return the steps that this node still needs in the present phase, or the reason why the node is frozen."""
    wanted = desired(rotation)
    why = freeze_reason(rotation, ground) or (wanted and _service_failure(rotation, ground, assessment))
    if why:
        return MissingSteps(frozen=why)
    if wanted is None:
        return MissingSteps()
    if is_abandoned(rotation, ground):
        changes = tuple(
            _kubeconfig_changes(rotation, wanted, assessment, only=frozenset(certificates_of(rotation.old)))
        )
        reissue = frozenset(status.seen.identity for status in old_ca_leaves(rotation, assessment))
        return MissingSteps(changes, reissue, unawaited=_user_writable(assessment))
    anchor = tuple(anchor_changes(wanted, ground))
    known = (*rotation.old, rotation.new)
    steps = [Rotate(rotation.family, ground.path, describe(rotation, anchor), anchor, known=known)] if anchor else []
    steps += _kubeconfig_changes(rotation, wanted, assessment)
    former = () if anchor or wanted.leaves is None else old_ca_leaves(rotation, assessment)
    reissue = frozenset(status.seen.identity for status in former)
    return MissingSteps(tuple(steps), reissue, unawaited=_user_writable(assessment))


def _user_writable(assessment: Assessment) -> frozenset[str]:
    """Return the kubeconfigs that a user other than root can change."""
    return frozenset(each.path for status in assessment.statuses for each in status.seen.embedded if each.others)


def _service_failure(rotation: Rotation, ground: Ground, assessment: Assessment) -> str | None:
    """Return a sentence if a service failed to start with the files of the phase, otherwise None.

    After such a failure, certmond must not write a file, because the service would fail again.
    """
    if is_abandoned(rotation, ground):
        return None
    failed = (status.presence for status in family_statuses(rotation.family, assessment))
    if rotation.aborted:
        failed = (each for each in failed if each.failed_at and each.failed_at > rotation.since)
    failures = (why for each in failed for why in each.failures)
    return next((f"{rotation.name} is frozen: {why}; see: certmond explain restart_failed" for why in failures), None)


def family_statuses(family: str, assessment: Assessment) -> Iterator[CertificateStatus]:
    """Yield the statuses of the CA entry `family`, of its leaves, and of the files that embed the CA."""
    for status in assessment.statuses:
        spec = status.seen.spec
        if spec.name == family or family in spec.ca or spec.embedded_ca == family:
            yield status


def anchor_changes(wanted: Desired, ground: Ground) -> Iterator[FileChange]:
    """Yield the changes to the files of the anchor and of kube-controller-manager, in execution order.

    A key comes before its certificate, and a file before the flag that names this file.
    """
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
        yield from map(AbsentFile, signer.present)
    if ground.holds_key and ground.key_path and ground.key != wanted.signing.key:
        yield KeyOf(ground.key_path, wanted.signing)
    if ground.trust != wanted.trust:
        yield Bundle(ground.path, wanted.trust)


def _kubeconfig_changes(
    rotation: Rotation, wanted: Desired, assessment: Assessment, only: frozenset[Certificate] = frozenset()
) -> Iterator[Rotate]:
    """Yield a step for each kubeconfig that does not embed exactly the CAs in `wanted`.

    If `only` is not empty, yield only the steps for kubeconfigs that trust a certificate in `only`.
    """
    found = dict[str, str]()
    for status in assessment.statuses:
        for embedded in differing_kubeconfigs(rotation, wanted, status):
            if embedded.file is None and not (only and only.isdisjoint(embedded.certificates)):
                found.setdefault(embedded.path, status.seen.name)
    for path, name in found.items():
        known = frozenset(certificates_of((*rotation.old, rotation.new)))
        trusting = (Trusting(path, certificates_of(wanted.trust), known),)
        yield Rotate(name, path, describe(rotation, trusting), trusting)


def differing_kubeconfigs(rotation: Rotation, wanted: Desired, status: CertificateStatus) -> Iterator[Embedded]:
    """Yield each cluster of a kubeconfig whose CA certificates differ from the anchors in `wanted`.

    Skips a cluster for which the kubeconfig names no CA.
    """
    for embedded in status.seen.embedded if status.seen.spec.embedded_ca == rotation.family else ():
        if not embedded.absent and frozenset(embedded.certificates) != frozenset(wanted.trust):
            yield embedded


def old_ca_leaves(rotation: Rotation, assessment: Assessment) -> Iterator[CertificateStatus]:
    """Yield the leaves that an old anchor of the rotation has signed, but the new anchor has not.

    Skips bundles, and files that certmond cannot read now.
    """
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


def describe(rotation: Rotation, wants: tuple[FileChange, ...]) -> str:
    """Return a text that describes the changes in `wants`, separated by semicolons."""
    texts = list[str]()
    for want in wants:
        match want:
            case Bundle():
                texts.append(f"{want.path} will contain {anchor_names(rotation, want.anchors)}")
            case KeyOf():
                texts.append(f"{want.path} will be the key of {anchor_names(rotation, (want.anchor,))}")
            case Trusting():
                texts.append(f"{want.path} will trust {anchor_names(rotation, want.certificates)}")
            case Flags():
                texts.append(f"{want.container} will sign with {want.flags[0][1]}")
            case AbsentFile():
                texts.append(f"{want.path} will be removed")
            case _:
                assert_never(want)
    return "; ".join(texts)


def anchor_names(rotation: Rotation, anchors: tuple[Anchor, ...]) -> str:
    """Return a text that distinguishes anchors with equal subjects, such as "the old CA and the new CA"."""
    what = rotation.noun
    former, later = (
        (f"the abandoned {what}", f"the original {what}")
        if rotation.aborted
        else (f"the old {what}", f"the new {what}")
    )
    names: Mapping[Anchor, str] = dict.fromkeys(rotation.old, former) | {rotation.new: later}
    return " and ".join(names.get(each, each.called) for each in anchors)
