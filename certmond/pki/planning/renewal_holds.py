"""What keeps a certificate from being renewed although something asks for it, and what such a hold does not apply to.

Owns the rules; when a certificate is due is `pki.plan`'s. Pure: what the host says is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from certmond.pki.assessment.rules import critical_point
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import Cause
from certmond.pki.x509.certificate import Certificate

_BEYOND_ITS_DATES = frozenset({Cause.EXPIRED, Cause.NOT_YET_VALID})


@dataclass(frozen=True, slots=True)
class Healing:
    """A CA that was replaced on disk without a rotation, and is followed by one whose phase began at `since`.

    `at_once`: the former CA is trusted no longer, so that every certificate of it is refused until it is issued again.
    """

    family: str
    since: datetime
    at_once: bool

    def concerns(self, spec: CertificateSpec) -> bool:
        """Return whether the entry is the CA, is signed by it or trusts it."""
        return self.family in {spec.name, spec.embedded_ca, *spec.ca}

    def is_refused(self, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether nobody accepts the certificate now, so that to wait with a new one is the harm."""
        return self.family in spec.ca and (cause in _BEYOND_ITS_DATES or (cause is Cause.ROTATION and self.at_once))

    def discounts(self, tried_at: datetime, spec: CertificateSpec, cause: Cause) -> bool:
        """Return whether an attempt says nothing of this renewal: it was one with the former CA."""
        heals = self.family in spec.ca and (cause is Cause.ROTATION or self.is_refused(spec, cause))
        return heals and tried_at < self.since


NOTHING_REPLACED = Healing("", datetime.max.replace(tzinfo=UTC), at_once=False)


@dataclass(frozen=True, slots=True)
class HostHold:
    """What the host says: why to wait (`hold`: an upgrade), and why its clock cannot be trusted (`clock`)."""

    hold: str | None = None
    clock: str | None = None

    def of(
        self, old: Certificate, spec: CertificateSpec, cause: Cause, now: datetime, healing: Healing = NOTHING_REPLACED
    ) -> tuple[str | None, datetime | None]:
        """Return why `old` is not renewed at `now` for that cause, and until when: from the critical point on, to wait
        would be the greater harm.
        """
        if healing.is_refused(spec, cause):
            return None, None
        if cause in _BEYOND_ITS_DATES:  # an upgrade would harm nothing more; but the clock itself is the suspect
            return self.clock, None
        clock = None if cause is Cause.ROTATION and healing.family in spec.ca else self.clock
        because, late = self.hold or clock, critical_point(old)
        return (because, late) if because and now < late else (None, None)
