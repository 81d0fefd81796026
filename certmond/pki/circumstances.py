"""What a plan is made from besides the assessment: what was tried, what is configured, and what the host says.

Owns these values, and when a renewal that was tried may be tried again. Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from certmond.pki.catalog import KeyAlgorithm, ServiceSpec
from certmond.pki.holds import NOTHING_REPLACED, Healing

MIN_INTERVAL = timedelta(hours=1)
"""A certificate is not renewed again by itself so soon after it was."""
FIRST_RETRY, LAST_RETRY = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last renewal of a certificate that was tried: when, and with what outcome (`failures` in a row since).

    `sha256` is what the last successful one put in place, `ends_at` and `common_name` are the end and the common name
    of that, and `issued_at` is when it was, where that was an earlier attempt.
    """

    at: datetime
    failures: int = 0
    message: str = ""
    sha256: str | None = None
    issued_at: datetime | None = None
    wait_until: datetime | None = None
    cookie: str | None = None
    ends_at: datetime | None = None
    common_name: str | None = None

    @property
    def put_in_place_at(self) -> datetime:
        """When the certificate `sha256` was."""
        return self.issued_at or self.at

    @property
    def retry_at(self) -> datetime:
        """The earliest instant for the next one."""
        if self.wait_until is not None:
            return self.wait_until
        if self.failures:
            return self.at + min(FIRST_RETRY * (1 << min(self.failures - 1, 16)), LAST_RETRY)
        return self.at + MIN_INTERVAL


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says of renewing. `signers` has the kind of each by its name."""

    validity: timedelta = timedelta(days=365)
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048
    spread: timedelta = timedelta(days=3)
    signers: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[ServiceSpec] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the host says at this moment: why to wait (`hold`: an upgrade; `clock`: an unsynchronised one), and which
    derived files are to be made again, by name with the reason; `derived` gives their paths and sources. `unsure` are
    the anchors, by name with the reason, of which it is not known that others trust what is signed with them.
    `healing` is the one that was replaced without a rotation, and is followed now.
    """

    hold: str | None = None
    stale: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    clock: str | None = None
    unsure: Mapping[str, str] = field(default_factory=dict)
    healing: Healing = NOTHING_REPLACED
