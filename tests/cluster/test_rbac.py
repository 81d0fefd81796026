"""config/rbac.yaml grants exactly what certmond does in the cluster, and no private key is ever sent there."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import PrivateFormat

from certmond.cluster.api_access import Access
from certmond.cluster.certificate_listing import listing, sources
from certmond.cluster.lease_lock import RESTART, ROTATION, ClusterLease
from certmond.cluster.node_api import Acknowledgement, acknowledge, list_nodes
from certmond.cluster.node_condition_writer import create_event, write_condition
from certmond.cluster.record import ClusterRecord
from certmond.cluster.record_api import create_record, read_record, replace_record
from certmond.cluster.rotation_checks.cluster_info import cluster_info
from certmond.cluster.rotation_checks.cluster_trust_bundles import cluster_trust_bundles
from certmond.cluster.rotation_checks.pod_certificates import pod_certificates
from certmond.cluster.rotation_checks.root_ca_configmaps import published_trust, token_secrets
from certmond.cluster.rotation_checks.service_account_token_issuance import tokens
from certmond.cluster.rotation_checks.signer import SignerCheck
from certmond.cluster.rotation_checks.webhook_ca_bundles import ca_bundles
from certmond.cluster.stale_workloads import stale_workloads, workloads
from certmond.cluster.workload_rollout import Outcome, restart_workloads
from certmond.controllers.cluster_objects.cluster_certificate_reader import LEASE
from certmond.errors import RefusedError
from certmond.pki.assessment.node_condition import NodeCondition
from tests.builders import NOW, bundle, make_ca
from tests.cluster.api_server import ApiServer
from tests.cluster.conftest import MANIFEST
from tests.cluster.leaks import leaks
from tests.cluster.rbac import Asked, Rbac
from tests.cluster.test_stale_workloads import PLURALS, add, finish, pod, replica_set
from tests.deadline import DEADLINE

OLD, NEW = make_ca(), make_ca()
BOTH = (OLD.facts, NEW.facts)
OPTIONAL = (
    ("certmond-rotation-ca-bundles", ""), ("certmond-rotation-secrets", ""), ("certmond-reader-secrets", ""),
    ("certmond-node-condition", ""), ("certmond-node-condition", "default"),
)  # fmt: skip
"""Names and namespaces of the roles that the manifest does not bind. Without a namespace, the role is a ClusterRole."""
BUNDLED = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations", "apiservices",
           "customresourcedefinitions")  # fmt: skip


def furnish(cluster: ApiServer) -> None:
    """Create a cluster in which each check has something to read, and each change something to change."""
    old = base64.b64encode(OLD.pem).decode()
    for namespace in ("default", "kube-public", "kube-system"):
        cluster.store.add("configmaps", "kube-root-ca.crt", namespace, data={"ca.crt": bundle(OLD, NEW).decode()})
    fields = {"certificate-authority-data": old}
    info = yaml.safe_dump({"clusters": [{"name": "", "cluster": fields}]})
    cluster.store.add("configmaps", "cluster-info", "kube-public", data={"kubeconfig": info})
    cluster.store.add("serviceaccounts", "certmond", "kube-system")
    cluster.store.add("nodes", "node-1")
    cluster.store.add("secrets", "it", "default", type="kubernetes.io/service-account-token", data={"ca.crt": old})
    annotated = {"annotations": {"certmond.io/ca-bundle": "ca"}}
    config = {"caBundle": old}
    for resource in BUNDLED:
        conversion = {"webhook": {"clientConfig": config}}
        webhooks = [{"clientConfig": config}]
        cluster.store.add(
            resource, "it", metadata=annotated, spec={**config, "conversion": conversion}, webhooks=webhooks
        )
    for kind in PLURALS:
        made = add(cluster, kind)
        pod(cluster, kind.lower(), replica_set(cluster, "web-1", made) if kind == "Deployment" else made)
    finish(cluster)


def lead(access: Access) -> list[Any]:
    """Make all calls of a coordinator once."""
    record = ClusterRecord(
        id="r", family="ca", mode="overlap", phase="trust", since=NOW, old=(OLD.pem.decode(),),
        new=NEW.pem.decode(), coordinator="node-1",
    )  # fmt: skip
    turns = [
        ClusterLease(access.kubeconfig, identity="node-1", name=name, alive=access.alive)
        for name in (RESTART, ROTATION, LEASE.name)
    ]
    said: list[Any] = [each.take() for each in (*turns, *turns)]
    replace_record(access, create_record(access, record), replace(record, phase="issue"))
    read_record(access)
    list_nodes(access)
    now = datetime.now(UTC)
    canaries = [
        tokens(access),
        published_trust(access, BOTH),
        cluster_trust_bundles(access, BOTH),
        pod_certificates(access),
        token_secrets(access, BOTH, enabled=True),
        cluster_info(access, BOTH, BOTH, update=True),
        ca_bundles(access, "ca", BOTH, BOTH, update=True),
        workloads(access, now),
    ]
    with suppress(RefusedError):
        condition = NodeCondition("False", "CriticalFindings", "1 critical")
        write_condition(access, "node-1", condition, now)
        create_event(access, "node-1", condition, now)
    said += [each for each in canaries if " may not " in each.fact]
    signed = SignerCheck(access).check(OLD.facts, now)
    said += [] if "the cluster signs with" in signed.fact else [signed]
    for each in sources(()):
        listing(access, each, None, now)  # tests/cluster/test_certificate_listing.py has the refused lists
    stale = stale_workloads(access, now).restartable
    said += [each for each in restart_workloads(access, stale, now, now) if each.outcome is not Outcome.DONE]
    return [each for each in said if each]


def granted(rbac: Rbac) -> set[tuple[str, str, str]]:
    """Every right of a leader, as verb, group and resource."""
    return {
        (verb, group, resource)
        for role in rbac.objects
        if role["kind"] in {"Role", "ClusterRole"} and not role["metadata"]["name"].endswith("-node")
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.long
def test_the_manifest_grants_exactly_what_is_needed(cluster: ApiServer, access: Access) -> None:
    """A coordinator with every role can make all its calls, and each of its rights is used."""
    furnish(cluster)
    assert cluster.rbac
    cluster.rbac.bind_reader()
    for role, namespace in OPTIONAL:
        cluster.rbac.bind(role, "certmond", namespace)
    assert lead(access) == []
    assert cluster.rbac.used == granted(cluster.rbac)


@pytest.mark.long
def test_an_unbound_right_is_refused(cluster: ApiServer, access: Access) -> None:
    """The manifest grants no right to Secrets or to change webhooks, also with a reader: only these two checks fail."""
    furnish(cluster)
    assert cluster.rbac
    cluster.rbac.bind_reader()
    refused = lead(access)
    assert [each.name for each in refused] == ["token_secrets", "ca_bundles"]


def test_every_right_that_can_have_names_has_them(cluster: ApiServer) -> None:
    """A right to read or change a fixed object is limited to its name. A right to list or create cannot have a name.

    Workloads, webhooks and similar objects belong to the users of the cluster, so their names are unknown.
    """
    anybodys = {*PLURALS.values(), *BUNDLED, "nodes", "nodes/status"}
    assert cluster.rbac
    for role in cluster.rbac.objects:
        for rule in role.get("rules", ()):
            if not set(rule["resources"]) <= anybodys and set(rule["verbs"]) & {"get", "update", "patch", "delete"}:
                assert rule["resourceNames"], rule
    assert not [rule for role in cluster.rbac.objects for rule in role.get("rules", ()) if "*" in str(rule)]


def test_a_cluster_role_writes_only_what_is_in_no_fixed_namespace(cluster: ApiServer) -> None:
    """A right to write a namespaced object is in a Role of its namespace, except for the workloads of the cluster."""
    global_ = {"nodes/status", "certificatesigningrequests", "certificatesigningrequests/approval", "signers",
               "tokenreviews", *BUNDLED}  # fmt: skip
    assert cluster.rbac
    for role in (each for each in cluster.rbac.objects if each["kind"] == "ClusterRole"):
        for rule in (each for each in role["rules"] if set(each["verbs"]) - {"get", "list"}):
            assert set(rule["resources"]) <= global_ | set(PLURALS.values()), role["metadata"]["name"]


def test_a_node_may_read_the_record_and_the_lease_and_annotate_itself(
    cluster: ApiServer, access: Access, access_of: Callable[..., Access]
) -> None:
    """With its kubelet.conf it can do nothing else: neither lead a rotation nor make a check."""
    furnish(cluster)
    kubelet = access_of("system:node:node-1", "system:nodes")
    read_record(kubelet)
    acknowledge(kubelet, "node-1", Acknowledgement("r", "trust", "a" * 64, "", holds_key=False))
    lease = ClusterLease(kubelet.kubeconfig, identity="node-1", name=RESTART, alive=kubelet.alive)
    assert lease.obstacle() is None  # an agent waits for the servers
    with pytest.raises(RefusedError, match="may not create the Lease"):
        lease.take()
    assert cluster.rbac
    cluster.rbac.used.clear()
    for canary in (
        SignerCheck(kubelet).check(OLD.facts, datetime.now(UTC), timedelta(seconds=DEADLINE)),
        tokens(kubelet),
        published_trust(kubelet, BOTH),
        cluster_info(kubelet, BOTH, BOTH),
        ca_bundles(kubelet, "ca", BOTH, BOTH),
        workloads(kubelet, datetime.now(UTC)),
    ):
        assert " may not " in canary.fact
    assert not cluster.rbac.used


@pytest.mark.long
def test_no_private_key_is_ever_sent(cluster: ApiServer, access: Access, access_of: Callable[..., Access]) -> None:
    """The API server received no byte of a CA's key, or of any PEM key, during a rotation."""
    furnish(cluster)
    assert cluster.rbac
    cluster.rbac.bind_reader()
    for role, namespace in OPTIONAL:
        cluster.rbac.bind(role, "certmond", namespace)
    lead(access)
    acknowledge(
        access_of("system:node:node-1", "system:nodes"), "node-1", Acknowledgement("r", "trust", "", "", holds_key=True)
    )
    assert len(cluster.received) > 10_000
    assert OLD.pem.split(b"\n")[1] in cluster.received  # the public part is there: the search covers the right bytes
    assert leaks(bytes(cluster.received), OLD, NEW, cluster.ca) == []


@pytest.mark.parametrize(
    "sent",
    [
        NEW.key_pem,
        NEW.key_as(PrivateFormat.TraditionalOpenSSL),
        repr(NEW.key_pem).encode(),
        b"".join(NEW.key_pem.splitlines()[1:-1]),
        base64.b64encode(NEW.key_pem),
        base64.encodebytes(b"12" + NEW.key_pem),
        repr(base64.encodebytes(NEW.key_pem)).encode(),
        NEW.key_as(PrivateFormat.PKCS8, b"password"),
    ],
    ids=range(8),
)
def test_a_private_key_that_was_sent_would_be_found(sent: bytes) -> None:
    """The forms are PEM, PEM without its frame, JSON, and base64 as in a Secret, with any text around."""
    assert leaks(b'{"data": "' + sent + b'"}', NEW)
    assert not leaks(b'{"data": "' + bundle(OLD, NEW) + NEW.public_pem + b'"}', OLD, NEW)


# --- The stand-in for Kubernetes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (Asked("get", "", "configmaps", "kube-system", "certmond-rotation"), True),
        (Asked("get", "", "configmaps", "default", "certmond-rotation"), False),
        (Asked("get", "", "configmaps", "kube-system", "other"), False),
        (Asked("create", "", "configmaps", "kube-system"), True),
        (Asked("list", "", "configmaps"), False),
        (Asked("list", "", "configmaps", name="kube-root-ca.crt"), True),
        (Asked("create", "", "serviceaccounts/token", "kube-system", "certmond"), True),
        (Asked("create", "", "serviceaccounts", "kube-system", "certmond"), False),
        (Asked("update", "coordination.k8s.io", "leases", "kube-system", "certmond-restart"), True),
        (Asked("list", "", "secrets"), False),
    ],
)
def test_the_api_server_of_these_tests_grants_as_kubernetes_does(asked: Asked, allowed: bool) -> None:
    """A right applies by verb, group, resource, namespace and name, to the groups of a binding only."""
    rbac = Rbac(MANIFEST.read_text())
    assert rbac.allows("x", ["certmond", "system:authenticated"], asked) == allowed
    assert not rbac.allows("certmond", ["system:authenticated"], asked)


def test_the_api_server_of_these_tests_reads_a_url_as_kubernetes_does() -> None:
    """Namespaces, names, subresources, and the name in a field selector."""
    assert Asked.of("GET", "/api/v1/namespaces", {}) == Asked("list", "", "namespaces")
    assert Asked.of("GET", "/api/v1/namespaces/a", {}) == Asked("get", "", "namespaces", "", "a")
    assert Asked.of("POST", "/api/v1/namespaces/a/serviceaccounts/b/token", {}) == Asked(
        "create", "", "serviceaccounts/token", "a", "b"
    )
    assert Asked.of("GET", "/apis/apps/v1/deployments", {"fieldSelector": "metadata.name=x"}) == Asked(
        "list", "apps", "deployments", "", "x"
    )
