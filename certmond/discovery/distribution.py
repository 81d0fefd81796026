"""Detection of a node's Kubernetes distribution by the files that exist on the node.

This module defines the table of the files that identify each distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from certmond.config.shipped_profiles import NO_PROFILE
from certmond.files.cache import Files

# Profile -> files, of which one is enough. `_PRECEDENCE` contains the profiles over which a profile takes precedence: a
# node of StarlingX also has the files of kubeadm, and both can have the files of a separate etcd.
_MARKERS = {
    "k3s": ("/var/lib/rancher/k3s/server/tls/server-ca.crt", "/var/lib/rancher/k3s/agent/server-ca.crt"),
    "rke2": ("/var/lib/rancher/rke2/server/tls/server-ca.crt", "/var/lib/rancher/rke2/agent/server-ca.crt"),
    "k0s": ("/var/lib/k0s/pki/ca.crt", "/var/lib/k0s/kubelet.conf"),
    "microk8s": ("/var/snap/microk8s/current/certs/ca.crt",),
    "microshift": ("/var/lib/microshift/certs/kube-control-plane-signer/ca.crt",),
    "k8s-snap": ("/var/snap/k8s/common/args/kubelet",),
    "kops": ("/etc/sysconfig/kops-configuration", "/srv/kubernetes/kubelet-server.crt"),
    "starlingx": ("/etc/platform/platform.conf",),
    "kubespray": ("/etc/kubernetes/ssl/ca.crt", "/etc/ssl/etcd/ssl/ca.pem"),
    "kubeadm": ("/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/kubelet.conf"),
    "etcd": ("/etc/etcd/etcd.env", "/etc/etcd/pki/server.crt"),
}
_PRECEDENCE = {"kubeadm": ("etcd",)} | dict.fromkeys(("starlingx", "kubespray", "k8s-snap"), ("kubeadm", "etcd"))
NAMES = {
    "k3s": "k3s", "rke2": "RKE2", "k0s": "k0s", "microk8s": "MicroK8s", "microshift": "MicroShift",
    "k8s-snap": "Canonical Kubernetes (k8s-snap)", "starlingx": "StarlingX", "kubespray": "kubespray",
    "kops": "kOps", "kubeadm": "kubeadm", "etcd": "a separate etcd cluster",
}  # fmt: skip
"""Names of the distributions in messages, by profile."""


class Distribution(NamedTuple):
    """A profile that fits the node, and the file (`marker`) that identifies the distribution."""

    profile: str
    marker: str

    def __str__(self) -> str:
        return f"{self.marker} exists, as on a node of {NAMES[self.profile]}"


def distributions(root: str) -> tuple[Distribution, ...]:
    """Return the distributions that the files below `root` indicate.

    Omit a distribution if another indicated distribution takes precedence.
    """
    files = Files(root)
    marks = {name: _first(files, paths) for name, paths in _MARKERS.items()}
    found = {name: mark for name, mark in marks.items() if mark}
    less = {name for more in found for name in _PRECEDENCE.get(more, ())}
    return tuple(Distribution(name, mark) for name, mark in found.items() if name not in less)


def advice(root: str, profile: str) -> str:
    """Return the remedy for a node without a certificate of `profile`.

    The remedy names the other profiles that fit the node. If no other profile fits, the remedy is general.
    """
    found = distributions(root)
    others = [each for each in found if each.profile != profile]
    if not found:
        return "run certmond on a node of a cluster, or list the certificates in the configuration (`profile: none`)"
    if not others:
        return (
            "choose another profile with --profile, or list the certificates in the configuration: certmond discover "
            "prints the differences from this profile"
        )
    return "; ".join(
        f"{each}: use --profile {each.profile}, or write `profile: {each.profile}` in the configuration"
        for each in others
    )


def hint(root: str, profile: str) -> str:
    """Return a sentence with each profile that fits the node below `root`.

    Return "" if `profile` fits or is `none`, or if no profile fits.
    """
    found = distributions(root)
    if profile == NO_PROFILE or any(each.profile == profile for each in found):
        return ""
    return "; ".join(
        f"{each}, but the profile is {profile}: write `profile: {each.profile}` in the configuration, "
        f"or use --profile {each.profile}"
        for each in found
    )


def _first(files: Files, paths: Iterable[str]) -> str:
    return next((path for path in paths if not files.entry(path).missing), "")
