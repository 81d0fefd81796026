"""One restart from the decision to its proof: the state machine, alone and in a simulation with failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from certmond.pki.services.outage import BACK_OFF
from certmond.pki.services.restart_episode import Bystander, Episode, Past, Result, Stage, Target, Terms
from certmond.pki.services.restart_state_machine import (
    HEALTHY_OBSERVATIONS,
    INTERVAL,
    Act,
    Ended,
    HealthObservation,
    Move,
    PutBack,
    Wait,
    after_act,
    after_restore,
    bystander_episode,
    mark_after,
    next_move,
    state_of,
)
from certmond.pki.services.service_observation import ServiceSeen
from certmond.state.json_decoder import decoded, encoded
from tests.builders import NOW, SECOND

TERMS = Terms(ready_within=20 * SECOND, stable=5 * SECOND)
TARGET = Target("admin.conf", "/etc/admin.conf", {"/etc/admin.conf": "new"})
WELL, ILL = "http://127.0.0.1:1/", "https://127.0.0.1:2/"
BEGUN = Episode("s", (TARGET,), "it is older", NOW, before="1", well_before=(WELL,))
ACTED = after_act(BEGUN, NOW)
BYSTANDER = Bystander("s", "1", (TARGET,), "it is older, too", (WELL,))
PUT_BACK_AT = NOW + 60 * SECOND
THIRD = after_act(after_restore(replace(BEGUN, attempt=3, before="3"), PUT_BACK_AT, PUT_BACK_AT), PUT_BACK_AT)


def seen(instance: str = "2", **fields: Any) -> ServiceSeen:
    return ServiceSeen(running=True, instance=instance, **fields)


def look(
    seconds: float,
    service: ServiceSeen | None = None,
    *,
    ill: Sequence[str] = (),
    unproven: str = "",
    unrenewed: Sequence[str] = (),
) -> HealthObservation:
    wrong = {address: f"{address} answers 500" for address in ill}
    at = NOW + seconds * SECOND
    return HealthObservation(at, service or seen(), wrong, (unproven,) if unproven else (), unrenewed)


def after(episode: Episode, *glances: HealthObservation, changes_instance: bool = True) -> Move:
    """Return the result of probes, one after the other."""
    move: Move = Wait(episode, NOW)
    for glance in glances:
        assert not isinstance(move, Ended)
        move = next_move(move.episode, glance, TERMS, changes_instance=changes_instance)
    return move


def ended(move: Move) -> tuple[Result, str]:
    assert isinstance(move, Ended)
    return move.result, move.message


def trouble(move: Move) -> str:
    assert isinstance(move, Wait)
    assert move.episode.good == 0
    return move.episode.trouble


# --- the proof --------------------------------------------------------------------------------------------------------


def test_the_proof_is_another_instance_that_is_healthy_three_times_and_stays_so() -> None:
    """The first probes are a second apart, then the rest of the time passes."""
    looks = [look(1), look(2), look(3), look(6)]
    waits = [after(ACTED, *looks[:number]) for number in range(1, 4)]
    assert [move.until for move in waits if isinstance(move, Wait)] == [look(n).at for n in (2, 3, 6)]
    assert ended(after(ACTED, *looks)) == (Result.PROVEN, "s uses the new admin.conf")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "is not verified yet"),
        ({"trouble": "it is ill"}, "is not verified yet: it is ill"),
        ({"good": 2}, "is healthy in 2 of 3 checks"),
        ({"good": 4}, "must stay healthy for some time"),
    ],
)
def test_the_progress_of_a_verification_is_a_phrase(fields: dict[str, Any], said: str) -> None:
    """The phrase has the trouble, or the number of good checks, or says that only time is missing."""
    assert state_of(replace(ACTED, **fields)) == said


@pytest.mark.parametrize("between", [0.5, 0.99])
def test_looks_that_follow_each_other_too_fast_count_once(between: float) -> None:
    """Three answers of one moment are one answer."""
    move = after(ACTED, look(1), look(1 + between), look(6))
    assert isinstance(move, Wait)
    assert move.episode.good == 2
    assert after(ACTED, look(1), look(1 + between)) == Wait(after(ACTED, look(1)).episode, look(2).at)


def test_a_probe_from_before_the_act_proves_nothing() -> None:
    """A probe that began before the act shows the old instance."""
    assert after(ACTED, look(0)) == Wait(ACTED, NOW + INTERVAL)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (look(3, ServiceSeen(False)), "s does not run"),
        (
            look(3, ServiceSeen(False, failed=True)),
            "s does not start, and its service manager no longer tries to start it",
        ),
        (look(3, ServiceSeen(None, problem="two of it run")), "certmond cannot observe s: two of it run"),
        (look(3, ServiceSeen(None)), "certmond cannot observe s: its state is unknown"),
        (look(3, seen("1")), "s has not been restarted yet"),
        (look(3, ill=[WELL]), f"{WELL} answers 500"),
        (look(3, unproven="127.0.0.1:1 serves another certificate"), "127.0.0.1:1 serves another certificate"),
    ],
)
def test_one_bad_probe_restarts_the_count(bad: HealthObservation, said: str) -> None:
    """The message has the failure."""
    if not bad.service.failed:
        assert trouble(after(ACTED, look(1), look(2), bad)) == said
        assert not isinstance(after(ACTED, look(1), look(2), bad, look(4), look(5), look(6), look(8)), Ended)
    else:
        move = after(ACTED, look(1), look(2), bad)
        assert isinstance(move, Act)
        assert move.episode.trouble == said


def test_another_instance_restarts_the_count() -> None:
    """The healthy instance has ended, so its successor needs the whole proof."""
    move = after(ACTED, look(1), look(2), look(3, seen("3")), look(4, seen("3")))
    assert (move.episode.instances, move.episode.good) == (("2", "3"), 2)
    assert move.episode.good_since == look(3).at


def test_an_address_that_was_unhealthy_before_is_not_waited_for() -> None:
    """If none was healthy, all of them count."""
    assert ended(after(ACTED, *(look(n, ill=[ILL]) for n in (1, 2, 3, 6))))[0] is Result.PROVEN
    assert trouble(after(replace(ACTED, well_before=()), look(1, ill=[ILL]))) == f"{ILL} answers 500"


def test_a_restart_without_a_certificate_needs_health_only() -> None:
    """The message names no certificate."""
    done = ended(after(replace(ACTED, targets=()), look(1), look(2), look(3), look(6)))
    assert done == (Result.PROVEN, "s was restarted and is healthy")


def test_a_reload_is_proven_by_the_same_instance() -> None:
    """A reload keeps the process. Of a command only the served certificate is visible."""
    for service in (seen("1"), ServiceSeen(None)):
        looks = [look(n, service) for n in (1, 2, 3, 6)]
        assert ended(after(ACTED, *looks, changes_instance=False))[0] is Result.PROVEN


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_restart_is_repeated_once_and_then_rolled_back() -> None:
    """The second act ends the present instance. The third is recorded as one with the old files before they are
    restored.
    """
    again = after(ACTED, look(20, ill=[WELL]))
    assert again == Act(replace(after(ACTED, look(19, ill=[WELL])).episode, stage=Stage.ACT, attempt=2, before="2"))
    back = after(after_act(again.episode, look(21).at), look(41, seen("3"), ill=[WELL]))
    assert isinstance(back, PutBack)
    assert (back.episode.stage, back.episode.attempt, back.episode.before) == (Stage.PUT_BACK, 3, "3")
    assert next_move(back.episode, look(42), TERMS, changes_instance=True) == back


def test_one_that_dies_again_and_again_is_not_tried_once_more() -> None:
    """Three instances are three tries."""
    move = after(ACTED, look(1), look(2, seen("3")), look(3, seen("4"), ill=[WELL]))
    assert isinstance(move, PutBack)
    never_well = after(replace(ACTED, well_before=()), look(1), look(2, seen("3")), look(3, seen("4"), ill=[ILL]))
    assert isinstance(never_well, PutBack)


def test_a_second_instance_has_the_usual_time_to_become_healthy() -> None:
    """certmond waits if a service has only two instances since the act and the second instance is unhealthy."""
    assert trouble(after(ACTED, look(1), look(2, seen("3"), ill=[WELL]))) == f"{WELL} answers 500"


def test_a_service_that_only_others_start_is_not_restarted_when_it_is_down() -> None:
    """There is nothing to stop, and the kubelet repeats its start already."""
    gone = HealthObservation(NOW + 20 * SECOND, ServiceSeen(running=False))
    assert isinstance(next_move(ACTED, gone, TERMS, changes_instance=True, starts=False), PutBack)
    assert isinstance(next_move(ACTED, gone, TERMS, changes_instance=True, starts=True), Act)
    runs = look(20, ill=(WELL,))
    assert isinstance(next_move(ACTED, runs, TERMS, changes_instance=True, starts=False), Act)


@pytest.mark.parametrize("now", [seen("2"), ServiceSeen(running=False)])
def test_a_service_that_ended_with_another_is_proven_like_a_restart(now: ServiceSeen) -> None:
    """It has restarted, or is about to: if it does not start, its old files are restored as well."""
    episode = bystander_episode(BYSTANDER, now, NOW)
    assert episode == after_act(replace(BEGUN, why="it is older, too"), NOW)


@pytest.mark.parametrize("now", [seen("1"), ServiceSeen(None)])
def test_a_running_or_unknown_service_has_not_ended_with_another(now: ServiceSeen) -> None:
    """It is restarted separately."""
    assert bystander_episode(BYSTANDER, now, NOW) is None


STOPPED = ServiceSeen(running=False, stopped=True)


def test_a_stopped_service_has_the_problem_of_its_pid_file() -> None:
    """The trouble of a service that does not run names the PID file, if the service has one."""
    gone = ServiceSeen(running=False, problem="/run/s.pid names the process 7, which is not in /proc")
    assert after(ACTED, look(1, gone)).episode.trouble == f"s does not run: {gone.problem}"


@pytest.mark.parametrize("changes_instance", [True, False])
def test_a_service_that_is_stopped_during_its_proof_stays_stopped(changes_instance: bool) -> None:
    """The episode ends at once, without another attempt, and the certificate is not the cause."""
    looks = look(1, seen("2" if changes_instance else "1")), look(2, STOPPED)
    done = ended(after(ACTED, *looks, changes_instance=changes_instance))
    assert done == (Result.REFUSED, "s was stopped by another program or user, and certmond leaves it stopped")


def test_a_service_that_is_stopped_on_its_old_files_has_failed() -> None:
    """The failure stays, and the service stays stopped."""
    reported = "s did not start with the new files; with the previous files it was stopped by another program or user, "
    later = (replace(look(60 + n, service), unproven=()) for n, service in ((1, seen("4")), (2, STOPPED)))
    assert ended(after(THIRD, *later)) == (Result.FAILED, f"{reported}and certmond leaves it stopped")


def test_a_service_that_stopped_before_it_ran_again_may_be_an_effect() -> None:
    """It may be that a dependency did not start: the restart is repeated once."""
    move = after(ACTED, look(1, STOPPED), look(20, STOPPED))
    assert isinstance(move, Act)
    assert move.episode.attempt == 2


def test_a_service_that_was_unhealthy_before_keeps_its_new_files() -> None:
    """Nothing is worse, and the old files are no remedy."""
    result, said = ended(after(replace(ACTED, well_before=()), look(20, ill=[ILL])))
    assert (result, said) == (
        Result.UNPROVEN, f"s was restarted, but is as unhealthy as before ({ILL} answers 500)"
    )  # fmt: skip
    assert not isinstance(after(replace(ACTED, well_before=()), look(20, ServiceSeen(False), ill=[ILL])), Ended)


def test_an_unknown_service_is_not_acted_on() -> None:
    """There is neither a second attempt nor a rollback: an operator must look."""
    result, said = ended(after(ACTED, look(20, ServiceSeen(None, problem="no bus"))))
    assert (result, said) == (
        Result.UNPROVEN, "s was restarted, but its state is unknown (certmond cannot observe s: no bus)"
    )  # fmt: skip


def test_a_service_that_cannot_be_ended_keeps_its_files() -> None:
    """It still runs, so the new files are not the cause. A second instance that stays is another case."""
    assert ended(after(ACTED, look(20, seen("1")))) == (
        Result.FAILED, "certmond requested a restart of s, but the same process still runs"
    )  # fmt: skip
    second = after_act(replace(BEGUN, attempt=2, before="2"), NOW)
    assert isinstance(after(second, look(20, seen("2"), ill=[WELL])), PutBack)


def test_a_requested_restart_without_a_certificate_has_no_rollback() -> None:
    """Then there is no third act."""
    second = after_act(replace(BEGUN, targets=(), attempt=2, before="2"), NOW)
    assert ended(after(second, look(20, seen("3"), ill=[WELL]))) == (
        Result.FAILED, f"s was restarted, but did not start ({WELL} answers 500)"
    )  # fmt: skip


def test_on_the_old_files_it_has_to_start_again() -> None:
    """An instance from before the rollback uses the new files, healthy or not. certmond ends this instance once."""
    old, new = (seen("4", started_at=PUT_BACK_AT + shift * SECOND) for shift in (-1, 1))
    move = after(THIRD, look(61, old))
    assert isinstance(move, Act)
    assert (move.episode.attempt, move.episode.before) == (4, "4")
    fourth = after_act(replace(move.episode, acts=4), PUT_BACK_AT + SECOND)
    proven = after(fourth, *(look(61 + n, seen("5", started_at=PUT_BACK_AT + 2 * SECOND)) for n in (1, 2, 3, 6)))
    assert ended(proven)[0] is Result.TAKEN_BACK
    set_back = seen("5", started_at=PUT_BACK_AT - SECOND)
    assert ended(after(fourth, *(look(61 + n, set_back) for n in (1, 2, 3, 6))))[0] is Result.TAKEN_BACK
    good = [look(60 + n, new) for n in (1, 2, 3, 6)]
    assert ended(after(THIRD, *good)) == (
        Result.TAKEN_BACK, "s did not start with the new files, and runs with the previous files"
    )  # fmt: skip


def test_on_the_old_files_the_wait_includes_the_backoff_of_the_kubelet() -> None:
    """A container that has ended often is not restarted at once, although the cause has ended."""
    end = 60 * SECOND + TERMS.ready_within + BACK_OFF
    late = [HealthObservation(NOW + end + shift, ServiceSeen(False)) for shift in (-SECOND, 0 * SECOND)]
    assert trouble(after(THIRD, late[0])) == "s does not run"
    assert ended(after(THIRD, late[1]))[0] is Result.FAILED


def test_a_service_on_the_old_files_has_the_usual_time_to_become_healthy() -> None:
    """The time counts from its start, however long the kubelet backed off: a running service is not yet healthy."""
    began = PUT_BACK_AT + TERMS.ready_within + BACK_OFF / 2
    up = seen("4", started_at=began)
    end, ill = began + TERMS.ready_within, {WELL: f"{WELL} answers 500"}
    early, late = (HealthObservation(end + shift, up, ill) for shift in (-SECOND, 0 * SECOND))
    assert trouble(after(THIRD, early)) == f"{WELL} answers 500"
    assert ended(after(THIRD, late))[0] is Result.FAILED


@pytest.mark.parametrize(
    "last", [look(80, ill=[WELL]), look(80, ServiceSeen(None)), look(61, ServiceSeen(False, failed=True))]
)
def test_if_the_old_files_fail_too_the_restart_has_failed(last: HealthObservation) -> None:
    """There is no further act."""
    result, said = ended(after(THIRD, last))
    assert result is Result.FAILED
    assert said.startswith("s did not start with the new files, nor with the previous files (")


# --- the service issues its certificates again ------------------------------------------------------------------------

RENEWS = replace(ACTED, targets=(replace(TARGET, ends_at=NOW), Target("b", "/b", {}, NOW)))


def test_a_renewal_is_proven_by_each_certificate() -> None:
    """The service is healthy, and each certificate has a later end."""
    waits = after(RENEWS, look(1, unrenewed=["b"]))
    assert trouble(waits) == "it has not issued b again"
    done = after(RENEWS, look(1, unrenewed=["admin.conf", "b"]), look(2), look(3), look(4), look(7))
    assert ended(done) == (Result.PROVEN, "s has issued admin.conf, b again, and is healthy")


def test_a_certificate_that_is_not_renewed_is_named() -> None:
    """Another start of the healthy service would do the same, so it is not restarted again."""
    result = ended(after(RENEWS, look(1, unrenewed=["b"]), look(21, unrenewed=["b"])))
    assert result == (Result.FAILED, "s was restarted, but it has not issued b again")


def test_a_service_that_does_not_come_back_with_its_own_files_is_not_rolled_back() -> None:
    """The service has written these files itself. It is restarted a second time, and then the restart has failed."""
    again = after(RENEWS, look(1), look(21, ServiceSeen(False), unrenewed=["b"]))
    assert isinstance(again, Act)
    second = after_act(again.episode, NOW + 22 * SECOND)
    down = replace(second, before="2")
    assert ended(after(down, look(50, ServiceSeen(False)))) == (
        Result.FAILED, "s was restarted, but did not start (s does not run)"
    )  # fmt: skip
    assert ended(after(down, look(50, ServiceSeen(False), unrenewed=["b"]))) == (
        Result.FAILED, "s was restarted, but did not start (s does not run; it has not issued b again)"
    )  # fmt: skip


def test_a_service_that_was_unhealthy_before_must_renew() -> None:
    """Its health is then unproven, and a certificate that it has not renewed is a failure."""
    unwell = replace(RENEWS, well_before=(WELL,))
    kept = after(unwell, look(21, ill=[ILL], unproven="127.0.0.1:1 serves no certificate"))
    assert ended(kept) == (
        Result.UNPROVEN, "s was restarted, but is as unhealthy as before (127.0.0.1:1 serves no certificate)"
    )  # fmt: skip
    failed = after(unwell, look(21, ill=[ILL], unproven="127.0.0.1:1 serves no certificate", unrenewed=["b"]))
    fact = "127.0.0.1:1 serves no certificate; it has not issued b again"
    assert ended(failed) == (Result.FAILED, f"s was restarted, but is as unhealthy as before ({fact})")


@pytest.mark.parametrize(
    ("episode", "result", "mark"),
    [
        (ACTED, Result.PROVEN, ""),
        (RENEWS, Result.PROVEN, ""),
        (RENEWS, Result.FAILED, "why"),
        (RENEWS, Result.REFUSED, "why"),
        (replace(RENEWS, acted_at=None), Result.REFUSED, ""),
        (ACTED, Result.FAILED, None),
    ],
)
def test_an_unproven_renewal_stops_other_nodes(episode: Episode, result: Result, mark: str | None) -> None:
    """This includes a service that an operator has stopped meanwhile, but no restart that did not begin."""
    assert mark_after(Ended(episode, result, "why")) == mark


def test_the_record_of_an_earlier_version_has_no_renewal() -> None:
    """A record without the ends of certificates stays readable."""
    assert decoded({"name": "a", "path": "/a", "contents": {}}, Target) == Target("a", "/a", {})
    assert not ACTED.renews
    assert RENEWS.renews


# --- the acting process is killed -------------------------------------------------------------------------------------


def test_a_recorded_act_is_made_unless_it_took_effect() -> None:
    """Another instance than the recorded one proves the effect. A reload leaves no such trace."""
    assert after(BEGUN, look(1, seen("1"))) == Act(BEGUN)
    assert after(BEGUN, look(1, ServiceSeen(False))) == Act(BEGUN)
    assert after(BEGUN, look(1, seen("2"))) == Wait(after_act(BEGUN, look(1).at), look(2).at)
    assert after(replace(BEGUN, before=""), look(1)) == Act(replace(BEGUN, before=""))
    assert after(BEGUN, look(1, seen("2")), changes_instance=False) == Act(BEGUN)


@pytest.mark.parametrize("started_at", [None, PUT_BACK_AT - SECOND, PUT_BACK_AT])
def test_after_the_rollback_an_instance_that_might_have_the_failed_files_is_ended(started_at: datetime | None) -> None:
    """This is an instance that did not verifiably start after the rollback."""
    third = after_restore(replace(BEGUN, stage=Stage.PUT_BACK, attempt=3, before="3"), PUT_BACK_AT, PUT_BACK_AT)
    assert after(third, look(61, seen("4", started_at=started_at))) == Act(replace(third, before="4"))


def test_an_instance_that_started_after_the_rollback_is_not_ended() -> None:
    """The kubelet can start it before certmond acts. A reload does not need a new instance."""
    third = after_restore(replace(BEGUN, stage=Stage.PUT_BACK, attempt=3, before="3"), PUT_BACK_AT, PUT_BACK_AT)
    new = look(62, seen("4", started_at=PUT_BACK_AT + SECOND))
    assert after(third, new) == Wait(after_act(third, new.at), look(63).at)
    assert after(third, new, changes_instance=False) == Act(replace(third, before="4"))
    same = look(62, seen("3", started_at=PUT_BACK_AT + SECOND))
    assert after(third, same) == Act(third)
    assert after(third, look(62, ServiceSeen(False))) == Act(replace(third, before=""))


@pytest.mark.parametrize(("age", "expected"), [(1, PUT_BACK_AT - SECOND), (30, PUT_BACK_AT), (31, PUT_BACK_AT)])
def test_older_files_that_another_program_restored_have_no_known_time(age: int, expected: datetime) -> None:
    """A rename can restore files from before the last act. An instance from before the rollback then has to end."""
    second = after_act(replace(BEGUN, attempt=2), PUT_BACK_AT - 30 * SECOND)
    restored = after_restore(replace(second, stage=Stage.PUT_BACK), PUT_BACK_AT - age * SECOND, PUT_BACK_AT)
    assert (restored.stage, restored.put_back_at) == (Stage.ACT, expected)


def test_an_episode_is_parsed_as_it_was_written() -> None:
    """So any process can continue it."""
    whole = Past("s", replace(THIRD, instances=("4",), good=1, good_since=NOW, good_at=NOW, trouble="x"))
    assert decoded(json.loads(json.dumps(whole, default=encoded)), Past) == whole


# --- the record -------------------------------------------------------------------------------------------------------


PAST = Past("s", None, NOW, Result.FAILED, "it broke", ("admin.conf",), "2", {"/a": "new", "/b": "same"})


@pytest.mark.parametrize("result", Result)
def test_a_failure_stands_for_as_long_as_the_files_are_the_same(result: Result) -> None:
    """Another certificate is another try. Where nothing was done, nothing has failed."""
    past = replace(PAST, result=result)
    failed = result in {Result.FAILED, Result.TAKEN_BACK, Result.UNPROVEN}
    assert past.failure({"/a": "new", "/b": "same", "/c": "x"}) == ("it broke" if failed else None)
    assert past.failure({"/a": "newer", "/b": "same"}) is None
    assert past.failure({"/b": "same"}) is None
    assert replace(past, contents={}).failure({"/a": "new"}) is None
    assert Past("s").failure({}) is None


@pytest.mark.parametrize("result", [None, *Result])
def test_only_the_instance_that_used_a_content_has_read_it(result: Result | None) -> None:
    """For a service that did not start, its age decides."""
    past = replace(PAST, result=result)
    assert past.has_read("/a", "new", "2") is (
        result in {Result.PROVEN, Result.UNPROVEN, Result.TAKEN_BACK, Result.SEEN}
    )
    assert not past.has_read("/a", "newer", "2")
    assert not past.has_read("/a", "new", "3")
    assert not past.has_read("/c", "new", "2")


# --- the whole world --------------------------------------------------------------------------------------------------

TICK = SECOND / 2


@dataclass(frozen=True)
class Life:
    """The fate of one start: healthy after so many seconds (None: never), unhealthy in between, dead after so many."""

    up_after: float | None = 0
    dies_after: float | None = None
    ill_each: int = 0


@dataclass(frozen=True)
class Fate:
    """All that the world does to a restart."""

    new: tuple[Life, ...] = ()
    former: tuple[Life, ...] = ()
    well_before: bool = True
    beside_ill: bool = False
    reload: bool = False
    gives_up_after: int = 100
    deaf: frozenset[int] = frozenset()  # acts that have no effect
    refused: frozenset[int] = frozenset()  # acts that raise
    blind: frozenset[int] = frozenset()  # probes without a process
    blind_from: int = 1000  # all probes from this one on
    kills: frozenset[int] = frozenset()  # points at which the controller is killed
    pause: int = 1  # seconds until a controller that was killed is there again
    by_another: int | None = None  # the second in which another process restarts it
    no_former: bool = False


class KilledError(Exception):
    """The process is no more."""


class ActError(Exception):
    """The act had no effect."""


@dataclass
class World:
    """A service with its manager, and the files on the disk."""

    fate: Fate
    now: datetime = NOW
    disk: str = "new"
    restored_at: datetime | None = None
    instance: int = 1
    holds: str = "former"
    begun_at: datetime = NOW - 3600 * SECOND
    life: Life = field(default_factory=Life)
    running: bool = True
    next_start: datetime | None = None
    starts: dict[str, int] = field(default_factory=lambda: {"new": 0, "former": 0})
    deaths: int = 0
    looks: int = 0
    acts: int = 0
    interfered: bool = False

    def advance(self, until: datetime) -> None:
        while True:
            self._live()
            if self.now >= until:
                return
            self.now += TICK

    def _live(self) -> None:
        age = (self.now - self.begun_at) / SECOND
        if self.fate.by_another is not None and not self.interfered and self.now >= NOW + self.fate.by_another * SECOND:
            self.interfered = True
            self._start()
        elif self.running and self.life.dies_after is not None and age >= self.life.dies_after:
            self.running = False
            self.deaths += 1
            self.next_start = None if self.failed else self.now + SECOND
        elif self.next_start is not None and self.now >= self.next_start:
            self._start()

    @property
    def failed(self) -> bool:
        return not self.running and self.deaths >= self.fate.gives_up_after

    def _read(self) -> None:
        lives = self.fate.new if self.disk == "new" else self.fate.former
        number = self.starts[self.disk]
        self.starts[self.disk] += 1
        self.holds, self.begun_at = self.disk, self.now
        self.life = lives[min(number, len(lives) - 1)] if lives else Life()

    def _start(self) -> None:
        self.instance += 1
        self.running, self.next_start = True, None
        self._read()

    def restore(self) -> datetime:
        self.disk, self.restored_at = "former", self.restored_at or self.now
        return self.restored_at

    def act(self, instance: str) -> None:
        self.acts += 1
        if self.acts in self.fate.refused:
            raise ActError
        if self.acts in self.fate.deaf:
            return
        if self.fate.reload and self.running:
            self._read()
            return
        if self.running and instance not in {"", str(self.instance)}:
            raise ActError  # another instance runs than the observed one
        self._start()

    def healthy(self) -> bool:
        age = int((self.now - self.begun_at) / SECOND)
        up = self.life.up_after is not None and age >= self.life.up_after
        flaps = self.life.ill_each and age % self.life.ill_each == self.life.ill_each - 1
        if self.instance == 1 and self.holds == "former" and self.starts == {"new": 0, "former": 0}:
            return self.fate.well_before
        return self.running and up and not flaps

    def look(self) -> HealthObservation:
        self.looks += 1
        ill = {} if self.healthy() else {WELL: "it is ill"}
        ill |= {ILL: "always so"} if self.fate.beside_ill else {}
        unproven = () if self.running and self.holds == self.disk else ("serves another",)
        if self.looks in self.fate.blind or self.looks >= self.fate.blind_from:
            service = ServiceSeen(None, problem="no answer")
        elif self.running:
            service = ServiceSeen(True, str(self.instance), self.begun_at)
        else:
            service = ServiceSeen(False, failed=self.failed)
        return HealthObservation(self.now, service, ill, unproven)


@dataclass
class Controller:
    """The executor of a restart, and its record on the disk when it is killed."""

    world: World
    record: Episode | None = None
    points: int = 0
    kills: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)

    def point(self) -> None:
        self.points += 1
        if self.points in self.world.fate.kills:
            self.kills += 1
            raise KilledError

    def store(self, episode: Episode) -> None:
        self.point()
        self.record = episode
        self.point()

    def act(self, episode: Episode) -> None:
        # A record precedes every act.
        assert self.record == episode
        assert episode.stage is Stage.ACT
        # The third and the fourth act follow only after the old files were restored.
        assert (episode.attempt >= 3) == (self.world.disk == "former") == (episode.put_back_at is not None)
        # No act ends an instance that started with the restored files.
        restored_at = self.world.restored_at
        if restored_at and episode.before == str(self.world.instance) and not self.world.fate.reload:
            assert self.world.begun_at <= restored_at
        self.log.append(("act", episode.attempt))
        assert len(self.log) <= 4 + self.kills
        self.world.act(episode.before)
        self.point()

    def begin(self, glance: HealthObservation) -> Ended | datetime:
        well = (WELL,) if WELL not in glance.ill else ()
        episode = replace(BEGUN, begun_at=self.world.now, before=glance.service.instance, well_before=well)
        self.store(episode)
        try:
            self.act(episode)
        except ActError:
            return Ended(episode, Result.REFUSED, "")
        return self.after_act(episode)

    def after_act(self, episode: Episode) -> datetime:
        self.store(after_act(episode, self.world.now))
        return self.world.now + INTERVAL

    def step(self, glance: HealthObservation) -> Ended | datetime:
        if self.record is None:
            return self.begin(glance)
        move = next_move(self.record, glance, TERMS, changes_instance=not self.world.fate.reload)
        match move:
            case Wait():
                self.store(move.episode)
                return move.until
            case Act():
                self.store(move.episode)
                with suppress(ActError):
                    self.act(move.episode)
                return self.after_act(move.episode)
            case PutBack():
                self.store(move.episode)
                if self.world.fate.no_former:
                    return Ended(move.episode, Result.FAILED, "")
                restored_at = self.world.restore()
                self.point()
                self.store(after_restore(move.episode, restored_at, self.world.now))
                return self.world.now
            case Ended():
                return move


few = st.frozensets(st.integers(1, 12), max_size=3)
lives = st.lists(
    st.builds(
        Life,
        up_after=st.sampled_from([0, 0, 0, 3, 15, None]),
        dies_after=st.sampled_from([None, None, None, 1, 4, 12]),
        ill_each=st.sampled_from([0, 0, 0, 2, 4, 7]),
    ),
    max_size=4,
).map(tuple)
fates = st.builds(
    Fate,
    new=lives,
    former=lives,
    well_before=st.booleans(),
    beside_ill=st.booleans(),
    reload=st.booleans(),
    gives_up_after=st.sampled_from([100, 100, 1, 3]),
    deaf=st.frozensets(st.integers(1, 4), max_size=1),
    refused=st.frozensets(st.integers(1, 4), max_size=1),
    blind=few,
    blind_from=st.sampled_from([1000, 1000, 1000, 1, 4]),
    kills=st.frozensets(st.integers(1, 30), max_size=4),
    pause=st.sampled_from([1, 5, 60]),
    by_another=st.sampled_from([None, None, 1, 10, 25]),
    no_former=st.booleans(),
)
CRASHING = (Life(dies_after=1),)


@pytest.mark.long
@settings(deadline=None, max_examples=300)
@example(Fate())
@example(Fate(new=CRASHING, former=(Life(),)))
@example(Fate(new=(Life(up_after=None),), kills=frozenset({2, 3, 4}), pause=60))
@example(Fate(new=(Life(up_after=None),), former=(Life(up_after=None),)))
@example(Fate(blind_from=2))
@example(Fate(reload=True, kills=frozenset({3})))
@example(Fate(deaf=frozenset(range(5))))
@given(fates)
def test_every_restart_is_bounded_and_proven(fate: Fate) -> None:
    """A record precedes every act. There are at most four acts, and one more for each kill. The third follows only
    after the rollback. The restart ends in bounded time. A proof needs another instance that is healthy and serves, for
    the required number of probes and time. A rollback is reported only for the old files.
    """
    world = World(fate)
    controller = Controller(world)
    truth: list[tuple[datetime, str, bool]] = []
    bound = NOW + (3 + len(fate.kills)) * (TERMS.ready_within + TERMS.stable + (fate.pause + 10) * SECOND) + BACK_OFF
    while True:
        world.advance(world.now + TICK)
        glance = world.look()
        good = world.healthy() and not glance.unproven and (fate.reload or glance.service.running is True)
        truth.append((glance.at, glance.service.instance, good))
        try:
            done = controller.step(glance)
        except KilledError:
            if controller.record and controller.record.good_at != glance.at:
                truth.pop()  # an observation without a record is lost
            world.advance(world.now + fate.pause * SECOND)
            continue
        if isinstance(done, Ended):
            break
        world.advance(done)
        assert world.now < bound, controller.record
    event(done.result.value)
    if done.result in {Result.PROVEN, Result.TAKEN_BACK}:
        shown = []
        for at, instance, was_good in reversed(truth):
            if not was_good or instance != truth[-1][1]:
                break
            shown.append(at)
        assert len(shown) >= HEALTHY_OBSERVATIONS
        assert shown[0] - shown[-1] >= TERMS.stable
        assert fate.reload or world.instance > 1
        assert world.holds == world.disk == ("new" if done.result is Result.PROVEN else "former")
    if done.result is Result.REFUSED:
        assert controller.log == [("act", 1)]
        assert world.disk == "new"


def test_the_simulation_reaches_every_result() -> None:
    """Each result is reached by some fate: otherwise the simulation would prove little."""
    kinds = {
        Result.PROVEN: Fate(),
        Result.REFUSED: Fate(refused=frozenset({1})),
        Result.TAKEN_BACK: Fate(new=CRASHING),
        Result.FAILED: Fate(new=CRASHING, former=CRASHING),
        Result.UNPROVEN: Fate(new=(Life(up_after=None),), well_before=False),
    }
    for result, fate in kinds.items():
        world = World(fate)
        controller = Controller(world)
        done: Ended | datetime = NOW
        while not isinstance(done, Ended):
            world.advance(max(done, world.now + TICK))
            done = controller.step(world.look())
        assert done.result is result


@pytest.mark.parametrize("seconds", [0, 1, 19])
def test_a_wait_is_never_in_the_past(seconds: int) -> None:
    """So a caller makes no busy loop."""
    for glance in (look(seconds), look(seconds, ill=[WELL]), look(seconds, seen("1"))):
        move = after(ACTED, glance)
        assert isinstance(move, Wait)
        assert move.until > glance.at
        assert move.until - glance.at <= max(TERMS.stable, timedelta(seconds=1))


MONTH = NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "noted",
    [
        {"acted_at": MONTH}, {"good": 1, "good_at": MONTH, "instances": ("2",)},
        {"acted_at": look(1).at + 5 * INTERVAL + timedelta(milliseconds=1)},
    ],
)  # fmt: skip
def test_an_instant_before_the_clock_was_set_back_counts_from_now(noted: dict[str, Any]) -> None:
    """Otherwise this and every other service would wait until that day."""
    move = after(replace(ACTED, **noted), look(1))
    assert isinstance(move, Wait)
    assert look(1).at < move.until <= look(1).at + INTERVAL
    assert ended(after(move.episode, *(look(seconds) for seconds in (2, 3, 4, 7))))[0] is Result.PROVEN


def test_a_correction_of_seconds_is_no_clock_that_was_set_back() -> None:
    """A probe begins before its result is recorded, and clocks are corrected all the time."""
    shortly = look(1).at + 5 * INTERVAL
    move = after(replace(ACTED, acted_at=shortly), look(1))
    assert isinstance(move, Wait)
    assert move.until == shortly + INTERVAL


def test_the_healthy_time_before_the_clock_was_set_back_does_not_count() -> None:
    """It would never be long enough: the healthy time counts from the new time."""
    future = replace(ACTED, good=HEALTHY_OBSERVATIONS, good_since=MONTH, good_at=MONTH, instances=("2",))
    move = after(future, look(1), look(2))
    assert isinstance(move, Wait)
    assert move.until == look(1).at + TERMS.stable
    assert ended(after(move.episode, look(6)))[0] is Result.PROVEN
