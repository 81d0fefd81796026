"""The names of x509-certificate-exporter: its rules and dashboards work with the same values."""

from __future__ import annotations

import gc
import re
import subprocess
import tracemalloc
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

from certmond.cli.main import cli
from certmond.config.loader import load
from certmond.expose.metrics.x509_exporter_names import Compatible
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.validator import validated
from tests import builders
from tests.conftest import real_part
from tests.node import NOW, PKI, Node

DAY = timedelta(days=1)
API = f"{PKI}/apiserver"
PER_CERTIFICATE = ("x509_cert_not_before", "x509_cert_not_after", "x509_cert_expired")
DOCUMENTED = {"filename", "filepath", "embedded_kind", "embedded_key", "serial_number"} | {
    f"{side}_{field}" for side in ("issuer", "subject") for field in ("C", "ST", "L", "O", "OU", "CN")
}

# What the chart's alerts ask, in our words (chart/templates/prometheusrule.yaml of its versions 3.21 and 4.2).
RULES = {
    "ReadErrors": "delta(x509_read_errors[15m]) > 0",
    "CertificateError": "x509_cert_error > 0",
    "CertificateRenewal": "x509_cert_not_after - time() < 28 * 86400",
    "CertificateExpiration": "x509_cert_not_after - time() < 14 * 86400",
    "CertificateNotYetValid": "x509_cert_not_before > time()",
}


def looked_at(node: Node, at: datetime = NOW, before: Assessment | None = None) -> Assessment:
    return assess(Store(load().certificates, str(node.root)).observe(), at, before)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return (series, labels) -> value. A duplicate series fails the test."""
    every = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in every}
    assert len(found) == len(every)
    return found


def about(text: str, name: str, **labels: str) -> list[float]:
    wanted = frozenset(labels.items())
    return [value for (series, given), value in samples(text).items() if series == name and wanted <= given]


def test_each_certificate_has_its_dates_and_names(node: Node) -> None:
    """A file's certificate: file, serial number and names as labels, and when it begins and ends."""
    certificate = node.certificate(f"{API}.crt")
    text = Compatible().text(looked_at(node))
    labels = {
        "filename": "apiserver.crt", "filepath": f"/{API}.crt", "serial_number": str(certificate.serial_number),
        "issuer_CN": "kubernetes", "subject_CN": "kube-apiserver",
    }  # fmt: skip
    assert about(text, "x509_cert_not_after", **labels) == [certificate.not_valid_after_utc.timestamp()]
    assert about(text, "x509_cert_not_before", **labels) == [certificate.not_valid_before_utc.timestamp()]
    assert about(text, "x509_cert_expired", **labels) == [0]
    assert about(text, "x509_cert_error", filename="apiserver.crt", filepath=f"/{API}.crt") == [0]


def test_a_kubeconfig_has_user_and_cluster(node: Node) -> None:
    """A kubeconfig has two series: the user's certificate and the CA that is trusted for the cluster."""
    text = Compatible().text(looked_at(node))
    path = "/etc/kubernetes/admin.conf"
    user = {"embedded_kind": "user", "embedded_key": "kubernetes-admin", "subject_CN": "kubernetes-admin"}
    cluster = {"embedded_kind": "cluster", "embedded_key": "kubernetes", "subject_CN": "kubernetes"}
    assert len(about(text, "x509_cert_not_after", filepath=path, **user)) == 1
    assert len(about(text, "x509_cert_not_after", filepath=path, **cluster)) == 1
    assert len(about(text, "x509_cert_error", filepath=path)) == 1


def test_every_series_has_the_documented_labels_and_all_three(node: Node) -> None:
    """No label but the exporter's own; the three families have the same series."""
    found = samples(Compatible().text(looked_at(node)))
    by_family = [{labels for name, labels in found if name == family} for family in PER_CERTIFICATE]
    assert by_family[0] == by_family[1] == by_family[2]
    assert {label for series in by_family[0] for label, _ in series} <= DOCUMENTED
    assert len(by_family[0]) > 10


def test_time_alone_ends_a_certificate(node: Node) -> None:
    """`x509_cert_expired` is 1 from the first second after its end, with nothing else having changed."""
    compatible, first = Compatible(), looked_at(node)
    end = node.certificate(f"{API}.crt").not_valid_after_utc
    assert about(compatible.text(first), "x509_cert_expired", filepath=f"/{API}.crt") == [0]
    last = looked_at(node, end, first)
    assert about(compatible.text(last), "x509_cert_expired", filepath=f"/{API}.crt") == [0]
    after = looked_at(node, end + timedelta(seconds=1), last)
    assert about(compatible.text(after), "x509_cert_expired", filepath=f"/{API}.crt") == [1]


def test_the_rest_of_a_file_ends_by_time_alone() -> None:
    """One behind the first of its file has ended when it has, although the verdict on the first is the same."""
    ca = builders.make_ca()
    leaf, other = builders.make_leaf(ca), builders.make_leaf(ca, not_after=builders.NOW + DAY)
    spec = validated(CertificateSpec, {"name": "a", "path": "/a.pem"})
    first = assess(Inventory((Observation("a", spec, "/a.pem", (leaf.facts, other.facts)),)), builders.NOW)
    compatible, serial = Compatible(), str(other.facts.serial)
    assert about(compatible.text(first), "x509_cert_expired", serial_number=serial) == [0]
    later = replace(first, taken_at=builders.NOW + 2 * DAY)
    assert about(compatible.text(later), "x509_cert_expired", serial_number=serial) == [1]


def test_a_file_that_breaks_is_an_error_and_keeps_its_dates(node: Node) -> None:
    """Errors are of a file, and counted; what it last held stays, so that an alert on its end does not resolve."""
    compatible, before = Compatible(), looked_at(node)
    assert about(compatible.text(before), "x509_read_errors") == [0]
    node.write(f"{API}.crt", b"")
    text = compatible.text(looked_at(node, before=before))
    assert about(text, "x509_cert_error", filepath=f"/{API}.crt") == [1]
    assert len(about(text, "x509_cert_not_after", filepath=f"/{API}.crt")) == 1
    assert about(text, "x509_read_errors") == [1]


def test_each_certificate_of_a_file_has_one_series() -> None:
    """A chain has a series for each of its certificates. Two entries for one path do not give two series."""
    ca = builders.make_ca()
    leaf = builders.make_leaf(ca)
    specs = [validated(CertificateSpec, {"name": name, "path": "/x.pem"}) for name in ("a", "b")]
    seen = tuple(Observation(spec.name, spec, "/x.pem", (leaf.facts, ca.facts)) for spec in specs)
    text = Compatible().text(assess(Inventory(seen), builders.NOW))
    assert len(about(text, "x509_cert_not_after", filepath="/x.pem")) == 2


def test_a_certificate_that_is_gone_has_no_series(node: Node) -> None:
    """The rendering keeps no part of it."""
    compatible = Compatible()
    assert about(compatible.text(looked_at(node)), "x509_cert_not_after")
    assert not about(compatible.text(assess(Inventory(()), NOW)), "x509_cert_not_after")


def test_names_are_the_first_of_each_and_anybody_s() -> None:
    """Of several organisations the first; text that would end a label is escaped."""
    ca = builders.make_ca()
    odd = builders.make_leaf(ca, subject=x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "first"),
         x509.NameAttribute(NameOID.ORGANIZATION_NAME, "second"),
         x509.NameAttribute(NameOID.COMMON_NAME, 'a "b" \\ c,d')]
    ))  # fmt: skip
    spec = validated(CertificateSpec, {"name": "odd", "path": "/odd.pem"})
    text = Compatible().text(assess(Inventory((Observation("odd", spec, "/odd.pem", (odd.facts,)),)), builders.NOW))
    assert about(text, "x509_cert_not_after", subject_O="first", subject_CN='a "b" \\ c,d')


@pytest.mark.long
def test_of_a_large_name_that_is_gone_nothing_is_kept() -> None:
    """Nor of three, one after the other in one file."""
    compatible, spec = Compatible(), validated(CertificateSpec, {"name": "a", "path": "/a.pem"})

    def shown(number: int) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{number}{'x' * 100_000}")])
        leaf = builders.make_leaf(builders.make_ca(subject=name), subject=name)
        seen = Observation("a", spec, "/a.pem", (leaf.facts,))
        assert about(compatible.text(assess(Inventory((seen,)), builders.NOW)), "x509_cert_error") == [0]

    shown(0)
    compatible.text(assess(Inventory(()), builders.NOW))
    tracemalloc.start()
    try:
        for number in range(1, 4):
            shown(number)
        compatible.text(assess(Inventory(()), builders.NOW))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


def test_it_is_off_unless_it_is_asked_for(node: Node, tmp_path: Path) -> None:
    """`compatibility` in the configuration is what exports them, beside certmond's own."""
    options = ["--root", str(node.root), "metrics"]
    assert "x509_" not in CliRunner().invoke(cli, options).output
    path = tmp_path / "config.yaml"
    path.write_text("compatibility: x509-certificate-exporter\n")
    text = CliRunner().invoke(cli, ["--config", str(path), *options]).output
    assert about(text, "x509_exporter_build_info", version=version("certmond")) == [1]
    assert about(text, "certmond_build_info", version=version("certmond")) == [1]
    assert about(text, "certmond_findings", severity="critical")


@pytest.mark.real("promtool")
def test_the_alerts_of_its_chart_hold_on_them(node: Node, tmp_path: Path) -> None:
    """Rules that ask what its chart's do: an end in 20 and in 3 days, a start to come, a file that cannot be read."""
    expected = {
        "CertificateRenewal": {"front-proxy-client.crt", "apiserver.crt", "server.crt"},
        "CertificateExpiration": {"apiserver.crt"},
        "CertificateNotYetValid": {"peer.crt"},
        "CertificateError": {"healthcheck-client.crt"},
    }
    node.reissue(API, end=NOW + 3 * DAY)
    node.reissue(f"{PKI}/front-proxy-client", ca=f"{PKI}/front-proxy-ca", end=NOW + 20 * DAY)
    node.reissue(f"{PKI}/etcd/server", ca=f"{PKI}/etcd/ca", end=NOW + 20 * DAY)
    node.reissue(f"{PKI}/etcd/peer", ca=f"{PKI}/etcd/ca", start=NOW + 3 * DAY)
    good = samples(Compatible().text(looked_at(node)))
    node.write(f"{PKI}/etcd/healthcheck-client.crt", b"-----BEGIN")
    text = Compatible().text(looked_at(node))
    series = [
        {"series": f"{name}{{{_labels(labels)}}}", "values": _values(name, value, good.get((name, labels), value))}
        for (name, labels), value in samples(text).items()
    ]
    rules = [{"alert": name, "expr": expression, "labels": {"rule": name}} for name, expression in RULES.items()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "x509", "rules": rules}]}))
    query = 'count by (rule, filename) (ALERTS{alertstate="firing"})'
    wanted = [
        {"labels": f'{{rule="{rule}", filename="{name}"}}', "value": 1}
        for rule, names in expected.items()
        for name in names
    ] + [{"labels": '{rule="ReadErrors"}', "value": 1}]
    test = {"interval": "1m", "input_series": series,
            "promql_expr_test": [{"expr": query, "eval_time": "20m", "exp_samples": wanted}]}  # fmt: skip
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [real_part("promtool"), "test", "rules", str(tmp_path / "test.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _labels(labels: frozenset[tuple[str, str]]) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in sorted(labels))


def _values(name: str, value: float, before: float) -> str:
    """For half an hour, time beginning at 0; a count of errors changes after ten minutes."""
    if re.fullmatch("x509_cert_not_(before|after)", name):
        return f"{value - NOW.timestamp():.0f}x30"
    return f"{before:.0f}x10 {value:.0f}x20"
