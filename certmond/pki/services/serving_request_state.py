"""The CertificateSigningRequests with which the kubelet of this node requests its serving certificate.

This module selects the request for which the kubelet waits, and describes the state of this request. The kubelet waits
15 minutes for the approval. Then the kubelet creates another key and another request, and uses only the certificate of
the last request (kubernetes/kubernetes v1.32, staging/src/k8s.io/client-go/util/certificate/certificate_manager.go,
rotateCerts).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter

from certmond.immutable_class import immutable
from certmond.pki.catalog.duration import format_duration
from certmond.pki.findings import Fault

_MAX_REASON = 300
_MINUTE = timedelta(minutes=1)
_SEE_KUBELET = "see the log of the kubelet: journalctl -u kubelet"


@immutable
class ServingRequest:
    """A CertificateSigningRequest of the kubelet. `conditions` maps the type of each condition to its message."""

    name: str
    created_at: datetime
    conditions: Mapping[str, str]
    issued: bool


@immutable
class RequestState:
    """State of the request for which the kubelet waits: a clause, and the remedy or "" if no remedy is known."""

    fact: str
    remedy: str = ""


NO_REQUEST = RequestState("the cluster has no CertificateSigningRequest of this node", _SEE_KUBELET)
"""State before the kubelet has created a request."""


def request_state(requests: Sequence[ServingRequest], now: datetime) -> RequestState:
    """Return the state of the last request, or `NO_REQUEST` if there is no request.

    For a pending request, the clause contains the age of the oldest pending request.
    """
    if not requests:
        return NO_REQUEST
    last = max(requests, key=attrgetter("created_at", "name"))
    subject, describe = f"the CertificateSigningRequest {last.name}", f"kubectl describe csr {shlex.quote(last.name)}"
    for condition, fact in (("Denied", "was denied"), ("Failed", "has failed")):
        if condition in last.conditions:
            reason = last.conditions[condition][:_MAX_REASON]
            detail = f" ({reason})" if reason else ""
            return RequestState(f"{subject} {fact}{detail}", f"the kubelet retries; find the cause: {describe}")
    if last.issued:
        return RequestState(f"{subject} is approved and signed, but the kubelet has no certificate yet", _SEE_KUBELET)
    if "Approved" in last.conditions:
        age = _age(last.created_at, now)
        fact = f"{subject} was created {age} ago and is approved, but its signer has not signed it"
        return RequestState(fact, "see the log of kube-controller-manager, which signs the certificate")
    pending = [each for each in requests if not each.conditions and not each.issued]
    since = _age(min(each.created_at for each in pending), now)
    fact = f"{subject} has waited for approval for {since}"
    if len(pending) > 1:
        fact = (
            f"{subject} is the last of {len(pending)} requests that wait for approval, and the first "
            f"request has waited for {since}"
        )
    return RequestState(fact, f"run: kubectl certificate approve {shlex.quote(last.name)}")


def unknown_state(error: str) -> RequestState:
    """Return the state after an API error. `error` contains a fact, and sometimes a remedy after a semicolon."""
    fact, _, remedy = error.partition("; ")
    see = "find the request of this node with `kubectl get csr`, then run: kubectl certificate approve NAME"
    return RequestState(
        f"certmond cannot read the CertificateSigningRequest: {fact}",
        f"{see}; to let certmond read the request, {remedy}" if remedy else see,
    )


def with_request(fault: Fault, state: RequestState) -> Fault:
    """Return the fault of a missing serving certificate, extended by the state of the certificate request."""
    return replace(fault, detail=f"{fault.detail}, and {state.fact}", remedy=state.remedy or fault.remedy)


def _age(created_at: datetime, now: datetime) -> str:
    minutes = (now - created_at) // _MINUTE
    return format_duration(minutes * _MINUTE) if minutes > 0 else "less than a minute"
