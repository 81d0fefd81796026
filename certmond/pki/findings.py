"""The one vocabulary: what can be wrong with a certificate, how bad it is, and the sentence that says so.

A `Reason` is the log key, the metric label, the JSON field, the alert and the anchor in the runbook. Names are a
contract: more may join, none changes its meaning. This module decides nothing; `checks` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    """How soon a person must act: never by itself (info), in daylight (warning), now (critical)."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0, 1 or 2: the exit code that a monitoring plugin gives for it."""
        return _RANKS[self]


_RANKS = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


class Reason(StrEnum):
    """What is wrong. The value is the public name."""

    UNREADABLE = "unreadable"
    MISSING = "missing"
    MALFORMED = "malformed"
    BREAKS_AGAIN = "breaks_again"
    TRAILING_DATA = "trailing_data"
    UNEXPECTED_CHAIN = "unexpected_chain"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NEARING_EXPIRY = "nearing_expiry"
    STILL_DUE = "still_due"
    OUTLIVES_CA = "outlives_ca"
    NO_PATH = "no_path"
    NOT_ISSUED_BY_CA = "not_issued_by_ca"
    CA_NOT_SELF_SIGNED = "ca_not_self_signed"
    CA_NOT_CA = "ca_not_ca"
    CA_CANNOT_SIGN = "ca_cannot_sign"
    WRONG_SUBJECT = "wrong_subject"
    WRONG_USAGE = "wrong_usage"
    MISSING_NAME = "missing_name"
    KEY_MISSING = "key_missing"
    KEY_MISMATCH = "key_mismatch"
    TOO_OPEN = "too_open"
    WRONG_OWNER = "wrong_owner"
    EMBEDDED_CA_DIFFERS = "embedded_ca_differs"
    NOT_ROTATING_PEM = "not_rotating_pem"
    NOT_A_SYMLINK = "not_a_symlink"
    WEAK_KEY = "weak_key"
    KEY_UNUSABLE = "key_unusable"
    NONCONFORMING = "nonconforming"
    WEAK_SIGNATURE = "weak_signature"
    SERVED_DIFFERS = "served_differs"
    RESTART_PENDING = "restart_pending"
    RESTART_FAILED = "restart_failed"
    SERVICE_ACCOUNT_KEY_MISMATCH = "service_account_key_mismatch"
    ROOT_CA_CHANGED = "root_ca_changed"
    ROTATION_UNDER_WAY = "rotation_under_way"
    ROTATION_FROZEN = "rotation_frozen"
    CUT_OFF = "cut_off"
    NONPOSITIVE_SERIAL = "nonpositive_serial"


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would obey or hide written as an escape: names are anybody's choice."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `message` is one sentence: the file, the fact, the remedy."""

    reason: Reason
    severity: Severity
    message: str

    def capped(self, most: Severity | None) -> Finding:
        """The same finding, no more severe than `most`."""
        return replace(self, severity=most) if most and self.severity.rank > most.rank else self


@dataclass(frozen=True, slots=True)
class Fault:
    """What reading a file found wrong with it, before anything is judged. `detail` names the file and the fact;
    `remedy` is what to do about it, where that is not the usual thing for its reason.
    """

    reason: Reason
    detail: str
    remedy: str | None = None
