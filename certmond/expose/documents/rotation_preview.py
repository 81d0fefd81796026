"""Preview of a rotation: the changes and restarts of each phase, as a document and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.pki.findings import printable
from certmond.pki.rotation.expected_downtime import Absence
from certmond.pki.rotation.phases import Rotation
from certmond.pki.rotation.preview import Preview
from certmond.pki.rotation.rotation_holds import Hold
from certmond.pki.rotation.worker_batches import stepwise

SCHEMA = 1


def preview_document(
    rotation: Rotation,
    previews: Sequence[Preview],
    # The downtimes of services that have no other instance.
    away: Iterable[Absence],
    batch: str | None,
    # The reasons for which the rotation waits before the replacement of a key.
    holds: Sequence[Hold] = (),
) -> dict[str, Any]:
    """Return the preview document, with the changes, restarts and downtimes on this node for each phase.

    `batch` is the size of a batch of workers, or None if `cluster.kubeconfig` is not set.
    """
    known = list(away)
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
        "holds": [
            {
                "reason": each.reason.value,
                "fact": each.fact,
                "since": _time(each.since),
                "until": _time(each.until),
                "depends_on": each.depends_on,
                "command": each.command,
                "message": each.sentence,
            }
            for each in holds
        ],
        "phases": [
            {
                "phase": each.phase.value,
                "steps": list(each.steps),
                "restarts": list(each.restarts),
                "away": [
                    {"service": one.service, "seconds": round(one.length.total_seconds()), "because": one.because}
                    for one in known
                    if one.phase is each.phase
                ],
            }
            for each in previews
        ],
    }


def preview_table(document: dict[str, Any], wide: bool = False) -> RenderableType:  # noqa: ARG001 - as in every table
    """Return the preview document as a table, followed by the downtimes, the batches of workers and the holds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PHASE", "CHANGES", "RESTARTS"):
        table.add_column(column, overflow="fold")
    for each in document["phases"]:
        table.add_row(each["phase"], Text("\n".join(each["steps"]) or "-"), Text("\n".join(each["restarts"]) or "-"))
    below = [Text(line) for line in unavoidable(document)]
    if workers := document["workers"]:
        phases = ", ".join(workers["phases"])
        how = f"one worker first, then batches of {workers['batch']}"
        below.append(
            Text(f"workers in {phases}: {how}; each worker waits until all earlier workers have acknowledged the phase")
        )
    if document["holds"]:
        below.append(Text(f"the rotation waits in {document['phase']} and replaces no key, because of these holds:"))
        below += [Text(printable(each["message"]), style="yellow") for each in document["holds"]]
    return Group(table, Text(), *below) if below else table


def unavoidable(document: dict[str, Any]) -> Iterator[str]:
    """Yield lines about the services that are unavailable during their restart on the only control-plane node."""
    found = dict[tuple[str, int, str], list[str]]()
    for each in document["phases"]:
        for one in each["away"]:
            found.setdefault((one["service"], one["seconds"], one["because"]), []).append(each["phase"])
    if found:
        yield "if this is the only control-plane node, these services are unavailable during their restart:"
    for (service, seconds, because), phases in found.items():
        yield f"  {service}, about {seconds} s in {', '.join(phases)}: a restart is necessary for {because}"
    restarts = Counter(service for (service, *_), phases in found.items() for _ in phases)
    if any(times > 1 for times in restarts.values()):
        yield "  because of kubelet back-off, a second restart in ten minutes takes about 20 s more, a third about 45 s"


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat().replace("+00:00", "Z") if instant else None
