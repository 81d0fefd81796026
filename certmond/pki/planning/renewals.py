"""Planner that decides when certmond renews or repairs a certificate, and when a renewal must wait.

The plan depends only on the arguments. `assessment.validity_rules` calculates the time from which a certificate is
due, and `controllers.executor` executes the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.repairable_damage import damage, is_cluster_damage
from certmond.pki.assessment.self_signed_leaves import is_self_signed
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.settings import LOCAL, OWN_KEY, is_external
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewal_holds import CAUSE_TEXT, REPAIRS, day, delay, signer_and_end, unsettled_ca_hold
from certmond.pki.planning.renewal_obstacles import authority_of, renewal_obstacle
from certmond.pki.planning.renewal_quota import RENEWALS, RenewalQuota
from certmond.pki.planning.renewal_time import renewal_time
from certmond.pki.planning.repairs import Repairs, write_hold
from certmond.pki.planning.steps import Cause, Derive, Held, Identity, Issue, Plan, Restore, Step
from certmond.pki.signing.policy import Basis, Denial, fixed_by, grant
from certmond.pki.signing.template import Terms, is_a, successor
from certmond.pki.x509.certificate import Certificate

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
    """Return the plan of renewals and repairs for the node.

    `asked` contains the entries to renew now at the request of the operator, or is None for the plan of the daemon. In
    a rotation, `reissue` maps each certificate to the anchor that must sign the new certificate. `signing` maps the
    name of each CA to the anchor that must sign repaired certificates.
    """
    return _Planner(assessment, policy, past, circumstances, asked, reissue=reissue or {}, signing=signing or {}).plan()


def plan_with_times(
    assessment: Assessment, policy: Policy, past: Mapping[Identity, Attempt], circumstances: Circumstances
) -> tuple[Plan, dict[Identity, datetime]]:
    """Return the plan of the daemon, and for each certificate the time at which its part of the plan changes next."""
    planner = _Planner(assessment, policy, past, circumstances, None, reissue={}, signing={})
    return planner.plan(), planner.times()


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
        self._covered: set[str] = (
            set()
        )  # files with a step or a hold; after a refusal, the next entry can renew the file
        self._instants: list[datetime] = []
        self._first_instants: list[int] = []  # the number of instants before those of each certificate

    def plan(self) -> Plan:
        for status in self._assessment.certificates:
            self._first_instants.append(len(self._instants))
            cause = self._cause(status)
            repairs_cluster = cause is Cause.ASKED and is_cluster_damage(status.seen)
            if cause is not None and not (status.stale or status.certificate is None or repairs_cluster):
                self._consider(status, cause)
            elif damage(status.seen) and self._may_repair(status):
                self._repair(status)
            elif cause is not None:
                self._consider(status, cause)
        self._steps += self._derivations()
        changes_at = min(filter(self._now.__lt__, self._instants), default=None)
        return Plan(tuple(self._steps), tuple(self._held), changes_at)

    def times(self) -> dict[Identity, datetime]:
        """Return the next time at which each part of the result of `plan` changes, without the parts that remain."""
        found = dict[Identity, datetime]()
        parts = pairwise((*self._first_instants, len(self._instants)))
        for status, (first, end) in zip(self._assessment.certificates, parts, strict=True):
            later = filter(self._now.__lt__, self._instants[first:end])
            if at := min((*later, *filter(None, [found.get(status.seen.identity)])), default=None):
                found[status.seen.identity] = at
        return found

    @cached_property
    def _holders(self) -> dict[str, list[Observation]]:
        """The observations that use a file of a key pair, by the path of the file."""
        found: dict[str, list[Observation]] = {}
        for each in (status.seen for status in self._assessment.statuses if status.seen.key_path):
            for file in filter(None, {*each.pair}):
                found.setdefault(file, []).append(each)
        return found

    def _cause(self, status: CertificateStatus) -> Cause | None:
        """Return why the certificate needs a renewal now, or None."""
        # A derived file needs no renewal: certmond writes the file after its source.
        if self._derived and not self._derived.isdisjoint({status.seen.path, status.seen.pair[0]}):
            return None
        if self._asked is not None:
            return Cause.ASKED if status.seen.name in self._asked else None
        if status.seen.identity in self._reissue:
            return Cause.ROTATION
        if status.seen.endpoint:  # no file contains the certificate, and its finding has the command
            return None
        # The hold of a due certificate names the other component, or the command that replaces the certificate.
        replaced = status.seen.spec.renewed_by or is_self_signed(status.seen, status.trust_anchor, status.issuers)
        obstacle = renewal_obstacle(status, self._authorities, self._policy)
        if obstacle and not replaced:
            return None
        # The spread selects the time of a renewal by certmond, or of a restart for a renewal.
        spreads = not obstacle or (self._policy.restarts_for_renewal and status.seen.spec.renewed_at_start)
        due = renewal_time(status, self._policy, self._node) if spreads else status.renew_at
        certificate = status.certificate
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
        why = (salvage and salvage.barrier) or renewal_obstacle(status, self._authorities, self._policy)
        if why or old is None:
            self._hold(status, why or "the file contains no certificate")
            return
        authority = authority_of(status, self._authorities)
        end = authority.certificate.not_after if authority and authority.certificate else None
        if end is not None:
            self._instants.append(end)
            if end <= (max(self._now, old.not_after) if cause in _FOR_A_LATER_END else self._now):
                self._hold(status, f"a new certificate cannot outlive its CA, which ends on {day(end)}; rotate the CA")
                return
        if (file := status.seen.pair[0]) in self._covered:
            return  # another entry, or another path of the same file, already has a step
        step = self._issue(status, old, cause, authority, end)
        granted = grant(step.template, fixed_by(status.seen.spec, self._assessment.facts), _basis(status, old))
        if isinstance(granted, Denial):
            self._hold(status, f"certmond does not sign the certificate with the CA's key: {granted}")
        elif not step.keep_key and (shared := self._shared(status.seen)):
            kept = status.seen.spec.keep_key
            remedy = "give this entry a separate key" if kept else "set `keep_key: true` in both entries"
            self._hold(status, f"the entry shares its {shared}; {remedy}")
        elif held := self._held_back(status, old, cause):
            self._held.append(held)
            self._covered.add(file)
        elif cause not in {Cause.ASKED, Cause.ROTATION} and (beyond := self._beyond_quota(status)):
            self._held.append(beyond)
        else:
            self._steps.append(step)
            self._covered.add(file)

    def _may_repair(self, status: CertificateStatus) -> bool:
        """Return whether this plan may repair the files of the entry."""
        files = {status.seen.path, status.seen.pair[0]}
        asked = self._asked is None or status.seen.name in self._asked
        return asked and self._derived.isdisjoint(files) and self._covered.isdisjoint(files)

    def _repair(self, status: CertificateStatus) -> None:
        seen, asked = status.seen, self._asked is not None
        if not asked and (held := write_hold(status)):
            self._instants += [held.until] if held.until else []
            self._held.append(held)
            return
        made = self._repairs.step(status, requested=asked)
        about = self._circumstances
        if isinstance(made, Restore):  # a restored certificate does not depend on the clock
            about = replace(about, clock=None)
            if made.generation:  # a good generation has a path to the present CA, and needs no new signature
                unsure = {name: why for name, why in about.unsure.items() if name not in seen.spec.ca}
                about = replace(about, unsure=unsure)
        if isinstance(made, Restore | Issue):
            held = unsettled_ca_hold(status, Cause.DAMAGED, about) if asked else None
            made = (held if asked else self._waiting(status, None, Cause.DAMAGED, about)) or made
        if made is None:  # a renewal replaces the damaged files
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
            restarts=lambda status: tuple(self._services_to_restart(status)),
        )  # fmt: skip

    @cached_property
    def _quota(self) -> RenewalQuota:
        return RenewalQuota(((name, attempt.at) for (name, _), attempt in self._past.items()), self._now)

    def _beyond_quota(self, status: CertificateStatus) -> Held | None:
        until = self._quota.take(status.seen.name) if status.seen.spec.is_glob else None
        if until is None:
            return None
        self._instants.append(until)
        fact = f"certmond renewed {RENEWALS} certificates of {status.seen.name} in one hour, the maximum for a pattern"
        return Held(status.seen.name, status.seen.path, fact, until)

    def _shared(self, seen: Observation) -> str | None:
        """Return a text about the file that this pair shares with another pair, or None.

        A new key would break the other pair. The result is None if the pair shares no file, or both files.
        """
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
        """Return the hold that delays the renewal, or None if certmond can renew the certificate now."""
        if cause is Cause.ASKED:
            # The request of the operator overrides all other holds.
            return unsettled_ca_hold(status, cause, self._circumstances)
        return self._waiting(status, old, cause)

    def _waiting(
        self, status: CertificateStatus, old: Certificate | None, cause: Cause, about: Circumstances | None = None
    ) -> Held | None:
        found = delay(
            status, old, cause,
            now=self._now, due=renewal_time(status, self._policy, self._node),
            attempt=self._past.get(status.seen.identity), circumstances=about or self._circumstances,
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
        restarts = tuple(self._services_to_restart(status))
        kept = spec.keep_key and self._policy.signers.get(signer, LOCAL) not in OWN_KEY
        keep = kept and bool(status.key_matches) and is_a(old.key, template.key)
        why = f"{damage(status.seen)}; issue the certificate again" if cause is Cause.DAMAGED else CAUSE_TEXT[cause]
        details = [f"{why}; {signer_and_end(signer, template.not_after, self._policy.signers)}", *template.changes]
        details += ["keeps its key"] if keep else []
        return Issue(
            status=status, old=old, cause=cause, detail="; ".join(details), template=template, signer=signer,
            authority=authority.seen.name if authority else None, keep_key=keep, restarts=restarts, node=self._node,
            facts=self._assessment.facts, trust=status.embeddable, under=self._under(status, cause),
        )  # fmt: skip

    def _under(self, status: CertificateStatus, cause: Cause) -> Certificate | None:
        """Return the only anchor that may sign the new certificate, or None if any anchor of the entry may sign."""
        if cause is Cause.ROTATION:
            return self._reissue.get(status.seen.identity)
        # An external signer might already sign with the new CA, which other components do not trust yet.
        external = is_external(status.seen.spec.signer, self._policy.signers)
        signing = filter(None, map(self._signing.get, status.seen.spec.ca))
        return next(signing, None) if external or cause in REPAIRS else None

    def _services_to_restart(self, status: CertificateStatus) -> Iterator[str]:
        """Yield the names of the services that certmond must restart after the renewal of the certificate."""
        spec = status.seen.spec
        known = {each.service: each.reloads for each in status.presence.consumers}
        for service in self._policy.services:
            uses = service.name in known if known else service.name in spec.consumers
            reloads = known.get(service.name, spec.name in service.reloads)
            if uses and (not reloads or spec.kind is Kind.KUBELET):
                yield service.name

    def _derivations(self) -> Iterator[Derive]:
        """Yield a step for each derived file whose source is renewed or, in the daemon's plan, that is out of date.

        If the source is not renewed and the CA has not signed the certificate of the source, hold the step.
        """
        renewed = {step.target for step in self._steps if isinstance(step, Issue | Restore)}
        for name, (path, source) in self._circumstances.derived.items():
            if source not in renewed and (why := self._unproven(source)):
                self._held.append(
                    Held(name, path, f"the CA has not signed the certificate of the source {source}: {why}")
                )
            elif source in renewed:
                yield self._derive(name, path, source, f"{source} is renewed")
            elif self._asked is None and name in self._circumstances.stale:
                yield self._derive(name, path, source, self._circumstances.stale[name])

    def _derive(self, name: str, path: str, source: str, detail: str) -> Derive:
        readers = (status for status in self._assessment.certificates if path in status.seen.pair)
        restarts = dict.fromkeys(service for status in readers for service in self._services_to_restart(status))
        return Derive(name, path, source, Cause.SOURCE_CHANGED, detail, tuple(restarts))

    def _unproven(self, name: str) -> str | None:
        """Return why certmond must not copy the certificate of the entry `name`, or None if a copy is permitted."""
        found = (status.basis for status in self._assessment.certificates if status.seen.name == name)
        return next(("; ".join(each.reasons) or each.barrier for each in found if each and not each.predecessor), None)

    def _hold(self, status: CertificateStatus, because: str) -> None:
        self._held.append(Held(status.seen.name, status.seen.path, because))


def _basis(status: CertificateStatus, old: Certificate) -> Basis:
    """Return the sources of the contents of the new certificate."""
    # `status.basis` is None until certmond checks the origin of `old`. The executor always checks the origin.
    return status.basis or Basis(old)
