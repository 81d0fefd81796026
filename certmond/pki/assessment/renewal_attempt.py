"""The last attempt to renew or repair a certificate, and the earliest time of the next attempt.

This module defines the pauses between attempts. `state.renewals` stores the attempts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from certmond.immutable_class import immutable

MIN_INTERVAL = timedelta(hours=1)
"""Minimum time between two automatic renewals of a certificate."""
IN_A_ROW = timedelta(hours=2)
"""Maximum time between two repairs that count as repairs in a row. Each repair in a row extends the next pause."""
FIRST_RETRY, LAST_RETRY = timedelta(minutes=1), timedelta(hours=1)
LAST_FILE_RETRY = timedelta(minutes=10)


@immutable
class Attempt:
    """The last attempt to renew a certificate, and the certificate that the last successful attempt installed."""

    at: datetime
    failures: int = 0
    message: str = ""
    sha256: str | None = None  # the digest of the installed certificate
    issued_at: datetime | None = None  # the time at which certmond installed the certificate, or None for `at`
    wait_until: datetime | None = None
    cookie: str | None = None
    ends_at: datetime | None = None
    common_name: str | None = None
    restored: bool = False  # the certificate is from the archive
    repaired_at: datetime | None = None  # the last repair of damaged files
    repairs: int = 0  # the number of repairs in a row
    subject: str | None = None

    @property
    def put_in_place_at(self) -> datetime:
        """The time at which certmond installed the certificate `sha256`."""
        return self.issued_at or self.at

    @property
    def retry_at(self) -> datetime:
        """The earliest time of the next attempt."""
        if self.wait_until is not None:
            return self.wait_until
        if self.failures:
            return self.at + _pause(self.failures)
        return self.at + MIN_INTERVAL

    @property
    def file_retry_at(self) -> datetime:
        """The earliest time of the next attempt to write a file that needs no new signature."""
        return min(self.retry_at, self.at + LAST_FILE_RETRY)

    @property
    def repair_pause(self) -> tuple[datetime, datetime] | None:
        """The start and the end of the pause before the next repair, or None if no pause is necessary."""
        if self.failures or self.wait_until is not None:
            return self.at, self.retry_at
        return (self.repaired_at, self.repaired_at + _pause(self.repairs)) if self.repaired_at else None

    def repaired(self, before: Attempt | None) -> Attempt:
        """Return this attempt with the record of a repair that follows the attempt `before`."""
        in_a_row = before and before.repaired_at and timedelta() <= self.at - before.repaired_at < IN_A_ROW
        return replace(self, repaired_at=self.at, repairs=(before.repairs if before and in_a_row else 0) + 1)

    def restoring(self, sha256: str, ends_at: datetime, common_name: str | None, subject: str, at: datetime) -> Attempt:
        """Return this attempt with the values of the certificate that certmond restored from the archive at `at`."""
        return replace(
            self, sha256=sha256, issued_at=at, ends_at=ends_at, common_name=common_name, subject=subject, restored=True
        )

    def after(self, before: Attempt | None) -> Attempt:
        """Return this attempt, which installed no certificate, with the certificate and repair values of `before`."""
        if before is None:
            return self
        kept = replace(self, repaired_at=before.repaired_at, repairs=before.repairs)
        if before.sha256 is None:
            return kept
        return replace(
            kept, sha256=before.sha256, issued_at=before.put_in_place_at, ends_at=before.ends_at,
            common_name=before.common_name, subject=before.subject, restored=before.restored,
        )  # fmt: skip


def _pause(times: int) -> timedelta:
    """Return the pause after `times` failures or repairs in a row: 1, 2, 4, … minutes, but at most one hour."""
    return min(FIRST_RETRY * (1 << min(max(times, 1) - 1, 16)), LAST_RETRY)
