"""Certificates and certificate requests in objects of the Kubernetes API, as the reader of the cluster has read them.

`certificate_data` accepts any text, and raises no error. The result contains no private key, and quotes no bytes.
`assessment.cluster_rules` decides which objects have a finding.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from certmond.immutable_class import immutable
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason, printable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode

MAX_BYTES = 256 * 1024
"""Maximum length of the data of one key, in the base64 of the API. A bundle of all public CAs is about this long."""
MAX_CERTIFICATES = 20
"""Maximum number of certificates in one key that certmond watches, because each one has a series."""
MAX_NAME = 256
"""Maximum length of a subject or issuer, because each one is in the metrics and in the status document."""
CHAIN = "tls.crt"
"""The key of a Secret that contains a certificate chain. Each other key contains CAs, of which one is sufficient."""

_RESOURCES: Mapping[str, str] = {
    "Secret": "api/v1:secrets",
    "Lease": "apis/coordination.k8s.io/v1:leases",
    "CertificateSigningRequest": "apis/certificates.k8s.io/v1:certificatesigningrequests",
    "ValidatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1:validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1:mutatingwebhookconfigurations",
    "APIService": "apis/apiregistration.k8s.io/v1:apiservices",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1:customresourcedefinitions",
}


@immutable
class Place:
    """An object, one key of an object, or all objects of a kind if `name` is empty.

    `namespace` is empty for a kind without namespaces, and for all namespaces.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    key: str = ""

    @property
    def path(self) -> str:
        """The path of the object in the API, as for `kubectl get --raw`, with the key after a number sign."""
        group, _, plural = _RESOURCES[self.kind].partition(":")
        parts = ("namespaces", self.namespace, plural) if self.namespace else (plural,)
        return "/".join(("", group, *parts, self.name)).rstrip("/") + (f"#{self.key}" if self.key else "")

    @property
    def called(self) -> str:
        """The kind, namespace and name, such as "Secret default/web"."""
        name = f"{self.namespace}/{self.name}" if self.namespace and self.name else self.namespace or self.name
        return f"{self.kind} {name}".rstrip()

    @property
    def where(self) -> str:
        """The key and the object, for a message."""
        return f"{self.key} in the {self.called}"


class CertificateFacts(NamedTuple):
    """Facts of one certificate in an object. Times are UTC."""

    subject: str
    issuer: str
    serial: int
    sha256: str
    not_before: datetime
    not_after: datetime


@immutable
class CertificateData:
    """The watched certificates in one key of an object, and the faults of the data.

    `digest` is the SHA-256 of the base64 text, or empty if the text is too long. certmond does not parse a text with
    the same digest again.
    """

    place: Place
    digest: bytes = field(repr=False)
    certificates: tuple[CertificateFacts, ...] = ()
    faults: tuple[Fault, ...] = ()


class RequestPhase(StrEnum):
    """Phase of a CertificateSigningRequest. A request with the phase `ISSUED` has a certificate."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    FAILED = "failed"
    ISSUED = "issued"


class ClusterRequest(NamedTuple):
    """A CertificateSigningRequest, with its signer and the user who created the request."""

    name: str
    signer: str
    user: str
    created_at: datetime
    phase: RequestPhase


@immutable
class Unread:
    """Objects that certmond does not watch: a clause about the cause, and the remedy.

    `since` is the time of the first of consecutive failures. A `lasting` cause does not end without an operator.
    """

    place: Place
    fact: str
    remedy: str
    since: datetime
    lasting: bool


@immutable
class Listing:
    """All objects of one kind, in one namespace or in all, as of the last successful listing at `read_at`.

    `read_at` is None before the first success. `unread` is the failure of the last listing, the exceeded limit, or
    None.
    """

    place: Place
    read_at: datetime | None = None
    count: int = 0
    data: tuple[CertificateData, ...] = ()
    requests: tuple[ClusterRequest, ...] = ()
    unread: Unread | None = None


@immutable
class ClusterReading:
    """Result of the reader on this node.

    `leads` is True if this node reads the objects for the cluster. `listings` is empty on all other nodes, except on a
    node that has stopped because of an outage. `lease` is the reason why this node cannot use the Lease of the reader,
    or None.
    """

    leads: bool = False
    listings: tuple[Listing, ...] = ()
    lease: Unread | None = None

    @property
    def read_at(self) -> datetime | None:
        """The earliest `read_at` of the listings, or None if a listing has not succeeded yet."""
        times = [each.read_at for each in self.listings]
        known = [at for at in times if at]
        return min(known) if known and len(known) == len(times) else None

    @property
    def data(self) -> Iterator[CertificateData]:
        return (each for listing in self.listings for each in listing.data)

    @property
    def every_request(self) -> Iterator[ClusterRequest]:
        return (each for listing in self.listings for each in listing.requests)

    @property
    def requests(self) -> Iterator[ClusterRequest]:
        """The requests without a certificate."""
        return (each for each in self.every_request if each.phase is not RequestPhase.ISSUED)

    @property
    def unread(self) -> Iterator[Unread]:
        """The reasons why certmond does not watch objects."""
        return (each for each in (self.lease, *(listing.unread for listing in self.listings)) if each)


@immutable
class ClusterState:
    """The objects of the cluster, and the observations about these objects at one time.

    `reading` is None if the configuration does not enable the reader. `changes_at` is the time at which the
    observations change without another reading, or None.
    """

    reading: ClusterReading | None = None
    observations: tuple[Observation, ...] = ()
    changes_at: datetime | None = None


def requests_with_issued(
    requests: tuple[ClusterRequest, ...], before: tuple[ClusterRequest, ...]
) -> tuple[ClusterRequest, ...]:
    """Return the listed requests, and the issued requests of the list before that are newer than a listed request.

    kube-controller-manager deletes an issued request after an hour, and an older request of the same client later.
    """
    listed = {each.name for each in requests}
    oldest = dict[tuple[str, str], datetime]()
    for each in requests:
        client = each.user, each.signer
        oldest[client] = min(each.created_at, oldest.get(client, each.created_at))
    kept = (each for each in before if each.phase is RequestPhase.ISSUED and each.name not in listed)
    later = (each for each in kept if oldest.get((each.user, each.signer), each.created_at) < each.created_at)
    return (*requests, *later)


def certificate_data(place: Place, text: str, before: CertificateData | None = None) -> CertificateData:
    """Return the certificates in `text`, the base64 of one key of an object. Ignore private keys.

    `before` is the previous result for the same key. If the data has not changed, return `before`.
    """
    if len(text) > MAX_BYTES:
        fact = f"{place.where} has {len(text)} bytes of base64, and certmond reads at most {MAX_BYTES} bytes"
        return CertificateData(place, b"", faults=(_not_watched(fact),))
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    if before and before.digest == digest:
        return before
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:  # the API server validates base64
        return CertificateData(place, digest, faults=(_malformed(f"{place.where} is not base64"),))
    found = decode(content, place.where)
    faults = [_malformed(each.detail) for each in found.faults if each.reason is Reason.MALFORMED][:1]
    if not found.certificates and not faults:
        faults = [_malformed(f"{place.where} contains no certificate")]
    certificates = _watched(place, found.certificates)
    if len(certificates) < len(found.certificates):
        fact = f"{place.where} contains {len(found.certificates)} certificates, and certmond watches {MAX_CERTIFICATES}"
        faults.append(_not_watched(fact))
    return CertificateData(place, digest, tuple(map(_facts, certificates)), tuple(faults))


def _watched(place: Place, certificates: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    """Return at most MAX_CERTIFICATES certificates: the start of a chain, or the CAs that expire last."""
    if place.key != CHAIN and len(certificates) > MAX_CERTIFICATES:
        certificates = tuple(sorted(certificates, key=lambda each: each.not_after, reverse=True))
    return certificates[:MAX_CERTIFICATES]


def _facts(found: Certificate) -> CertificateFacts:
    subject, issuer = _shortened(printable(found.subject)), _shortened(printable(found.issuer))
    return CertificateFacts(subject, issuer, found.serial, found.sha256, found.not_before, found.not_after)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _malformed(fact: str) -> Fault:
    return Fault(Reason.CLUSTER_MALFORMED, fact, "let the controller that owns the object write this key again")


def _not_watched(fact: str) -> Fault:
    return Fault(Reason.CLUSTER_UNREAD, f"not watched: {fact}", "check these certificates with openssl")
