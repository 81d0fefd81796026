"""The running daemon follows a reference that appears in a manifest, a drop-in or a kubeconfig, without a restart."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.builders import make_ca, make_leaf
from tests.daemon_harness import running
from tests.node import PKI, Node

CA = "etc/kubernetes/pki/extra.crt"
DROP_INS, UNITS = "etc/kubernetes/kubelet.conf.d", "etc/systemd/system"
K3S = "var/lib/rancher/k3s/agent/etc/kubelet.conf.d"
KUBELET = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}


class Change(NamedTuple):
    """A change of the node, and the name of the entry that follows from it."""

    entry: str
    change: Callable[[Node], None]
    prepare: Callable[[Node], None] = lambda _: None


def write(node: Node, path: str, content: str | bytes) -> None:
    node.path(path).parent.mkdir(parents=True, exist_ok=True)
    staged = node.path(path).parent.parent / "staged"
    staged.write_bytes(content if isinstance(content, bytes) else content.encode())
    staged.chmod(0o600)
    staged.rename(node.path(path))


def add_flag(node: Node) -> None:
    manifest = yaml.safe_load(node.read("etc/kubernetes/manifests/kube-apiserver.yaml"))
    manifest["spec"]["containers"][0]["command"].append(f"--oidc-ca-file=/{CA}")
    write(node, "etc/kubernetes/manifests/kube-apiserver.yaml", yaml.safe_dump(manifest))


def add_user(node: Node, path: str) -> None:
    leaf = make_leaf(make_ca(), "second")
    config = node.kubeconfig(path)
    data = {"client-certificate-data": leaf.pem, "client-key-data": leaf.key_pem}
    encoded = {field: base64.b64encode(content).decode() for field, content in data.items()}
    config["users"].append({"name": "second", "user": encoded})
    write(node, path, yaml.safe_dump(config))


def name_drop_ins(node: Node) -> None:
    write(node, "var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="--config-dir=/{DROP_INS}"\n')


def name_existing_drop_ins(node: Node) -> None:
    name_drop_ins(node)
    node.path(DROP_INS).mkdir()


def add_kubelet_drop_in(node: Node) -> None:
    fields = KUBELET | {"authentication": {"x509": {"clientCAFile": f"/{CA}"}}}
    write(node, f"{DROP_INS}/10-clients.conf", yaml.safe_dump(fields))


def add_drop_in_of_k3s(node: Node) -> None:
    fields = KUBELET | {"authentication": {"x509": {"clientCAFile": f"/{CA}"}}}
    write(node, f"{K3S}/90-clients.conf", yaml.safe_dump(fields))


def configure_k3s(node: Node) -> None:
    node.path(K3S).mkdir(parents=True)
    write(node, "etc/rancher/k3s/config.yaml", "kubelet-arg: [v=2]\n")


def enable_proxy(node: Node) -> None:
    write(node, f"{UNITS}/kube-proxy.service", "[Service]\nExecStart=/usr/bin/kube-proxy $MORE\n")
    node.path(f"{UNITS}/multi-user.target.wants").mkdir()
    node.path(f"{UNITS}/multi-user.target.wants/kube-proxy.service").symlink_to(
        "/etc/systemd/system/kube-proxy.service"
    )


def add_unit_drop_in(node: Node) -> None:
    drop_in = "[Service]\nEnvironment=MORE=--kubeconfig=/etc/kubernetes/proxy.conf\n"
    write(node, f"{UNITS}/kube-proxy.service.d/10-more.conf", drop_in)


def add_webhook(node: Node) -> None:
    manifest = yaml.safe_load(node.read("etc/kubernetes/manifests/kube-apiserver.yaml"))
    path = f"/{PKI}/webhook.conf"
    manifest["spec"]["containers"][0]["command"].append(f"--audit-webhook-config-file={path}")
    write(node, "etc/kubernetes/manifests/kube-apiserver.yaml", yaml.safe_dump(manifest))
    write(node, path[1:], node.read("etc/kubernetes/admin.conf"))


CHANGES = {
    "a manifest gains a flag": Change("kube-apiserver.oidc-ca-file", add_flag),
    "a drop-in of the kubelet": Change("kubelet.clientCAFile", add_kubelet_drop_in, name_existing_drop_ins),
    "the directory of the drop-ins too": Change("kubelet.clientCAFile", add_kubelet_drop_in, name_drop_ins),
    "a drop-in of the kubelet of k3s": Change("kubelet.clientCAFile", add_drop_in_of_k3s, configure_k3s),
    "a drop-in of a unit": Change("kube-proxy.kubeconfig", add_unit_drop_in, enable_proxy),
    "a unit is enabled": Change("kube-proxy.kubeconfig", enable_proxy, add_unit_drop_in),
    "a user in admin.conf": Change("admin.conf#second", lambda node: add_user(node, "etc/kubernetes/admin.conf")),
    "a user in a webhook's kubeconfig": Change(
        "kube-apiserver.audit-webhook-config-file#second",
        lambda node: add_user(node, f"{PKI}/webhook.conf"),
        add_webhook,
    ),
}


def prepare(node: Node, change: Change) -> None:
    node.write(CA, make_ca("extra").pem)
    write(node, "etc/kubernetes/proxy.conf", node.read("etc/kubernetes/scheduler.conf"))
    change.prepare(node)


@pytest.mark.long
@pytest.mark.parametrize("name", CHANGES)
def test_the_daemon_follows_a_new_reference(name: str, node: Node, tmp_path: Path) -> None:
    """After the change, `status.json` has the entry of the new reference. The daemon continues to run."""
    change = CHANGES[name]
    prepare(node, change)
    with running(node.root, tmp_path) as daemon:
        assert daemon.entry(change.entry) is None
        change.change(node)
        daemon.until(lambda: daemon.entry(change.entry), f"the entry {change.entry}")
