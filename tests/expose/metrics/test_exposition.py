"""The output for Prometheus, node_exporter and `status`: the text and the JSON of one assessment."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from certmond.cli.main import cli
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.errors import NotRunningError, RuntimeDirError
from certmond.expose.documents.status import certificate_entry, status_document
from certmond.expose.documents.status_reader import read_status
from certmond.expose.metrics import exposition as render
from certmond.expose.metrics.exposition import Renderer, replace_runtime_file, summary
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Reason, Severity
from certmond.pki.planning.forecast import next_event
from certmond.pki.planning.planner_inputs import Policy
from tests import builders
from tests.conftest import real_part
from tests.node import KUBELET_PEM, NOW, PKI, Node, key_pem

API = f"{PKI}/apiserver"
DAY = timedelta(days=1)

FAMILIES = {
    "certmond_certificate_not_before_timestamp_seconds": "gauge",
    "certmond_certificate_not_after_timestamp_seconds": "gauge",
    "certmond_certificate_renewal_timestamp_seconds": "gauge",
    "certmond_certificate_chain_valid": "gauge",
    "certmond_certificate_info": "gauge",
    "certmond_finding": "gauge",
    "certmond_findings": "gauge",
    "certmond_unwatched_references": "gauge",
    "certmond_trust_anchor_not_after_timestamp_seconds": "gauge",
    "certmond_certificate_served_matches": "gauge",
    "certmond_restarts": "counter",
    "certmond_renewals": "counter",
    "certmond_planned_steps": "gauge",
    "certmond_hook_runs": "counter",
    "certmond_changes_not_logged": "counter",
    "certmond_hook_waiting": "gauge",
    "certmond_rotation_phase": "gauge",
    "certmond_rotation_workers": "gauge",
    "certmond_mode": "gauge",
    "certmond_passes": "counter",
    "certmond_pass_duration_seconds": "histogram",
    "certmond_change_to_publish_seconds": "histogram",
    "certmond_last_pass_timestamp_seconds": "gauge",
    "certmond_config_last_reload_successful": "gauge",
    "certmond_watch_events": "counter",
    "certmond_watch_overflows": "counter",
    "certmond_watched_directories": "gauge",
    "certmond_polled_directories": "gauge",
    "certmond_build_info": "gauge",
    "certmond_process_cpu_seconds": "counter",
    "certmond_process_max_fds": "gauge",
    "certmond_process_open_fds": "gauge",
    "certmond_process_resident_memory_bytes": "gauge",
    "certmond_process_start_time_seconds": "gauge",
    "certmond_process_virtual_memory_bytes": "gauge",
}
"""The documented families, as prometheus-client names them: a counter without its `_total`."""

FILES = {
    "ca": ("ca", f"{PKI}/ca.crt"),
    "apiserver": ("ca", f"{API}.crt"),
    "apiserver-kubelet-client": ("ca", f"{PKI}/apiserver-kubelet-client.crt"),
    "front-proxy-ca": ("front-proxy-ca", f"{PKI}/front-proxy-ca.crt"),
    "front-proxy-client": ("front-proxy-ca", f"{PKI}/front-proxy-client.crt"),
    "etcd-ca": ("etcd-ca", f"{PKI}/etcd/ca.crt"),
    "etcd-server": ("etcd-ca", f"{PKI}/etcd/server.crt"),
    "etcd-peer": ("etcd-ca", f"{PKI}/etcd/peer.crt"),
    "etcd-healthcheck-client": ("etcd-ca", f"{PKI}/etcd/healthcheck-client.crt"),
    "apiserver-etcd-client": ("etcd-ca", f"{PKI}/apiserver-etcd-client.crt"),
    "admin.conf": ("ca", "etc/kubernetes/admin.conf"),
    "controller-manager.conf": ("ca", "etc/kubernetes/controller-manager.conf"),
    "scheduler.conf": ("ca", "etc/kubernetes/scheduler.conf"),
    "kubelet-client": ("ca", "var/lib/kubelet/pki/kubelet-client-current.pem"),
}
"""name -> the CA that signed it, and its file: what kubeadm wrote."""

Labels = frozenset[tuple[str, str]]


def looked_at(node: Node, more: str = "", at: datetime = NOW, before: Assessment | None = None) -> Assessment:
    """Return the assessment of the node with the kubeadm profile and the configuration `more`."""
    config = parse([Source("test", more)] if more else [])
    return assess(Store(config.certificates, str(node.root)).observe(), at, before, config.renew_before)


def parsed(text: str) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def samples(text: str) -> dict[str, dict[Labels, float]]:
    """Return family -> labels -> value. A duplicate series fails the test."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in series, f"{sample.name} has {sample.labels} twice"
            series[labels] = sample.value
    return found


def only(series: dict[Labels, float]) -> dict[str, str]:
    """The labels of the only series that there is."""
    (found,) = series
    return dict(found)


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def on_disk(node: Node, name: str) -> x509.Certificate:
    """The certificate as cryptography reads it, with no help from certmond."""
    path = FILES[name][1]
    if path.endswith(".conf"):
        data = node.kubeconfig(path)["users"][0]["user"]["client-certificate-data"]
        return x509.load_pem_x509_certificate(base64.b64decode(data))
    return node.certificate(KUBELET_PEM if name == "kubelet-client" else path)


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_families_are_the_documented_ones(node: Node) -> None:
    """The text of a real node has exactly the documented families, each with its type and an explanation."""
    families = parsed(Renderer().metrics(looked_at(node), Telemetry("observe").text()))
    assert {name: family.type for name, family in families.items()} == FAMILIES
    assert all(family.documentation for family in families.values())


def test_the_families_are_there_without_a_certificate() -> None:
    """A node with nothing to watch has the same families, and three counts of zero findings."""
    text = Renderer().metrics(Assessment(NOW, (), {}), Telemetry("observe").text())
    assert parsed(text).keys() == FAMILIES.keys()
    assert samples(text)["certmond_findings"] == {labels(severity=severity): 0 for severity in Severity}
    assert "certmond_certificate_chain_valid" not in samples(text)


def test_a_real_node_reads_as_cryptography_reads_it(node: Node) -> None:
    """Every series about the certificates of a real kubeadm node, and no other, with the values that its files have."""
    text = Renderer().metrics(looked_at(node))
    not_before, not_after, renewal, valid, info, finding, anchors = ({} for _ in range(7))
    for name, (ca, path) in FILES.items():
        certificate = on_disk(node, name)
        key = labels(certificate=name, path=f"/{path}")
        sha256 = certificate.fingerprint(hashes.SHA256()).hex()
        end = certificate.not_valid_after_utc
        not_before[key] = certificate.not_valid_before_utc.timestamp()
        not_after[key] = end.timestamp()
        renewal[key] = (end - (180 if name == ca else 30) * DAY).timestamp()
        valid[key] = 1
        facts = {"subject": certificate.subject.rfc4514_string(), "issuer": certificate.issuer.rfc4514_string()}
        info[key | labels(**facts, serial=str(certificate.serial_number), sha256=sha256, key="RSA-2048")] = 1
        if name == ca:
            anchors[key | labels(sha256=sha256)] = end.timestamp()
            finding[key | labels(reason="nonpositive_serial", severity="info")] = 1
    assert samples(text) == {
        "certmond_certificate_not_before_timestamp_seconds": not_before,
        "certmond_certificate_not_after_timestamp_seconds": not_after,
        "certmond_certificate_renewal_timestamp_seconds": renewal,
        "certmond_certificate_chain_valid": valid,
        "certmond_certificate_info": info,
        "certmond_finding": finding,
        "certmond_findings": {labels(severity=name): 3 * (name == "info") for name in Severity},
        "certmond_unwatched_references": {labels(): 0},
        "certmond_trust_anchor_not_after_timestamp_seconds": anchors,
    }


def test_a_defect_changes_the_series(node: Node) -> None:
    """A broken chain is a 0, each finding a 1 with its reason and severity, and the counters count them."""
    before = samples(Renderer().metrics(looked_at(node)))
    node.write(f"{API}.crt", node.read(f"{PKI}/front-proxy-client.crt"))
    node.path(f"{API}.key").chmod(0o640)
    after = samples(Renderer().metrics(looked_at(node)))
    key = labels(certificate="apiserver", path=f"/{API}.crt")
    assert before["certmond_certificate_chain_valid"][key] == 1
    assert after["certmond_certificate_chain_valid"][key] == 0
    found = {(dict(one)["reason"], dict(one)["severity"]) for one in after["certmond_finding"] if key <= one}
    assert {("no_path", "critical"), ("key_mismatch", "critical"), ("too_open", "warning")} <= found
    by_severity = Counter(dict(one)["severity"] for one in after["certmond_finding"])
    assert after["certmond_findings"] == {labels(severity=name): by_severity[name] for name in Severity}


def test_a_file_that_broke_keeps_its_dates_beside_the_finding(node: Node) -> None:
    """A truncated file has the series of its last good certificate, a chain that is no longer valid, and a finding."""
    before = looked_at(node)
    node.write(f"{API}.crt", node.read(f"{API}.crt")[:100])
    old, new = (samples(Renderer().metrics(one)) for one in (before, looked_at(node, before=before)))
    key = labels(certificate="apiserver", path=f"/{API}.crt")
    for family in ("not_before_timestamp_seconds", "not_after_timestamp_seconds", "renewal_timestamp_seconds", "info"):
        assert new[f"certmond_certificate_{family}"] == old[f"certmond_certificate_{family}"]
    assert new["certmond_certificate_chain_valid"][key] == 0
    assert new["certmond_finding"][key | labels(reason="malformed", severity="critical")] == 1


def test_a_file_that_never_was_has_its_finding_and_no_dates(node: Node) -> None:
    """A certificate that was never seen has no date that could be believed, but a chain that does not hold."""
    node.path(f"{API}.crt").unlink()
    found = samples(Renderer().metrics(looked_at(node)))
    key = labels(certificate="apiserver", path=f"/{API}.crt")
    assert {name for name, series in found.items() if any(key <= one for one in series)} == {
        "certmond_certificate_chain_valid",
        "certmond_finding",
    }


def written(renderer: Renderer, assessment: Assessment, directory: Path) -> tuple[str, str]:
    """Write the two files of the daemon."""
    renderer.write_metrics(directory / "metrics.prom", assessment)
    renderer.write_status(directory / "status.json", assessment, "observe", next_event(assessment, Policy()))
    return (directory / "metrics.prom").read_text(), (directory / "status.json").read_text()


def test_a_series_goes_when_its_certificate_goes(node: Node, tmp_path: Path) -> None:
    """A certificate that matched a pattern and was removed leaves no series, and nothing in memory."""
    more = "certificates: [{name: extra, path: /etc/extra/*.crt, ca: ca, optional: true}]"
    node.path("etc/extra").mkdir()
    node.path("etc/extra/a.crt").write_bytes(node.read(f"{API}.crt"))
    renderer, before = Renderer(), looked_at(node, more)
    assert 'certificate="extra"' in written(renderer, before, tmp_path)[0]
    node.path("etc/extra/a.crt").unlink()
    after = looked_at(node, more, before=before)
    assert 'certificate="extra"' not in written(renderer, after, tmp_path)[0]
    assert renderer._metrics._rows == tuple(after.statuses)


def test_a_key_pair_has_findings_only(node: Node) -> None:
    """The service-account keys are no certificate: a mismatch is a finding, and there is nothing else to say."""
    node.write(f"{PKI}/sa.key", key_pem(builders.new_key("ec")))
    found = samples(Renderer().metrics(looked_at(node)))
    about_sa = {name for name, series in found.items() for one in series if ("certificate", "sa") in one}
    assert about_sa == {"certmond_finding"}


# --- labels -----------------------------------------------------------------------------------------------------------

hostile = st.text(st.characters() | st.sampled_from('\\"\n\r{},= \udcff'), max_size=12)


def readable(text: str) -> str:
    """Return the label of a text: the text, with the bytes of a file's name that are no UTF-8 escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def judged(name: str, path: str, issued: builders.Issued, *faults: Fault) -> Assessment:
    spec = CertificateSpec(name="x", path="/x")
    seen = Observation(name, spec, path, certificates=(issued.facts,), faults=faults)
    return assess(Inventory((seen,)), builders.NOW)


LEAF = builders.make_leaf(builders.make_ca(key="ec"), key="ec")


@given(hostile, hostile, hostile)
@example('\\"\n', "\\n\\\\", "\udcff\\udcff")
def test_a_label_is_read_back_unchanged(name: str, path: str, subject: str) -> None:
    """Backslash, quote, newline and any other character in a name, a path or a subject are read back unchanged."""
    facts = replace(LEAF.facts, subject=subject, issuer=subject)
    seen = Observation(name, CertificateSpec(name="x", path="/x"), path, certificates=(facts,))
    text = Renderer().metrics(assess(Inventory((seen,)), builders.NOW))
    assert text.encode("utf-8")
    expected = {"certificate": readable(name), "path": readable(path)}
    assert samples(text)["certmond_certificate_chain_valid"].keys() == {labels(**expected)}
    facts_read = only(samples(text)["certmond_certificate_info"])
    assert facts_read["subject"] == facts_read["issuer"] == readable(subject)


@pytest.mark.parametrize("organisation", ['a"b', "a\\b", "a\nb", 'a",path="b', "ünï\u2028çödé", "\\n", "a\\"])
def test_a_hostile_subject_is_one_label(organisation: str) -> None:
    """A certificate whose subject has quotes, backslashes or line breaks in it is read back as exactly that subject."""
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)])
    issued = builders.make_leaf(builders.make_ca(key="ec"), key="ec", subject=subject)
    text = Renderer().metrics(judged("x", "/x", issued))
    assert only(samples(text)["certmond_certificate_info"])["subject"] == subject.rfc4514_string()


@pytest.mark.real("promtool")
def test_promtool_accepts_the_names_that_a_file_system_can_have(node: Node) -> None:
    """File names with line breaks, quotes and bytes that are no UTF-8 give a valid text."""
    directory = node.path("etc/extra")
    directory.mkdir()
    for name in (b"\xff\xfe.crt", b'a"b.crt', b"a\\b.crt", b"a\nb.crt", "ü\u2028.crt".encode()):
        with open(bytes(directory) + b"/" + name, "wb") as file:
            file.write(node.read(f"{API}.crt"))
    text = Renderer().metrics(
        looked_at(node, "certificates: [{name: extra, path: /etc/extra/*.crt, ca: ca}]"), Telemetry("observe").text()
    )
    assert text.count('certmond_certificate_chain_valid{certificate="extra"') == 5
    command = [real_part("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text.encode("utf-8"), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- no series twice --------------------------------------------------------------------------------------------------


def test_two_findings_of_one_reason_are_one_series(node: Node) -> None:
    """The certificate and its key too open, both a warning, are two findings and one series."""
    node.path(f"{API}.crt").chmod(0o664)
    node.path(f"{API}.key").chmod(0o640)
    found = samples(Renderer().metrics(looked_at(node)))
    about = [dict(one)["reason"] for one in found["certmond_finding"] if ("certificate", "apiserver") in one]
    assert about == ["too_open"]
    assert found["certmond_findings"][labels(severity="warning")] == 2


def test_one_reason_in_two_severities_is_two_series(node: Node) -> None:
    """A key that all users can read is critical, and a certificate that others can write is a warning: both have a
    series.
    """
    node.path(f"{API}.crt").chmod(0o664)
    node.path(f"{API}.key").chmod(0o644)
    found = samples(Renderer().metrics(looked_at(node)))
    about = [dict(one)["severity"] for one in found["certmond_finding"] if ("certificate", "apiserver") in one]
    assert sorted(about) == ["critical", "warning"]


def test_two_rows_for_one_file_are_two_certificates(node: Node) -> None:
    """A file that two entries name has the series of both, with different names."""
    more = f"""
certificates:
- {{name: again, path: /{API}.crt, ca: ca}}
- {{name: pattern, path: /{PKI}/api*.crt, ca: [ca, etcd-ca]}}
"""
    found = samples(Renderer().metrics(looked_at(node, more)))["certmond_certificate_chain_valid"]
    names = {dict(one)["certificate"] for one in found if ("path", f"/{API}.crt") in one}
    assert names == {"apiserver", "again", "pattern"}


def test_a_name_and_path_that_occur_twice_have_one_series(node: Node, tmp_path: Path) -> None:
    """Prometheus rejects a text in which a series occurs twice."""
    assessment = looked_at(node)
    twice = replace(assessment, statuses=(*assessment.statuses, assessment.statuses[0]))
    for text in (Renderer().metrics(twice), written(Renderer(), twice, tmp_path)[0]):
        found = samples(text)["certmond_certificate_chain_valid"]
        assert found == samples(Renderer().metrics(assessment))["certmond_certificate_chain_valid"]


def test_a_kubeconfig_with_a_client_certificate_is_not_only_a_ca(node: Node) -> None:
    """`ca_only` omits the kubeconfigs whose certificates are in the document."""
    document = status_document(looked_at(node), "observe", None)
    assert any(entry["path"] == "/etc/kubernetes/admin.conf" for entry in document["certificates"])
    assert "/etc/kubernetes/admin.conf" not in document["ca_only"]


def test_a_bundle_with_one_certificate_twice_has_it_once(node: Node) -> None:
    """A CA file in which the same certificate stands twice, and another of the same name, has no series twice."""
    twice = node.read(f"{PKI}/ca.crt") * 2
    node.write(f"{PKI}/ca.crt", twice + builders.make_ca(key="ec").pem)
    found = samples(Renderer().metrics(looked_at(node)))["certmond_trust_anchor_not_after_timestamp_seconds"]
    assert len([one for one in found if ("path", f"/{PKI}/ca.crt") in one]) == 2


def test_names_in_a_kubeconfig_cannot_spoil_the_text(node: Node) -> None:
    """Whatever its users and clusters are called, a kubeconfig makes no series twice."""
    document = node.kubeconfig("etc/kubernetes/admin.conf")
    user = document["users"][0]["user"]
    document["users"] += [{"name": name, "user": user} for name in ("ca:kubernetes", "x", "x", "2")]
    node.path("etc/mine.conf").write_text(yaml.safe_dump(document))
    more = "certificates: [{name: mine, kind: kubeconfig, path: /etc/mine.conf, ca: ca}]"
    assert samples(Renderer().metrics(looked_at(node, more), Telemetry("observe").text()))


# --- nothing twice ----------------------------------------------------------------------------------------------------


class Pen:
    """Counts what is rendered, by the certificate's name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.entries: list[str] = []
        lines, entry = render._lines, certificate_entry

        def counted_lines(status: Any) -> Any:
            self.lines.append(status.seen.name)
            return lines(status)

        def counted_entry(status: Any) -> Any:
            self.entries.append(status.seen.name)
            return entry(status)

        monkeypatch.setattr(render, "_lines", counted_lines)
        monkeypatch.setattr(render, "certificate_entry", counted_entry)

    def taken(self) -> tuple[list[str], list[str]]:
        taken = self.lines, self.entries
        self.lines, self.entries = [], []
        return taken


def test_an_unchanged_certificate_is_not_rendered_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pass renders the certificate that changed, and copies the others from the files. The result equals a complete
    rendering.
    """
    pen, renderer, config = Pen(monkeypatch), Renderer(), parse([])
    store = Store(config.certificates, str(node.root))
    first = assess(store.observe(), NOW, None, config.renew_before)
    written(renderer, first, tmp_path)
    assert sorted(pen.taken()[0]) == sorted([*FILES, "sa"])

    node.reissue(API)
    second = assess(store.observe(), NOW, first, config.renew_before)
    metrics, status = written(renderer, second, tmp_path)
    assert pen.taken() == (["apiserver"], ["apiserver"])
    assert metrics == Renderer().metrics(second)
    assert json.loads(status) == status_document(second, "observe", next_event(second, Policy()))


def test_a_change_by_time_alone_is_rendered(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A certificate that becomes due without a change on the disk is rendered again, and no other is."""
    pen, renderer, config = Pen(monkeypatch), Renderer(), parse([])
    store = Store(config.certificates, str(node.root))
    first = assess(store.observe(), NOW, None, config.renew_before)
    written(renderer, first, tmp_path)
    pen.taken()
    later = assess(store.observe(frozenset()), NOW + 340 * DAY, first, config.renew_before)
    assert "nearing_expiry" in written(renderer, later, tmp_path)[0]
    assert "apiserver" in pen.lines
    assert "ca" not in pen.lines


# --- the JSON ---------------------------------------------------------------------------------------------------------


def _as_it_is(node: Node) -> None:
    pass


def _broken(node: Node) -> None:
    node.write(f"{API}.crt", b"")
    node.path(f"{PKI}/etcd/server.crt").unlink()
    node.path(f"{PKI}/ca.crt").chmod(0o666)


def _no_anchor(node: Node) -> None:
    node.path(f"{PKI}/ca.crt").unlink()
    node.write(f"{PKI}/sa.key", key_pem(builders.new_key("ec")))


def _nothing(node: Node) -> None:
    for name in ("etc", "var"):
        node.path(name).rename(node.path(f"gone-{name}"))


@pytest.mark.parametrize("change", [_as_it_is, _broken, _no_anchor, _nothing])
def test_the_status_is_the_document(node: Node, change: Any, tmp_path: Path) -> None:
    """The JSON that the daemon renders is the document that `check` prints, on a good node and on broken ones."""
    before = looked_at(node)
    change(node)
    renderer, after = Renderer(), looked_at(node, before=before)
    for assessment in (before, after):
        document = status_document(assessment, "observe", next_event(assessment, Policy()))
        assert json.loads(written(renderer, assessment, tmp_path)[1]) == document


def test_a_broken_file_is_null_in_the_document_or_stale(node: Node) -> None:
    """Of a file that broke the document has the last good facts, called stale; of one that never was, nulls."""
    before = looked_at(node)
    node.write(f"{API}.crt", b"")
    for assessment, known in ((looked_at(node, before=before), True), (looked_at(node), False)):
        document = status_document(assessment, "observe", None)
        entry = next(entry for entry in document["certificates"] if entry["name"] == "apiserver")
        assert entry["stale"] is known
        assert (entry["not_after"] is not None) is (entry["sha256"] is not None) is known
        assert [item["reason"] for item in entry["findings"]] == ["malformed"]


def test_times_are_rfc_3339_in_utc(node: Node) -> None:
    """Every time in the document ends in Z and reads back as the certificate's."""
    entry = status_document(looked_at(node), "observe", None)["certificates"][1]
    certificate = node.certificate(f"{API}.crt")
    assert entry["not_after"] == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert datetime.fromisoformat(entry["renew_at"]) == certificate.not_valid_after_utc - 30 * DAY


# --- the line for `systemctl status`, and the writing -----------------------------------------------------------------


def summarised(assessment: Assessment) -> str:
    return summary(assessment, next_event(assessment, Policy()))


def test_the_summary_names_the_most_severe_reason(node: Node) -> None:
    """The line has the number of findings, the severity, the most severe reason, and the next event."""
    assert summarised(looked_at(node)) == "14 certificates, all well; next due apiserver on 2027-10-22"
    node.write(f"{API}.crt", node.read(f"{PKI}/front-proxy-client.crt") + b"a note\n")
    assert summarised(looked_at(node)).startswith("14 certificates, 1 critical (apiserver: no_path); next due ")
    notes = (Fault(Reason.TRAILING_DATA, "a note"), Fault(Reason.MALFORMED, "a block"))
    assert "(x: malformed)" in summarised(judged("x", "/x", LEAF, *notes))


def test_the_summary_before_the_first_check_of_the_services_is_of_files(node: Node) -> None:
    """Before this check, the number has no certificates that only a listener has, and no finding is about a service."""
    assessment = looked_at(node)
    line = summary(assessment, next_event(assessment, Policy()), services_checked=False)
    assert line == ("14 certificates in files, all well, services not checked yet; next due apiserver on 2027-10-22")


def test_the_summary_names_a_refused_configuration(node: Node) -> None:
    """After a reload of an invalid configuration, the summary names the command that prints its problems."""
    inventory = replace(Store(parse(()).certificates, str(node.root)).observe(), refused_configuration=("a problem",))
    assert "; the new configuration is invalid, see: certmond config validate" in summary(assess(inventory, NOW), None)


def test_the_summary_of_an_empty_node_has_a_remedy(node: Node) -> None:
    """Without any certificate, the line does not report a healthy node, but the remedy."""
    shutil.rmtree(node.path("etc"))
    shutil.rmtree(node.path("var"))
    remedy = "this node has no certificate of the profile; to find the profile that fits, run: certmond check"
    assert summarised(looked_at(node)) == remedy
    assert summarised(judged("x", "/x", LEAF)).startswith("1 certificate, ")


@pytest.mark.parametrize("severities", [(Severity.WARNING, Severity.CRITICAL), (Severity.CRITICAL, Severity.WARNING)])
def test_the_summary_speaks_of_the_critical_certificate_first(node: Node, severities: Iterable[Severity]) -> None:
    """Wherever it stands, what is critical is named before what is a warning."""
    modes = {Severity.WARNING: 0o640, Severity.CRITICAL: 0o644}
    for name, severity in zip(("apiserver", "apiserver-kubelet-client"), severities, strict=True):
        node.path(f"{PKI}/{name}.key").chmod(modes[severity])
    worst = dict(zip(severities, ("apiserver", "apiserver-kubelet-client"), strict=True))[Severity.CRITICAL]
    assert f"1 critical ({worst}: too_open)" in summarised(looked_at(node))


def test_a_rendering_replaces_the_old_one_whole(tmp_path: Path) -> None:
    """A reader that has the file open keeps the old text; the new one is another file, which all may read."""
    replace_runtime_file(tmp_path, "metrics.prom", "old")
    with (tmp_path / "metrics.prom").open() as reader:
        umask = os.umask(0o077)
        replace_runtime_file(tmp_path, "metrics.prom", "new")
        os.umask(umask)
        assert reader.read() == "old"
    assert (tmp_path / "metrics.prom").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.prom"]
    assert stat.S_IMODE((tmp_path / "metrics.prom").stat().st_mode) == 0o644


def test_a_rendering_does_not_follow_a_link(tmp_path: Path) -> None:
    """A link at the path of the draft is not followed: it is replaced, and the text is in place."""
    (tmp_path / ".metrics.prom.new").symlink_to(tmp_path / "elsewhere")
    replace_runtime_file(tmp_path, "metrics.prom", "text")
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "metrics.prom").read_text() == "text"


def test_a_missing_status_means_that_no_daemon_runs(tmp_path: Path) -> None:
    """Without a status document, the error names the command that starts the daemon."""
    with pytest.raises(NotRunningError, match="start it: systemctl start certmond"):
        read_status(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_an_invalid_status_is_an_error(tmp_path: Path, content: bytes) -> None:
    """If the status document is invalid, the error asks whether the daemon runs."""
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(RuntimeDirError, match="systemctl status certmond"):
        read_status(tmp_path)


# --- metrics of certmond itself ---------------------------------------------------------------------------------------


def test_a_mode_is_in_force_and_the_other_is_not() -> None:
    """The mode in force is 1, the other 0, also after a reload that changed it."""
    telemetry = Telemetry("observe")
    assert samples(telemetry.text())["certmond_mode"] == {labels(mode="observe"): 1, labels(mode="enforce"): 0}
    telemetry.set_mode("enforce")
    assert samples(telemetry.text())["certmond_mode"] == {labels(mode="observe"): 0, labels(mode="enforce"): 1}


def test_passes_and_changes_are_counted() -> None:
    """Each pass counts for its cause, each change with its latency; totals of the watcher are taken over, not added."""
    telemetry = Telemetry("observe")
    telemetry.count_pass("start", 0.1, None)
    telemetry.count_pass("inotify", 0.2, 0.06)
    for events in (3, 3, 5):
        telemetry.set_watch(watched=0, polled=0, events=events, overflows=1)
    found = samples(telemetry.text())
    assert found["certmond_passes_total"][labels(cause="inotify")] == 1
    assert found["certmond_passes_total"][labels(cause="resync")] == 0
    assert found["certmond_pass_duration_seconds_count"] == {labels(): 2}
    assert found["certmond_change_to_publish_seconds_count"] == {labels(): 1}
    assert found["certmond_watch_events_total"] == {labels(): 5}
    assert found["certmond_watch_overflows_total"] == {labels(): 1}


def test_a_single_look_is_no_stale_one(node: Node) -> None:
    """`certmond metrics`, from a timer, says when it looked: the alert for a stale daemon is silent about it."""
    before = time.time()
    done = CliRunner().invoke(cli, ["metrics", "--root", str(node.root)])
    assert done.exit_code == 0
    assert parsed(done.output).keys() == FAMILIES.keys()
    assert samples(done.output)["certmond_last_pass_timestamp_seconds"][labels()] >= before
