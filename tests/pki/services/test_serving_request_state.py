"""The state of the request with which the kubelet requests its serving certificate."""

from __future__ import annotations

from datetime import timedelta

import pytest

from certmond.pki.findings import Fault, Reason
from certmond.pki.services.serving_request_state import (
    RequestState,
    ServingRequest,
    request_state,
    unknown_state,
    with_request,
)
from tests.builders import NOW

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
DESCRIBE = "the kubelet retries; find the cause: kubectl describe csr csr-b"
SEE_KUBELET = "see the log of the kubelet: journalctl -u kubelet"


def request(name: str = "csr-b", age: timedelta = HOUR, *, issued: bool = False, **conditions: str) -> ServingRequest:
    return ServingRequest(name, NOW - age, conditions, issued)


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (3 * HOUR + 12 * MINUTE + timedelta(seconds=59), "3h12m"),
        (MINUTE, "1m"),
        (timedelta(seconds=59), "less than a minute"),
        (-HOUR, "less than a minute"),
    ],
    ids=["hours", "a minute", "seconds", "clock"],
)
def test_a_pending_request_has_its_age_and_the_command(age: timedelta, text: str) -> None:
    """The clause has the age of the pending request in minutes, and the next command approves this request."""
    fact = f"the CertificateSigningRequest csr-b has waited for approval for {text}"
    assert request_state([request(age=age)], NOW) == RequestState(fact, "run: kubectl certificate approve csr-b")


def test_the_last_of_several_pending_requests_is_to_be_approved() -> None:
    """The kubelet uses only the certificate of its last request. The age is that of the oldest pending request."""
    several = [request("csr-b", MINUTE), request("csr-c", 3 * HOUR), request("csr-a", 4 * HOUR, Denied="no")]
    fact = (
        "the CertificateSigningRequest csr-b is the last of 2 requests that wait for approval, and "
        "the first request has waited for 3h"
    )
    for order in (several, several[::-1]):
        assert request_state(order, NOW) == RequestState(fact, "run: kubectl certificate approve csr-b")


@pytest.mark.parametrize(
    ("last", "fact", "remedy"),
    [
        (request(Denied="not now"), "csr-b was denied (not now)", DESCRIBE),
        (request(Denied=""), "csr-b was denied", DESCRIBE),
        (request(Approved="", Failed="bad usages"), "csr-b has failed (bad usages)", DESCRIBE),
        (request(Approved=""), "csr-b was created 1h ago and is approved, but its signer has not signed it",
         "see the log of kube-controller-manager, which signs the certificate"),
        (request(Approved="", issued=True), "csr-b is approved and signed, but the kubelet has no certificate yet",
         SEE_KUBELET),
    ],
    ids=["denied", "denied without a reason", "failed", "not signed", "issued"],
)  # fmt: skip
def test_a_decided_request_has_its_decision(last: ServingRequest, fact: str, remedy: str) -> None:
    """A denied, failed, unsigned or signed request is described as such, although older requests are pending."""
    found = request_state([request("csr-a", 2 * HOUR), last], NOW)
    assert found == RequestState(f"the CertificateSigningRequest {fact}", remedy)


def test_a_node_without_a_request_is_described() -> None:
    """If the kubelet has created no request, the next command shows its log."""
    fact = "the cluster has no CertificateSigningRequest of this node"
    assert request_state([], NOW) == RequestState(fact, SEE_KUBELET)


def test_a_name_is_quoted_for_the_shell_and_a_long_reason_is_cut() -> None:
    """Text of the API can run no other command, and cannot fill the message."""
    assert request_state([request("a; reboot")], NOW).remedy == "run: kubectl certificate approve 'a; reboot'"
    assert len(request_state([request(Denied="x" * 5000)], NOW).fact) < 400


def test_an_error_of_the_api_keeps_the_command_of_the_operator() -> None:
    """If certmond cannot read the requests, the message has the cause, and the remedy of the cause if there is one."""
    see = "find the request of this node with `kubectl get csr`, then run: kubectl certificate approve NAME"
    assert unknown_state("no answer") == RequestState(
        "certmond cannot read the CertificateSigningRequest: no answer", see
    )
    found = unknown_state("the user may not list them; grant a role; really")
    assert found.fact == "certmond cannot read the CertificateSigningRequest: the user may not list them"
    assert found.remedy == f"{see}; to let certmond read the request, grant a role; really"


def test_the_fault_gets_the_state_of_the_request() -> None:
    """The finding about the missing certificate names the state of its request and the next command."""
    fault = Fault(Reason.MISSING, "it does not exist", "look")
    assert with_request(fault, RequestState("a request waits", "run")) == Fault(
        Reason.MISSING, "it does not exist, and a request waits", "run"
    )
