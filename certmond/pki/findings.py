"""Vocabulary of findings: reasons, severities, and messages.

A `Reason` is the log key, the metric label, the JSON field, the alert and the anchor in the runbook. Names are a
contract: new ones may be added, and none changes its meaning. `assessment.rules` decides.
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
        """0, 1 or 2: the exit code of a monitoring plugin."""
        return _RANKS[self]


_RANKS = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


class Reason(StrEnum):
    """Kind of a finding. The value is its public name."""

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
    """Return `text` on one line, with escapes for characters that control or confuse a terminal: any user can choose
    names.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. `message` is one sentence: the file, the fact, the remedy."""

    reason: Reason
    severity: Severity
    message: str

    def capped(self, most: Severity | None) -> Finding:
        """Return the finding with at most the severity `most`."""
        return replace(self, severity=most) if most and self.severity.rank > most.rank else self


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a file from reading it, before any assessment.

    `detail` names the file and the fact. `remedy` is the remedy if it is not the usual one of the reason.
    """

    reason: Reason
    detail: str
    remedy: str | None = None
