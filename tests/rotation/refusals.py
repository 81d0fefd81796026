"""The acceptance of a rotated trust anchor: requested from every server that uses it, and shown to each client.

It has the servers and clients of each family. For each answer that is a refusal there is one that is not, from the same
component with the present anchor, so that a component that refuses everything does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509

from tests.builders import Issued
from tests.control_plane import ELECTING, PKI
from tests.rotation.bed import Bed
from tests.rotation.node import CURRENT, SERVER_CURRENT, BedNode, like

UNAUTHORIZED = "answer HTTP/1.1 401 Unauthorized"
UNKNOWN = "unknown certificate authority"
API = "kube-apiserver"
VERIFYING = {
    "ca": {(name, API) for name in (*ELECTING, "kubelet", "kubectl")},
    "etcd-ca": {(API, "etcd"), ("etcd", "etcd")},
    "front-proxy-ca": set[tuple[str, str]](),
}
"""The clients that verify a server by this anchor, and the server, by their components."""


@dataclass(frozen=True)
class Ask:
    """A request from a node to a server, with the certificate of a name, and the expected refusal."""

    inside: BedNode
    to: str
    name: str
    refusal: str
    flags: dict[str, str] = field(default_factory=dict)


def servers(bed: Bed, family: str) -> Iterator[Ask]:
    """Every server that verifies clients by this anchor."""
    first, last = bed.control_planes[0], bed.nodes[-1]
    there = [node for node in bed.nodes if bed.is_there(node)]
    for node in (each for each in there if not each.worker):
        match family:
            case "ca":
                for name in ("apiserver-kubelet-client", "kubelet", "admin"):
                    yield Ask(first, f"{node.address}:6443", name, UNAUTHORIZED)
                yield Ask(node, "127.0.0.1:10257", "admin", UNAUTHORIZED)
            case "etcd-ca":
                yield Ask(last, f"{node.address}:2379", "apiserver-etcd-client", UNKNOWN)
                yield Ask(last, f"{node.address}:2380", "etcd/peer", UNKNOWN)
            case "front-proxy-ca":
                for inside, to in ((last, f"{node.address}:6443"), (node, "127.0.0.1:10257")):
                    yield Ask(inside, to, "front-proxy-client", UNAUTHORIZED, {"for": "another-user"})
            case _:
                raise ValueError(family)
    for node in there if family == "ca" else ():
        yield Ask(first, f"{node.address}:10250", "apiserver-kubelet-client", UNAUTHORIZED)


def old_clients(bed: Bed, family: str, old: Issued, new: Issued) -> list[str]:
    """Return the errors if clients show a certificate of the old anchor, and of the present one."""
    found = list[str]()
    for ask in servers(bed, family):
        model = _certificate(bed.control_planes[0], ask.name)
        before, now = (ask.inside.asked(ask.to, like(model, by), **ask.flags) for by in (old, new))
        if ask.refusal not in before or now:
            found.append(f"{ask.to} says of {ask.name}: {before!r}, and of a present one {now!r}")
    return found


def old_servers(bed: Bed, family: str, old: Issued) -> set[tuple[str, str]]:
    """Return the directions that fail while servers show a certificate of the old anchor. Afterwards all succeed again.
    certmond does not run.
    """
    servers = {"ca": ("apiserver",), "etcd-ca": ("etcd/server", "etcd/peer"), "front-proxy-ca": ()}[family]
    there = [node for node in bed.control_planes if bed.is_there(node)]
    former = {(node.name, name, kind): node.read(f"{PKI}/{name}.{kind}")
              for node in there for name in servers for kind in ("key", "crt")}  # fmt: skip
    for node in there:
        for name in servers:
            model, key = node.tree.certificate(f"{PKI[1:]}/{name}.crt"), node.tree.key(f"{PKI[1:]}/{name}.key")
            node.put_pair(name, like(model, old, key))
    verified = [node for node in bed.nodes if node.verified and family == "ca"]
    kubelets = {node.name: node.at(SERVER_CURRENT).readlink() for node in verified}
    for node in verified:
        node.put_current(SERVER_CURRENT, like(node.current(SERVER_CURRENT), old))
        node.restart("kubelet")
    bed.settled()  # all of them have read it
    mark = bed.settled()
    failures = bed.failures(mark)
    assert all("unknown" in each.reason and "authority" in each.reason for each in failures), failures[:5]
    found = bed.failing(mark)
    for node in there:
        for (name, path, kind), content in former.items():
            if name == node.name:
                node.replace(f"{PKI}/{path}.{kind}", content)
    for node in verified:
        link = node.work / "link"
        link.symlink_to(kubelets[node.name])
        link.rename(node.at(SERVER_CURRENT))
        node.restart("kubelet")
    bed.settled()
    assert not bed.failing(bed.settled())
    return found


def _certificate(node: BedNode, name: str) -> x509.Certificate:
    match name:
        case "admin":
            return node.client_of("/etc/kubernetes/admin.conf")
        case "kubelet":
            return node.current(CURRENT)
        case _:
            return node.tree.certificate(f"{PKI[1:]}/{name}.crt")
