"""Checks of the cluster that a phase of a rotation requires before it ends: signer, published CAs, workloads.

Owns the selection of the checks, their time limits, and the restarts of workloads. Each check has its own module, and
the coordinator ends the phase. Imports without lightkube.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from certmond.cluster.connection import Access
from certmond.pki.catalog.settings import ClusterSpec
from certmond.pki.rotation.phases import Phase, Rotation, desired
from certmond.pki.x509.certificate import certificates_of
from certmond.pki.x509.public_key import PublicKey

if TYPE_CHECKING:
    from certmond.cluster.rollout import Rollout
    from certmond.cluster.rotation_checks.check import Canary
    from certmond.cluster.rotation_checks.signer import Signing

_A_WHILE = timedelta(seconds=20)
"""Time limit of a check. The coordinator repeats it, and the node has other work meanwhile."""
_LISTED = timedelta(seconds=60)
"""Time limit of a check that lists many objects: namespaces, definitions of resources, pods."""
_BATCH = 5
"""Workloads to restart before the node continues its other work."""


class Inspection:
    """The checks for one process, which keeps an undecided request."""

    def __init__(self, access: Access, spec: ClusterSpec) -> None:
        self._access, self._spec = access, spec
        self._signing: Signing | None = None  # needs the extra

    def canaries(self, rotation: Rotation, now: datetime) -> tuple[str, ...]:
        """Return a sentence with its remedy for each failed check."""
        return _amiss(self._canaries(rotation, now))

    def workloads(self, since: datetime, gone: Collection[str], now: datetime) -> tuple[str, ...]:
        """Return the same for workloads from before `since`, and for restarts in progress.

        Workloads on nodes that are `gone` do not count.

        Raises RefusedError, UnreachableError.
        """
        from certmond.cluster.rollout import Outcome, restart_workloads  # noqa: PLC0415 - needs the extra
        from certmond.cluster.workloads import stale_workloads, workloads  # noqa: PLC0415

        rollouts: tuple[Rollout, ...] = ()
        if self._spec.workloads == "restart":
            stale = stale_workloads(self._access, since, gone).restartable[:_BATCH]
            rollouts = restart_workloads(self._access, stale, since, now, batch=_BATCH, limit=_A_WHILE)
        return (
            *(
                f"{each.workload} was restarted, and {each.fact}; see its pods if that stays so"
                for each in rollouts
                if each.outcome in {Outcome.UNDER_WAY, Outcome.FAILED}
            ),
            *_amiss([workloads(self._access, since, _LISTED, gone=gone)]),
        )

    def end(self) -> None:
        """Delete this process's request in the API. Never raises."""
        if self._signing:
            self._signing.withdraw()

    def _canaries(self, rotation: Rotation, now: datetime) -> Iterator[Canary]:
        from certmond.cluster.rotation_checks.cluster_info import cluster_info  # noqa: PLC0415
        from certmond.cluster.rotation_checks.service_account_tokens import tokens  # noqa: PLC0415
        from certmond.cluster.rotation_checks.signer import Signing  # noqa: PLC0415
        from certmond.cluster.rotation_checks.trust_bundles import published_trust, token_secrets  # noqa: PLC0415
        from certmond.cluster.rotation_checks.webhook_ca_bundles import ca_bundles  # noqa: PLC0415 - needs the extra

        wanted, access = desired(rotation), self._access
        if isinstance(rotation.new, PublicKey):
            yield tokens(access, signed_by=wanted.signing.key if wanted else None, limit=_A_WHILE)
        if rotation.family != "ca":
            return
        signer = wanted.detached or wanted.signing if wanted else rotation.old[0]
        for each in certificates_of((signer,)):
            self._signing = self._signing or Signing(access)
            yield self._signing.check(each, now, _A_WHILE)
        yield tokens(access, limit=_A_WHILE)
        if wanted and rotation.phase in {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}:
            ours, trust = certificates_of((*rotation.old, rotation.new)), certificates_of(wanted.trust)
            yield published_trust(access, trust, _LISTED)
            yield cluster_info(access, ours, trust, update=True, limit=_A_WHILE)
            yield ca_bundles(access, rotation.family, ours, trust, update=True, limit=_LISTED)
            if self._spec.token_secrets:
                yield token_secrets(access, trust, look=True, limit=_LISTED)


def _amiss(canaries: Iterable[Canary]) -> tuple[str, ...]:
    return tuple(f"{each.fact}; {each.remedy}" for each in canaries if not each.ok)
