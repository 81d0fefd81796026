"""On each distribution without manifests, `check` reports the certificates that the flags of the components name."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.config.parser import parse
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.findings import Severity
from tests.builders import DAY, NOW, make_ca
from tests.distributions import MAKERS, Tree
from tests.proc_tree import ProcTree

AT = NOW + DAY
SOON, LATER = AT + 5 * DAY, AT + 1800 * DAY
OIDC = "/etc/oidc/ca.crt"
MICROK8S = "/var/snap/microk8s/current"
K0S = "/var/lib/k0s"
K0S_FLAGS = {
    "kube-apiserver": {
        "client-ca-file": "ca.crt", "etcd-cafile": "etcd/ca.crt", "etcd-certfile": "apiserver-etcd-client.crt",
        "etcd-keyfile": "apiserver-etcd-client.key", "kubelet-certificate-authority": "ca.crt",
        "kubelet-client-certificate": "apiserver-kubelet-client.crt",
        "kubelet-client-key": "apiserver-kubelet-client.key", "proxy-client-cert-file": "front-proxy-client.crt",
        "proxy-client-key-file": "front-proxy-client.key", "requestheader-client-ca-file": "front-proxy-ca.crt",
        "service-account-key-file": "sa.pub", "tls-cert-file": "server.crt", "tls-private-key-file": "server.key",
    },
    "kube-controller-manager": {
        "authentication-kubeconfig": "ccm.conf", "authorization-kubeconfig": "ccm.conf", "kubeconfig": "ccm.conf",
        "client-ca-file": "ca.crt", "cluster-signing-cert-file": "ca.crt", "cluster-signing-key-file": "ca.key",
        "requestheader-client-ca-file": "front-proxy-ca.crt", "root-ca-file": "ca.crt",
    },
    "kube-scheduler": {
        "authentication-kubeconfig": "scheduler.conf", "authorization-kubeconfig": "scheduler.conf",
        "kubeconfig": "scheduler.conf",
    },
    "etcd": {
        "cert-file": "etcd/server.crt", "key-file": "etcd/server.key", "trusted-ca-file": "etcd/ca.crt",
        "peer-cert-file": "etcd/peer.crt", "peer-key-file": "etcd/peer.key", "peer-trusted-ca-file": "etcd/ca.crt",
    },
}  # fmt: skip
"""The flags of k0s for files below /var/lib/k0s/pki (k0sproject/k0s, pkg/component/controller)."""


def k3s(tree: Tree) -> None:
    tree.write("/etc/rancher/k3s/config.yaml", f"kube-apiserver-arg:\n- oidc-ca-file={OIDC}\n", 0o600)


def rke2(tree: Tree) -> None:
    tree.write("/etc/rancher/rke2/config.yaml.d/oidc.yaml", f"kube-apiserver-arg+:\n- oidc-ca-file={OIDC}\n", 0o600)


def microk8s(tree: Tree) -> None:
    """Write the default argument files (microk8s-resources/default-args), with one flag more."""
    certs, credentials = "${SNAP_DATA}/certs", "${SNAP_DATA}/credentials"
    lines = {
        "kube-apiserver": [
            f"--cert-dir={certs}", f"--client-ca-file={certs}/ca.crt", f"--tls-cert-file={certs}/server.crt",
            f"--tls-private-key-file={certs}/server.key", f"--kubelet-certificate-authority={certs}/ca.crt",
            f"--kubelet-client-certificate={certs}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={certs}/apiserver-kubelet-client.key",
            f"--requestheader-client-ca-file={certs}/front-proxy-ca.crt",
            f"--proxy-client-cert-file={certs}/front-proxy-client.crt",
            f"--proxy-client-key-file={certs}/front-proxy-client.key",
            "--admission-control-config-file=${SNAP_DATA}/args/admission-control-config-file.yaml",
            f"--oidc-ca-file={OIDC}",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={credentials}/controller.config", f"--root-ca-file={certs}/ca.crt",
            f"--cluster-signing-cert-file={certs}/ca.crt", f"--cluster-signing-key-file={certs}/ca.key",
        ],
        "kubelet": [f"--kubeconfig={credentials}/kubelet.config", f"--cert-dir={certs}",
                    f"--client-ca-file={certs}/ca.crt"],
        "kube-proxy": [f"--kubeconfig={credentials}/proxy.config"],
        "kube-scheduler": [f"--kubeconfig={credentials}/scheduler.config"],
        "etcd": [f"--trusted-ca-file={certs}/ca.crt", f"--cert-file={certs}/server.crt"],
    }  # fmt: skip
    for name, words in lines.items():
        tree.write(f"{MICROK8S}/args/{name}", "\n".join(["# flags", *words, ""]), 0o660)
    plugins = "plugins: [{name: EventRateLimit, path: eventconfig.yaml}]\n"
    kind = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
    tree.write(f"{MICROK8S}/args/admission-control-config-file.yaml", kind + plugins, 0o660)
    tree.write(f"{MICROK8S}/args/eventconfig.yaml", "kind: Configuration\nlimits: []\n", 0o660)
    tree.at(f"{MICROK8S}/args").chmod(0o770)


def k8s_snap(tree: Tree) -> None:
    tree.write("/var/snap/k8s/common/args/kube-apiserver", f'--oidc-ca-file="{OIDC}"\n', 0o600)


def k0s(tree: Tree) -> None:
    extra = f"    extraArgs:\n      oidc-ca-file: {OIDC}\n"
    tree.write("/etc/k0s/k0s.yaml", f"kind: ClusterConfig\nspec:\n  api:\n{extra}", 0o600)


NODES = {"k0s": k0s, "k3s": k3s, "rke2": rke2, "microk8s": microk8s, "k8s-snap": k8s_snap}


def node(root: Path, profile: str, end: datetime) -> Tree:
    """Return a node with the CA of an OIDC provider, which ends at `end`."""
    tree = MAKERS[profile](root)
    tree.write(OIDC, make_ca("oidc", not_before=NOW - 360 * DAY, not_after=end).pem)
    return tree


def check(tree: Tree, profile: str) -> tuple[int, dict[str, Any]]:
    command = ["check", "--root", str(tree.root), "--profile", profile, "--at", f"{AT:%FT%TZ}", "-o", "json"]
    done = CliRunner().invoke(cli, command)
    return done.exit_code, json.loads(done.stdout)


def named(document: dict[str, Any]) -> dict[str, list[str]]:
    """Return the reasons of the findings of each entry that a flag names."""
    return {
        each["name"]: [item["reason"] for item in each["findings"]]
        for each in document["certificates"]
        if each.get("named_by")
    }


@pytest.mark.parametrize("profile", NODES)
def test_a_certificate_that_a_flag_names_is_reported_before_its_end(tmp_path: Path, profile: str) -> None:
    """The CA has the finding `nearing_expiry` five days before its end, and no other flag adds an entry."""
    tree = node(tmp_path, profile, SOON)
    NODES[profile](tree)
    code, document = check(tree, profile)
    assert code == 2
    assert named(document) == {"kube-apiserver.oidc-ca-file": ["nearing_expiry"]}


@pytest.mark.parametrize("profile", NODES)
def test_a_healthy_node_has_no_warning(tmp_path: Path, profile: str) -> None:
    """With a CA that ends years later, `check` exits 0, and each flag is followed."""
    tree = node(tmp_path, profile, LATER)
    NODES[profile](tree)
    code, document = check(tree, profile)
    assert (code, named(document)) == (0, {"kube-apiserver.oidc-ca-file": []})
    assert not [item for item in document["findings"] if item["reason"] == "not_watched"]


def processes(proc: ProcTree, *, user: int = 0) -> None:
    """Start the components of k0s with its default flags, and with the CA of an OIDC provider."""
    for number, (program, flags) in enumerate(K0S_FLAGS.items()):
        words = [f"--{flag}={K0S}/pki/{path}" for flag, path in flags.items()]
        words += [f"--oidc-ca-file={OIDC}"] if program == "kube-apiserver" else []
        proc.add(str(100 + number), f"{K0S}/bin/{program}", *words, user=user)


def judged(tree: Tree, proc: ProcTree) -> Assessment:
    certificates = parse((), profile="k0s").certificates
    return assess(Store(certificates, str(tree.root), references=True, proc=str(proc)).observe(), AT)


def severities(assessment: Assessment) -> dict[str, set[Severity]]:
    """Return the severities of the findings of each entry that a flag names."""
    return {
        status.seen.name: {item.severity for item in status.findings}
        for status in assessment.statuses
        if status.seen.named_by
    }


@pytest.fixture
def of_k0s(tmp_path: Path) -> Callable[[datetime], tuple[Tree, ProcTree]]:
    return lambda end: (node(tmp_path / "root", "k0s", end), ProcTree(tmp_path / "proc"))


@pytest.mark.parametrize(("end", "found"), [(SOON, {Severity.CRITICAL}), (LATER, set[Severity]())])
def test_the_processes_of_k0s_are_followed(
    of_k0s: Callable[[datetime], tuple[Tree, ProcTree]], end: datetime, found: set[Severity]
) -> None:
    """Only the flag that k0s does not give by itself adds an entry."""
    tree, proc = of_k0s(end)
    processes(proc)
    assert severities(judged(tree, proc)) == {"kube-apiserver.oidc-ca-file": found}


def test_the_processes_of_other_users_are_named(of_k0s: Callable[[datetime], tuple[Tree, ProcTree]]) -> None:
    """`k0s install controller` creates a user for each component. Without a configuration file, the flag is named."""
    tree, proc = of_k0s(SOON)
    processes(proc, user=996)
    assert severities(judged(tree, proc)) == {"kube-apiserver.oidc-ca-file": {Severity.INFO}}
