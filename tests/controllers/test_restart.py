"""Restarts, executed step by step with a real program on a real tree: recorded, under the lock, and continued."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.cli.options import assess_node
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.restart import Progress, RestartController, _RestartStep
from certmond.controllers.restart_lock import RestartLock, SingleNodeLock
from certmond.daemon.enforcer import Enforcer
from certmond.errors import BusyError, TriedError, UnreachableError, WriteError
from certmond.files.catalog_observer import Store
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.planning.steps import Cause, Plan, Restart
from certmond.pki.services.restart_episode import Episode, Past, Result, Stage, Target
from certmond.pki.services.service_observation import Content, Live, ServiceSeen, Survey
from certmond.pki.services.staleness import Surroundings
from certmond.restart.act import Restarter
from certmond.restart.history import History
from certmond.restart.rollback import PreviousFiles
from certmond.services.pid_file import service_state
from certmond.state.archive import Archive
from certmond.transaction.commit import Transactions
from certmond.transaction.dirfd import digest
from tests.assessments import status_in
from tests.cluster.api_server import ApiServer
from tests.cluster.patience import be_patient
from tests.conftest import unavailable
from tests.deadline import DEADLINE
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


class Turns(SingleNodeLock):
    """The restart lock, as the test sets it."""

    def __init__(self) -> None:
        self.because: str | None = None
        self.away = False
        self.own_side = True
        self.given_back = 0
        self.renews = False
        self.marks: list[str | None] = []
        self.node: str | None = None

    def take(self, *, renews: bool = False) -> str | None:
        self.renews = renews
        if self.away:
            raise UnreachableError("the API does not answer")
        return self.because

    def keep(self) -> None:
        if self.away:
            raise UnreachableError("the API does not answer")

    @property
    def held(self) -> bool:  # type: ignore[override]  # the protocol's
        return self.own_side

    def node_problem(self) -> str | None:
        return self.node

    def give_back(self, mark: str | None = None) -> None:
        self.given_back += 1
        self.marks.append(mark)


class Bench:
    """A node whose front-proxy-client is put into use by a program; the test sets the results of probes. Only the steps
    move the clock of certmond.
    """

    def __init__(self, node: Node, place: Path, **cluster: str) -> None:
        self.node, self.place, self.state = node, place, place / "state"
        (place / "runs").mkdir()
        program = place / "act"
        program.write_text(PROGRAM.format(runs=place / "runs", state=self.state, root=node.root, crt=CRT))
        program.chmod(0o755)
        limit = f"{DEADLINE:g}s"
        service = {"name": "hook", "kind": "command", "command": [str(program)], "health": HEALTH, "time_limit": limit}
        self.configure(service, **cluster)
        self.turn = Turns()
        self.age = 10 * SECOND
        self.now = datetime.now(UTC)
        self.pods: dict[str, ServiceSeen] = {}
        self.again()

    def configure(self, service: Mapping[str, object], **cluster: str) -> None:
        document = {"services": [service], "cluster": cluster, "certificates": [
            {"name": "front-proxy-client", "consumers": "hook"}]}  # fmt: skip
        self.config: Config = parse([Source("test", yaml.safe_dump(document))])

    def again(self) -> RestartController:
        """Another process."""
        audit = Audit(Journal("none"), self.state, "daemon")

        def clock() -> datetime:
            return self.now

        self.enforcer = Enforcer(
            self.config, root=str(self.node.root), state_dir=self.state, audit=audit, clock=clock, acting=True
        )
        self.former = PreviousFiles(self.config, str(self.node.root), self.state, clock)
        turn: RestartLock = self.turn
        self.restarting = RestartController(
            self.config, self.enforcer.executor, History(self.state), self.former, audit, lock=turn, alive=lambda: None
        )
        return self.restarting

    @property
    def service(self) -> ServiceSpec:
        return next(each for each in self.config.services if each.name == "hook")

    def contents(self) -> dict[str, Content]:
        since = self.now - self.age
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
        """Make one step, with a scan that began `after` seconds from now."""
        self.now += SECOND / 1000
        at = self.now + after * SECOND
        there = {AT: served} if served else {}
        survey = Survey(serving={AT: ("hook", CRT)} if served else {}, health={"hook": (HEALTH,)} if seen else {})
        live = Live(at, self.pods, there, {HEALTH: ill})
        around = Surroundings(self.config.services, survey, live, self.contents(), self.restarting.past())
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(_RestartStep, "_now", lambda _: self.now)
            return self.restarting.step(
                self.planned() if plan is None else plan,
                self.assessment(around),
                around,
                self.enforcer.surroundings_observer,
            )

    def assessment(self, around: Surroundings) -> Assessment:
        inventory = Store(self.config.certificates, str(self.node.root)).observe()
        return assess(inventory, datetime(2026, 12, 1, tzinfo=UTC), around=around)

    @property
    def runs(self) -> list[tuple[Episode, bytes]]:
        """Return the state at each run of the program: the record, and the certificate."""
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


def reported(progress: Progress | None) -> Progress:
    assert progress
    return progress


@pytest.mark.long
def test_a_restart_is_recorded_executed_and_proven(bench: Bench) -> None:
    """The record of the act exists before the act. The record after the proof has the contents for which the service
    was restarted.
    """
    first = reported(bench.step())
    assert (first.service, first.message, first.result) == ("hook", f"{bench.place}/act has run", None)
    ((record, _),) = bench.runs
    assert (record.stage, record.attempt, record.well_before) == (Stage.ACT, 1, (HEALTH,))
    assert [reported(bench.step(seconds)).message for seconds in (2, 4, 6)] == [
        "is healthy in 1 of 3 checks", "is healthy in 2 of 3 checks", "is healthy in 3 of 3 checks"
    ]  # fmt: skip
    assert reported(bench.step(20)).message == "must stay healthy for some time"
    done = reported(bench.step(40))
    assert (done.result, done.message, done.until) == (Result.PROVEN, "hook uses the new front-proxy-client", None)
    assert (bench.past.episode, bench.past.result, bench.past.contents) == (
        None, Result.PROVEN, bench.target().contents
    )  # fmt: skip
    assert (bench.past.targets, bench.turn.given_back) == (("front-proxy-client",), 1)
    assert len(bench.runs) == 1
    assert [event for event, _ in bench.trail()] == ["step_begun", "step_done"]
    assert bench.step(plan=Plan()) is None


def test_nothing_is_begun_while_files_change(bench: Bench) -> None:
    """certmond waits until no file has changed for three seconds: one restart then covers all files of a writer."""
    bench.age = SECOND
    first = reported(bench.step())
    assert (first.message, first.result) == ("waits for its files to stop changing", None)
    assert first.until
    assert bench.runs == []
    bench.age = 4 * SECOND
    bench.step()
    assert len(bench.runs) == 1


@pytest.mark.long
def test_a_service_that_ended_with_another_is_proven_as_well(bench: Bench) -> None:
    """The scheduler ends with the API server: it is not restarted again, and still needs a proof."""
    scheduler = next(each for each in bench.config.services if each.name == "kube-scheduler")
    other = Restart(scheduler, (bench.target(),), Cause.RESTART_PENDING, "it is older, too", "scheduler-1")
    plan = Plan((*bench.planned().steps, other))
    bench.pods = {"kube-scheduler": ServiceSeen(True, "scheduler-1")}
    bench.step(plan=plan)
    bench.pods = {"kube-scheduler": ServiceSeen(running=False)}
    for seconds in (2, 4, 6):
        bench.step(seconds, plan=plan)
    assert reported(bench.step(40, plan=plan)).result is Result.PROVEN
    assert bench.turn.given_back == 0
    waiting = reported(bench.step(41, plan=plan))
    assert (waiting.service, waiting.message) == ("kube-scheduler", "is not verified yet: kube-scheduler does not run")
    bench.pods = {"kube-scheduler": ServiceSeen(True, "scheduler-2")}
    ends = [reported(bench.step(seconds, plan=plan)).result for seconds in (42, 44, 46, 80)]
    assert ends == [None, None, None, Result.PROVEN]
    assert bench.turn.given_back == 1
    assert len(bench.runs) == 1


@pytest.mark.long
def test_a_failed_restart_is_repeated_and_then_tried_with_the_old_files(bench: Bench) -> None:
    """The third act follows only after the old files are in place. Then the failure of the new certificate is
    reported.
    """
    with Transactions(str(bench.node.root), bench.state).lock():
        known = Surroundings(bench.config.services, Survey(), Live(bench.now), bench.contents())
        bench.former.archive(bench.former.unarchived(bench.assessment(known).statuses), {})
    former = bench.node.read(CRT[1:])
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    bad = bench.node.read(CRT[1:])
    bench.step()
    assert reported(bench.step(2, ill="it is ill")).message == "is not verified yet: it is ill"
    bench.step(300, ill="it is ill")
    assert [certificate for _, certificate in bench.runs] == [bad, bad]
    back = reported(bench.step(300, ill="it is ill"))
    assert back.message.startswith(f"certmond restored {CRT} to its state before ")
    assert (len(bench.runs), bench.node.read(CRT[1:])) == (2, former)
    bench.again()  # and the next process continues
    bench.step(1)
    assert [certificate for _, certificate in bench.runs] == [bad, bad, former]
    changed_at = datetime.fromtimestamp(bench.node.path(CRT[1:]).stat().st_ctime, UTC)
    assert bench.runs[-1][0].put_back_at == changed_at
    for seconds in (2, 4, 6):
        bench.step(seconds)
    done = reported(bench.step(40))
    assert done.result is Result.TAKEN_BACK
    assert bench.past.failure({path: each.sha256 for path, each in bench.contents().items()}) == done.message
    assert ("step_failed", "taken_back") in bench.trail()


def test_files_are_archived_for_a_rollback_only_after_their_proof(bench: Bench) -> None:
    """The daemon keeps no file before, because that file may be the defect."""

    def kept() -> tuple[str, ...]:
        known = Surroundings(
            bench.config.services, Survey(), Live(bench.now), bench.contents(), bench.restarting.past()
        )
        bench.enforcer.record_good_files(bench.assessment(known), known)
        return Archive(bench.state).names()

    bench.step()
    assert kept() == ()
    for seconds in (2, 4, 6):
        bench.step(seconds)
    assert kept() == ()
    assert reported(bench.step(40)).result is Result.PROVEN
    assert kept() == ("front-proxy-client",)


def test_without_old_files_an_operator_must_act(bench: Bench) -> None:
    """The message has the reason."""
    bench.step()
    bench.step(300, ill="it is ill")
    done = reported(bench.step(300, ill="it is ill"))
    assert done.result is Result.FAILED
    assert done.message == (
        "hook did not become healthy (it is ill), and certmond did not restore the previous files: "
        "the archive has no previous generation of front-proxy-client that is still valid"
    )
    assert len(bench.runs) == 2


def test_a_failed_act_is_judged_by_its_effect(bench: Bench) -> None:
    """The act may have had its effect or not. Its output is not repeated, because it may be secret."""
    (bench.place / "broken").touch()
    done = reported(bench.step())
    assert (done.result, done.message) == (
        None,
        f"{bench.place}/act exited with status 3; run this program to see the cause",
    )
    assert bench.past.episode
    assert bench.past.episode.stage is Stage.PROVE


def test_a_failed_act_without_a_visible_effect_is_reported(bench: Bench) -> None:
    """certmond does not repeat it for the same files."""
    (bench.place / "broken").touch()
    done = reported(bench.step(seen=False))
    message = f"hook was not restarted: {bench.place}/act exited with status 3; run this program to see the cause"
    assert (done.result, done.message) == (Result.FAILED, message)
    assert bench.past.failure(bench.target().contents) == message


@pytest.mark.parametrize(
    ("program", "limit", "said"),
    [
        ("sleep", SECOND / 2, "did not end within 0.5 s; find what the program waits for, or set a longer time_limit"),
        ("yes", DEADLINE * SECOND, "wrote more than 1048576 bytes to standard output; reduce this output"),
    ],
)
def test_the_message_of_a_terminated_program_has_the_remedy(
    bench: Bench, program: str, limit: timedelta, said: str
) -> None:
    """The message also fits a program that restarts something."""
    command = f"/usr/bin/{program}"
    service = replace(bench.service, command=(command, "infinity"), time_limit=limit)
    with pytest.raises(TriedError) as tried:
        Restarter().act(service, "", None, revive=False)
    assert str(tried.value) == f"{command} did not complete ({command} {said})"


# --- a program that only requests a restart, as sm-restart does -------------------------------------------------------


class Managed:
    """A process with a PID file, and a program that asks a service manager to restart the process."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.file = bench, bench.place / "hook.pid"
        self.processes: list[subprocess.Popen[bytes]] = []
        command = [str(bench.place / "act")]
        bench.configure({"name": "hook", "kind": "command", "command": command, "pid_file": str(self.file)})
        bench.again()

    def start(self) -> None:
        """Start the process, as the service manager does, and write its PID file."""
        self.processes.append(subprocess.Popen(["sleep", "infinity"]))
        self.file.write_text(f"{self.processes[-1].pid}\n")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def step(self, after: float = 0) -> Progress:
        seen = self.bench.pods["hook"] = service_state(str(self.file))
        step = Restart(self.bench.service, (self.bench.target(),), Cause.RESTART_PENDING, "it is older", seen.instance)
        return reported(self.bench.step(after, plan=Plan((step,)), seen=False))


@pytest.fixture
def managed(bench: Bench) -> Iterator[Managed]:
    found = Managed(bench)
    found.start()
    yield found
    found.stop()


def test_a_requested_restart_is_proven_by_a_new_process(managed: Managed) -> None:
    """The program returns before the restart. The restart is proven after three observations of another process."""
    assert managed.step().message == f"{managed.bench.place}/act has run"
    managed.step(2)
    episode = managed.bench.past.episode
    assert episode
    assert episode.trouble == "hook has not been restarted yet"
    managed.stop()
    managed.step(3)
    episode = managed.bench.past.episode
    assert episode
    assert episode.trouble == f"hook does not run: {service_state(str(managed.file)).problem}"
    managed.start()
    results = [managed.step(after).result for after in (4, 6, 40)]
    assert results == [None, None, Result.PROVEN]
    assert managed.bench.past.message == "hook uses the new front-proxy-client"
    assert len(managed.bench.runs) == 1


def test_a_requested_restart_without_an_effect_has_failed(managed: Managed) -> None:
    """A program that returns 0 proves nothing: the same process still runs after `ready_within`."""
    managed.step()
    done = managed.step(300)
    assert (done.result, done.message) == (
        Result.FAILED, "certmond requested a restart of hook, but the same process still runs",
    )  # fmt: skip
    assert len(managed.bench.runs) == 1


def test_a_restart_is_unproven_if_the_pid_file_becomes_unusable(managed: Managed) -> None:
    """An unknown process is no proof. The message names the file."""
    managed.step()
    managed.file.write_text("")
    done = managed.step(300)
    assert done.result is Result.UNPROVEN
    assert done.message.endswith(f"its state is unknown (certmond cannot observe hook: {managed.file} contains no PID)")


def test_a_failed_request_is_judged_by_the_process(managed: Managed) -> None:
    """The exit status of the program says nothing about a process that certmond observes."""
    (managed.bench.place / "broken").touch()
    assert managed.step().result is None
    managed.stop()
    managed.start()
    assert [managed.step(after).result for after in (4, 6, 40)][-1] is Result.PROVEN


@pytest.mark.parametrize("exists", [False, True])
def test_a_service_that_does_not_run_is_not_restarted(managed: Managed, exists: bool) -> None:
    """The program does not run if the service does not run on this node, such as HAProxy on a standby controller."""
    managed.stop()
    problem = service_state(str(managed.file)).problem
    if not exists:
        managed.file.unlink()
        problem = f"{managed.file} does not exist, so the service does not run"
    done = managed.step()
    assert (done.result, done.message) == (Result.REFUSED, f"hook was not restarted: {problem}")
    assert managed.bench.runs == []


def test_files_that_change_again_end_the_restart_of_the_old_ones(bench: Bench) -> None:
    """The new files have a separate restart, and are not rolled back."""
    bench.step()
    plan = bench.planned()
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    done = reported(bench.step(2, ill="it is ill", plan=plan))
    assert done.result is Result.SUPERSEDED
    assert (bench.past.contents, bench.past.again) == ({}, False)
    bench.step(3)
    assert len(bench.runs) == 2
    plan = bench.planned()
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    done = reported(bench.step(4, ill="it is ill", plan=plan))
    assert (done.result, bench.past.again) == (Result.SUPERSEDED, True)


def test_an_act_that_cannot_be_recorded_is_repeated_a_few_times_only(bench: Bench) -> None:
    """A process that finds the record of an unfinished act repeats the act, up to a limit."""
    begun = Episode("hook", (bench.target(),), "it is older", bench.now, well_before=(HEALTH,))
    results = []
    for acts in range(6):
        History(bench.state).store(Past("hook", replace(begun, acts=acts)))
        results.append(reported(bench.step(1, plan=Plan())).result)
    assert results == [None] * 4 + [Result.FAILED] * 2


def test_without_a_record_nothing_is_done(bench: Bench) -> None:
    """On a full disk the act would be repeated without limit."""
    bench.state.mkdir(exist_ok=True)
    (bench.state / "restarts.json").mkdir()
    with pytest.raises(WriteError):
        bench.step()
    assert bench.runs == []


@pytest.mark.long
def test_a_scan_from_before_the_last_restart_shows_nothing(bench: Bench) -> None:
    """It may show the state before that."""
    History(bench.state).store(Past("hook", None, bench.now, Result.SUPERSEDED))
    first = reported(bench.step(-1))
    assert (first.message, bench.runs) == ("is checked again", [])


def test_the_successor_of_a_killed_process_does_not_assume_an_act(bench: Bench) -> None:
    """A failed act is then no failure of the restart: the next probe decides."""
    begun = Episode("hook", (bench.target(),), "it is older", bench.now, well_before=(HEALTH,))
    History(bench.state).store(Past("hook", begun))
    (bench.place / "broken").touch()
    progress = reported(bench.step(1, plan=Plan()))
    assert progress.result is None
    assert "exited with status 3" in progress.message
    assert bench.past.episode
    assert bench.past.episode.stage is Stage.PROVE


def test_an_old_scan_is_repeated_before_a_restart(bench: Bench) -> None:
    """The service may have been restarted since the scan, so nothing is restarted for it."""
    assert reported(bench.step(-6)).message == "is checked again"
    assert bench.runs == []
    assert bench.restarting.under_way() is None


def test_nothing_begins_without_the_restart_lock(bench: Bench) -> None:
    """A restart waits for the lock and then begins. The successor of a killed process waits, too."""
    bench.turn.because = "controller-1 holds it"
    waits = reported(bench.step())
    assert (waits.message, waits.result) == ("waits for the restart lock: controller-1 holds it", None)
    assert waits.until
    begun = Episode("hook", (bench.target(),), "it is older", bench.now, well_before=(HEALTH,))
    History(bench.state).store(Past("hook", begun))
    assert reported(bench.step()).message == "waits for the restart lock: controller-1 holds it"
    assert bench.runs == []
    bench.turn.because = None
    bench.step()
    assert len(bench.runs) == 1


def test_a_lost_lock_stops_the_first_act_and_no_later_one(bench: Bench) -> None:
    """A partial restart is worse than a late one."""
    bench.turn.own_side = False
    done = reported(bench.step())
    refused = "hook was not restarted: this node lost the restart lock before the restart"
    assert (done.result, done.message) == (Result.REFUSED, refused)
    assert bench.runs == []
    bench.turn.own_side = True
    bench.step()
    bench.turn.own_side, bench.turn.because = False, "controller-1 holds it"
    bench.step(300, ill="it is ill")
    assert len(bench.runs) == 2
    assert ("step_held", "") in bench.trail()


def test_the_lock_finds_its_kubeconfig_when_it_is_requested(
    node: Node, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lookup is repeated each time. If the file cannot be found, nothing begins, the message has the reason, and a
    held lock is released silently. After the lookup succeeds, the API is called.
    """
    if os.geteuid():
        unavailable("root, whose files a node's are")
    bench = Bench(node, tmp_path_factory.mktemp("bench"), kubeconfig="/closed/certmond.conf")
    closed = node.path("closed")
    closed.symlink_to("closed")
    turn = bench.enforcer.restarting.lock
    assert str(turn.wait_for_others()).startswith("/closed/certmond.conf could not be read (")
    closed.unlink()
    be_patient(monkeypatch)
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
def test_without_the_api_the_configuration_decides(
    node: Node, tmp_path_factory: pytest.TempPathFactory, without_api: str, runs: int
) -> None:
    """The restart waits or proceeds without the lock. A restart that has begun is completed in both cases."""
    if os.geteuid():
        unavailable("root, whose files a node's are")
    bench = Bench(node, tmp_path_factory.mktemp("bench"), without_api=without_api)
    bench.turn.away, bench.turn.own_side = True, False
    message = reported(bench.step()).message
    assert len(bench.runs) == runs
    if not runs:
        assert message == (
            "waits for the restart lock: the API does not answer; certmond waits for the API server "
            "(to restart without the lock, set `cluster.without_api: go_on`)"
        )  # fmt: skip
        bench.turn.away, bench.turn.own_side = False, True
        bench.step()
        bench.turn.away = True
    assert reported(bench.step(2)).message == "is healthy in 1 of 3 checks"


def test_the_served_certificate_must_be_the_one_on_disk(bench: Bench) -> None:
    """Another certificate, or none at all, is no proof."""
    bench.step()
    own = bench.node.certificate(CRT[1:]).public_bytes(Encoding.DER)
    other = bench.node.certificate(f"{PKI}/apiserver.crt").public_bytes(Encoding.DER)
    now = bench.now
    said: Mapping[str, Seen] = {
        f"is not verified yet: {AT} serves a certificate other than the certificate in {CRT}": Served(
            other, "TLSv1.3", now
        ),
        f"is not verified yet: {AT} serves no certificate: it refused": Unserved("it refused", now),
        "is healthy in 1 of 3 checks": Served(own, "TLSv1.3", now),
    }
    for seconds, (message, served) in enumerate(said.items(), 2):
        assert reported(bench.step(seconds, served=served)).message == message


def test_a_service_that_left_the_configuration_is_left_alone(bench: Bench) -> None:
    """Its restart ends."""
    History(bench.state).store(Past("gone", Episode("gone", (), "x", bench.now)))
    done = reported(bench.step(plan=Plan()))
    assert (done.service, done.result) == ("gone", Result.REFUSED)
    assert bench.restarting.under_way() is None


def test_one_at_a_time(bench: Bench) -> None:
    """A restart that is under way precedes each planned one, and nothing is done while another process writes."""
    with Transactions(str(bench.node.root), bench.state).lock(), pytest.raises(BusyError):
        bench.step()
    assert bench.runs == []
    bench.step()
    other = replace(bench.service, name="other")
    planned = Plan((Restart(other, (), Cause.ASKED, "is requested"),))
    assert reported(bench.step(2, plan=planned)).service == "hook"


def test_without_a_look_nothing_is_done(bench: Bench) -> None:
    """Below another root than / nothing runs that could be restarted."""
    seen = assess_node(bench.config, str(bench.node.root), bench.now)
    around = Surroundings(bench.config.services)
    assert bench.restarting.step(bench.planned(), seen, around, bench.enforcer.surroundings_observer) is None


# --- a service that issues its certificates again at its start --------------------------------------------------------


def renewing(bench: Bench) -> Plan:
    """A plan in which the service must issue a certificate with a later end."""
    target = replace(bench.target(), ends_at=datetime(2027, 1, 1, tzinfo=UTC))
    other = Target("sa", f"/{PKI}/sa.pub", {}, datetime(2027, 1, 1, tzinfo=UTC))
    return Plan((Restart(bench.service, (target, other), Cause.RENEWED_AT_START, "it is due"),))


def test_a_service_that_replaces_its_own_files_completes_its_restart(bench: Bench) -> None:
    """The change of its files is the aim of the restart, which does not end. The record has the certificates that the
    service has not issued again.
    """
    bench.step(plan=renewing(bench))
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
    assert reported(bench.step(2)).message == "is not verified yet: it has not issued sa again"
    done = reported(bench.step(300))
    assert (done.result, done.message) == (Result.FAILED, "hook was restarted, but it has not issued sa again")
    assert (bench.past.targets, bench.past.contents) == (("sa",), {})
    assert len(bench.runs) == 1
    assert bench.node.read(CRT[1:]) != bench.runs[0][1]


@pytest.mark.long
def test_a_renewal_at_a_start_is_proven(bench: Bench) -> None:
    """A certificate that the service does not replace is a trouble, until it does."""
    plan = renewing(bench)
    (step,) = plan.steps
    assert isinstance(step, Restart)
    end = status_in(bench.assessment(Surroundings()), "front-proxy-client", CRT).certificate
    assert end
    only = replace(step, targets=(replace(bench.target(), ends_at=end.not_after),))
    bench.step(plan=Plan((only,)))
    assert "it has not issued front-proxy-client again" in reported(bench.step(2)).message
    later = end.not_after + timedelta(days=1)
    bench.node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca", end=later)
    bench.turn.node = "the Node node-1 is not Ready"
    assert reported(bench.step(3)).message == "is not verified yet: the Node node-1 is not Ready"
    bench.turn.node = None
    for seconds in (4, 6, 8):
        bench.step(seconds)
    done = reported(bench.step(60))
    assert (done.result, done.message) == (
        Result.PROVEN, "hook has issued front-proxy-client again, and is healthy"
    )  # fmt: skip
    assert bench.past.contents == bench.target().contents


def test_other_nodes_learn_the_result_of_a_renewal(bench: Bench) -> None:
    """The mark of this node has the reason of a failure. A restart that did not begin removes the mark."""
    bench.step(plan=renewing(bench))
    assert bench.turn.renews
    assert bench.turn.marks == []
    done = reported(bench.step(300))
    assert done.message == "hook was restarted, but it has not issued sa again"
    bench.turn.own_side = False
    assert reported(bench.step(400, plan=renewing(bench))).result is Result.REFUSED
    assert bench.turn.marks == [done.message, ""]


def test_a_proven_restart_removes_the_mark(bench: Bench) -> None:
    """Any restart shows that the server came back, also one for another reason."""
    bench.step()
    assert not bench.turn.renews
    for seconds in (2, 4, 6, 60):
        bench.step(seconds)
    assert bench.turn.marks == [""]
