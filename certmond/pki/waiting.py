"""Why a certificate that is due is not renewed yet, and until when: it was tried a short while ago, or the host waits.

Owns these waits. Each has an instant, or a cause that somebody ends. What is due is `pki.plan`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from certmond.pki.assess import CertificateStatus
from certmond.pki.attempt import FIRST_RETRY, Attempt
from certmond.pki.certificate import Certificate
from certmond.pki.circumstances import Circumstances
from certmond.pki.holds import HostHold
from certmond.pki.steps import Cause, Held

REPAIRS = frozenset({Cause.NOT_A_SYMLINK, Cause.DAMAGED})
"""What is wrong with files, whatever the dates: the last renewal says nothing of it."""
SAID = {
    Cause.DUE: "is due",
    Cause.EXPIRED: "has expired",
    Cause.NOT_YET_VALID: "is not valid yet",
    Cause.NOT_A_SYMLINK: "the kubelet cannot rotate a file that is no symlink",
    Cause.DAMAGED: "is damaged",
    Cause.ROTATION: "is of the former CA",
    Cause.ASKED: "asked for",
    Cause.MISSING: "is not there",
    Cause.SOURCE_CHANGED: "its source has changed",
    Cause.RENEWED: "is renewed",
    Cause.SERVED_DIFFERS: "another one is served",
    Cause.RESTART_PENDING: "an older one is in memory",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why to wait (None: nothing speaks for it), and the instants at which time alone changes that."""

    held: Held | None = None
    instants: tuple[datetime, ...] = ()


def waiting(
    status: CertificateStatus,
    old: Certificate | None,
    cause: Cause,
    *,
    now: datetime,
    due: datetime | None,
    attempt: Attempt | None,
    circumstances: Circumstances,
) -> Waiting:
    """Return why it is too early at `now` to renew `old` (None: to issue what has no predecessor), and until when.
    `due` is when this node would renew it.
    """
    (name, path), spec, healing = status.seen.identity, status.seen.spec, circumstances.healing
    if doubted := in_doubt(status, cause, circumstances):
        return Waiting(doubted)
    refused = healing.is_refused(spec, cause)
    # A new one would bring the same again, and the service down once more. Of a rotation that was judged before.
    if status.presence.failures and cause not in {Cause.ROTATION, Cause.DAMAGED}:
        return Waiting(Held(name, path, f"{status.presence.failures[0]}: see restart_failed"))
    instants: tuple[datetime, ...] = ()
    if attempt and not healing.discounts(attempt.at, spec, cause):
        pause = attempt.repair_pause if cause in REPAIRS else _pause_after(attempt, cause, old, now, due)
        if pause and refused and attempt.wait_until is None:
            pause = pause[0], min(pause[1], attempt.at + FIRST_RETRY)
        instants = pause or ()
        if pause and pause[0] <= now < (until := pause[1]):
            return Waiting(Held(name, path, _why_wait(attempt, cause), until), instants)
    hold, clock = circumstances.hold, circumstances.clock
    if cause is Cause.DAMAGED or old is None:  # who upgrades may be who writes, and nothing else says when that ends
        return Waiting(Held(name, path, hold or clock or "") if hold or clock else None, instants)
    because, late = HostHold(hold, clock).of(old, spec, cause, now, healing)
    instants += (late,) if late else ()
    return Waiting(Held(name, path, because, late) if because else None, instants)


def in_doubt(status: CertificateStatus, cause: Cause, circumstances: Circumstances) -> Held | None:
    """Return why nothing is signed with the CA of the certificate now, for a person neither; None where it may be."""
    if circumstances.healing.is_refused(status.seen.spec, cause):
        return None
    used = circumstances.in_use if cause is Cause.ASKED else frozenset[str]()
    names = (name for name in status.seen.spec.ca if name not in used)
    unsure = next(filter(None, map(circumstances.unsure.get, names)), None)
    return Held(*status.seen.identity, unsure) if unsure else None


def _pause_after(
    attempt: Attempt, cause: Cause, old: Certificate | None, now: datetime, due: datetime | None
) -> tuple[datetime, datetime]:
    """Since when, and until when, the last attempt keeps the next one waiting."""
    since, until = attempt.at, attempt.retry_at
    if attempt.restored and not attempt.failures and attempt.wait_until is None:
        return since, since  # no signer gave what is in place
    if cause is Cause.ROTATION and not attempt.failures and attempt.wait_until is None:
        until = attempt.put_in_place_at + FIRST_RETRY  # what it brought then was of the former CA
    if cause is Cause.DUE and old and old.sha256 == attempt.sha256 and due and due <= attempt.put_in_place_at:
        # It was due from the start: whatever the clock says, as long as two thirds of the time that it then had left.
        since, until = now, max(until, old.not_after - (old.not_after - attempt.put_in_place_at) / 3)
    return since, until


def _why_wait(attempt: Attempt, cause: Cause) -> str:
    if attempt.wait_until is not None:
        return f"its signer has not decided yet: {attempt.message}"
    if attempt.failures:
        return f"it failed {attempt.failures} times, last: {attempt.message}"
    if cause in REPAIRS:
        often = "once" if attempt.repairs == 1 else f"{attempt.repairs} times"
        return f"it was put right {often}, last on {day(attempt.repaired_at or attempt.at)}, and breaks again"
    still = SAID[cause] if cause in {Cause.NOT_YET_VALID, Cause.ROTATION} else "is still due: see still_due"
    return f"it was renewed on {day(attempt.at)}, and {still}"


def day(instant: datetime) -> str:
    """Return the instant as messages have it, in UTC to the minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"
