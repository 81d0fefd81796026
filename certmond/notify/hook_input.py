"""The JSON document that a hook reads on its standard input.

The fields are a stable interface, like the fields of `certmond status -o json`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from certmond.pki.assessment.hook_events import Due

SCHEMA = 1


def document(step: Due, node: str) -> bytes:
    """Return the JSON document for one run of a hook, on one line."""
    notice = step.notice
    whole = {
        "schema": SCHEMA, "event": step.event, "node": node,
        "finding": {"reason": notice.reason, "severity": notice.severity.value, "message": notice.message},
        "certificate": notice.certificate, "path": notice.path, "at": _time(notice.at),
        "not_after": _time(notice.not_after),
    }  # fmt: skip
    return json.dumps(whole).encode("ascii") + b"\n"


def _time(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if instant else None
