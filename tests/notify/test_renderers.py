"""The same event at each place where it is written."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certmond.notify.audit import Audit
from certmond.notify.event_log import LONGEST, MESSAGE_IDS, Event, Journal, bound
from certmond.redaction import REMOVED
from tests.builders import NOW, new_key
from tests.journald import received

KEY = new_key("ec").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
BODY = KEY.splitlines()[1]
CONTEXT = {"certificate": "apiserver", "path": "/etc/kubernetes/pki/apiserver.crt", "rotation": "7f3a"}
FIELDS = {"result": "done", "count": 3}
MESSAGE = "apiserver.crt is renewed"


@pytest.mark.real("unshare")
def test_each_renderer_writes_the_same_event(capsys: pytest.CaptureFixture[str]) -> None:
    """journald, the terminal, JSON lines and the page have the same message, level, kind, fields and bound fields."""
    [entry], [shown] = received([("step_done", MESSAGE, {**FIELDS, "level": "warning"})], **CONTEXT)
    journals = [Journal(style) for style in ("json", "plain", "message", "none")]
    with bound(**CONTEXT):
        for journal in journals:
            journal.tell(Event.STEP_DONE, MESSAGE, "warning", **FIELDS)
    in_json, in_plain, in_words = capsys.readouterr().err.splitlines()

    named = {f"CERTMOND_{name.upper()}": str(value) for name, value in {**CONTEXT, **FIELDS}.items()}
    own = {"MESSAGE": MESSAGE, "MESSAGE_ID": MESSAGE_IDS[Event.STEP_DONE], "PRIORITY": "4",
           "CERTMOND_KIND": "step_done", "SYSLOG_IDENTIFIER": "certmond"}  # fmt: skip
    code = {name for name in entry if name.startswith("CODE_")}
    assert {name: value for name, value in entry.items() if name not in code} == {**own, **named}

    document = json.loads(in_json)
    at = document.pop("timestamp")
    assert document == {"event": MESSAGE, "level": "warning", "kind": "step_done", **CONTEXT, **FIELDS}

    fields = " ".join(f"{name}={value}" for name, value in sorted({**CONTEXT, **FIELDS, "kind": "step_done"}.items()))
    assert re.fullmatch(rf"\S+Z \[warning  \] {re.escape(MESSAGE)} {re.escape(fields)}", in_plain)
    assert in_words == MESSAGE

    events = [shown, *(journal.recent[0] for journal in journals)]
    assert {(each["event"], each["level"], each["message"]) for each in events} == {("step_done", "warning", MESSAGE)}
    assert journals[0].recent[0]["at"] == f"{at[:19]}Z", "the page shows the instant of the line"


@pytest.mark.real("unshare")
def test_no_renderer_is_given_a_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A private key in the message, in a field, in a value within a field or in a bound field reaches no renderer, not
    the page, and not the audit log.
    """
    fields: dict[str, Any] = {"output": KEY, "cause": [KEY], "old_serial": {"of": KEY}}
    entries, shown = received([("hook_told", f"it said {KEY}", fields)], service=KEY)
    journals = [Journal(style) for style in ("json", "plain", "message", "none")]
    with bound(service=KEY):
        for journal in journals:
            journal.tell(Event.HOOK_TOLD, f"it said {KEY}", **fields)
    audit = Audit(journals[0], tmp_path / "state", "test")
    audit.note(Event.STEP_DONE, NOW, f"it said {KEY}", fields={"result": KEY})
    lines = capsys.readouterr().err
    trail = (tmp_path / "state" / "audit.log").read_text()
    pages = [list(journal.recent) for journal in journals]
    for written in (json.dumps(entries), json.dumps(shown), lines, json.dumps(pages), trail):
        assert REMOVED in written
        assert BODY not in written
        assert "PRIVATE KEY-----" not in written
    assert lines.count("it said") == 4


def test_a_key_is_removed_before_a_text_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """The text around a key that is longer than a message may be is written as it is."""
    long = KEY * (LONGEST // len(KEY) + 1)
    Journal("message").tell(Event.HOOK_TOLD, f"it said {b64encode(long.encode()).decode()}; see: certmond check")
    assert capsys.readouterr().err == f"it said {REMOVED}; see: certmond check\n"
