"""Damaged files as a step: which generation is put back, else which certificate is issued anew, else why neither.

Owns that order, and what keeps a new certificate from being a loss. What is broken, and what may come back, is
`pki.damage`'s; when it is done, `pki.plan`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from certmond.pki.assess import Assessment, CertificateStatus
from certmond.pki.catalog import Kind
from certmond.pki.certificate import Certificate
from certmond.pki.circumstances import Policy
from certmond.pki.damage import damage, generation, is_of_cluster, last_issued, lost_names, new_template, unknown_names
from certmond.pki.inventory import Observation, Salvage
from certmond.pki.issuance import Terms
from certmond.pki.obstacles import authority_of
from certmond.pki.settings import LOCAL
from certmond.pki.steps import Cause, Held, Issue, Restore
from certmond.pki.waiting import day


def being_written(status: CertificateStatus) -> Held | None:
    """Return until when damaged files may be written by somebody; None where that time is over."""
    since = status.damage
    if since is None or since.stands:
        return None
    because = f"{damage(status.seen)}; somebody may be writing it at this moment"
    return Held(*status.seen.identity, because, since.changes_at)


class Repairs:
    """What puts the damaged files of one assessment right. `shared` says what an entry has in common with another, and
    `restarts` which services do not read a new certificate by themselves.
    """

    def __init__(
        self,
        assessment: Assessment,
        policy: Policy,
        authorities: Mapping[str, CertificateStatus],
        signing: Mapping[str, Certificate],
        *,
        node: str,
        shared: Callable[[Observation], str | None],
        restarts: Callable[[CertificateStatus], tuple[str, ...]],
    ) -> None:
        self._assessment, self._policy, self._authorities = assessment, policy, authorities
        self._signing, self._node, self._shared, self._restarts = signing, node, shared, restarts

    def cure(self, status: CertificateStatus, *, by_hand: bool) -> Restore | Issue | Held | None:
        """Return what puts the files right. None where their certificate is whole, and can have a successor."""
        seen, salvage, what = status.seen, status.presence.salvage or Salvage(), damage(status.seen)
        if seen.spec.renewed_by:
            return self._held(status, f"it is not renewed by certmond but by {seen.spec.renewed_by}")
        if salvage.barrier:
            return self._held(status, salvage.barrier)
        mends = is_of_cluster(seen)
        if mends and status.certificate and not salvage.uncorrected:
            detail = f"{what}; its cluster is put right, with the present CA of {seen.spec.embedded_ca}"
            return Restore(status, None, status.certificate, detail)
        under = next(filter(None, map(self._signing.get, seen.spec.ca)), None)
        known = last_issued(status.certificate, (*status.issuers, *status.anchors))
        found = generation(seen, salvage, self._assessment.facts, known=known, under=under)
        if found:
            number, certificate = found
            detail = f"{what}; put back from the archive, {number}, good until {day(certificate.not_after)}"
            return Restore(status, number, certificate, detail)
        if mends:
            return self._held(status, salvage.uncorrected)
        if status.certificate and not status.stale and seen.spec.kind is not Kind.KUBECONFIG:
            return None
        made = self._anew(status, salvage, under, by_hand=by_hand)
        return self._held(status, made) if isinstance(made, str) else made

    def _anew(
        self, status: CertificateStatus, salvage: Salvage, under: Certificate | None, *, by_hand: bool
    ) -> Issue | str:
        """A certificate that says what the entry fixes, and no more; or why there is none."""
        seen, facts, authority = status.seen, self._assessment.facts, authority_of(status, self._authorities)
        signer, end = seen.spec.signer or LOCAL, None
        if authority and authority.certificate:
            end = authority.certificate.not_after
            if end <= self._assessment.taken_at:
                return f"its CA ended on {day(end)}: rotate the CA"
        terms = Terms(self._assessment.taken_at, end, facts, self._policy.validity, self._policy.key)
        template = new_template(
            seen, salvage, terms, signer=self._policy.signers.get(signer, signer),
            authority=authority.seen if authority else None,
            known=last_issued(status.certificate, (*status.issuers, *status.anchors)),
        )  # fmt: skip
        if isinstance(template, str):
            return template
        if (unknown := unknown_names(seen, facts)) and self._broken > 1:
            return f"{', '.join(unknown)} is not known on this node before the other damaged files are right"
        former = [each for each in (status.certificate, *salvage.kept) if each]
        if not by_hand and (lost := lost_names(seen, template, former, status.issuers)):
            remedy = f"name it there as `names`, or do without: certmond renew {seen.name}"
            return f"the last one had {lost}, which its entry does not fix; {remedy}"
        if shared := self._shared(seen):
            return f"shares its {shared}; put the pair back from a backup"
        return Issue(
            status=status,
            old=None,
            cause=Cause.DAMAGED,
            detail=f"{damage(seen)}; issued anew, signed by {signer}, until {day(template.not_after)}",
            template=template,
            signer=signer,
            authority=authority.seen.name if authority else None,
            keep_key=False,
            restarts=self._restarts(status),
            node=self._node,
            facts=facts,
            trust=status.embeddable,
            under=under,
            server=salvage.server,
        )

    @cached_property
    def _broken(self) -> int:
        return sum(damage(status.seen) is not None for status in self._assessment.certificates)

    def _held(self, status: CertificateStatus, because: str) -> Held:
        return Held(*status.seen.identity, f"{damage(status.seen)}; {because}")
