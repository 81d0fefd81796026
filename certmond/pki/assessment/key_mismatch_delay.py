"""Mismatch of a certificate and its key over time, with a wait for a program that replaces both.

certmond reports a mismatch after `WAIT`, and repairs files without a complete pair after `REPAIR_WAIT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.assessment.rule_input import Case, finding
from certmond.pki.findings import Finding, Reason

WAIT = timedelta(seconds=2)
"""Time for which certmond waits between the replacement of a certificate and the replacement of its key."""
REPAIR_WAIT = timedelta(seconds=10)
"""Time for which certmond waits until a program, or an operator at a terminal, has written a complete pair."""

REPAIR_REST = timedelta(minutes=2)
"""Maximum time by which changes to the files extend the wait before a repair."""


@immutable
class Mismatch:
    """A mismatch of a certificate and its key, with a wait before certmond reports the mismatch."""

    since: datetime  # the start of the wait
    reported: bool = False  # the wait has ended
    matching_since: datetime | None = None  # None while the pair does not match
    wait: timedelta = WAIT
    start: datetime | None = None  # the start of the mismatch, or None if this time equals `since`

    @property
    def stands(self) -> bool:
        """Whether the wait has ended, and the pair does not match now."""
        return self.reported and self.matching_since is None

    @property
    def waits_until(self) -> datetime | None:
        """The end of the wait, or None if the wait has ended or the pair matches."""
        return None if self.reported or self.matching_since else self.since + self.wait

    @property
    def changes_at(self) -> datetime | None:
        """The next time at which the mismatch changes even if no file changes, or None if there is no such time."""
        return self.matching_since + self.wait if self.matching_since else self.waits_until


def mismatch_of(
    matches: bool | None,
    changed_at: datetime | None,
    before: Mismatch | None,
    now: datetime,
    *,
    first: bool,
    waits: bool = True,
    wait: timedelta = WAIT,
    rest: timedelta | None = None,
) -> Mismatch | None:
    """Return the mismatch at `now`, or None if there is no mismatch.

    `matches` is None if the certificate or the key is unreadable. In this case, the mismatch `before` continues.
    `first` is True in the first pass. `rest` is the maximum time by which changes to the files extend the wait.
    """
    if matches is None:
        return before and replace(before, matching_since=None)
    if matches:
        return _matching(before, now)
    # If `changed_at` is None or in the future, the first pass reports the mismatch without a wait.
    began = (changed_at if changed_at and changed_at <= now else now - wait) if first else now
    since = before.since if before and before.since <= now else began
    reported = before is not None and before.reported
    start = before.start if before and before.start else since
    if rest and not reported and changed_at and since < changed_at <= now:
        since = max(since, min(changed_at, start + rest))
    reported = reported or not waits or now >= since + wait
    return Mismatch(since, reported=reported, wait=wait, start=start if start < since else None)


def _matching(before: Mismatch | None, now: datetime) -> Mismatch | None:
    if before is None:
        return None
    # A pair that matches for less than `wait` does not end the mismatch.
    since = before.matching_since if before.matching_since and before.matching_since <= now else now
    return None if now >= since + before.wait else replace(before, matching_since=since)


def settled(findings: Iterable[Finding], mismatch: Mismatch | None, case: Case) -> Iterator[Finding]:
    """Yield the findings. Omit a key mismatch until the wait has ended.

    After a reported mismatch, also yield a finding until the pair has matched for `mismatch.wait`.
    """
    for item in findings:
        if item.reason is not Reason.KEY_MISMATCH or (mismatch and mismatch.reported):
            yield item
    if mismatch and mismatch.reported and mismatch.matching_since:
        yield finding(
            Reason.KEY_MISMATCH,
            f"{case.seen.key_path or case.where} was not the private key of {case.where} a moment ago; "
            "if the finding occurs again, find the program that replaces these files",
        )
