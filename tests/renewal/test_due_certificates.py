"""The certificates that certmond may renew now."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.validity_rules import renewal_point
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.x509.certificate import Certificate
from certmond.renewal import due_certificates
from certmond.renewal.due_certificates import DueCertificates
from tests.builders import DAY, NOW, YEAR, make_leaf
from tests.test_renewal import Host

ALL = {"apiserver", "admin.conf", "kubelet-client"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node with a pair, a kubeconfig and a kubelet's PEM, all of them due."""
    return Host(tmp_path / "host", "apiserver", "admin.conf", "kubelet-client")


def due(host: Host, now: datetime = NOW, **options: Any) -> set[str]:
    seen = Store(host.config.certificates, str(host.root)).observe()
    return {each.name for each in DueCertificates(host.config).of(seen, now, **options)}


def test_a_certificate_is_due_from_its_renewal_point(host: Host) -> None:
    """A certificate is due from the renewal point on, less the spread, and before it is valid."""
    assert due(host) == ALL
    assert due(host, NOW - 60 * DAY) == set()
    assert due(host, NOW - 2 * YEAR) == ALL


@pytest.mark.parametrize("spread", [timedelta(0), timedelta(hours=3)])
def test_the_renewal_point_less_the_spread_is_the_first_due_moment(host: Host, spread: timedelta) -> None:
    """A microsecond before this moment, the certificate is not due."""
    config = replace(host.config, spread=spread)
    seen = Store(config.certificates, str(host.root)).observe()
    (entry,) = (each for each in seen.observations if each.name == "apiserver")
    start = renewal_point(entry.certificates[0], entry.spec, config.renew_before) - spread
    assert entry in DueCertificates(config).of(seen, start)
    assert entry not in DueCertificates(config).of(seen, start - timedelta(microseconds=1))


def test_a_spread_beyond_the_first_year_is_ignored(host: Host) -> None:
    """If the renewal point less the spread is before the year 1, the certificate is due from the renewal point on."""
    config = replace(host.config, spread=timedelta(days=1_000_000))
    seen = Store(config.certificates, str(host.root)).observe()
    assert {each.name for each in DueCertificates(config).of(seen, NOW)} == ALL
    assert DueCertificates(config).of(seen, NOW - 60 * DAY) == []


def test_an_entry_without_a_certificate_is_never_due(host: Host) -> None:
    """A file without a certificate is not due, also during a rotation of its CA."""
    host.at(host.entries["apiserver"]["path"]).write_bytes(b"")
    assert due(host) == due(host, family="ca") == due(host, everything=True) == ALL - {"apiserver"}


def test_a_rotation_and_a_command_add_certificates_that_are_not_due(host: Host) -> None:
    """`family` adds the certificates of a CA, and `everything` adds all certificates."""
    early = NOW - 60 * DAY
    assert due(host, early, family="ca") == ALL
    assert due(host, early, family="other") == set()
    assert due(host, early, everything=True) == ALL


def test_a_certificate_that_certmond_does_not_renew_is_never_due(host: Host) -> None:
    """No signer signs the certificate, another program renews it, or the key of its CA is not on this node."""
    host.entries["apiserver"] |= {"signer": "none"}
    host.entries["admin.conf"] |= {"renewed_by": "the operator"}
    assert due(host) == {"kubelet-client"}
    host.at("/etc/kubernetes/pki/ca.key").unlink()
    assert due(host) == set()
    host.settings["signers"] = [{"name": "site", "kind": "command", "command": ["/bin/true"]}]
    host.entries["kubelet-client"] |= {"signer": "site"}
    assert due(host) == {"kubelet-client"}


def test_a_replaced_file_has_another_renewal_point(host: Host) -> None:
    """The renewal point of the previous scan counts only for the same observation."""
    lookup, path = DueCertificates(host.config), host.at(host.entries["apiserver"]["path"])
    store = Store(host.config.certificates, str(host.root))
    assert "apiserver" in {each.name for each in lookup.of(store.observe(), NOW)}
    new = make_leaf(host.ca, "kube-apiserver", not_before=NOW - DAY, not_after=NOW + YEAR)
    path.write_bytes(new.pem)
    assert "apiserver" not in {each.name for each in lookup.of(store.observe(), NOW)}


def test_an_entry_has_its_renewal_point_beside_other_entries(host: Host) -> None:
    """Entries that appear or disappear before an entry do not change its renewal point."""
    new = make_leaf(host.ca, "kube-apiserver", not_before=NOW - DAY, not_after=NOW + YEAR)
    host.at(host.entries["apiserver"]["path"]).write_bytes(new.pem)
    lookup, seen = DueCertificates(host.config), Store(host.config.certificates, str(host.root)).observe()
    cas = tuple(each for each in seen.observations if each.name not in ALL)
    entries = tuple(each for each in seen.observations if each.name in ALL)
    for some in (entries, entries[::-1], entries[1:], entries, entries[:1], entries[::-1]):
        due = {each.name for each in lookup.of(replace(seen, observations=(*cas, *some)), NOW)}
        assert due == {each.name for each in some} - {"apiserver"}


def test_the_renewal_points_of_unchanged_files_are_computed_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call computes only the renewal points of the changed entry, and of entries between two changed entries."""
    points = list[str]()

    def counted(certificate: Certificate, spec: CertificateSpec, default: timedelta) -> datetime:
        points.append(spec.name)
        return renewal_point(certificate, spec, default)

    monkeypatch.setattr(due_certificates, "renewal_point", counted)
    lookup, store = DueCertificates(host.config), Store(host.config.certificates, str(host.root))
    lookup.of(store.observe(), NOW)
    assert set(points) == ALL
    points.clear()
    lookup.of(store.observe(), NOW)
    assert points == []
    new = make_leaf(host.ca, "kube-apiserver", not_before=NOW - DAY, not_after=NOW + YEAR)
    host.at(host.entries["apiserver"]["path"]).write_bytes(new.pem)
    lookup.of(store.observe(), NOW)
    assert points == ["apiserver"]
    points.clear()
    order = [spec.name for spec in host.config.certificates if spec.name in ALL]
    assert order == ["apiserver", "admin.conf", "kubelet-client"]
    newer = make_leaf(host.ca, "system:node:n", not_before=NOW - DAY, not_after=NOW + YEAR)
    host.at(host.entries["apiserver"]["path"]).write_bytes(newer.pem)
    host.at(str(host.at(host.entries["kubelet-client"]["path"]).readlink())).write_bytes(newer.pem + newer.key_pem)
    lookup.of(store.observe(), NOW)
    assert points == order
