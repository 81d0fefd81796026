"""The waits of a command: one line for each reason, and an end by a file or an instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certmond.cli.wait_progress import Events, Progress
from tests.builders import make_ca

AT = datetime(2026, 11, 27, 20, 0, tzinfo=UTC)


def test_a_wait_is_printed_when_its_reason_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the reason, its start, its end, and the command that ends it. If the operator has nothing to do, it
    has the command that shows the progress. No reason is repeated.
    """
    progress = Progress()
    for until in (AT + timedelta(minutes=1), AT + timedelta(minutes=2)):
        progress.wait("ill", "rm /hold", since=AT, until=until)
    progress.wait("web is well", since=AT)
    assert capsys.readouterr().out.splitlines() == [
        "waiting: ill (since 2026-11-27 20:00:00 UTC, until 2026-11-27 20:01:00 UTC; to end the wait: rm /hold)",
        "waiting: web is well (since 2026-11-27 20:00:00 UTC; see: certmond status)",
    ]


def test_json_output_has_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """With `-o json` standard output has only the document."""
    progress = Progress(quiet=True)
    progress.tell("something")
    progress.wait("something")
    assert capsys.readouterr().out == ""


def test_no_private_key_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that quotes a private key is printed without it."""
    key = make_ca().key_pem.decode()
    Progress().tell(f"the signer said {key}")
    assert capsys.readouterr().out == "the signer said [private key removed]\\n\n"


def test_a_change_ends_a_wait(tmp_path: Path) -> None:
    """A file that is replaced after it was named ends the wait, also when that was before the wait began."""
    with Events() as events:
        events.watch({str(tmp_path): frozenset({"record"})})
        events.discard()
        (tmp_path / "record").write_text("changed")
        assert events.wait()


def test_an_instant_ends_a_wait(tmp_path: Path) -> None:
    """Where no file changes, and for another name in the directory, the wait lasts until its instant."""
    with Events() as events:
        events.watch({str(tmp_path): frozenset({"record"})})
        events.discard()
        (tmp_path / "other").write_text("changed")
        assert not events.wait(datetime.now(UTC))
