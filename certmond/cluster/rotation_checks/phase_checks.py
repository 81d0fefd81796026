"""Checks of the cluster that must succeed before a phase of a rotation ends.

This module selects the checks, limits their duration, and restarts workloads. `rotation_coordinator` ends the phase.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from certmond.cluster.api_access import Access
from certmond.pki.catalog.settings import ClusterSpec
from certmond.pki.rotation.gates import Gate
from certmond.pki.rotation.phases import Phase, Rotation, desired
from certmond.pki.x509.certificate import certificates_of
from certmond.pki.x509.public_key import PublicKey

if TYPE_CHECKING:
    from certmond.cluster.rotation_checks.check import CheckResult
    from certmond.cluster.rotation_checks.signer import SignerCheck
    from certmond.cluster.workload_rollout import Rollout

_CHECK_LIMIT = timedelta(seconds=20)
"""Time limit of a check, after which the node continues its other work."""
_LISTING_LIMIT = timedelta(seconds=60)
"""Time limit of a check that lists many objects, such as Pods."""
_BATCH = 5
"""Number of workloads that the node restarts before it continues its other work."""


class Inspection:
    """Checks of the cluster. This object stores the undecided request of the signer check until the next call."""

    def __init__(self, access: Access, spec: ClusterSpec) -> None:
        self._access, self._spec = access, spec
        self._signer_check: SignerCheck | None = None  # needs the extra

    def failed_checks(self, rotation: Rotation, now: datetime) -> tuple[str, ...]:
        """Run the checks of the present phase. For each failed check, return a sentence with the remedy."""
        return _failures(self._results(rotation, now))

    def workloads(self, since: datetime, not_ready: Collection[str], now: datetime) -> tuple[str, ...]:
        """Return sentences about workloads with old Pods.

        With `workloads: restart` in the configuration, first restart some of these workloads. A Pod is old if it
        started before `since`. Ignore Pods on the nodes `not_ready`. Raises RefusedError or UnreachableError if a
        request for these restarts fails.
        """
        from certmond.cluster.stale_workloads import stale_workloads, workloads  # noqa: PLC0415
        from certmond.cluster.workload_rollout import Outcome, restart_workloads  # noqa: PLC0415 - needs the extra

        rollouts: tuple[Rollout, ...] = ()
        if self._spec.workloads == "restart":
            stale = stale_workloads(self._access, since, not_ready).restartable[:_BATCH]
            rollouts = restart_workloads(self._access, stale, since, now, batch=_BATCH, limit=_CHECK_LIMIT)
        return (
            *(
                f"certmond has restarted the {each.workload}, which {each.fact}; check its Pods if this state persists"
                for each in rollouts
                if each.outcome in {Outcome.UNDER_WAY, Outcome.FAILED}
            ),
            *_failures([workloads(self._access, since, _LISTING_LIMIT, not_ready=not_ready)]),
        )

    def pod_certificates(self, rotation: Rotation, held: Gate, now: datetime) -> tuple[tuple[str, ...], Gate]:
        """Return the reasons why a check for Pods with client certificates failed, and the gate of the phase.

        If the check has found such Pods, the gate notes the present time in the record. Otherwise return `held`.
        """
        from certmond.cluster.rotation_checks.pod_certificates import pod_certificates  # noqa: PLC0415 - the extra

        found = pod_certificates(self._access, _LISTING_LIMIT)
        if found.ok or found.failure:
            return _failures([found]), held
        return (), Gate(_failures([found]), now, rotation)

    def end(self) -> None:
        """Delete the CertificateSigningRequest of the signer check, if any. Never raises CertmondError."""
        if self._signer_check:
            self._signer_check.withdraw()

    def _results(self, rotation: Rotation, now: datetime) -> Iterator[CheckResult]:
        from certmond.cluster.rotation_checks.cluster_info import cluster_info  # noqa: PLC0415
        from certmond.cluster.rotation_checks.cluster_trust_bundles import cluster_trust_bundles  # noqa: PLC0415
        from certmond.cluster.rotation_checks.root_ca_configmaps import published_trust, token_secrets  # noqa: PLC0415
        from certmond.cluster.rotation_checks.service_account_token_issuance import tokens  # noqa: PLC0415
        from certmond.cluster.rotation_checks.signer import SignerCheck  # noqa: PLC0415
        from certmond.cluster.rotation_checks.webhook_ca_bundles import ca_bundles  # noqa: PLC0415 - needs the extra

        wanted, access = desired(rotation), self._access
        if isinstance(rotation.new, PublicKey):
            yield tokens(access, signed_by=wanted.signing.key if wanted else None, limit=_CHECK_LIMIT)
        if rotation.family != "ca":
            return
        signer = wanted.detached or wanted.signing if wanted else rotation.old[0]
        # Without the key of an external CA, kube-controller-manager signs nothing.
        for each in certificates_of(() if rotation.external else (signer,)):
            self._signer_check = self._signer_check or SignerCheck(access)
            yield self._signer_check.check(each, now, _CHECK_LIMIT)
        yield tokens(access, limit=_CHECK_LIMIT)
        if wanted and rotation.phase in {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}:
            family_cas, trust = certificates_of((*rotation.old, rotation.new)), certificates_of(wanted.trust)
            yield published_trust(access, trust, _LISTING_LIMIT)
            yield cluster_trust_bundles(access, trust, _CHECK_LIMIT)
            yield cluster_info(access, family_cas, trust, update=True, limit=_CHECK_LIMIT)
            yield ca_bundles(access, rotation.family, family_cas, trust, update=True, limit=_LISTING_LIMIT)
            if self._spec.token_secrets:
                yield token_secrets(access, trust, enabled=True, limit=_LISTING_LIMIT)


def _failures(failed_checks: Iterable[CheckResult]) -> tuple[str, ...]:
    return tuple(f"{each.fact}; {each.remedy}" for each in failed_checks if not each.ok)
