"""The metrics and the JSON about objects of the cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from certmond.expose.documents.cluster_certificates_document import cluster_entry
from certmond.expose.documents.status_reader import STATUS
from certmond.expose.metrics.cluster_certificate_metrics import CLUSTER_FAMILIES, END, OLDEST, REQUESTS, ClusterMetrics
from certmond.expose.metrics.exposition import Renderer
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Inventory
from certmond.pki.services.cluster_objects import (
    CertificateData,
    CertificateFacts,
    ClusterReading,
    ClusterRequest,
    ClusterState,
    Listing,
    Place,
    RequestPhase,
)
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW

TLS = Place("Secret", "default", "web", "tls.crt")
WEB = CertificateFacts('CN=web,O="it"', "CN=ca", 0xAB, "ab" * 32, NOW - DAY, NOW + DAY)
SIGNER = "kubernetes.io/kubelet-serving"
READING = ClusterReading(
    True,
    (
        Listing(Place("Secret"), NOW, 3, (CertificateData(TLS, b"digest", (WEB, WEB)),)),
        Listing(
            Place("CertificateSigningRequest"), NOW + DAY, 2,
            requests=(
                ClusterRequest("csr-a", SIGNER, "system:node:n1", NOW - DAY, RequestPhase.PENDING),
                ClusterRequest("csr-b", SIGNER, "system:node:n1", NOW, RequestPhase.PENDING),
                ClusterRequest("csr-c", SIGNER, "system:node:n1", NOW, RequestPhase.ISSUED),
            ),
        ),
        Listing(Place("APIService")),
    ),
)  # fmt: skip


def series(reading: ClusterReading | None) -> dict[tuple[str, tuple[str, ...]], float]:
    """The value of each series, by its name and the values of its labels."""
    families = list(text_string_to_metric_families(ClusterMetrics().text(reading)))
    assert all(family.type == "gauge" and family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    found = {(each.name, tuple(each.labels.values())): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def test_the_reading_node_has_a_series_for_each_certificate() -> None:
    """A certificate that is twice in the same key has one series: Prometheus refuses two. A kind that was not read yet
    has no time.
    """
    found = series(READING)
    labels = ("Secret", "default", "web", "tls.crt", 'CN=web,O="it"', "ab" * 32)
    assert found[END.name, labels] == (NOW + DAY).timestamp()
    assert found["certmond_cluster_reader", ()] == 1
    assert {key[1]: value for key, value in found.items() if key[0].endswith("last_read_timestamp_seconds")} == {
        ("Secret", ""): NOW.timestamp(),
        ("CertificateSigningRequest", ""): (NOW + DAY).timestamp(),
    }
    assert found["certmond_cluster_objects", ("Secret", "")] == 3
    assert found[REQUESTS.name, (SIGNER, "pending")] == 2
    assert found[OLDEST.name, (SIGNER, "pending")] == (NOW - DAY).timestamp()
    assert {name for name, _ in found} == {family.name for family in CLUSTER_FAMILIES}


def test_the_other_nodes_have_only_the_reader_series() -> None:
    """Without `cluster.reader`, a node has not even this one."""
    assert series(ClusterReading()) == {("certmond_cluster_reader", ()): 0}
    assert ClusterMetrics().text(None) == ""


def test_an_unchanged_reading_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass about another file repeats the text, and a new reading replaces it."""
    metrics = ClusterMetrics()
    first = metrics.text(READING)
    assert metrics.text(READING) is first
    assert metrics.text(ClusterReading()) != first


def test_the_entry_has_each_certificate_and_each_request() -> None:
    """Times are in RFC 3339, serial numbers are decimal and hexadecimal, and a kind without namespaces has null."""
    hook = Place("APIService", "", "v1.it", "spec/caBundle")
    reading = ClusterReading(True, (Listing(Place("APIService"), NOW, 1, (CertificateData(hook, b"", (WEB,)),)),))
    entry = cluster_entry(reading)
    time = NOW.isoformat().replace("+00:00", "Z")
    assert entry["read_at"] == time
    (found,) = entry["certificates"]
    assert (found["kind"], found["namespace"], found["name"], found["key"]) == (
        "APIService", None, "v1.it", "spec/caBundle",
    )  # fmt: skip
    assert (found["serial"], found["serial_hex"], found["sha256"], found["subject"], found["issuer"]) == (
        "171", "ab", "ab" * 32, 'CN=web,O="it"', "CN=ca",
    )  # fmt: skip
    requests = cluster_entry(READING)["requests"]
    assert requests[1:] == [{
        "name": "csr-b", "signer": SIGNER, "user": "system:node:n1", "created_at": time, "phase": "pending",
    }]  # fmt: skip
    assert cluster_entry(READING)["read_at"] is None


def test_a_node_that_knows_the_objects_has_the_member_cluster(tmp_path: Path) -> None:
    """The member follows the others, and is as in `cluster_entry`. After an outage, a node knows the objects."""
    renderer = Renderer()

    def written(reading: ClusterReading | None) -> dict[str, object]:
        around = Surroundings(cluster=ClusterState(reading))
        renderer.write_status(tmp_path / STATUS, assess(Inventory(()), NOW, around=around), "observe", None)
        document: dict[str, object] = json.loads((tmp_path / STATUS).read_text())
        return document

    assert written(READING)["cluster"] == cluster_entry(READING)
    assert written(READING)["cluster"] == cluster_entry(READING)
    later = Listing(Place("Secret"), NOW + timedelta(hours=1))
    assert written(ClusterReading(True, (later,)))["cluster"] == cluster_entry(ClusterReading(True, (later,)))
    assert written(replace(READING, leads=False))["cluster"] == cluster_entry(READING)
    assert "cluster" not in written(ClusterReading())
    assert "cluster" not in written(None)
