"""What was seen on the node at one moment: values, handed from `host` to `assess`. Judges nothing, reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from certmond.pki.catalog import CertificateSpec
from certmond.pki.certificate import Certificate, PublicKey
from certmond.pki.reason import Fault


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may read a file. `secret` says that it holds a private key; `owner` is "user:group", by name where known."""

    path: str
    mode: int
    owner: str
    secret: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """The CA certificates that a kubeconfig trusts, for the cluster of one context. `path` is the kubeconfig, and
    `file` the one that it refers to, None where it has them itself. `cluster` is what that one is called. `others` says
    that another user than root and the one who runs certmond can change the kubeconfig, or where its path leads.
    """

    path: str
    certificates: tuple[Certificate, ...]
    file: str | None = None
    cluster: str = ""
    others: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One certificate of the catalogue as found, or its absence.

    `certificates` has the judged one first, then the rest of its file's chain. `name` with `path` is unique. `key` is
    None where no private key was found, and `key_unknown` says that one is there whose public half cannot be told
    (encrypted, unreadable). `refers_to` is the file that kubelet.conf names as client certificate, "" where it embeds
    one. `symlink` is None where that does not matter. `renewable` says that certmond can write such a file: PEM, or a
    kubeconfig with its credentials embedded. `certificate_file` and `key_file` are where the two really are, whatever
    symlinks or references lead there; None where that is not known. Where a symlink of another user than root leads to
    a file that this user does not own, it is the path of the symlink: that file is none of this entry. `foreign_key`
    says that `key_path` stands in a kubeconfig that other users can change: it is not counted as a file of this entry.
    `holder` says of a kubeconfig whose it is: "user" or "cluster", and the name. `wanted` is False where no other file
    of the node says any longer that this one should be there. `broken_cluster` says of a kubeconfig whose entry fixes a
    subject and a CA why its current context leads to no server that it trusts, a clause; "" where it leads to one.
    `changed_at` is when the file of the certificate or of the key changed last (ctime), or, of a file that is not
    there, its directory; a change of an inode alone makes no other observation.
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
        """What tells it from every other one, from pass to pass."""
        return self.name, self.path

    @property
    def key_matches(self) -> bool | None:
        """Whether the key belongs to the certificate; None where one of them is not known."""
        if self.key is None or not self.certificates:
            return None
        return self.key.sha256 == self.certificates[0].key.sha256

    @property
    def pair(self) -> tuple[str, str | None]:
        """The files of certificate and key, in the one form that tells whether two entries have the same."""
        key = self.path if self.foreign_key else self.key_file or self.key_path
        return self.certificate_file or self.path, key


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the node shows of the origin of one certificate.

    `former` are former CAs of its entry. `ca_writers` says who, besides root and its own
    entry's owner, can change the file of the present one.
    `path_writers` says who, besides root and the entry's owner, can put another file in its place, `file_writers` who
    can change the file; "" where only they can. `owner_writes` says that the entry's owner, who is not root, can do
    either, and `possessed` that the key beside it signs for it. `later` are certificates that certmond put in its place
    afterwards; `lost` says that the last of them is not kept.
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
    """What the node has besides the files of an entry that are damaged, from which they can be made again.

    `good` are the generations of the archive that are good now, newest first: each with its certificate. `kept` are the
    certificates of all generations, newest first. `last` is the SHA-256 of the certificate that certmond put in place
    last, and `subject` its subject, where that is remembered; `seen_subject` is the one that was in the files last.
    `barrier` says why no key is written to these files.
    `server` is what a kubeconfig is to say of its cluster: the name and the URL of the API server; None where that is
    not known. `obstacle` says why no new certificate can be issued, with the remedy of that; None where one can.
    `uncorrected` says why the broken cluster of a kubeconfig cannot be put right in place; "" where it can.
    `repairs` counts how often they were put right in a row, the last time at `repaired_at`. `key_in` is where
    the archive has the private key that a CA lacks, a directory; None where it has none.
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
    key_in: str | None = None
    seen_subject: str | None = None
    uncorrected: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything seen in one look. `facts` are what the node says of itself: node_name, service_ip, …"""

    observations: tuple[Observation, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
