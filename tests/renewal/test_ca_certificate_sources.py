"""Copies of a lost CA certificate in the archive and in kubeconfigs."""

from __future__ import annotations

import re
import subprocess
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from certmond.config.loader import load
from certmond.files.catalog_observer import Store
from certmond.renewal.ca_certificate_sources import copy_command
from certmond.state.archive import Archive
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import make_ca
from tests.node import NOW, PKI, Node

CA = f"{PKI}/ca.crt"
CONFS = ("admin", "controller-manager", "scheduler", "kubelet")


def command(node: Node, state: Path, now: datetime = NOW) -> str | None:
    config = load(None, profile="kubeadm")
    inventory = Store(config.certificates, str(node.root), config.given_facts).observe()
    (seen,) = (each for each in inventory.observations if each.name == "ca")
    return copy_command(seen, inventory, Archive(state), NodeFiles(str(node.root)), now)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node without the certificate of its CA, whose kubeconfigs embed the CA."""
    (tmp_path / "node").mkdir()
    made = Node(tmp_path / "node")
    made.path(CA).rename(tmp_path / "ca.crt")
    return made


def archived(state: Path, content: bytes) -> None:
    file = state.parent / "archived.crt"
    file.write_bytes(content)
    Archive(state).store("ca", {f"/{CA}": file}, NOW, {})


def without_ca_data(node: Node) -> None:
    """Embed another CA in every kubeconfig."""
    for name in CONFS:
        node.edit_kubeconfig(f"etc/kubernetes/{name}.conf", certificate_authority_data=make_ca().pem)


def run_below(node: Node, command: str) -> None:
    """Run the command with the paths of the node below its root."""
    below = command.replace("/etc/kubernetes", f"{node.root}/etc/kubernetes")
    subprocess.run(["sh", "-c", below], check=True)


def test_a_kubeconfig_restores_the_ca(node: Node, tmp_path: Path) -> None:
    """The command writes the bytes of the CA that the first kubeconfig embeds."""
    found = command(node, tmp_path / "state")
    assert found
    assert "/etc/kubernetes/admin.conf | base64 -d" in found
    run_below(node, found)
    assert node.read(CA) == (tmp_path / "ca.crt").read_bytes()
    assert node.path(CA).stat().st_mode & 0o777 == 0o644


def test_a_kubeconfig_that_is_gone_changes_nothing(node: Node, tmp_path: Path) -> None:
    """If the kubeconfig no longer exists, the command fails and writes no file."""
    found = command(node, tmp_path / "state")
    assert found
    node.path("etc/kubernetes/admin.conf").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        run_below(node, found)
    assert not node.path(CA).exists()


def test_the_archive_takes_precedence(node: Node, tmp_path: Path) -> None:
    """If the archive contains the CA, the command restores the archived file with mode 0644."""
    archived(tmp_path / "state", (tmp_path / "ca.crt").read_bytes())
    found = command(node, tmp_path / "state")
    assert found
    assert found.startswith(f"install -m 644 {tmp_path}/state/archive/ca/")
    run_below(node, found)
    assert node.read(CA) == (tmp_path / "ca.crt").read_bytes()
    assert node.path(CA).stat().st_mode & 0o777 == 0o644


def other_ca(_: bytes) -> bytes:
    return make_ca().pem


def with_a_second_ca(own: bytes) -> bytes:
    return own + make_ca().pem


def cut_off(own: bytes) -> bytes:
    return own[:300]


@pytest.mark.parametrize("content", [other_ca, with_a_second_ca, cut_off])
def test_another_ca_is_no_copy(node: Node, tmp_path: Path, content: Callable[[bytes], bytes]) -> None:
    """A copy that did not sign the node's certificates, a bundle and a damaged copy are not offered."""
    without_ca_data(node)
    archived(tmp_path / "state", content((tmp_path / "ca.crt").read_bytes()))
    assert command(node, tmp_path / "state") is None


def test_an_expired_ca_is_no_copy(node: Node, tmp_path: Path) -> None:
    """A copy that has expired is not offered."""
    assert command(node, tmp_path / "state", datetime(2099, 1, 1, tzinfo=UTC)) is None


def test_an_unreadable_archive_is_skipped(node: Node, tmp_path: Path) -> None:
    """If another user can change the archive, the command uses a kubeconfig."""
    archived(tmp_path / "state", (tmp_path / "ca.crt").read_bytes())
    for directory in (tmp_path / "state/archive/ca").iterdir():
        directory.chmod(0o777)
    assert "admin.conf" in str(command(node, tmp_path / "state"))


@pytest.mark.parametrize(
    "change", ["others can write", "two clusters", "quoted", "a file beside other data", "a wider line"]
)
def test_other_kubeconfigs_are_skipped(node: Node, tmp_path: Path, change: str) -> None:
    """The command does not use a kubeconfig that other users can write, or that the command cannot parse."""
    for name in CONFS:
        path = node.path(f"etc/kubernetes/{name}.conf")
        if change == "others can write":
            path.chmod(0o666)
        elif change == "two clusters":
            document = node.kubeconfig(f"etc/kubernetes/{name}.conf")
            document["clusters"].append({"name": "b", "cluster": dict(document["clusters"][0]["cluster"])})
            path.write_text(yaml.safe_dump(document))
        elif change == "a file beside other data":  # the current cluster has a file, and another cluster has the data
            document = node.kubeconfig(f"etc/kubernetes/{name}.conf")
            other = {"server": "https://192.0.2.1", "certificate-authority-data": b64encode(make_ca().pem).decode()}
            node.write("etc/kubernetes/copy.crt", (tmp_path / "ca.crt").read_bytes())
            document["clusters"][0]["cluster"].pop("certificate-authority-data")
            document["clusters"][0]["cluster"]["certificate-authority"] = "copy.crt"
            document["clusters"].append({"name": "b", "cluster": other})
            path.write_text(yaml.safe_dump(document))
        elif change == "a wider line":
            text = path.read_text()
            path.write_text(text + f"#\n  certificate-authority-data:   {b64encode(make_ca().pem).decode()}\n")
        elif change == "quoted":
            path.write_text(re.sub("(authority-data: )(.*)", r"\1'\2'", path.read_text()))
    assert command(node, tmp_path / "state") is None


def test_without_a_certificate_of_the_ca_nothing_is_a_copy(node: Node, tmp_path: Path) -> None:
    """If no certificate of the node names the CA, certmond cannot identify the CA."""
    archived(tmp_path / "state", (tmp_path / "ca.crt").read_bytes())
    for path in (*node.path(PKI).glob("*.crt"), *node.path("etc/kubernetes").glob("*.conf")):
        path.unlink()
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    assert command(node, tmp_path / "state") is None
