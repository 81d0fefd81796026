"""Reasons to delay a due renewal, such as a recent attempt, an upgrade or a failed restart.

`renewals` decides which certificates are due.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import CertificateStatus
from certmond.pki.assessment.renewal_attempt import FIRST_RETRY, Attempt
from certmond.pki.catalog.settings import is_external
from certmond.pki.planning.host_hold_rules import HostHold
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.steps import Cause, Held
from certmond.pki.x509.certificate import Certificate

REPAIRS = frozenset({Cause.NOT_A_SYMLINK, Cause.DAMAGED})
"""Causes that are faults of files. A previous successful renewal does not delay the repair of such a fault."""
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
    Cause.RENEWED_AT_START: "the service issues the certificate again at its start",
}


@immutable
class Delay:
    """The held renewal, if any, and the times at which this result can change."""

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
    """Return the hold that delays the renewal at `now`, if any, and the times at which this result can change.

    `old` is None if the new certificate replaces damaged files. `due` is the time at which this node renews the
    certificate.
    """
    (name, path), spec, replaced_ca = status.seen.identity, status.seen.spec, circumstances.replaced_ca
    if doubted := unsettled_ca_hold(status, cause, circumstances):
        return Delay(doubted)
    if status.seen.identity in circumstances.uncompared:
        fact = "certmond has not compared the certificate with the other files of the pattern and with its archive yet"
        if until := circumstances.compared_at:
            return Delay(Held(name, path, fact, until), (until,))
        return Delay(Held(name, path, f"{fact}; if the archive is unreadable, certmond archive list names the file"))
    refused = replaced_ca.is_refused(spec, cause)
    # The service would also fail with a new certificate. For Cause.ROTATION, the rotation planner has checked this.
    if status.presence.failures and cause not in {Cause.ROTATION, Cause.DAMAGED}:
        return Delay(Held(name, path, f"{status.presence.failures[0]}; see: certmond explain restart_failed"))
    instants: tuple[datetime, ...] = ()
    if attempt and not replaced_ca.discounts(attempt.at, spec, cause):
        pause = attempt.repair_pause if cause in REPAIRS else _pause_after(attempt, cause, old, now, due)
        if pause and refused and attempt.wait_until is None:
            pause = pause[0], min(pause[1], attempt.at + FIRST_RETRY)
        instants = pause or ()
        if pause and pause[0] <= now < (until := pause[1]):
            return Delay(Held(name, path, _delay_text(attempt, cause), until), instants)
    hold, clock = circumstances.hold, circumstances.clock
    if cause is Cause.DAMAGED or old is None:  # an upgrade might be writing the files, so wait until the upgrade ends
        return Delay(Held(name, path, hold or clock or "") if hold or clock else None, instants)
    because, late = HostHold(hold, clock).of(old, spec, cause, now, replaced_ca)
    instants += (late,) if late else ()
    return Delay(Held(name, path, because, late) if because else None, instants)


def unsettled_ca_hold(status: CertificateStatus, cause: Cause, circumstances: Circumstances) -> Held | None:
    """Return the hold for a certificate whose CA some components might not trust yet, or None.

    The hold also applies to a renewal that the operator requests, except for a CA in `circumstances.in_use`. Return
    None also if all components refuse the present certificate of the entry.
    """
    if circumstances.replaced_ca.is_refused(status.seen.spec, cause):
        return None
    used = circumstances.in_use if cause is Cause.ASKED else frozenset[str]()
    spec = status.seen.spec  # certmond also writes the CA of `embedded_ca` into a kubeconfig
    names = (name for name in (*spec.ca, *filter(None, (spec.embedded_ca,))) if name not in used)
    unsure = next(filter(None, map(circumstances.unsure.get, names)), None)
    return Held(*status.seen.identity, unsure) if unsure else None


def _pause_after(
    attempt: Attempt, cause: Cause, old: Certificate | None, now: datetime, due: datetime | None
) -> tuple[datetime, datetime]:
    """Return the start and the end of the pause after the last attempt."""
    since, until = attempt.at, attempt.retry_at
    if attempt.restored and not attempt.failures and attempt.wait_until is None:
        return since, since  # no pause, because the signer did not issue the present certificate
    if cause is Cause.ROTATION and not attempt.failures and attempt.wait_until is None:
        until = attempt.put_in_place_at + FIRST_RETRY  # that attempt issued a certificate of the old CA
    if cause is Cause.DUE and old and old.sha256 == attempt.sha256 and due and due <= attempt.put_in_place_at:
        # The certificate was due when certmond installed it. Wait for two thirds of its remaining lifetime at that
        # time. The start is `now`, because the clock might have been set back.
        since, until = now, max(until, old.not_after - (old.not_after - attempt.put_in_place_at) / 3)
    return since, until


def _delay_text(attempt: Attempt, cause: Cause) -> str:
    if attempt.wait_until is not None:
        return f"the signer has not decided yet: {attempt.message}"
    if attempt.failures:
        often = "once:" if attempt.failures == 1 else f"{attempt.failures} times, the last time with:"
        return f"the attempt failed {often} {attempt.message}"
    if cause in REPAIRS:
        often = "once" if attempt.repairs == 1 else f"{attempt.repairs} times"
        last = day(attempt.repaired_at or attempt.at)
        return f"certmond repaired the file {often}, last on {last}, and the file is damaged again"
    still = (
        CAUSE_TEXT[cause]
        if cause in {Cause.NOT_YET_VALID, Cause.ROTATION}
        else "is still due; see: certmond explain still_due"
    )
    return f"certmond renewed the certificate on {day(attempt.at)}, but the certificate {still}"


def day(instant: datetime) -> str:
    """Return the instant as text for messages, in UTC, with a precision of one minute."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def signer_and_end(signer: str, end: datetime, kinds: Mapping[str, str]) -> str:
    """Return the signer and the end of a new certificate as text. An external signer can select another end."""
    promise = "validity requested" if is_external(signer, kinds) else "valid"
    return f"signer {signer}, {promise} until {day(end)}"
