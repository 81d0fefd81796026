"""When pods have the CA that a rotation has them trust: what the cluster answers, and how long the rest takes.

Owns the times, each from the sources of Kubernetes, and what follows from an answer for a node by itself. Where several
nodes rotate together, `cluster.inspection` asks more. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import assert_never

from certmond.pki.rotation import SIGNER_FAMILY, Mode, Phase, Rotation
from certmond.pki.rotation_gates import Gate
from certmond.pki.settings import ClusterSpec, RootCaSpec

_BACK = timedelta(seconds=20)
"""A kubelet looks at its manifests again within that time, and so starts a kube-controller-manager whose manifest has
changed: fileCheckFrequency, pkg/kubelet/apis/config/v1beta1/defaults.go."""
_LEASE, _RETRY = timedelta(seconds=15), timedelta(seconds=2) * 2.2
"""The Lease of the leader that has ended lasts for so long (LeaseDuration). Another one tries to take it in each
RetryPeriod, with jitter (component-base/config/v1alpha1/defaults.go; JitterFactor, client-go/tools/leaderelection)."""
SYNCED = timedelta(minutes=1) * 1.5
"""A kubelet exchanges a ConfigMap in a running pod with the pod's next sync: syncFrequency (the same defaults.go), with
jitter: workerResyncIntervalJitterFactor 0.5, pkg/kubelet/pod_workers.go. By default it watches ConfigMaps meanwhile."""
LEADS = _BACK + _LEASE + _RETRY
"""So long after its restart a kube-controller-manager publishes at the latest: before, it does not lead."""
TAKES = LEADS + SYNCED


class Answer(Enum):
    """What came of asking for the ConfigMaps kube-root-ca.crt."""

    PUBLISHED = auto()
    BEHIND = auto()
    SILENT = auto()  # nobody answers now: asking later may help
    REFUSED = auto()  # by the API, or because it cannot be asked from here


@dataclass(frozen=True, slots=True)
class Asked:
    """The answer, and the sentence about it."""

    answer: Answer
    fact: str


def concerns(rotation: Rotation) -> bool:
    """Return whether the phase may be left only when pods trust what it has nodes trust."""
    return rotation.family == SIGNER_FAMILY and rotation.mode is Mode.OVERLAP and rotation.phase is Phase.TRUST


def gate(rotation: Rotation, held: Gate, asked: Asked, now: datetime, pause: timedelta) -> Gate:
    """Return `held`, the gate of a node by itself, with what pods were given. It is asked again after `pause`.

    Where it cannot be asked, the overlap alone counts, and the gate says so. An API server that does not answer may be
    the one that is restarted, and gets the time that a publication takes.
    """
    fact = asked.fact
    again = Gate((*held.waits, fact), min(filter(None, (held.until, now + pause))))
    match asked.answer:
        case Answer.PUBLISHED:
            return Gate((f"{fact}; kubelets give it to running pods within {_seconds(SYNCED)} s",), now,
                        replace(rotation, published=now))  # fmt: skip
        case Answer.BEHIND:
            return again
        case Answer.SILENT if rotation.since <= now < rotation.since + TAKES:
            return again
        case Answer.SILENT | Answer.REFUSED:
            said = f"what pods were given cannot be asked, so that `root_ca.overlap` alone counts: {fact}"
            return replace(held, waits=(*held.waits, said)) if held.waits else replace(held, told=said)
        case _:
            assert_never(asked.answer)


def published_gate(rotation: Rotation, held: Gate, now: datetime) -> Gate:
    """Return `held` with the time that kubelets need, in a rotation whose CAs were seen to be published."""
    since = rotation.published
    if since is None or not since <= now < since + SYNCED:
        return held
    until = since + SYNCED
    said = f"kube-root-ca.crt has both CAs, and kubelets give it to running pods until {until:%Y-%m-%d %H:%M:%S} UTC"
    return replace(held, waits=(*held.waits, said), until=max(filter(None, (held.until, until))))


def short_overlap(spec: RootCaSpec, cluster: ClusterSpec) -> str | None:
    """Return why the overlap may be too short for pods, as a sentence with its remedy; None where it is not, or where a
    phase waits for them anyway.
    """
    waits = cluster.kubeconfig is not None and cluster.workloads != "ignore"
    if waits or spec.overlap >= TAKES:
        return None
    fact = (
        f"root_ca.overlap is {_seconds(spec.overlap)} s, and pods may have a new CA only {_seconds(TAKES)} s after it"
    )
    how = f"kube-controller-manager publishes it within {_seconds(LEADS)} s of its restart, when it leads again, and"
    return (
        f"{fact} is trusted: {how} kubelets give it to running pods within {_seconds(SYNCED)} s; "
        f"set it to {_seconds(TAKES)}s or more"
    )


def _seconds(span: timedelta) -> int:
    return -(-span // timedelta(seconds=1))
