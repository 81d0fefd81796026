"""Events for a hook: the difference between the open findings and the findings that the hook has received.

This module decides which events a hook receives. `notify.hook_worker` runs the hook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.findings import Severity
from certmond.pki.instant import Instant

Key = tuple[str, str, str, str]
"""Identity of a finding: certificate, path, reason, severity. If the severity changes, the finding is a new one."""
Notices = Mapping[Key, "Notice"]


@immutable
class Notice:
    """A finding in the form that a hook receives."""

    certificate: str
    path: str
    reason: str  # not a `Reason`, because the state that another version stored can contain an unknown reason
    severity: Severity
    message: str
    at: Instant  # the time of the first observation
    not_after: Instant | None = None
    told_at: Instant | None = None  # the last time at which the hook received the finding

    @property
    def key(self) -> Key:
        return self.certificate, self.path, self.reason, self.severity.value

    @property
    def subject(self) -> tuple[str, str, str]:
        """The identity of the finding without its severity."""
        return self.certificate, self.path, self.reason


@immutable
class Due:
    """A due run of a hook, which reports that a finding is `raised` or `cleared`."""

    event: Literal["raised", "cleared"]
    notice: Notice

    @property
    def key(self) -> tuple[str, Key]:
        return self.event, self.notice.key


def open_findings(assessment: Assessment, at_least: Severity) -> dict[Key, Notice]:
    """Return the most severe finding for each certificate, path and reason. Omit severities lower than `at_least`."""
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


def selected_findings(found: Notices, received: Notices, before: Notices, most: int) -> dict[Key, Notice]:
    """Return the findings in `found` that the hook has received, and then the most severe other findings.

    Other findings are selected only up to a total of `most` findings. A finding that is also in `before`, the previous
    selection, keeps the time of its first observation.
    """
    kept = {key: notice for key, notice in found.items() if key in received}
    rest = sorted((notice for key, notice in found.items() if key not in received), key=_most_severe_first)
    kept |= {notice.key: notice for notice in rest[: max(0, most - len(kept))]}
    return {key: replace(notice, at=before[key].at) if key in before else notice for key, notice in kept.items()}


def due(
    want: Notices, received: Notices, now: datetime, *, settled: bool, at: datetime, repeat: timedelta | None = None
) -> Iterator[Due]:
    """Yield the events for the hook in this order: cleared findings, new findings, repeats.

    Yields no cleared finding until certmond has observed the services (`settled`). If the severity of a finding has
    changed, the new finding follows only after the hook has received the cleared finding.
    """
    gone = [notice for key, notice in received.items() if key not in want]
    if settled:
        yield from (Due("cleared", replace(notice, at=at)) for notice in gone)
    # If the severity changes, clear the old finding first, because a receiver might ignore the severity.
    waiting = {notice.subject for notice in gone}
    fresh = [notice for key, notice in want.items() if key not in received and notice.subject not in waiting]
    yield from (Due("raised", notice) for notice in sorted(fresh, key=_most_severe_first))
    if repeat:
        for key, notice in received.items():
            # If the clock was set back, do not wait until the clock reaches the old time again.
            if key in want and not (notice.told_at and notice.told_at <= now < notice.told_at + repeat):
                yield Due("raised", notice)


def next_repeat(received: Notices, repeat: timedelta) -> datetime | None:
    """Return the time of the next repeat, or None if the hook has received no finding."""
    return min((notice.told_at + repeat for notice in received.values() if notice.told_at), default=None)


def _most_severe_first(notice: Notice) -> tuple[int, datetime, Key]:
    return -notice.severity.rank, notice.at, notice.key
