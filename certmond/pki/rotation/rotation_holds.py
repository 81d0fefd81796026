"""Holds that would stop a rotation in a later phase.

certmond reports these holds while the rotation can safely wait. `planning.host_hold_rules` and `planning.restarts`
define the holds of renewals and restarts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.validity_rules import critical_point
from certmond.pki.planning.steps import Held, Identity
from certmond.pki.rotation.phases import Mode, Phase, Rotation, sequence
from certmond.pki.rotation.planner import family_statuses, old_ca_leaves
from certmond.pki.rotation.trust_anchor_state import Ground
from certmond.pki.services.staleness import Surroundings


class HoldReason(StrEnum):
    """Reason to hold a rotation."""

    FILE = "hold_file"
    COMMAND = "hold_command"
    CLOCK = "unsynchronised_clock"
    RESTART_FAILED = "restart_failed"
    RENEWAL_FAILED = "renewal_failed"


@immutable
class Hold:
    """One hold of a rotation.

    `until` is the latest end, or None if time does not end the hold. `depends_on` names the user, program or event that
    ends the hold earlier. `command` ends the hold, or shows the cause of the hold.
    """

    reason: HoldReason
    fact: str
    depends_on: str
    command: str
    since: datetime | None = None
    until: datetime | None = None

    @property
    def sentence(self) -> str:
        """The hold as a sentence with the next command."""
        since = f" since {_second(self.since)}" if self.since else ""
        until = f", until {_second(self.until)} at the latest" if self.until else ""
        return f"{self.fact}{since}{until}; the end of this hold depends on {self.depends_on}; run: {self.command}"

    def held(self, ground: Ground) -> Held:
        """Return this hold as a held step of the plan."""
        return Held(ground.family, ground.path, self.sentence, self.until)


def waits_here(rotation: Rotation) -> bool:
    """Return whether the rotation must wait in its present phase for the end of every hold.

    The rotation waits only while the old anchor signs and certmond has replaced no key. An aborted rotation, and a
    rotation to an anchor that certmond found on disk, do not wait.
    """
    if rotation.found or rotation.aborted:
        return False
    phases = sequence(rotation)
    first = phases.index(Phase.ISSUE) if Phase.ISSUE in phases else 1
    return phases.index(rotation.phase) < first


def holds(
    rotation: Rotation,
    assessment: Assessment,
    around: Surroundings,
    past: Mapping[Identity, Attempt],
    *,
    upgrade: Hold | None,
    clock: Hold | None,
) -> Iterator[Hold]:
    """Yield each hold that keeps this node from completing the rotation now."""
    now, statuses = assessment.taken_at, list(family_statuses(rotation.family, assessment))
    leaves = [status for status in statuses if status.certificate and not status.seen.spec.is_trust]
    ends = [end for each in leaves if each.certificate and (end := critical_point(each.certificate)) > now]
    if upgrade and (ends or not leaves):  # an upgrade also holds restarts, but no critical renewal
        yield replace(upgrade, until=max(ends, default=None))
    issued = list(old_ca_leaves(rotation, assessment)) if rotation.mode is not Mode.REISSUE else []
    late = [end for each in issued if each.certificate and (end := critical_point(each.certificate)) > now]
    if clock and late:
        yield replace(clock, until=max(late))
    for failed in dict.fromkeys(past.service for status in statuses for past in around.failed(status.seen)):
        restart = around.past[failed]
        command = f"certmond restart {failed}"
        yield Hold(HoldReason.RESTART_FAILED, restart.message, f"the start of {failed}", command, restart.ended_at)
    for status in issued:
        tried = past.get(status.seen.identity)
        if tried and tried.failures and tried.at <= now < tried.retry_at:
            often = "once:" if tried.failures == 1 else f"{tried.failures} times, the last time with:"
            fact = f"the renewal of {status.seen.name} failed {often} {tried.message}"
            command = f"certmond renew {status.seen.name}"
            yield Hold(HoldReason.RENEWAL_FAILED, fact, "the next attempt", command, tried.at, tried.retry_at)


def _second(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
