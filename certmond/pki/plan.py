"""What enforce mode would do now, what it waits for, and when that changes: assessment -> plan.

Owns when a certificate is renewed, and when it is not although it is due. Decisions are data: `certmond plan` prints
the steps that `host/execute` would carry out, no others. Time, the past and the state of the host are arguments; the
same arguments give the same plan, here and when `forecast` runs it forward in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.attempt import Attempt
from certmond.pki.catalog import Kind
from certmond.pki.certificate import Certificate
from certmond.pki.circumstances import Circumstances, Policy
from certmond.pki.damage import damage, is_of_cluster
from certmond.pki.entry_share import RENEWALS, RenewalQuota
from certmond.pki.inventory import Observation
from certmond.pki.issuance import Terms, is_a, successor
from certmond.pki.obstacles import authority_of, unable
from certmond.pki.repairs import Repairs, being_written
from certmond.pki.settings import LOCAL, OWN_KEY
from certmond.pki.signing_policy import Basis, Denial, fixed_by, grant
from certmond.pki.steps import Cause, Derive, Held, Identity, Issue, Plan, Restore, Step
from certmond.pki.waiting import REPAIRS, SAID, day, in_doubt, waiting

_SPREAD_SHARE = 20  # nodes renew at most a twentieth of the life before the certificate is due
_FOR_A_LATER_END = frozenset({Cause.DUE, Cause.EXPIRED})


def plan(
    assessment: Assessment,
    policy: Policy,
    past: Mapping[Identity, Attempt],
    circumstances: Circumstances,
    asked: frozenset[str] | None = None,
    *,
    reissue: Mapping[Identity, Certificate] | None = None,
    signing: Mapping[str, Certificate] | None = None,
) -> Plan:
    """The steps for `assessment`, at the instant that it was taken.

    `asked` names the entries to renew now whatever their dates: by hand. None is the daemon's own plan, in which those
    of `reissue` are renewed because their CA is on its way out, each under the anchor that it has there. `signing` has
    the anchor that signs in the present phase of a rotation, by the name of its CA: nothing of another is put back.
    """
    return _Planner(assessment, policy, past, circumstances, asked, reissue=reissue or {}, signing=signing or {}).plan()


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
        signing: Mapping[str, Certificate],
    ) -> None:
        self._assessment, self._policy, self._past = assessment, policy, past
        self._circumstances, self._asked, self._reissue, self._signing = circumstances, asked, reissue, signing
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
            asked_to_mend = cause is Cause.ASKED and is_of_cluster(status.seen)
            if cause is not None and not (status.stale or status.certificate is None or asked_to_mend):
                self._consider(status, cause)
            elif damage(status.seen) and self._may_repair(status):
                self._repair(status)
            elif cause is not None:
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
        old, salvage = status.certificate, status.presence.salvage
        why = (salvage and salvage.barrier) or unable(status, self._authorities, self._policy)
        if why or old is None:
            self._hold(status, why or "there is no certificate")
            return
        authority = authority_of(status, self._authorities)
        end = authority.certificate.not_after if authority and authority.certificate else None
        if end is not None:
            self._instants.append(end)
            if end <= (max(self._now, old.not_after) if cause in _FOR_A_LATER_END else self._now):
                self._hold(status, f"no new one can last beyond {day(end)}, the end of its CA: rotate the CA")
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
        elif held := self._held_back(status, old, cause):
            self._held.append(held)
            self._covered.add(file)
        elif cause not in {Cause.ASKED, Cause.ROTATION} and (beyond := self._beyond_quota(status)):
            self._held.append(beyond)
        else:
            self._steps.append(step)
            self._covered.add(file)

    def _may_repair(self, status: CertificateStatus) -> bool:
        """The files of a derived entry, and those that another entry has as well, have their turn with that one."""
        files = {status.seen.path, status.seen.pair[0]}
        asked = self._asked is None or status.seen.name in self._asked
        return asked and self._derived.isdisjoint(files) and self._covered.isdisjoint(files)

    def _repair(self, status: CertificateStatus) -> None:
        seen, asked = status.seen, self._asked is not None
        if not asked and (held := being_written(status)):
            self._instants += [held.until] if held.until else []
            self._held.append(held)
            return
        made = self._repairs.cure(status, by_hand=asked)
        if isinstance(made, Restore | Issue) and not asked:
            about = self._circumstances
            if isinstance(made, Restore):  # what was good before needs no clock, and no CA that all others trust
                about = replace(about, clock=None, unsure={} if made.generation else about.unsure)
            made = self._waiting(status, None, Cause.DAMAGED, about) or made
        elif isinstance(made, Issue) or (isinstance(made, Restore) and made.generation is None):
            made = in_doubt(status, Cause.DAMAGED, self._circumstances) or made
        if made is None:  # its certificate is whole, and has a successor as ever
            self._consider(status, Cause.DAMAGED)
            return
        if isinstance(made, Held):
            self._held.append(made)
        else:
            self._steps.append(made)
        self._covered.add(seen.pair[0])

    @cached_property
    def _repairs(self) -> Repairs:
        return Repairs(
            self._assessment, self._policy, self._authorities, self._signing, node=self._node, shared=self._shared,
            restarts=lambda status: tuple(self._holders_of_the_old(status)),
        )  # fmt: skip

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

    def _held_back(self, status: CertificateStatus, old: Certificate, cause: Cause) -> Held | None:
        """Whoever asks need not wait for a better moment; but nothing is signed with a CA that may not be trusted."""
        if cause is Cause.ASKED:
            return in_doubt(status, cause, self._circumstances)
        return self._waiting(status, old, cause)

    def _waiting(
        self, status: CertificateStatus, old: Certificate | None, cause: Cause, about: Circumstances | None = None
    ) -> Held | None:
        found = waiting(
            status, old, cause,
            now=self._now, due=turn(status, self._policy, self._node), attempt=self._past.get(status.seen.identity),
            circumstances=about or self._circumstances,
        )  # fmt: skip
        self._instants += found.instants
        return found.held

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
        why = f"{damage(status.seen)}; issued anew" if cause is Cause.DAMAGED else SAID[cause]
        said = [f"{why}, signed by {signer}, until {day(template.not_after)}", *template.changes]
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
            under=self._under(status, cause),
        )

    def _under(self, status: CertificateStatus, cause: Cause) -> Certificate | None:
        """The anchor that a new certificate must have, where that is not any of its entry's."""
        if cause is Cause.ROTATION:
            return self._reissue.get(status.seen.identity)
        return next(filter(None, map(self._signing.get, status.seen.spec.ca)), None) if cause in REPAIRS else None

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
        renewed = {step.target for step in self._steps if isinstance(step, Issue | Restore)}
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
