"""Publication of a new CA to Pods: the state of the kube-root-ca.crt ConfigMaps, and the delays until Pods read them.

Each delay has its source in Kubernetes. The functions are pure, and serve a node that rotates alone. For a cluster of
several nodes, `cluster.rotation_checks` has further checks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import assert_never

from certmond.pki.catalog.settings import ClusterSpec, RootCaSpec
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import SIGNER_FAMILY, Mode, Phase, Rotation

_BACK = timedelta(seconds=20)
"""Interval at which a kubelet checks its manifests and restarts each static Pod with a changed manifest
(fileCheckFrequency, pkg/kubelet/apis/config/v1beta1/defaults.go).
"""
_LEASE, _RETRY = timedelta(seconds=15), timedelta(seconds=2) * 2.2
"""LeaseDuration, and the longest RetryPeriod. The Lease of a stopped leader remains valid for LeaseDuration.
Another candidate tries to acquire the Lease once per RetryPeriod, with jitter
(component-base/config/v1alpha1/defaults.go; JitterFactor, client-go/tools/leaderelection).
"""
SYNCED = timedelta(minutes=1) * 1.5
"""Time within which a kubelet updates a ConfigMap in a running Pod. The kubelet does this when it syncs the Pod, once
per syncFrequency (pkg/kubelet/apis/config/v1beta1/defaults.go), with jitter (workerResyncIntervalJitterFactor 0.5,
pkg/kubelet/pod_workers.go). By default, the kubelet also watches ConfigMaps.
"""
LEADS = _BACK + _LEASE + _RETRY
"""Time that kube-controller-manager needs after its restart to become the leader and publish a CA."""
TAKES = LEADS + SYNCED


class Answer(Enum):
    """Result of the request for the ConfigMaps kube-root-ca.crt."""

    PUBLISHED = auto()
    BEHIND = auto()
    SILENT = auto()  # the API server does not answer; a later request may succeed
    REFUSED = auto()  # the API server refuses the request, or this node cannot send it


@dataclass(frozen=True, slots=True)
class Asked:
    """Result of the request for the ConfigMaps, and a sentence that describes this result."""

    answer: Answer
    fact: str


def concerns(rotation: Rotation) -> bool:
    """Return whether the present phase of the rotation ends only after Pods trust both CAs."""
    return rotation.family == SIGNER_FAMILY and rotation.mode is Mode.OVERLAP and rotation.phase is Phase.TRUST


def gate(rotation: Rotation, held: Gate, asked: Asked, now: datetime, pause: timedelta) -> Gate:
    """Return the gate `held` with a further condition: the publication of both CAs.

    certmond repeats the request after `pause` until both CAs are published. If the API server refuses the request, or
    does not answer for the time `TAKES`, the phase waits only for `root_ca.overlap`, and the gate reports this.
    """
    fact = asked.fact
    again = Gate((*held.waits, fact), min(filter(None, (held.until, now + pause))))
    match asked.answer:
        case Answer.PUBLISHED:
            return Gate((f"{fact}; kubelets update running pods within {_seconds(SYNCED)} s",), now,
                        replace(rotation, published=now))  # fmt: skip
        case Answer.BEHIND:
            return again
        case Answer.SILENT if rotation.since <= now < rotation.since + TAKES:
            return again
        case Answer.SILENT | Answer.REFUSED:
            why = f"certmond cannot read the CA of the pods, so the phase waits for `root_ca.overlap` only: {fact}"
            return replace(held, waits=(*held.waits, why)) if held.waits else replace(held, message=why)
        case _:
            assert_never(asked.answer)


def published_gate(rotation: Rotation, held: Gate, now: datetime) -> Gate:
    """Return the gate `held`. For the time `SYNCED` after the publication of the CAs, add a wait for the kubelets."""
    since = rotation.published
    if since is None or not since <= now < since + SYNCED:
        return held
    until = since + SYNCED
    fact = f"kube-root-ca.crt has both CAs, and kubelets update running pods until {until:%Y-%m-%d %H:%M:%S} UTC"
    return replace(held, waits=(*held.waits, fact), until=max(filter(None, (held.until, until))))


def short_overlap(spec: RootCaSpec, cluster: ClusterSpec) -> str | None:
    """Return why `root_ca.overlap` may be too short for Pods, as a sentence with its remedy, or None.

    None means that the overlap is long enough, or that the configuration `cluster` makes the phase wait for Pods.
    """
    waits = cluster.kubeconfig is not None and cluster.workloads != "ignore"
    if waits or spec.overlap >= TAKES:
        return None
    fact = f"root_ca.overlap is {_seconds(spec.overlap)} s, and pods may trust a new CA up to {_seconds(TAKES)} s late"
    how = f"kube-controller-manager publishes it as the leader, within {_seconds(LEADS)} s of its restart"
    then = f"kubelets update running pods within {_seconds(SYNCED)} s"
    return f"{fact}: {how}, and {then}; set root_ca.overlap to {_seconds(TAKES)}s or more"


def _seconds(span: timedelta) -> int:
    return -(-span // timedelta(seconds=1))
