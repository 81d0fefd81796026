"""The platform certificates of a StarlingX controller: certmond lists them, and reports each defect."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509

from certmond.cli.main import cli
from certmond.config.parser import parse
from certmond.files.catalog_observer import Store
from certmond.notify.hook_input import document
from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.hook_events import Notices, due, open_findings
from certmond.pki.findings import Severity
from certmond.pki.rotation.phases import Phase
from certmond.restart.act import Restarter
from tests.builders import DAY, NOW, YEAR, make_ca
from tests.daemon_harness import running
from tests.distributions import PRIVATE, SHARED, SHARED_FILES, Tree, starlingx, write_pair
from tests.fault_manager import HOOK, FaultManager
from tests.node import Node, key_pem, pem
from tests.rotation_node import RotatingNode, root_ca

AT = NOW + DAY
HOLD = Path(__file__).parents[1] / "config/holds/starlingx-upgrade"
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
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def reasons(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    """Return the severity of each finding by entry and reason."""
    return {
        (entry["name"], item["reason"]): item["severity"]
        for entry in document["certificates"]
        for item in entry["findings"]
        if item["severity"] != "info"
    }


@pytest.mark.long
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


def deliver(tree: Tree, manager: FaultManager, before: Notices) -> Notices:
    """Give the hook the findings that differ from those of `before`, as the daemon does. Return the open findings."""
    inventory = Store(parse((), profile="starlingx").certificates, str(tree.root)).observe()
    found = open_findings(assess(inventory, AT), Severity.INFO)
    for step in due(found, before, AT, settled=True, at=AT):
        assert manager.run(document(step, "controller-0").decode()).returncode == 0
    return found


PLATFORM = {
    "restapi-gui": f"{PRIVATE}/server-cert.pem",
    "registry": f"{PRIVATE}/registry-cert.crt",
    "openldap": "/etc/ldap/certs/openldap-cert.crt",
    "openstack": f"{PRIVATE}/openstack/cert.pem",
    "ipsec": "/etc/swanctl/x509/system-ipsec-certificate-controller-0.crt",
    "ceph-restful": "/run/ceph/mgr/restful.crt",
}


@pytest.mark.parametrize(
    "entry", ["registry", *(pytest.param(entry, marks=pytest.mark.long) for entry in PLATFORM if entry != "registry")]
)
def test_a_platform_certificate_that_ends_soon_is_a_finding(tree: Tree, entry: str) -> None:
    """Three days before its end, each platform certificate is critical, and the finding names who renews it."""
    spoil(tree, entry)
    seen = check(tree)
    assert reasons(seen)[entry, "nearing_expiry"] == "critical"
    (found,) = [each for each in seen["certificates"] if each["name"] == entry]
    assert any("it is renewed by" in item["message"] for item in found["findings"])


def spoil(tree: Tree, entry: str, not_after: datetime = AT + 3 * DAY) -> None:
    """Write a platform certificate that ends on the given day."""
    path = PLATFORM[entry]
    special: dict[str, dict[str, Any]] = {"restapi-gui": {"together": True}, "openstack": {"key": "key.pem"}}
    dates: dict[str, Any] = {"not_before": NOW - YEAR, "not_after": not_after}
    write_pair(tree, path, make_ca("starlingx"), f"CN={entry}", **special.get(entry, {}), **dates)


@pytest.mark.long
def test_each_platform_certificate_has_its_alarm(pristine: Path, tree: Tree, tmp_path: Path) -> None:
    """Three days before the end of each platform certificate, the hook raises one 500.200 for each file. After the
    end, the alarm is 500.210. The hook clears it when the certificate is renewed.
    """
    manager = FaultManager(tmp_path)
    before = deliver(tree, manager, {})
    assert not manager.alarms
    for day, alarm, severity in ((AT + 3 * DAY, "500.200", "major"), (AT - DAY, "500.210", "critical")):
        for entry in PLATFORM:
            spoil(tree, entry, day)
        before = deliver(tree, manager, before)
        raised = {key.partition(" ")[2]: fields for key, fields in manager.alarms.items() if key.startswith(alarm)}
        assert len(raised) == len(PLATFORM) == len(manager.alarms)
        assert {fields[6] for fields in raised.values()} == {severity}
        assert "namespace=deployment.certificate=system-restapi-gui-certificate" in raised
        assert f"system.certificate.ipsec.host=controller-0.path={PLATFORM['ipsec']}" in raised
    subprocess.run(["cp", "-a", f"{pristine}/.", tree.root], check=True)
    assert deliver(tree, manager, before)
    assert not manager.alarms


def hook(manager: FaultManager) -> dict[str, Any]:
    """Return the entry of the hook, whose program only root can change."""
    program = shutil.copy(HOOK, manager.work / "starlingx-fm")
    environment = {"FM_CLIENT": str(manager.client)}
    return {
        "name": "fm", "command": [str(program)], "at_least": "info", "environment": environment, "time_limit": "10m"
    }  # fmt: skip


def enforcing(manager: FaultManager) -> list[str]:
    """Write a configuration of enforce mode with the hook. Return the options of the daemon."""
    document = {
        "profile": "starlingx", "mode": "enforce", "node_name": "controller-0", "hooks": [hook(manager)],
        "hold": {"unsynchronised_clock": False}, "restart": {"stable": "1s", "spacing": "1s"},
    }  # fmt: skip
    path = manager.work / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return ["--config", str(path), "--state-dir", str(manager.work / "state")]


@pytest.mark.long
def test_the_daemon_raises_and_clears_the_alarms_of_platform_certificates(
    pristine: Path, tree: Tree, tmp_path: Path
) -> None:
    """In enforce mode, the daemon raises 500.200 for each platform certificate with three days left, and clears it
    after another program has replaced the certificate. It renews none of them.
    """
    manager = FaultManager(tmp_path)
    for entry in PLATFORM:
        spoil(tree, entry, datetime.now(UTC) + 3 * DAY)
    before = {path: tree.at(path).read_bytes() for path in PLATFORM.values()}
    with running(tree.root, tmp_path, *enforcing(manager)) as daemon:
        daemon.until(lambda: len(manager.alarms) == len(PLATFORM), "raised")
        assert {(key.split()[0], fields[6]) for key, fields in manager.alarms.items()} == {("500.200", "major")}
        assert before == {path: tree.at(path).read_bytes() for path in PLATFORM.values()}
        subprocess.run(["cp", "-a", f"{pristine}/.", tree.root], check=True)
        daemon.until(lambda: not manager.alarms, "cleared")
        assert daemon.stop() == 0
    assert manager.calls.count("-c") == manager.calls.count("-d") == len(PLATFORM)


def make_due(tree: Tree) -> None:
    """Write an admin.conf whose certificate ends in ten days."""
    node = object.__new__(Node)  # the files are there
    node.root = tree.root
    name, now = "etc/kubernetes/admin.conf", datetime.now(UTC)
    old = base64.b64decode(node.kubeconfig(name)["users"][0]["user"]["client-certificate-data"])
    made, key = node.mint(x509.load_pem_x509_certificate(old), start=now - YEAR, end=now + 10 * DAY)
    node.edit_kubeconfig(name, client_certificate_data=pem(made), client_key_data=key_pem(key))


@pytest.mark.long
def test_the_daemon_raises_and_clears_the_alarm_of_a_renewal(tree: Tree, tmp_path: Path) -> None:
    """While certmond cannot renew admin.conf, because the key of its CA is missing, 500.200 is raised. The renewal
    clears it, and the alarm of HAProxy's bundle.
    """
    manager, key = FaultManager(tmp_path), tree.at("/etc/kubernetes/pki/ca.key")
    make_due(tree)
    key.rename(tmp_path / "ca.key")
    expiring = "500.200 system.certificate.admin.conf.host=controller-0.path=/etc/kubernetes/admin.conf"
    with running(tree.root, tmp_path, *enforcing(manager)) as daemon:
        daemon.until(lambda: expiring in manager.alarms, "due")
        shutil.copy(tmp_path / "ca.key", key)
        daemon.until(lambda: not manager.alarms, "renewed")
        assert daemon.stop() == 0


@pytest.mark.long
def test_the_daemon_raises_and_clears_the_alarm_of_a_failed_restart(tmp_path: Path) -> None:
    """If the service does not restart after a renewal, 250.003 is raised. A restart that succeeds clears it."""
    node, manager = RotatingNode(tmp_path / "node", served=True, hurried=False), FaultManager(tmp_path)
    broken = tmp_path / "broken"
    broken.touch()
    node.program(f"[ ! -e {broken} ]")
    node.configure(hooks=[hook(manager)])
    with node.daemon() as daemon:
        assert node.certmond("renew", "web").returncode != 0
        failed = "250.003 host=node-1.certificate=web.reason=restart_failed"
        daemon.until(lambda: failed in manager.alarms, "not restarted")
        broken.unlink()
        node.certmond("restart", "web")
        daemon.until(lambda: not manager.alarms, "restarted")
        assert daemon.stop() == 0


@pytest.mark.long
def test_the_daemon_raises_and_clears_the_alarm_of_a_rotation(tmp_path: Path) -> None:
    """While the daemon executes a rotation of the Root CA, 900.008 is raised. The end of the rotation clears it."""
    node, manager = RotatingNode(tmp_path / "node", hurried=False), FaultManager(tmp_path)
    node.configure(hooks=[hook(manager)], root_ca={"overlap": "1h"})
    new = root_ca()
    with node.daemon() as daemon:
        daemon.until(lambda: daemon.entry("ca"), "observed")
        assert not manager.alarms
        node.begin(new)
        daemon.until(lambda: node.phase is Phase.TRUST and len(node.trust()) == 2, "in the overlap")
        daemon.until(lambda: manager.alarms, "raised")
        assert list(manager.alarms) == ["900.008 host=node-1.certificate=ca"]
        node.configure(root_ca={"overlap": "1s"})
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: node.record is None, "over")
        daemon.until(lambda: not manager.alarms, "cleared")
        assert daemon.stop() == 0
    assert node.unwell(new) == []
    assert manager.calls.count("-c") == manager.calls.count("-d")


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


@pytest.mark.long
@pytest.mark.parametrize("copy", [path for path in SHARED_FILES if not path.endswith(("key", "key.pem"))])
def test_a_copy_in_the_configuration_partition_that_differs_is_a_finding(tree: Tree, copy: str) -> None:
    """A copy with another certificate than its original is the warning `copy_differs` of the copy's entry."""
    other = make_ca("other", not_after=NOW + 9 * YEAR)
    key = other.key_pem if copy == "server-cert.pem" else b""
    tree.write(f"{SHARED}/{copy}", key + other.pem, 0o600)
    seen = check(tree, 1)
    (entry,) = [each for each in seen["certificates"] if each["path"] == f"{SHARED}/{copy}"]
    assert reasons(seen) == {(entry["name"], "copy_differs"): "warning"}


def test_a_worker_has_no_files_of_a_controller(tree: Tree) -> None:
    """On a worker, only the files that a worker has are entries, and no other file is missing."""
    tree.remove(
        "/opt/platform", "/etc/haproxy", "/etc/docker-distribution", PRIVATE, "/etc/ldap", "/run/ceph", "/etc/etcd"
    )
    tree.remove("/etc/kubernetes/manifests")
    for path in ("admin.conf", "controller-manager.conf", "scheduler.conf", "pki/haproxy_client.pem"):
        tree.at(f"/etc/kubernetes/{path}").unlink()
    for place in tree.at("/etc/kubernetes/pki").iterdir():
        if place.name != "ca.crt":
            place.unlink()
    assert not reasons(check(tree, 0))


KUBERNETES = {
    "none": "echo A kubernetes upgrade is not in progress",
    "runs": "echo '| state | upgrading-first-master |'",
    "fails": "echo Must provide Keystone credentials; exit 1",
}
PLATFORM_UPGRADE = {
    "none": "echo No deploy in progress",
    "runs": "echo '| From Release | State |'; echo '| 25.09 | deploy-start |'",
    "fails": "echo no credentials; exit 1",
}


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("platform", PLATFORM_UPGRADE)
def test_the_hold_is_active_during_an_upgrade_only(tmp_path: Path, kubernetes: str, platform: str) -> None:
    """The program for `hold.command` exits with 0 if one of the two upgrades runs. A status command that fails, as on
    the standby controller, holds nothing, and standard error names the command.
    """
    for name, script in (("system", KUBERNETES[kubernetes]), ("software", PLATFORM_UPGRADE[platform])):
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$OS_USERNAME" = admin ] || exit 3\n{script}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "openrc").write_text("export OS_USERNAME=admin\n")
    done = subprocess.run(
        [HOLD], env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPENRC": str(tmp_path / "openrc")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (0 if "runs" in {kubernetes, platform} else 1), done.stderr
    if kubernetes == "fails":
        assert "system kube-upgrade-show failed, so this command holds no renewals: Must provide" in done.stderr


def test_the_kubelet_restarts_through_its_process_monitor(tmp_path: Path) -> None:
    """The kubelet stays a unit, whose process certmond detects, and pmon-restart restarts it."""
    (kubelet,) = [each for each in parse((), profile="starlingx").services if each.name == "kubelet"]
    assert (kubelet.kind, kubelet.unit) == ("systemd", "kubelet.service")
    assert kubelet.command == ("/usr/local/sbin/pmon-restart", "kubelet")
    program = tmp_path / "pmon-restart"
    program.write_text(f"#!/bin/sh\necho $1 >{tmp_path}/called\n")
    program.chmod(0o755)
    stand_in = replace(kubelet, command=(str(program), "kubelet"))
    assert Restarter().act(stand_in, "", None, revive=False) == f"{program} has run"
    assert (tmp_path / "called").read_text() == "kubelet\n"
