"""Publication of a new CA to Pods through the kube-root-ca.crt ConfigMaps.

This module defines how long Pods need to read the new CA. `cluster.rotation_checks` checks clusters of several nodes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import assert_never

from certmond.immutable_class import immutable
from certmond.pki.catalog.settings import ClusterSpec, RootCaSpec
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation

_BACK = timedelta(seconds=20)
"""Interval at which a kubelet checks its manifests and restarts changed static Pods (fileCheckFrequency,
pkg/kubelet/apis/config/v1beta1/defaults.go).
"""
_LEASE, _RETRY = timedelta(seconds=15), timedelta(seconds=2) * 2.2
"""Time for which the Lease of a stopped leader remains valid, and the longest time between attempts to acquire a Lease
(LeaseDuration and RetryPeriod, component-base/config/v1alpha1/defaults.go; JitterFactor,
client-go/tools/leaderelection).
"""
SYNCED = timedelta(minutes=1) * 1.5
"""Time within which a kubelet updates a ConfigMap in a running Pod (syncFrequency,
pkg/kubelet/apis/config/v1beta1/defaults.go, with workerResyncIntervalJitterFactor 0.5, pkg/kubelet/pod_workers.go).
"""
LEADS = _BACK + _LEASE + _RETRY
"""Time that kube-controller-manager needs after a restart to become the leader and publish a CA."""
TAKES = LEADS + SYNCED


class Answer(Enum):
    """Answer to a request for the objects that publish a CA to Pods, or for the Pods with client certificates."""

    PUBLISHED = auto()  # all objects contain the CAs, or no Pod has a certificate of the old CA
    BEHIND = auto()
    SILENT = auto()  # the API server does not answer; a later request might succeed
    REFUSED = auto()  # the API server refuses the request, or this node cannot send it


@immutable
class Asked:
    """Answer to a request, and a sentence that describes the answer."""

    answer: Answer
    fact: str


def concerns(rotation: Rotation) -> bool:
    """Return whether the present phase of the rotation waits until Pods trust both CAs."""
    return rotation.family == SIGNER_FAMILY and rotation.mode is Mode.OVERLAP and rotation.phase is Phase.TRUST


def gate(rotation: Rotation, held: Gate, asked: Asked, now: datetime, pause: timedelta) -> Gate:
    """Return the gate `held` with the publication of both CAs as an additional condition.

    certmond repeats the request after `pause` until both CAs are published. The gate then notes this time in the
    record. The phase waits only for `root_ca.overlap` if the API server refuses the request, or does not answer within
    `TAKES` after the start of the phase.
    """
    fact = asked.fact
    again = Gate((*held.waits, fact), min(filter(None, (held.until, now + pause))))
    match asked.answer:
        case Answer.PUBLISHED:
            return Gate((f"{fact}; kubelets update running Pods within {_seconds(SYNCED)} s",), now,
                        replace(rotation, published=now))  # fmt: skip
        case Answer.BEHIND:
            return again
        case Answer.SILENT if rotation.since <= now < rotation.since + TAKES:
            return again
        case Answer.SILENT | Answer.REFUSED:
            why = f"certmond cannot read the CA of the Pods, so the phase waits only for `root_ca.overlap`: {fact}"
            return replace(held, waits=(*held.waits, why)) if held.waits else replace(held, message=why)
        case _:
            assert_never(asked.answer)


def searches_certificates(rotation: Rotation) -> bool:
    """Return whether certmond must search for Pods with client certificates that the old CA might have signed."""
    issue = rotation.family == SIGNER_FAMILY and rotation.mode is Mode.OVERLAP and rotation.phase is Phase.ISSUE
    return issue and rotation.published is None


def certificates_gate(rotation: Rotation, held: Gate, asked: Asked, now: datetime) -> Gate:
    """Return the gate `held`, or a gate that notes the time in the record if Pods have certificates of the old CA.

    The certificates are client certificates that the old CA might have signed. If the API server refuses the request or
    does not answer, the phase waits only for `root_ca.overlap`.
    """
    match asked.answer:
        case Answer.PUBLISHED:
            return held
        case Answer.BEHIND:
            return Gate((asked.fact,), now, replace(rotation, published=now))
        case Answer.SILENT | Answer.REFUSED:
            why = (
                "certmond cannot list the Pods with client certificates, so the phase waits only for `root_ca.overlap`"
            )
            return held if held.waits else replace(held, message=f"{why}: {asked.fact}")
        case _:
            assert_never(asked.answer)


def published_gate(rotation: Rotation, held: Gate, now: datetime) -> Gate:
    """Return the gate `held`, extended by a wait until the kubelets have updated running Pods.

    If the record contains no time of the publication, or if `SYNCED` has passed since this time, return `held`
    unchanged.
    """
    since = rotation.published
    if since is None or not since <= now < since + SYNCED:
        return held
    until = since + SYNCED
    fact = f"kube-root-ca.crt contains both CAs, and kubelets update running Pods until {until:%Y-%m-%d %H:%M:%S} UTC"
    return replace(held, waits=(*held.waits, fact), until=max(filter(None, (held.until, until))))


def short_overlap(spec: RootCaSpec, cluster: ClusterSpec) -> str | None:
    """Return a sentence with a remedy if `root_ca.overlap` is too short for Pods, otherwise None.

    Returns None also if certmond checks through the Kubernetes API whether Pods trust the new CA.
    """
    waits = cluster.kubeconfig is not None and cluster.workloads != "ignore"
    if waits or spec.overlap >= TAKES:
        return None
    late = f"Pods might not trust a new CA for up to {_seconds(TAKES)} s"
    fact = f"root_ca.overlap is {_seconds(spec.overlap)} s, but {late}"
    how = f"{_seconds(LEADS)} s until the restarted kube-controller-manager publishes the CA"
    then = f"{_seconds(SYNCED)} s until kubelets update running Pods"
    return f"{fact} ({how}, and {then}); set root_ca.overlap to {_seconds(TAKES)}s or more"


def _seconds(span: timedelta) -> int:
    return -(-span // timedelta(seconds=1))
