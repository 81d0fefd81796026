"""One restart, from the decision to its proof: the state machine, as values and one pure function.

Owns what counts as proof (another instance, well three times in a row, serving what is on disk, and all that for a
while), and what follows where it fails: one more try, then the former files, then a person. Every act is decided from
the record and from what the node shows, so that a process that was killed anywhere goes on where it was. Acts on
nothing.

These hold at every step:
  - A record says that an act is about to be made before it is made.
  - An act is made at most three times in an episode, and once more for each time that the process is killed; the third
    is on the former files.
  - An episode that has acted and ended is not begun again for the same contents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from certmond.pki.catalog.field_types import Instant
from certmond.pki.services.model import ServiceSeen

LOOKS = 3
"""So many looks in a row have to show that a service is well."""
_BLIND_ACTS = 3
"""So many acts more than tries are made where it could not be recorded that they were."""
BACK_OFF = timedelta(minutes=5)
"""So long the kubelet waits at most before it starts a container again that ended often (MaxContainerBackOff)."""
INTERVAL = timedelta(seconds=1)
"""Between two looks that count."""


class Stage(StrEnum):
    """How far an episode is: the act is about to be made, or it was and is to be proven, or the former files come back
    first.
    """

    ACT = "act"
    PROVE = "prove"
    PUT_BACK = "put_back"


class Result(StrEnum):
    """How an episode ended."""

    PROVEN = "proven"
    UNPROVEN = "unproven"  # restarted, and no better than before: it was not well then either
    TAKEN_BACK = "taken_back"
    FAILED = "failed"
    SEEN = "seen"  # no restart: what a command restarts cannot be looked at, and counts from when it was first met
    SUPERSEDED = "superseded"  # the files that it was for have changed again: those are another matter
    REFUSED = "refused"  # it could not be reached, or told apart from others, or was stopped by someone else


@dataclass(frozen=True, slots=True)
class Target:
    """A certificate for whose sake a service is restarted: its entry, and what its files hold."""

    name: str
    path: str
    contents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Bystander:
    """Another service that holds something old while one is restarted, and may well end with it, as the
    controller-manager and the scheduler do when the API server goes. `instance` is what runs of it before that.
    """

    service: str
    instance: str
    targets: tuple[Target, ...]
    why: str
    well_before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One restart of one service, as it is recorded before and after each act.

    `before` is the instance that the latest act was to end, `instances` are those seen since. `well_before` says which
    health addresses were well when it began. `attempt` counts the tries; the third is on the former files, which are
    there since `put_back_at`. `acts` counts what was recorded to be made: more than the tries where processes were
    killed, or could not record that they had. `asked` says that a command has asked for it, not the daemon's own plan.
    """

    service: str
    targets: tuple[Target, ...]
    why: str
    begun_at: Instant
    stage: Stage = Stage.ACT
    attempt: int = 1
    before: str = ""
    acted_at: Instant | None = None
    instances: tuple[str, ...] = ()
    well_before: tuple[str, ...] = ()
    good: int = 0
    good_since: Instant | None = None
    good_at: Instant | None = None
    trouble: str = ""
    put_back_at: Instant | None = None
    bystanders: tuple[Bystander, ...] = ()
    acts: int = 0
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered of a service: the episode under way, and how the last one ended.

    `contents` are the digests of the files when it ended, by path. `instance` is what ran then. `again`: it was
    superseded, and so soon after the one before that whoever changes the files may go on and on.
    """

    service: str
    episode: Episode | None = None
    ended_at: Instant | None = None
    result: Result | None = None
    message: str = ""
    targets: tuple[str, ...] = ()
    instance: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    again: bool = False

    def has_read(self, path: str, sha256: str, instance: str) -> bool:
        """The instance that runs has read this content: it was restarted, or told to reload, for its sake."""
        taken_up = self.result in {Result.PROVEN, Result.UNPROVEN, Result.TAKEN_BACK, Result.SEEN}
        return taken_up and self.instance == instance and self.contents.get(path) == sha256

    def failure(self, contents: Mapping[str, str]) -> str | None:
        """What went wrong last, for as long as the files are as they were then: another certificate is another try."""
        if self.result not in {Result.TAKEN_BACK, Result.FAILED, Result.UNPROVEN} or not self.contents:
            return None
        return self.message if all(contents.get(path) == sha for path, sha in self.contents.items()) else None


@dataclass(frozen=True, slots=True)
class Terms:
    """How long what may take: `ready_within` after an act, it has to be well; `stable` long it has to stay so."""

    ready_within: timedelta = timedelta(minutes=4)
    stable: timedelta = timedelta(seconds=30)
    spacing: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look shows of the service of an episode: begun `at`; `ill` has a sentence for each health address that
    is not well, by address; `unproven` one for each endpoint that does not serve what is on disk.
    """

    at: datetime
    service: ServiceSeen
    ill: Mapping[str, str] = field(default_factory=dict)
    unproven: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Act:
    """End the instance `episode.before`, so that another one begins."""

    episode: Episode


@dataclass(frozen=True, slots=True)
class PutBack:
    """Put the former files back, in the place of those that `episode.targets` have; then it is restarted on them."""

    episode: Episode


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done but to look again at `until`."""

    episode: Episode
    until: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over."""

    episode: Episode
    result: Result
    message: str


Move = Act | PutBack | Wait | Ended


def follow(episode: Episode, glance: Glance, terms: Terms, *, changes_instance: bool, starts: bool = True) -> Move:
    """What is to be done next. `changes_instance`: the act brings another instance, as a restart does and a reload does
    not. `starts`: it starts what does not run; of a static pod only the kubelet does.
    """
    episode = _not_in_the_future(episode, glance.at)
    if episode.stage is Stage.PUT_BACK:
        return PutBack(episode)
    if episode.stage is Stage.ACT and episode.acts >= episode.attempt + _BLIND_ACTS:
        said = f"{episode.service} was restarted {episode.acts} times, and that could not be recorded"
        return Ended(episode, Result.FAILED, said)
    if episode.stage is Stage.ACT:
        return _resume(episode, glance, changes_instance=changes_instance)
    acted_at = episode.acted_at or episode.begun_at
    if glance.at <= acted_at:
        return Wait(episode, acted_at + INTERVAL)
    episode = _with_instance(episode, glance.service)
    # What is stopped before anything of it was seen since the act may have been stopped by the act.
    if glance.service.stopped and (episode.instances or not changes_instance):
        return _left_stopped(episode)
    troubles = list(_troubles(episode, glance, changes_instance=changes_instance))
    if not troubles:
        return _good(episode, glance.at, terms)
    episode = replace(episode, good=0, good_since=None, good_at=None, trouble=troubles[0])
    if _is_over(episode, glance, acted_at, terms):
        return _failed(episode, glance, changes_instance=changes_instance, starts=starts)
    return Wait(episode, glance.at + INTERVAL)


def about_to_act(episode: Episode) -> Episode:
    """The record before its act is made: another one each time, so that it has to be written."""
    return replace(episode, stage=Stage.ACT, acts=episode.acts + 1)


def _not_in_the_future(episode: Episode, now: datetime) -> Episode:
    """What was noted before the clock was set back counts from now."""

    def at_most(at: datetime | None) -> datetime | None:
        return now if at is not None and at > now + 5 * INTERVAL else at

    return replace(
        episode, acted_at=at_most(episode.acted_at), good_since=at_most(episode.good_since),
        good_at=at_most(episode.good_at), put_back_at=at_most(episode.put_back_at),
    )  # fmt: skip


def taken_along(bystander: Bystander, seen: ServiceSeen, at: datetime) -> Episode | None:
    """The episode of a service that ended with another one: restarted already, and to be proven as if by us.

    None where it has not ended, or nothing is known of it.
    """
    if seen.running is None or (seen.running and seen.instance == bystander.instance):
        return None
    return acted(
        Episode(
            bystander.service, bystander.targets, bystander.why, at, before=bystander.instance,
            well_before=bystander.well_before,
        ),
        at,
    )  # fmt: skip


def acted(episode: Episode, at: datetime) -> Episode:
    """The record after its act was made."""
    return replace(
        episode, stage=Stage.PROVE, acted_at=at, instances=(), good=0, good_since=None, good_at=None, trouble=""
    )


def _resume(episode: Episode, glance: Glance, *, changes_instance: bool) -> Move:
    """An act is recorded: it is made, unless whoever recorded it has made it before it was killed."""
    instance, failed = glance.service.instance, glance.service.failed
    if episode.put_back_at:  # what runs may have begun before the former files were back: it is that which has to end
        return Act(replace(episode, before=instance))
    if changes_instance and episode.before and (failed or (instance and instance != episode.before)):
        return Wait(acted(episode, glance.at), glance.at + INTERVAL)
    return Act(episode)


def _with_instance(episode: Episode, seen: ServiceSeen) -> Episode:
    if not seen.instance or seen.instance in {episode.before, *episode.instances[-1:]}:
        return episode
    return replace(episode, instances=(*episode.instances, seen.instance), good=0, good_since=None, good_at=None)


def _troubles(episode: Episode, glance: Glance, *, changes_instance: bool) -> Sequence[str]:
    seen, name = glance.service, episode.service
    if seen.failed:
        return [f"{name} does not start: its manager has given up"]
    if seen.running is False:
        return [f"{name} does not run"]
    if _is_unseen(seen, changes_instance=changes_instance):
        return [f"{name} cannot be seen: {seen.problem or 'nothing is known of it'}"]
    if changes_instance and seen.instance == episode.before:
        return [f"{name} has not been restarted yet"]
    if changes_instance and episode.put_back_at and seen.started_at and seen.started_at < episode.put_back_at:
        return [f"{name} has not been restarted since the former files are back"]
    ill = [why for address, why in glance.ill.items() if address in episode.well_before or not episode.well_before]
    return [*ill, *glance.unproven]


def _is_unseen(seen: ServiceSeen, *, changes_instance: bool) -> bool:
    """It should be seen whether it runs, as of a command it is not, and it is not."""
    return seen.running is None and (changes_instance or seen.problem is not None)


def _good(episode: Episode, now: datetime, terms: Terms) -> Move:
    if episode.good_at is not None and now - episode.good_at < INTERVAL:
        return Wait(episode, episode.good_at + INTERVAL)
    since = episode.good_since or now
    episode = replace(episode, good=episode.good + 1, good_since=since, good_at=now, trouble="")
    if episode.good < LOOKS or now - since < terms.stable:
        return Wait(episode, now + INTERVAL if episode.good < LOOKS else max(now + INTERVAL, since + terms.stable))
    name = episode.service
    if episode.put_back_at:
        return Ended(
            episode, Result.TAKEN_BACK, f"{name} did not come up with the new files and runs on the former ones"
        )
    done = f"has taken up {_named(episode)}" if episode.targets else "was restarted and is well"
    return Ended(episode, Result.PROVEN, f"{name} {done}")


def _is_over(episode: Episode, glance: Glance, acted_at: datetime, terms: Terms) -> bool:
    """It will not get well by being waited for: given up by its manager, dying again and again, or out of time."""
    service, end = glance.service, acted_at + terms.ready_within
    if episode.put_back_at and service.running is False:
        end += BACK_OFF
    elif episode.put_back_at and service.started_at:  # it was started when the kubelet thought it time
        end = max(acted_at, service.started_at) + terms.ready_within
    return service.failed or len(episode.instances) > LOOKS - 1 or glance.at >= end


def _failed(episode: Episode, glance: Glance, *, changes_instance: bool, starts: bool) -> Move:
    name, trouble, seen = episode.service, episode.trouble, glance.service
    dies = len(episode.instances) >= LOOKS
    if episode.put_back_at:
        said = f"{name} did not come up with the new files, nor with the former ones ({trouble})"
        return Ended(episode, Result.FAILED, said)
    if _is_unseen(seen, changes_instance=changes_instance):  # to act blindly would be a guess
        return Ended(
            episode, Result.UNPROVEN, f"{name} was restarted, and what became of it cannot be told ({trouble})"
        )
    if glance.ill and not set(glance.ill) & set(episode.well_before) and seen.running is not False and not dies:
        said = f"{name} was restarted and is not well, as it was not before ({trouble})"
        return Ended(episode, Result.UNPROVEN, said)
    if episode.attempt == 1 and changes_instance and seen.instance and seen.instance == episode.before:
        return Ended(episode, Result.FAILED, f"{name} was told to restart, and runs on as it did")  # no fault of files
    # One more try where that can bring anything: what dies, or others start, is being tried again already.
    if episode.attempt == 1 and not dies and (starts or seen.running is not False):
        return Act(replace(episode, stage=Stage.ACT, attempt=2, before=seen.instance))
    if not episode.targets:  # asked for by hand: there is nothing to take back
        return Ended(episode, Result.FAILED, f"{name} was restarted and did not come up ({trouble})")
    return PutBack(replace(episode, stage=Stage.PUT_BACK, attempt=3, before=seen.instance))


def put_back(episode: Episode, at: datetime) -> Episode:
    """The record after the former files came back: the service is to take them up."""
    return replace(episode, stage=Stage.ACT, put_back_at=at)


def _left_stopped(episode: Episode) -> Ended:
    """Whoever stops a service means it, a restart or not."""
    name, left = episode.service, "was stopped meanwhile, and not by certmond: it is left so"
    if episode.put_back_at:
        return Ended(episode, Result.FAILED, f"{name} did not come up with the new files; on the former ones it {left}")
    return Ended(episode, Result.REFUSED, f"{name} {left}")


def _named(episode: Episode) -> str:
    return ", ".join(dict.fromkeys(target.name for target in episode.targets))
