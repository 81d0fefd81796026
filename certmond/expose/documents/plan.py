"""The plan document and the forecast document, for scripts.

The schema of the plan document is stable. Times have the format of RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from certmond.expose.documents.status import event_entry, finding_entry
from certmond.pki.planning.forecast import Forecast, NextEvent
from certmond.pki.planning.steps import Derive, Held, Issue, Plan, Restart, Restore, Rotate, Step

if TYPE_CHECKING:
    from certmond.pki.planning.remaining_work import RemainingWork

SCHEMA = 1


def plan_document(
    plan: Plan, taken_at: datetime, remaining: RemainingWork | None = None, following: NextEvent | None = None
) -> dict[str, Any]:
    """Return the plan document: the steps in the order of their execution, and the held steps.

    With `remaining`, the document also contains the work that the plan leaves, and the next event `following`.
    """
    document = {"schema": SCHEMA, "taken_at": _time(taken_at), **plan_entry(plan)}
    if remaining is None:
        return document
    return document | {
        "waiting": [
            {
                "target": each.target,
                "path": each.path,
                "because": each.because,
                "until": _time(each.until),
                "renewed_by": each.renewed_by,
            }
            for each in remaining.waiting
        ],
        "unresolved": [finding_entry(item, status) for item, status in remaining.unresolved],
        "next_event": event_entry(following),
    }


def plan_entry(plan: Plan) -> dict[str, Any]:
    """Return the members `steps`, `held` and `changes_at` of the plan document."""
    return {
        "steps": [step_entry(step) for step in plan.steps],
        "held": held_entries(plan.held),
        "changes_at": _time(plan.changes_at),
    }


def held_entries(held: Iterable[Held]) -> list[dict[str, Any]]:
    """Return the elements of `held` in the plan document."""
    return [
        {"target": each.target, "path": each.path, "because": each.because, "until": _time(each.until)} for each in held
    ]


def step_entry(step: Step) -> dict[str, Any]:
    """Return one element of `steps` in the plan document."""
    return {
        "step": step_name(step),
        "target": step.target,
        "path": step.path,
        "reason": step.cause.value,
        "detail": step.detail,
        "restarts": list(step.restarts) if isinstance(step, Issue | Derive) else [],
    }


def step_name(step: Step) -> str:
    """Return the kind of a step: issue, restore, derive, restart or rotate."""
    match step:
        case Issue():
            return "issue"
        case Restore():
            return "restore"
        case Derive():
            return "derive"
        case Restart():
            return "restart"
        case Rotate():
            return "rotate"


def forecast_document(forecast: Forecast, mode: str, following: NextEvent | None) -> dict[str, Any]:
    """Return the forecast document. `following` is the next event, which can be after the end of the forecast.

    In observe mode, the events include the renewals that enforce mode would execute.
    """
    return {
        "schema": SCHEMA,
        "since": _time(forecast.since),
        "until": _time(forecast.until),
        "complete": forecast.complete,
        "mode": mode,
        "next_event": event_entry(following),
        "events": [
            {"at": _time(e.at), "what": e.what.value, "target": e.target, "detail": e.detail, "bad": e.bad}
            for e in forecast.events
        ],
    }


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat().replace("+00:00", "Z") if instant else None
