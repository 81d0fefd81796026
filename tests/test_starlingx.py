"""The platform certificates of a StarlingX controller: certmond lists them, and reports each defect."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from tests.builders import DAY, NOW, YEAR, make_ca
from tests.distributions import PRIVATE, SHARED, SHARED_FILES, Tree, starlingx, write_pair

AT = NOW + DAY
DOMAINS = ("etc", "var/lib", "opt", "run")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tree for the module, because its RSA keys take seconds. A test restores the files that it changes."""
    root = tmp_path_factory.mktemp("starlingx")
    starlingx(root)
    return root


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Tree:
    subprocess.run(["cp", "-a", f"{pristine}/.", tmp_path / "node"], check=True)
    return Tree(tmp_path / "node")


def check(tree: Tree, code: int = 2) -> dict[str, Any]:
    words = [
        "check",
        "--root",
        str(tree.root),
        "--profile",
        "starlingx",
        "-o",
        "json",
        "--at",
        f"{AT:%Y-%m-%dT%H:%M:%SZ}",
    ]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def reasons(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Return the severity of each finding by entry and reason."""
    return {
        (entry["name"], item["reason"]): item["severity"]
        for entry in document["certificates"]
        for item in entry["findings"]
        if item["severity"] != "info"
    }


def test_check_lists_each_file_in_which_openssl_finds_a_certificate(tree: Tree) -> None:
    """`check` names every file below /etc, /var/lib, /opt and /run that contains a certificate, or a copy of one."""
    found = set()
    for path in (path for domain in DOMAINS for path in (tree.root / domain).rglob("*") if path.is_file()):
        done = subprocess.run(
            ["openssl", "storeutl", "-noout", "-certs", path], capture_output=True, text=True, check=False
        )
        if re.search(r"Total found: [1-9]", done.stdout):
            found.add(f"/{path.relative_to(tree.root)}")
    listed = {entry["path"] for entry in check(tree, 0)["certificates"]}
    links = {path for path in listed if tree.at(path).is_symlink()}
    listed |= {str(tree.at(path).readlink()) for path in links}
    assert len(found) > 35
    assert not found - listed


PLATFORM = {
    "restapi-gui": f"{PRIVATE}/server-cert.pem",
    "registry": f"{PRIVATE}/registry-cert.crt",
    "openldap": "/etc/ldap/certs/openldap-cert.crt",
    "openstack": f"{PRIVATE}/openstack/cert.pem",
    "ipsec": "/etc/swanctl/x509/system-ipsec-certificate-controller-0.crt",
    "ceph-restful": "/run/ceph/mgr/restful.crt",
}


@pytest.mark.parametrize("entry", PLATFORM)
def test_a_platform_certificate_that_ends_soon_is_a_finding(tree: Tree, entry: str) -> None:
    """Three days before its end, each platform certificate is critical, and the finding names who renews it."""
    path = PLATFORM[entry]
    wanted = {"restapi-gui": {"together": True}, "openstack": {"key": "key.pem"}}.get(entry, {})
    dates = {"not_before": NOW - YEAR, "not_after": AT + 3 * DAY}
    write_pair(tree, path, make_ca("starlingx"), f"CN={entry}", **wanted, **dates)
    document = check(tree)
    assert reasons(document)[entry, "nearing_expiry"] == "critical"
    (found,) = [each for each in document["certificates"] if each["name"] == entry]
    assert any("it is renewed by" in item["message"] for item in found["findings"])


def test_a_broken_chain_of_the_admin_endpoint_is_a_finding(tree: Tree) -> None:
    """An intermediate CA of another root, a missing intermediate CA, and a missing root are critical."""
    path = f"{PRIVATE}/admin-ep-cert.pem"
    whole = tree.at(path).read_bytes()
    first, last = whole.index(b"-----BEGIN CERTIFICATE"), whole.rindex(b"-----BEGIN CERTIFICATE")
    key, leaf = whole[:first], whole[first:last]
    tree.write(path, key + leaf, 0o400)
    assert ("admin-endpoint", "no_path") in reasons(check(tree))
    tree.write(path, key + leaf + make_ca("subcloud1-adminep-ca").pem, 0o400)
    assert ("admin-endpoint", "no_path") in reasons(check(tree))
    tree.write(path, whole, 0o400)
    assert not reasons(check(tree, 0))
    tree.at("/etc/pki/ca-trust/source/anchors/dc-adminep-root-ca.crt").unlink()
    assert ("admin-endpoint", "no_path") in reasons(check(tree))


@pytest.mark.parametrize("copy", [path for path in SHARED_FILES if not path.endswith(("key", "key.pem"))])
def test_a_copy_in_the_configuration_partition_that_differs_is_a_finding(tree: Tree, copy: str) -> None:
    """A copy with another certificate than its original is the warning `copy_differs` of the copy's entry."""
    other = make_ca("other", not_after=NOW + 9 * YEAR)
    key = other.key_pem if copy == "server-cert.pem" else b""
    tree.write(f"{SHARED}/{copy}", key + other.pem, 0o600)
    document = check(tree, 1)
    (entry,) = [each for each in document["certificates"] if each["path"] == f"{SHARED}/{copy}"]
    assert reasons(document) == {(entry["name"], "copy_differs"): "warning"}


def test_a_worker_has_no_files_of_a_controller(tree: Tree) -> None:
    """On a worker, only the files that a worker has are entries, and no other file is missing."""
    tree.remove(
        "/opt/platform", "/etc/haproxy", "/etc/docker-distribution", PRIVATE, "/etc/ldap", "/run/ceph", "/etc/etcd"
    )
    tree.remove("/etc/kubernetes/manifests")
    for path in ("admin.conf", "controller-manager.conf", "scheduler.conf", "pki/haproxy_client.pem"):
        tree.at(f"/etc/kubernetes/{path}").unlink()
    for path in tree.at("/etc/kubernetes/pki").iterdir():
        if path.name != "ca.crt":
            path.unlink()
    assert not reasons(check(tree, 0))
