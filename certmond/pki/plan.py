"""What enforce mode would do now, what it waits for, and when that changes: assessment -> plan.

Owns when a certificate is renewed, and when it is not although it is due. Decisions are data: `certmond plan` prints
the steps that `host/execute` would carry out, no others. Time, the past and the state of the host are arguments; the
same arguments give the same plan, here and when `forecast` runs it forward in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import SELF, KeyAlgorithm, Kind, ServiceSpec
from certmond.pki.certificate import Certificate
from certmond.pki.checks import critical_point
from certmond.pki.entry_share import RENEWALS, RenewalQuota
from certmond.pki.inventory import Observation
from certmond.pki.issuance import Terms, is_a, successor
from certmond.pki.settings import LOCAL, NOBODY, OWN_KEY
from certmond.pki.signing_policy import Basis, Denial, fixed_by, grant
from certmond.pki.steps import Cause, Derive, Held, Identity, Issue, Plan, Step

MIN_INTERVAL = timedelta(hours=1)
"""A certificate is not renewed again by itself so soon after it was."""
_FIRST_RETRY, _LAST_RETRY = timedelta(minutes=1), timedelta(hours=1)
_LAST_FILE_RETRY = timedelta(minutes=10)
_SPREAD_SHARE = 20  # nodes renew at most a twentieth of the life before the certificate is due

_WITH_A_KEY = frozenset({LOCAL, "kubeadm"})  # kinds of signers that need the key of the CA on this node


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last renewal of a certificate that was tried: when, and with what outcome (`failures` in a row since).

    `sha256` is what the last successful one put in place, `ends_at` and `common_name` are the end and the common name
    of that, and `issued_at` is when it was, where that was an earlier attempt.
    """

    at: datetime
    failures: int = 0
    message: str = ""
    sha256: str | None = None
    issued_at: datetime | None = None
    wait_until: datetime | None = None
    cookie: str | None = None
    ends_at: datetime | None = None
    common_name: str | None = None

    @property
    def put_in_place_at(self) -> datetime:
        """When the certificate `sha256` was."""
        return self.issued_at or self.at

    @property
    def retry_at(self) -> datetime:
        """The earliest instant for the next one."""
        if self.wait_until is not None:
            return self.wait_until
        if self.failures:
            return self.at + min(_FIRST_RETRY * (1 << min(self.failures - 1, 16)), _LAST_RETRY)
        return self.at + MIN_INTERVAL

    @property
    def file_retry_at(self) -> datetime:
        """The same for a file that needs no signature: ten minutes later at the latest."""
        return min(self.retry_at, self.at + _LAST_FILE_RETRY)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says of renewing. `signers` has the kind of each by its name."""

    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048
    spread: timedelta = timedelta(days=3)
    signers: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[ServiceSpec] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the host says at this moment: why to wait (`hold`: an upgrade; `clock`: an unsynchronised one), and which
    derived files are to be made again, by name with the reason; `derived` gives their paths and sources. `unsure` are
    the anchors, by name with the reason, of which it is not known that others trust what is signed with them.
    """

    hold: str | None = None
    stale: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    clock: str | None = None
    unsure: Mapping[str, str] = field(default_factory=dict)


def plan(
    assessment: Assessment,
    policy: Policy,
    past: Mapping[Identity, Attempt],
    circumstances: Circumstances,
    asked: frozenset[str] | None = None,
    *,
    reissue: Mapping[Identity, Certificate] | None = None,
) -> Plan:
    """The steps for `assessment`, at the instant that it was taken.

    `asked` names the entries to renew now whatever their dates: by hand. None is the daemon's own plan, in which those
    of `reissue` are renewed because their CA is on its way out, each under the anchor that it has there.
    """
    return _Planner(assessment, policy, past, circumstances, asked, reissue=reissue or {}).plan()


def turn(status: CertificateStatus, policy: Policy, node: str) -> datetime | None:
    """The instant at which this node renews the certificate by itself: its renewal point, or up to `spread` before it,
    by a stable hash of the node's name, so that not all nodes do so in the same hour.
    """
    certificate, due = status.certificate, status.renew_at
    if certificate is None or due is None:
        return None
    if status.seen.spec.kind is Kind.KUBELET:
        return due  # the kubelet's own turn comes before
    return due - _earlier(certificate.not_after - certificate.not_before, policy.spread, node)


@lru_cache(maxsize=256)
def _earlier(life: timedelta, spread: timedelta, node: str) -> timedelta:
    """How long before it is due: a share of the spread that is the node's own, whenever it is asked."""
    share = int.from_bytes(hashlib.sha256(node.encode()).digest()[:8]) / 2**64
    return min(spread, life / _SPREAD_SHARE) * share


def unable(status: CertificateStatus, authorities: Mapping[str, CertificateStatus], policy: Policy) -> str | None:
    """Why certmond cannot renew this certificate, whatever the date; None where it can."""
    spec, certificate = status.seen.spec, status.certificate
    signer = spec.signer or LOCAL
    if spec.renewed_by:
        return f"it is not renewed by certmond but by {spec.renewed_by}"
    if spec.authority:
        return "it is a CA, which is rotated, not renewed"
    if spec.kind in {Kind.BUNDLE, Kind.KEY_PAIR} or status.seen.name != spec.name:
        return "it is not an entry of its own"
    if signer == NOBODY:
        return "its entry says that nobody signs it"
    if certificate is None or status.stale:
        return "there is no certificate to renew: put it back first, from the archive or by `certmond init`"
    if fact := certificate.refused:
        return f"{fact}, and what it says cannot be taken over: move it and its key away, then `certmond init`"
    if not status.seen.renewable:
        files = "it refers to files: list those as an entry of kind file"
        return files if spec.kind is Kind.KUBECONFIG else "its file is not PEM, and certmond writes nothing else"
    if (
        SELF in spec.ca
        and status.trust_anchor in status.seen.certificates
        and status.trust_anchor not in status.issuers
    ):
        return "it is self-signed, and no CA signs its successor: remove certificate and key, and restart its service"
    if status.seen.key_path is None and spec.kind is not Kind.KUBELET:
        return "its entry does not say where its key is: give it a `key`"
    if policy.signers.get(signer, LOCAL) not in _WITH_A_KEY:
        return None
    return _unable_to_sign(_authority(status, authorities))


def _unable_to_sign(authority: CertificateStatus | None) -> str | None:
    if authority is None:
        return "no CA of the catalogue signs it: name its `ca`, or a `signer`"
    if authority.certificate and authority.certificate.refused:
        return f"the certificate of its CA, {authority.seen.path}, is refused by Go or by cryptography: replace that CA"
    if not (authority.key_matches or authority.seen.key_unknown):
        return f"the key of its CA, {authority.seen.key_path or authority.seen.path}, is not on this node, or another's"
    return None


def _authority(status: CertificateStatus, authorities: Mapping[str, CertificateStatus]) -> CertificateStatus | None:
    """The entry of the CA that would sign it: the first named one."""
    return next((authorities[name] for name in status.seen.spec.ca if name != SELF and name in authorities), None)


class _Planner:
    def __init__(
        self,
        assessment: Assessment,
        policy: Policy,
        past: Mapping[Identity, Attempt],
        circumstances: Circumstances,
        asked: frozenset[str] | None,
        *,
        reissue: Mapping[Identity, Certificate],
    ) -> None:
        self._assessment, self._policy, self._past = assessment, policy, past
        self._circumstances, self._asked, self._reissue = circumstances, asked, reissue
        self._now = assessment.taken_at
        self._node = assessment.facts.get("node_name", "")
        self._authorities = {status.seen.name: status for status in assessment.trust_anchors}
        self._derived = {path for path, _ in circumstances.derived.values()}
        self._steps: list[Step] = []
        self._held: list[Held] = []
        self._covered: set[str] = set()  # an entry that is refused leaves its file to the next one
        self._instants: list[datetime] = []

    def plan(self) -> Plan:
        for status in self._assessment.certificates:
            cause = self._cause(status)
            if cause is not None:
                self._consider(status, cause)
        self._steps += self._derivations()
        changes_at = min(filter(self._now.__lt__, self._instants), default=None)
        return Plan(tuple(self._steps), tuple(self._held), changes_at)

    @cached_property
    def _holders(self) -> dict[str, list[Observation]]:
        """Who has each file as certificate or as key, of all that have a key."""
        found: dict[str, list[Observation]] = {}
        for each in (status.seen for status in self._assessment.statuses if status.seen.key_path):
            for file in filter(None, {*each.pair}):
                found.setdefault(file, []).append(each)
        return found

    def _cause(self, status: CertificateStatus) -> Cause | None:
        """Why the certificate would be renewed now; None where nothing asks for it.

        A derived file, which a pattern may match as well, has its turn with its source, and none of its own.
        """
        if self._derived and not self._derived.isdisjoint({status.seen.path, status.seen.pair[0]}):
            return None
        if self._asked is not None:
            return Cause.ASKED if status.seen.name in self._asked else None
        if status.seen.identity in self._reissue:
            return Cause.ROTATION
        others = status.seen.spec.renewed_by is not None  # told, when it is due: somebody else has to act
        if not others and unable(status, self._authorities, self._policy):
            return None
        certificate, due = status.certificate, turn(status, self._policy, self._node)
        if certificate is None or due is None:
            return None
        self._instants += [certificate.not_before, due, certificate.expires_at]
        if self._now > certificate.not_after:
            return Cause.EXPIRED
        if self._now < certificate.not_before:
            return Cause.NOT_YET_VALID
        if self._now >= due:
            return Cause.DUE
        return Cause.NOT_A_SYMLINK if status.seen.symlink is False else None

    def _consider(self, status: CertificateStatus, cause: Cause) -> None:
        old, why = status.certificate, unable(status, self._authorities, self._policy)
        if why or old is None:
            self._hold(status, why or "there is no certificate")
            return
        authority = _authority(status, self._authorities)
        end = authority.certificate.not_after if authority and authority.certificate else None
        if end is not None:
            self._instants.append(end)
            if end <= (max(self._now, old.not_after) if cause in _FOR_A_LATER_END else self._now):
                self._hold(status, f"no new one can last beyond {_day(end)}, the end of its CA: rotate the CA")
                return
        if (file := status.seen.pair[0]) in self._covered:
            return  # by another entry, or under another name: what is done to its file is done once
        step = self._issue(status, old, cause, authority, end)
        granted = grant(step.template, fixed_by(status.seen.spec, self._assessment.facts), _basis(status, old))
        if isinstance(granted, Denial):
            self._hold(status, f"the CA's key does not sign it: {granted}")
        elif not step.keep_key and (shared := self._shared(status.seen)):
            kept = status.seen.spec.keep_key
            remedy = "it cannot keep it, so give it a key of its own" if kept else "set keep_key on both"
            self._hold(status, f"shares its {shared}: {remedy}")
        elif cause is not Cause.ASKED and (waiting := self._waiting(status, old, cause)):
            self._held.append(waiting)
            self._covered.add(file)
        elif cause not in {Cause.ASKED, Cause.ROTATION} and (beyond := self._beyond_quota(status)):
            self._held.append(beyond)
        else:
            self._steps.append(step)
            self._covered.add(file)

    @cached_property
    def _quota(self) -> RenewalQuota:
        return RenewalQuota(((name, attempt.at) for (name, _), attempt in self._past.items()), self._now)

    def _beyond_quota(self, status: CertificateStatus) -> Held | None:
        until = self._quota.take(status.seen.name) if status.seen.spec.is_glob else None
        if until is None:
            return None
        self._instants.append(until)
        fact = f"{RENEWALS} certificates of {status.seen.name} were renewed within an hour, the most of a pattern"
        return Held(status.seen.name, status.seen.path, fact, until)

    def _shared(self, seen: Observation) -> str | None:
        """What another entry has of this pair, and not all of it: with a new key, its half would have no other one."""
        certificate, key = seen.pair
        holders = (each for file in (key, certificate) if file for each in self._holders.get(file, ()))
        for other in (each for each in holders if each.path != seen.path):
            same_certificate, same_key = other.pair[0] == certificate, other.pair[1] == key
            if same_key and not same_certificate:
                return f"key {seen.key_path} with {other.name}"
            if same_certificate and not same_key:
                return f"certificate {seen.path} with {other.name}"
        return None

    def _waiting(self, status: CertificateStatus, old: Certificate, cause: Cause) -> Held | None:
        """Why it is too early, and until when: it was tried a short while ago, or the host says so."""
        if unsure := next(filter(None, map(self._circumstances.unsure.get, status.seen.spec.ca)), None):
            return Held(status.seen.name, status.seen.path, unsure)
        # A new one would bring the same again, and the service down once more. Of a rotation that was judged before.
        if status.presence.failures and cause is not Cause.ROTATION:
            return Held(status.seen.name, status.seen.path, f"{status.presence.failures[0]}: see restart_failed")
        attempt = self._past.get(status.seen.identity)
        if attempt:
            since, until = attempt.at, attempt.retry_at
            if cause is Cause.ROTATION and not attempt.failures and attempt.wait_until is None:
                until = attempt.put_in_place_at + _FIRST_RETRY  # what it brought then was of the former CA
            if cause is Cause.DUE and self._was_due_from_the_start(status, old, attempt):
                # Whatever the clock says: as long as two thirds of the time that it then had left.
                since, until = self._now, max(until, old.not_after - (old.not_after - attempt.put_in_place_at) / 3)
            self._instants += [since, until]
            if since <= self._now < until:
                return Held(status.seen.name, status.seen.path, _why_wait(attempt, cause), until)
        hold, clock, late = self._circumstances.hold, self._circumstances.clock, critical_point(old)
        if cause in _BEYOND_ITS_DATES:  # an upgrade would harm nothing more; but the clock itself is the suspect
            return Held(status.seen.name, status.seen.path, clock) if clock else None
        if (because := hold or clock) and self._now < late:
            self._instants.append(late)
            return Held(status.seen.name, status.seen.path, because, late)
        return None

    def _was_due_from_the_start(self, status: CertificateStatus, old: Certificate, attempt: Attempt) -> bool:
        """It is what that attempt brought, and was due already then."""
        due = turn(status, self._policy, self._node)
        return old.sha256 == attempt.sha256 and due is not None and due <= attempt.put_in_place_at

    def _issue(
        self,
        status: CertificateStatus,
        old: Certificate,
        cause: Cause,
        authority: CertificateStatus | None,
        end: datetime | None,
    ) -> Issue:
        spec = status.seen.spec
        signer = spec.signer or LOCAL
        terms = Terms(self._now, end, self._assessment.facts, self._policy.validity, self._policy.key)
        template = successor(old, spec, terms, inherits=_basis(status, old).predecessor is not None)
        restarts = tuple(self._holders_of_the_old(status))
        kept = spec.keep_key and self._policy.signers.get(signer, LOCAL) not in OWN_KEY
        keep = kept and bool(status.key_matches) and is_a(old.key, template.key)
        said = [f"{_SAID[cause]}, signed by {signer}, until {_day(template.not_after)}", *template.changes]
        said += ["keeps its key"] if keep else []
        return Issue(
            status=status,
            old=old,
            cause=cause,
            detail="; ".join(said),
            template=template,
            signer=signer,
            authority=authority.seen.name if authority else None,
            keep_key=keep,
            restarts=restarts,
            node=self._node,
            facts=self._assessment.facts,
            trust=status.embeddable,
            under=self._reissue.get(status.seen.identity) if cause is Cause.ROTATION else None,
        )

    def _holders_of_the_old(self, status: CertificateStatus) -> Iterator[str]:
        """The services that do not read the new one by themselves, as the node shows it, else as the catalogue says."""
        spec = status.seen.spec
        known = {each.service: each.reloads for each in status.presence.consumers}
        for service in self._policy.services:
            uses = service.name in known if known else service.name in spec.consumers
            reloads = known.get(service.name, spec.name in service.reloads)
            if uses and (not reloads or spec.kind is Kind.KUBELET):
                yield service.name

    def _derivations(self) -> Iterator[Derive]:
        """Files made from others: those that are out of date, and those whose source is about to change."""
        renewed = {step.target for step in self._steps if isinstance(step, Issue)}
        for name, (path, source) in self._circumstances.derived.items():
            if source not in renewed and (why := self._unproven(source)):
                self._held.append(Held(name, path, f"{source}, which it is made from, is not of its CA: {why}"))
            elif source in renewed:
                yield Derive(name, path, source, Cause.SOURCE_CHANGED, f"{source} is renewed")
            elif self._asked is None and name in self._circumstances.stale:
                yield Derive(name, path, source, Cause.SOURCE_CHANGED, self._circumstances.stale[name])

    def _unproven(self, name: str) -> str | None:
        """Why what an entry's file says is not to be copied elsewhere: it is due, and has no successor of its CA."""
        found = (status.basis for status in self._assessment.certificates if status.seen.name == name)
        return next(("; ".join(each.reasons) or each.barrier for each in found if each and not each.predecessor), None)

    def _hold(self, status: CertificateStatus, because: str) -> None:
        self._held.append(Held(status.seen.name, status.seen.path, because))


def _basis(status: CertificateStatus, old: Certificate) -> Basis:
    """What the successor is derived from. Where the origin was not looked up yet, nothing speaks against it: the
    executor looks it up in any case.
    """
    return status.basis or Basis(old)


_FOR_A_LATER_END = frozenset({Cause.DUE, Cause.EXPIRED})
_BEYOND_ITS_DATES = frozenset({Cause.EXPIRED, Cause.NOT_YET_VALID})
_SAID = {
    Cause.DUE: "is due",
    Cause.EXPIRED: "has expired",
    Cause.NOT_YET_VALID: "is not valid yet",
    Cause.NOT_A_SYMLINK: "the kubelet cannot rotate a file that is no symlink",
    Cause.ROTATION: "is of the former CA",
    Cause.ASKED: "asked for",
    Cause.MISSING: "is not there",
    Cause.SOURCE_CHANGED: "its source has changed",
    Cause.RENEWED: "is renewed",
    Cause.SERVED_DIFFERS: "another one is served",
    Cause.RESTART_PENDING: "an older one is in memory",
}


def _why_wait(attempt: Attempt, cause: Cause) -> str:
    if attempt.wait_until is not None:
        return f"its signer has not decided yet: {attempt.message}"
    if attempt.failures:
        return f"it failed {attempt.failures} times, last: {attempt.message}"
    still = _SAID[cause] if cause in {Cause.NOT_YET_VALID, Cause.ROTATION} else "is still due: see still_due"
    return f"it was renewed on {_day(attempt.at)}, and {still}"


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
