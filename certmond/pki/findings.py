"""Findings, with their reasons, severities and messages.

The value of a `Reason` is a public interface: new versions of certmond do not change the meaning of a reason.
`assessment.certificate_rules` decides which findings a certificate has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, Flag, StrEnum, auto
from typing import Self

from certmond.immutable_class import immutable


class Severity(StrEnum):
    """Urgency of a finding: no action necessary (info), act during working hours (warning), act now (critical)."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """The severity as a number from 0 to 2, which is also the exit code of `certmond check`."""
        return _RANKS[self]


_RANKS = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


class Remedy(Enum):
    """The action that clears a finding."""

    OPERATOR = auto()
    """An action of the operator, or the end of the reported condition."""
    RENEWAL = auto()
    """A renewal of the certificate, or a rotation if the certificate is a CA."""
    REPAIR = auto()
    """A repair of the damaged files from the archive, or a renewal of the certificate."""


class Blocks(Flag):
    """Actions that certmond does not take until the finding ends."""

    NOTHING = 0
    ISSUING = auto()
    """If the finding is critical, `certmond init` issues no certificate."""
    USE = auto()
    """If the finding is critical, certmond does not restart a service to make it load the certificate."""
    START = auto()
    """If the finding is critical, certmond restarts no service that reads the file: the service would not start."""
    NEW_CA = auto()
    """certmond does not accept a certificate with the finding as a new Root CA, whatever the severity is."""


class Reason(StrEnum):
    """Kind of a finding. The value is the public name of the reason, and the heading of a section in `runbook.md`.

    Each member defines the usual severity of the finding, the remedy that clears the finding, and the actions that the
    finding blocks.
    """

    severity: Severity
    remedy: Remedy
    blocks: Blocks

    def __new__(cls, value: str, severity: Severity, remedy: Remedy, blocks: Blocks) -> Self:
        """Return a member with the given value, severity, remedy and blocked actions."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.severity, member.remedy, member.blocks = severity, remedy, blocks
        return member

    UNREADABLE = "unreadable", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING | Blocks.USE | Blocks.START
    NOT_PERMITTED = "not_permitted", Severity.INFO, Remedy.OPERATOR, Blocks.NOTHING
    MISSING = "missing", Severity.CRITICAL, Remedy.REPAIR, Blocks.ISSUING | Blocks.START
    MALFORMED = "malformed", Severity.CRITICAL, Remedy.REPAIR, Blocks.ISSUING | Blocks.USE | Blocks.START
    BREAKS_AGAIN = "breaks_again", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING
    TRAILING_DATA = "trailing_data", Severity.INFO, Remedy.RENEWAL, Blocks.ISSUING
    UNEXPECTED_CHAIN = "unexpected_chain", Severity.WARNING, Remedy.RENEWAL, Blocks.ISSUING | Blocks.USE
    EXPIRED = "expired", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING
    NOT_YET_VALID = "not_yet_valid", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING
    NEARING_EXPIRY = "nearing_expiry", Severity.WARNING, Remedy.RENEWAL, Blocks.NOTHING
    STILL_DUE = "still_due", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    OUTLIVES_CA = "outlives_ca", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    NO_PATH = "no_path", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING
    NOT_ISSUED_BY_CA = "not_issued_by_ca", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    CA_NOT_SELF_SIGNED = "ca_not_self_signed", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    CA_NOT_CA = "ca_not_ca", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    CA_CANNOT_SIGN = "ca_cannot_sign", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    WRONG_SUBJECT = "wrong_subject", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING
    WRONG_USAGE = "wrong_usage", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING | Blocks.USE
    MISSING_NAME = "missing_name", Severity.WARNING, Remedy.RENEWAL, Blocks.ISSUING
    KEY_MISSING = "key_missing", Severity.CRITICAL, Remedy.REPAIR, Blocks.ISSUING | Blocks.USE | Blocks.START
    KEY_MISMATCH = "key_mismatch", Severity.CRITICAL, Remedy.REPAIR, Blocks.ISSUING | Blocks.START
    TOO_OPEN = "too_open", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING
    WRONG_OWNER = "wrong_owner", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING
    EMBEDDED_CA_DIFFERS = "embedded_ca_differs", Severity.WARNING, Remedy.RENEWAL, Blocks.ISSUING
    COPY_DIFFERS = "copy_differs", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    NOT_ROTATING_PEM = "not_rotating_pem", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING
    NOT_A_SYMLINK = "not_a_symlink", Severity.WARNING, Remedy.RENEWAL, Blocks.ISSUING
    WEAK_KEY = "weak_key", Severity.WARNING, Remedy.RENEWAL, Blocks.ISSUING | Blocks.NEW_CA
    KEY_UNUSABLE = "key_unusable", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING | Blocks.NEW_CA
    NONCONFORMING = "nonconforming", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING | Blocks.NEW_CA
    WEAK_SIGNATURE = "weak_signature", Severity.CRITICAL, Remedy.RENEWAL, Blocks.ISSUING
    SERVED_DIFFERS = "served_differs", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    RESTART_PENDING = "restart_pending", Severity.WARNING, Remedy.OPERATOR, Blocks.ISSUING
    RESTART_FAILED = "restart_failed", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    NOT_RUNNING = "not_running", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    SECOND_RENEWER = "second_renewer", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    CONFIGURATION_REFUSED = "configuration_refused", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    SERVICE_ACCOUNT_KEY_MISMATCH = (
        "service_account_key_mismatch",
        Severity.CRITICAL,
        Remedy.OPERATOR,
        Blocks.ISSUING | Blocks.USE,
    )
    ROOT_CA_CHANGED = "root_ca_changed", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    ROTATION_UNDER_WAY = "rotation_under_way", Severity.INFO, Remedy.OPERATOR, Blocks.ISSUING
    ROTATION_FROZEN = "rotation_frozen", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    CUT_OFF = "cut_off", Severity.CRITICAL, Remedy.OPERATOR, Blocks.ISSUING
    CLUSTER_EXPIRY = "cluster_expiry", Severity.CRITICAL, Remedy.OPERATOR, Blocks.NOTHING
    CLUSTER_MALFORMED = "cluster_malformed", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    CLUSTER_UNREAD = "cluster_unread", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    REQUEST_WAITING = "request_waiting", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    STALE_COPY = "stale_copy", Severity.WARNING, Remedy.OPERATOR, Blocks.NOTHING
    NOT_WATCHED = "not_watched", Severity.INFO, Remedy.OPERATOR, Blocks.ISSUING
    NONPOSITIVE_SERIAL = "nonpositive_serial", Severity.INFO, Remedy.OPERATOR, Blocks.ISSUING

    @property
    def cleared_by_renewal(self) -> bool:
        """Whether a renewal of the certificate clears the finding."""
        return self.remedy is not Remedy.OPERATOR

    @property
    def blocks_issuing(self) -> bool:
        """Whether `certmond init` issues no certificate while this finding is critical."""
        return Blocks.ISSUING in self.blocks


def printable(text: str) -> str:
    """Return `text` on one line, with escapes for non-printable characters, such as terminal control characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@immutable
class Finding:
    """A problem on the node. `message` is one sentence that contains the file, the fact and the remedy."""

    reason: Reason
    severity: Severity
    message: str

    def capped(self, most: Severity | None) -> Finding:
        """Return the finding with its severity limited to `most`, or unchanged if `most` is None."""
        return replace(self, severity=most) if most and self.severity.rank > most.rank else self


@immutable
class Fault:
    """A fault that certmond detects in an observation, for example in a file. `detail` names the file and the fact."""

    reason: Reason
    detail: str
    remedy: str | None = None  # None if the usual remedy of the reason applies


def highest_severity(findings: Iterable[Finding]) -> Severity | None:
    """Return the highest severity of `findings`, or None if there are no findings."""
    return max((item.severity for item in findings), key=lambda severity: severity.rank, default=None)
