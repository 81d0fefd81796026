"""Mismatch of a certificate and its key over time, with a wait for a program that replaces both files.

This module owns the state of a mismatch between passes, as a value. The wait begins with the first pass that detects
the mismatch. Changes of the files extend only the wait before a repair. A new wait begins only after the pair has
matched for the time `wait` without interruption, so certmond also reports a pair that matches only from time to time.

After `WAIT`, certmond reports a key that belongs to another certificate. After `REPAIR_WAIT`, certmond repairs files
without a complete pair. certmond reports other faults of files without a wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certmond.pki.assessment.rule_input import Case, finding
from certmond.pki.findings import Finding, Reason

WAIT = timedelta(seconds=2)
"""Time that a program may take between the replacement of a certificate and the replacement of its key."""
REPAIR_WAIT = timedelta(seconds=10)
"""Time that a program, or an operator at a terminal, may take to write a complete pair.

During this time, running services have their certificates in memory.
"""

REPAIR_REST = timedelta(minutes=2)
"""Maximum time by which changes of the files extend the wait before a repair."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A mismatch of a certificate and its key. The wait starts at `since`, and takes the time `wait`.

    `reported` is True after the wait. `matching_since` is None while the pair does not match. `start` is the time of
    the first observation of the mismatch, or None if this time is `since`.
    """

    since: datetime
    reported: bool = False
    matching_since: datetime | None = None
    wait: timedelta = WAIT
    start: datetime | None = None

    @property
    def stands(self) -> bool:
        """Whether the wait has ended, and the pair does not match now."""
        return self.reported and self.matching_since is None

    @property
    def waits_until(self) -> datetime | None:
        """The time at which the wait ends, or None if the wait has ended or the pair matches."""
        return None if self.reported or self.matching_since else self.since + self.wait

    @property
    def changes_at(self) -> datetime | None:
        """The time at which the reported state changes, or None if only a change of the files changes the state.

        This is the end of the wait or, if the pair matches again, the end of the time for which the pair must match.
        """
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
    """Return the mismatch at `now`, or None without a mismatch.

    If `matches` is None, because the certificate or the key is unreadable, a mismatch `before` of the previous pass
    remains. In the `first` pass, the mismatch began at `changed_at`, the time of the last change of the files. If
    `changed_at` is unknown or in the future, or if `waits` is False, certmond reports the mismatch without a wait. If
    `rest` is set, each change of the files restarts the wait, for at most `rest` after the first observation.
    """
    if matches is None:
        return before and replace(before, matching_since=None)
    if matches:
        return _matching(before, now)
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
    since = before.matching_since if before.matching_since and before.matching_since <= now else now
    return None if now >= since + before.wait else replace(before, matching_since=since)


def settled(findings: Iterable[Finding], mismatch: Mismatch | None, case: Case) -> Iterator[Finding]:
    """Yield the findings. Omit a key mismatch during its wait.

    After a reported mismatch, add a finding until the pair has matched for the time `wait`.
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
