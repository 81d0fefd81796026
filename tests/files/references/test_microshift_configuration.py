"""The additional serving certificates in the configuration of MicroShift."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.findings import Reason
from tests.builders import make_ca, make_server
from tests.distributions import Tree
from tests.node import NOW


@pytest.mark.parametrize("path", ["/etc/microshift/config.yaml", "/etc/microshift/config.d/10-tls.yaml"])
def test_each_named_certificate_is_followed(tmp_path: Path, path: str) -> None:
    """certmond watches each pair in `namedCertificates` of the configuration file and its drop-ins."""
    tree = Tree(tmp_path)
    end = NOW + timedelta(days=5)
    leaf = make_server(make_ca("extra"), "api", not_before=NOW - timedelta(days=300), not_after=end)
    tree.write("/etc/own.crt", leaf.pem)
    tree.write("/etc/own.key", leaf.key_pem, 0o600)
    named = [{"certPath": "/etc/own.crt", "keyPath": "/etc/own.key"}, {"names": ["a"]}, "b"]
    store = Store((), str(tmp_path), references=True)
    assert not store.observe().observations
    tree.write(path, yaml.safe_dump({"apiServer": {"namedCertificates": named}}))
    (status,) = assess(store.observe(), NOW).statuses
    assert (status.seen.path, status.seen.key_path) == ("/etc/own.crt", "/etc/own.key")
    assert getattr(status.seen.spec, "named_by", "") == f"namedCertificates in {path}"
    assert Reason.NEARING_EXPIRY in {item.reason for item in status.findings}


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (
            {"apiServer": {"namedCertificates": [{"certPath": "/etc/new.crt", "keyPath": "/etc/new.key"}]}},
            "/etc/new.crt",
        ),
        ({"apiServer": {"namedCertificates": None}}, ""),
        ({"apiServer": None}, ""),
        ({"apiServer": {"port": 1}}, "/etc/old.crt"),
        ({"node": {}}, "/etc/old.crt"),
    ],
)
def test_the_last_list_replaces_the_others(tmp_path: Path, last: object, expected: str) -> None:
    """A list in a drop-in, or null, replaces the list in the configuration file."""
    tree = Tree(tmp_path)
    old = [{"certPath": "/etc/old.crt", "keyPath": "/etc/old.key"}]
    tree.write("/etc/microshift/config.yaml", yaml.safe_dump({"apiServer": {"namedCertificates": old}}))
    tree.write("/etc/microshift/config.d/10.yaml", yaml.safe_dump(last))
    found = Store((), str(tmp_path), references=True).observe().observations
    assert {seen.path for seen in found} == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("content", "message"),
    [("", ""), ("a: [", "is not YAML"), ("apiServer: {namedCertificates: a}", ""), ("apiServer: a", "")],
)
def test_an_unreadable_configuration_is_not_watched(tmp_path: Path, content: str, message: str) -> None:
    """certmond reports `not_watched` for a file that is not YAML, and nothing for a file without certificates."""
    Tree(tmp_path).write("/etc/microshift/config.yaml", content)
    found = assess(Store((), str(tmp_path), references=True).observe(), NOW).loose_findings
    messages = [item.message for item in found]
    assert [message in each for each in messages] == ([True] if message else [])


def test_a_configuration_that_is_a_directory_is_not_watched(tmp_path: Path) -> None:
    """A directory in the place of the file is a finding."""
    Tree(tmp_path).write("/etc/microshift/config.yaml/x", "")
    (item,) = assess(Store((), str(tmp_path), references=True).observe(), NOW).loose_findings
    assert "/etc/microshift/config.yaml is a directory" in item.message
