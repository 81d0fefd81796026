"""The earliest time of the next attempt."""

from __future__ import annotations

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
