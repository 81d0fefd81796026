"""What a hook is told: which findings it knows of, which stand, and what of that it has still to hear.

Owns that decision, as values: nobody is run here, and time is an argument. A hook that was told of everything that
stands, and of everything that stands no more, has nothing to hear, whatever happened in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from certmond.pki.assessment.assess import Assessment
from certmond.pki.catalog.field_types import Instant
from certmond.pki.findings import Severity

Key = tuple[str, str, str, str]
"""Certificate, path, reason, severity: what makes one finding, as in the journal. One that gets graver is another."""
Told = Mapping[Key, "Notice"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One finding, as a hook is told of it. `at` is when it was first seen to stand; `told_at` when the hook was told
    last, None for never. `reason` is text: what an older version remembers may be none of ours.
    """

    certificate: str
    path: str
    reason: str
    severity: Severity
    message: str
    at: Instant
    not_after: Instant | None = None
    told_at: Instant | None = None

    @property
    def key(self) -> Key:
        return self.certificate, self.path, self.reason, self.severity.value

    @property
    def subject(self) -> tuple[str, str, str]:
        """What a receiver may have in mind as one thing, however severe it is."""
        return self.certificate, self.path, self.reason


@dataclass(frozen=True, slots=True)
class Due:
    """One run of a hook: what it is to be told."""

    event: Literal["raised", "cleared"]
    notice: Notice

    @property
    def key(self) -> tuple[str, Key]:
        return self.event, self.notice.key


def standing(assessment: Assessment, at_least: Severity) -> dict[Key, Notice]:
    """The findings that stand, no less severe than `at_least`; of several of one subject the gravest."""
    found: dict[tuple[str, str, str], Notice] = {}
    for status in assessment.statuses:
        end = status.certificate.not_after if status.certificate else None
        for item in status.findings:
            if item.severity.rank >= at_least.rank:
                notice = Notice(
                    status.seen.name, status.seen.path, item.reason.value, item.severity, item.message,
                    assessment.taken_at, end,
                )  # fmt: skip
                known = found.get(notice.subject)
                if known is None or known.severity.rank < notice.severity.rank:
                    found[notice.subject] = notice
    return {notice.key: notice for notice in found.values()}


def wanted(found: Told, told: Told, before: Told, most: int) -> dict[Key, Notice]:
    """What of `found` the hook is to know, `most` at most: what it was told of, then the gravest of the rest.

    What was wanted `before` keeps the instant at which it was first seen.
    """
    kept = {key: notice for key, notice in found.items() if key in told}
    rest = sorted((notice for key, notice in found.items() if key not in told), key=_gravest_first)
    kept |= {notice.key: notice for notice in rest[: max(0, most - len(kept))]}
    return {key: replace(notice, at=before[key].at) if key in before else notice for key, notice in kept.items()}


def due(
    want: Told, told: Told, now: datetime, *, settled: bool, at: datetime, repeat: timedelta | None = None
) -> Iterator[Due]:
    """What the hook has to be told, in this order: what is cleared, what is raised, what it may have forgotten.

    Nothing is cleared before the node is `settled`: what runs and is served has been looked at. `at` is what a clearing
    is dated. While one severity of a subject has to be cleared, no other is raised, so that a receiver which knows
    subjects only ends with what is true.
    """
    gone = [notice for key, notice in told.items() if key not in want]
    if settled:
        yield from (Due("cleared", replace(notice, at=at)) for notice in gone)
    waiting = {notice.subject for notice in gone}
    fresh = [notice for key, notice in want.items() if key not in told and notice.subject not in waiting]
    yield from (Due("raised", notice) for notice in sorted(fresh, key=_gravest_first))
    if repeat:
        for key, notice in told.items():
            # A clock that was set back must not make it wait for as long as it was wrong.
            if key in want and not (notice.told_at and notice.told_at <= now < notice.told_at + repeat):
                yield Due("raised", notice)


def next_repeat(told: Told, repeat: timedelta) -> datetime | None:
    """When the first of what was told is to be told again; None where there is nothing."""
    return min((notice.told_at + repeat for notice in told.values() if notice.told_at), default=None)


def _gravest_first(notice: Notice) -> tuple[int, datetime, Key]:
    return -notice.severity.rank, notice.at, notice.key
