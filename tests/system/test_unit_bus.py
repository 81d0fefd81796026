"""The D-Bus calls to a real systemd: the running units, and the result of a restart or a reload."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from certmond.pki.services.service_observation import ServiceSeen
from tests.deadline import DEADLINE
from tests.system.machine import PREFIX, Machine, booted, install

pytestmark = pytest.mark.real("systemd")

ASK = "/usr/lib/certmond-ask.py"
ASKING = """
import json, sys
from dataclasses import asdict
from certmond.errors import RestartError
from certmond.services import systemd_client as units

class OverAtOnce(units.Bus):
    def __setattr__(self, name, value):
        # The first deadline is that of the request for the job, and the second one that of the job.
        is_second = name == "deadline" and hasattr(self, "deadline")
        super().__setattr__(name, units.time.monotonic() if is_second else value)

Bus = units.Bus
for question in json.loads(sys.argv[1]):
    if isinstance(question, list):
        answer = {unit: asdict(seen) for unit, seen in units.unit_states(question, limit=60).items()}  # it may be busy
    else:
        units.Bus = OverAtOnce if question.pop("over", False) else Bus
        try:
            answer = asdict(units.restart(**question, alive=lambda: None))
        except RestartError as error:
            answer = {"result": "refused", "message": str(error)}
    print(json.dumps(answer, default=lambda moment: moment.isoformat()))
"""
SLEEP = "/usr/bin/sleep 1000"
FLAG = "/run/certmond-test-flag"
UNITS = {
    "plain.service": f"[Service]\nExecStart={SLEEP}\nExecReload=/usr/bin/touch /run/reloaded\n",
    "bad-reload.service": f"[Service]\nExecStart={SLEEP}\nExecReload=/usr/bin/false\n",
    # Starts for as long as the flag is there.
    "fragile.service": f"[Service]\nType=exec\nExecStartPre=/usr/bin/test -e {FLAG}\nExecStart={SLEEP}\n",
    "conditional.service": f"[Unit]\nConditionPathExists={FLAG}\n[Service]\nExecStart={SLEEP}\n",
    "limited.service": f"[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1h\n[Service]\nExecStart={SLEEP}\n",
    "mute.service": (
        f"[Service]\nType=notify\nNotifyAccess=all\nTimeoutStartSec=1h\n"
        f"ExecStart=/bin/sh -c 'test -e {FLAG} && systemd-notify --ready; exec {SLEEP}'\n"
    ),
    "brief.service": f"[Service]\nExecStart=/bin/sh -c 'while test -e {FLAG}; do sleep .1; done'\n",
    "wanting.target": "[Unit]\nWants=brief.service\n",
    "over.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n",
    # No PID file, and two processes that are left: systemd does not know which of them is the main one.
    "forking.service": f"[Service]\nType=forking\nGuessMainPID=no\nExecStart=/bin/sh -c '{SLEEP} & {SLEEP} &'\n",
    "slow-end.service": (
        f"[Service]\nTimeoutStopSec=1h\nExecStart={SLEEP}\n"
        f"ExecStop=/bin/sh -c 'while test -e {FLAG}; do sleep .1; done'\n"
    ),
    "crowd@.service": f"[Service]\nExecStart={SLEEP}\n",
}
ALL = [name for name in UNITS if "@" not in name]


@pytest.fixture(scope="module")
def booted_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        install(machine)
        machine.path(ASK).write_text(ASKING)
        for name, text in UNITS.items():
            machine.path(f"/etc/systemd/system/{name}").write_text(text)
        machine.path("/etc/systemd/system/masked.service").symlink_to("/dev/null")
        machine.systemctl("daemon-reload")
        yield machine


@pytest.fixture
def machine(booted_machine: Machine) -> Machine:
    """All units are stopped, none has failed, and the flag is there."""
    booted_machine.path(FLAG).unlink(missing_ok=True)
    booted_machine.systemctl("stop", *ALL)
    booted_machine.attempt("systemctl", "reset-failed")
    booted_machine.path(FLAG).touch()
    return booted_machine


def ask(machine: Machine, *questions: Any, user: int = 0) -> list[Any]:
    """Return the results of certmond's calls on the machine: a list of units is probed, and a mapping has the arguments
    of a restart.
    """
    identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    lines = machine.run(*identity, f"{PREFIX}/bin/python3", ASK, json.dumps(questions)).splitlines()
    return [json.loads(line) for line in lines]


def look(machine: Machine, *units: str) -> list[ServiceSeen]:
    (answer,) = ask(machine, list(units))
    assert list(answer) == list(units)
    for seen in answer.values():
        seen["command"] = tuple(seen["command"])
        seen["started_at"] = seen["started_at"] and datetime.fromisoformat(seen["started_at"])
    return [ServiceSeen(**seen) for seen in answer.values()]


def restart(machine: Machine, unit: str, *, reload: bool = False, over: bool = False, user: int = 0) -> tuple[str, str]:
    """Return the result of a restart or a reload. With `over`, its limit is over when systemd has accepted the job."""
    (answer,) = ask(machine, {"unit": unit, "reload": reload, "limit": DEADLINE, "over": over}, user=user)
    return answer["result"], answer["message"]


@contextmanager
def restarting(machine: Machine, unit: str) -> Iterator[Callable[[], str]]:
    """A restart that is on its way, up to the start that does not end by itself; at last, its result."""
    question = json.dumps([{"unit": unit, "reload": False, "limit": DEADLINE}])
    command = machine.command(f"{PREFIX}/bin/python3", ASK, question)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        machine.until(lambda: machine.property(unit, "ActiveState") == "activating", "it is starting")
        yield lambda: json.loads(waiting.communicate()[0])["result"]


# --- What runs --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_running_unit_has_its_instance_and_its_process(machine: Machine) -> None:
    """The instance is systemd's InvocationID, the start is that of the main process in UTC, and the command is its
    own.
    """
    before = datetime.now(UTC)
    machine.systemctl("start", "plain.service")
    (seen,) = look(machine, "plain.service")
    assert seen.running is True
    assert seen.instance == machine.property("plain.service", "InvocationID") != ""
    assert seen.started_at is not None
    assert before <= seen.started_at <= datetime.now(UTC)
    assert seen.command == ("/usr/bin/sleep", "1000")
    assert (seen.failed, seen.problem) == (False, None)


@pytest.mark.long
def test_a_unit_without_processes_does_not_run(machine: Machine) -> None:
    """What never ran, what is masked, a oneshot that is over, a target and a listening socket hold no certificate."""
    machine.systemctl("start", "over.service")
    units = ("plain.service", "masked.service", "over.service", "basic.target", "dbus.socket")
    assert [(seen.running, seen.failed, seen.problem) for seen in look(machine, *units)] == [(False, False, None)] * 5


@pytest.mark.long
def test_a_service_that_forked_runs_without_a_main_process(machine: Machine) -> None:
    """Where systemd knows processes but no main one the unit runs, since it was started, with no command known."""
    before = datetime.now(UTC)
    machine.systemctl("start", "forking.service")
    assert machine.property("forking.service", "MainPID") == "0"
    (seen,) = look(machine, "forking.service")
    assert (seen.running, seen.command) == (True, ())
    assert seen.started_at is not None
    assert before <= seen.started_at <= datetime.now(UTC)


@pytest.mark.long
def test_what_is_on_its_way_up_or_down_still_runs(machine: Machine) -> None:
    """A unit that is being started, or being stopped, has its process, and runs."""
    machine.path(FLAG).unlink()
    machine.systemctl("start", "--no-block", "mute.service")
    machine.until(lambda: machine.property("mute.service", "MainPID") != "0", "its process is there")
    machine.path(FLAG).touch()
    machine.systemctl("start", "slow-end.service")
    machine.systemctl("stop", "--no-block", "slow-end.service")
    machine.until(lambda: machine.property("slow-end.service", "ActiveState") == "deactivating", "it is stopping")
    assert [seen.running for seen in look(machine, "mute.service", "slow-end.service")] == [True, True]


@pytest.mark.long
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", ["stop", "kill", "term", "end"])
def test_a_unit_that_was_stopped_is_distinguished_from_one_that_ended(machine: Machine, how: str, kept: bool) -> None:
    """The unit may have failed, or ended without a failure. The latter is known while systemd keeps the unit loaded, as
    for a unit that another one wants.
    """
    machine.systemctl("start", "wanting.target" if kept else "brief.service")
    match how:
        case "stop":
            machine.systemctl("stop", "brief.service")
        case "kill" | "term":
            machine.systemctl("kill", f"--signal={how.upper()}", "brief.service")
        case _:
            machine.path(FLAG).unlink()
    machine.until(lambda: not look(machine, "brief.service")[0].running, "it does not run")
    (seen,) = look(machine, "brief.service")
    assert (seen.failed, seen.stopped) == (how == "kill", how == "stop" or (not kept and how != "kill"))


@pytest.mark.long
def test_a_unit_that_does_not_exist_is_a_problem(machine: Machine) -> None:
    """The state of a missing unit is unknown, and the problem names it. The others are known."""
    missing, other = look(machine, "missing.service", "plain.service")
    assert (missing.running, missing.absent) == (None, True)
    assert (
        missing.problem == "the unit missing.service does not exist; correct the name of the unit in the configuration"
    )
    assert other.running is False


@pytest.mark.long
def test_a_unit_whose_file_was_removed_still_runs(machine: Machine) -> None:
    """A unit that continues without its file exists."""
    file = machine.path("/run/systemd/system/fleeting.service")
    file.write_text(f"[Service]\nExecStart={SLEEP}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "fleeting.service")
    file.unlink()
    machine.systemctl("daemon-reload")
    try:
        assert machine.property("fleeting.service", "LoadState") == "not-found"
        assert [seen.running for seen in look(machine, "fleeting.service")] == [True]
    finally:
        machine.systemctl("stop", "fleeting.service")


@pytest.mark.long
def test_fifty_units_are_probed_at_once(machine: Machine) -> None:
    """One probe reads fifty units, each with its instance."""
    units = [f"crowd@{number}.service" for number in range(50)]
    machine.systemctl("start", *units)
    found = look(machine, *units)
    assert {seen.running for seen in found} == {True}
    assert len({seen.instance for seen in found}) == 50


# --- Restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_makes_another_instance(machine: Machine) -> None:
    """A running unit is restarted: "done" comes when the new process is there, another instance with a later start."""
    machine.systemctl("start", "plain.service")
    (before,) = look(machine, "plain.service")
    result, message = restart(machine, "plain.service")
    assert (result, message) == ("done", "plain.service was restarted (ActiveState active)")
    (after,) = look(machine, "plain.service")
    assert after.running is True
    assert after.instance != before.instance
    assert after.started_at is not None
    assert before.started_at is not None
    assert after.started_at > before.started_at


@pytest.mark.long
@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("before", ["never ran", "stopped", "failed"])
def test_a_unit_that_does_not_run_stays_so(machine: Machine, before: str, reload: bool) -> None:
    """A unit that never ran, was stopped or has failed is neither started nor reset, and the message reports it."""
    if before != "never ran":
        machine.systemctl("start", "plain.service")
    if before == "stopped":
        machine.systemctl("stop", "plain.service")
    if before == "failed":
        machine.systemctl("kill", "--signal=KILL", "plain.service")
        machine.until(lambda: machine.property("plain.service", "ActiveState") == "failed", "it has failed")
    state = "failed" if before == "failed" else "inactive"
    result, message = restart(machine, "plain.service", reload=reload)
    assert result == "not running"
    assert message == f"plain.service is not running (ActiveState {state}), and certmond did not start it"
    (seen,) = look(machine, "plain.service")
    assert (seen.running, seen.failed) == (False, before == "failed")


@pytest.mark.long
def test_a_unit_that_stops_between_probe_and_restart_stays_stopped(machine: Machine) -> None:
    """A unit that was running, and is stopping at the time of the restart, is stopped at the end."""
    machine.systemctl("start", "slow-end.service")
    machine.systemctl("stop", "--no-block", "slow-end.service")
    machine.until(lambda: machine.property("slow-end.service", "ActiveState") == "deactivating", "it is stopping")
    (seen,) = look(machine, "slow-end.service")
    assert seen.running is True
    result, _ = restart(machine, "slow-end.service")
    assert result == "stopping"
    machine.path(FLAG).unlink()
    machine.until(lambda: machine.property("slow-end.service", "ActiveState") == "inactive", "it has stopped")


@pytest.mark.long
def test_a_new_start_that_fails_is_reported(machine: Machine) -> None:
    """A unit that does not start again is "failed", with systemd's own reason and the next command, and is probed as
    such.
    """
    machine.systemctl("start", "fragile.service")
    machine.path(FLAG).unlink()
    result, message = restart(machine, "fragile.service")
    assert result == "failed"
    state = "ActiveState failed, Result exit-code"
    assert message == f"fragile.service: the restart ended as failed ({state}); see: journalctl -u fragile.service"
    assert look(machine, "fragile.service") == [ServiceSeen(running=False, failed=True)]


@pytest.mark.long
def test_a_condition_that_no_longer_holds_is_reported(machine: Machine) -> None:
    """A unit whose condition prevents the new start was stopped: the result is neither "done" nor nothing."""
    machine.systemctl("start", "conditional.service")
    machine.path(FLAG).unlink()
    result, message = restart(machine, "conditional.service")
    assert result == "skipped"
    assert "a condition of the unit is false (ActiveState inactive)" in message
    assert [seen.running for seen in look(machine, "conditional.service")] == [False]


@pytest.mark.long
def test_a_start_limit_is_no_obstacle(machine: Machine) -> None:
    """A unit at its start limit is restarted, again and again."""
    machine.systemctl("start", "limited.service")
    answers = ask(machine, *[{"unit": "limited.service", "reload": False}] * 4)
    assert [answer["result"] for answer in answers] == ["done"] * 4


@pytest.mark.long
def test_a_unit_that_never_gets_ready_is_not_waited_for_beyond_the_limit(machine: Machine) -> None:
    """At the limit the call returns "timeout", and the message reports that the restart may still be under way."""
    machine.systemctl("start", "mute.service")
    machine.path(FLAG).unlink()
    result, message = restart(machine, "mute.service", over=True)
    assert result == "timeout"
    fact = f"systemd did not report the end of the restart ({DEADLINE:g} s), which might still be in progress"
    assert fact in message
    assert machine.property("mute.service", "ActiveState") == "activating"


@pytest.mark.long
def test_who_cancels_a_restart_is_heard(machine: Machine) -> None:
    """A restart that another's stop takes the place of ended as "canceled"."""
    machine.systemctl("start", "mute.service")
    machine.path(FLAG).unlink()
    with restarting(machine, "mute.service") as result:
        machine.systemctl("stop", "mute.service")
        assert result() == "canceled"


@pytest.mark.long
def test_each_restart_hears_of_its_own_job(machine: Machine) -> None:
    """Twenty jobs in a row, while others come and go: each has its own result, and none that of another."""
    machine.systemctl("start", "plain.service")
    noise = "while :; do systemctl restart crowd@1.service; systemctl stop crowd@1.service; done"
    questions = [{"unit": unit, "reload": False} for unit in ("plain.service", "limited.service")] * 10
    with subprocess.Popen(machine.command("setpriv", "--pdeathsig", "KILL", "sh", "-c", noise)) as noisy:
        try:
            answers = ask(machine, *questions)
        finally:
            noisy.kill()
    assert [answer["result"] for answer in answers] == ["done", "not running"] * 10


# --- Reloads ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_reload_keeps_the_process(machine: Machine) -> None:
    """A reload runs ExecReload=, and leaves instance and main process as they are."""
    machine.path("/run/reloaded").unlink(missing_ok=True)
    machine.systemctl("start", "plain.service")
    before = machine.show("plain.service", "InvocationID", "MainPID")
    result, message = restart(machine, "plain.service", reload=True)
    assert (result, message) == ("done", "plain.service was reloaded (ActiveState active)")
    assert machine.path("/run/reloaded").exists()
    assert machine.show("plain.service", "InvocationID", "MainPID") == before


@pytest.mark.long
def test_a_reload_that_fails_is_reported(machine: Machine) -> None:
    """If ExecReload= fails the reload has failed, with systemd's reason, and the unit continues."""
    machine.systemctl("start", "bad-reload.service")
    result, message = restart(machine, "bad-reload.service", reload=True)
    assert result == "failed"
    assert "the reload ended as failed (ActiveState active, Result exit-code)" in message


@pytest.mark.long
def test_a_unit_that_cannot_reload_is_refused(machine: Machine) -> None:
    """A unit without ExecReload= is not reloaded, and is not restarted instead: that is for its operator to say."""
    machine.systemctl("start", "fragile.service")
    before = machine.property("fragile.service", "InvocationID")
    result, message = restart(machine, "fragile.service", reload=True)
    assert result == "refused"
    assert message.startswith(
        "fragile.service was not reloaded: systemd refused the request (Job type reload is not applicable"
    )
    assert message.endswith("; configure a restart instead, or add ExecReload= to the unit")
    assert machine.property("fragile.service", "InvocationID") == before


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("unit", "remedy"),
    [("missing.service", "correct the name of the unit"), ("masked.service", "unmask the unit with systemctl unmask")],
)
def test_what_cannot_be_restarted_is_refused(machine: Machine, unit: str, remedy: str) -> None:
    """A unit that does not exist, or is masked, is refused with systemd's words and a remedy."""
    result, message = restart(machine, unit)
    assert result == "refused"
    assert message.startswith(f"{unit} was not restarted: systemd refused the request (Unit {unit} ")
    assert remedy in message


@pytest.mark.long
@pytest.mark.parametrize("reload", [False, True])
def test_a_user_without_the_right_is_refused(machine: Machine, reload: bool) -> None:
    """A user other than root may read. A restart is refused, nothing is done, and the remedy is the drop-in or
    polkit.
    """
    machine.systemctl("start", "plain.service")
    before = machine.property("plain.service", "InvocationID")
    result, message = restart(machine, "plain.service", reload=reload, user=65534)
    assert result == "refused"
    assert "run certmond as root with certmond-enforce.conf" in message
    assert "a polkit rule" in message
    (seen,) = ask(machine, ["plain.service"], user=65534)
    assert seen["plain.service"]["instance"] == before


@pytest.mark.long
def test_without_a_bus_the_state_is_unknown_and_nothing_is_done(machine: Machine) -> None:
    """If no bus listens every unit is unknown, with the reason, and a restart is refused."""
    machine.systemctl("start", "plain.service")
    before = machine.property("plain.service", "InvocationID")
    machine.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        (seen,) = look(machine, "plain.service")
        result, message = restart(machine, "plain.service")
    finally:
        machine.systemctl("start", "dbus.socket")
    assert seen.running is None
    reason = "certmond cannot reach systemd over unix:path=/run/dbus/system_bus_socket"
    assert (seen.problem or "").startswith(reason)
    assert result == "refused"
    assert message.startswith(f"plain.service was not restarted: {reason}")
    assert machine.property("plain.service", "InvocationID") == before


@pytest.mark.long
def test_the_first_client_starts_the_bus(machine: Machine) -> None:
    """If a probe starts the bus, it waits for systemd, which joins the bus only then."""
    machine.systemctl("start", "plain.service")
    for _ in range(3):  # a probe that does not wait may succeed by chance
        machine.systemctl("stop", "dbus.socket", "dbus.service")
        machine.systemctl("reset-failed", "dbus.socket", "dbus.service")  # so often it may not be started otherwise
        machine.systemctl("start", "dbus.socket")
        (seen,) = look(machine, "plain.service")
        assert (seen.running, seen.problem) == (True, None)


@pytest.mark.long
def test_systemd_may_re_execute_itself_meanwhile(machine: Machine) -> None:
    """A restart during which systemd is replaced, and comes back to the bus under another name, is heard to its end."""
    machine.systemctl("start", "mute.service")
    machine.path(FLAG).unlink()
    with restarting(machine, "mute.service") as result:
        machine.systemctl("daemon-reexec")
        machine.systemctl("stop", "mute.service")
        assert result() == "canceled"
