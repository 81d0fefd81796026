"""The shipped profiles: what they demand is what the real tools wrote."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from certmond.config import Source, parse, profiles
from certmond.pki.catalog import SELF, CertificateSpec, Kind, expand, subject_attributes
from certmond.pki.certificate import EXTENDED_USAGES, KEY_USAGES

TREE = Path(__file__).parent / "data/kubeadm-1.24.tar"
FACTS = {
    "node_name": "controller-0",
    "advertise_address": "192.0.2.10",
    "service_ip": "10.96.0.1",
    "dns_domain": "cluster.local",
    "control_plane_name": "DNS:k8s.example.com",
}
NOT_OF_1_24 = {"super-admin.conf", "kubelet-server", "kubelet-server-self"}

KUBEADM = parse([])
SPECS = {spec.name: spec for spec in KUBEADM.certificates}
SERVICES = {service.name: service for service in KUBEADM.services}


class Tree:
    """The files of a node, by path, from the archive of a real one."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self.members = {f"/{member.name}": member for member in archive.getmembers() if not member.isdir()}
        self.texts = {
            path: file.read() for path, member in self.members.items() if (file := archive.extractfile(member.name))
        } if not any(member.issym() for member in self.members.values()) else self._followed(archive)

    def _followed(self, archive: tarfile.TarFile) -> dict[str, bytes]:
        found = {}
        for path, member in self.members.items():
            target = self.members[member.linkname] if member.issym() else member
            file = archive.extractfile(target)
            found[path] = file.read() if file else b""
        return found
