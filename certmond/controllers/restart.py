"""Execution of restarts, one step of one episode at a time, recorded before and after.

Any process can therefore continue. Joins the pure state machine (`pki.services.restart_state_machine`) with the record,
the act and the rollback. Does not block: it returns the time of the next step. The plan decides what is restarted.
`restart_lock` decides which node may restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from certmond.config.model import Config
from certmond.controllers.executor import Executor
from certmond.controllers.restart_lock import RestartLock, RestartLockSession
from certmond.controllers.restart_observation import RestartObservation
from certmond.errors import CertmondError, IdleError, RestartError, TriedError
from certmond.notify.audit import Audit
from certmond.notify.journal import Event, bound
from certmond.pki.assessment.assess import Assessment
from certmond.pki.planning.steps import Plan, Restart
from certmond.pki.services.restart_state_machine import (
    INTERVAL,
    LOOKS,
    Act,
    Bystander,
    Ended,
    Episode,
    Past,
    PutBack,
    Result,
    Terms,
    Wait,
    about_to_act,
    acted,
    follow,
    put_back,
    taken_along,
)
from certmond.pki.services.staleness import Surroundings, files_of
from certmond.restart.act import Restarter
from certmond.restart.history import History
from certmond.restart.rollback import PreviousFiles
from certmond.services.containers import Pod
from certmond.services.usage_state import Neighbourhood
from certmond.transaction.commit import Writer

_FRESH = timedelta(seconds=5)
"""Maximum age of the observation that leads to a restart."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The result of a step: a sentence about a service, and when to check again; `result` once its episode is over."""

    service: str
    message: str
    until: datetime | None = None
    result: Result | None = None


class RestartController:
    """Executes the restarts of plans, for one configuration and one node."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        history: History,
        former: PreviousFiles,
        audit: Audit,
        *,
        turn: RestartLock,
        alive: Callable[[], None],
    ) -> None:
        self._config, self._executor, self._history = config, executor, history
        self._former, self._audit = former, audit
        self.turn, self._alive = RestartLockSession(turn, config), alive
        spec = config.restart
        self._terms = Terms(spec.ready_within, spec.stable, spec.spacing)
        self._services = {service.name: service for service in config.services}
        self._waiting = ("", "")

    @property
    def terms(self) -> Terms:
        return self._terms

    def past(self) -> dict[str, Past]:
        """Return the record of each service."""
        return self._history.all()

    def restarted_now(self) -> frozenset[str]:
        """Return the services whose restart is in progress."""
        return frozenset(name for name, past in self.past().items() if past.episode)

    def under_way(self) -> Episode | None:
        """Return the restart in progress, whichever process began it, or None."""
        return next((past.episode for past in self.past().values() if past.episode), None)

    def step(
        self,
        plan: Plan,
        assessment: Assessment,
        around: Surroundings,
        there: Neighbourhood,
        *,
        hands_over: bool = False,
    ) -> Progress | None:
        """Continue the restart in progress, else begin the first of `plan`. Return None where there is nothing to do.

        With `hands_over`, only record the restart. The process that acts on this node executes it.

        Raises BusyError while another process writes, WriteError where the state directory cannot be used.
        """
        planned = next((each for each in plan.steps if isinstance(each, Restart)), None)
        if around.live is None or (planned is None and self.under_way() is None):
            return None
        with self._executor.writing() as writer:
            observed = RestartObservation(assessment, around, around.live)
            hand = _Hand(self, writer, observed, there.pods, Restarter(self._alive, there.runtime_endpoint))
            if episode := self.under_way():
                with bound(service=episode.service):
                    return None if hands_over else hand.go_on(episode)
            if planned is None:
                return None
            with bound(service=planned.service.name):
                return hand.begin(planned, plan, hands_over=hands_over)

    def meet(self, assessment: Assessment, around: Surroundings) -> None:
        """Record the contents of the files that services of kind `command` use, where no record exists.

        Raises BusyError, WriteError.
        """
        known = self.past()
        for service in self._config.services:
            if service.kind == "command" and service.name not in known and around.live:
                mine = [s for s in assessment.statuses if service.name in s.seen.spec.consumers]
                paths = {path for status in mine for path in files_of(status.seen) if path in around.contents}
                contents = {path: around.contents[path].sha256 for path in sorted(paths)}
                with self._executor.writing():
                    self._history.remember(
                        Past(service.name, None, around.live.at, Result.SEEN, "it was first seen", contents=contents)
                    )

    def tell_waiting(self, name: str, why: str) -> None:
        """Record why a service is not restarted yet, unless the last such record is the same."""
        if self._waiting != (name, why):
            self._waiting = name, why
            fields = {"step": "restart", "target": name}
            self._audit.conclude(Event.STEP_HELD, datetime.now(UTC), f"{name} {why}", fields=fields)


@dataclass(frozen=True, slots=True)
class _Hand:
    """One step of a restart, with all its inputs."""

    owner: RestartController
    writer: Writer
    observed: RestartObservation
    pods: Mapping[str, Pod]
    restarter: Restarter

    def begin(self, step: Restart, plan: Plan, *, hands_over: bool) -> Progress:
        name = step.service.name
        past = self.owner.past().get(name)
        since = past.ended_at if past and past.ended_at and past.ended_at <= self._now() else None
        if self._now() - self.observed.live.at > _FRESH or (since and self.observed.live.at <= since):
            return Progress(name, "is looked at once more", self._now())
        if rest_at := self.observed.at_rest(self._now()):
            return Progress(name, "waits for the files to come to rest", rest_at)
        if step.service.kind == "static-pod" and (why := self.observed.kubelet(self.owner._config.services)):
            return self._wait(name, f"waits for the kubelet, which alone would start it again: {why}")
        if not hands_over and (why := self.owner.turn.wait_for_others()):
            return self._wait(name, f"waits for its turn: {why}")
        others = (each for each in plan.steps if isinstance(each, Restart) and each.target != name and each.instance)
        bystanders = tuple(
            Bystander(each.target, each.instance, each.targets, each.detail, self.observed.well(each.target))
            for each in others
        )
        episode = Episode(
            name, step.targets, step.detail, self._now(), before=step.instance, well_before=self.observed.well(name),
            bystanders=bystanders, asked=hands_over,
        )  # fmt: skip
        self._audit(Event.STEP_BEGUN, name, f"{name} is restarted: {step.detail}", cause=step.cause.value)
        if hands_over:
            self._remember(episode)
            return Progress(name, "is handed over", self._now())
        return self._act(episode)

    def _wait(self, name: str, why: str) -> Progress:
        self.owner.tell_waiting(name, why)
        return Progress(name, why, self._now() + self.owner._config.poll)

    def go_on(self, episode: Episode) -> Progress:
        service = self.owner._services.get(episode.service)
        if service is None:
            return self._end(Ended(episode, Result.REFUSED, f"{episode.service} is not in the configuration any more"))
        if lost := self.owner.turn.keep():
            self._audit(Event.STEP_HELD, episode.service, lost, level="warning")
        if self.observed.is_superseded(episode):
            said = f"{episode.service}: the files that it was restarted for have changed again, and are looked at anew"
            return self._end(Ended(episode, Result.SUPERSEDED, said))
        move = follow(
            episode, self.observed.glance(service), self.owner._terms,
            changes_instance=service.changes_instance, starts=service.kind != "static-pod",
        )  # fmt: skip
        match move:
            case Wait():
                self._remember(move.episode)
                return Progress(service.name, state_of(move.episode), move.until)
            case Act():
                return self._act_again(move.episode)
            case PutBack():
                return self._put_back(move.episode)
            case Ended():
                return self._end(move)

    def _act(self, episode: Episode) -> Progress:
        """Act for the first time. After a RestartError the episode is over, and the service is unchanged."""
        name, episode = episode.service, about_to_act(episode)
        self._remember(episode)
        if not self.owner.turn.may_begin():
            return self._end(Ended(episode, Result.REFUSED, f"{name}: the turn was lost before anything was done"))
        try:
            said = self._made(episode)
        except TriedError as error:
            return self._tried(episode, error)
        except RestartError as error:
            return self._end(Ended(episode, Result.REFUSED, f"{name} was not restarted: {error}"))
        return self._acted(episode, said)

    def _tried(self, episode: Episode, error: TriedError) -> Progress:
        """Continue the episode if a probe of the service can show the result of the attempt, else end it as failed."""
        name = episode.service
        served = any(service == name for service, _ in self.observed.around.survey.serving.values())
        if served or self.observed.around.survey.health.get(name):
            return self._acted(episode, str(error))
        return self._end(Ended(episode, Result.FAILED, f"{name} was not restarted: {error}"))

    def _act_again(self, episode: Episode) -> Progress:
        """Act again, or for the first time after a process was killed that may have acted already."""
        if episode.attempt == 1 and (why := self.owner.turn.wait_for_others(asked=episode.asked)):
            return self._wait(episode.service, f"waits for its turn: {why}")
        episode = about_to_act(episode)
        self._remember(episode)
        try:
            said = self._made(episode)
        except TriedError as error:
            return self._tried(episode, error)
        except IdleError as error:  # not a failure: an operator has stopped it meanwhile
            return self._end(Ended(episode, Result.REFUSED, f"{episode.service} was not restarted: {error}"))
        except RestartError as error:
            said = str(error)  # the next check decides
        return self._acted(episode, said)

    def _made(self, episode: Episode) -> str:
        service, told = self.owner._services[episode.service], self.observed.around.survey
        return self.restarter.act(
            service, episode.before, self.pods.get(service.name), revive=episode.attempt > 1,
            listens=told.listens(service.name), delay=told.delays.get(service.name, timedelta()),
        )  # fmt: skip

    def _acted(self, episode: Episode, said: str) -> Progress:
        self._remember(acted(episode, self._now()))
        return Progress(episode.service, said, self._now() + INTERVAL)

    def _put_back(self, episode: Episode) -> Progress:
        self._remember(episode)
        try:
            said = self.owner._former.put_back(self.writer, episode.targets, self.observed.assessment.statuses)
        except CertmondError as error:
            why = (
                f"{episode.service} did not come up ({episode.trouble}), and the former files are not put back: {error}"
            )
            return self._end(Ended(episode, Result.FAILED, why))
        self._audit(
            Event.STEP_FAILED,
            episode.service,
            f"{episode.service} did not come up ({episode.trouble}): {said}",
            level="error",
        )
        self._remember(put_back(episode, self._now()))
        return Progress(episode.service, said, self._now())  # check first what runs now: it must end

    def _end(self, ended: Ended) -> Progress:
        episode, name = ended.episode, ended.episode.service
        contents = {
            path: self.observed.around.contents[path].sha256
            for target in episode.targets for path in target.contents if path in self.observed.around.contents
        }  # fmt: skip
        superseded, before = ended.result is Result.SUPERSEDED, self.owner.past().get(name, Past(name)).ended_at
        again = superseded and before is not None and before <= self._now() < before + self.owner.terms.spacing
        contents = {} if superseded else contents
        self.owner._history.remember(
            Past(
                name, None, self._now(), ended.result, ended.message, tuple(target.name for target in episode.targets),
                self.observed.service(name).instance, contents, again,
            )
        )  # fmt: skip
        good = ended.result is Result.PROVEN
        self._audit(
            Event.STEP_DONE if good else Event.STEP_FAILED, name, ended.message, level="info" if good else "error",
            result=ended.result.value, seconds=f"{(self._now() - episode.begun_at).total_seconds():.1f}",
        )  # fmt: skip
        if not self._taken_along(episode):
            self.owner.turn.give_back()
        return Progress(name, ended.message, None, ended.result)

    def _taken_along(self, episode: Episode) -> bool:
        """Begin to verify the services that ended with this one, as after a restart.

        Return whether a restart is in progress.
        """
        known, found = self.owner.past(), False
        for bystander in episode.bystanders:
            if along := taken_along(bystander, self.observed.service(bystander.service), self._now()):
                past = known.get(bystander.service, Past(bystander.service))
                said = f"{bystander.service} has ended with {episode.service}, and is to be proven: {bystander.why}"
                self._audit(Event.STEP_BEGUN, bystander.service, said)
                self.owner._history.remember(replace(past, episode=along))
                found = True
        return found or self.owner.under_way() is not None

    def _remember(self, episode: Episode) -> None:
        known = self.owner.past().get(episode.service, Past(episode.service))
        if known.episode != episode:
            self.owner._history.remember(replace(known, episode=episode))

    def _now(self) -> datetime:
        return datetime.now(UTC)  # the clock of the timestamps of processes and files

    def _audit(self, event: Event, name: str, message: str, level: str = "info", **fields: str) -> None:
        self.owner._audit.conclude(event, self._now(), message, level, {"step": "restart", "target": name, **fields})


def state_of(episode: Episode) -> str:
    """Return the progress of a restart that is being verified, as a phrase that follows the name of its service."""
    if episode.trouble:
        return f"is waited for: {episode.trouble}"
    if episode.good:
        return f"is well, {min(episode.good, LOOKS)} of {LOOKS}" if episode.good <= LOOKS else "is watched for a while"
    return "is waited for"
