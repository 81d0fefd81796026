"""A rotation of the Root CA in a cluster whose Pods have client certificates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from certmond.cluster.api_access import Access
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Phase, Rotation
from tests.builders import HOUR, SECOND
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.coordinator_world import OVERLAP, Place, World

SIGNER = "kubernetes.io/kube-apiserver-client-pod"


@pytest.fixture
def world(cluster: ApiServer, access_of: Callable[..., Access], monkeypatch: pytest.MonkeyPatch) -> World:
    """A cluster with a Pod that has a client certificate."""
    monkeypatch.setattr("certmond.cluster.rotation_checks.signer._POLL_INTERVAL", 0.01)
    made = World(cluster, access_of)
    source = {"podCertificate": {"signerName": SIGNER, "keyType": "ED25519"}}
    made.put("pods", "web", "default", status={"phase": "Running"},
             spec={"containers": [], "volumes": [{"name": "it", "projected": {"sources": [source]}}]})  # fmt: skip
    return made


@pytest.fixture
def node(world: World) -> Place:
    """Return the coordinator, after the whole cluster signs with the new CA and trusts both."""
    made = world.node("cp-1")
    world.api.ca = world.new
    world.publish(world.old.facts, world.new.facts)
    return made


@pytest.fixture
def issue(world: World) -> Rotation:
    return world.rotation(Phase.ISSUE)


@pytest.mark.long
def test_the_old_ca_is_trusted_until_the_certificates_of_pods_have_expired(
    world: World, node: Place, issue: Rotation
) -> None:
    """After all nodes have reached `issue`, the record contains the time. The phase ends 24 hours after this time."""
    found = node.gate(issue)
    assert found.waits[0].startswith("Pods have client certificates from a signer of Kubernetes: default/web; ")
    assert found.noted == replace(issue, published=world.now)
    (said,) = node.gate(replace(issue, published=world.now - 24 * HOUR + SECOND)).waits
    assert said.endswith("because client certificates that the old CA signed for Pods can be valid until then")
    assert node.gate(replace(issue, published=world.now - 24 * HOUR)) == Gate()


def test_the_list_of_pods_is_read_once(world: World, node: Place, issue: Rotation) -> None:
    """After the record contains the time, certmond does not list the Pods again."""
    noted = node.gate(issue).noted
    assert noted
    before = len(world.api.calls)
    node.gate(noted)
    assert not [each for each in world.api.calls[before:] if "/pods" in each]


def test_without_such_pods_only_the_overlap_counts(world: World, node: Place, issue: Rotation) -> None:
    """The phase ends after `root_ca.overlap` if no Pod has a client certificate."""
    world.api.store.remove("pods", "web", "default")
    assert node.gate(issue) == Gate()


def test_an_unread_list_keeps_the_phase(world: World, node: Place, issue: Rotation) -> None:
    """If the API server refuses the list of the Pods, the phase does not end, and the record contains no time."""

    def refuse(_: str, path: str) -> None:
        if path.startswith("/api/v1/pods"):
            world.api.faults = [Fault(403)]

    world.api.before = refuse
    found = node.gate(issue)
    assert (found.noted, "resources [pods], verbs [list]" in found.waits[0]) == (None, True)


def test_a_phase_waits_for_the_cluster_trust_bundle(world: World, node: Place) -> None:
    """In `trust`, the ClusterTrustBundle of the API server must contain both CAs."""
    world.api.ca, trust, old = world.old, world.rotation(Phase.TRUST), world.old.pem.decode()
    spec = {"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": old}
    name = "kubernetes.io:kube-apiserver-serving:1"
    world.put("clustertrustbundles", name, spec=spec)
    (said,) = node.gate(trust).waits
    assert f"lacks {world.new.facts.sha256[:12]}; check that a kube-controller-manager" in said
    world.put("clustertrustbundles", name, spec=spec | {"trustBundle": old + world.new.pem.decode()})
    assert node.gate(trust) == Gate()


def test_the_search_follows_the_overlap(world: World, node: Place) -> None:
    """certmond lists the Pods only after `root_ca.overlap` has passed."""
    begun = world.rotation(Phase.ISSUE, since=world.now - OVERLAP + SECOND)
    (said,) = node.gate(begun).waits
    assert said.endswith("before any node distrusts the old CA")
    assert not [each for each in world.api.calls if "/pods" in each]
    world.passes(SECOND)
    assert node.gate(begun).noted is not None
