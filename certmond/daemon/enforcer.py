"""Construction of the components that scan a node, and that plan and execute steps.

`pki.planning` decides when to renew a certificate. `controllers.executor` renews the certificate.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from certmond.config.model import Config
from certmond.config.renewal_policy import policy_of, restart_terms_of
from certmond.controllers.coordinator_factory import awake, cluster_objects_of, coordinator_of
from certmond.controllers.coordinator_interface import Coordinator
from certmond.controllers.rotation_state import RotationState
from certmond.daemon.acting_controllers import ActingControllers, available
from certmond.daemon.paced_call import PacedCall
from certmond.errors import RefusedError, WriteError
from certmond.files.catalog_observer import Store
from certmond.files.parallel_path_search import find_in_two_processes
from certmond.notify.audit import Audit
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.repairable_damage import has_damage
from certmond.pki.catalog.observation import Inventory, Provenance, Salvage
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.renewals_at_start import start_renewals
from certmond.pki.planning.restarts import RestartHolds, restarts, with_restarts
from certmond.pki.planning.steps import Identity, Issue, Plan, Step
from certmond.pki.services.staleness import Surroundings
from certmond.renewal.due_certificates import DueCertificates
from certmond.restart.history import History
from certmond.rotation.staged_ca import Staging
from certmond.services.content_times import Changes
from certmond.services.service_state_collector import SurroundingsObserver
from certmond.state.last_subjects import LastSubjects
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.dirfd import real_path
from certmond.transaction.node_file_reader import NodeFiles
from certmond.transaction.state_directory import interrupted_transactions

if TYPE_CHECKING:
    from certmond.controllers.executor import Executor
    from certmond.controllers.restart import Progress, RestartController
    from certmond.controllers.rotation import RotationController
    from certmond.daemon.enforce_planner import EnforcePlanner
    from certmond.files.directory_watch import Interest

_EVIDENCE = 0.5
"""Maximum number of seconds for which one pass collects evidence about the origin of due certificates."""


class Enforcer:
    """Planner and executor for one configuration and one node.

    `acting` permits the execution of steps. `keeps` permits the storage of the time at which the content of each file
    changed. With `scattered`, a worker delays its restarts by a time that depends on the name of the node.
    The enforcer calls `alive` often, for the watchdog of systemd, and `wake` after each check of the running services.
    """

    def __init__(
        self, config: Config, *, root: str, state_dir: Path, audit: Audit, clock: Callable[[], datetime],
        acting: bool = False, keeps: bool = False, scattered: bool = False, alive: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None, monotonic: Callable[[], float] = awake,
    ) -> None:  # fmt: skip
        self._config, self._root, self._state_dir, self._clock = config, root, state_dir, clock
        self._monotonic = monotonic
        self._alive, self._pass_alive = alive, PacedCall(alive)
        self.audit = audit
        self.interest: Interest = {}
        """The directories and names that the last call of `see` read, for a process that watches these files."""
        self._files = NodeFiles(root)
        self._ledger = Ledger(state_dir)
        self._history = History(state_dir)
        self.surroundings_observer = SurroundingsObserver(
            config, root, Changes(state_dir, keeps=keeps), acting=acting, wake=wake
        )
        record, staging, coordinator = RotationRecord(state_dir), Staging(state_dir), self._coordinator(acting=acting)
        self.rotation_state = RotationState(
            config, node=self._identity, files=self._files, record=record, staging=staging, coordinator=coordinator
        )
        self._acting = ActingControllers(
            config, root, state_dir, self._identity, audit, clock, monotonic, alive, self._real_kubeconfig, self._files,
            self._history, record, staging, coordinator, self.rotation_state, acting, scattered,
        )  # fmt: skip
        self.cluster_objects = cluster_objects_of(
            config, node=self._identity, real=self._real_kubeconfig, clock=clock, monotonic=monotonic, alive=alive,
            wake=wake if scattered else None,
        )  # fmt: skip
        if acting:
            _ = self.planner, self.store  # import their modules, as `ActingControllers` does
        self._due_certificates = DueCertificates(config)
        self.last_subjects = LastSubjects(state_dir, config.certificates)

    @cached_property
    def planner(self) -> EnforcePlanner:
        """The planner of enforce mode."""
        from certmond.daemon.enforce_planner import EnforcePlanner  # noqa: PLC0415 - not in observe mode

        return EnforcePlanner(self._config, self._ledger, self._acting)

    @property
    def executor(self) -> Executor:
        return self._acting.executor

    @property
    def rotating(self) -> RotationController:
        return self._acting.rotating

    @property
    def restarting(self) -> RestartController:
        return self._acting.restarting

    @property
    def rotation_waits(self) -> tuple[str, ...]:
        """The conditions for which the phase of a rotation waited at its last advance by this process."""
        return self._acting.used_rotating.waits if self._acting.used_rotating else ()

    @property
    def rotation_until(self) -> datetime | None:
        """Time at which the rotation may advance without an event, or None."""
        return self._acting.used_rotating.until if self._acting.used_rotating else None

    @cached_property
    def store(self) -> Store:
        """The observer of the files of the node. It parses a file again only after a change."""
        config, also = self._config, tuple(filter(None, (self._config.hold.file,)))
        return Store(
            config.certificates, self._root, config.given_facts, also, references=config.follows_references,
            derived=config.derived, renewers=config.mode == "enforce", alive=self._pass_alive,
        )  # fmt: skip

    def interrupted(self) -> frozenset[str]:
        """Return the names of the journal files of interrupted transactions."""
        return interrupted_transactions(self._state_dir)

    def ask(self) -> None:
        """Read the decisions of the other nodes. Commands call this method before they scan the node."""
        self._acting.coordinator.ask()

    def renewed(self) -> dict[str, datetime]:
        """Return the time at which certmond installed each certificate, by the SHA-256 of the certificate."""
        return self._ledger.renewed()

    def see(
        self, at: datetime | None = None, *, everything: bool = True, private: bool = True, waits: bool = False
    ) -> tuple[Assessment, Surroundings]:
        """Scan the node, check the running services, and assess the result as of `at` (default: now).

        `everything` collects evidence about the origin of all certificates, not only of due certificates. Without
        `private`, do not read the state directory. If `waits` is true, the assessment tolerates a mismatch of a key and
        its certificate, because a process might still be writing these files.
        """
        store = self.store
        inventory, now = store.observe(), at or self._clock()
        seen = self.surroundings_observer.view(store, inventory, self._history.all())
        # Without `private`, certmond does not read the state directory.
        around = self._with_records(store, inventory, now, seen, everything=everything) if private else seen
        self.interest = store.interest
        return self.assess(inventory, now, around, waits=waits), around

    def surroundings(self, store: Store, inventory: Inventory) -> Surroundings:
        """Return the current state of the node, except for its certificates. Do not wait for a check of services."""
        seen = self.surroundings_observer.around(store, inventory, self._history.all())
        return self._with_records(store, inventory, self._clock(), seen, within=_EVIDENCE)

    def _with_records(
        self,
        store: Store,
        inventory: Inventory,
        now: datetime,
        seen: Surroundings,
        *,
        everything: bool = False,
        within: float | None = None,
    ) -> Surroundings:
        """Return `seen` with findings about CAs, the origin of certificates, and sources for repairs.

        Collect evidence about the origin of certificates for at most `within` seconds.
        """
        findings = self.rotation_state.update(inventory, store.components(), now, self.rotation_waits)
        family = self.rotation_state.family
        due = self._due_certificates.of(inventory, now, family=family, everything=everything)
        provenance, salvage = dict[Identity, Provenance](), dict[Identity, Salvage]()
        if due and (origins := available(lambda: self._acting.provenance)):
            provenance = origins.of_due(due, inventory, now, within=within)
        if has_damage(inventory) and (sources := available(lambda: self._acting.salvage)):
            salvage = sources.of_damaged(inventory, now)
        check, _, reader = self.cluster_objects
        return replace(
            seen, findings=findings, provenance=provenance, salvage=salvage,
            request=check.state if check else None, cluster=reader.state(now) if reader else None,
        )  # fmt: skip

    def close(self) -> None:
        """Stop the threads of this enforcer."""
        self.surroundings_observer.close()
        if self.cluster_objects.reader:
            self.cluster_objects.reader.close()

    def continue_from(self, former: Enforcer) -> None:
        """Take over the observations of the enforcer with the former configuration."""
        self.surroundings_observer.continue_from(former.surroundings_observer)
        if self.cluster_objects.reader and former.cluster_objects.reader:
            self.cluster_objects.reader.continue_from(former.cluster_objects.reader)

    def assess(
        self, inventory: Inventory, now: datetime, around: Surroundings, before: Assessment | None = None, *,
        waits: bool = True,
    ) -> Assessment:  # fmt: skip
        """Return the assessment of `inventory`.

        If `waits` is true, the assessment tolerates a mismatch of a key and its certificate, because a process might
        still be writing these files.
        """
        return assess(
            inventory, now, before, self._config.renew_before, renewed=self.renewed(), around=around,
            waits=waits, searching=lambda questions: find_in_two_processes(questions, self._pass_alive),
            alive=self._pass_alive,
        )  # fmt: skip

    def restart(
        self, plan: Plan, assessment: Assessment, around: Surroundings, *, hands_over: bool = False
    ) -> Progress | None:
        """Advance the restart of a service by one step. `RestartController.step` describes the parameters."""
        return self.restarting.step(plan, assessment, around, self.surroundings_observer, hands_over=hands_over)

    def rotate(self, assessment: Assessment, around: Surroundings, plan: Plan) -> str | None:
        """Record interim trust for a replaced CA, or advance the rotation. Return a message about a change, if any."""
        message = self.rotating.record_interim_trust(around, assessment.taken_at)
        return message or self.rotating.advance(assessment, around, plan)

    def record_good_files(self, assessment: Assessment, around: Surroundings) -> None:
        """Archive the files with which services run, so that certmond can restore these files.

        Raises BusyError if another process writes, and WriteError if certmond cannot write a file.
        """
        self.restarting.record_new_services(assessment, around)
        previous = self._acting.previous_files
        if unarchived := previous.unarchived(assessment.certificates, self.restarting.restarted_now()):
            with self.executor.writing():
                previous.archive(unarchived, assessment.facts)

    def plan(
        self, assessment: Assessment, asked: frozenset[str] | None = None, around: Surroundings | None = None
    ) -> Plan:
        """Return the plan of enforce mode, as `EnforcePlanner.plan` describes."""
        return self.planner.plan(assessment, asked, around)

    def next_request_at(self, step: Step) -> datetime | None:
        """Return the time of the next request to a signer that has not decided yet.

        The result is None if no request waits, or if the signer is of the kind `csr`.
        """
        attempt = self._ledger.attempts().get((step.target, step.path))
        of_api = isinstance(step, Issue) and policy_of(self._config).signers.get(step.signer) == "csr"
        return attempt.wait_until if attempt and not of_api else None

    def plan_observed(self, assessment: Assessment, around: Surroundings | None = None) -> Plan:
        """Return the plan of observe mode, without the holds of this host and without steps of a rotation."""
        policy = policy_of(self._config)
        made = plan(assessment, policy, self._ledger.attempts(), Circumstances())
        made = replace(made, held=(*made.held, *self._acting.distribution_holds(assessment.taken_at)))
        around, renewals = around or Surroundings(self._config.services), start_renewals(assessment, policy)
        terms = restart_terms_of(self._config)
        return with_restarts(made, assessment, around, terms, holds=RestartHolds(), renewals=renewals)

    def restarts(self, assessment: Assessment, around: Surroundings, asked: frozenset[str]) -> Plan:
        """Return a plan that restarts the services named in `asked`."""
        renewals = start_renewals(assessment, replace(policy_of(self._config), restarts_for_renewal=True))
        return restarts(
            assessment, around, (), restart_terms_of(self._config), holds=RestartHolds(), asked=asked, renewals=renewals
        )

    def _coordinator(self, *, acting: bool) -> Coordinator:
        return coordinator_of(
            self._config, node=self._identity, real=self._real_kubeconfig, root=self._root, acting=acting,
            clock=self._clock, monotonic=self._monotonic, alive=self._alive,
        )  # fmt: skip

    @property
    def _identity(self) -> str:
        return self._config.node_name or os.uname().nodename.lower()

    def _real_kubeconfig(self, path: str) -> str:
        try:
            return str(real_path(self._root, path))
        except WriteError as error:
            raise RefusedError(str(error)) from error
