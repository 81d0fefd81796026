"""Report of the process that executes steps on this node, read from its runtime directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from certmond.immutable_class import immutable
from certmond.pki.rotation.phases import Rotation
from certmond.transaction.node_lock import Holder

_STEPS = frozenset({"step_begun", "step_done", "step_failed"})
"""Events about the execution of a step."""


@immutable
class ActivityReport:
    """Report of the process `holder`. The report is empty if this process writes no report, or if `holder` is None
    because no other process executes steps.

    `passed_at` is the time of the last pass in seconds since the epoch. `silent` is the number of seconds since this
    command first read the latest heartbeat.
    """

    holder: Holder | None
    activity: Mapping[str, Any] = field(default_factory=dict)
    passed_at: float = 0.0
    silent: float = 0.0

    @property
    def planned(self) -> frozenset[str]:
        """Services that the process plans to restart."""
        return frozenset(each["target"] for each in self._plan("steps") if each.get("step") == "restart")

    @property
    def held(self) -> Mapping[str, str]:
        """The reason for which each held step waits, by the name of the step's target."""
        return {each["target"]: each["because"] for each in self._plan("held")}

    @property
    def obstacle(self) -> str:
        """The latest message about a planned restart that waits, or "" if no such message is newer than the latest step
        event.
        """
        for each in self.activity.get("events", ()):
            if each["event"] in _STEPS:
                break
            message = str(each["message"])
            if each["event"] == "step_held" and any(message.startswith(f"{name} waits for ") for name in self.planned):
                return message
        return ""

    def rotation(self, under_way: Rotation) -> Mapping[str, Any]:
        """Return the progress of the present phase of the rotation, or {} if the report contains no such progress."""
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
