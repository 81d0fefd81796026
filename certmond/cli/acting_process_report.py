"""Report of the acting process: the documents that it writes below its runtime directory.

Owns what a command reads from them: the planned restarts, the held steps, the progress of a rotation.
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
"""Those of a step that is executed."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the acting process has written of itself: its documents, empty where it writes none; and for how many
    seconds it has been `silent`.
    """

    holder: Holder | None
    activity: Mapping[str, Any] = field(default_factory=dict)
    passed_at: float = 0.0
    silent: float = 0.0

    @property
    def planned(self) -> frozenset[str]:
        """Return the services whose restart it plans."""
        return frozenset(each["target"] for each in self._plan("steps") if each.get("step") == "restart")

    @property
    def held(self) -> Mapping[str, str]:
        """Return what it holds, by name, with the reason."""
        return {each["target"]: each["because"] for each in self._plan("held")}

    @property
    def obstacle(self) -> str:
        """Return what blocks a planned restart; empty where a step was executed since that event."""
        for each in self.activity.get("events", ()):
            if each["event"] in _STEPS:
                break
            message = str(each["message"])
            if each["event"] == "step_held" and any(message.startswith(f"{name} waits for ") for name in self.planned):
                return message
        return ""

    def rotation(self, under_way: Rotation) -> Mapping[str, Any]:
        """Return what it publishes about this phase of this rotation."""
        said = self.activity.get("rotation") or {}
        same = (said.get("id"), said.get("phase")) == (under_way.id, under_way.phase.value)
        return said if same else {}

    def _plan(self, name: str) -> list[Any]:
        return list((self.activity.get("plan") or {}).get(name, ()))


def document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
