"""A rotation that is to be, phase after phase, as a document for scripts and as a text for people.

Owns the two shapes. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.pki.rotation import Rotation
from certmond.pki.rotation_batches import stepwise
from certmond.pki.rotation_preview import Preview

SCHEMA = 1


def preview_document(rotation: Rotation, previews: Sequence[Preview], batch: str | None) -> dict[str, Any]:
    """The phases in their order, each with what it changes on this node and what is restarted for it; and in which of
    them workers follow in batches of `batch`, None where there are no other nodes.
    """
    phases = [phase.value for phase in stepwise(rotation)] if batch else []
    return {
        "schema": SCHEMA,
        "id": rotation.id,
        "family": rotation.family,
        "mode": rotation.mode.value,
        "phase": rotation.phase.value,
        "old": [each.sha256 for each in rotation.old],
        "new": rotation.new.sha256,
        "excluded": list(rotation.excluded),
        "workers": {"phases": phases, "batch": batch} if phases else None,
        "phases": [
            {"phase": each.phase.value, "steps": list(each.steps), "restarts": list(each.restarts)} for each in previews
        ],
    }


def preview_table(document: dict[str, Any], wide: bool = False) -> RenderableType:  # noqa: ARG001 - as every table has it
    """The same for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PHASE", "CHANGES", "RESTARTS"):
        table.add_column(column, overflow="fold")
    for each in document["phases"]:
        table.add_row(each["phase"], Text("\n".join(each["steps"]) or "-"), Text("\n".join(each["restarts"]) or "-"))
    if workers := document["workers"]:
        phases = ", ".join(workers["phases"])
        how = f"one first, then {workers['batch']} at a time, when all before them have acknowledged the phase"
        return Group(table, Text(f"\nworkers in {phases}: {how}"))
    return table
