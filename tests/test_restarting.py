"""Restarts carried out step by step, by a real program on a real tree: noted, in its turn, and gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.config import Config, Source, parse
from certmond.enforce import Enforcer
from certmond.errors import BusyError, TriedError, UnreachableError, WriteError
from certmond.host.archive import Archive
from certmond.host.audit import Audit
from certmond.host.former import FormerFiles
from certmond.host.history import History
from certmond.host.journal import Journal
from certmond.host.place import digest
from certmond.host.restarter import Restarter
from certmond.host.store import Store
from certmond.host.transaction import Transactions
from certmond.options import look
from certmond.pki.assess import Assessment, assess
from certmond.pki.catalog import ServiceSpec
from certmond.pki.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.holding import Surroundings
from certmond.pki.restart import Episode, Past, Result, Stage, Target
from certmond.pki.service import Content, Live, ServiceSeen, Survey
from certmond.pki.steps import Cause, Plan, Restart
from certmond.restarting import Progress, Restarting
from certmond.turns import Alone, Turn
from tests.cluster.api_server import ApiServer
from tests.conftest import unavailable
from tests.node import PKI, Node

CRT, KEY = f"/{PKI}/front-proxy-client.crt", f"/{PKI}/front-proxy-client.key"
HEALTH = "http://127.0.0.1:1/"
AT = Endpoint("127.0.0.1", 1)
SECOND = timedelta(seconds=1)

PROGRAM = """#!/bin/sh
# Each run keeps what it saw: the record, and the certificate.
number=$(ls {runs} | wc -l)
mkdir {runs}/$number
cp {state}/restarts.json {root}{crt} {runs}/$number/
[ ! -e {runs}/../broken ] || {{ echo it is broken >&2; exit 3; }}
"""


class Turns(Alone):
    """Whose turn it is, as this test says."""

    def __init__(self) -> None:
        self.because: str | None = None
        self.away = False
        self.ours = True
        self.given_back = 0

    def take(self) -> str | None:
        if self.away:
            raise UnreachableError("the API does not answer")
        return self.because

    def keep(self) -> None:
        if self.away:
            raise UnreachableError("the API does not answer")

    @property
    def held(self) -> bool:  # type: ignore[override]  # the protocol's
        return self.ours

    def give_back(self) -> None:
        self.given_back += 1


class Bench:
    """A node whose front-proxy-client is brought into use by a program; looks at it are as the test says."""

    def __init__(self, node: Node, place: Path, **cluster: str) -> None:
        self.node, self.place, self.state = node, place, place / "state"
        (place / "runs").mkdir()
        program = place / "act"
        program.write_text(PROGRAM.format(runs=place / "runs", state=self.state, root=node.root, crt=CRT))
        program.chmod(0o755)
        service = {"name": "hook", "kind": "command", "command": [str(program)], "health": HEALTH, "time_limit": "20s"}
        document = {"services": [service], "cluster": cluster, "certificates": [
            {"name": "front-proxy-client", "consumers": "hook"}]}  # fmt: skip
        self.config: Config = parse([Source("test", yaml.safe_dump(document))])
        self.turn = Turns()
        self.age = 10 * SECOND
        self.pods: dict[str, ServiceSeen] = {}
        self.again()

    def again(self) -> Restarting:
        """Another process."""
        audit = Audit(Journal("none"), self.state, "daemon")

        def clock() -> datetime:
            return datetime.now(UTC)

        self.enforcer = Enforcer(
            self.config, root=str(self.node.root), state_dir=self.state, audit=audit, clock=clock, acting=True
        )
        self.former = FormerFiles(self.config, str(self.node.root), self.state, clock)
        turn: Turn = self.turn
        self.restarting = Restarting(
            self.config, self.enforcer.executor, History(self.state), self.former, audit, turn=turn, alive=lambda: None
        )
        return self.restarting

    @property
    def service(self) -> ServiceSpec:
        return next(each for each in self.config.services if each.name == "hook")

    def contents(self) -> dict[str, Content]:
        since = datetime.now(UTC) - self.age
        return {path: Content(digest(self.node.read(path[1:])), since) for path in (CRT, KEY)}

    def target(self) -> Target:
        return Target("front-proxy-client", CRT, {path: each.sha256 for path, each in self.contents().items()})

    def planned(self) -> Plan:
        return Plan((Restart(self.service, (self.target(),), Cause.RESTART_PENDING, "it is older"),))

    def step(
        self,
        after: float = 0,
        *,
        ill: str | None = None,
        plan: Plan | None = None,
        served: Seen | None = None,
        seen: bool = True,
    ) -> Progress | None:
        """One step, on a look that began so many seconds from now."""
        at = datetime.now(UTC) + after * SECOND
        there = {AT: served} if served else {}
        survey = Survey(serving={AT: ("hook", CRT)} if served else {}, health={"hook": (HEALTH,)} if seen else {})
        live = Live(at, self.pods, there, {HEALTH: ill})
        around = Surroundings(self.config.services, survey, live, self.contents(), self.restarting.past())
        return self.restarting.step(
            self.planned() if plan is None else plan, self.assessment(around), around, self.enforcer.neighbourhood
        )

    def assessment(self, around: Surroundings) -> Assessment:
        inventory = Store(self.config.certificates, str(self.node.root)).observe()
        return assess(inventory, datetime(2026, 12, 1, tzinfo=UTC), around=around)

    @property
    def runs(self) -> list[tuple[Episode, bytes]]:
        """What each run of the program saw: the record of the moment, and the certificate."""
        found = []
        for number in sorted(map(int, os.listdir(self.place / "runs"))):
            run = self.place / "runs" / str(number)
            episode = History(run).all()["hook"].episode
            assert episode
            found.append((episode, (run / "front-proxy-client.crt").read_bytes()))
        return found

    @property
    def past(self) -> Past:
        return History(self.state).all()["hook"]

    def trail(self) -> list[tuple[str, str]]:
        lines = map(json.loads, (self.state / "audit.log").read_text().splitlines())
        return [(line["event"], line.get("result", "")) for line in lines]


@pytest.fixture
def bench(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if os.geteuid():
        unavailable("root, whose files a node's are")
    return Bench(node, tmp_path_factory.mktemp("bench"))


def told(progress: Progress | None) -> Progress:
    assert progress
    return progress


def test_a_restart_is_noted_made_and_proven(bench: Bench) -> None:
    """The record of the act is there before the act; what is remembered then has the contents that it was for."""
    first = told(bench.step())
    assert (first.service, first.message, first.result) == ("hook", f"{bench.place}/act was run", None)
    ((record, _),) = bench.runs
    assert (record.stage, record.attempt, record.well_before) == (Stage.ACT, 1, (HEALTH,))
    assert [told(bench.step(seconds)).message for seconds in (2, 4, 6)] == [
        "is well, 1 of 3", "is well, 2 of 3", "is well, 3 of 3"
    ]  # fmt: skip
    assert told(bench.step(20)).message == "is watched for a while"
    done = told(bench.step(40))
    assert (done.result, done.message, done.until) == (Result.PROVEN, "hook has taken up front-proxy-client", None)
    assert (bench.past.episode, bench.past.result, bench.past.contents) == (
        None, Result.PROVEN, bench.target().contents
    )  # fmt: skip
    assert (bench.past.targets, bench.turn.given_back) == (("front-proxy-client",), 1)
    assert len(bench.runs) == 1
    assert [event for event, _ in bench.trail()] == ["step_begun", "step_done"]
    assert bench.step(plan=Plan()) is None


def test_nothing_is_begun_while_files_change(bench: Bench) -> None:
    """Whoever writes several files has done when none has changed for three seconds: one restart then serves all."""
    bench.age = SECOND
    first = told(bench.step())
    assert (first.message, first.result) == ("waits for the files to come to rest", None)
    assert first.until
    assert bench.runs == []
    bench.age = 4 * SECOND
    bench.step()
    assert len(bench.runs) == 1


def test_what_ended_with_another_is_proven_as_well(bench: Bench) -> None:
    """The API server takes the scheduler with it: that is not restarted again, and not left to itself either."""
    scheduler = next(each for each in bench.config.services if each.name == "kube-scheduler")
    other = Restart(scheduler, (bench.target(),), Cause.RESTART_PENDING, "it is older, too", "scheduler-1")
    plan = Plan((*bench.planned().steps, other))
    bench.pods = {"kube-scheduler": ServiceSeen(True, "scheduler-1")}
    bench.step(plan=plan)
    bench.pods = {"kube-scheduler": ServiceSeen(running=False)}
    for seconds in (2, 4, 6):
        bench.step(seconds, plan=plan)
    assert told(bench.step(40, plan=plan)).result is Result.PROVEN
    assert bench.turn.given_back == 0
    waiting = told(bench.step(41, plan=plan))
    assert (waiting.service, waiting.message) == ("kube-scheduler", "is waited for: kube-scheduler does not run")
    bench.pods = {"kube-scheduler": ServiceSeen(True, "scheduler-2")}
    ends = [told(bench.step(seconds, plan=plan)).result for seconds in (42, 44, 46, 80)]
    assert ends == [None, None, None, Result.PROVEN]
    assert bench.turn.given_back == 1
    assert len(bench.runs) == 1


def test_what_does_not_come_up_is_tried_again_and_then_on_the_former_files(bench: Bench) -> None:
    """The third act is made only when they are there; then the failure is told of the certificate that it was for."""
    with Transactions(str(bench.node.root), bench.state).lock():
        known = Surroundings(bench.config.services, Survey(), Live(datetime.now(UTC)), bench.contents())
        bench.former.keep(bench.former.unkept(bench.assessment(known).statuses), {})
    former = bench.node.read(CRT[1:])
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    bad = bench.node.read(CRT[1:])
    bench.step()
    assert told(bench.step(2, ill="it is ill")).message == "is waited for: it is ill"
    bench.step(300, ill="it is ill")
    assert [certificate for _, certificate in bench.runs] == [bad, bad]
    back = told(bench.step(300, ill="it is ill"))
    assert back.message.startswith(f"{CRT} is put back as it was on ")
    assert (len(bench.runs), bench.node.read(CRT[1:])) == (2, former)
    bench.again()  # and whoever comes next goes on
    bench.step(1)
    assert [certificate for _, certificate in bench.runs] == [bad, bad, former]
    assert bench.runs[-1][0].put_back_at
    for seconds in (2, 4, 6):
        bench.step(seconds)
    done = told(bench.step(40))
    assert done.result is Result.TAKEN_BACK
    assert bench.past.failure({path: each.sha256 for path, each in bench.contents().items()}) == done.message
    assert ("step_failed", "taken_back") in bench.trail()


def test_what_is_being_restarted_is_a_former_file_once_it_is_proven(bench: Bench) -> None:
    """The daemon keeps nothing of it before: it may be what does not work."""

    def kept() -> tuple[str, ...]:
        known = Surroundings(
            bench.config.services, Survey(), Live(datetime.now(UTC)), bench.contents(), bench.restarting.past()
        )
        bench.enforcer.keep_former(bench.assessment(known), known)
        return Archive(bench.state).names()

    bench.step()
    assert kept() == ()
    for seconds in (2, 4, 6):
        bench.step(seconds)
    assert kept() == ()
    assert told(bench.step(40)).result is Result.PROVEN
    assert kept() == ("front-proxy-client",)


def test_without_former_files_a_person_has_to_look(bench: Bench) -> None:
    """It is said why."""
    bench.step()
    bench.step(300, ill="it is ill")
    done = told(bench.step(300, ill="it is ill"))
    assert done.result is Result.FAILED
    assert done.message == (
        "hook did not come up (it is ill), and the former files are not put back: "
        "the archive has no former front-proxy-client that is still valid"
    )
    assert len(bench.runs) == 2


def test_of_an_act_that_fails_it_is_seen_what_came(bench: Bench) -> None:
    """It may have done all of it, or nothing. Its words are not repeated: they may be a secret."""
    (bench.place / "broken").touch()
    done = told(bench.step())
    assert (done.result, done.message) == (None, f"{bench.place}/act ended with 3; run it by hand to see why")
    assert bench.past.episode
    assert bench.past.episode.stage is Stage.PROVE


def test_of_an_act_that_fails_and_of_which_nothing_can_be_seen_it_is_told(bench: Bench) -> None:
    """It is not made again by itself for the same files."""
    (bench.place / "broken").touch()
    done = told(bench.step(seen=False))
    message = f"hook was not restarted: {bench.place}/act ended with 3; run it by hand to see why"
    assert (done.result, done.message) == (Result.FAILED, message)
    assert bench.past.failure(bench.target().contents) == message


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("sleep", "did not end within 0.5 s; see what it waits for, or give it a longer time_limit"),
        ("yes", "wrote more than 1048576 bytes; have it write less"),
    ],
)
def test_of_a_program_that_is_ended_it_is_told_what_would_help(bench: Bench, program: str, said: str) -> None:
    """In words that fit a program that restarts something, too."""
    command = f"/usr/bin/{program}"
    service = bench.service.model_copy(update={"command": (command, "60"), "time_limit": SECOND / 2})
    with pytest.raises(TriedError) as tried:
        Restarter().act(service, "", None, revive=False)
    assert str(tried.value) == f"{command} was not run to its end ({command} {said})"


def test_files_that_change_again_end_the_restart_for_what_they_were(bench: Bench) -> None:
    """The new ones are another matter, and nothing of theirs is taken back."""
    bench.step()
    plan = bench.planned()
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    done = told(bench.step(2, ill="it is ill", plan=plan))
    assert done.result is Result.SUPERSEDED
    assert (bench.past.contents, bench.past.again) == ({}, False)
    bench.step(3)
    assert len(bench.runs) == 2
    plan = bench.planned()
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    done = told(bench.step(4, ill="it is ill", plan=plan))
    assert (done.result, bench.past.again) == (Result.SUPERSEDED, True)


def test_an_act_that_cannot_be_recorded_is_made_a_few_times_only(bench: Bench) -> None:
    """Whoever finds the record of an act again and again makes it again, but not for ever."""
    begun = Episode("hook", (bench.target(),), "it is older", datetime.now(UTC), well_before=(HEALTH,))
    results = []
    for acts in range(6):
        History(bench.state).remember(Past("hook", replace(begun, acts=acts)))
        results.append(told(bench.step(1, plan=Plan())).result)
    assert results == [None] * 4 + [Result.FAILED] * 2


def test_where_nothing_can_be_recorded_nothing_is_done(bench: Bench) -> None:
    """A full disk: the act would be made again and again."""
    bench.state.mkdir(exist_ok=True)
    (bench.state / "restarts.json").mkdir()
    with pytest.raises(WriteError):
        bench.step()
    assert bench.runs == []


def test_a_look_that_began_before_the_last_restart_ended_shows_nothing(bench: Bench) -> None:
    """It may show what was before that."""
    History(bench.state).remember(Past("hook", None, datetime.now(UTC), Result.SUPERSEDED))
    first = told(bench.step(-1))
    assert (first.message, bench.runs) == ("is looked at once more", [])


def test_whoever_goes_on_for_one_that_was_killed_does_not_know_whether_it_acted(bench: Bench) -> None:
    """So what it meets is not taken for nothing: what is to be seen next decides."""
    begun = Episode("hook", (bench.target(),), "it is older", datetime.now(UTC), well_before=(HEALTH,))
    History(bench.state).remember(Past("hook", begun))
    (bench.place / "broken").touch()
    progress = told(bench.step(1, plan=Plan()))
    assert progress.result is None
    assert "ended with 3" in progress.message
    assert bench.past.episode
    assert bench.past.episode.stage is Stage.PROVE


def test_what_was_seen_a_while_ago_is_looked_at_once_more(bench: Bench) -> None:
    """Nothing is restarted for it: it may have been restarted meanwhile."""
    assert told(bench.step(-6)).message == "is looked at once more"
    assert bench.runs == []
    assert bench.restarting.under_way() is None


def test_nothing_is_begun_out_of_turn(bench: Bench) -> None:
    """It is waited for, and then begun. Whoever goes on for one that was killed waits, too."""
    bench.turn.because = "controller-1 holds it"
    waits = told(bench.step())
    assert (waits.message, waits.result) == ("waits for its turn: controller-1 holds it", None)
    assert waits.until
    begun = Episode("hook", (bench.target(),), "it is older", datetime.now(UTC), well_before=(HEALTH,))
    History(bench.state).remember(Past("hook", begun))
    assert told(bench.step()).message == "waits for its turn: controller-1 holds it"
    assert bench.runs == []
    bench.turn.because = None
    bench.step()
    assert len(bench.runs) == 1


def test_a_turn_that_is_lost_stops_the_first_act_and_no_later_one(bench: Bench) -> None:
    """Half-way is worse for all."""
    bench.turn.ours = False
    done = told(bench.step())
    assert (done.result, done.message) == (Result.REFUSED, "hook: the turn was lost before anything was done")
    assert bench.runs == []
    bench.turn.ours = True
    bench.step()
    bench.turn.ours, bench.turn.because = False, "controller-1 holds it"
    bench.step(300, ill="it is ill")
    assert len(bench.runs) == 2
    assert ("step_held", "") in bench.trail()


def test_the_turn_looks_for_its_kubeconfig_when_it_is_asked_for(
    node: Node, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each time anew: where the file cannot be looked for, nothing is begun, and it is told why; the turn that was held
    is given back without a word. Once it can be, it is asked.
    """
    if os.geteuid():
        unavailable("root, whose files a node's are")
    bench = Bench(node, tmp_path_factory.mktemp("bench"), kubeconfig="/closed/certmond.conf")
    closed = node.path("closed")
    closed.symlink_to("closed")
    turn = bench.enforcer.restarting.turn
    assert str(turn.wait_for_others()).startswith("/closed/certmond.conf could not be read (")
    closed.unlink()
    with ApiServer(bench.place) as api:
        closed.mkdir()
        (closed / "certmond.conf").write_bytes(Path(api.kubeconfig).read_bytes())
        assert turn.wait_for_others() is None
        (closed / "certmond.conf").unlink()
        closed.rmdir()
        closed.symlink_to("closed")
        turn.give_back()
    assert str(turn.wait_for_others()).startswith("/closed/certmond.conf could not be read (")


@pytest.mark.parametrize(("without_api", "runs"), [("hold", 0), ("go_on", 1)])
def test_where_the_api_is_away_the_configuration_says_what_to_do(
    node: Node, tmp_path_factory: pytest.TempPathFactory, without_api: str, runs: int
) -> None:
    """To wait, or to go on alone. What has begun is brought to its end either way."""
    if os.geteuid():
        unavailable("root, whose files a node's are")
    bench = Bench(node, tmp_path_factory.mktemp("bench"), without_api=without_api)
    bench.turn.away, bench.turn.ours = True, False
    message = told(bench.step()).message
    assert len(bench.runs) == runs
    if not runs:
        assert message == (
            "waits for its turn: the API does not answer; it is waited for (`without_api: go_on` would not)"
        )  # fmt: skip
        bench.turn.away, bench.turn.ours = False, True
        bench.step()
        bench.turn.away = True
    assert told(bench.step(2)).message == "is well, 1 of 3"


def test_what_it_serves_has_to_be_what_is_on_disk(bench: Bench) -> None:
    """Another certificate, and none at all, are no proof."""
    bench.step()
    own = bench.node.certificate(CRT[1:]).public_bytes(Encoding.DER)
    other = bench.node.certificate(f"{PKI}/apiserver.crt").public_bytes(Encoding.DER)
    now = datetime.now(UTC)
    said: Mapping[str, Seen] = {
        f"is waited for: {AT} serves another certificate than {CRT}": Served(other, "TLSv1.3", now),
        f"is waited for: {AT} serves none: the connection was refused": Unserved("the connection was refused", now),
        "is well, 1 of 3": Served(own, "TLSv1.3", now),
    }
    for seconds, (message, served) in enumerate(said.items(), 2):
        assert told(bench.step(seconds, served=served)).message == message


def test_a_service_that_has_left_the_configuration_is_left_alone(bench: Bench) -> None:
    """What was under way is over."""
    History(bench.state).remember(Past("gone", Episode("gone", (), "x", datetime.now(UTC))))
    done = told(bench.step(plan=Plan()))
    assert (done.service, done.result) == ("gone", Result.REFUSED)
    assert bench.restarting.under_way() is None


def test_one_at_a_time(bench: Bench) -> None:
    """What is under way goes first, whatever is planned; and nothing is done while somebody else is writing."""
    with Transactions(str(bench.node.root), bench.state).lock(), pytest.raises(BusyError):
        bench.step()
    assert bench.runs == []
    bench.step()
    other = bench.service.model_copy(update={"name": "other"})
    planned = Plan((Restart(other, (), Cause.ASKED, "asked for"),))
    assert told(bench.step(2, plan=planned)).service == "hook"


def test_without_a_look_nothing_is_done(bench: Bench) -> None:
    """Below another root than / nothing runs that could be restarted."""
    seen = look(bench.config, str(bench.node.root), datetime.now(UTC))
    around = Surroundings(bench.config.services)
    assert bench.restarting.step(bench.planned(), seen, around, bench.enforcer.neighbourhood) is None
