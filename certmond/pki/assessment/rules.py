"""Rules for the certificates of a Kubernetes node, as a list of checks.

Owns each rule and its message. A check gets one `Case` and yields findings, without the verdict on any other
certificate. One entry reports each fault: a leaf has no finding for a fault of its CA that the entry of the CA reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.requirements import accepted_subjects, has_accepted_subject, lacking_usages, missing_names
from certmond.pki.findings import Fault, Finding, Reason, Severity, printable
from certmond.pki.go.public_key import LARGEST_RSA, SMALLEST_RSA, unusable
from certmond.pki.signing.policy import Basis
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import WEAK_HASHES, PathSearch, Refusal, Rejection, signed_by

CRITICAL_WINDOW = timedelta(days=7)
ROOT_CA_ONLY = "Kubernetes supports a Root CA only, no intermediate"

_REMEDIES = {
    Reason.UNREADABLE: "make it readable for root, or put the right file in its place",
    Reason.MISSING: "put it back, or issue it again",
    Reason.MALFORMED: "put it back from a backup, or issue it again",
    Reason.TRAILING_DATA: "it does no harm, but remove it",
    Reason.KEY_UNUSABLE: "write it as PEM, or issue the pair again",
}
"""Remedies for faults that have no remedy."""


@dataclass(frozen=True, slots=True)
class Case:
    """Input of a check: one certificate, its files, its paths, its anchors, the facts of the node, and the time."""

    seen: Observation
    certificate: Certificate
    search: PathSearch
    anchors: tuple[Certificate, ...]
    anchors_told: bool
    embeddable: tuple[Certificate, ...]
    facts: Mapping[str, str]
    renew_at: datetime
    now: datetime
    renewed_at: datetime | None = None
    basis: Basis | None = None

    @property
    def spec(self) -> CertificateSpec:
        return self.seen.spec

    @property
    def where(self) -> str:
        return self.seen.path

    @property
    def further_anchor(self) -> bool:
        """Whether it is not the first certificate of a bundle of trust anchors: the others are valid without it."""
        return self.spec.authority and self.seen.name != self.spec.name


Check = Callable[[Case], Iterator[Finding]]


def finding(reason: Reason, message: str, severity: Severity | None = None) -> Finding:
    """Return a finding with the given severity, or with the usual severity of its reason."""
    return Finding(reason, severity or reason.severity, printable(message))


def found_in(fault: Fault) -> Finding:
    """Return the finding for a fault of a file."""
    return finding(fault.reason, f"{fault.detail}; {fault.remedy or _REMEDIES[fault.reason]}")


def renewal_point(certificate: Certificate, spec: CertificateSpec, default: timedelta) -> datetime:
    """Return the renewal point: `renew_before` before the end, at most a third of the lifetime before it.

    For a certificate of the kubelet it is at most a tenth. The kubelet renews at 70 to 90 %, so the certificate is due
    only after the kubelet has failed.
    """
    life = certificate.not_after - certificate.not_before
    share = life / 10 if spec.kind is Kind.KUBELET else life / 3
    return certificate.not_after - min(spec.renew_before or default, share)


def critical_point(certificate: Certificate) -> datetime:
    """Return the instant from which a near end is critical: the last 7 days, or a tenth of the lifetime if shorter."""
    return certificate.not_after - min(CRITICAL_WINDOW, (certificate.not_after - certificate.not_before) / 10)


def expired(case: Case) -> Iterator[Finding]:
    """Report the end of the certificate or of a CA of its path (RFC 5280, 4.1.2.5: notAfter is included)."""
    for link in _own_links(case):
        if case.now > link.not_after and case.further_anchor:
            message = (
                f"{case.where}: its further CA {link.subject} (serial {link.serial}) expired on {_day(link.not_after)}"
            )
            yield finding(Reason.EXPIRED, f"{message}; remove it from the bundle", Severity.WARNING)
        elif case.now > link.not_after:
            yield finding(Reason.EXPIRED, f"{_called(case, link)} expired on {_day(link.not_after)}; {_renew(case)}")


def not_yet_valid(case: Case) -> Iterator[Finding]:
    """Report that the certificate, or a CA of its path, is not valid yet, because a clock is wrong."""
    for link in _own_links(case):
        if case.now < link.not_before:
            yield finding(
                Reason.NOT_YET_VALID,
                f"{_called(case, link)} is valid from {_day(link.not_before)} only; "
                "check this host's clock, then the issuer's",
            )


def nearing_expiry(case: Case) -> Iterator[Finding]:
    """Report that the certificate is in its renewal window."""
    if case.renew_at <= case.now <= case.certificate.not_after:
        late = case.now >= critical_point(case.certificate)
        remedy = "the kubelet should have rotated it: see its log" if case.spec.kind is Kind.KUBELET else _renew(case)
        yield finding(
            Reason.NEARING_EXPIRY,
            f"{case.where} expires on {_day(case.certificate.not_after)}, is due since {_day(case.renew_at)}; {remedy}",
            Severity.CRITICAL if late else None,
        )


def still_due(case: Case) -> Iterator[Finding]:
    """Report a due certificate that a renewal does not help: it was just renewed, or it ends with its CA."""
    if not case.renew_at <= case.now <= case.certificate.not_after:
        return
    best = case.search.best
    if case.renewed_at is not None and case.renew_at <= case.renewed_at:
        yield finding(
            Reason.STILL_DUE,
            f"{case.where} was renewed on {_day(case.renewed_at)}, and its successor was due from the start, ending on "
            f"{_day(case.certificate.not_after)}; let its signer issue for longer, or set a shorter renew_before",
        )
    elif best and len(best.certificates) > 1 and best.certificates[1].not_after == case.certificate.not_after:
        yield finding(
            Reason.STILL_DUE,
            f"{case.where} is due, but ends on the same day as its CA {best.certificates[1].subject}, "
            f"{_day(case.certificate.not_after)}, which no renewal changes; rotate the CA before that day",
        )


def outlives_ca(case: Case) -> Iterator[Finding]:
    """Report a certificate that ends after a CA of its path, and so fails before its own end."""
    best = case.search.best
    if best and len(best.certificates) > 1 and best.until < case.certificate.not_after and case.now <= best.until:
        issuer = min(best.certificates[1:], key=lambda link: link.not_after)
        yield finding(
            Reason.OUTLIVES_CA,
            f"{case.where} ends on {_day(case.certificate.not_after)}, but its issuer {issuer.subject} already on "
            f"{_day(issuer.not_after)}; rotate the CA before that day",
        )


def no_path(case: Case) -> Iterator[Finding]:
    """Report that no certification path leads to the trust anchor, for a reason that no other entry reports."""
    if case.search.paths or case.anchors_told:
        return
    if not case.anchors and case.spec.ca != (SELF,):
        absent = " or ".join(case.spec.ca)
        yield finding(Reason.NO_PATH, f"{case.where} cannot be proven: {absent} is not on this node; put that CA there")
        return
    if any(_told_elsewhere(case, why) for why in case.search.rejections):
        return
    rank = {Refusal.BAD_SIGNATURE: 2, Refusal.NO_ISSUER: 1}  # a more specific refusal has a lower rank
    why = min(case.search.rejections, key=lambda why: rank.get(why.refusal, 0))
    yield finding(
        Reason.NO_PATH,
        f"{case.where} has no certification path to {' or '.join(case.spec.ca) or SELF}: {why.certificate.subject} "
        f"(issuer {why.certificate.issuer}): {why.refusal}; reissue it from the present CA, or put the CA back",
    )


def ca_not_self_signed(case: Case) -> Iterator[Finding]:
    """Report a trust anchor that another CA has signed."""
    if case.spec.authority and not (case.certificate.self_issued and signed_by(case.certificate, case.certificate)):
        yield finding(
            Reason.CA_NOT_SELF_SIGNED,
            f"{case.where}: {case.certificate.subject} is not self-signed (issuer {case.certificate.issuer}); "
            f"{ROOT_CA_ONLY}: install a self-signed CA",
        )


def ca_not_ca(case: Case) -> Iterator[Finding]:
    """Report a trust anchor without CA:TRUE (RFC 5280, 4.2.1.9). A version 1 certificate cannot have it."""
    if case.spec.authority and not case.certificate.is_ca and case.certificate.version >= 3:
        yield finding(
            Reason.CA_NOT_CA,
            f"{case.where}: {case.certificate.subject} lacks basicConstraints CA:TRUE, so nothing that it signed is "
            "accepted; install a CA certificate",
        )


def ca_cannot_sign(case: Case) -> Iterator[Finding]:
    """Report a trust anchor with a keyUsage without keyCertSign (RFC 5280, 4.2.1.3). A CA without keyUsage can sign."""
    if case.spec.authority and not case.certificate.has_usage("cert sign"):
        yield finding(
            Reason.CA_CANNOT_SIGN,
            f"{case.where}: {case.certificate.subject} has a keyUsage without keyCertSign, so nothing that it signed "
            "is accepted; reissue the CA with keyCertSign",
        )


def wrong_subject(case: Case) -> Iterator[Finding]:
    """Report a subject that the catalogue does not accept: for Kubernetes, the subject is the identity."""
    accepted = accepted_subjects(case.spec, case.facts)
    if accepted and not has_accepted_subject(case.certificate, accepted):
        yield finding(
            Reason.WRONG_SUBJECT,
            f"{case.where} has the subject {case.certificate.subject}, expected {' or '.join(accepted)}; reissue it",
        )


def wrong_usage(case: Case) -> Iterator[Finding]:
    """Report a usage that its consumers require and the certificate does not permit."""
    lacking = () if case.spec.authority else lacking_usages(case.spec, case.certificate)
    if lacking:
        yield finding(Reason.WRONG_USAGE, f"{case.where} may not be used for {', '.join(lacking)}; reissue it")


def missing_name(case: Case) -> Iterator[Finding]:
    """Report a DNS name or IP address of the server that is missing in the subjectAltName extension."""
    if missing := missing_names(case.spec, case.facts, case.certificate.names):
        yield finding(
            Reason.MISSING_NAME,
            f"{case.where} lacks the name {', '.join(missing)}; reissue it with all the names that it is reached by",
        )


def key_missing(case: Case) -> Iterator[Finding]:
    """Report that the private key of the certificate is missing."""
    seen = case.seen
    if seen.key_path and seen.key is None and not seen.key_unknown and not seen.spec.key_optional:
        yield finding(
            Reason.KEY_MISSING,
            f"{case.where} has no private key: {seen.key_path} holds none; put the key back or reissue the pair",
        )


def key_mismatch(case: Case) -> Iterator[Finding]:
    """Report a private key that belongs to another certificate."""
    key = case.seen.key
    if key is not None and key.sha256 != case.certificate.key.sha256:
        yield finding(
            Reason.KEY_MISMATCH,
            f"{case.seen.key_path or case.where} is not the private key of {case.where}; "
            "put back the pair that belongs together, or reissue it",
        )


def embedded_ca_differs(case: Case) -> Iterator[Finding]:
    """Report a kubeconfig that trusts other CA certificates than those in the CA file."""
    wanted = frozenset(case.embeddable)
    for embedded in case.seen.embedded if wanted else ():
        given = frozenset(embedded.certificates)
        if given != wanted:
            differs = "none of" if not given & wanted else "not exactly"
            yield finding(
                Reason.EMBEDDED_CA_DIFFERS,
                f"{embedded.path} trusts {differs} the CA certificates of {case.spec.embedded_ca}; "
                "embed the present CA in it and restart what uses it",
                None if given & wanted else Severity.CRITICAL,
            )


def not_rotating_pem(case: Case) -> Iterator[Finding]:
    """Report a kubelet.conf without the PEM that the kubelet rotates: its next start would use stale credentials."""
    if case.spec.kind is Kind.KUBELET and case.seen.refers_to is not None and case.seen.refers_to != case.where:
        instead = case.seen.refers_to or "embedded credentials"
        yield finding(
            Reason.NOT_ROTATING_PEM,
            f"{case.spec.kubeconfig} uses {instead} in place of {case.where}; "
            "let its client-certificate and client-key name that file",
        )


def not_a_symlink(case: Case) -> Iterator[Finding]:
    """Report that the kubelet's current PEM is a plain file, which the kubelet cannot rotate."""
    if case.seen.symlink is False:
        yield finding(
            Reason.NOT_A_SYMLINK,
            f"{case.where} is a plain file, not a symlink to a dated PEM, so the kubelet cannot rotate it; "
            "move it to a dated name beside it and link to that",
        )


def unexpected_chain(case: Case) -> Iterator[Finding]:
    """Report a file with more than its one certificate, or with another certificate first."""
    extra = len(case.seen.certificates) - 1
    if extra and not case.seen.leaf_first:
        yield finding(
            Reason.UNEXPECTED_CHAIN,
            f"{case.where} does not begin with its own certificate, which is the one that Go's TLS takes for it; "
            "put the end entity first",
            Severity.CRITICAL,
        )
    elif extra and not case.spec.chain and not case.spec.authority:
        yield finding(
            Reason.UNEXPECTED_CHAIN,
            f"{case.where} holds {extra} more certificates, where its readers want exactly one; remove the others",
        )


def weak_key(case: Case) -> Iterator[Finding]:
    """Report a key that is shorter than RSA-2048 or P-256, or of a kind that Kubernetes does not support.

    Go refuses RSA below 1,024 bits (crypto/rsa, checkKeySize). Its TLS refuses every kind but these and P-224
    (crypto/tls, signatureSchemesForCertificate). It verifies what a CA with a key on P-224 has signed.
    """
    key = case.certificate.key
    least = {"RSA": 2048, "ECDSA": 256, "Ed25519": 256}.get(key.algorithm)
    if least is None or key.bits < least:
        spared = key.algorithm == "RSA" and key.bits >= SMALLEST_RSA
        spared = spared or (key.algorithm == "ECDSA" and case.spec.authority)
        fact = f"{case.where} has the key {key}" + ("" if spared else ", which Go's TLS refuses")
        severity = None if spared else Severity.CRITICAL
        yield finding(Reason.WEAK_KEY, f"{fact}; use RSA-2048, ECDSA P-256, Ed25519 or better", severity)


def key_unusable(case: Case) -> Iterator[Finding]:
    """Report a key that Go parses and cannot use: RSA over 8,192 bits, or with an exponent over 2³¹-1.

    A CA with more bits is a warning: Go verifies what it has signed, but Go's TLS refuses the CA itself in a chain.
    """
    if why := unusable(case.certificate.key):
        large = case.spec.authority and case.certificate.key.bits > LARGEST_RSA
        yield finding(
            Reason.KEY_UNUSABLE,
            f"{case.where} has the key {case.certificate.key}, which Go cannot use ({why}); use RSA-2048 to RSA-8192, "
            "ECDSA P-256 or Ed25519",
            Severity.WARNING if large else None,
        )


def weak_signature(case: Case) -> Iterator[Finding]:
    """Report a signature with MD5 or SHA-1, which Go refuses. On a trust anchor it is info, because Go does not verify
    it.
    """
    if case.certificate.signature_hash in WEAK_HASHES:
        yield finding(
            Reason.WEAK_SIGNATURE,
            f"{case.where} is signed with {case.certificate.signature_hash}; reissue it with SHA-256",
            Severity.INFO if case.spec.authority else None,
        )


def nonpositive_serial(case: Case) -> Iterator[Finding]:
    """Report a serial number of zero or below (forbidden by RFC 5280, 4.1.2.2), as in CAs of kubeadm before v1.27."""
    if case.certificate.serial <= 0:
        yield finding(
            Reason.NONPOSITIVE_SERIAL,
            f"{case.where} has the serial number {case.certificate.serial}, as kubeadm before v1.27 and k3s give their "
            "CAs; nothing to do until the CA is replaced",
        )


POLICY: tuple[Check, ...] = (
    expired,
    not_yet_valid,
    no_path,
    ca_not_self_signed,
    ca_not_ca,
    ca_cannot_sign,
    key_missing,
    key_mismatch,
    wrong_subject,
    wrong_usage,
    missing_name,
    weak_signature,
    nearing_expiry,
    still_due,
    outlives_ca,
    embedded_ca_differs,
    not_rotating_pem,
    not_a_symlink,
    unexpected_chain,
    weak_key,
    key_unusable,
    nonpositive_serial,
)
"""In the order of the report: what fails now, what will fail, what is untidy."""


_OF_THE_ANCHOR = frozenset({Refusal.NOT_CA, Refusal.CANNOT_SIGN, Refusal.UNSUPPORTED, Refusal.UNKNOWN_CRITICAL})
"""Refusals of an anchor that do not depend on the path below it."""


def _own_links(case: Case) -> tuple[Certificate, ...]:
    """Return the certificate and the rest of its best path, without an anchor that has a separate entry."""
    best = case.search.valid_at(case.now) or case.search.best
    if best is None:
        return (case.certificate,)
    return (case.certificate, *(best.certificates[1:-1] if _has_entry(case, best.anchor) else best.certificates[1:]))


def _has_entry(case: Case, anchor: Certificate) -> bool:
    """Return whether the anchor belongs to another entry. Otherwise it is checked with this file."""
    return SELF not in (case.spec.ca or (SELF,)) or anchor not in case.seen.certificates


def _told_elsewhere(case: Case, why: Rejection) -> bool:
    """Return whether another check of this certificate, or the entry of its anchor, reports the rejection."""
    if why.certificate.objections and why.certificate in case.seen.certificates:
        return True
    if why.certificate == case.certificate:
        return why.refusal in {Refusal.USAGE, Refusal.WEAK_SIGNATURE}
    is_entry = why.certificate in case.anchors and _has_entry(case, why.certificate)
    return is_entry and why.refusal in _OF_THE_ANCHOR


def _called(case: Case, link: Certificate) -> str:
    return case.where if link is case.certificate else f"{case.where}: the intermediate {link.subject}"


def _renew(case: Case) -> str:
    if case.spec.renewed_by:
        return f"it is renewed by {case.spec.renewed_by}"
    return "rotate it" if case.spec.authority else "renew it"  # `certmond renew` refuses a CA


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
