"""Holds that delay a renewal, and the cases to which they do not apply.

Owns the rules. `renewals` decides when a certificate is due. Pure: the state of the host is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from certmond.pki.assessment.validity_rules import critical_point
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import Cause
from certmond.pki.x509.certificate import Certificate

_OUTSIDE_VALIDITY = frozenset({Cause.EXPIRED, Cause.NOT_YET_VALID})


@dataclass(frozen=True, slots=True)
class ReplacedCA:
    """A CA that was replaced on disk without a rotation. A rotation repairs that now. Its phase began at `since`.

    `at_once` is True if no component trusts the old CA. Then all components refuse a certificate of the old CA until
    certmond issues it again.
    """

    family: str
    since: datetime
    at_once: bool

    def concerns(self, spec: CertificateSpec) -> bool:
        """Return whether the entry is the CA, is signed by it or trusts it."""
        return self.family in {spec.name, spec.embedded_ca, *spec.ca}

    def is_refused(self, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether all components refuse the certificate now, so that a delay of the renewal does harm."""
        return self.family in spec.ca and (cause in _OUTSIDE_VALIDITY or (cause is Cause.ROTATION and self.at_once))

    def discounts(self, tried_at: datetime, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether an attempt does not count for this renewal, because it used the old CA."""
        repairs = self.family in spec.ca and (cause is Cause.ROTATION or self.is_refused(spec, cause))
        return repairs and tried_at < self.since


NO_REPLACED_CA = ReplacedCA("", datetime.max.replace(tzinfo=UTC), at_once=False)


@dataclass(frozen=True, slots=True)
class HostHold:
    """Reasons of the host to hold a renewal: an upgrade (`hold`), or a clock that may be wrong (`clock`)."""

    hold: str | None = None
    clock: str | None = None

    def of(
        self,
        old: Certificate,
        spec: CertificateSpec,
        cause: Cause,
        now: datetime,
        replaced_ca: ReplacedCA = NO_REPLACED_CA,
    ) -> tuple[str | None, datetime | None]:
        """Return why certmond holds the renewal of `old` for that cause at `now`, and until when.

        The hold ends at the critical point, from which waiting would do more harm than the renewal.
        """
        if replaced_ca.is_refused(spec, cause):
            return None, None
        if cause in _OUTSIDE_VALIDITY:  # An upgrade cannot do more harm, but the clock itself may be wrong.
            return self.clock, None
        clock = None if cause is Cause.ROTATION and replaced_ca.family in spec.ca else self.clock
        because, late = self.hold or clock, critical_point(old)
        return (because, late) if because and now < late else (None, None)
