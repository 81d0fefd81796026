"""A certificate that only a listener of the node has is an entry of every document, from a real TLS server."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.config.loader import load
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.expose.documents.status import status_document
from certmond.expose.metrics.x509_exporter_names import Compatible
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.endpoint import Endpoint, Served
from certmond.pki.services.service_observation import Live
from certmond.pki.services.unwatched_served_certificates import served_observations
from certmond.services.content_times import Changes
from certmond.services.service_state_collector import SurroundingsObserver
from tests import preloaded_certmond
from tests.builders import DAY, YEAR, Issued, make_ca, make_server
from tests.deadline import DEADLINE
from tests.hurried_certmond import PROGRAM
from tests.node import NOW, Node
from tests.services.test_service_observer import Serve, files, serve  # noqa: F401 - fixtures
from tests.services.test_tls_probe import Files, Server, tls

MEMORY = make_ca("localhost-ca@1795878984", not_before=datetime.now(UTC) - YEAR, not_after=datetime.now(UTC) + YEAR)
PROBE_LIMIT = "certmond.services.tls_probe:LIMIT"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each handshake the time that it needs on a slow host."""
    monkeypatch.setattr(PROBE_LIMIT.replace(":", "."), DEADLINE)


def in_memory(left: timedelta = YEAR - DAY, by: Issued = MEMORY, at: datetime | None = None) -> Issued:
    """What a component makes at its start, for a year."""
    end = (at or datetime.now(UTC)) + left
    return make_server(by, "localhost@1795878985", not_before=end - YEAR, not_after=end)


class Listening:
    """A node whose only service serves a certificate from memory at the endpoint of a real server."""

    def __init__(self, place: Path, server: Server, **service: Any) -> None:
        self.server, self._place = server, place
        self.ca = place / "ca.crt"
        self.ca.write_bytes(MEMORY.pem)
        own = {"name": "web", "kind": "command", "command": ["/bin/true"], "listens": str(server.endpoint)} | service
        authority = {"name": "ca", "path": str(self.ca), "authority": True}
        self.text = yaml.safe_dump({"profile": "none", "certificates": [authority], "services": [own]})
        (place / "config.yaml").write_text(self.text)
        self.config: Config = parse([Source("config.yaml", self.text)])
        self.store = Store(self.config.certificates)
        self._observer = SurroundingsObserver(self.config, "/", Changes(place / "state", keeps=False), acting=False)

    def assess(self) -> Assessment:
        inventory = self.store.observe()
        return assess(inventory, datetime.now(UTC), around=self._observer.view(self.store, inventory, {}))

    def certmond(self, *words: str) -> subprocess.CompletedProcess[str]:
        state = ("--config", str(self._place / "config.yaml"), "--state-dir", str(self._place / "state"))
        environment = {**os.environ, "HURRY": json.dumps({PROBE_LIMIT: DEADLINE})}
        return preloaded_certmond.run([*words, *state], 2 * DEADLINE, environment, PROGRAM)


def entry(assessment: Assessment, name: str) -> dict[str, Any] | None:
    document = status_document(assessment, "observe", None)
    return next((each for each in document["certificates"] if each["name"] == name), None)


@pytest.mark.long
def test_every_document_has_the_certificate(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """`check` prints the dates, the endpoint and the finding with the restart. The metrics have the same series as for
    a file.
    """
    leaf = in_memory(5 * DAY)
    node = Listening(tmp_path, serve(tls(files.context(leaf))))
    port, at = node.server.endpoint.port, str(node.server.endpoint)
    done = node.certmond("check", "-o", "json")
    document = json.loads(done.stdout)
    (own,) = (each for each in document["certificates"] if each["kind"] == "served")
    assert (own["name"], own["path"], own["sha256"]) == (f"web.{port}", at, leaf.facts.sha256)
    assert own["not_after"] == leaf.facts.not_after.isoformat().replace("+00:00", "Z")
    assert (own["trust_anchor"], own["chain_valid"], own["key_matches"], own["named_by"]) == (None, True, None, None)
    assert [(each["endpoint"], each["service"], each["matches"]) for each in own["served"]] == [(at, "web", True)]
    assert own["consumers"] == own["used_by"] == []
    (item,) = own["findings"]
    assert item["reason"] == "nearing_expiry"
    assert item["message"].endswith("it is renewed by web, when it starts; run: certmond restart web")
    assert done.returncode == 2  # the CA of the node has signed it, so its clients will refuse it
    assert document["coverage"] == {"entries": 1, "references": 0, "served": 1, "unwatched": 0, "catalogued": 1}
    shown = node.certmond("check").stdout.splitlines()
    (row,) = (line for line in shown if line.startswith(f"web.{port} "))
    assert row.split()[-3] == "unverified"  # the entry has no trust anchor
    assert shown[-1] == (
        "certificates: 1 of the catalogue, 0 only in references, 1 only at listeners; files not watched: 0"
    )
    end = int(leaf.facts.not_after.timestamp())
    series = f'certmond_certificate_not_after_timestamp_seconds{{certificate="web.{port}",path="{at}"}} {end}'
    assert series in node.certmond("metrics").stdout.splitlines()


def test_each_listener_has_one_handshake(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """An observation of the services makes one handshake, also if the endpoint is in `serves` as well."""
    server = serve(tls(files.context(in_memory())))
    node = Listening(tmp_path, server)
    assert len(node.assess().statuses) == 2
    assert server.asked == 1
    both = Listening(tmp_path, server, serves={"ca": str(server.endpoint)})
    assert len(both.assess().statuses) == 1
    assert server.asked == 2


def test_the_last_certificate_stays_without_an_answer(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """The dates remain while the service restarts, and `served` has the reason. The next certificate replaces it."""
    leaf, contexts = in_memory(), [files.context(in_memory())]
    contexts.insert(0, files.context(leaf))
    node = Listening(tmp_path, serve(lambda connection: contexts and tls(contexts[0])(connection)))
    name = f"web.{node.server.endpoint.port}"
    first = entry(node.assess(), name)
    del contexts[0]
    second = entry(node.assess(), name)
    contexts.clear()
    third = entry(node.assess(), name)
    assert first
    assert second
    assert third
    assert first["sha256"] == leaf.facts.sha256
    assert first["sha256"] != second["sha256"] == third["sha256"]
    assert [(each["matches"], bool(each["reason"])) for each in third["served"]] == [(None, True)]


def test_a_certificate_in_a_file_has_one_entry(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """The entry of the file has the certificate, and no second entry appears."""
    node = Listening(tmp_path, serve(tls(files.context(MEMORY))))
    assert [status.seen.name for status in node.assess().statuses] == ["ca"]


def test_the_names_of_the_other_exporter_are_for_files(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """x509-certificate-exporter reads no listener, so its rules do not expect an endpoint in `filepath`."""
    node = Listening(tmp_path, serve(tls(files.context(in_memory()))))
    text = Compatible().text(node.assess())
    assert f'filepath="{node.ca}"' in text
    assert str(node.server.endpoint) not in text


@pytest.mark.long
def test_renew_all_leaves_it_alone(tmp_path: Path, serve: Serve, files: Files) -> None:  # noqa: F811
    """No file has it, so `renew --all` does not report it. By its name, the command reports who renews it."""
    node = Listening(tmp_path, serve(tls(files.context(in_memory(5 * DAY)))))
    name = f"web.{node.server.endpoint.port}"
    done = node.certmond("renew", "--all", "--dry-run")
    assert done.returncode == 0
    assert name not in done.stdout + done.stderr
    asked = node.certmond("renew", name, "--dry-run")
    assert f"cannot renew {name}: certmond does not renew this certificate; it is renewed by web" in asked.stderr


def control_plane(node: Node, left: timedelta) -> Assessment:
    """The verdicts on a kubeadm node whose components serve certificates from memory with this much time left."""
    config = load()
    store = Store(config.certificates, str(node.root), references=True)
    inventory = store.observe()
    observer = SurroundingsObserver(config, str(node.root), Changes(node.root / "state", keeps=False), acting=False)
    around = observer.around(store, inventory, {})
    memory = make_ca("localhost-ca@1795878984")
    answers = {at: Served(in_memory(left, memory, NOW).der, "TLSv1.3", NOW) for at in around.survey.listeners}
    live = Live(NOW, served={**answers})
    found = served_observations(around.survey.listeners, live, inventory.observations, ())
    return assess(inventory, NOW, around=replace(around, live=live, served=found))


def test_a_healthy_control_plane_has_no_warning(node: Node) -> None:
    """The controller-manager and the scheduler are entries without a finding."""
    assessment = control_plane(node, YEAR - DAY)
    found = {status.seen.path: status.findings for status in assessment.statuses if status.seen.endpoint}
    assert found == {"127.0.0.1:10257": (), "127.0.0.1:10259": ()}
    assert [s.seen.name for s in assessment.statuses if s.severity and s.severity.rank] == []


@pytest.mark.parametrize(("left", "reason"), [(5 * DAY, "nearing_expiry"), (-DAY, "expired")])
def test_an_old_component_of_a_control_plane_is_a_warning(node: Node, left: timedelta, reason: str) -> None:
    """A component that has run for a year serves an expired certificate. The finding names the restart."""
    assessment = control_plane(node, left)
    found = {status.seen.name: status.findings for status in assessment.statuses if status.seen.endpoint}
    for name in ("kube-controller-manager", "kube-scheduler"):
        port = {"kube-controller-manager": 10257, "kube-scheduler": 10259}[name]
        (item,) = found[f"{name}.{port}"]
        assert (item.reason, item.severity) == (reason, "warning")
        assert item.message.endswith(f"it is renewed by {name}, when it starts; run: certmond restart {name}")


def test_a_file_in_the_image_is_renewed_by_its_operator(node: Node) -> None:
    """certmond cannot read the file, so the entry of the listener has the dates. A restart does not renew it."""
    manifest = node.path("etc/kubernetes/manifests/kube-scheduler.yaml")
    text = manifest.read_text()
    manifest.write_text(
        text.replace("    - kube-scheduler\n", "    - kube-scheduler\n    - --tls-cert-file=/in/image.crt\n")
    )
    (status,) = (s for s in control_plane(node, 5 * DAY).statuses if s.seen.path == "127.0.0.1:10259")
    (item,) = status.findings
    assert item.message.endswith("renewed by the operator of kube-scheduler, in a file that certmond does not watch")


def test_the_profile_none_has_only_listed_listeners(node: Node) -> None:
    """With `profile: none`, flags of static Pods give no listener."""
    config = parse([Source("config.yaml", "profile: none\n")])
    store = Store(config.certificates, str(node.root))
    observer = SurroundingsObserver(config, str(node.root), Changes(node.root / "state", keeps=False), acting=False)
    assert observer.around(store, store.observe(), {}).survey.listeners == {}
    web = "services: [{name: web, kind: command, command: [/bin/true], listens: '127.0.0.1:10257'}]"
    config = parse([Source("config.yaml", f"profile: none\n{web}\n")])
    observer = SurroundingsObserver(config, str(node.root), Changes(node.root / "state", keeps=False), acting=False)
    assert list(observer.around(store, store.observe(), {}).survey.listeners) == [Endpoint("127.0.0.1", 10257)]
