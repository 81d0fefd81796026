"""Values of an observation: the state of an entry's files at one time, and evidence of the origin of these files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import field
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.catalog.component_certificate_flags import ReferenceSpec
from certmond.pki.catalog.derived_file_spec import CopySpec
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.other_renewer_spec import Renewer, RenewerSpec
from certmond.pki.catalog.served_entries import ServedSpec
from certmond.pki.catalog.service_spec import ClusterObjectSpec, ConfigurationSpec, OutageSpec
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.public_key import PublicKey

_OTHER = CopySpec | OutageSpec | RenewerSpec | ClusterObjectSpec | ConfigurationSpec
"""Entries whose observations describe no certificate of the node."""


@immutable
class Permissions:
    """Permissions of a file. `secret` is True if the file contains a private key.

    `owner` is "user:group" with names, and `ids` contains the UID and the GID.
    """

    path: str
    mode: int
    owner: str
    ids: tuple[int, int]
    secret: bool

    def belong_to(self, required: str) -> bool:
        """Return whether the owner is `required`: "user" or "user:group", each as a name or a number."""
        parts = zip(required.split(":"), self.owner.split(":"), self.ids, strict=False)
        return all(int(part) == number if part.isdecimal() else part == name for part, name, number in parts)


@immutable
class Embedded:
    """CA certificates that a kubeconfig contains or names for the cluster of one context."""

    path: str  # the path of the kubeconfig
    certificates: tuple[Certificate, ...]
    file: str | None = None  # the CA file to which the kubeconfig refers, or None if the certificates are embedded
    cluster: str = ""
    others: bool = False  # a user other than root and the user of certmond can change or replace the kubeconfig
    absent: bool = False  # the kubeconfig names no CA for the cluster, so client-go trusts the CAs of the system


@immutable
class Observation:
    """Observed state of one certificate of the catalogue. The certificate can be missing.

    If `spec` is an `OutageSpec`, the observation describes a service instead of a certificate. With a `RenewerSpec`,
    the observation describes another program that renews certificates. With a `ClusterObjectSpec`, the observation
    describes an object of the Kubernetes API, and with a `ConfigurationSpec`, the configuration of certmond.
    """

    name: str
    spec: CertificateSpec
    path: str
    certificates: tuple[Certificate, ...] = ()  # those of the file, the assessed certificate first
    bundle: tuple[Certificate, ...] = ()  # all certificates of a file in which each one has a separate observation
    key: PublicKey | None = None  # the public half of the private key, or None without a readable key
    key_unknown: bool = False  # the private key is encrypted or unreadable
    key_path: str | None = None
    public_key: PublicKey | None = None
    public_keys: tuple[PublicKey, ...] = ()
    leaf_first: bool = True
    symlink: bool | None = None  # None for a file that need not be a symlink
    embedded: tuple[Embedded, ...] = ()
    refers_to: str | None = None  # the client certificate file in kubelet.conf, or "" for an embedded certificate
    permissions: tuple[Permissions, ...] = ()
    faults: tuple[Fault, ...] = ()
    renewable: bool = True  # certmond can write a file of this kind: PEM, or a kubeconfig with embedded credentials
    # The files at the end of symlinks or references, or None if unknown. certmond does not follow a symlink of a user
    # who is neither root nor the owner of the target. The path is then the path of the symlink.
    certificate_file: str | None = None
    key_file: str | None = None
    holder: tuple[str, str] | None = None  # ("user", NAME) or ("cluster", NAME) in a kubeconfig
    named_file: str = ""  # the certificate file that a kubeconfig names, or "" for an embedded certificate
    foreign_key: bool = False  # a kubeconfig that other users can change names `key_path`: not a file of this entry
    wanted: bool = True  # False if no other file of the node refers to this file any longer
    requested: bool = False  # the file is missing, and the kubelet requests its certificate through the Kubernetes API
    broken_cluster: str = ""  # `kubeconfig_credentials.broken_cluster`, or "" for an entry without a subject and a CA
    # The last change (ctime) of the certificate or key file, or of the directory of a missing file. A new inode with
    # the same contents is not a new observation, so this field is not compared.
    changed_at: datetime | None = field(default=None, compare=False)

    @property
    def identity(self) -> tuple[str, str]:
        """The name and the path, which are the same in every pass."""
        return self.name, self.path

    @property
    def named_by(self) -> str:
        """The flag or field that names the file, or "" for an entry that is not from a reference."""
        return self.spec.named_by if isinstance(self.spec, ReferenceSpec) else ""

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint of a listener whose certificate is in no file, or None for any other entry."""
        return Endpoint.parse(self.path) if isinstance(self.spec, ServedSpec) else None

    @property
    def is_catalogued(self) -> bool:
        """Whether the entry is from the configuration or the profile, and describes a certificate or keys."""
        return not isinstance(self.spec, ReferenceSpec | ServedSpec | _OTHER)

    @property
    def is_watched(self) -> bool:
        """Whether certmond can watch the certificate.

        False for a file whose path certmond cannot follow, and for a listener that does not answer.
        """
        return not any(fault.reason is Reason.NOT_WATCHED for fault in self.faults)

    @property
    def has_certificates(self) -> bool:
        """Whether the observation describes certificates.

        False for keys, for copies of kubeconfigs, for unwatched entries, for services that do not run, for other
        programs that renew certificates, for objects of the Kubernetes API, and for the configuration of certmond.
        """
        return self.is_watched and not (self.spec.kind is Kind.KEY_PAIR or isinstance(self.spec, _OTHER))

    @property
    def of_cluster(self) -> bool:
        """Whether the observation describes an object of the Kubernetes API instead of this node."""
        return isinstance(self.spec, ClusterObjectSpec)

    @property
    def key_matches(self) -> bool | None:
        """Whether the private key matches the certificate, or None if this is unknown."""
        if self.key is None or not self.certificates:
            return None
        return self.key.der == self.certificates[0].key.der

    @property
    def may_have_key(self) -> bool:
        """Whether this node has the private key of the certificate, or has a key file that certmond cannot read."""
        return bool(self.key_matches or self.key_unknown)

    def ca_remedy(self, *, expired: bool) -> str:
        """Return the remedy that replaces this CA. A node without the key of the CA cannot create the new CA.

        Only the first certificate of a CA file has a key.
        """
        return self.spec.ca_remedy(expired=expired, has_key=self.name != self.spec.name or self.may_have_key)

    @property
    def pair(self) -> tuple[str, str | None]:
        """The paths of the certificate file and the key file behind all symlinks, for comparisons between entries."""
        key = self.path if self.foreign_key else self.key_file or self.key_path
        return self.certificate_file or self.path, key


class PatternContents(dict[Certificate, Hashable | None]):
    """The first certificate of each file of a pattern, with its contents, or None if no CA of the entry has issued it.

    An equal value of the contents means that a renewal treats both certificates alike. An object is equal only to
    itself, because a pattern can have thousands of files.
    """

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has no hash
        return id(self)


NO_FILES = PatternContents()


@immutable
class Provenance:
    """Evidence on this node for the origin of one certificate."""

    former: tuple[Certificate, ...] = ()  # old CAs of the entry
    # The `…_writers` are clauses that name users other than root and the owner of the entry, or "".
    path_writers: str = ""  # can replace the certificate's file
    file_writers: str = ""  # can change the certificate's file
    owner_writes: bool = False  # the owner of the entry is not root, and can change or replace the certificate's file
    possessed: bool = False  # the key file contains the key of the certificate
    ca_writers: str = ""  # can change or replace the file of the present CA
    later: tuple[Certificate, ...] = ()  # later certificates in the archive of the same file
    intermediates: tuple[Certificate, ...] = ()  # intermediate CAs in the same file and in its archive
    later_issued: tuple[Certificate, ...] = ()  # those that certmond installed, and those of a CA in the same pattern
    more_later: bool = False  # the other files have more later certificates with different contents
    beside: PatternContents = NO_FILES  # the files of the same pattern with the same common name
    lost: datetime | None = None  # when certmond installed a later certificate that certmond cannot find
    uncompared: bool = False  # `beside` does not contain the files of the pattern


@immutable
class Salvage:
    """Sources for a repair of an entry's damaged files."""

    good: tuple[tuple[str, Certificate], ...] = ()  # archived generations that are valid now, newest first
    kept: tuple[Certificate, ...] = ()  # the certificates of all generations, newest first
    last: str | None = None  # the SHA-256 of the certificate that certmond installed last
    barrier: str = ""  # why certmond writes no key to these files
    server: tuple[str, str] | None = None  # the name and the URL of the API server for a kubeconfig
    obstacle: str | None = None  # why no signer can issue a new certificate, with the remedy
    repairs: int = 0  # the number of repairs in a row
    repaired_at: datetime | None = None
    subject: str | None = None  # the subject of the certificate that certmond installed last
    key_directory: str | None = None  # the directory of the archive with the private key that a CA lacks
    seen_subject: str | None = None  # the subject that certmond observed last in these files
    copy_command: str | None = None  # the shell command that restores a CA certificate from a copy on this node
    cluster_obstacle: str = ""  # why certmond cannot repair only the cluster of a kubeconfig


@immutable
class Inventory:
    """All observations of one pass, the facts of the node, and the other programs that renew certificates.

    `refused_configuration` contains the problems of a configuration that the daemon refused at a reload.
    """

    observations: tuple[Observation, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    renewers: tuple[Renewer, ...] = ()
    refused_configuration: tuple[str, ...] = ()
