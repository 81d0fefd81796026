"""The listing of TLS Secrets, CertificateSigningRequests and CA bundles through the API, with the rights of
config/rbac.yaml.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import certmond.cluster.certificate_listing as module
from certmond.cluster.api_access import Access
from certmond.cluster.certificate_listing import listing, sources
from certmond.pki.services.cluster_objects import Listing, Place, RequestPhase
from tests.builders import NOW, Issued, make_ca, make_leaf
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import MANIFEST, Silence
from tests.cluster.leaks import leaks
from tests.cluster.rbac import Rbac
from tests.cluster.serving_request_objects import add_request

CA = make_ca()
LEAF = make_leaf(CA, "web")
SECRETS, REQUESTS = Place("Secret"), Place("CertificateSigningRequest")
BUNDLED = {
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "APIService": "apiservices",
    "CustomResourceDefinition": "customresourcedefinitions",
}


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def add_secret(
    cluster: ApiServer, name: str, namespace: str = "default", leaf: Issued = LEAF, **data: str
) -> dict[str, Any]:
    """Add a Secret of type kubernetes.io/tls, with its private key. `data` has an underscore instead of the dot."""
    held = {"tls.crt": coded(leaf.pem), "tls.key": coded(leaf.key_pem)}
    held |= {key.replace("_", "."): value for key, value in data.items()}
    return cluster.store.add("secrets", name, namespace, type="kubernetes.io/tls", data=held)


@pytest.fixture(autouse=True)
def _bound(cluster: ApiServer) -> None:
    assert cluster.rbac
    cluster.rbac.bind_reader()


@pytest.fixture
def reader(cluster: ApiServer, access: Access) -> Access:
    """The access of a reader with the permission to list Secrets."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-reader-secrets", "certmond")
    return access


def read(access: Access, source: Place, before: Listing | None = None, now: datetime = NOW) -> Listing:
    return listing(access, source, before, now)


def places(found: Listing) -> list[str]:
    return [each.place.where for each in found.data]


def test_the_sources_are_all_kinds_with_certificates() -> None:
    """The Secrets are those of all namespaces, or of each configured namespace once."""
    kinds = [each.kind for each in sources(())]
    assert kinds == ["Secret", "CertificateSigningRequest", *BUNDLED]
    assert [each for each in sources(("a", "b", "a")) if each.kind == "Secret"] == [
        Place("Secret", "a"), Place("Secret", "b"),
    ]  # fmt: skip


def test_the_certificates_of_tls_secrets_are_read(cluster: ApiServer, reader: Access) -> None:
    """certmond reads `tls.crt` and `ca.crt` of each Secret of this type. An empty `ca.crt` is usual, an empty `tls.crt`
    is not.
    """
    add_secret(cluster, "web", ca_crt=coded(CA.pem))
    add_secret(cluster, "empty", tls_crt="", ca_crt="")
    cluster.store.add("secrets", "other", "default", type="Opaque", data={"tls.crt": coded(LEAF.pem)})
    cluster.store.add("secrets", "none", "default", type="kubernetes.io/tls")
    found = read(reader, SECRETS)
    assert (found.read_at, found.count, found.unread) == (NOW, 3, None)
    assert places(found) == [
        "tls.crt in the Secret default/empty",
        "tls.crt in the Secret default/web",
        "ca.crt in the Secret default/web",
    ]
    assert [each.subject for data in found.data for each in data.certificates] == ["CN=web", "CN=kubernetes"]


def test_no_private_key_leaves_the_list(cluster: ApiServer, reader: Access) -> None:
    """The result contains no byte of the key of a Secret, although the API server sends it."""
    add_secret(cluster, "web", ca_crt=coded(CA.pem + CA.key_pem))
    found = read(reader, SECRETS)
    assert len(found.data) == 2
    assert not leaks(repr(found).encode() + b"".join(each.digest for each in found.data), LEAF, CA)


def test_secrets_are_read_in_small_pages(cluster: ApiServer, reader: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret can contain 1 MiB, so a page contains few Secrets. certmond does not parse unchanged Secrets again."""
    for number in range(45):
        add_secret(cluster, f"web-{number}")
    cluster.store.pages = 0
    found = read(reader, SECRETS)
    assert (found.count, cluster.store.pages) == (45, 3)
    monkeypatch.setattr("certmond.pki.services.cluster_objects.decode", None)
    again = read(reader, SECRETS, found)
    assert [id(each) for each in again.data] == [id(each) for each in found.data]


def test_more_objects_than_the_limit_are_reported(
    cluster: ApiServer, reader: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """certmond reads the first objects, and the message contains the limit and the remedy."""
    monkeypatch.setattr(module, "MAX_OBJECTS", 30)
    for number in range(41):
        add_secret(cluster, f"web-{number:02}")
    cluster.store.pages = 0
    found = read(reader, SECRETS)
    assert (found.count, len(found.data), cluster.store.pages) == (30, 30, 2)
    assert found.unread
    assert found.unread.fact == "the cluster has more than 30 secrets, and certmond reads only these"
    assert (found.unread.remedy, found.unread.lasting) == ("set `cluster.reader_namespaces` to fewer namespaces", True)
    again = read(reader, SECRETS, found, NOW + timedelta(hours=1))
    assert again.unread == found.unread


@pytest.mark.parametrize("namespace", ["", "default"])
def test_a_missing_right_names_the_role_and_keeps_the_known_objects(
    cluster: ApiServer, access: Access, namespace: str
) -> None:
    """Without the permission to list Secrets, certmond reads the other kinds. After its loss, the last certificates
    stay.
    """
    source = Place("Secret", namespace)
    refused = read(access, source)
    where = f" in the namespace {namespace}" if namespace else ""
    role = f"role in {namespace}" if namespace else "cluster role"
    assert refused.unread
    assert f" may not list the secrets{where} " in refused.unread.fact
    assert refused.unread.remedy == f"grant this user a {role} with apiGroups [''], resources [secrets], verbs [list]"
    assert (refused.unread.lasting, refused.read_at) == (True, None)
    assert [read(access, each).unread for each in sources(()) if each.kind != "Secret"] == [None] * 5
    assert cluster.rbac
    add_secret(cluster, "web")
    cluster.rbac.bind("certmond-reader-secrets", "certmond")
    found = read(access, source)
    cluster.rbac = Rbac(MANIFEST.read_text())
    lost = read(access, source, found, NOW + timedelta(hours=1))
    assert replace(lost, unread=None) == found
    assert lost.unread
    assert lost.unread.since == NOW + timedelta(hours=1)


def test_a_right_in_one_namespace_is_sufficient_for_its_secrets(cluster: ApiServer, access: Access) -> None:
    """A RoleBinding binds the cluster role in this namespace only."""
    assert cluster.rbac
    add_secret(cluster, "web")
    add_secret(cluster, "dns", namespace="kube-system")
    binding = {
        "kind": "RoleBinding", "metadata": {"name": "it", "namespace": "default"},
        "roleRef": {"kind": "ClusterRole", "name": "certmond-reader-secrets"},
        "subjects": [{"kind": "Group", "name": "certmond"}],
    }  # fmt: skip
    cluster.rbac._bindings.append(binding)
    assert places(read(access, Place("Secret", "default"))) == ["tls.crt in the Secret default/web"]
    assert read(access, Place("Secret", "kube-system")).unread
    assert read(access, SECRETS).unread


def test_the_reader_uses_each_of_its_rights(cluster: ApiServer, reader: Access) -> None:
    """config/rbac.yaml grants nothing else to the reader, apart from its Lease."""
    assert cluster.rbac
    assert [read(reader, each).unread for each in sources(())] == [None] * 6
    roles = [each for each in cluster.rbac.objects if each["kind"] == "ClusterRole"]
    named = [each for each in roles if each["metadata"]["name"].startswith("certmond-reader")]
    assert cluster.rbac.used == {
        (verb, group, resource)
        for role in named
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize("kind", BUNDLED)
def test_the_ca_bundles_of_each_kind_are_read(cluster: ApiServer, access: Access, kind: str) -> None:
    """The key of the result is the place of the bundle in the object. An object without a bundle has no certificate."""
    config = {"caBundle": coded(CA.pem)}
    spec = {**config, "conversion": {"webhook": {"clientConfig": config}}}
    cluster.store.add(BUNDLED[kind], "it", spec=spec, webhooks=[{"clientConfig": {}}, {"clientConfig": config}])
    cluster.store.add(BUNDLED[kind], "without", spec={"insecureSkipTLSVerify": True}, webhooks=[{"clientConfig": {}}])
    found = read(access, Place(kind))
    key = {"APIService": "spec/caBundle", "CustomResourceDefinition": "spec/conversion/webhook/clientConfig/caBundle"}
    place = Place(kind, "", "it", key.get(kind, "webhooks/1/clientConfig/caBundle"))
    assert [each.place for each in found.data] == [place]
    assert found.data[0].certificates[0].sha256 == CA.facts.sha256
    assert found.count == 2


def test_custom_resource_definitions_are_read_in_small_pages(cluster: ApiServer, access: Access) -> None:
    """An object of this kind can contain one MiB."""
    for number in range(45):
        cluster.store.add("customresourcedefinitions", f"it-{number}", spec={})
    cluster.store.pages = 0
    assert read(access, Place("CustomResourceDefinition")).count == 45
    assert cluster.store.pages == 3


def test_a_bundle_that_is_no_text_is_a_fault(cluster: ApiServer, access: Access) -> None:
    """A value of another type ends nothing: the object has a fault."""
    cluster.store.add("apiservices", "it", spec={"caBundle": ["x"]})
    (data,) = read(access, Place("APIService")).data
    assert data.faults


def test_the_requests_are_read(cluster: ApiServer, access: Access) -> None:
    """Each one has its signer, its user, its age and its phase."""
    add_request(cluster, "a", NOW)
    add_request(cluster, "b", NOW, Approved="")
    add_request(cluster, "c", NOW, Denied="no")
    add_request(cluster, "d", NOW, Approved="", Failed="")
    add_request(cluster, "e", NOW, Approved="")["status"]["certificate"] = coded(LEAF.pem)
    found = read(access, REQUESTS)
    assert {each.name: each.phase for each in found.requests} == {
        "a": RequestPhase.PENDING, "b": RequestPhase.APPROVED, "c": RequestPhase.DENIED, "d": RequestPhase.FAILED,
        "e": RequestPhase.ISSUED,
    }  # fmt: skip
    assert (found.requests[0].user, found.requests[0].signer) == ("system:node:node-1", "kubernetes.io/kubelet-serving")
    assert found.requests[0].created_at == NOW.replace(microsecond=0)
    assert found.requests[0].created_at.tzinfo is UTC
    assert found.count == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [("creationTimestamp", None), ("creationTimestamp", "0001-01-01T00:00:00+14:00"), ("name", "a\nb")],
)
def test_a_malformed_request_ends_the_list_of_requests_only(
    cluster: ApiServer, access: Access, field: str, value: str | None
) -> None:
    """The failure is the same as that of any other answer that certmond cannot parse, and the known requests stay."""
    request = add_request(cluster, "a", NOW)
    known = read(access, REQUESTS)
    request["metadata"][field] = value
    failed = read(access, REQUESTS, known)
    assert failed.unread
    assert "does not answer like a Kubernetes API server" in failed.unread.fact
    assert replace(failed, unread=None) == known


@pytest.mark.parametrize("fault", [Fault(503), Fault(200, body=b"[]"), Fault(410), Fault(0)])
def test_a_failure_that_may_end_keeps_its_first_time(cluster: ApiServer, reader: Access, fault: Fault) -> None:
    """The known objects stay, and the next success ends the failure."""
    add_secret(cluster, "web")
    found = read(reader, SECRETS)
    cluster.faults += [fault]
    failed = read(reader, SECRETS, found, NOW + timedelta(minutes=5))
    cluster.faults += [fault]
    again = read(reader, SECRETS, failed, NOW + timedelta(minutes=10))
    assert again.unread
    assert (again.unread.lasting, again.unread.since) == (False, NOW + timedelta(minutes=5))
    assert again.data == found.data
    assert read(reader, SECRETS, again).unread is None


def test_a_silent_api_server_ends_the_listing(cluster: ApiServer, reader: Access, silence: Silence) -> None:
    """The time of a list is limited."""
    silence("call")
    found = read(reader, SECRETS)
    assert found.unread
    assert "no answer within" in found.unread.fact


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_name_that_no_api_server_returns_is_refused(
    cluster: ApiServer, reader: Access, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a label or a message would contain control characters."""
    add_secret(cluster, "web")["metadata"]["name"] = name
    found = read(reader, SECRETS)
    assert found.unread
    assert "does not answer like a Kubernetes API server" in found.unread.fact


def test_a_reader_can_be_interrupted(cluster: ApiServer, access_of: Callable[..., Access]) -> None:
    """An error of `alive` ends the request, for the end of the daemon."""

    class ClosedError(Exception):
        pass

    def closed() -> None:
        raise ClosedError

    def wait(method: str, path: str) -> None:
        cluster.closing.wait(5)

    cluster.before = wait
    access = access_of("certmond", "certmond")
    with pytest.raises(ClosedError):
        read(replace(access, alive=closed), REQUESTS)
    cluster.closing.set()
