"""Execution of restarts, one step at a time. An episode is one restart of a service, including the verification.

certmond records each step, so that another process can continue the episode. `pki.services.restart_state_machine`
decides the steps, and the plan decides which services restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from certmond.config.model import Config
from certmond.config.renewal_policy import restart_terms_of
from certmond.controllers.executor import Executor
from certmond.controllers.restart_lock import RestartLock, RestartLockSession
from certmond.controllers.restart_observation import RestartObservation
from certmond.errors import CertmondError, IdleError, RestartError, TriedError
from certmond.immutable_class import immutable
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event, bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Cause, Plan, Restart
from certmond.pki.services.restart_episode import Bystander, Episode, Past, Result, Terms
from certmond.pki.services.restart_state_machine import (
    INTERVAL,
    Act,
    Ended,
    PutBack,
    Wait,
    after_act,
    after_restore,
    before_act,
    bystander_episode,
    mark_after,
    next_move,
    state_of,
)
from certmond.pki.services.staleness import Surroundings, files_of
from certmond.restart.act import Restarter
from certmond.restart.history import History
from certmond.restart.rollback import PreviousFiles
from certmond.services.observed_subjects import Pod
from certmond.services.service_state_collector import SurroundingsObserver
from certmond.transaction.commit import Writer

_FRESH = timedelta(seconds=5)
"""Maximum age of the observation of the node when a restart begins."""


@immutable
class Progress:
    """Result of a step for a service. The next step is at `until`, which is None after the end of the restart.

    `message` is a phrase that follows the name of the service. `result` is None while the restart continues.
    """

    service: str
    message: str
    until: datetime | None = None
    result: Result | None = None


class RestartController:
    """Executor of the restarts in a plan."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        history: History,
        previous: PreviousFiles,
        audit: Audit,
        *,
        lock: RestartLock,
        alive: Callable[[], None],
    ) -> None:
        self._config, self._executor, self._history = config, executor, history
        self._previous, self._audit = previous, audit
        self.lock, self._alive = RestartLockSession(lock, config), alive
        self._terms = restart_terms_of(config)
        self._services = {service.name: service for service in config.services}
        self._waiting = ("", "")

    @property
    def terms(self) -> Terms:
        return self._terms

    def past(self) -> dict[str, Past]:
        """Return the restart record of each service, by the name of the service."""
        return self._history.all()

    def restarted_now(self) -> frozenset[str]:
        """Return the names of the services whose restart is in progress."""
        return frozenset(name for name, past in self.past().items() if past.episode)

    def under_way(self) -> Episode | None:
        """Return the restart in progress, of this or another process, or None if no restart is in progress."""
        return next((past.episode for past in self.past().values() if past.episode), None)

    def step(
        self,
        plan: Plan,
        assessment: Assessment,
        around: Surroundings,
        usage: SurroundingsObserver,
        *,
        hands_over: bool = False,
    ) -> Progress | None:
        """Continue the restart in progress, or begin the first restart of `plan`. Return None if there is no restart.

        Also return None if `around` contains no running services, as with `--root`. If `hands_over` is True, only
        record a new restart for the process that executes steps. Raises BusyError while another process writes, and
        WriteError if the state directory is unusable.
        """
        self.lock.settle()
        planned = next((each for each in plan.steps if isinstance(each, Restart)), None)
        if around.live is None or (planned is None and self.under_way() is None):
            return None
        with self._executor.writing() as writer:
            observed = RestartObservation(assessment, around, around.live)
            step = _RestartStep(self, writer, observed, usage.pods, Restarter(self._alive, usage.runtime_endpoint))
            if episode := self.under_way():
                with bound(service=episode.service):
                    return None if hands_over else step.advance(episode)
            if planned is None:
                return None
            with bound(service=planned.service.name):
                return step.begin(planned, plan, hands_over=hands_over)

    def record_new_services(self, assessment: Assessment, around: Surroundings) -> None:
        """Record the files of each service of kind `command` that has no record yet.

        Raises BusyError while another process writes, and WriteError if the state directory is unusable.
        """
        known = self.past()
        for service in self._config.services:
            if service.kind == "command" and service.name not in known and around.live:
                used = [each for each in assessment.statuses if service.name in each.seen.spec.consumers]
                paths = {path for status in used for path in files_of(status.seen) if path in around.contents}
                contents = {path: around.contents[path].sha256 for path in sorted(paths)}
                with self._executor.writing():
                    message = "certmond recorded its files"
                    self._history.store(
                        Past(service.name, None, around.live.at, Result.SEEN, message, contents=contents)
                    )

    def record_wait(self, name: str, reason: str) -> None:
        """Record why certmond does not restart a service yet, unless the last call had the same arguments."""
        if self._waiting != (name, reason):
            self._waiting = name, reason
            fields = {"step": "restart", "target": name}
            self._audit.conclude(Event.STEP_HELD, datetime.now(UTC), f"{name} {reason}", fields=fields)


@immutable
class _RestartStep:
    """One step of a restart, with its inputs."""

    owner: RestartController
    writer: Writer
    observed: RestartObservation
    pods: Mapping[str, Pod]
    restarter: Restarter

    def begin(self, step: Restart, plan: Plan, *, hands_over: bool) -> Progress:
        """Begin the planned restart, or return why the restart waits. With `hands_over`, only record the restart."""
        name = step.service.name
        past = self.owner.past().get(name)
        since = past.ended_at if past and past.ended_at and past.ended_at <= self._now() else None
        if self._now() - self.observed.live.at > _FRESH or (since and self.observed.live.at <= since):
            return Progress(name, "is checked again", self._now())
        if settled_at := self.observed.files_settle_at(self._now()):
            return Progress(name, "waits for its files to stop changing", settled_at)
        if step.service.kind == "static-pod" and (reason := self.observed.kubelet_problem(self.owner._config.services)):
            return self._wait(name, f"waits for the kubelet, which must start the Pod again: {reason}")
        renews = step.cause is Cause.RENEWED_AT_START
        if not hands_over and (reason := self.owner.lock.wait_for_others(renews=renews)):
            return self._wait(name, f"waits for the restart lock: {reason}")
        others = (each for each in plan.steps if isinstance(each, Restart) and each.target != name and each.instance)
        healthy = self.observed.healthy_addresses
        bystanders = tuple(
            Bystander(each.target, each.instance, each.targets, each.detail, healthy(each.target)) for each in others
        )
        episode = Episode(
            name, step.targets, step.detail, self._now(), before=step.instance, well_before=healthy(name),
            bystanders=bystanders, asked=hands_over,
        )  # fmt: skip
        self._audit(Event.STEP_BEGUN, name, f"{name} is restarted: {step.detail}", cause=step.cause.value)
        if hands_over:
            self._record(episode)
            return Progress(name, "is handed over", self._now())
        return self._act(episode)

    def _wait(self, name: str, reason: str) -> Progress:
        self.owner.record_wait(name, reason)
        return Progress(name, reason, self._now() + self.owner._config.poll)

    def advance(self, episode: Episode) -> Progress:
        """Advance a restart in progress by one step."""
        service = self.owner._services.get(episode.service)
        if service is None:
            fact = f"the configuration has no service {episode.service}; check that the service is healthy"
            return self._end(Ended(episode, Result.REFUSED, fact))
        if lost := self.owner.lock.keep():
            self._audit(Event.STEP_HELD, episode.service, lost, level="warning")
        if self.observed.files_changed_again(episode):
            message = (
                f"the files of {episode.service} have changed again during the restart; certmond plans another restart"
            )
            return self._end(Ended(episode, Result.SUPERSEDED, message))
        move = next_move(
            episode, self.observed.health(service, episode, self.owner.lock.node_problem), self.owner._terms,
            changes_instance=service.changes_instance, starts=service.kind != "static-pod",
        )  # fmt: skip
        match move:
            case Wait():
                self._record(move.episode)
                return Progress(service.name, state_of(move.episode), move.until)
            case Act():
                return self._retry(move.episode)
            case PutBack():
                return self._roll_back(move.episode)
            case Ended():
                return self._end(move)

    def _act(self, episode: Episode) -> Progress:
        """Restart the service for the first time. If the restart is impossible, end the episode."""
        name, episode = episode.service, before_act(episode)
        self._record(episode)
        if not self.owner.lock.may_begin():
            reason = f"{name} was not restarted: this node lost the restart lock before the restart"
            return self._end(Ended(episode, Result.REFUSED, reason))
        try:
            message = self._perform(episode)
        except TriedError as error:
            return self._after_failed_act(episode, error)
        except RestartError as error:
            return self._end(Ended(episode, Result.REFUSED, f"{name} was not restarted: {error}"))
        return self._await_proof(episode, message)

    def _after_failed_act(self, episode: Episode, error: TriedError) -> Progress:
        """Wait for a probe or a process that can show whether the service restarted.

        Without such evidence, end the restart as failed.
        """
        name = episode.service
        served = any(service == name for service, _ in self.observed.around.survey.serving.values())
        if served or self.observed.around.survey.health.get(name) or self.owner._services[name].pid_file:
            return self._await_proof(episode, str(error))
        return self._end(Ended(episode, Result.FAILED, f"{name} was not restarted: {error}"))

    def _retry(self, episode: Episode) -> Progress:
        """Restart the service again, even if a killed process might have restarted it."""
        wait = self.owner.lock.wait_for_others
        if episode.attempt == 1 and (reason := wait(asked=episode.asked, renews=episode.renews)):
            return self._wait(episode.service, f"waits for the restart lock: {reason}")
        episode = before_act(episode)
        self._record(episode)
        try:
            message = self._perform(episode)
        except TriedError as error:
            return self._after_failed_act(episode, error)
        except IdleError as error:  # no failure: an operator has stopped the service in the meantime
            return self._end(Ended(episode, Result.REFUSED, f"{episode.service} was not restarted: {error}"))
        except RestartError as error:
            message = str(error)  # the next check decides
        return self._await_proof(episode, message)

    def _perform(self, episode: Episode) -> str:
        service, survey = self.owner._services[episode.service], self.observed.around.survey
        return self.restarter.act(
            service, episode.before, self.pods.get(service.name), revive=episode.attempt > 1,
            listens=survey.listens(service.name), delay=survey.delays.get(service.name, timedelta()),
        )  # fmt: skip

    def _await_proof(self, episode: Episode, message: str) -> Progress:
        self._record(after_act(episode, self._now()))
        return Progress(episode.service, message, self._now() + INTERVAL)

    def _roll_back(self, episode: Episode) -> Progress:
        """Restore the previous files of a service that did not become healthy.

        If the restoration fails, end the restart as failed.
        """
        self._record(episode)
        fact = f"{episode.service} did not become healthy ({episode.trouble})"
        try:
            rollback = self.owner._previous.restore(self.writer, episode.targets, self.observed.assessment.statuses)
        except CertmondError as error:
            reason = f"{fact}, and certmond did not restore the previous files: {error}"
            return self._end(Ended(episode, Result.FAILED, reason))
        self._audit(Event.STEP_FAILED, episode.service, f"{fact}: {rollback.message}", level="error")
        self._record(after_restore(episode, rollback.restored_at, self._now()))
        return Progress(episode.service, rollback.message, self._now())  # check immediately: an old process must end

    def _end(self, ended: Ended) -> Progress:
        episode, name = ended.episode, ended.episode.service
        unrenewed = self.observed.unrenewed(episode) if ended.result is Result.FAILED else ()
        targets = [target for target in episode.targets if target.name in unrenewed] or episode.targets
        contents = {
            path: self.observed.around.contents[path].sha256
            for target in targets for path in target.contents if path in self.observed.around.contents
        }  # fmt: skip
        superseded, before = ended.result is Result.SUPERSEDED, self.owner.past().get(name, Past(name)).ended_at
        again = superseded and before is not None and before <= self._now() < before + self.owner.terms.spacing
        contents = {} if superseded else contents
        self.owner._history.store(
            Past(
                name, None, self._now(), ended.result, ended.message, tuple(target.name for target in targets),
                self.observed.service(name).instance, contents, again,
            )
        )  # fmt: skip
        good = ended.result is Result.PROVEN
        self._audit(
            Event.STEP_DONE if good else Event.STEP_FAILED, name, ended.message, level="info" if good else "error",
            result=ended.result.value, seconds=f"{(self._now() - episode.begun_at).total_seconds():.1f}",
        )  # fmt: skip
        if not self._begin_bystanders(episode):
            self.owner.lock.give_back(mark_after(ended))
        return Progress(name, ended.message, None, ended.result)

    def _begin_bystanders(self, episode: Episode) -> bool:
        """Begin the verification of each service that stopped together with the restarted service.

        Return whether a restart is in progress.
        """
        known, found = self.owner.past(), False
        for bystander in episode.bystanders:
            if along := bystander_episode(bystander, self.observed.service(bystander.service), self._now()):
                past = known.get(bystander.service, Past(bystander.service))
                fact = f"{bystander.service} has stopped together with {episode.service}"
                message = f"{fact}; certmond verifies the restart of {bystander.service}: {bystander.why}"
                self._audit(Event.STEP_BEGUN, bystander.service, message)
                self.owner._history.store(replace(past, episode=along))
                found = True
        return found or self.owner.under_way() is not None

    def _record(self, episode: Episode) -> None:
        known = self.owner.past().get(episode.service, Past(episode.service))
        if known.episode != episode:
            self.owner._history.store(replace(known, episode=episode))

    def _now(self) -> datetime:
        return datetime.now(UTC)  # the clock of the start times of processes and of the change times of files

    def _audit(self, event: Event, name: str, message: str, level: str = "info", **fields: str) -> None:
        self.owner._audit.conclude(event, self._now(), message, level, {"step": "restart", "target": name, **fields})
