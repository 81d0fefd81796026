"""The certificate files that the kubelets of a node use, for the entries of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from certmond.formats.kubelet.serving import KubeletServing
from certmond.formats.manifest import Container
from certmond.pki.catalog.component_certificate_flags import KUBELET, ReferenceSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind


class ServedFiles(NamedTuple):
    """Paths of the certificates that kubelets serve or might serve.

    `requested` contains the paths of the certificates that kubelets request from the Kubernetes API.
    """

    served: frozenset[str] = frozenset()
    requested: frozenset[str] = frozenset()


class KubeletView(NamedTuple):
    """The serving certificates of the node's kubelet and of the other kubelets, and the mounts of the unit.

    `serving` is None if certmond does not know which certificate the kubelet of the node serves.
    """

    serving: KubeletServing | None = None
    others: ServedFiles = ServedFiles()
    mounts: Mapping[str, str | None] = {}

    def is_unused(self, spec: CertificateSpec, path: str) -> bool:
        """Return whether no kubelet of the node uses the file `path` of the entry `spec`.

        Return False for an entry that certmond created for a reference. A kubelet does not use a client certificate
        that a mount of its unit hides.
        """
        if isinstance(spec, ReferenceSpec):
            return False
        if self.serving and path in self.serving.unused - self.others.served:
            return True
        files = [each for each in (path, spec.kubeconfig) if each]
        unit = Container(KUBELET, (), self.mounts)
        return (
            spec.kind is Kind.KUBELET
            and spec.kubeconfig is not None
            and any(unit.mount_of(each) is not None and unit.on_host(each) != each for each in files)
        )

    def is_requested(self, path: str) -> bool:
        """Return whether a kubelet requests the certificate at `path` from the Kubernetes API."""
        own = self.serving is not None and self.serving.requested and self.serving.path == path
        return own or path in self.others.requested
