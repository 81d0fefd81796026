"""Derived files in a plan: the files to write, and the files that certmond holds, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.steps import Derive, Held, Identity, Issue, Plan, Restore, Step
from certmond.renewal.derived_file_state import Absent, Current, Foreign, Stale, State, Unmanaged, Unready


def circumstances_of(derived: Sequence[DerivedSpec], states: Mapping[str, State]) -> Circumstances:
    """Return the derived files for the planner, without the files in the states `Foreign` and `Unmanaged`."""
    paths, stale = {}, {}
    for spec in derived:
        match states[spec.name]:
            case Foreign() | Unmanaged():
                continue
            case Absent():
                stale[spec.name] = f"{spec.path} does not exist"
            case Stale():
                stale[spec.name] = f"{spec.path} differs from {spec.source}"
            case Current() | Unready():
                pass
        paths[spec.name] = (spec.path, spec.source)
    return Circumstances(None, stale, paths)


def replaced_by(made: Plan) -> frozenset[str]:
    """Return the names of the entries whose certificates the plan replaces."""
    return frozenset(step.target for step in made.steps if isinstance(step, Issue | Restore))


def without_recent_failures(made: Plan, past: Mapping[Identity, Attempt], now: datetime) -> Plan:
    """Return the plan with a hold for each derived file whose last write failed recently.

    If the plan also replaces the source of a file, the file has no hold.
    """
    renewed = replaced_by(made)
    steps, held, instants = list[Step](), list[Held](), [made.changes_at] if made.changes_at else []
    for step in made.steps:
        attempt = past.get((step.target, step.path))
        can_wait = isinstance(step, Derive) and step.source not in renewed
        if can_wait and attempt and (again := attempt.file_retry_at) > now >= attempt.at:
            held.append(Held(step.target, step.path, attempt.message, again))
            instants.append(again)
        else:
            steps.append(step)
    return replace(made, steps=tuple(steps), held=(*made.held, *held), changes_at=min(instants, default=None))


def unwritten_files(derived: Sequence[DerivedSpec], states: Mapping[str, State]) -> Iterator[Held]:
    """Yield a hold for each derived file and each directory of copies to which certmond cannot or must not write."""
    for spec in derived:
        state = states[spec.name]
        if isinstance(state, Foreign | Unready):
            yield Held(spec.name, spec.path, state.message)
        if isinstance(state, Foreign | Stale | Current):
            yield from (Held(spec.name, each.path, each.message) for each in state.refused)


def hold_reasons_of(derived: Sequence[DerivedSpec], states: Mapping[str, State], made: Plan) -> dict[str, str]:
    """Return, by source, why certmond holds a missing or outdated derived file.

    Omit the holds of single directories of copies. The operator decides about these directories, and the services must
    not wait.
    """
    return {
        spec.source: held.because
        for spec in derived
        for held in made.held
        if (held.target, held.path) == (spec.name, spec.path) and isinstance(states[spec.name], Absent | Stale)
    }
