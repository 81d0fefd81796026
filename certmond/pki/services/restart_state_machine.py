"""State machine of one restart of a service, from the decision to the proof that the service is healthy.

A restart is proven if a new instance serves the files on disk and stays healthy. If the service issues certificates
again in this restart, each of them must have a later end. Each act depends only on the record and on the observed node,
so a new process of certmond continues where a killed process stopped.

These invariants hold at every step:
  - certmond writes the record of an act before the act.
  - An episode has at most four acts, and one more for each kill of certmond. The third and the fourth act use the
    previous files. They end no instance for which certmond has observed a later start.
  - An episode in which the service issues certificates again has no third act.
  - After an episode with an act has ended, certmond begins no new episode for the same contents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.services.outage import BACK_OFF
from certmond.pki.services.restart_episode import Bystander, Episode, Result, Stage, Terms
from certmond.pki.services.service_observation import ServiceSeen

HEALTHY_OBSERVATIONS = 3
"""Number of consecutive observations that must show a healthy service."""
_RESTORED = 3
"""The attempt that uses the previous files. A further attempt ends an instance that started before the restore."""
_BLIND_ACTS = 3
"""Maximum number of additional acts while certmond cannot record the end of an act."""
INTERVAL = timedelta(seconds=1)
"""Minimum time between two observations of a service that count as separate observations."""


@immutable
class HealthObservation:
    """One observation of a restarted service. The observation began at `at`.

    `ill` contains a sentence for each unhealthy address. `unproven` contains a sentence for each endpoint that does not
    serve the certificate in the file. `unrenewed` contains the names of the certificates that the service has not
    issued again.
    """

    at: datetime
    service: ServiceSeen
    ill: Mapping[str, str] = field(default_factory=dict)
    unproven: Sequence[str] = ()
    unrenewed: Sequence[str] = ()


@immutable
class Act:
    """Move in which certmond restarts or reloads the service. A restart ends the instance `episode.before`."""

    episode: Episode


@immutable
class PutBack:
    """Move in which certmond restores the files that the certificates in `episode.targets` replaced."""

    episode: Episode


@immutable
class Wait:
    """Move in which certmond waits, and observes the service again at `until`."""

    episode: Episode
    until: datetime


@immutable
class Ended:
    """Move that ends the episode with `result`."""

    episode: Episode
    result: Result
    message: str


Move = Act | PutBack | Wait | Ended


def next_move(
    episode: Episode, observed: HealthObservation, terms: Terms, *, changes_instance: bool, starts: bool = True
) -> Move:
    """Return the next move of the episode after an observation.

    `changes_instance` is True for a restart and False for a reload. `starts` is False if only the kubelet can start the
    service, as for a static Pod.
    """
    episode = _without_future(episode, observed.at)
    if episode.stage is Stage.PUT_BACK:
        return PutBack(episode)
    if episode.stage is Stage.ACT and episode.acts >= episode.attempt + _BLIND_ACTS:
        why = f"certmond restarted {episode.service} {episode.acts} times, but could not record the restarts"
        return Ended(episode, Result.FAILED, why)
    if episode.stage is Stage.ACT:
        return _resumed_act(episode, observed, changes_instance=changes_instance)
    acted_at = episode.acted_at or episode.begun_at
    if observed.at <= acted_at:
        return Wait(episode, acted_at + INTERVAL)
    episode = _with_instance(episode, observed.service)
    # If the service stopped before the first observation after the act, the act might have stopped the service.
    if observed.service.stopped and (episode.instances or not changes_instance):
        return _stopped_by_others(episode)
    troubles = list(_troubles(episode, observed, changes_instance=changes_instance))
    if not troubles:
        return _healthy(episode, observed.at, terms)
    episode = replace(episode, good=0, good_since=None, good_at=None, trouble=troubles[0])
    if changes_instance and _precedes_restore(episode, observed.service):
        return Act(replace(episode, stage=Stage.ACT, attempt=_RESTORED + 1, before=observed.service.instance))
    if _is_over(episode, observed, acted_at, terms):
        return _after_failure(episode, observed, changes_instance=changes_instance, starts=starts)
    return Wait(episode, observed.at + INTERVAL)


def before_act(episode: Episode) -> Episode:
    """Return the record that the caller must write before an act."""
    return replace(episode, stage=Stage.ACT, acts=episode.acts + 1)


def _without_future(episode: Episode, now: datetime) -> Episode:
    """Return the episode with `now` in place of each recorded time that is more than 5 s in the future.

    Such a time means that the clock was set back.
    """

    def at_most(at: datetime | None) -> datetime | None:
        return now if at is not None and at > now + 5 * INTERVAL else at

    return replace(
        episode, acted_at=at_most(episode.acted_at), good_since=at_most(episode.good_since),
        good_at=at_most(episode.good_at), put_back_at=at_most(episode.put_back_at),
    )  # fmt: skip


def bystander_episode(bystander: Bystander, seen: ServiceSeen, at: datetime) -> Episode | None:
    """Return an episode if the bystander has stopped, or has a new instance. Otherwise return None."""
    if seen.running is None or (seen.running and seen.instance == bystander.instance):
        return None
    return after_act(
        Episode(
            bystander.service, bystander.targets, bystander.why, at, before=bystander.instance,
            well_before=bystander.well_before,
        ),
        at,
    )  # fmt: skip


def after_act(episode: Episode, at: datetime) -> Episode:
    """Return the record that the caller must write after an act at the time `at`."""
    return replace(
        episode, stage=Stage.PROVE, acted_at=at, instances=(), good=0, good_since=None, good_at=None, trouble=""
    )


def _resumed_act(episode: Episode, observed: HealthObservation, *, changes_instance: bool) -> Move:
    """Return the act, or a wait if a certmond process that was killed has already executed the act.

    Also return a wait if the kubelet has started the service after certmond restored the previous files.
    """
    seen, restored_at = observed.service, episode.put_back_at
    is_new = bool(seen.instance) and seen.instance != episode.before
    if restored_at:
        done = is_new and seen.started_at is not None and seen.started_at > restored_at
    else:
        done = bool(episode.before) and (is_new or seen.failed)
    if done and changes_instance:
        return Wait(after_act(episode, observed.at), observed.at + INTERVAL)
    return Act(replace(episode, before=seen.instance) if restored_at else episode)


def _with_instance(episode: Episode, seen: ServiceSeen) -> Episode:
    if not seen.instance or seen.instance in {episode.before, *episode.instances[-1:]}:
        return episode
    return replace(episode, instances=(*episode.instances, seen.instance), good=0, good_since=None, good_at=None)


def _troubles(episode: Episode, observed: HealthObservation, *, changes_instance: bool) -> Sequence[str]:
    seen, name = observed.service, episode.service
    if seen.failed:
        return [f"{name} does not start, and its service manager no longer tries to start it"]
    if seen.running is False:
        return [f"{name} does not run" + (f": {seen.problem}" if seen.problem else "")]
    if _is_unobservable(seen, changes_instance=changes_instance):
        return [f"certmond cannot observe {name}: {seen.problem or 'its state is unknown'}"]
    if changes_instance and seen.instance == episode.before:
        return [f"{name} has not been restarted yet"]
    if changes_instance and _precedes_restore(episode, seen):
        return [f"{name} has not been restarted since certmond restored its previous files"]
    ill = [why for address, why in observed.ill.items() if address in episode.well_before or not episode.well_before]
    return [*ill, *observed.unproven, *_unrenewed_trouble(observed)]


def _precedes_restore(episode: Episode, seen: ServiceSeen) -> bool:
    """Return whether a running instance started before certmond restored the previous files.

    The kubelet can start an instance between the last observation and the restore. The act after the restore does not
    end this instance. An instance after the fourth act started later, whatever a clock that was set back shows.
    """
    restored_at, is_new = episode.put_back_at, seen.instance != episode.before and episode.attempt == _RESTORED
    return bool(is_new and restored_at and seen.started_at and seen.started_at < restored_at)


def _unrenewed_trouble(observed: HealthObservation) -> list[str]:
    return [f"it has not issued {', '.join(observed.unrenewed)} again"] if observed.unrenewed else []


def _is_unobservable(seen: ServiceSeen, *, changes_instance: bool) -> bool:
    """Return whether the state of the service is unknown because of a fault.

    The state of a service of kind `command` without a PID file is always unknown, even without a fault.
    """
    return seen.running is None and (changes_instance or seen.problem is not None)


def _healthy(episode: Episode, now: datetime, terms: Terms) -> Move:
    if episode.good_at is not None and now - episode.good_at < INTERVAL:
        return Wait(episode, episode.good_at + INTERVAL)
    since = episode.good_since or now
    episode = replace(episode, good=episode.good + 1, good_since=since, good_at=now, trouble="")
    if episode.good < HEALTHY_OBSERVATIONS or now - since < terms.stable:
        return Wait(
            episode,
            now + INTERVAL if episode.good < HEALTHY_OBSERVATIONS else max(now + INTERVAL, since + terms.stable),
        )
    name = episode.service
    if episode.put_back_at:
        return Ended(
            episode, Result.TAKEN_BACK, f"{name} did not start with the new files, and runs with the previous files"
        )
    done = f"uses the new {_target_names(episode)}" if episode.targets else "was restarted and is healthy"
    if episode.renews:
        done = f"has issued {_target_names(episode)} again, and is healthy"
    return Ended(episode, Result.PROVEN, f"{name} {done}")


def _is_over(episode: Episode, observed: HealthObservation, acted_at: datetime, terms: Terms) -> bool:
    """Return whether the service has failed, has had three instances, or was not healthy in time."""
    service, end = observed.service, acted_at + terms.ready_within
    if episode.put_back_at and service.running is False:
        end += BACK_OFF
    elif episode.put_back_at and service.started_at:  # the kubelet started the service after the back-off
        end = max(acted_at, service.started_at) + terms.ready_within
    return service.failed or len(episode.instances) > HEALTHY_OBSERVATIONS - 1 or observed.at >= end


def _after_failure(episode: Episode, observed: HealthObservation, *, changes_instance: bool, starts: bool) -> Move:
    name, trouble, seen = episode.service, episode.trouble, observed.service
    dies, unrenewed = len(episode.instances) >= HEALTHY_OBSERVATIONS, _unrenewed_trouble(observed)
    if episode.put_back_at:
        why = f"{name} did not start with the new files, nor with the previous files ({trouble})"
        return Ended(episode, Result.FAILED, why)
    if [trouble] == unrenewed:  # the service is healthy, and another start would do the same
        return Ended(episode, Result.FAILED, f"{name} was restarted, but {trouble}")
    if _is_unobservable(seen, changes_instance=changes_instance):  # certmond cannot decide whether another act helps
        return Ended(episode, Result.UNPROVEN, f"{name} was restarted, but its state is unknown ({trouble})")
    if observed.ill and not set(observed.ill) & set(episode.well_before) and seen.running is not False and not dies:
        why = f"{name} was restarted, but is as unhealthy as before ({'; '.join([trouble, *unrenewed])})"
        return Ended(episode, Result.FAILED if unrenewed else Result.UNPROVEN, why)
    if episode.attempt == 1 and changes_instance and seen.instance and seen.instance == episode.before:
        why = f"certmond requested a restart of {name}, but the same process still runs"
        return Ended(episode, Result.FAILED, why)  # the files are not the cause
    # Act again only if this can help. A service that ends repeatedly starts again without an act. If `starts` is
    # False, the kubelet starts a stopped service without an act.
    if episode.attempt == 1 and not dies and (starts or seen.running is not False):
        return Act(replace(episode, stage=Stage.ACT, attempt=2, before=seen.instance))
    if not episode.targets or episode.renews:  # no files to restore
        why = f"{name} was restarted, but did not start ({'; '.join([trouble, *unrenewed])})"
        return Ended(episode, Result.FAILED, why)
    return PutBack(replace(episode, stage=Stage.PUT_BACK, attempt=_RESTORED, before=seen.instance))


def mark_after(ended: Ended) -> str | None:
    """Return the new mark of this node for other nodes: a reason to wait, "" for no mark, or None for no change.

    Other nodes wait while a service that issues its certificates again has been restarted and is not proven.
    """
    if ended.result is Result.PROVEN or (ended.result is Result.REFUSED and ended.episode.acted_at is None):
        return ""
    return ended.message if ended.episode.renews else None


def state_of(episode: Episode) -> str:
    """Return the progress of the verification of a restart, as a phrase that follows the name of the service."""
    if episode.trouble:
        return f"is not verified yet: {episode.trouble}"
    if episode.good > HEALTHY_OBSERVATIONS:
        return "must stay healthy for some time"
    return f"is healthy in {episode.good} of {HEALTHY_OBSERVATIONS} checks" if episode.good else "is not verified yet"


def after_restore(episode: Episode, restored_at: datetime, now: datetime) -> Episode:
    """Return the record that the caller must write after certmond has restored the previous files.

    `restored_at` is the time of these files. If it precedes the last act, another program has restored the files, for
    example by a rename of their directory. The time of this change is unknown, so the record contains `now`.
    """
    is_known = restored_at > (episode.acted_at or episode.begun_at)
    return replace(episode, stage=Stage.ACT, put_back_at=restored_at if is_known else now)


def _stopped_by_others(episode: Episode) -> Ended:
    """Return the end of the episode for a service that another program or user has stopped."""
    name, left = episode.service, "was stopped by another program or user, and certmond leaves it stopped"
    if episode.put_back_at:
        fact = f"{name} did not start with the new files; with the previous files it {left}"
        return Ended(episode, Result.FAILED, fact)
    return Ended(episode, Result.REFUSED, f"{name} {left}")


def _target_names(episode: Episode) -> str:
    return ", ".join(dict.fromkeys(target.name for target in episode.targets))
