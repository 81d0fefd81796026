"""A Root CA that is to be: whether Kubernetes can live with it, and whether it can follow the one that is in place.

Owns the judgement, and its sentences where no check of `pki.checks` has them already: what would be critical once the
CA is in place is refused before. What is refused has to be put right; what is only warned of goes through. Pure: it
reads no file, and whoever has the key proves it by its public half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Finding, Reason, Severity, printable
from certmond.pki.rotation.ca_hierarchy import Leaf
from certmond.pki.signing.template import BACKDATE
from certmond.pki.x509.certificate import Certificate, PublicKey
from certmond.pki.x509.encoding_faults import encoding_faults
from certmond.pki.x509.path_building import Refusal, objection

Mode = Literal["overlap", "reissue"]
"""How a candidate can follow: beside the present CA, or in its place with the same key, so that leaves stay."""

_ANY_CA = CertificateSpec(name="ca", path="/ca.crt", key="/ca.key", authority=True, usages=("cert sign",))
_OF_LEAVES = frozenset({Refusal.NAME_CONSTRAINT, Refusal.USAGE})
"""What a CA is refused for only because of what it is to sign."""
_OF_THE_KEY = frozenset({Reason.WEAK_KEY, Reason.KEY_UNUSABLE})
_FATAL = _OF_THE_KEY | {Reason.NONCONFORMING}
"""What a CA is refused for that may be a warning of one in place."""
_SAME_LIFE = timedelta(days=1)
"""By so much a life may be shorter without being called so: nobody counts a CA's life in hours."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What speaks against a candidate: `problems` forbid it, `warnings` do not. Each sentence has its remedy.

    Where time alone removes problems, `until` is when the first of them goes.
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
    """Return whether `candidate` can follow the `present` certificates of its family, of which the first one signs now.

    `leaves_end` is when a certificate would end that is issued now, `leaves` are those that are to be issued anew.
    `where` and `key_where` name the files in messages; with `key_where` None no key is asked for, as on a worker.

    A candidate that is staged can wait until nothing speaks against it. One that is `in_place` already is what the API
    server verifies its clients with: only what makes the rotation impossible forbids it, and the rest are warnings.
    """
    status = _assessed(candidate, key, now, where, key_where)
    advice = (  # about other programs than Kubernetes' own
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
    """Why no cluster could live with this Root CA at `now`, be it the first one or a later one: each a sentence."""
    return tuple(map(printable, _fatal(_assessed(certificate, key, now, where, key_where))))


def _assessed(
    certificate: Certificate, key: PublicKey | None, now: datetime, where: str, key_where: str | None
) -> CertificateStatus:
    """What every later look would say of it, were it in place."""
    faults = tuple(encoding_faults(certificate, where))
    seen = Observation(_ANY_CA.name, _ANY_CA, where, (certificate,), key=key, key_path=key_where, faults=faults)
    (status,) = assess(Inventory((seen,)), now).statuses
    return status


def _fatal(status: CertificateStatus, *, in_place: bool = False) -> list[str]:
    where, (certificate, *_) = status.seen.path, status.seen.certificates
    told = [
        found.message
        for found in status.findings
        if found.reason is not Reason.NO_PATH
        and not (in_place and _is_late(found))
        and (found.severity is Severity.CRITICAL or found.reason in _FATAL)
        and not (certificate.objections and found.reason in _OF_THE_KEY)  # Go's words have told it
    ]
    if certificate.version < 3:  # what it lacks nobody finds, as it has no way to say it
        told.append(f"{where} is of version {certificate.version}, which has no CA:TRUE; give another CA")
    told += [
        f"{where}: {certificate.subject} {why.refusal}; give another CA"
        for why in status.search.rejections
        if why.refusal is not Refusal.UNSUPPORTED  # that was told, of its encoding or of its key
    ]
    return told


def _is_late(found: Finding) -> bool:
    """It says that the CA ends so soon that its end is critical."""
    return found.reason is Reason.NEARING_EXPIRY and found.severity is Severity.CRITICAL


def _too_young(candidate: Certificate, now: datetime, where: str) -> Iterator[str]:
    ready = candidate.not_before + BACKDATE
    if candidate.not_before <= now < ready:
        fact = f"{where} has been valid for less than 5 minutes, and a host whose clock is behind would not accept it"
        yield f"{fact}; wait until {ready:%Y-%m-%d %H:%M:%S} UTC"


def _unidentified(candidate: Certificate, where: str) -> Iterator[str]:
    """Of what is no CA, or has no extensions at all, that is told, and not also this."""
    if not candidate.is_ca:
        return
    if candidate.subject_key_id is None:
        fact = f"{where} has no subject key identifier, by which OpenSSL tells two CAs of one name apart"
        yield f"{fact}; have it issued with one"
    elif candidate.authority_key_id not in {None, candidate.subject_key_id} and candidate.self_issued:
        fact = f"{where} has an authority key identifier that is not its own, so that OpenSSL looks for another issuer"
        yield f"{fact}, and accepts nothing that it signs; have it issued with its own, or with none"


def _confusable(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    """What is the present CA, or has its key and is neither that one again nor another."""
    if candidate in present:
        yield f"{where} is the CA that is in place already (serial {candidate.serial}); give a new one"
        return
    for other in present:
        same_key = candidate.key.sha256 == other.key.sha256
        same_id = candidate.subject_key_id == other.subject_key_id
        called = f"the present CA {other.subject} (serial {other.serial})"
        if same_key and candidate.subject_der != other.subject_der:
            fact = f"{where} has the key of {called}, but another name, {candidate.subject}"
            yield f"{fact}, so that it is neither that one again nor another; keep the name, or take another key"
        elif same_key and candidate.subject_key_id and not same_id:
            fact = f"{where} has the key of {called}, but another subject key identifier, so that OpenSSL accepts"
            yield f"{fact} nothing that was signed before (error 20); keep the identifier, or take another key"


def _same_identifier(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    """What OpenSSL, which chooses an issuer by name and identifier, would take for the present CA."""
    for other in present:
        if (
            candidate.subject_key_id
            and candidate.subject_key_id == other.subject_key_id
            and candidate.key.sha256 != other.key.sha256
        ):
            called = f"the present CA {other.subject} (serial {other.serial})"
            fact = f"{where} has the subject key identifier of {called}, but another key, so that OpenSSL takes"
            yield f"{fact} the one for the other; have it issued with an identifier of its own"


def _constrained(candidate: Certificate, leaves: Sequence[Leaf], where: str) -> Iterator[str]:
    refused: dict[Refusal, list[str]] = {}
    for leaf in leaves:
        why = objection(candidate, leaf.certificate, leaf.usages)
        if why in _OF_LEAVES:
            refused.setdefault(why, []).append(leaf.path)
    for refusal, paths in refused.items():
        fact = f"{where}: {candidate.subject} cannot sign {', '.join(paths)} ({refusal})"
        yield f"{fact}; give a CA whose constraints allow that"


def _ends_before_its_leaves(candidate: Certificate, leaves_end: datetime | None, where: str) -> Iterator[str]:
    if leaves_end is not None and candidate.not_after < leaves_end:
        fact = f"{where} ends on {_day(candidate.not_after)}, sooner than what is issued from it would"
        yield f"{fact} ({_day(leaves_end)}), which is cut to that day; give a CA that lasts longer"


def _shorter_life(candidate: Certificate, present: Sequence[Certificate], where: str) -> Iterator[str]:
    if present and _life(candidate) < _life(present[0]) - _SAME_LIFE:
        fact = f"{where} lives for {_life(candidate).days} days, the present CA for {_life(present[0]).days}"
        yield f"{fact}; see that this is meant, as the next rotation is due the sooner"


def _no_serial(candidate: Certificate, where: str) -> Iterator[str]:
    """A negative one is no warning: Go refuses it."""
    if candidate.serial == 0:
        yield f"{where} has the serial number 0, which RFC 5280 forbids; better have it issued with another"


def _is_reissue(candidate: Certificate, signer: Certificate) -> bool:
    same = candidate.subject_key_id == signer.subject_key_id and candidate.subject_der == signer.subject_der
    return candidate.subject_key_id is not None and same and candidate.key.sha256 == signer.key.sha256


def _life(certificate: Certificate) -> timedelta:
    return certificate.not_after - certificate.not_before


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
