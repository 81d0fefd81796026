"""Documents that the acting process of a node writes below its runtime directory.

Owns what a command reads from these documents: the planned restarts, the held steps, the progress of a rotation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certmond.pki.rotation.phases import Rotation
from certmond.transaction.node_lock import Holder

_STEPS = frozenset({"step_begun", "step_done", "step_failed"})
"""Events of a step that the process executes."""


@dataclass(frozen=True, slots=True)
class ActivityReport:
    """Documents that the acting process has written. They are empty if the process writes no documents.

    `silent` is the number of seconds since the last heartbeat of the process.
    """

    holder: Holder | None
    activity: Mapping[str, Any] = field(default_factory=dict)
    passed_at: float = 0.0
    silent: float = 0.0

    @property
    def planned(self) -> frozenset[str]:
        """Return the services whose restart the process plans."""
        return frozenset(each["target"] for each in self._plan("steps") if each.get("step") == "restart")

    @property
    def held(self) -> Mapping[str, str]:
        """Return the held steps: target -> reason."""
        return {each["target"]: each["because"] for each in self._plan("held")}

    @property
    def obstacle(self) -> str:
        """Return the message of the event that blocks a planned restart, or "" if a step began after that event."""
        for each in self.activity.get("events", ()):
            if each["event"] in _STEPS:
                break
            message = str(each["message"])
            if each["event"] == "step_held" and any(message.startswith(f"{name} waits for ") for name in self.planned):
                return message
        return ""

    def rotation(self, under_way: Rotation) -> Mapping[str, Any]:
        """Return the published progress of the present phase of the rotation `under_way`, or {}."""
        published = self.activity.get("rotation") or {}
        same = (published.get("id"), published.get("phase")) == (under_way.id, under_way.phase.value)
        return published if same else {}

    def _plan(self, name: str) -> list[Any]:
        return list((self.activity.get("plan") or {}).get(name, ()))


def document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
