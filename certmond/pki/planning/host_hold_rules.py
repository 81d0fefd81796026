"""Rules that hold a renewal while an operator or an upgrade holds the node, or while the clock might be wrong.

`renewals` decides when a certificate is due.
"""

from __future__ import annotations

from datetime import UTC, datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.validity_rules import critical_point
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import Cause
from certmond.pki.x509.certificate import Certificate

_OUTSIDE_VALIDITY = frozenset({Cause.EXPIRED, Cause.NOT_YET_VALID})


@immutable
class ReplacedCA:
    """A CA that was replaced on disk without a rotation, and the state of the rotation that repairs this fault."""

    family: str
    since: datetime  # the start of the rotation's phase
    at_once: bool  # no component trusts the old CA, so each component refuses the certificates of the old CA

    def concerns(self, spec: CertificateSpec) -> bool:
        """Return whether the entry is this CA, is signed by this CA, or embeds this CA."""
        return self.family in {spec.name, spec.embedded_ca, *spec.ca}

    def is_refused(self, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether this CA signs for the entry, and all components refuse the entry's present certificate.

        `cause` is the reason for the renewal of this certificate.
        """
        return self.family in spec.ca and (cause in _OUTSIDE_VALIDITY or (cause is Cause.ROTATION and self.at_once))

    def discounts(self, tried_at: datetime, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether to ignore an attempt at `tried_at`, because the attempt used the old CA."""
        repairs = self.family in spec.ca and (cause is Cause.ROTATION or self.is_refused(spec, cause))
        return repairs and tried_at < self.since


NO_REPLACED_CA = ReplacedCA("", datetime.max.replace(tzinfo=UTC), at_once=False)


@immutable
class HostHold:
    """Reasons on the host to hold a renewal: an upgrade (`hold`), or a clock that might be wrong (`clock`)."""

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
        """Return why certmond holds the renewal of `old` at `now`, and the end of the hold, or (None, None).

        A hold for a valid certificate ends at the critical point of the certificate. For any other certificate, the end
        is None, because only the clock ends the hold.
        """
        if replaced_ca.is_refused(spec, cause):
            return None, None
        if cause in _OUTSIDE_VALIDITY:  # An upgrade does not hold this renewal, but a wrong clock does.
            return self.clock, None
        clock = None if cause is Cause.ROTATION and replaced_ca.family in spec.ca else self.clock
        because, late = self.hold or clock, critical_point(old)
        return (because, late) if because and now < late else (None, None)
