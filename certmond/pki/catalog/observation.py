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

    `path` is the kubeconfig. `file` is the CA file that it refers to, or None if it embeds the certificates. `cluster`
    is the name of the cluster. `others` is True if another user than root and the user of certmond can change the
    kubeconfig, or the target of its path. `absent` is True if it names no CA for the cluster: client-go then trusts the
    CAs of the system.
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

    `name` with `path` is unique. In `certificates` the assessed one is first, then the rest of its file's chain. `key`
    is None without a private key, and `key_unknown` is True if one exists whose public half is unknown (encrypted,
    unreadable). `refers_to` is the file that kubelet.conf names as client certificate, "" if it embeds one. `symlink`
    is None if it does not matter. `renewable` is True if certmond can write such a file: PEM, or a kubeconfig with
    embedded credentials.

    `certificate_file` and `key_file` are the files at the end of symlinks or references, or None if unknown. A symlink
    of another user than root to a file that this user does not own is not followed: the path of the symlink is then the
    file. `foreign_key` is True if `key_path` is from a kubeconfig that other users can change: it is not a file of this
    entry. `holder` is the owner of a kubeconfig: "user" or "cluster", and the name. `wanted` is False if no other file
    of the node refers to this one any longer. `broken_cluster` is the clause that the current context of a kubeconfig,
    whose entry fixes a subject and a CA, has no server with a usable CA, or "". `changed_at` is the last change (ctime)
    of the file of the certificate or of the key, or of the directory of a missing file. A change of only an inode makes
    no new observation.
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
        """The identity of the observation from pass to pass."""
        return self.name, self.path

    @property
    def key_matches(self) -> bool | None:
        """Whether the key belongs to the certificate, or None if one of them is unknown."""
        if self.key is None or not self.certificates:
            return None
        return self.key.sha256 == self.certificates[0].key.sha256

    @property
    def pair(self) -> tuple[str, str | None]:
        """The files of certificate and key in a canonical form, to compare entries."""
        key = self.path if self.foreign_key else self.key_file or self.key_path
        return self.certificate_file or self.path, key


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of one certificate, as far as the node shows it.

    `former` are old CAs of its entry. `ca_writers` are the users who can change the file of the present CA, except root
    and the owner of its entry. `path_writers` can put another file in its place, and `file_writers` can change the
    file, except root and the entry's owner; "" without such users. `owner_writes` is True if the entry's owner, who is
    not root, can do either. `possessed` is True if the key beside it signs for it. `later` are certificates that
    certmond installed in its place afterwards, and `lost` is True if the last of them is unknown.
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
    certificates of all generations, newest first. `last` is the SHA-256 of the certificate that certmond put in place
    last, and `subject` its subject, where the state directory has it. `seen_subject` is the subject that certmond
    observed last in these files. `barrier` is the reason for which certmond writes no key to these files. `server` is
    the name and the URL of the API server for a kubeconfig, or None if unknown. `obstacle` is the reason for which no
    new certificate can be issued, with its remedy, or None. `cluster_obstacle` is the reason for which certmond cannot
    repair the cluster of a kubeconfig in place, or "". `repairs` is the number of repairs in a row, and `repaired_at`
    the time of the last one. `key_directory` is the directory of the archive with the private key that a CA lacks, or
    None.
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
    """All observations of one pass. `facts` are the node's: node_name, service_ip, …"""

    observations: tuple[Observation, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
