"""The files of a cluster's nodes before any process runs: `certmond init`, the files that joined nodes share, and
kubeadm's manifests.

It has the differences from kubeadm: the stand-in for each component, its environment, and the
construction of a worker, which `certmond init` does not support.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.builders import HOUR, YEAR, make_ca, make_leaf, make_server
from tests.conftest import real_part, unavailable
from tests.control_plane import COMPONENTS, PKI
from tests.node import DATA
from tests.rotation.node import KUBELET_CONF, KUBELET_PKI, SERVER_CURRENT, BedNode

PROGRAMS = (*COMPONENTS, "kubelet", "kubectl", "pod", "ask")
_SHARED = (
    "ca.crt", "ca.key", "etcd/ca.crt", "etcd/ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub"
)  # fmt: skip
_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"x509": {"clientCAFile": f"{PKI}/ca.crt"}},
    "rotateCertificates": True,
    "staticPodPath": "/etc/kubernetes/manifests",
}


def built(directory: Path) -> Path:
    """Return the stand-ins, as a directory of programs with the names of the components."""
    go = real_part("go")
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (1, 24):
        unavailable(f"{version} is older than the one that Kubernetes is built with, go1.24")
    settings = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    cache = {"GOCACHE": str(directory / "cache")} if "HOME" not in os.environ else {}
    first, *others = (directory / name for name in PROGRAMS)
    source = Path(__file__).with_name("components")
    subprocess.run([go, "build", "-o", first, "."], cwd=source, env=cache | os.environ | settings, check=True)
    for path in others:
        path.hardlink_to(first)  # a process is known by the name of its file, which a symbolic link does not change
    return directory


def make(nodes: Sequence[BedNode], kept: Path) -> None:
    """Write the files of each of them; the first is a control plane. The first result is stored in `kept`, and then
    copied.
    """
    first = nodes[0]
    for node in nodes:
        template = kept / f"{node.name}-{'worker' if node.worker else 'control-plane'}{'-verified' * node.verified}"
        if not template.exists():
            node.root.mkdir(parents=True)
            (_join if node.worker else _init)(node, first)
            _kubelet(node, first)
            node.root.rename(template)
        shutil.copytree(template, node.root, symlinks=True)
        node.configure()


def _init(node: BedNode, first: BedNode) -> None:
    if node is not first:
        _share(node, first)
    node.configure()
    config = node.at("/etc/certmond/config.yaml")
    options = ("--root", str(node.root), "--config", str(config), "--state-dir", str(node.state))
    subprocess.run([sys.executable, "-m", "certmond", "init", *options], check=True, capture_output=True)
    shutil.rmtree(node.state)
    if node is not first:
        node.at("/etc/kubernetes/super-admin.conf").unlink()  # kubeadm has it on the node of `kubeadm init` alone


def _share(node: BedNode, first: BedNode) -> None:
    for name in _SHARED:
        path = node.at(f"{PKI}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(first.at(f"{PKI}/{name}"), path)


def _join(node: BedNode, first: BedNode) -> None:
    """Write the files of a worker after kubeadm, whose kubelet has its certificate from the API."""
    for path in (PKI, KUBELET_PKI):
        node.at(path).mkdir(parents=True)
    shutil.copy2(first.at(f"{PKI}/ca.crt"), node.at(f"{PKI}/ca.crt"))
    conf = first.read(KUBELET_CONF).replace(first.name.encode(), node.name.encode())
    node.replace(KUBELET_CONF, conf)
    now = datetime.now(UTC)
    dates: Any = {"not_before": now - HOUR, "not_after": now + YEAR}
    node.put_current(
        f"{KUBELET_PKI}/kubelet-client-current.pem", make_leaf(first.authority(), subject=_node_name(node), **dates)
    )


def _kubelet(node: BedNode, first: BedNode) -> None:
    """Write its configuration, and its serving certificate."""
    config = _KUBELET | {"serverTLSBootstrap": node.verified}
    node.replace("/var/lib/kubelet/config.yaml", yaml.safe_dump(config).encode())
    now = datetime.now(UTC)
    names = [f"DNS:{node.name}", f"IP:{node.address}"]
    terms: Any = {"not_before": now - HOUR, "not_after": now + YEAR, "names": names}
    if node.verified:
        node.put_current(SERVER_CURRENT, make_server(first.authority(), subject=_node_name(node), **terms))
        return
    own = make_ca(f"{node.name}-ca")  # which the kubelet discards after it has signed
    made = make_server(own, node.name, **terms)
    node.replace(f"{KUBELET_PKI}/kubelet.crt", made.pem + own.pem, 0o644)
    node.replace(f"{KUBELET_PKI}/kubelet.key", made.key_pem)


def _node_name(node: BedNode) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, f"system:node:{node.name}"))
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def put_manifests(node: BedNode, members: Sequence[BedNode], environments: Mapping[str, Mapping[str, str]]) -> None:
    """Write kubeadm's manifests, each with the stand-in for the component, and its environment."""
    for name in COMPONENTS:
        with tarfile.open(DATA / "kubeadm-1.24.tar") as archive:
            file = archive.extractfile(f"etc/kubernetes/manifests/{name}.yaml")
            assert file
            text = file.read().decode().replace("controller-0", node.name).replace("192.0.2.10", node.address)
        manifest = yaml.safe_load(text)
        (container,) = manifest["spec"]["containers"]
        cluster = ",".join(f"{member.name}=https://{member.address}:2380" for member in members)
        words = [
            f"--initial-cluster={cluster}" if word.startswith("--initial-cluster=") else word
            for word in container["command"][1:]
        ]
        if name == "kube-apiserver" and node.verified:
            words.append(f"--kubelet-certificate-authority={PKI}/ca.crt")
        container["command"] = [str(node.work.parent / "bin" / name), *words]
        container["env"] = [{"name": key, "value": value} for key, value in environments[name].items()]
        node.at("/etc/kubernetes/manifests").mkdir(exist_ok=True)
        node.replace(f"/etc/kubernetes/manifests/{name}.yaml", yaml.safe_dump(manifest).encode())
