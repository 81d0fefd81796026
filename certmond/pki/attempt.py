"""The last renewal or repair of a certificate that certmond tried: its outcome, and when the next one may follow.

Owns these pauses. The state directory remembers attempts (`host/ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

MIN_INTERVAL = timedelta(hours=1)
"""A certificate is not renewed again by itself so soon after it was."""
IN_A_ROW = timedelta(hours=2)
"""A repair so soon after the one before is of what comes back: the pauses between them grow."""
FIRST_RETRY, LAST_RETRY = timedelta(minutes=1), timedelta(hours=1)
LAST_FILE_RETRY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last renewal of a certificate that was tried: when, and with what outcome (`failures` in a row since).

    `sha256` is what the last successful one put in place, `ends_at`, `common_name` and `subject` are the end, the
    common name and the subject of that, and `issued_at` is when it was, where that was an earlier attempt. `restored`
    says that it came from the archive, not from a signer.

    `repaired_at` is when files of the entry that were not as they must be were put right last, and `repairs` how often
    in a row: that is counted apart, as it says nothing of renewals.
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
    restored: bool = False
    repaired_at: datetime | None = None
    repairs: int = 0
    subject: str | None = None

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
            return self.at + _pause(self.failures)
        return self.at + MIN_INTERVAL

    @property
    def file_retry_at(self) -> datetime:
        """The same for a file that needs no signature: ten minutes later at the latest."""
        return min(self.retry_at, self.at + LAST_FILE_RETRY)

    @property
    def repair_pause(self) -> tuple[datetime, datetime] | None:
        """Since when, and until when, the last repair or failure keeps the next one waiting; None where none does."""
        if self.failures or self.wait_until is not None:
            return self.at, self.retry_at
        return (self.repaired_at, self.repaired_at + _pause(self.repairs)) if self.repaired_at else None

    def repaired(self, before: Attempt | None) -> Attempt:
        """Return this attempt as one that has put files right, at its own time, after the attempt `before`."""
        in_a_row = before and before.repaired_at and timedelta() <= self.at - before.repaired_at < IN_A_ROW
        return replace(self, repaired_at=self.at, repairs=(before.repairs if before and in_a_row else 0) + 1)

    def restoring(self, sha256: str, ends_at: datetime, common_name: str | None, subject: str, at: datetime) -> Attempt:
        """Return this attempt, with a certificate of the archive as what was put in place last, at `at`."""
        return replace(
            self, sha256=sha256, issued_at=at, ends_at=ends_at, common_name=common_name, subject=subject, restored=True
        )

    def after(self, before: Attempt | None) -> Attempt:
        """Return this attempt, which put nothing in place, with what is remembered of those `before`."""
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
    """A minute, and twice as long each further time, up to an hour."""
    return min(FIRST_RETRY * (1 << min(max(times, 1) - 1, 16)), LAST_RETRY)
