"""Which distribution of Kubernetes a node is of, told by the files that nothing else has: it is the profile that fits.

Owns the table of those files. Where more than one distribution has left some, nobody can tell, and nothing is claimed.
Reads no file: that one is there is all that counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from certmond.files.cache import Files

# Profile -> the files of which one is enough. Those of a profile before another one's count for more: StarlingX is
# kubeadm's, and an etcd may be beside either.
_MARKS = {
    "k3s": ("/var/lib/rancher/k3s/server/tls/server-ca.crt", "/var/lib/rancher/k3s/agent/server-ca.crt"),
    "rke2": ("/var/lib/rancher/rke2/server/tls/server-ca.crt", "/var/lib/rancher/rke2/agent/server-ca.crt"),
    "k0s": ("/var/lib/k0s/pki/ca.crt", "/var/lib/k0s/kubelet.conf"),
    "microk8s": ("/var/snap/microk8s/current/certs/ca.crt",),
    "starlingx": ("/etc/platform/platform.conf",),
    "kubeadm": ("/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/kubelet.conf"),
    "etcd": ("/etc/etcd/etcd.env", "/etc/etcd/pki/server.crt"),
}
_MORE_THAN = {"starlingx": ("kubeadm", "etcd"), "kubeadm": ("etcd",)}
NAMES = {
    "k3s": "k3s", "rke2": "RKE2", "k0s": "k0s", "microk8s": "MicroK8s", "starlingx": "StarlingX", "kubeadm": "kubeadm",
    "etcd": "an etcd of its own",
}  # fmt: skip
"""What people call them."""


class Distribution(NamedTuple):
    """The profile that fits, and the file that says so."""

    profile: str
    mark: str

    def __str__(self) -> str:
        return f"{self.mark} is there, as on a node of {NAMES[self.profile]}"


def distributions(root: str) -> tuple[Distribution, ...]:
    """Those that the files below `root` speak for: one where that is certain, more where it is not, or none."""
    files = Files(root)
    marks = {name: _first(files, paths) for name, paths in _MARKS.items()}
    found = {name: mark for name, mark in marks.items() if mark}
    less = {name for more in found for name in _MORE_THAN.get(more, ())}
    return tuple(Distribution(name, mark) for name, mark in found.items() if name not in less)


def advice(root: str, profile: str) -> str:
    """What to do where the node below `root` has no certificate of `profile`."""
    others = [each for each in distributions(root) if each.profile != profile]
    if not others:
        return "name another with --profile, or list certificates in the configuration (`certmond discover` helps)"
    return "; ".join(
        f"{each}: `--profile {each.profile}`, or `profile: {each.profile}` in the configuration" for each in others
    )


def _first(files: Files, paths: Iterable[str]) -> str:
    return next((path for path in paths if not files.entry(path).missing), "")
