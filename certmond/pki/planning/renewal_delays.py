"""Delays of a due renewal: a recent attempt, or a reason of the host to wait.

Owns these delays. Each ends at an instant, or when an operator removes its cause. `renewals` owns what is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.assessment.last_attempt import FIRST_RETRY, Attempt
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.renewal_holds import HostHold
from certmond.pki.planning.steps import Cause, Held
from certmond.pki.x509.certificate import Certificate

REPAIRS = frozenset({Cause.NOT_A_SYMLINK, Cause.DAMAGED})
"""Faults of files, which do not depend on dates. The last renewal does not delay their repair."""
CAUSE_TEXT = {
    Cause.DUE: "is due",
    Cause.EXPIRED: "has expired",
    Cause.NOT_YET_VALID: "is not valid yet",
    Cause.NOT_A_SYMLINK: "the kubelet cannot rotate a file that is not a symlink",
    Cause.DAMAGED: "is damaged",
    Cause.ROTATION: "is signed by the old CA",
    Cause.ASKED: "is requested",
    Cause.MISSING: "is missing",
    Cause.SOURCE_CHANGED: "its source has changed",
    Cause.RENEWED: "is renewed",
    Cause.SERVED_DIFFERS: "the service serves another certificate",
    Cause.RESTART_PENDING: "the service has an older certificate in memory",
}


@dataclass(frozen=True, slots=True)
class Delay:
    """The reason to hold a renewal, or None, and the instants at which the reason may change."""

    held: Held | None = None
    instants: tuple[datetime, ...] = ()


def delay(
    status: CertificateStatus,
    old: Certificate | None,
    cause: Cause,
    *,
    now: datetime,
    due: datetime | None,
    attempt: Attempt | None,
    circumstances: Circumstances,
) -> Delay:
    """Return why certmond does not renew `old` at `now`, and until when.

    `old` is None for a certificate without a predecessor. `due` is when this node would renew it.
    """
    (name, path), spec, replaced_ca = status.seen.identity, status.seen.spec, circumstances.replaced_ca
    if doubted := unsettled_ca_hold(status, cause, circumstances):
        return Delay(doubted)
    refused = replaced_ca.is_refused(spec, cause)
    # The service would fail with a new certificate as well. The planner of a rotation has checked this before.
    if status.presence.failures and cause not in {Cause.ROTATION, Cause.DAMAGED}:
        return Delay(Held(name, path, f"{status.presence.failures[0]}: see restart_failed"))
    instants: tuple[datetime, ...] = ()
    if attempt and not replaced_ca.discounts(attempt.at, spec, cause):
        pause = attempt.repair_pause if cause in REPAIRS else _pause_after(attempt, cause, old, now, due)
        if pause and refused and attempt.wait_until is None:
            pause = pause[0], min(pause[1], attempt.at + FIRST_RETRY)
        instants = pause or ()
        if pause and pause[0] <= now < (until := pause[1]):
            return Delay(Held(name, path, _delay_text(attempt, cause), until), instants)
    hold, clock = circumstances.hold, circumstances.clock
    if cause is Cause.DAMAGED or old is None:  # the upgrade may be writing the files, and only its end ends the hold
        return Delay(Held(name, path, hold or clock or "") if hold or clock else None, instants)
    because, late = HostHold(hold, clock).of(old, spec, cause, now, replaced_ca)
    instants += (late,) if late else ()
    return Delay(Held(name, path, because, late) if because else None, instants)


def unsettled_ca_hold(status: CertificateStatus, cause: Cause, circumstances: Circumstances) -> Held | None:
    """Return why the CA of the certificate must not sign now, not even for an operator, or None if it may sign."""
    if circumstances.replaced_ca.is_refused(status.seen.spec, cause):
        return None
    used = circumstances.in_use if cause is Cause.ASKED else frozenset[str]()
    spec = status.seen.spec  # a kubeconfig also gets the present CA of `embedded_ca`
    names = (name for name in (*spec.ca, *filter(None, (spec.embedded_ca,))) if name not in used)
    unsure = next(filter(None, map(circumstances.unsure.get, names)), None)
    return Held(*status.seen.identity, unsure) if unsure else None


def _pause_after(
    attempt: Attempt, cause: Cause, old: Certificate | None, now: datetime, due: datetime | None
) -> tuple[datetime, datetime]:
    """Return the start and the end of the pause after the last attempt."""
    since, until = attempt.at, attempt.retry_at
    if attempt.restored and not attempt.failures and attempt.wait_until is None:
        return since, since  # the signer did not issue the present certificate
    if cause is Cause.ROTATION and not attempt.failures and attempt.wait_until is None:
        until = attempt.put_in_place_at + FIRST_RETRY  # that attempt issued a certificate of the old CA
    if cause is Cause.DUE and old and old.sha256 == attempt.sha256 and due and due <= attempt.put_in_place_at:
        # It was due from the start: wait two thirds of the time that it then had left, independent of the clock.
        since, until = now, max(until, old.not_after - (old.not_after - attempt.put_in_place_at) / 3)
    return since, until


def _delay_text(attempt: Attempt, cause: Cause) -> str:
    if attempt.wait_until is not None:
        return f"its signer has not decided yet: {attempt.message}"
    if attempt.failures:
        return f"the attempt failed {attempt.failures} times, last: {attempt.message}"
    if cause in REPAIRS:
        often = "once" if attempt.repairs == 1 else f"{attempt.repairs} times"
        return f"it was repaired {often}, last on {day(attempt.repaired_at or attempt.at)}, and is damaged again"
    still = CAUSE_TEXT[cause] if cause in {Cause.NOT_YET_VALID, Cause.ROTATION} else "is still due: see still_due"
    return f"it was renewed on {day(attempt.at)}, and {still}"


def day(instant: datetime) -> str:
    """Return the instant as in messages, in UTC to the minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"
