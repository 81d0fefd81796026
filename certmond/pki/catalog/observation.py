"""Observation of the files of one entry at one time, as values. This module makes no findings and reads no file."""

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
    """Permissions of a file. `secret` is True if the file contains a private key. `owner` is "user:group"."""

    path: str
    mode: int
    owner: str
    secret: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """CA certificates that a kubeconfig trusts, for the cluster of one context.

    `path` is the kubeconfig. `file` is the CA file to which the kubeconfig refers, or None if the kubeconfig embeds the
    certificates. `cluster` is the name of the cluster. `others` is True if a user other than root and the user of
    certmond can change the kubeconfig, or replace it. `absent` is True if the kubeconfig names no CA for the cluster,
    so that client-go trusts the CAs of the system.
    """

    path: str
    certificates: tuple[Certificate, ...]
    file: str | None = None
    cluster: str = ""
    others: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """The observed state of one certificate of the catalogue, which may be missing.

    `name` with `path` is unique. `certificates` are the certificates of the file, with the assessed certificate first.
    `key` is None without a readable private key. `key_unknown` is True if the public half of a private key is unknown
    (encrypted, unreadable). `refers_to` is the client certificate file in kubelet.conf, or "" if kubelet.conf embeds
    the certificate. `symlink` is None for a file that need not be a symlink. `renewable` is True if certmond can write
    a file of this kind: PEM, or a kubeconfig with embedded credentials.

    `certificate_file` and `key_file` are the files at the end of symlinks or references, or None if unknown. certmond
    does not follow a symlink of a user who is not root and does not own the target. Then the path is that of the
    symlink. `foreign_key` is True if `key_path` is from a kubeconfig that other users can change, so that the key is
    not a file of this entry. `holder` is ("user", NAME) or ("cluster", NAME) for a certificate in a kubeconfig,
    otherwise None. `wanted` is False if no other file of the node refers to this file any longer. `broken_cluster` is
    the reason why the current context of a kubeconfig has no server with a usable CA, as a clause, or "". For an entry
    without a subject and a CA, `broken_cluster` is "". `changed_at` is the time of the last change (ctime) of the file
    of the certificate or key, or of the directory of a missing file. A new inode alone makes no new observation.
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
        """Whether the private key belongs to the certificate, or None if one of the two is missing or unknown."""
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
    """Evidence on this node for the origin of one certificate.

    `former` are old CAs of the certificate's entry. Three fields are clauses that name users other than root and the
    owner of the entry, or "". The users in `path_writers` can replace the certificate's file, and those in
    `file_writers` can change this file. The users in `ca_writers` can change or replace the file of the present CA.
    `owner_writes` is True if the owner of the entry is not root, and can change or replace the certificate's file.
    `possessed` is True if the key file contains the key of the certificate. `later` are certificates that certmond
    installed afterwards in the same file. `lost` is True if the last of these certificates is unknown.
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

    `good` are the archived generations that are valid now, newest first, each with its certificate. `kept` are the
    certificates of all generations, newest first. `last` is the SHA-256 of the certificate that certmond installed
    last, and `subject` is the subject of this certificate. Both are None if the state directory lacks them.
    `seen_subject` is the subject that certmond observed last in these files. `barrier` is the reason for which certmond
    writes no key to these files, or "". `server` is the name and the URL of the API server for a kubeconfig, or None if
    unknown. `obstacle` is the reason for which no signer can issue a new certificate, with the remedy, or None.
    `cluster_obstacle` is the reason for which certmond cannot repair only the cluster of a kubeconfig, or "".
    `repairs` is the number of repairs in a row, and `repaired_at` is the time of the last repair. `key_directory` is
    the directory of the archive with the private key that a CA lacks, or None.
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
    """All observations of one pass. `facts` are the facts of the node, such as node_name and service_ip."""

    observations: tuple[Observation, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
