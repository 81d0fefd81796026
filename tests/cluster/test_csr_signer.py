"""The signer of the Kubernetes API: it files requests, which another user or certmond approves, by the rules of the
API.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from certmond.cluster.csr_signer import CsrSigner
from certmond.errors import RefusedError, SigningError, UnknownUserError, UnreachableError, WaitingError
from certmond.formats.private_key import key_pem, make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import BACKDATE, Template
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.signers.protocol import Request
from tests.builders import NOW, make_ca, make_leaf
from tests.cluster.api_server import CSRS, ApiServer, Fault
from tests.cluster.conftest import Limits
from tests.deadline import DEADLINE

NODE = "CN=system:node:node-1,O=system:nodes"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
API_CLIENT = "kubernetes.io/kube-apiserver-client"
DNS, IP = x509.DNSName("node-1"), x509.IPAddress(ip_address("10.0.0.5"))


def template(
    usage: str = "client auth",
    subject: str = NODE,
    names: tuple[x509.GeneralName, ...] = (),
    key: KeyAlgorithm = KeyAlgorithm.ECDSA_P256,
    days: float = 365,
) -> Template:
    usages = {"digital signature"} | ({"key encipherment"} if key.value.startswith("RSA") else set())
    return Template(
        subject=x509.Name.from_rfc4514_string(subject),
        not_before=NOW - BACKDATE,
        not_after=NOW + timedelta(days=days),
        key=key,
        usages=frozenset(usages),
        extended_usages=(usage,),
        names=names,
    )


def request(made: Template | None = None, **changes: Any) -> Request:
    made = made or template()
    return replace(Request("kubelet-client", Grant(made), make_key(made.key), "node-1"), **changes)


SERVING = template("server auth", names=(DNS, IP))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as server:
        yield server


def signer(api: ApiServer, *, approve: bool = False, seconds: float = DEADLINE) -> CsrSigner:
    return CsrSigner(api.kubeconfig, time_limit=timedelta(seconds=seconds), approve=approve)


def waits(signer: CsrSigner, asked: Request) -> WaitingError:
    with pytest.raises(WaitingError) as raised:
        signer.sign(asked)
    return raised.value


def facts(pem: bytes) -> Certificate:
    (made,) = decode(pem, "it").certificates
    return made


# --- filing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "signer_name", "usages"),
    [
        (template(), KUBELET_CLIENT, ["digital signature", "client auth"]),
        (template(key=KeyAlgorithm.RSA_2048), KUBELET_CLIENT, ["digital signature", "key encipherment", "client auth"]),
        (SERVING, KUBELET_SERVING, ["digital signature", "server auth"]),
        (template(subject="CN=scheduler"), API_CLIENT, ["digital signature", "client auth"]),
        (template(subject="CN=system:node:node-1,O=other"), API_CLIENT, ["digital signature", "client auth"]),
        (replace(template(), usages=frozenset({"digital signature", "crl sign"})), KUBELET_CLIENT,
         ["digital signature", "client auth"]),
    ],
)  # fmt: skip
def test_what_is_filed_is_what_its_signer_permits(
    api: ApiServer, made: Template, signer_name: str, usages: list[str]
) -> None:
    """Subject and usages choose Kubernetes' signer, the usages are those that it permits, and it issues."""
    api.approves = {signer_name}
    asked = request(made)
    cookie = waits(signer(api), asked).cookie
    spec = api.only["spec"]
    assert (spec["signerName"], spec["usages"], spec["expirationSeconds"]) == (signer_name, usages, 365 * 86400)
    issued = signer(api).sign(replace(asked, cookie=cookie))
    assert facts(issued.pem).subject == made.subject.rfc4514_string()
    assert issued.key is None


@pytest.mark.parametrize(
    "made",
    [
        template("server auth", "CN=kube-apiserver", (DNS,)),
        template("server auth"),  # a kubelet's, without a name
        template(names=(DNS,)),  # its client certificate, with a name
        template("code signing"),
        replace(template(), extended_usages=()),
        replace(template(), extended_usages=("client auth", "server auth")),
    ],
)
def test_an_unsupported_request_is_refused(api: ApiServer, made: Template) -> None:
    """A request that none of Kubernetes' signers would sign is refused before it is filed."""
    with pytest.raises(
        RefusedError, match="kubelet-client is neither by its subject, usages and subject alternative names"
    ):
        signer(api).sign(request(made))
    assert not api.calls


@pytest.mark.parametrize(("days", "seconds"), [(0.001, 600), (1, 86400), (36500, (1 << 31) - 1)])
def test_the_lifetime_is_within_the_limits_of_the_api(api: ApiServer, days: float, seconds: int) -> None:
    """The request has the template's lifetime, at least the API's ten minutes and at most its maximum."""
    waits(signer(api), request(template(days=days)))
    assert api.only["spec"]["expirationSeconds"] == seconds


@pytest.mark.parametrize(
    ("node", "name"), [("node-1", "kubelet-client"), ("Node_7.Example.com", "my.Entry_"), ("n" * 253, "x" * 63)]
)
def test_the_name_is_a_dns_name_and_has_its_origin(api: ApiServer, node: str, name: str) -> None:
    """The object is called certmond-<node>-<entry>-<hash>, by DNS-1123, the same for the same request."""
    asked = request(node_name=node, name=name)
    waits(signer(api), asked)
    made = api.only["metadata"]["name"]
    assert re.fullmatch(r"certmond-[a-z0-9]([-a-z0-9]*[a-z0-9])?-[0-9a-f]{10}", made)
    assert len(made) <= 253
    assert made.startswith(f"certmond-{node[:4].lower()}")


def test_the_private_key_stays_here(api: ApiServer) -> None:
    """The API gets the request. No part of the key is in it, in the cookie or in an error."""
    asked = request()
    secret = key_pem(asked.key).decode().splitlines()[1]
    waiting = waits(signer(api), asked)
    filed = base64.b64decode(api.only["spec"]["request"]).decode()
    assert x509.load_pem_x509_csr(filed.encode()).public_key() == asked.key.public_key()
    assert secret not in filed + waiting.cookie + str(waiting) + repr(asked)


# --- until it is decided ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_pending_request_waits_longer_and_longer(api: ApiServer) -> None:
    """While the request is pending, each poll comes later than the one before, at most five minutes apart. The request
    is filed once.
    """
    asked = request()
    waiting = waits(signer(api), asked)
    seconds = [waiting.seconds]
    for _ in range(11):
        waiting = waits(signer(api), replace(asked, cookie=waiting.cookie))
        seconds.append(waiting.seconds)
    assert seconds[:4] == [2, 4, 8, 16]
    assert seconds[-1] == 300
    assert all(before <= after for before, after in pairwise(seconds))
    assert api.calls.count("POST /") == 1
    name = api.only["metadata"]["name"]
    asks = f"the request {name} (signer {KUBELET_CLIENT}, usages client auth, digital signature)"
    assert str(waiting) == f"{asks} waits for approval; run: kubectl certificate approve {name}"


def test_an_issued_certificate_must_have_the_key(api: ApiServer) -> None:
    """An issued certificate is accepted without the text around it, if it has the request's key."""
    asked = request()
    cookie = waits(signer(api), asked).cookie
    api.decide("Approved")
    issued = signer(api).sign(replace(asked, cookie=cookie))
    assert issued.pem.startswith(b"-----BEGIN CERTIFICATE-----")
    assert facts(issued.pem).has_usage("client auth")
    assert x509.load_pem_x509_certificate(issued.pem).public_key() == asked.key.public_key()


@pytest.mark.parametrize("content", [make_leaf(make_ca()).pem, b"no certificate"])
def test_a_certificate_of_another_key_is_refused(api: ApiServer, content: bytes) -> None:
    """A certificate with another key, or no certificate, is refused, and the error names the signer."""
    asked = request()
    cookie = waits(signer(api), asked).cookie
    api.only["status"]["certificate"] = base64.b64encode(content).decode()
    with pytest.raises(
        RefusedError,
        match=f"a certificate with another public key for .*; check the program that signs for {KUBELET_CLIENT}",
    ):
        signer(api).sign(replace(asked, cookie=cookie))


def test_an_approved_request_without_a_signature_is_reported(api: ApiServer) -> None:
    """An approved request that no controller signs waits, and the message names its signer."""
    api.signs = False
    asked = request()
    cookie = waits(signer(api), asked).cookie
    api.decide("Approved")
    assert "is approved, but kubernetes.io/kube-api" in str(waits(signer(api), replace(asked, cookie=cookie)))


@pytest.mark.parametrize("kind", ["Denied", "Failed"])
def test_a_verdict_has_its_message(api: ApiServer, kind: str) -> None:
    """A request that was denied, or that its signer failed, is refused with the message of the approver."""
    asked = request()
    cookie = waits(signer(api), asked).cookie
    api.signs = False
    api.decide(kind, "not on\x1b my watch")
    expected = (
        rf"has the condition {kind} \(not on\\x1b my watch\); to request kubelet-client again, run: kubectl delete csr"
    )
    with pytest.raises(RefusedError, match=expected):
        signer(api).sign(replace(asked, cookie=cookie))


def test_a_request_that_was_cleaned_up_is_filed_again(api: ApiServer) -> None:
    """Kubernetes removes old requests: certmond files a removed request again, and waits from the start."""
    asked = request()
    waiting = waits(signer(api), replace(asked, cookie=waits(signer(api), asked).cookie))
    api.objects.clear()
    again = waits(signer(api), replace(asked, cookie=waiting.cookie))
    assert again.cookie != waiting.cookie
    assert (waiting.seconds, again.seconds) == (4, 2)
    assert api.only


def test_a_request_of_another_key_is_left(api: ApiServer) -> None:
    """With a cookie of another request, as after the key was made again, certmond files this one beside it."""
    cookie = waits(signer(api), request()).cookie
    waits(signer(api), request(cookie=cookie))
    assert len(api.objects) == 2
    waits(signer(api), request(cookie="nothing of mine"))
    assert len(api.objects) == 3


def test_the_same_request_is_filed_once(api: ApiServer) -> None:
    """Without the cookie, as after a crash, the existing request is used, with its result."""
    asked = request()
    waits(signer(api), asked)
    waits(signer(api), asked)
    assert api.calls.count("POST /") == 2
    api.decide("Approved")
    assert signer(api).sign(asked).pem


def of_version_2(asked: Request) -> bytes:
    """The request, saying that it is of a version that there is not (RFC 2986, section 4.1: 0 is version 1)."""
    der = base64.b64decode(b"".join(asked.pem().splitlines()[1:-1])).replace(b"\x02\x01\x00", b"\x02\x01\x01", 1)
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(usages=["client auth"]),
        lambda spec: spec.update(signerName=API_CLIENT),
        lambda spec: spec.update(request=base64.b64encode(request().pem()).decode()),
        lambda spec: spec.update(request=base64.b64encode(b"no request").decode()),
        lambda spec: spec.update(request=base64.b64encode(of_version_2(request())).decode()),
    ],
)
def test_another_content_under_the_name_is_refused(api: ApiServer, change: Any) -> None:
    """An object of the name with another content is not used, and never approved."""
    asked = request()
    waits(signer(api), asked)
    change(api.only["spec"])
    with pytest.raises(
        RefusedError, match="other content; find the client that created it, then run: kubectl delete csr"
    ):
        signer(api, approve=True).sign(asked)
    assert "conditions" not in api.only["status"]


def test_a_request_that_vanishes_is_filed_later(api: ApiServer) -> None:
    """A name that was in use and is free a moment later is an error: the next pass files the request again."""
    asked = request()
    waits(signer(api), asked)
    api.before = lambda method, path: api.objects.clear() if method == "GET" else None
    with pytest.raises(UnreachableError, match=r"another client has deleted the .*; certmond files it again"):
        signer(api).sign(asked)


# --- approval ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [template(), SERVING, template("server auth", names=(DNS,))])
def test_the_identity_of_the_node_is_approved(api: ApiServer, made: Template) -> None:
    """With the option, certmond approves a request for exactly this node's identity, and the condition names
    certmond.
    """
    asked = request(made)
    cookie = waits(signer(api, approve=True), asked).cookie
    (condition,) = api.only["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("Approved", "CertmondApproved")
    assert condition["message"] == "certmond on node-1 renews its own kubelet-client"
    assert signer(api, approve=True).sign(replace(asked, cookie=cookie)).pem


def test_an_approved_request_is_not_approved_again(api: ApiServer) -> None:
    """An approved request is only read."""
    api.signs = False
    asked = request(SERVING)
    cookie = waits(signer(api, approve=True), asked).cookie
    api.calls.clear()
    waits(signer(api, approve=True), replace(asked, cookie=cookie))
    assert api.calls == [f"GET /{api.only['metadata']['name']}"]


def test_nothing_is_approved_unless_configured(api: ApiServer) -> None:
    """Without `approve` nothing is approved."""
    waits(signer(api), request())
    assert "conditions" not in api.only["status"]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (template(subject="CN=scheduler"), "kubernetes.io/kube-apiserver-client"),
        (template(subject="CN=system:node:node-2,O=system:nodes"), "O=system:nodes is not the subject of this node"),
        (template(subject="CN=system:node:node-1,O=system:nodes,OU=x"), "OU=x is not the subject of this node"),
        (replace(SERVING, names=(x509.DNSName("node-2"),)), "node-2 is not a name of this node in the cluster"),
        (replace(SERVING, names=(DNS, x509.DNSName("node-1.example"))), "node-1.example is not a name of this node"),
        (replace(SERVING, names=(x509.IPAddress(ip_address("10.0.0.6")),)), "10.0.0.6 is not a name of this node"),
        (replace(SERVING, names=(DNS, x509.RFC822Name("a@node-1"))), "a@node-1 is not a name of this node"),
    ],
)
def test_no_other_identity_is_approved(api: ApiServer, made: Template, reason: str) -> None:
    """Another subject, another name, or an address that the cluster does not know this Node by is left to people."""
    waiting = waits(signer(api, approve=True), request(made))
    assert re.search(f"waits for approval; certmond does not approve it, because .*{re.escape(reason)}", str(waiting))
    assert "conditions" not in api.only["status"]


def test_an_address_of_a_node_that_is_not_there_is_not_approved(api: ApiServer) -> None:
    """Without a Node in the cluster, or with other kinds of addresses, no address is this node's."""
    api.nodes["node-1"] = {"addresses": [{"type": "Hostname", "address": "10.0.0.5"}]}
    assert "10.0.0.5 is not a name" in str(waits(signer(api, approve=True), request(SERVING)))
    api.nodes.clear()
    assert "10.0.0.5 is not a name" in str(waits(signer(api, approve=True), request(SERVING)))


def test_a_conflict_is_tried_again(api: ApiServer) -> None:
    """If the object changed since the read (409), it is read again and then approved."""
    turns = iter(range(2))
    api.before = lambda method, path: api.touch() if method == "PUT" and next(turns, None) is not None else None
    waits(signer(api, approve=True), request())
    assert [call.partition(" ")[0] for call in api.calls] == ["POST", "GET", "PUT", "GET", "PUT", "GET", "PUT"]
    assert api.only["status"]["conditions"][0]["type"] == "Approved"


def test_endless_conflicts_are_for_later(api: ApiServer) -> None:
    """An object that changes all the time is approved another time."""
    api.before = lambda method, path: api.touch() if method == "PUT" else None
    with pytest.raises(UnreachableError, match="too often for certmond to approve it; certmond tries again later"):
        signer(api, approve=True).sign(request())


def test_a_concurrent_denial_stays(api: ApiServer) -> None:
    """A request that was denied while certmond was about to approve it stays denied."""
    api.before = lambda method, path: api.decide("Denied", "no") if method == "GET" else None
    with pytest.raises(RefusedError, match=r"has the condition Denied \(no\)"):
        signer(api, approve=True).sign(request())
    assert not [call for call in api.calls if call.startswith("PUT")]


@pytest.mark.parametrize("gone", [True, False])
def test_only_the_request_that_was_read_is_approved(api: ApiServer, gone: bool) -> None:
    """An object that is deleted, or another one under the same name, is not approved."""

    def swap(method: str, path: str) -> None:
        if method == "GET" and gone:
            api.objects.clear()
        elif method == "GET":
            api.only["metadata"]["uid"] = "another"

    api.before = swap
    waits(signer(api, approve=True), request())
    assert all("conditions" not in made["status"] for made in api.objects.values())


# --- when the API does not do it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "approve", "made", "rule"),
    [
        ("POST", False, template(), "may not create .*resources [certificatesigningrequests], verbs [create]"),
        ("GET /certmond", False, template(), "may not read .*resources [certificatesigningrequests], verbs [get]"),
        (
            "PUT",
            True,
            template(),
            "may not approve .*/approval], verbs [update], and .*resources [signers], resourceNames",
        ),
        (
            "GET /api/v1/nodes",
            True,
            SERVING,
            "may not read the Node .*apiGroups [''], resources [nodes], verbs [get]",
        ),
    ],
)
def test_a_missing_right_is_reported_with_the_rule(
    api: ApiServer, call: str, approve: bool, made: Template, rule: str
) -> None:
    """A forbidden call (403) is refused with the rule that its cluster role lacks."""
    asked = request(made)
    if call.startswith("GET /certmond"):
        asked = replace(asked, cookie=waits(signer(api), asked).cookie)
    api.denied = {call}
    with pytest.raises(RefusedError, match=".*".join(map(re.escape, rule.split(".*")))) as raised:
        signer(api, approve=approve).sign(asked)
    assert "grant this user a cluster role with" in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        (
            Fault(401, "Unauthorized"),
            RefusedError,
            r"rejects the credentials in .*kubelet\.conf .*; renew the credentials",
        ),
        (Fault(401, body=b"", content_type=None), UnknownUserError, "rejects the credentials in"),
        (Fault(401, body=b""), UnknownUserError, "rejects the credentials in"),
        (Fault(401, body=b"[]"), UnknownUserError, "rejects the credentials in"),
        (Fault(422, "spec: Invalid"), RefusedError, r"rejects the request .* \(422: spec: Invalid\)"),
        (Fault(410, "Gone"), UnreachableError, r"cannot .* now \(410: Gone\)"),
        (Fault(429, "slow down"), UnreachableError, r"cannot .* now \(429: slow down\)"),
        (Fault(429, "later", {"Retry-After": "3600"}), UnreachableError, r"cannot .* now \(429: later\)"),
        (Fault(503, "x", {"Retry-After": "Wed, 25 Nov 2026 00:00:00 GMT"}), UnreachableError, r"\(503: x\)"),
        (Fault(500, "etcdserver: request timed out"), UnreachableError, r"\(500: etcdserver: request timed out\)"),
        (Fault(503, body=b"<html>", content_type="text/html"), UnreachableError, r"\(503: Service Unavailable\)"),
        (
            Fault(503, body=b"", content_type=None),
            UnreachableError,
            "like a Kubernetes API server; check the address",
        ),
        (Fault(503, body=b"{}"), UnreachableError, r"\(503: "),
        (Fault(503, body=b"not json"), UnreachableError, "like a Kubernetes API server; check the address"),
        (
            Fault(200, body=b"<html>", content_type="text/html"),
            UnreachableError,
            "like a Kubernetes API server; check",
        ),
        (Fault(200, body=b"[]"), UnreachableError, "like a Kubernetes API server; check the address"),
        (Fault(200, body=b"{}"), UnreachableError, "like a Kubernetes API server; check the address"),
        (Fault(302, headers={"Location": "https://elsewhere/"}), UnreachableError, r"\(302: "),
        (Fault(0), UnreachableError, r"cannot reach .* of .*kubelet\.conf \(.+\)"),
    ],
)
def test_every_failure_of_the_api_has_its_meaning(
    api: ApiServer, fault: Fault, error: type[SigningError], reason: str
) -> None:
    """An answer about the identity or the request is a refusal. Any other error may succeed later."""
    api.faults = [fault]
    with pytest.raises(error, match=reason) as raised:
        signer(api).sign(request())
    assert "\n" not in str(raised.value)


def test_a_busy_api_is_called_again_after_retry_after(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer with Retry-After, as of priority and fairness (429), certmond waits for this time, and for at
    least a second.
    """
    pauses = list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    api.faults = [Fault(429, headers={"Retry-After": "3"}), Fault(503, headers={"Retry-After": "0"})]
    waits(signer(api), request())
    assert pauses == [3, 1]
    assert api.calls == ["POST /"] * 3


@pytest.mark.long
def test_the_time_limit_includes_the_waits_for_a_busy_api(api: ApiServer, limits: Limits) -> None:
    """A wait for Retry-After ends at the time limit of the call."""
    api.faults = [Fault(429, headers={"Retry-After": "1"})] * 9
    api.before = lambda method, path: limits.end() if len(api.calls) == 2 else None
    with pytest.raises(UnreachableError, match="no answer within 2 s"):
        signer(api, seconds=2).sign(request())


def silence(api: ApiServer) -> list[str]:
    """Let the API not answer. Return a list that is empty while the API still waits with its first answer."""
    ended: list[str] = []

    def wait(method: str, path: str) -> None:
        api.closing.wait(DEADLINE)
        ended.append(f"{method} {path}")

    api.before = wait
    return ended


def test_a_silent_api_has_a_time_limit(api: ApiServer, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call ends at the time limit, and `alive` is called at least every second until then."""
    ended, calls, pauses, wait = silence(api), list[None](), list[float](), asyncio.wait

    def noted(tasks: Any, *, timeout: float) -> Any:
        pauses.append(timeout)
        return wait(tasks, timeout=timeout)

    def alive() -> None:
        calls.append(None)
        if len(calls) == 3:
            limits.end()

    monkeypatch.setattr(asyncio, "wait", noted)
    with pytest.raises(UnreachableError, match=r"kubelet\.conf \(no answer within 2\.5 s\)"):
        signer(api, seconds=2.5).sign(request(alive=alive))
    assert not ended
    assert len(calls) == len(pauses) >= 3
    assert max(pauses) <= 1


def test_a_stopping_daemon_cancels_the_call(api: ApiServer) -> None:
    """If `alive` raises because the daemon is stopping, the call is canceled at once."""
    ended = silence(api)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signer(api, seconds=2 * DEADLINE).sign(request(alive=stop))
    assert not ended


def test_an_api_that_is_down_is_unreachable(api: ApiServer, tmp_path: Path) -> None:
    """A missing server, or one with a certificate of another CA, is unreachable."""
    client = make_leaf(api.ca)
    Path(api.kubeconfig).write_bytes(api.kubeconfig_of(client, port=1))
    with pytest.raises(UnreachableError, match="certmond cannot reach"):
        signer(api).sign(request())
    api.ca = make_ca()
    Path(api.kubeconfig).write_bytes(api.kubeconfig_of(client))
    with pytest.raises(
        UnreachableError, match=r"does not contain the CA of the API server's certificate \(.*CERTIFICATE_VERIFY_FAILED"
    ):
        signer(api).sign(request())
    assert not api.calls


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"[]",
        b"{",
        b"clusters: []\ncontexts: []\n",
        b"\x00",
        b"current-context: it\nclusters: []\ncontexts: []",
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(api: ApiServer, content: bytes | None) -> None:
    """A kubeconfig that is missing or broken is refused by its name, and never quoted."""
    path = Path(api.kubeconfig)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        RefusedError, match=r"kubelet\.conf is missing, or is not a usable kubeconfig; check its server"
    ):
        signer(api).sign(request())


def test_a_kubeconfig_with_aliases_that_repeat_too_many_values_is_refused(api: ApiServer) -> None:
    """A kubeconfig that represents more values than certmond accepts in other YAML files is not usable."""
    path = Path(api.kubeconfig)
    lines = [f"x{depth}: &x{depth} [{', '.join([f'*x{depth - 1}'] * 10)}]" for depth in range(1, 7)]
    path.write_text("\n".join([path.read_text(), "x0: &x0 [y, y]", *lines]))
    with pytest.raises(RefusedError, match="is not a usable kubeconfig"):
        signer(api).sign(request())
    assert not api.received


def test_a_kubeconfig_that_others_can_change_is_not_used(api: ApiServer) -> None:
    """Its program would run, and its files would be read, with certmond's rights: no call is made."""
    path = Path(api.kubeconfig)
    path.chmod(0o664)
    with pytest.raises(
        RefusedError, match=r"kubelet\.conf can be changed by other users, so certmond does not use it; .*: chown root"
    ):
        signer(api).sign(request())
    assert not api.received
    path.chmod(0o600)
    assert "waits for approval" in str(waits(signer(api), request()))


def test_a_broken_key_is_never_quoted(api: ApiServer) -> None:
    """Neither the key nor the file of an unusable kubeconfig is quoted."""
    path = Path(api.kubeconfig)
    path.write_bytes(path.read_bytes().replace(b"client-key:", b"client-key-data: c2VjcmV0IGtleQ==\n    x:"))
    with pytest.raises(RefusedError, match="is not a usable kubeconfig") as raised:
        signer(api).sign(request())
    assert "secret" not in repr(raised.value)
    assert raised.value.__context__ is None  # not even in the traceback


def test_without_the_extra_the_error_has_the_remedy(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lightkube everything except the call works, and its error has the package to install."""
    monkeypatch.delitem(sys.modules, "certmond.cluster.client", raising=False)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(RefusedError, match=r"lightkube, .*; choose .*, or run: pip install lightkube lightkube-models"):
        signer(api).sign(request())


def test_the_api_server_of_these_tests_is_strict(api: ApiServer) -> None:
    """The stand-in for Kubernetes fails a request that Kubernetes fails: usages that the kubelet's signer does not
    permit.
    """
    waits(signer(api), request())
    api.only["spec"]["usages"] = ["client auth"]
    api.decide("Approved")
    assert api.only["status"]["conditions"][1]["message"].startswith("usages did not match")
    assert api.answer("PUT", f"{CSRS}/x/approval", b"{}")[0] == 404
