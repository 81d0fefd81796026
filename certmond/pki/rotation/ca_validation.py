"""Validation of a new Root CA that replaces the present Root CA.

A problem prevents the rotation. A warning does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Blocks, Finding, Reason, Severity, printable
from certmond.pki.rotation.ca_family import Leaf
from certmond.pki.signing.template import BACKDATE
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.encoding_faults import encoding_faults
from certmond.pki.x509.path_building import Refusal, objection
from certmond.pki.x509.public_key import PublicKey

Mode = Literal["overlap", "reissue"]
"""How a new CA replaces the present CA. `overlap`: components trust both CAs for a time. `reissue`: the new CA has the
same key, so the leaves stay valid.
"""

_ANY_CA = CertificateSpec(name="ca", path="/ca.crt", key="/ca.key", authority=True, usages=("cert sign",))
_OF_LEAVES = frozenset({Refusal.NAME_CONSTRAINT, Refusal.USAGE})
"""Refusals that depend on the leaves that the CA must sign."""
_OF_THE_KEY = frozenset({Reason.WEAK_KEY, Reason.KEY_UNUSABLE})
_SAME_LIFE = timedelta(days=1)
"""Largest decrease in lifetime for which certmond gives no warning."""


@immutable
class Verdict:
    """Result of the validation.

    `problems` contains the reasons against the new CA. `until` is the time at which the new CA becomes old enough, or
    None if the new CA is old enough now.
    """

    mode: Mode
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    until: datetime | None = None


def judge(
    candidate: Certificate,
    key: PublicKey | None,
    present: Sequence[Certificate],
    leaves_end: datetime | None,
    now: datetime,
    *,
    where: str = "the new Root CA",
    key_where: str | None = "its key",
    leaves: Sequence[Leaf] = (),
    in_place: bool = False,
) -> Verdict:
    """Return the verdict on whether `candidate` can replace the CAs in `present`. The first CA in `present` signs now.

    `leaves_end` is the end that a leaf issued now would have, or None to skip this check. If `key_where` is None, no
    key is required, as on a worker. For an installed candidate (`in_place`), only a fact that makes the rotation
    impossible is a problem.
    """
    status = _assessed(candidate, key, now, where, key_where)
    advice = (  # problems with programs other than Kubernetes
        *(found.message for found in status.findings if found.reason is Reason.WEAK_SIGNATURE),
        *_unidentified(candidate, where),
        *_same_identifier(candidate, present, where),
    )
    problems = (
        *_fatal(status, in_place=in_place),
        *(() if in_place else (*_too_young(candidate, now, where), *advice)),
        *_confusable(candidate, present, where),
        *_constrained(candidate, leaves, where),
    )
    warnings = (
        *((*(found.message for found in status.findings if _is_late(found)), *advice) if in_place else ()),
        *_ends_before_its_leaves(candidate, leaves_end, where),
        *_shorter_life(candidate, present, where),
        *_no_serial(candidate, where),
    )
    mode: Mode = "reissue" if present and _is_reissue(candidate, present[0]) else "overlap"
    until = candidate.not_before if in_place else candidate.not_before + BACKDATE
    return Verdict(
        mode, tuple(map(printable, problems)), tuple(map(printable, warnings)), until if now < until else None
    )


def unfit(
    certificate: Certificate, key: PublicKey | None, now: datetime, *, where: str, key_where: str | None
) -> tuple[str, ...]:
    """Return the reasons why no cluster can use the Root CA at `now`, as sentences.

    If `key_where` is None, no key is required.
    """
    return tuple(map(printable, _fatal(_assessed(certificate, key, now, where, key_where))))


def _assessed(
    certificate: Certificate, key: PublicKey | None, now: datetime, where: str, key_where: str | None
) -> CertificateStatus:
    """Return the status that the CA would have if it were installed on a node."""
    faults = tuple(encoding_faults(certificate, where))
    seen = Observation(_ANY_CA.name, _ANY_CA, where, (certificate,), key=key, key_path=key_where, faults=faults)
    (status,) = assess(Inventory((seen,)), now).statuses
    return status


def _fatal(status: CertificateStatus, *, in_place: bool = False) -> list[str]:
    where, (certificate, *_) = status.seen.path, status.seen.certificates
    problems = [
        found.message
        for found in status.findings
        if found.reason is not Reason.NO_PATH
        and not (in_place and _is_late(found))
        and (found.severity is Severity.CRITICAL or Blocks.NEW_CA in found.reason.blocks)
        and not (certificate.objections and found.reason in _OF_THE_KEY)  # `objections` contains the fault
    ]
    if certificate.version < 3:  # the rules accept version 1, which has no extensions
        problems.append(
            f"{where} has version {certificate.version}, which has no basicConstraints CA:TRUE; give another CA"
        )
    problems += [
        f"{where}: {certificate.subject}: {why.refusal}; give another CA"
        for why in status.search.rejections
        if why.refusal is not Refusal.UNSUPPORTED  # a finding already reports the encoding or the key
    ]
    return problems


def _is_late(found: Finding) -> bool:
    """Return whether the finding reports that the CA is in the critical window before its expiration."""
    return found.reason is Reason.NEARING_EXPIRY and found.severity is Severity.CRITICAL


def _too_young(candidate: Certificate, now: datetime, where: str) -> Iterator[str]:
    ready = candidate.not_before + BACKDATE
    if candidate.not_before <= now < ready:
        fact = f"{where} has been valid for less than 5 minutes, so a host with a slow clock might reject this CA"
        yield f"{fact}; wait until {ready:%Y-%m-%d %H:%M:%S} UTC"


def _unidentified(candidate: Certificate, where: str) -> Iterator[str]:
    """Yield a sentence if the key identifiers of the CA confuse OpenSSL.

    This is the case if the CA has no subject key identifier, or if a self-issued CA has the authority key identifier of
    another key.
    """
    # `judge` reports a certificate that is not a CA.
    if not candidate.is_ca:
        return
    if candidate.subject_key_id is None:
        fact = f"{where} has no subject key identifier, with which OpenSSL distinguishes CAs that have the same subject"
        yield f"{fact}; reissue it with a subject key identifier"
    elif candidate.authority_key_id not in {None, candidate.subject_key_id} and candidate.self_issued:
        fact = f"{where} has the authority key identifier of another key, so OpenSSL searches for another issuer"
        yield (
            f"{fact}, and rejects the certificates of this CA; reissue the CA with its own key "
            "identifier, or without this extension"
        )


def _confusable(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    """Yield a sentence if the candidate is a present CA, or conflicts with a present CA that has the same key.

    CAs with the same key conflict if their subjects differ, or if the candidate has a different subject key identifier.
    """
    if candidate in present:
        yield f"{where} is the present CA (serial {candidate.serial_hex}); give a new CA"
        return
    for other in present:
        same_key = candidate.key.der == other.key.der
        same_id = candidate.subject_key_id == other.subject_key_id
        called = f"the present CA {other.called}"
        if same_key and candidate.subject_der != other.subject_der:
            fact = f"{where} has the key of {called}, but another subject, {candidate.subject}"
            yield f"{fact}, and a CA with the same key must keep its subject; keep the subject, or create another key"
        elif same_key and candidate.subject_key_id and not same_id:
            fact = f"{where} has the key of {called}, but another subject key identifier, so OpenSSL rejects"
            yield f"{fact} the present certificates (error 20); keep the identifier, or create another key"


def _same_identifier(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    """Yield a sentence if the candidate has the subject key identifier of a present CA, but another key.

    OpenSSL confuses two such CAs.
    """
    for other in present:
        if (
            candidate.subject_key_id
            and candidate.subject_key_id == other.subject_key_id
            and candidate.key.der != other.key.der
        ):
            called = f"the present CA {other.called}"
            fact = (
                f"{where} has the subject key identifier of {called}, but another key, so OpenSSL confuses the two CAs"
            )
            yield f"{fact}; reissue the CA with a different identifier"


def _constrained(candidate: Certificate, leaves: Sequence[Leaf], where: str) -> Iterator[str]:
    refused: dict[Refusal, list[str]] = {}
    for leaf in leaves:
        why = objection(candidate, leaf.certificate, leaf.usages)
        if why in _OF_LEAVES:
            refused.setdefault(why, []).append(leaf.path)
    for refusal, paths in refused.items():
        fact = f"{where}: {candidate.subject} cannot sign {', '.join(paths)} ({refusal})"
        yield f"{fact}; give a CA whose constraints allow these certificates"


def _ends_before_its_leaves(candidate: Certificate, leaves_end: datetime | None, where: str) -> Iterator[str]:
    if leaves_end is not None and candidate.not_after < leaves_end:
        fact = (
            f"{where} ends on {_day(candidate.not_after)} and shortens new certificates, which would otherwise end on"
        )
        yield f"{fact} {_day(leaves_end)}; give a CA with a later end"


def _shorter_life(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    if present and _life(candidate) < _life(present[0]) - _SAME_LIFE:
        fact = (
            f"{where} is valid for {_life(candidate).days} days, but the present CA is valid for "
            f"{_life(present[0]).days} days"
        )
        yield f"{fact}; check that a shorter validity is intended, because the next rotation is due earlier"


def _no_serial(candidate: Certificate, where: str) -> Iterator[str]:
    """Yield a warning if the serial number is 0."""
    # A negative serial number is a problem, which `judge` reports.
    if candidate.serial == 0:
        yield f"{where} has the serial number 0, which RFC 5280 forbids; reissue it with another serial number"


def _is_reissue(candidate: Certificate, signer: Certificate) -> bool:
    same = candidate.subject_key_id == signer.subject_key_id and candidate.subject_der == signer.subject_der
    return candidate.subject_key_id is not None and same and candidate.key.der == signer.key.der


def _life(certificate: Certificate) -> timedelta:
    return certificate.not_after - certificate.not_before


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
