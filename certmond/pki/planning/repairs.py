"""Steps that repair damaged files: restore the files from the archive, or issue a new certificate.

`assessment.repairable_damage` decides which files are damaged. `renewals` decides when certmond repairs the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.assessment.repairable_damage import (
    damage,
    generation,
    is_cluster_damage,
    last_issued,
    lost_names,
    new_template,
    unknown_names,
)
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.observation import Observation, Salvage
from certmond.pki.catalog.settings import LOCAL
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.renewal_holds import day, signer_and_end
from certmond.pki.planning.renewal_obstacles import authority_of
from certmond.pki.planning.steps import Cause, Held, Issue, Restore
from certmond.pki.signing.template import Terms
from certmond.pki.x509.certificate import Certificate


def write_hold(status: CertificateStatus) -> Held | None:
    """Return a hold if another program might be writing the damaged files, otherwise None."""
    since = status.damage
    if since is None or since.stands:
        return None
    because = f"{damage(status.seen)}; another program might be writing the file now"
    return Held(*status.seen.identity, because, since.changes_at)


class Repairs:
    """Planner of the repairs of damaged files.

    `shared` returns a text about the file that an entry shares with another entry, or None. `restarts` returns the
    services to restart after a repair.
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

    def step(self, status: CertificateStatus, *, requested: bool) -> Restore | Issue | Held | None:
        """Return the step that repairs the damaged files, or a hold that names the obstacle.

        Returns None if a renewal can repair the files. If `requested` is True, the new certificate can lack names that
        the old certificate has.
        """
        seen, salvage, what = status.seen, status.presence.salvage or Salvage(), damage(status.seen)
        if seen.spec.renewed_by:
            return self._held(
                status, f"certmond does not renew this certificate; it is renewed by {seen.spec.renewed_by}"
            )
        if salvage.barrier:
            return self._held(status, salvage.barrier)
        only_cluster = is_cluster_damage(seen)
        if only_cluster and status.certificate and not salvage.cluster_obstacle:
            detail = f"{what}; repair the cluster with the present CA of the entry {seen.spec.embedded_ca}"
            return Restore(status, None, status.certificate, detail)
        under = next(filter(None, map(self._signing.get, seen.spec.ca)), None)
        known = last_issued(status.certificate, (*status.issuers, *status.anchors))
        found = generation(seen, salvage, self._assessment.facts, known=known, under=under)
        if found:
            number, certificate = found
            detail = f"{what}; restore {number} from the archive, valid until {day(certificate.not_after)}"
            return Restore(status, number, certificate, detail)
        if only_cluster:
            return self._held(status, salvage.cluster_obstacle)
        if status.certificate and not status.stale and seen.spec.kind is not Kind.KUBECONFIG:
            return None
        made = self._new_certificate(status, salvage, under, requested=requested)
        return self._held(status, made) if isinstance(made, str) else made

    def _new_certificate(
        self, status: CertificateStatus, salvage: Salvage, under: Certificate | None, *, requested: bool
    ) -> Issue | str:
        """Return the step that issues a certificate from the contents of the entry, or the obstacle as a text."""
        seen, facts, authority = status.seen, self._assessment.facts, authority_of(status, self._authorities)
        signer, end = seen.spec.signer or LOCAL, None
        if authority and authority.certificate:
            end = authority.certificate.not_after
            if end <= self._assessment.taken_at:
                return f"the CA expired on {day(end)}; rotate the CA"
        terms = Terms(self._assessment.taken_at, end, facts, self._policy.validity, self._policy.key)
        template = new_template(
            seen, salvage, terms, signer=self._policy.signers.get(signer, signer),
            authority=authority.seen if authority else None,
            known=last_issued(status.certificate, (*status.issuers, *status.anchors)),
        )  # fmt: skip
        if isinstance(template, str):
            return template
        if (unknown := unknown_names(seen, facts)) and self._broken > 1:
            return f"a fact in {', '.join(unknown)} is unknown until certmond repairs the other damaged files"
        former = [each for each in (status.certificate, *salvage.kept) if each]
        if not requested and (lost := lost_names(seen, template, former, status.issuers)):
            remedy = f"add the missing names to `names`, or renew without them: certmond renew {seen.name}"
            return f"the last certificate contained {lost}, which the entry does not specify; {remedy}"
        if shared := self._shared(seen):
            return f"the entry shares its {shared}; restore the pair from a backup"
        return Issue(
            status=status,
            old=None,
            cause=Cause.DAMAGED,
            detail=f"{damage(seen)}; issue the certificate again; "
            f"{signer_and_end(signer, template.not_after, self._policy.signers)}",
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
