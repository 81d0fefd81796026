"""A rotation of the token keys in a cluster: which nodes must report, what is checked, and what the record
publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certmond.cluster.api_access import Access
from certmond.cluster.record import parse as parse_record
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.cluster.rotation_coordinator import ClusterConductor
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.pki.rotation.gates import Gate, Report
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.services.trust_set_digest import digest_of
from certmond.pki.x509.public_key import describe_key
from tests.builders import HOUR, NOW
from tests.cluster.api_server import ApiServer

KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
OLD, NEW = (describe_key(key.public_key()) for key in KEYS)
ISSUE = Rotation("20261124-sa", "sa", Mode.OVERLAP, (OLD,), NEW, Phase.ISSUE, NOW - 5 * HOUR)
DONE = Report("20261124-sa", Phase.ISSUE, digest_of((OLD, NEW)), "", signs=True, ready=True)


class Leading:
    """This node always holds the Lease."""

    def take(self) -> str | None:
        return None

    def give_back(self) -> None:
        pass


@pytest.fixture
def passed() -> list[float]:
    """The seconds that have passed."""
    return [0.0]


@pytest.fixture
def conductor(cluster: ApiServer, access_of: Callable[..., Access], passed: list[float]) -> ClusterConductor:
    """Return the coordinator of cp-1, beside a worker. The API server signs with the old key, and accepts the tokens of
    both.
    """
    cluster.store.add("nodes", "cp-1", metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})
    cluster.store.add("nodes", "worker")
    cluster.store.add("serviceaccounts", "certmond", "kube-system")
    cluster.tokens.key, cluster.tokens.known = KEYS[0], KEYS
    config = parse([Source("test", "{cluster: {kubeconfig: /x}, root_ca: {token_overlap: 1d}}")])
    access = access_of("system:node:cp-1", "system:nodes", "certmond")
    return ClusterConductor(
        access, Leading(), config, node="cp-1", own=access, boot="", clock=lambda: NOW, monotonic=lambda: passed[0]
    )


def test_the_record_has_public_keys() -> None:
    """The record is parsed to the same rotation."""
    noted = replace(ISSUE, published=NOW)
    text = record_of(noted, "cp-1").text()
    assert text.count("BEGIN PUBLIC KEY") == 2
    assert "PRIVATE" not in text
    assert rotation_of(parse_record(text, "it")) == noted


def test_the_time_of_the_old_tokens_counts_from_the_first_new_signature(
    cluster: ApiServer, conductor: ClusterConductor, passed: list[float]
) -> None:
    """While an API server signs with the old key, no instant is recorded. Then the record has it, and both keys are
    accepted for `root_ca.token_overlap` from then on. Workers need not report.
    """
    (said,) = conductor.gate(ISSUE, DONE, NOW).waits
    assert said.startswith(f"a new token of kube-system/certmond is not signed with the key {NEW.sha256[:12]}")
    assert conductor.gate(ISSUE, DONE, NOW).noted is None
    cluster.tokens.key = KEYS[1]
    noted = conductor.gate(ISSUE, DONE, NOW).noted
    assert noted == replace(ISSUE, published=NOW)
    assert conductor.gate(noted, DONE, NOW).waits
    passed[0] += 24 * 3600 - 1
    (said,) = conductor.gate(noted, DONE, NOW + 24 * HOUR - timedelta(seconds=1)).waits
    assert said.startswith("all nodes trust both public keys until ")
    passed[0] += 1
    assert conductor.gate(noted, DONE, NOW + 24 * HOUR) == Gate()


def test_a_node_that_joins_during_the_check_counts(cluster: ApiServer, conductor: ClusterConductor) -> None:
    """The time of the old tokens does not count yet: a control plane that joins meanwhile may sign with its key."""
    cluster.tokens.key = KEYS[1]

    def joins(method: str, path: str) -> None:
        if path.endswith("/token"):
            cluster.before = lambda method, path: None
            cluster.store.add("nodes", "cp-2", metadata={"labels": {"node-role.kubernetes.io/control-plane": ""}})

    cluster.before = joins
    gate = conductor.gate(ISSUE, DONE, NOW)
    assert (gate.waits, gate.noted) == (("cp-2 has not reported",), None)


def test_a_signature_of_the_old_key_blocks_the_phase(cluster: ApiServer, conductor: ClusterConductor) -> None:
    """If an operator restored the old key meanwhile, it is not distrusted."""
    cluster.tokens.key = KEYS[0]
    (said,) = conductor.gate(replace(ISSUE, published=NOW), DONE, NOW + 24 * HOUR).waits
    assert "is not signed with the key" in said
