"""Time at which a node renews a certificate."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.catalog.entries import Kind
from certmond.pki.planning.planner_inputs import Policy

_SPREAD_SHARE = 20  # nodes renew at most a twentieth of the lifetime before the certificate is due


def renewal_time(status: CertificateStatus, policy: Policy, node: str) -> datetime | None:
    """Return the time at which this node renews the certificate, or None if the dates are unknown.

    A hash of the node's name selects a time before the renewal point. The time is at most `policy.spread`, and at most
    a twentieth of the lifetime, before this point. For the certificate of the kubelet, the time is the renewal point.
    """
    certificate, due = status.certificate, status.renew_at
    if certificate is None or due is None:
        return None
    if status.seen.spec.kind is Kind.KUBELET:
        return due  # before this time, the kubelet renews its certificate itself
    return due - _spread_offset(certificate.not_after - certificate.not_before, policy.spread, node)


@lru_cache(maxsize=256)
def _spread_offset(life: timedelta, spread: timedelta, node: str) -> timedelta:
    """Return how long before the renewal point this node renews a certificate with the lifetime `life`."""
    share = int.from_bytes(hashlib.sha256(node.encode()).digest()[:8]) / 2**64
    return min(spread, life / _SPREAD_SHARE) * share
