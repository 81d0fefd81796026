"""Records of the standard library's `logging`, in the log of the process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest

from certmond.notify.event_log import Event, Journal, bound
from certmond.notify.library_log import log_to


@contextmanager
def records(style: str = "none") -> Iterator[Journal]:
    """A log that takes the records of this process."""
    journal, root = Journal(style), logging.getLogger()
    former = set(root.handlers)
    log_to(journal)
    try:
        yield journal
    finally:
        for each in set(root.handlers) - former:
            root.removeHandler(each)


def test_a_record_of_a_library_is_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning of a library is an event with its logger, and with the fields that are bound; its level is the
    record's.
    """
    with records("json") as journal:
        with bound(service="etcd"):
            logging.getLogger("lightkube").warning("retry %d", 3)
        logging.getLogger("lightkube").error("gave up")
        logging.getLogger("lightkube").critical("broken")
        logging.getLogger("lightkube").info("not shown")
    assert [(each["event"], each["level"], each["message"]) for each in journal.recent] == [
        ("library", "critical", "broken"), ("library", "error", "gave up"), ("library", "warning", "retry 3"),
    ]  # fmt: skip
    first = capsys.readouterr().err.splitlines()[0]
    assert '"logger": "lightkube"' in first
    assert '"service": "etcd"' in first


def test_a_record_names_its_kind() -> None:
    """A module that is below the log in the layers gives its record the kind of the event."""
    with records() as journal:
        logging.getLogger("certmond").warning("listening", extra={"kind": "web_exposed"})
    assert journal.recent[0]["event"] == Event.WEB_EXPOSED


def test_each_line_of_a_record_is_an_event() -> None:
    """A record of several lines, such as the mistakes of a web configuration, is an event for each."""
    with records() as journal:
        logging.getLogger("certmond").warning("refused: %s", "web.yaml:1: a\nweb.yaml:2: b", extra={"kind": "library"})
    assert [each["message"] for each in journal.recent] == ["web.yaml:2: b", "refused: web.yaml:1: a"]


def test_the_text_of_an_exception_is_not_logged() -> None:
    """Of an exception the type and the place are logged, for its text may quote a key."""
    with records() as journal:
        try:
            int("a secret")
        except ValueError:
            logging.getLogger("certmond").exception("no answer", extra={"kind": "request_failed"})
    message = journal.recent[0]["message"]
    assert message.startswith("no answer: an unexpected ValueError in test_library_log.py:")
    assert "secret" not in message


def test_a_record_that_does_not_format_is_logged() -> None:
    """A record whose arguments do not fit its text is logged as its text."""
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%d of", ("two",), None)
    with records() as journal:
        own = [each for each in logging.getLogger().handlers if type(each).__module__.startswith("certmond")]
        for handler in own:  # pytest has others, which fail
            handler.handle(record)
    assert journal.recent[0]["message"] == "%d of"


def test_the_last_log_takes_the_records() -> None:
    """A second log takes the place of the first, so that a record is one event."""
    with records() as journal, records() as other:
        logging.getLogger("x").warning("once")
    assert (journal.logged, other.logged) == (0, 1)


def test_a_record_goes_to_the_stderr_of_its_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that was made while stderr was another stream, which is closed by now, writes to the present one."""
    with monkeypatch.context() as former, StringIO() as closed:
        former.setattr(sys, "stderr", closed)
        journal = Journal("message")
    journal.tell(Event.STARTED, "here")
    assert capsys.readouterr().err == "here\n"
