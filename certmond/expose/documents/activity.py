"""The activity document of the daemon, with the plan, the rotation in progress and the last events.

The schema of this document is stable. The module `status` creates the document with the state of the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from certmond.expose.documents.plan import plan_entry
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.phases import Rotation, sequence
from certmond.pki.rotation.worker_batches import Workers

SCHEMA = 1


def activity_document(
    plan: Plan,
    rotation: Rotation | None,
    waits: Sequence[str],
    until: datetime | None,
    events: Iterable[Mapping[str, str]],
    *,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Return the activity document as values that `json` can encode.

    `until` is the time at which the rotation can continue. `events` starts with the newest event.
    """
    return {
        "schema": SCHEMA,
        "plan": plan_entry(plan),
        "rotation": _rotation(rotation, waits, until, workers) if rotation else None,
        "events": [dict(event) for event in events],
    }


def _rotation(
    rotation: Rotation, waits: Sequence[str], until: datetime | None, workers: Workers | None
) -> dict[str, Any]:
    return {
        "id": rotation.id,
        "family": rotation.family,
        "mode": rotation.mode.value,
        "phase": rotation.phase.value,
        "phases": [phase.value for phase in sequence(rotation)],
        "since": _time(rotation.since),
        "aborted": rotation.aborted,
        "old": [each.sha256 for each in rotation.old],
        "new": rotation.new.sha256,
        "waits": list(waits),
        "until": _time(until),
        "workers": asdict(workers) if workers else None,
    }


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat().replace("+00:00", "Z") if instant else None
