"""On each distribution without manifests, `check` reports the certificates that the flags of the components name."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from tests.builders import DAY, NOW, make_ca
from tests.distributions import MAKERS, Tree

AT = NOW + DAY
SOON, LATER = AT + 5 * DAY, AT + 1800 * DAY
OIDC = "/etc/oidc/ca.crt"
MICROK8S = "/var/snap/microk8s/current"


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


NODES = {"k3s": k3s, "rke2": rke2, "microk8s": microk8s, "k8s-snap": k8s_snap}


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
