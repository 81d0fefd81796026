"""The checks in the cluster before a rotation continues: signing, tokens, and the published CA."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certmond.cluster.api_access import Access
from certmond.cluster.rotation_checks.check import CheckResult, first_names
from certmond.cluster.rotation_checks.cluster_info import cluster_info
from certmond.cluster.rotation_checks.cluster_trust_bundles import cluster_trust_bundles
from certmond.cluster.rotation_checks.pod_certificates import pod_certificates
from certmond.cluster.rotation_checks.root_ca_configmaps import published_trust, token_secrets
from certmond.cluster.rotation_checks.service_account_token_issuance import tokens
from certmond.cluster.rotation_checks.signer import SignerCheck
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import describe_key
from tests.builders import Issued, bundle, make_ca
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import Silence
from tests.deadline import DEADLINE

OLD, NEW = make_ca(), make_ca()
BOTH = (OLD.facts, NEW.facts)


def says(canary: CheckResult, *words: str) -> None:
    """Assert that the check failed with a remedy and with these words in its fact."""
    assert not canary.ok
    assert canary.remedy
    for word in words:
        assert word in canary.fact, canary


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def known(canary: CheckResult) -> None:
    assert (canary.ok, canary.remedy) == (True, ""), canary


# --- signing ----------------------------------------------------------------------------------------------------------


def sign(access: Access, expected: Issued, limit: timedelta = timedelta(seconds=5)) -> CheckResult:
    return SignerCheck(access).check(expected.facts, datetime.now(UTC), limit)


def test_a_certificate_that_the_cluster_signs_is_of_the_expected_ca(cluster: ApiServer, access: Access) -> None:
    """The request is for a user without rights, valid for ten minutes. It is approved, checked, and deleted."""
    filed = []
    create = cluster._create

    def spy(made: dict[str, Any]) -> Any:
        filed.append(made["spec"])
        return create(made)

    cluster._create = spy  # type: ignore[method-assign]
    known(sign(access, cluster.ca))
    (spec,) = filed
    assert (spec["signerName"], spec["expirationSeconds"]) == ("kubernetes.io/kube-apiserver-client", 600)
    assert spec["usages"] == ["digital signature", "client auth"]
    assert cluster.objects == {}


def test_a_certificate_of_another_ca_is_reported(cluster: ApiServer, access: Access) -> None:
    """The check compares the signature, because the name is the same. Afterwards the request is deleted."""
    says(sign(access, NEW), "the cluster signs with the CA CN=kubernetes, which either is not", NEW.facts.sha256[:12])
    assert cluster.objects == {}


@pytest.mark.usefixtures("time_is_up")
def test_a_request_that_is_not_signed_is_reported(cluster: ApiServer, access: Access) -> None:
    """If an approved request has no certificate within the limit, the remedy names kube-controller-manager. The next
    check reads a certificate that is signed later.
    """
    cluster.signs = False
    check = SignerCheck(access)
    canary = check.check(cluster.ca.facts, datetime.now(UTC), timedelta(seconds=5))
    says(canary, "the request certmond-canary is approved, but the signer has not signed it within 5 s")
    assert "kube-controller-manager" in canary.remedy
    cluster.signs = True
    cluster._control(cluster.only)
    known(check.check(cluster.ca.facts, datetime.now(UTC)))
    assert cluster.objects == {}


def test_a_certificate_that_comes_later_is_waited_for(cluster: ApiServer, access: Access) -> None:
    """The controller may take its time, within the limit."""
    cluster.signs = False

    def later(method: str, path: str) -> None:
        if method == "GET" and cluster.calls.count("GET /certmond-canary") == 3:
            cluster.signs = True
            cluster._control(cluster.only)

    cluster.before = later
    known(sign(access, cluster.ca))


@pytest.fixture
def looker(cluster: ApiServer, access_of: Callable[..., Access]) -> Access:
    """Return the access of a user that may read, and approve nothing."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation", "lookers")
    return access_of("looker", "lookers")


def test_a_missing_right_to_approve_is_reported(cluster: ApiServer, looker: Access) -> None:
    """The message comes at once, with the command for a user who may approve. The request stays, and a further check
    files no other.
    """
    check = SignerCheck(looker)
    for _ in range(3):
        canary = check.check(cluster.ca.facts, datetime.now(UTC))
        says(canary, "certmond-canary waits for approval: the user of", "may not approve", "signers")
        assert "run: kubectl certificate approve certmond-canary" in canary.remedy
    assert cluster.only["status"] == {}
    assert len([call for call in cluster.calls if call.startswith("POST")]) == 1


def test_a_request_waits_for_another_user_to_approve(cluster: ApiServer, looker: Access) -> None:
    """However late the approval is, the next check reads the certificate and deletes the request."""
    check = SignerCheck(looker)
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    says(check.check(cluster.ca.facts, datetime.now(UTC) + timedelta(hours=1)), "waits for approval")
    cluster.decide("Approved")
    known(check.check(cluster.ca.facts, datetime.now(UTC)))
    assert cluster.objects == {}


def test_another_ca_needs_a_new_request(cluster: ApiServer, looker: Access) -> None:
    """A request that waits for approval does not serve the CA of another phase."""
    check = SignerCheck(looker)
    says(check.check(OLD.facts, datetime.now(UTC)), "waits for approval")
    first = cluster.only["metadata"]["uid"]
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    assert cluster.only["metadata"]["uid"] != first
    cluster.decide("Approved")
    known(check.check(cluster.ca.facts, datetime.now(UTC)))


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "filed by another"])
def test_a_deleted_request_is_filed_again(cluster: ApiServer, looker: Access, again: bool) -> None:
    """A request that was deleted while it waited is filed again, also if another one has its name."""
    check, other = SignerCheck(looker), SignerCheck(looker)
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    cluster.objects.clear()
    if again:
        other.check(cluster.ca.facts, datetime.now(UTC))
        cluster.decide("Approved")
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "certmond files it again")
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    assert cluster.only["status"] == {}


def test_two_processes_of_a_node_wait_for_the_same_approval(cluster: ApiServer, looker: Access) -> None:
    """The processes are, for example, a command and the daemon. Neither deletes a request that waits for an operator,
    and the first check after the approval has the answer. Otherwise no request would exist long enough to be approved.
    """
    daemon, command = SignerCheck(looker), SignerCheck(looker)
    says(daemon.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    filed = cluster.only["metadata"]["uid"]
    for check in (command, daemon, command, daemon):
        says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    assert cluster.only["metadata"]["uid"] == filed
    cluster.decide("Approved")
    known(command.check(cluster.ca.facts, datetime.now(UTC)))
    assert cluster.objects == {}


@pytest.mark.parametrize(
    "foreign",
    [{"names": [("CN", "certmond:canary"), ("O", "system:masters")]}, {"names": [("CN", "admin")]}, {"san": "other"},
     {"usages": ["client auth"]}, {"signer": "kubernetes.io/kubelet-serving"}, {"rsa": True}, {"pem": b"no request"}],
    ids=str,
)  # fmt: skip
def test_a_foreign_request_is_deleted_before_approval(
    cluster: ApiServer, looker: Access, foreign: dict[str, Any]
) -> None:
    """A request of the name with any other content is deleted before the message asks an operator to approve it."""
    oids = {"CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME}
    names = [x509.NameAttribute(oids[oid], value) for oid, value in foreign.get("names", [("CN", "certmond:canary")])]
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    if "san" in foreign:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(foreign["san"])]), critical=False)
    key = rsa.generate_private_key(65537, 2048) if "rsa" in foreign else ec.generate_private_key(ec.SECP256R1())
    request = foreign.get("pem", built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    spec = {
        "request": base64.b64encode(request).decode(),
        "usages": foreign.get("usages", ["digital signature", "client auth"]),
        "signerName": foreign.get("signer", "kubernetes.io/kube-apiserver-client"),
    }  # fmt: skip
    metadata = {"name": "certmond-canary", "uid": "foreign", "resourceVersion": "1"}
    cluster.objects["certmond-canary"] = {"metadata": metadata, "spec": spec, "status": {}}
    says(SignerCheck(looker).check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    assert cluster.only["metadata"]["uid"] != "foreign"


def test_a_waiting_request_is_withdrawn_at_the_end(cluster: ApiServer, looker: Access) -> None:
    """No request is left, and no request of another process is withdrawn. An unavailable API is no error."""
    check = SignerCheck(looker)
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    SignerCheck(looker).withdraw()
    assert cluster.objects
    check.withdraw()
    assert cluster.objects == {}
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "waits for approval")
    cluster.faults = [Fault(503)]
    check.withdraw()


def decides(cluster: ApiServer, verdict: str) -> None:
    """Decide the request as soon as it is filed."""
    cluster.signs = False

    def decide(method: str, path: str) -> None:
        if cluster.objects and not cluster.only["status"]:
            cluster.decide(verdict, "by hand")

    cluster.before = decide


def test_a_request_that_failed_is_reported(cluster: ApiServer, access: Access) -> None:
    """The message has the reason of the signer. The next check files another request."""
    decides(cluster, "Failed")
    says(sign(access, cluster.ca), "certmond-canary has failed (by hand)")
    assert cluster.objects == {}


@pytest.mark.parametrize("again", [False, True], ids=["same process", "another process"])
def test_a_request_that_was_denied_stays_and_has_the_reason(cluster: ApiServer, access: Access, again: bool) -> None:
    """After a denial no new request is filed: each check reports the reason, until an operator or the cluster deletes
    the request. Then it is filed again.
    """
    decides(cluster, "Denied")
    check = SignerCheck(access)
    for _ in range(3):
        check = SignerCheck(access) if again else check
        canary = check.check(cluster.ca.facts, datetime.now(UTC))
        says(canary, "certmond-canary is denied (by hand)")
        assert "run: kubectl delete csr certmond-canary" in canary.remedy
    assert len([call for call in cluster.calls if call.startswith("POST")]) == 1
    cluster.objects.clear()
    cluster.signs, cluster.before = True, lambda method, path: None
    if not again:
        says(check.check(cluster.ca.facts, datetime.now(UTC)), "certmond files it again")
    known((SignerCheck(access) if again else check).check(cluster.ca.facts, datetime.now(UTC)))
    assert cluster.objects == {}


def test_a_denied_request_is_withdrawn_at_the_end(cluster: ApiServer, access: Access) -> None:
    """It is withdrawn with its rotation, like one that waits for approval."""
    decides(cluster, "Denied")
    check = SignerCheck(access)
    says(check.check(cluster.ca.facts, datetime.now(UTC)), "is denied")
    check.withdraw()
    assert cluster.objects == {}


def test_a_certificate_of_another_key_is_reported(cluster: ApiServer, access: Access) -> None:
    """The check fails if the signed certificate has another key."""
    cluster.sign = lambda csr, spec: NEW.pem  # type: ignore[method-assign]
    says(sign(access, cluster.ca), "has issued a certificate with another public key")


def test_a_request_that_was_left_is_cleared_first(cluster: ApiServer, access: Access) -> None:
    """A check that was cut off leaves its request; the next one is not answered with that."""

    def cut_off(method: str, path: str) -> None:
        cluster.denied = {"DELETE"} if method == "POST" else cluster.denied

    cluster.before = cut_off
    sign(access, cluster.ca)
    left = cluster.only
    cluster.before, cluster.denied = lambda method, path: None, set()
    known(sign(access, cluster.ca))
    assert left["metadata"]["name"] == "certmond-canary"
    assert cluster.objects == {}


def test_a_request_that_another_user_deletes_is_filed_again(cluster: ApiServer, access: Access) -> None:
    """A deleted request does not count as an answer."""
    cluster.signs = False

    def delete(method: str, path: str) -> None:
        if method == "GET":
            cluster.objects.clear()

    cluster.before = delete
    says(sign(access, cluster.ca), "certmond files it again")


def test_a_request_of_another_process_is_not_read(cluster: ApiServer, access: Access) -> None:
    """Its owner is unknown, so the check files its request again later."""

    def other(method: str, path: str) -> None:
        if method == "POST":
            cluster.faults = [Fault(409)]

    cluster.before = other
    says(
        sign(access, cluster.ca), "another process has filed the request certmond-canary; certmond files it again later"
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def account(cluster: ApiServer) -> None:
    cluster.store.add("serviceaccounts", "certmond", "kube-system")


@pytest.mark.usefixtures("account")
def test_a_fresh_token_is_accepted(cluster: ApiServer, access: Access) -> None:
    """It is valid for ten minutes, and is reviewed. If a key is required, that key signed it."""
    known(tokens(access))
    known(tokens(access, signed_by=describe_key(cluster.tokens.key.public_key())))
    assert len(cluster.tokens.issued) == 2


@pytest.mark.usefixtures("account")
def test_a_token_that_is_not_accepted_is_reported_without_it(cluster: ApiServer, access: Access) -> None:
    """The message has the API server's reason, which quotes the token, without the token."""
    cluster.tokens.known = []
    canary = tokens(access)
    says(canary, "the API server rejects a new token of kube-system/certmond ([invalid bearer token it, ")
    (token,) = cluster.tokens.issued
    assert token not in repr(canary)


@pytest.mark.usefixtures("account")
def test_a_token_of_another_key_is_reported(access: Access) -> None:
    """A token that is accepted but signed by the old key fails the check."""
    expected = describe_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    says(tokens(access, signed_by=expected), f"is not signed with the key {expected.sha256[:12]}")


@pytest.mark.usefixtures("account")
def test_a_token_of_another_user_is_reported(cluster: ApiServer, access: Access) -> None:
    """The authenticated user must be the service account."""
    review = cluster.tokens.review
    cluster.tokens.review = lambda asked: (  # type: ignore[method-assign]
        201, review(asked)[1] | {"status": {"authenticated": True, "user": {"username": "admin"}}},
    )  # fmt: skip
    says(tokens(access), "authenticates as admin")


def test_without_the_service_account_the_check_passes(cluster: ApiServer, access: Access) -> None:
    """The message reports that no token was checked, and the remedy."""
    canary = tokens(access)
    assert canary.ok
    assert canary.fact == "skipped: the cluster has no ServiceAccount kube-system/certmond"
    assert "config/rbac.yaml" in canary.remedy
    assert cluster.tokens.issued == []


def test_another_service_account_needs_another_right(cluster: ApiServer, access: Access) -> None:
    """The role grants tokens of one service account only, and the message names the missing right."""
    cluster.store.add("serviceaccounts", "admin", "default")
    says(tokens(access, namespace="default", service_account="admin"), "may not", "default", "serviceaccounts")
    assert cluster.tokens.issued == []


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("head", ["", "%", "e30"])
def test_a_token_without_a_key_id_is_of_another_key(cluster: ApiServer, access: Access, head: str) -> None:
    """If a key is required, a token without a key identifier, or text that is no token, is not signed with it."""
    cluster.tokens.request = lambda namespace, name, asked: (  # type: ignore[method-assign]
        201, asked | {"status": {"token": f"{head}.x.y", "expirationTimestamp": "2026-11-24T12:00:00Z"}},
    )  # fmt: skip
    user = {"username": "system:serviceaccount:kube-system:certmond"}
    cluster.tokens.review = lambda asked: (  # type: ignore[method-assign]
        201, asked | {"status": {"authenticated": True, "user": user}},
    )  # fmt: skip
    known(tokens(access))
    says(tokens(access, signed_by=OLD.facts.key), "is not signed with the key")


@pytest.mark.usefixtures("account")
def test_an_api_that_issues_or_reviews_no_token_is_reported(cluster: ApiServer, access: Access) -> None:
    """Without a review or a token, the check fails."""
    request = cluster.tokens.request
    cluster.tokens.review = lambda asked: (404, {})  # type: ignore[method-assign]
    says(tokens(access), "the API server does not support TokenReview")
    cluster.tokens.request = lambda *given: (201, request(*given)[1] | {"status": {}})  # type: ignore[method-assign]
    says(tokens(access), "the API server returned no token for kube-system/certmond")


# --- publication ------------------------------------------------------------------------------------------------------


def publish(cluster: ApiServer, namespace: str, pem: bytes | None) -> None:
    data = {} if pem is None else {"ca.crt": pem.decode()}
    cluster.store.add("configmaps", "kube-root-ca.crt", namespace, data=data)


def test_the_published_ca_is_compared_as_a_set(
    cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every namespace exactly the wanted certificates, in whatever order, however often, on however many pages."""
    monkeypatch.setattr("certmond.cluster.rotation_checks.root_ca_configmaps.PAGE", 2)
    for namespace, pem in (
        ("default", bundle(NEW, OLD)),
        ("kube-public", bundle(OLD, NEW, OLD)),
        ("kube-system", b"# a comment\n" + bundle(OLD, NEW)),
    ):
        publish(cluster, namespace, pem)
    cluster.store.add("configmaps", "another", "default", data={"ca.crt": OLD.pem.decode()})
    known(published_trust(access, BOTH))
    assert cluster.store.pages == 4


@pytest.mark.parametrize(
    ("pem", "wanted", "said"),
    [
        (OLD.pem, BOTH, "default lacks NEW"),
        (bundle(OLD, NEW), (NEW.facts,), "default still contains OLD"),
        (OLD.pem, (NEW.facts,), "default lacks NEW and still contains OLD"),
        (None, BOTH, "default contains no CA"),
        (b"", BOTH, "default contains no CA"),
        (NEW.pem + b"-----BEGIN CERTIFICATE-----\n", (NEW.facts,), "default is malformed ("),
    ],
)
def test_namespaces_that_lag_are_named(
    cluster: ApiServer, access: Access, pem: bytes | None, wanted: Any, said: str
) -> None:
    """The message has their missing and surplus CAs."""
    right = b"".join(each.pem for each in (OLD, NEW) if each.facts in wanted)
    publish(cluster, "default", pem)
    for namespace in ("kube-public", "kube-system"):
        publish(cluster, namespace, right)
    canary = published_trust(access, wanted)
    said = said.replace("NEW", NEW.facts.sha256[:12]).replace("OLD", OLD.facts.sha256[:12])
    says(canary, f"kube-root-ca.crt of {said}")
    assert "kube-" not in canary.fact.replace("kube-root-ca.crt", "")


def test_a_cluster_without_namespaces_fails(cluster: ApiServer, access: Access) -> None:
    """An API that lists no namespace publishes no CA to all of them."""
    for space in ("default", "kube-public", "kube-system"):
        cluster.store.remove("namespaces", space)
    says(published_trust(access, BOTH), "the API server lists no namespace")


def test_a_namespace_without_the_map_lags_and_one_that_ends_does_not(cluster: ApiServer, access: Access) -> None:
    """A missing ConfigMap is reported. A namespace that is being deleted gets none, and is skipped."""
    for namespace in ("default", "kube-public", "kube-system"):
        publish(cluster, namespace, OLD.pem)
    cluster.store.add("namespaces", "ending", status={"phase": "Terminating"})
    cluster.store.add("namespaces", "deleted", metadata={"deletionTimestamp": "2026-11-24T12:00:00Z"})
    known(published_trust(access, [OLD.facts]))
    cluster.store.add("namespaces", "new")
    says(published_trust(access, [OLD.facts]), "of new contains no CA")


def test_many_namespaces_are_counted() -> None:
    """The message names ten, and has the number of the others."""
    assert first_names(f"n{number}" for number in range(12)) == "n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 2 more"


def test_an_expired_page_is_no_answer(cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the API server no longer has the next page, the check concludes nothing from the pages before."""
    monkeypatch.setattr("certmond.cluster.rotation_checks.root_ca_configmaps.PAGE", 1)
    for namespace in ("default", "kube-public", "kube-system"):
        publish(cluster, namespace, OLD.pem)
    cluster.store.forgets_pages = True
    says(published_trust(access, [OLD.facts]), "too old to display a consistent list")


def test_secrets_are_not_read_by_default(cluster: ApiServer, access: Access) -> None:
    """The check passes and reports that it read nothing; it makes no call. With the option and without the right it
    fails.
    """
    canary = token_secrets(access, BOTH)
    assert canary.ok
    assert canary.fact.startswith("skipped: ")
    assert cluster.calls == []
    says(token_secrets(access, BOTH, enabled=True), "may not list the Secrets", "resources [secrets]")


def test_the_ca_in_token_secrets_is_compared_on_request(cluster: ApiServer, access: Access) -> None:
    """The check reads only Secrets of that type, in every namespace, with a right that is bound to no user by
    default.
    """
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation-secrets", "certmond")
    kind = "kubernetes.io/service-account-token"
    right = {"ca.crt": b64(bundle(OLD, NEW)), "token": b64(b"x")}
    cluster.store.add("secrets", "right", "default", type=kind, data=right)
    cluster.store.add("secrets", "other", "default", type="Opaque", data={"ca.crt": b64(OLD.pem)})
    gone = {"deletionTimestamp": "2026-11-24T12:00:00Z"}
    cluster.store.add("secrets", "gone", "default", type=kind, data={"ca.crt": b64(OLD.pem)}, metadata=gone)
    known(token_secrets(access, BOTH, enabled=True))
    cluster.store.add("secrets", "old", "kube-system", type=kind, data={"ca.crt": b64(OLD.pem)})
    cluster.store.add("secrets", "bare", "kube-system", type=kind)
    cluster.store.add("secrets", "odd", "kube-system", type=kind, data={"ca.crt": "abcde"})
    canary = token_secrets(access, BOTH, enabled=True)
    says(canary, "kube-system/old lacks", "kube-system/bare contains no CA", "kube-system/odd is malformed (")


# --- cluster-info -----------------------------------------------------------------------------------------------------


def info(cluster: ApiServer, pem: bytes, **changes: Any) -> dict[str, Any]:
    fields = {"certificate-authority-data": b64(pem), "server": "https://10.0.0.1:6443"} | changes
    document = {"apiVersion": "v1", "clusters": [{"cluster": fields, "name": ""}], "contexts": None,
                "current-context": "", "kind": "Config", "users": None}  # fmt: skip
    data = {"kubeconfig": yaml.safe_dump(document), "jws-kubeconfig-abcdef": "x..y"}
    return cluster.store.add("configmaps", "cluster-info", "kube-public", data=data)


def test_cluster_info_has_the_required_ca_or_is_reported(cluster: ApiServer, access: Access) -> None:
    """The CAs are compared as a set. Without the option nothing is changed."""
    made = info(cluster, bundle(NEW, OLD))
    known(cluster_info(access, BOTH, BOTH))
    before = made["metadata"]["resourceVersion"]
    says(cluster_info(access, BOTH, [NEW.facts]), "kube-public/cluster-info still contains", OLD.facts.sha256[:12])
    assert cluster.store.get("configmaps", "cluster-info", "kube-public")["metadata"]["resourceVersion"] == before


def test_an_unreadable_ca_is_replaced(cluster: ApiServer, access: Access) -> None:
    """Whatever the field contains, it is replaced."""
    info(cluster, b"", **{"certificate-authority-data": "abcde"})
    says(cluster_info(access, BOTH, BOTH), "is malformed")
    assert cluster_info(access, BOTH, BOTH, update=True).ok
    known(cluster_info(access, BOTH, BOTH))


def test_cluster_info_without_a_version_is_not_written(cluster: ApiServer, access: Access) -> None:
    """Without a resource version a change would be blind: the server is no Kubernetes API."""
    del info(cluster, OLD.pem)["metadata"]["resourceVersion"]
    says(cluster_info(access, BOTH, BOTH, update=True), "does not answer like a Kubernetes API server")
    assert not [call for call in cluster.calls if call.startswith("PATCH")]


def test_cluster_info_is_updated_on_request(cluster: ApiServer, access: Access) -> None:
    """The CA is replaced, in the given order. Server, signatures and all else stay. A second update changes nothing."""
    before = info(cluster, OLD.pem)["data"]
    canary = cluster_info(access, BOTH, BOTH, update=True)
    assert canary.ok
    assert f"before the update, its CA lacks {NEW.facts.sha256[:12]}" in canary.fact
    found = cluster.store.get("configmaps", "cluster-info", "kube-public")
    old, new = (yaml.safe_load(data["kubeconfig"]) for data in (before, found["data"]))
    cluster_fields = new["clusters"][0]["cluster"]
    assert base64.b64decode(cluster_fields.pop("certificate-authority-data")) == bundle(OLD, NEW)
    del old["clusters"][0]["cluster"]["certificate-authority-data"]
    assert new == old
    assert found["data"]["jws-kubeconfig-abcdef"] == "x..y"
    version = found["metadata"]["resourceVersion"]
    known(cluster_info(access, BOTH, BOTH, update=True))
    assert cluster.store.get("configmaps", "cluster-info", "kube-public")["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize("wanted", [BOTH, (NEW.facts, OLD.facts), (NEW.facts,)], ids=["trust", "issue", "distrust"])
def test_other_cas_in_cluster_info_stay(cluster: ApiServer, access: Access, wanted: tuple[Certificate, ...]) -> None:
    """A CA outside the rotation is no fault, and stays behind those of the rotation, in each phase. Of several
    certificates with the CA's key, only the required one stays.
    """
    other, reissued = make_ca(), make_ca(key=OLD.key)
    info(cluster, bundle(other, reissued))
    says(cluster_info(access, BOTH, wanted), f"still contains {reissued.facts.sha256[:12]}")
    assert cluster_info(access, BOTH, wanted, update=True).ok
    found = yaml.safe_load(cluster.store.get("configmaps", "cluster-info", "kube-public")["data"]["kubeconfig"])
    trusted = base64.b64decode(found["clusters"][0]["cluster"]["certificate-authority-data"])
    assert decode(trusted, "it").certificates == (*wanted, other.facts)
    known(cluster_info(access, BOTH, wanted, update=True))


def test_cluster_info_is_written_only_in_the_version_that_was_read(cluster: ApiServer, access: Access) -> None:
    """A concurrent change is not overwritten. The next check reads it."""
    info(cluster, OLD.pem)

    def other() -> None:
        held = cluster.store.get("configmaps", "cluster-info", "kube-public")
        held["data"]["kubeconfig"] += "# by hand\n"
        cluster.store.change(held)

    cluster.store.before_write = other
    says(cluster_info(access, BOTH, BOTH, update=True), "during the update")
    assert "# by hand" in cluster.store.get("configmaps", "cluster-info", "kube-public")["data"]["kubeconfig"]


def test_without_cluster_info_the_check_passes(access: Access) -> None:
    """Some clusters have none, which is reported."""
    canary = cluster_info(access, BOTH, BOTH, update=True)
    assert canary.ok
    assert canary.fact.startswith("skipped: the ConfigMap kube-public/cluster-info does not exist")


@pytest.mark.parametrize("text", ["", "[", "clusters: []", "clusters: [{cluster: 5}]", "users: []"])
def test_a_cluster_info_that_is_no_kubeconfig_is_reported(cluster: ApiServer, access: Access, text: str) -> None:
    """It is never overwritten."""
    cluster.store.add("configmaps", "cluster-info", "kube-public", data={"kubeconfig": text})
    says(cluster_info(access, BOTH, BOTH, update=True), "the kubeconfig in the ConfigMap kube-public/cluster-info ")
    assert cluster.store.get("configmaps", "cluster-info", "kube-public")["data"] == {"kubeconfig": text}


# --- all checks -------------------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Access, timedelta], CheckResult]] = {
    "signing": lambda access, limit: SignerCheck(access).check(OLD.facts, datetime.now(UTC), limit),
    "tokens": lambda access, limit: tokens(access, limit=limit),
    "published_trust": lambda access, limit: published_trust(access, BOTH, limit),
    "token_secrets": lambda access, limit: token_secrets(access, BOTH, enabled=True, limit=limit),
    "cluster_info": lambda access, limit: cluster_info(access, BOTH, BOTH, limit=limit),
    "cluster_trust_bundles": lambda access, limit: cluster_trust_bundles(access, BOTH, limit),
    "pod_certificates": pod_certificates,
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("whose", ["check", "call"])
def test_a_cluster_that_does_not_answer_has_not_passed(access: Access, silence: Silence, name: str, whose: str) -> None:
    """At the limit of the check or of a call, whichever is first, the check fails, and the message reports that no
    answer came.
    """
    silence(whose)
    canary = CHECKS[name](access, timedelta(seconds=7))
    assert canary.name == name
    has_pages = name in {"published_trust", "token_secrets", "pod_certificates"}
    within = 12 * DEADLINE if has_pages else DEADLINE
    says(canary, "within 7 s" if whose == "check" else f"(no answer within {within:g} s)")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("fault", [401, 403, 500])
def test_a_cluster_that_refuses_has_not_passed(cluster: ApiServer, access: Access, name: str, fault: int) -> None:
    """A refusal is reported as a refusal."""
    cluster.faults = [Fault(fault)] * 3
    says(CHECKS[name](access, timedelta(seconds=5)))


@pytest.mark.parametrize("name", CHECKS)
def test_a_kubeconfig_that_is_not_there_has_not_passed(access: Access, name: str) -> None:
    """Without a kubeconfig the check makes no call and fails."""
    says(CHECKS[name](replace(access, kubeconfig=lambda: "/nowhere"), timedelta(seconds=5)), "/nowhere")
