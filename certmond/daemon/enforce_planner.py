"""Planner of enforce mode: the steps that are due, with the holds of this host and of a rotation.

`pki.planning` decides about each certificate. A process in observe mode does not import this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from certmond.config.model import Config
from certmond.config.renewal_policy import policy_of, restart_terms_of
from certmond.daemon.acting_controllers import ActingControllers
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.renewals_at_start import NO_START_RENEWALS, start_renewals
from certmond.pki.planning.restarts import RestartHolds, with_restarts
from certmond.pki.planning.steps import Identity, Plan
from certmond.pki.rotation.phases import Rotation
from certmond.pki.rotation.planner import MissingSteps
from certmond.pki.rotation.rotation_holds import Hold, holds, waits_here
from certmond.pki.rotation.step_retries import pace
from certmond.pki.services.staleness import Surroundings
from certmond.pki.x509.certificate import certificates_of
from certmond.renewal.derived_file_holds import (
    circumstances_of,
    hold_reasons_of,
    replaced_by,
    unwritten_files,
    without_recent_failures,
)
from certmond.state.renewals import Ledger


def _has_stale_consumers(assessment: Assessment) -> bool:
    """Return whether a running service uses an old version of any certificate."""
    return any(status.presence.stale for status in assessment.statuses)


_PAUSE = timedelta(seconds=1)
"""The time between two passes while certificates wait for the collection of evidence."""


def _uncompared(assessment: Assessment) -> Iterator[Identity]:
    """Yield the certificates in patterns with an owner for which the assessment contains no evidence of their origin.

    A pass collects evidence for a limited time, first for the certificates without evidence.
    """
    for status in assessment.certificates:
        if status.presence.provenance is None and status.seen.spec.is_glob and status.seen.spec.owner is not None:
            yield status.seen.identity


class EnforcePlanner:
    """Planner for one configuration and one node."""

    def __init__(self, config: Config, ledger: Ledger, acting: ActingControllers) -> None:
        self._config, self._ledger, self._acting = config, ledger, acting

    def plan(
        self, assessment: Assessment, asked: frozenset[str] | None = None, around: Surroundings | None = None
    ) -> Plan:
        """Return the plan of enforce mode. With `asked`, return the plan that renews the entries named in `asked`."""
        states, policy, past = self._acting.derivations.states(), policy_of(self._config), self._ledger.attempts()
        now, state = circumstances_of(self._config.derived, states), self._acting.rotation_state
        now = replace(
            now, unsure=state.unsure, in_use=state.in_use, replaced_ca=state.replaced_ca,
            uncompared=frozenset(_uncompared(assessment)),
            compared_at=None if self._acting.provenance.is_complete else assessment.taken_at + _PAUSE,
        )  # fmt: skip
        left = state.missing_steps(assessment) if asked is None else MissingSteps()
        order = pace(left, past, assessment.taken_at)
        if order.first:  # trust anchors change first; the next pass plans the other steps
            return order.beside(Plan(plan(assessment, policy, past, now, frozenset()).steps))
        under = certificates_of((state.rotation.new,)) if state.rotation else ()
        reissue = {identity: each for each in under for identity in left.reissue}
        made = plan(assessment, policy, past, now, asked, reissue=reissue, signing=state.signing)
        hold = clock = None
        renewals = start_renewals(assessment, policy) if asked is None else NO_START_RENEWALS
        # Check for an upgrade and a wrong clock only if a step depends on the result: this check can run a program.
        if asked is None and (replaced_by(made) or _has_stale_consumers(assessment) or renewals.by_service):
            hold, clock = (each.fact if each else None for each in self._acting.host_holds.now())
            now = replace(now, hold=hold, clock=clock)
            made = plan(assessment, policy, past, now, asked, reissue=reissue, signing=state.signing)
        others = self._acting.distribution_holds(assessment.taken_at) if asked is None else ()
        made = replace(made, held=(*made.held, *unwritten_files(self._config.derived, states), *others))
        made = without_recent_failures(made, past, assessment.taken_at)
        if asked is None and (ground := state.ground) and state.rotation:
            obstacles = self.rotation_holds(state.rotation, assessment, around or Surroundings())
            instants = filter(None, (made.changes_at, *(each.until for each in obstacles)))
            held = *made.held, *(each.held(ground) for each in obstacles)
            made = replace(made, held=held, changes_at=min(instants, default=None))
        made = order.beside(made)
        held_sources = hold_reasons_of(self._config.derived, states, made)
        changing = frozenset([state.family]) if state.family and not left.frozen else frozenset[str]()
        restart_holds = RestartHolds(hold, held_sources, changing, now.replaced_ca, clock)
        around = around or Surroundings(self._config.services)
        terms = restart_terms_of(self._config)
        return with_restarts(made, assessment, around, terms, holds=restart_holds, renewals=renewals)

    def circumstances(self) -> Circumstances:
        """Return the derived files that certmond may replace, with a reason for each file that is not current."""
        return circumstances_of(self._config.derived, self._acting.derivations.states())

    def rotation_holds(self, rotation: Rotation, assessment: Assessment, around: Surroundings) -> tuple[Hold, ...]:
        """Return the holds that would stop a later phase. The present phase waits until these holds end."""
        if not waits_here(rotation):
            return ()
        upgrade, clock = self._acting.host_holds.recent()
        return tuple(holds(rotation, assessment, around, self._ledger.attempts(), upgrade=upgrade, clock=clock))
