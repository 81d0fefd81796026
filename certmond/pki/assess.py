"""What the node's certificates amount to at one instant: every verdict, and when the next one changes by itself.

Owns the joining of observation, paths and policy into an `Assessment`. Pure: time is an argument, and the previous
assessment is one too, so that nothing is judged again whose bytes, anchors and hour did not change, and so that a file
that went bad keeps its last good certificate beside the finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import NamedTuple

from certmond.pki.catalog import SELF, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.checks import POLICY, Case, critical_point, renewal_point
from certmond.pki.damage import is_whole, last_issued
from certmond.pki.file_checks import about_damage, about_files, about_key_pair
from certmond.pki.holding import NOWHERE, Presence, Surroundings
from certmond.pki.inventory import Inventory, Observation
from certmond.pki.mismatch import REPAIR_REST, REPAIR_WAIT, Mismatch, mismatch_of, settled
from certmond.pki.path import PathSearch, Question, Searching, find_all
from certmond.pki.reason import Finding, Reason, Severity
from certmond.pki.service_checks import about_services, turning_points
from certmond.pki.signing_checks import not_issued_by_ca
from certmond.pki.signing_policy import Basis, basis

RENEW_BEFORE = timedelta(days=30)
_EXTENDED = frozenset({"server auth", "client auth"})

_CHANGES_AT = attrgetter("changes_at")  # in a loop over ten thousand, that counts

Anchors = tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """The verdict on one certificate. `certificate` is the last good one where the file is bad now (`stale`).

    `issuers` are the present certificates of the CA that would sign its successor. `basis` is what that could be
    derived from; None where the origin was not looked up. `damage` says since when its files hold no whole pair.
    """

    seen: Observation
    certificate: Certificate | None
    stale: bool
    renew_at: datetime | None
    trust_anchor: Certificate | None
    chain_valid: bool
    key_matches: bool | None
    findings: tuple[Finding, ...]
    search: PathSearch
    usages: frozenset[str]
    anchors: Anchors
    anchors_told: bool
    embeddable: Anchors
    judged_at: datetime
    changes_at: datetime | None
    renewed_at: datetime | None = None
    presence: Presence = NOWHERE
    issuers: Anchors = ()
    basis: Basis | None = None
    mismatch: Mismatch | None = None
    damage: Mismatch | None = None

    @property
    def severity(self) -> Severity | None:
        """The worst that stands, or None where nothing does."""
        return worst(self.findings)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a verdict comes from, besides the observation and the time."""

    facts: Mapping[str, str]
    renew_before: timedelta
    anchors: Mapping[str, Anchors]
    renewed: Mapping[str, datetime]
    around: Surroundings | None
    waits: bool = True


@dataclass(frozen=True)
class Assessment:
    """The verdicts of one pass, in the order of the catalogue."""

    taken_at: datetime
    statuses: tuple[CertificateStatus, ...]
    facts: Mapping[str, str]
    renew_before: timedelta = RENEW_BEFORE
    terms: Terms | None = field(default=None, repr=False)

    @cached_property
    def by_identity(self) -> dict[tuple[str, str], CertificateStatus]:
        return {(status.seen.name, status.seen.path): status for status in self.statuses}

    @cached_property
    def changes_at(self) -> datetime | None:
        """The next instant at which time alone changes a verdict; None where none ever does."""
        return min(filter(None, map(_CHANGES_AT, self.statuses)), default=None)

    @property
    def waits_until(self) -> datetime | None:
        """When the last mismatch of a pair that may be half written is reported; None where none is waited for."""
        waits = (status.mismatch.waits_until for status in self.statuses if status.mismatch)
        return max(filter(None, waits), default=None)

    @property
    def certificates(self) -> Iterator[CertificateStatus]:
        return (status for status in self.statuses if status.seen.spec.kind is not Kind.KEY_PAIR)

    @property
    def trust_anchors(self) -> Iterator[CertificateStatus]:
        return (status for status in self.statuses if status.seen.spec.authority and status.certificate)

    @property
    def loose_findings(self) -> Iterator[Finding]:
        """Findings that are about no certificate."""
        return (item for status in self.statuses if status.seen.spec.kind is Kind.KEY_PAIR for item in status.findings)

    @cached_property
    def severity(self) -> Severity | None:
        return worst(item for status in self.statuses for item in status.findings)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The highest severity among `findings`."""
    return max((item.severity for item in findings), key=lambda severity: severity.rank, default=None)


def assess(
    inventory: Inventory,
    now: datetime,
    previous: Assessment | None = None,
    renew_before: timedelta = RENEW_BEFORE,
    *,
    renewed: Mapping[str, datetime] | None = None,
    around: Surroundings | None = None,
    searching: Searching = find_all,
    waits: bool = True,
) -> Assessment:
    """Judge everything in `inventory` at `now` (aware, UTC).

    `previous` saves work and remembers the last good certificate of a file that went bad; it changes no other verdict.
    `renewed` says when certmond itself has put a certificate in place, by its SHA-256. `around` is what runs and is
    served; None where nobody looked. `searching` answers what is asked about paths, as `find_all` does. `waits` says
    that a mismatch of certificate and key is reported only once no writer can be between the two files any more.
    """
    terms = Terms(inventory.facts, renew_before, _anchors(inventory.observations), renewed or {}, around, waits)
    same_terms = previous is not None and (previous.facts, previous.renew_before) == (inventory.facts, renew_before)
    known = previous.by_identity if previous else {}
    kept = _kept(previous, terms, now)
    looked = [
        kept.get(id(seen)) or _look_at(seen, terms, now, before=known.get(seen.identity), same_terms=same_terms)
        for seen in inventory.observations
    ]
    # All paths before all verdicts: signatures and policy drive each other out of the processor's caches.
    asked = [each.question for each in looked if isinstance(each, _Unjudged) and each.search is None]
    found = iter(searching(asked))
    statuses = tuple(
        [
            each if isinstance(each, CertificateStatus) else _judge(each, each.search or next(found), terms, now)
            for each in looked
        ]
    )
    return Assessment(now, statuses, inventory.facts, renew_before, terms)


def _kept(previous: Assessment | None, terms: Terms, now: datetime) -> dict[int, CertificateStatus]:
    """The verdicts that stand without being looked at, by the `id` of their observation: where nothing has changed but
    files, and the time of none has come, that is all but those of the files.
    """
    if previous is None or previous.terms != terms or now < previous.taken_at:
        return {}
    if previous.changes_at is not None and previous.changes_at <= now:
        return {}
    return {id(status.seen): status for status in previous.statuses}


def _anchors(observations: Iterable[Observation]) -> dict[str, Anchors]:
    """The trust anchors that each authority of the catalogue holds, by its name."""
    found: dict[str, list[Certificate]] = {}
    for seen in observations:
        if seen.spec.authority:
            found.setdefault(seen.spec.name, []).extend(seen.certificates[:1])
    return {name: tuple(dict.fromkeys(certificates)) for name, certificates in found.items()}


class _Unjudged(NamedTuple):
    """A certificate to be judged: what is asked about its paths, with the answer where that still stands, and what else
    is news of it.
    """

    seen: Observation
    question: Question
    search: PathSearch | None
    anchors_told: bool
    embeddable: Anchors
    renewed_at: datetime | None
    presence: Presence
    mismatch: Mismatch | None
    damage: Mismatch | None


@lru_cache(maxsize=256)
def _extended(usages: tuple[str, ...]) -> frozenset[str]:
    """Those of a row that are extended: one object for all of its certificates."""
    return _EXTENDED.intersection(usages)


def _look_at(
    seen: Observation, terms: Terms, now: datetime, *, before: CertificateStatus | None, same_terms: bool
) -> CertificateStatus | _Unjudged:
    """The verdict where there is nothing to judge, as it still holds or there is no certificate; else what to judge."""
    anchors, around = terms.anchors, terms.around
    own = _anchors_of(seen, anchors)
    told = not own and any(name in anchors for name in seen.spec.ca)  # those entries say why they have no certificate
    embeddable = anchors.get(seen.spec.embedded_ca, ()) if seen.spec.embedded_ca else ()
    renewed_at = terms.renewed.get(seen.certificates[0].sha256) if seen.certificates else None
    presence = around.presence(seen, renewed_at) if around else NOWHERE
    news = told, renewed_at, presence
    same_terms = same_terms and before is not None and _news_of(before) == news
    issuers = _issuers_of(seen, anchors)
    same_terms = same_terms and before is not None and before.issuers == issuers
    if before and same_terms and _still_holds(before, seen, own, embeddable, now):
        return before
    mismatch = mismatch_of(
        seen.key_matches, seen.changed_at, before.mismatch if before else None, now,
        first=before is None, waits=terms.waits,
    )  # fmt: skip
    damage = mismatch_of(
        is_whole(seen), seen.changed_at, before.damage if before else None, now,
        first=before is None, waits=terms.waits, wait=REPAIR_WAIT,
        rest=None if any(fault.reason is Reason.MISSING for fault in seen.faults) else REPAIR_REST,
    )  # fmt: skip
    if not seen.certificates:
        absent = _absent(
            seen, before, own, embeddable, now, anchors_told=told, presence=presence, issuers=issuers,
            facts=terms.facts,
        )  # fmt: skip
        return replace(absent, mismatch=mismatch, damage=damage, changes_at=damage.changes_at if damage else None)
    certificate = seen.certificates[0]
    usages = _extended(seen.spec.usages)
    question = Question(certificate, own, seen.certificates[1:], usages, seen.path)
    asked = (before.seen.certificates, before.anchors, before.usages) if before else None
    search = before.search if before and asked == (seen.certificates, own, usages) else None
    return _Unjudged(seen, question, search, told, embeddable, renewed_at, presence, mismatch, damage)


def _judge(one: _Unjudged, search: PathSearch, terms: Terms, now: datetime) -> CertificateStatus:
    seen, certificate, anchors, presence = one.seen, one.question.leaf, one.question.anchors, one.presence
    renew_at = renewal_point(certificate, seen.spec, terms.renew_before)
    issuers = _issuers_of(seen, terms.anchors)
    derived = basis(certificate, seen.certificates[1:], issuers, presence.provenance) if presence.provenance else None
    case = Case(
        seen, certificate, search, anchors, one.anchors_told, one.embeddable, terms.facts, renew_at, now,
        one.renewed_at, derived,
    )  # fmt: skip
    path = search.valid_at(now)
    shown = path or search.best
    judged = (item for check in (*POLICY, not_issued_by_ca) for item in check(case))
    said = (*about_files(seen), *settled(judged, one.mismatch, case), *about_services(presence, now))
    known = last_issued(certificate, (*issuers, *anchors)) if presence.salvage else None
    said = about_damage(said, seen, presence.salvage, now, facts=terms.facts, known=known)
    return CertificateStatus(
        seen=seen,
        certificate=certificate,
        stale=False,
        renew_at=case.renew_at,
        trust_anchor=shown.anchor if shown and (seen.spec.ca or seen.spec.authority) else None,
        chain_valid=path is not None,
        key_matches=seen.key_matches,
        findings=_capped(seen, said),
        search=search,
        usages=_extended(seen.spec.usages),
        anchors=case.anchors,
        anchors_told=case.anchors_told,
        embeddable=case.embeddable,
        judged_at=now,
        changes_at=_next_change(
            case, [*turning_points(presence), *(each.changes_at for each in (one.mismatch, one.damage) if each)]
        ),
        renewed_at=case.renewed_at,
        presence=presence,
        issuers=issuers,
        basis=derived,
        mismatch=one.mismatch,
        damage=one.damage,
    )


def _news_of(before: CertificateStatus) -> tuple[bool, datetime | None, Presence]:
    return before.anchors_told, before.renewed_at, before.presence


def _still_holds(
    before: CertificateStatus, seen: Observation, anchors: Anchors, embeddable: Anchors, now: datetime
) -> bool:
    """Nothing that the verdict came from has changed, and the hour has not come either.

    `is` costs nothing and is enough: the store hands out the same observation until its file changes.
    """
    return (
        before.seen is seen
        and before.anchors == anchors
        and before.embeddable == embeddable
        and before.judged_at <= now
        and (before.changes_at is None or now < before.changes_at)
    )


def _anchors_of(seen: Observation, anchors: Mapping[str, Anchors]) -> Anchors:
    """The anchors that it may chain to. An authority is its own; with no `ca` named, the file proves itself."""
    if seen.spec.authority:
        return seen.certificates[:1]
    if not seen.spec.ca:
        return _self_issued(seen) or seen.certificates[-1:]
    if len(seen.spec.ca) == 1 and seen.spec.ca[0] != SELF:
        return anchors.get(seen.spec.ca[0], ())
    found: list[Certificate] = []
    for name in seen.spec.ca:
        found += _self_issued(seen) if name == SELF else anchors.get(name, ())
    return tuple(dict.fromkeys(found))


def _issuers_of(seen: Observation, anchors: Mapping[str, Anchors]) -> Anchors:
    """The present certificates of the CA that would sign it: the first of its entry, and never one of its own file."""
    return next((found for name in seen.spec.ca if name != SELF and (found := anchors.get(name))), ())


def _self_issued(seen: Observation) -> Anchors:
    return tuple(certificate for certificate in seen.certificates if certificate.self_issued)


def _absent(
    seen: Observation,
    before: CertificateStatus | None,
    anchors: Anchors,
    embeddable: Anchors,
    now: datetime,
    *,
    anchors_told: bool,
    presence: Presence,
    issuers: Anchors,
    facts: Mapping[str, str],
) -> CertificateStatus:
    """There is no certificate to judge: the faults speak, and the last good one is kept for its dates."""
    last = before.certificate if before else None
    known = last_issued(last, (*issuers, *anchors)) if presence.salvage else None
    said = (*about_files(seen), *about_key_pair(seen), *about_services(presence, now))
    said = about_damage(said, seen, presence.salvage, now, facts=facts, known=known)
    return CertificateStatus(
        seen=seen,
        certificate=last,
        stale=last is not None,
        renew_at=before.renew_at if before else None,
        trust_anchor=None,
        chain_valid=False,
        key_matches=None,
        findings=_capped(seen, said),
        search=PathSearch((), ()),
        usages=frozenset(),
        anchors=anchors,
        anchors_told=anchors_told,
        embeddable=embeddable,
        judged_at=now,
        changes_at=None,
        presence=presence,
        issuers=issuers,
    )


def _capped(seen: Observation, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(item.capped(seen.spec.at_most) for item in findings)


def _next_change(case: Case, others: Iterable[datetime | None]) -> datetime | None:
    """The first instant after now at which time alone may change what is said of this certificate."""
    certificate, paths = case.certificate, case.search.paths
    instants = [certificate.not_before, case.renew_at, critical_point(certificate), certificate.expires_at]
    instants += filter(None, others)
    for link in {link for path in paths for link in path.certificates}:
        instants += [link.not_before, link.expires_at]
    return min((instant for instant in instants if instant > case.now), default=None)
