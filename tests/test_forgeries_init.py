"""A forged file on a node before `certmond init`: its content goes into no certificate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import DAY, YEAR, Issued, make_ca
from tests.cli.test_pki_init import Host
from tests.forgeries import forgeries
from tests.node import PKI

CLIENT = f"{PKI}/apiserver-kubelet-client"
NOW = datetime.now(UTC)
TODAY: Any = {"not_before": NOW - DAY, "not_after": NOW + 90 * DAY}
AUTHORITY: Any = {"not_before": NOW - YEAR, "not_after": NOW + 9 * YEAR}


def put(host: Host, stem: str, issued: Issued) -> None:
    host.at(stem).parent.mkdir(parents=True, exist_ok=True)
    host.at(f"{stem}.crt").write_bytes(issued.pem)
    host.at(f"{stem}.key").write_bytes(issued.key_pem)
    host.at(f"{stem}.key").chmod(0o600)


def subjects(host: Host) -> set[str]:
    """Return the subjects of all certificates in separate files."""
    return {
        certificate.subject
        for path in host.root.rglob("*.crt")
        for certificate in decode(path.read_bytes(), path.name).certificates
    }


@pytest.mark.parametrize("forgery", ["self-signed", "same-name", "widened", "older"])
def test_init_signs_nothing_that_a_forged_file_says(tmp_path: Path, forgery: str) -> None:
    """`init` creates nothing beside a forged certificate, and names its file. Without that file, `init` creates what
    the cluster's configuration defines, and no certificate with the forged subject.
    """
    host, ca = Host(tmp_path / "host"), make_ca(**AUTHORITY)
    put(host, f"{PKI}/ca", ca)
    put(host, CLIENT, forgeries(ca, NOW, **TODAY)[forgery]())
    problems = host.refused()
    assert any(f"/{CLIENT}.crt" in problem for problem in problems)
    for suffix in ("crt", "key"):
        host.at(f"{CLIENT}.{suffix}").unlink()
    host.made()
    assert not any("mallory" in subject for subject in subjects(host))
    assert "CN=kube-apiserver-kubelet-client,O=kubeadm:cluster-admins" in subjects(host)
