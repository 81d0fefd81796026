"""Rotations of a CA by a script, phase by phase in any order, to test the bed.

It has the files of each phase, and the components that restart. The phases in their order are right. A test that omits
one, or changes their order, shows that the bed detects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tests.builders import HOUR, YEAR, Issued, make_ca
from tests.control_plane import ELECTING, KUBECONFIGS, PKI
from tests.rotation.bed import Bed
from tests.rotation.node import CURRENT, KUBELET_CONF, SERVER_CURRENT, BedNode, like

SIGNING = f"{PKI}/signing-ca"
_SIGNER_FLAGS = ("--cluster-signing-cert-file=", "--cluster-signing-key-file=")


class Scripted:
    """A script from the present CA to a new one of the same name, with another key. `name` is that of its file."""

    name: str
    pairs: tuple[str, ...]

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.old = bed.control_planes[0].authority(self.name)
        now = datetime.now(UTC)
        self.new = make_ca(self.old.cert.subject.rfc4514_string().removeprefix("CN="), not_before=now - HOUR,
                           not_after=now + 10 * YEAR)  # fmt: skip

    def holders(self) -> Sequence[BedNode]:
        return self.bed.control_planes

    def bundle(self, *trusted: Issued) -> None:
        """Write them to the file of the CA, on each node that has it."""
        for node in self.holders():
            node.replace(f"{PKI}/{self.name}.crt", _pem(trusted))

    def key(self, by: Issued) -> None:
        for node in self.bed.control_planes:
            node.replace(f"{PKI}/{self.name}.key", by.key_pem)

    def leaves(self, by: Issued, *names: str) -> None:
        """Issue the pairs of these names, or all, again. Where a torn pair would be visible, the key stays.

        It is visible where each handshake loads the pair. Other servers keep the last good one.
        """
        for node in self.bed.control_planes:
            for name in names or self.pairs:
                old, key = node.tree.certificate(f"{PKI[1:]}/{name}.crt"), node.tree.key(f"{PKI[1:]}/{name}.key")
                node.put_pair(name, like(old, by, "ec" if name == "apiserver" else key))


class RootCA(Scripted):
    name, pairs = "ca", ("apiserver", "apiserver-kubelet-client")

    def holders(self) -> Sequence[BedNode]:
        return self.bed.nodes

    def detach(self) -> None:
        """Let the controller-manager sign with a separate file."""
        for node in self.bed.control_planes:
            self._signing(node, self.old)
            node.edit("kube-controller-manager", lambda words: _signs_with(words, SIGNING))

    def trust(self) -> None:
        self.bundle(self.old, self.new)
        self.embed(self.old, self.new)
        self.recreate()

    def issue(self) -> None:
        self.key(self.new)
        self.bundle(self.new, self.old)
        for node in self.bed.control_planes:
            self._signing(node, self.new)
        self.leaves(self.new)
        self.clients(self.new)
        self.recreate()

    def distrust(self) -> None:
        self.bundle(self.new)
        self.embed(self.new)
        self.recreate()

    def attach(self) -> None:
        for node in self.bed.control_planes:
            node.edit("kube-controller-manager", lambda words: _signs_with(words, f"{PKI}/ca"))
            for suffix in (".key", ".crt"):
                node.at(SIGNING + suffix).unlink()

    def embed(self, *trusted: Issued) -> None:
        """Write them into every kubeconfig."""
        for node in self.bed.nodes:
            for path in node.kubeconfigs:
                if node.at(path).exists():
                    node.edit_kubeconfig(path, trusted=_pem(trusted))

    def clients(self, by: Issued) -> None:
        """Issue the client certificates in kubeconfigs and those of the kubelets again."""
        for node in self.bed.nodes:
            for path in () if node.worker else KUBECONFIGS:
                if node.at(path).exists():
                    node.edit_kubeconfig(path, client=like(node.client_of(path), by))
            for path in (CURRENT, *([SERVER_CURRENT] if node.verified else ())):
                node.put_current(path, like(node.current(path), by))

    def recreate(self) -> None:
        """Restart the components that do not reload, one node after the other."""
        for node in self.bed.nodes:
            if node.worker:
                node.restart("kubelet")
            elif node.verified:
                node.restart("kubelet", "kube-apiserver")  # and the other two with it
            else:
                node.restart("kubelet", *ELECTING)

    def _signing(self, node: BedNode, by: Issued) -> None:
        node.replace(f"{SIGNING}.key", by.key_pem)
        node.replace(f"{SIGNING}.crt", by.pem, 0o644)


def joins(worker: BedNode, by: Issued) -> None:
    """Write the files of `kubeadm join` with the CA `by`."""
    worker.replace(f"{PKI}/ca.crt", by.pem)
    worker.edit_kubeconfig(KUBELET_CONF, trusted=by.pem)
    worker.put_current(CURRENT, like(worker.current(CURRENT), by))
    worker.restart("kubelet")


class EtcdCA(Scripted):
    name = "etcd/ca"
    pairs = ("apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client")

    def trust(self) -> None:
        self.bundle(self.old, self.new)
        self.restart("etcd", "kube-apiserver")

    def issue(self) -> None:
        self.key(self.new)
        self.bundle(self.new, self.old)
        self.leaves(self.new)

    def distrust(self) -> None:
        self.bundle(self.new)
        self.restart("etcd", "kube-apiserver")

    def restart(self, *names: str) -> None:
        """Restart one component on one node after the other."""
        for name in names:
            for node in self.bed.control_planes:
                node.restart(name)


def _signs_with(words: list[str], stem: str) -> list[str]:
    files = dict(zip(_SIGNER_FLAGS, (f"{stem}.crt", f"{stem}.key"), strict=True))
    return [next((flag + path for flag, path in files.items() if word.startswith(flag)), word) for word in words]


def _pem(certificates: Sequence[Issued]) -> bytes:
    return b"".join(each.pem for each in certificates)
