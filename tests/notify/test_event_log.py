"""The output of the daemon, line by line, without a journal."""

from __future__ import annotations

import json
import os
from datetime import datetime

import pytest

from certmond.notify.event_log import LONGEST, Event, Journal, bound


def test_a_plain_entry_is_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """A plain entry is one line: when, how grave, what happened, and the fields by name, quoted where they need it."""
    Journal("plain").tell(Event.STEP_DONE, "done\nin two lines", path="/a b\x1b[2J", certificate="etcd", count=3)
    at, _, rest = capsys.readouterr().err.partition(" ")
    assert datetime.fromisoformat(at).utcoffset() is not None
    assert rest == ("[info     ] done\\nin two lines certificate=etcd count=3 kind=step_done path='/a b\\\\x1b[2J'\n")


def test_a_json_entry_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON entry is one object on one line, with the message as `event`, the kind, the level and the time."""
    journal = Journal("json")
    journal.tell(Event.FINDING_RAISED, "über alt", "critical", path="/etc/a.crt", serial=2**70)
    journal.tell(Event.STOPPED, "the end")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(first.pop("timestamp")).utcoffset() is not None
    assert first == {
        "kind": "finding_raised", "path": "/etc/a.crt", "serial": 2**70, "event": "über alt", "level": "critical"
    }  # fmt: skip
    assert second["kind"] == "stopped"


def test_a_long_message_keeps_its_beginning_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A name of half a megabyte fills neither the journal nor the memory for the last events, and hides no remedy."""
    journal, name = Journal("json"), "x" * LONGEST
    journal.tell(Event.FINDING_RAISED, f"of {name * 100}; renew it", path=name, certificate=f"admin#{name}")
    (entry,) = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert entry["event"] == journal.recent[0]["message"]
    assert entry["event"].startswith("of xx")
    assert entry["event"].endswith("xx; renew it")
    assert f"… ({99 * LONGEST + 13} characters) …" in entry["event"]
    assert len(entry["event"]) < LONGEST + 40
    assert entry["path"] == name, "it is as long as it may be"
    assert len(entry["certificate"]) < LONGEST + 40


def test_the_style_none_still_stores_events(capsys: pytest.CaptureFixture[str]) -> None:
    """The style `none` writes nothing, and the page still shows the entry, the newest first."""
    journal = Journal("none")
    journal.tell(Event.STARTED, "first")
    journal.tell(Event.STOPPED, "second", "error")
    assert capsys.readouterr().err == ""
    assert [(each["event"], each["level"], each["message"]) for each in journal.recent] == [
        ("stopped", "error", "second"), ("started", "info", "first")
    ]  # fmt: skip
    assert journal.logged == 2


def test_details_are_written_only_when_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    """Details of the operation are written only in verbose mode, and are no event of the page."""
    for journal in (Journal("json"), Journal("json", verbose=True)):
        journal.detail(Event.PASSED, "a pass", cause="resync")
        assert (list(journal.recent), journal.logged) == ([], 0)
    (only,) = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (only["event"], only["level"], only["kind"], only["cause"]) == ("a pass", "debug", "passed", "resync")


def test_bound_fields_are_of_every_event_inside(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields that are bound go to each event of this thread until the end, also from within; an event's own field of
    the same name wins.
    """
    journal, other = Journal("json"), Journal("json")
    with bound(certificate="apiserver", path="/a.crt"):
        journal.tell(Event.STEP_BEGUN, "begins")
        with bound(service="kubelet", path="/b.crt"):
            other.tell(Event.STEP_BEGUN, "inside", certificate="own")
        journal.tell(Event.STEP_DONE, "ends")
    journal.tell(Event.STOPPED, "after")
    names = ("certificate", "path", "service")
    reported = [[json.loads(line).get(name) for name in names] for line in capsys.readouterr().err.splitlines()]
    assert reported == [
        ["apiserver", "/a.crt", None], ["own", "/b.crt", "kubelet"], ["apiserver", "/a.crt", None], [None, None, None],
    ]  # fmt: skip


def test_the_process_that_listens_writes_sentences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`certmond serve` writes the message alone where systemd does not take its entries."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    Journal("serve").tell(Event.STARTED, "listening", "warning", path="/a")
    assert capsys.readouterr().err == "listening\n"


def test_a_terminal_of_a_service_is_no_journal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If journald reads stderr, an entry goes to the journal alone. A terminal that a service has started inherits
    JOURNAL_STREAM, and still shows the entries.
    """
    found = os.fstat(2)
    for stream, style in ((f"{found.st_dev}:{found.st_ino}", "auto"), ("1:2", "auto"), ("1:2", "serve")):
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        Journal(style).tell(Event.STARTED, f"{style} with {stream}")
    plain, message = capfd.readouterr().err.splitlines()
    assert "auto with 1:2" in plain
    assert message == "serve with 1:2"
