"""Assessment of a node: a verdict on each certificate, and the next time at which a verdict changes.

The assessment combines observations, certification paths and rules, and reuses verdicts whose inputs are unchanged.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from certmond.immutable_class import immutable
from certmond.pki.assessment.certificate_rules import POLICY
from certmond.pki.assessment.copies import Difference, differing_copies
from certmond.pki.assessment.file_rules import about_damage, about_files, about_key_pair
from certmond.pki.assessment.key_mismatch_delay import REPAIR_REST, REPAIR_WAIT, Mismatch, mismatch_of, settled
from certmond.pki.assessment.refused_configuration import refused_configuration
from certmond.pki.assessment.repairable_damage import is_whole
from certmond.pki.assessment.rule_input import Case
from certmond.pki.assessment.second_renewers import second_renewers
from certmond.pki.assessment.self_signed_leaves import is_self_signed
from certmond.pki.assessment.service_rules import about_services, turning_points
from certmond.pki.assessment.signing_obstacles import missing_ca_keys, not_issued_by_ca, signing_obstacle
from certmond.pki.assessment.trust_anchors import Anchors, catalog_anchors, issuers_of, own_anchors
from certmond.pki.assessment.validity_rules import next_change, renewal_point
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Finding, Reason, Severity, highest_severity
from certmond.pki.services.outage import unmet_demands
from certmond.pki.services.staleness import NOWHERE, Presence, Surroundings
from certmond.pki.signing.policy import Basis, basis
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import PathSearch, Question, Searching, find_all

if TYPE_CHECKING:
    from certmond.pki.services.cluster_objects import ClusterReading


RENEW_BEFORE = timedelta(days=30)
_EXTENDED = frozenset({"server auth", "client auth"})

_INPUTS = attrgetter("anchors_reported", "renewed_at", "presence", "difference", "issuers")
_OF_ALL = attrgetter("facts", "renew_before", "missing_ca_keys")  # terms of the verdicts of all entries
_CHANGES_AT = attrgetter("changes_at")  # with `map`, measurably faster than a loop over ten thousand statuses


@immutable
class CertificateStatus:
    """The verdict on one certificate."""

    seen: Observation
    certificate: Certificate | None
    stale: bool  # the files contain no certificate now, and `certificate` is the last good certificate
    renew_at: datetime | None
    trust_anchor: Certificate | None
    chain_valid: bool
    key_matches: bool | None
    findings: tuple[Finding, ...]
    search: PathSearch
    usages: frozenset[str]
    anchors: Anchors
    anchors_reported: bool  # all trust anchors are missing, and an entry in `ca` reports this
    embeddable: Anchors  # the CA certificates that the kubeconfig must trust
    judged_at: datetime
    changes_at: datetime | None
    renewed_at: datetime | None = None
    presence: Presence = NOWHERE
    difference: Difference | None = None  # the difference between a copy and its original
    issuers: Anchors = ()  # the present certificates of the CA that would sign the next certificate
    basis: Basis | None = None  # None if certmond has not checked the origin of `certificate`
    mismatch: Mismatch | None = None
    damage: Mismatch | None = None  # like `mismatch`, for files that do not contain a complete pair

    @property
    def severity(self) -> Severity | None:
        """The highest severity of the findings, or None if there are no findings."""
        return highest_severity(self.findings)


@immutable
class Terms:
    """Inputs of a verdict in addition to the observation and the time."""

    facts: Mapping[str, str]
    renew_before: timedelta
    anchors: Mapping[str, Anchors]
    missing_ca_keys: Mapping[str, str]
    renewed: Mapping[str, datetime]
    around: Surroundings | None
    differences: Mapping[tuple[str, str], Difference]
    waits: bool = True


@immutable(slots=False)
class Assessment:
    """The verdicts of one pass, in the order of the catalogue."""

    taken_at: datetime
    statuses: tuple[CertificateStatus, ...]
    facts: Mapping[str, str]
    renew_before: timedelta = RENEW_BEFORE
    terms: Terms | None = field(default=None, repr=False)
    cluster: ClusterReading | None = field(default=None, repr=False)  # None without the reader of the cluster

    def status(self, name: str, path: str) -> CertificateStatus | None:
        """Return the last verdict on the entry `name` at `path`, or None without this entry."""
        return self._by_path.get(name, {}).get(path)

    @property
    def distinct(self) -> tuple[CertificateStatus, ...]:
        """The last verdict for each combination of name and path, in the order of the first verdicts."""
        if sum(map(len, self._by_path.values())) == len(self.statuses):
            return self.statuses
        return tuple({each.seen.identity: each for each in self.statuses}.values())

    @cached_property
    def _by_path(self) -> Mapping[str, Mapping[str, CertificateStatus]]:
        found = defaultdict[str, dict[str, CertificateStatus]](dict)  # less memory than tuples as keys
        for status in self.statuses:
            found[status.seen.name][status.seen.path] = status
        return found

    @cached_property
    def changes_at(self) -> datetime | None:
        """The next time at which a verdict changes even if no file changes, or None."""
        return min(filter(None, map(_CHANGES_AT, self.statuses)), default=None)

    @property
    def waits_until(self) -> datetime | None:
        """The latest time until which certmond waits for a program to replace a key or certificate, or None."""
        waits = (status.mismatch.waits_until for status in self.statuses if status.mismatch)
        return max(filter(None, waits), default=None)

    @cached_property
    def catalogued(self) -> int:
        """The number of observations of entries in the configuration or the profile, including missing files."""
        return sum(status.seen.is_catalogued for status in self.statuses)

    @cached_property
    def certificates(self) -> tuple[CertificateStatus, ...]:
        """The verdicts of the entries for which `has_certificates` is true."""
        return tuple(status for status in self.statuses if status.seen.has_certificates)

    @property
    def trust_anchors(self) -> Iterator[CertificateStatus]:
        return (status for status in self.statuses if status.seen.spec.authority and status.certificate)

    @cached_property
    def loose_findings(self) -> tuple[Finding, ...]:
        """The findings of the entries for which `has_certificates` is false."""
        others = (status for status in self.statuses if not status.seen.has_certificates)
        return tuple(item for status in others for item in status.findings)

    @property
    def unwatched(self) -> int:
        """The number of references on the node that certmond does not watch."""
        return sum(bool(status.seen.named_by) and not status.seen.is_watched for status in self.statuses)

    @cached_property
    def severity(self) -> Severity | None:
        return highest_severity(item for status in self.statuses for item in status.findings)


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
    alive: Callable[[], None] = lambda: None,
) -> Assessment:
    """Return the assessment of all observations of `inventory` and `around` at `now` (aware, UTC).

    `renewed` maps the SHA-256 digest of a certificate to the time at which certmond installed the certificate. If
    `waits` is True, certmond reports a mismatch of a certificate and its key only after `key_mismatch.WAIT`. A
    verdict on a hostile certificate can take milliseconds, so the function calls `alive` after each verdict.
    """
    files = inventory.observations
    anchors, differences = catalog_anchors(files), differing_copies(files)
    missing_keys = missing_ca_keys(files)
    terms = Terms(inventory.facts, renew_before, anchors, missing_keys, renewed or {}, around, differences, waits)
    last_terms = previous.terms if previous else None
    same_terms = last_terms is not None and _OF_ALL(last_terms) == _OF_ALL(terms)
    valid = _valid_verdicts(previous, terms, now)
    further = (*around.served, *unmet_demands(around)) if around else ()
    cluster = around.cluster if around else None
    of_cluster = cluster.observations if cluster else ()
    checked = deque(
        valid.get(id(seen))
        or _check(seen, terms, now, before=previous.status(*seen.identity) if previous else None, same_terms=same_terms)
        for seen in (*files, *further, *of_cluster, *second_renewers(inventory), *refused_configuration(inventory))
    )
    # Search all paths before the first verdict. Otherwise, signatures and rules evict each other from the CPU caches.
    questions = [each.question for each in checked if isinstance(each, _Unjudged) and each.search is None]
    found = iter([*searching(questions)])
    statuses = list[CertificateStatus]()
    while checked:  # remove each item, so that ten thousand items do not stay in memory beside their verdicts
        one = checked.popleft()
        if isinstance(one, _Unjudged):
            one = _verdict(one, one.search or next(found), terms, now)
        statuses.append(one)
        alive()
    return Assessment(now, tuple(statuses), inventory.facts, renew_before, terms, cluster.reading if cluster else None)


def _valid_verdicts(previous: Assessment | None, terms: Terms, now: datetime) -> dict[int, CertificateStatus]:
    """Return the previous verdicts by the `id` of the observation, or {} if any verdict might have changed."""
    if previous is None or previous.terms != terms or now < previous.taken_at:
        return {}
    if previous.changes_at is not None and previous.changes_at <= now:
        return {}
    return {id(status.seen): status for status in previous.statuses}


class _Unjudged(NamedTuple):
    """Inputs of a new verdict. `search` is the previous path search if it is still valid, otherwise None."""

    seen: Observation
    question: Question
    search: PathSearch | None
    anchors_reported: bool
    embeddable: Anchors
    renewed_at: datetime | None
    presence: Presence
    difference: Difference | None
    mismatch: Mismatch | None
    damage: Mismatch | None


@lru_cache(maxsize=256)
def _extended(usages: tuple[str, ...]) -> frozenset[str]:
    """Return the extended key usages among `usages`."""
    return _EXTENDED.intersection(usages)


def _check(
    seen: Observation, terms: Terms, now: datetime, *, before: CertificateStatus | None, same_terms: bool
) -> CertificateStatus | _Unjudged:
    """Return the previous verdict if it is still valid, otherwise the inputs of a new verdict."""
    anchors, around = terms.anchors, terms.around
    own = own_anchors(seen, anchors)
    reported = not own and any(name in anchors for name in seen.spec.ca)  # an entry in `ca` reports this
    embeddable = anchors.get(seen.spec.embedded_ca, ()) if seen.spec.embedded_ca else ()
    renewed_at = terms.renewed.get(seen.certificates[0].sha256) if terms.renewed and seen.certificates else None
    presence = around.presence(seen, renewed_at) if around else NOWHERE
    difference = terms.differences.get(seen.identity)
    issuers = issuers_of(seen, anchors)
    inputs = reported, renewed_at, presence, difference, issuers
    if before and same_terms and _INPUTS(before) == inputs and _is_valid(before, seen, own, embeddable, now):
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
            seen, before, own, embeddable, now, anchors_reported=reported, presence=presence, issuers=issuers,
            facts=terms.facts,
        )  # fmt: skip
        return replace(absent, mismatch=mismatch, damage=damage, changes_at=damage.changes_at if damage else None)
    certificate = seen.certificates[0]
    usages = _extended(seen.spec.usages)
    question = Question(certificate, own, seen.certificates[1:], usages, seen.path)
    searched = (before.seen.certificates, before.anchors, before.usages) if before else None
    search = before.search if before and searched == (seen.certificates, own, usages) else None
    return _Unjudged(seen, question, search, reported, embeddable, renewed_at, presence, difference, mismatch, damage)


def _verdict(one: _Unjudged, search: PathSearch, terms: Terms, now: datetime) -> CertificateStatus:
    seen, certificate, anchors, presence = one.seen, one.question.leaf, one.question.anchors, one.presence
    renew_at = renewal_point(certificate, seen.spec, terms.renew_before)
    issuers = issuers_of(seen, terms.anchors)
    derived = basis(certificate, seen.certificates[1:], issuers, presence.provenance) if presence.provenance else None
    path = search.valid_at(now)
    shown = path or search.best
    case = Case(
        seen, certificate, search, path, anchors, one.anchors_reported, one.embeddable, terms.facts, renew_at, now,
        one.renewed_at, derived, one.difference,
        signing_obstacle(seen, terms.anchors, terms.missing_ca_keys, now),
        is_self_signed(seen, shown.anchor if shown else None, issuers),
    )  # fmt: skip
    checked = (item for check in (*POLICY, not_issued_by_ca) for item in check(case))
    findings = (*about_files(seen), *settled(checked, one.mismatch, case), *about_services(presence, now))
    findings = about_damage(
        findings, seen, presence.salvage, now, facts=terms.facts, known=certificate, issuers=(*issuers, *anchors)
    )
    return CertificateStatus(
        seen, certificate, stale=False, renew_at=case.renew_at,
        trust_anchor=shown.anchor if shown and (seen.spec.ca or seen.spec.authority) else None,
        chain_valid=path is not None,
        key_matches=seen.key_matches,
        findings=tuple(item.capped(seen.spec.at_most) for item in findings),
        search=search,
        usages=_extended(seen.spec.usages),
        anchors=case.anchors, anchors_reported=case.anchors_reported, embeddable=case.embeddable,
        judged_at=now,
        changes_at=next_change(
            case,
            [*turning_points(presence), *(each.changes_at for each in (one.mismatch, one.damage) if each)]
            + [issuer.expires_at for issuer in issuers],
        ),
        renewed_at=case.renewed_at, presence=presence, difference=one.difference, issuers=issuers, basis=derived,
        mismatch=one.mismatch, damage=one.damage,
    )  # fmt: skip


def _is_valid(
    before: CertificateStatus, seen: Observation, anchors: Anchors, embeddable: Anchors, now: datetime
) -> bool:
    """Return whether the verdict `before` is still valid for these inputs."""
    return (
        seen is before.seen  # the observer returns the same object until a file of the entry changes
        and before.anchors == anchors
        and before.embeddable == embeddable
        and before.judged_at <= now
        and (before.changes_at is None or now < before.changes_at)
    )


def _absent(
    seen: Observation, before: CertificateStatus | None, anchors: Anchors, embeddable: Anchors, now: datetime, *,
    anchors_reported: bool, presence: Presence, issuers: Anchors, facts: Mapping[str, str],
) -> CertificateStatus:  # fmt: skip
    """Return the verdict on files that contain no certificate. `before` contains the last certificate, if any."""
    last = before.certificate if before else None
    findings = (*about_files(seen, presence), *about_key_pair(seen), *about_services(presence, now))
    findings = about_damage(
        findings, seen, presence.salvage, now, facts=facts, known=last, issuers=(*issuers, *anchors)
    )
    return CertificateStatus(
        seen, last, stale=last is not None, renew_at=before.renew_at if before else None,
        trust_anchor=None, chain_valid=False, key_matches=None, search=PathSearch((), ()),
        findings=tuple(item.capped(seen.spec.at_most) for item in findings),
        usages=frozenset(), anchors=anchors, anchors_reported=anchors_reported, embeddable=embeddable,
        judged_at=now, changes_at=None, presence=presence, issuers=issuers,
    )  # fmt: skip
