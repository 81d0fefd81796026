"""Since when a certificate and its key do not match: the wait for a writer that is not done yet.

Owns that memory from pass to pass, as a value. The wait counts from the first look that sees the mismatch, and ends
`wait` later, however often the files change meanwhile; before a repair, from their last change. Only a pair that has
matched for `wait` without a break begins a new wait: a pair that matches at times is reported all the time.

Two questions are asked so. A certificate and a key of two pairs are reported after `WAIT`; nothing else that is wrong
with a file waits to be reported. Files that hold no whole pair, for whatever reason, are put right after `REPAIR_WAIT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certmond.pki.checks import Case, finding
from certmond.pki.reason import Finding, Reason

WAIT = timedelta(seconds=2)
"""How long a certificate and a key that do not match may be two halves of one change."""
REPAIR_WAIT = timedelta(seconds=10)
"""How long files that hold no whole pair may be written by somebody: a program that pauses, or a person who types. What
runs has its certificates in memory meanwhile."""

REPAIR_REST = timedelta(minutes=2)
"""How long files that keep changing are let be at most, besides the wait."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A mismatch that began at `since`. `reported` says that the wait is over; `matching_since` is None while the pair
    does not match. `start` is the first such look; None where `since` is.
    """

    since: datetime
    reported: bool = False
    matching_since: datetime | None = None
    wait: timedelta = WAIT
    start: datetime | None = None

    @property
    def stands(self) -> bool:
        """Whether the wait is over, and the pair does not match now."""
        return self.reported and self.matching_since is None

    @property
    def waits_until(self) -> datetime | None:
        """When a mismatch that is not reported yet will be; None where there is nothing to wait for."""
        return None if self.reported or self.matching_since else self.since + self.wait

    @property
    def changes_at(self) -> datetime | None:
        """When time alone changes what is reported: the end of the wait, or of the time in which the pair matches."""
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
    """Return what is known of a mismatch at `now`; None where there is none, or none any more.

    `matches` is None where certificate or key cannot be read. `before` is what was known at the look before. At the
    `first` look, the mismatch began when the files changed (`changed_at`): unknown or in the future, it is reported at
    once. Where nothing `waits`, every mismatch is reported at once. With `rest`, the wait begins again with each change
    of the files, for so long after the first look.
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
    """The findings, without a mismatch that may be a writer's, and with one that was reported a moment ago."""
    for item in findings:
        if item.reason is not Reason.KEY_MISMATCH or (mismatch and mismatch.reported):
            yield item
    if mismatch and mismatch.reported and mismatch.matching_since:
        yield finding(
            Reason.KEY_MISMATCH,
            f"{case.seen.key_path or case.where} was not the private key of {case.where} a moment ago; "
            "if this comes back, see which program replaces it",
        )
