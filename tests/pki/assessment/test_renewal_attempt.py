"""The earliest time of the next attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from certmond.pki.assessment.renewal_attempt import Attempt
from tests.builders import NOW

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def test_a_success_is_not_repeated_within_an_hour() -> None:
    """The first failure is repeated after a minute, and each further failure after twice the time, at most an hour."""
    assert Attempt(NOW).retry_at == NOW + HOUR
    assert [Attempt(NOW, failures).retry_at - NOW for failures in (1, 2, 3, 6, 7, 99)] == [
        MINUTE, 2 * MINUTE, 4 * MINUTE, 32 * MINUTE, HOUR, HOUR,
    ]  # fmt: skip


def test_a_file_without_a_new_signature_waits_at_most_ten_minutes() -> None:
    """A file that needs no signature is written again after ten minutes at the latest."""
    assert Attempt(NOW).file_retry_at == NOW + 10 * MINUTE
    assert Attempt(NOW, 1).file_retry_at == NOW + MINUTE


def test_a_failed_attempt_keeps_the_certificate_and_the_repairs_of_the_one_before() -> None:
    """An attempt that installed no certificate keeps the installed certificate, and the number of repairs in a row."""
    failed = Attempt(NOW, 1, "no space")
    assert failed.after(None) == failed
    repaired = Attempt(NOW - MINUTE, repaired_at=NOW - MINUTE, repairs=2)
    assert failed.after(repaired) == replace(failed, repaired_at=NOW - MINUTE, repairs=2)
    installed = Attempt(NOW - HOUR, sha256="ab", ends_at=NOW + HOUR, common_name="a", subject="CN=a", restored=True)
    assert failed.after(installed) == replace(
        failed, sha256="ab", issued_at=NOW - HOUR, ends_at=NOW + HOUR, common_name="a", subject="CN=a", restored=True
    )
