"""Observation of the files of one entry at one time, as values. Makes no findings and reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.findings import Fault
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.public_key import PublicKey


@dataclass(frozen=True, slots=True)
class Permissions:
    """Permissions of a file. `secret` is True with a private key in it; `owner` is "user:group", by name if known."""

    path: str
    mode: int
    owner: str
    secret: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """CA certificates that a kubeconfig trusts, for the cluster of one context.

    `path` is the kubeconfig. `file` is the CA file to which the kubeconfig refers, or None if it embeds the
    certificates. `cluster` is the name of the cluster. `others` is True if a user other than root and the user of
    certmond can change the kubeconfig, or replace it. `absent` is True if the kubeconfig names no CA for the cluster:
    client-go then trusts the CAs of the system.
    """

    path: str
    certificates: tuple[Certificate, ...]
    file: str | None = None
    cluster: str = ""
    others: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One certificate of the catalogue as observed, or its absence.

    `name` with `path` is unique. `certificates` begins with the assessed one, and then has the rest of the chain in its
    file. `key` is None without a private key. `key_unknown` is True for a private key whose public half is unknown
    (encrypted, unreadable). `refers_to` is the file that kubelet.conf names as client certificate, or "" if it embeds
    the certificate. `symlink` is None where the kind of the file does not matter. `renewable` is True if certmond can
    write such a file: PEM, or a kubeconfig with embedded credentials.

    `certificate_file` and `key_file` are the files at the end of symlinks or references, or None if unknown. If a user
    other than root owns a symlink and not its target, they are the path of the symlink, which certmond does not follow.
    `foreign_key` is True if `key_path` is from a kubeconfig that other users can change: the key is then not a file of
    this entry. `holder` is the part of a kubeconfig that has the certificate: "user" or "cluster", and the name.
    `wanted` is False if no other file of the node refers to this file any longer. `broken_cluster` is a clause if the
    current context of a kubeconfig, whose entry fixes a subject and a CA, has no server with a usable CA, or else "".
    `changed_at` is the last change (ctime) of the file of the certificate or key, or of the directory of a missing
    file. A change of only an inode makes no new observation.
    """

    name: str
    spec: CertificateSpec
    path: str
    certificates: tuple[Certificate, ...] = ()
    key: PublicKey | None = None
    key_unknown: bool = False
    key_path: str | None = None
    public_key: PublicKey | None = None
    public_keys: tuple[PublicKey, ...] = ()
    leaf_first: bool = True
    symlink: bool | None = None
    embedded: tuple[Embedded, ...] = ()
    refers_to: str | None = None
    permissions: tuple[Permissions, ...] = ()
    faults: tuple[Fault, ...] = ()
    renewable: bool = True
    certificate_file: str | None = None
    key_file: str | None = None
    holder: tuple[str, str] | None = None
    foreign_key: bool = False
    wanted: bool = True
    broken_cluster: str = ""
    changed_at: datetime | None = field(default=None, compare=False)

    @property
    def identity(self) -> tuple[str, str]:
        """The identity of the certificate, which is the same in every pass."""
        return self.name, self.path

    @property
    def key_matches(self) -> bool | None:
        """Whether the key belongs to the certificate, or None if one of them is unknown."""
        if self.key is None or not self.certificates:
            return None
        return self.key.sha256 == self.certificates[0].key.sha256

    @property
    def pair(self) -> tuple[str, str | None]:
        """The real files of the certificate and the key, for comparisons between entries."""
        key = self.path if self.foreign_key else self.key_file or self.key_path
        return self.certificate_file or self.path, key


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of one certificate, as far as the node shows it.

    `former` are old CAs of its entry. `path_writers` is a clause about users who can replace the certificate's file,
    `file_writers` about users who can change it, and `ca_writers` about users who can change or replace the file of the
    present CA: without root and the owner of the entry, or "". `owner_writes` is True if the entry's owner is not root
    and can do either. `possessed` is True if the key in the key file belongs to the certificate. `later` are
    certificates that certmond installed afterwards in the same file. `lost` is True if the last of them is unknown.
    """

    former: tuple[Certificate, ...] = ()
    path_writers: str = ""
    file_writers: str = ""
    owner_writes: bool = False
    possessed: bool = False
    ca_writers: str = ""
    later: tuple[Certificate, ...] = ()
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Salvage:
    """Sources for a repair of an entry's damaged files.

    `good` are the generations of the archive that are good now, newest first: each with its certificate. `kept` are the
    certificates of all generations, newest first. `last` is the SHA-256 of the certificate that certmond installed
    last, and `subject` is its subject, if the state directory has them. `seen_subject` is the subject that certmond
    observed last in these files. `barrier` is the reason for which certmond writes no key to these files. `server` is
    the name and the URL of the API server for a kubeconfig, or None if unknown. `obstacle` is the reason for which no
    signer can issue a new certificate, with the remedy, or None. `cluster_obstacle` is the reason for which certmond
    cannot repair only the cluster of a kubeconfig, or "". `repairs` is the number of repairs in a row, and
    `repaired_at` is the time of the last repair. `key_directory` is the directory of the archive with the private key
    that a CA lacks, or None.
    """

    good: tuple[tuple[str, Certificate], ...] = ()
    kept: tuple[Certificate, ...] = ()
    last: str | None = None
    barrier: str = ""
    server: tuple[str, str] | None = None
    obstacle: str | None = None
    repairs: int = 0
    repaired_at: datetime | None = None
    subject: str | None = None
    key_directory: str | None = None
    seen_subject: str | None = None
    cluster_obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All observations of one pass. `facts` are the facts of the node: node_name, service_ip, …"""

    observations: tuple[Observation, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
