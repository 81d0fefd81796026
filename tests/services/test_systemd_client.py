"""systemd over D-Bus, with a bus or systemd that behaves as a real one cannot be made to; any user can run it."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, Proxy, open_dbus_connection

from certmond.errors import RestartError
from certmond.pki.services.service_observation import ServiceSeen
from certmond.services.systemd_client import UnitResult, restart, unit_states
from tests.conftest import real_part
from tests.deadline import DEADLINE

UNIT = "some.service"
SYSTEMD = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", SYSTEMD, f"{SYSTEMD}.Manager")
OWN_UNITS, ANOTHER = (f"/org/freedesktop/systemd1/job/{number}" for number in (7, 8))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the limit of a call ends the wait for systemd to accept a job."""
    monkeypatch.setattr("certmond.services.systemd_client._ANSWER", DEADLINE)


# --- No bus worth the name --------------------------------------------------------------------------------------------


def silent(peer: socket.socket) -> None:
    """Accept the connection, and do nothing more."""


def deaf(peer: socket.socket) -> None:
    """Accept every client, and answer nothing."""
    peer.recv(1 << 10)
    peer.sendall(b"OK 0123456789abcdef\r\n")


def rejecting(peer: socket.socket) -> None:
    peer.recv(1 << 10)
    peer.sendall(b"REJECTED EXTERNAL\r\n")


def hanging_up(peer: socket.socket) -> None:
    peer.recv(1 << 10)
    peer.shutdown(socket.SHUT_RDWR)


def babbling(peer: socket.socket) -> None:
    """Accept every client, and then send bytes that are no D-Bus."""
    deaf(peer)
    peer.recv(1 << 10)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)


@contextmanager
def listening(place: Path, behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen on a socket with this behavior for every client. Yield its address."""
    peers: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # the end of the listener
            while True:
                peers.append(listener.accept()[0])
                behave(peers[-1])

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix:path={place}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for peer in peers:
                peer.close()
            thread.join()


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (silent, "no answer in time"),
        (deaf, "no answer in time"),
        (rejecting, "the peer does not use D-Bus, or denies access: Authentication"),
        (hanging_up, "the bus closed the connection"),
        (babbling, "the peer does not use D-Bus, or denies access: KeyError"),
    ],
)
def test_a_false_bus_is_not_waited_for(tmp_path: Path, behave: Callable[..., None], words: str) -> None:
    """If the listener is no bus, a probe reports it for each unit, a restart is refused, and neither hangs."""
    limit = 0.3 if words.startswith("no answer") else DEADLINE
    with listening(tmp_path / "bus", behave) as bus:
        seen = unit_states(["a.service", "b.service"], bus, limit)
        with pytest.raises(RestartError) as refused:
            restart(UNIT, reload=False, alive=lambda: None, bus=bus, limit=limit)
    assert list(seen) == ["a.service", "b.service"]
    for found in seen.values():
        assert found.running is None
        assert (found.problem or "").startswith(f"certmond cannot reach systemd over {bus} ({words}")
    assert str(refused.value).startswith(f"{UNIT} was not restarted: certmond cannot reach systemd over {bus} ({words}")


@pytest.mark.parametrize("reload", [False, True])
def test_without_a_bus_the_message_has_the_remedy(tmp_path: Path, reload: bool) -> None:
    """If no process listens, the reason is the kernel's error, and the message has the next command."""
    bus = f"unix:path={tmp_path}/none"
    words = f"certmond cannot reach systemd over {bus} (No such file or directory); see: systemctl status dbus.socket"
    (seen,) = unit_states([UNIT], bus, DEADLINE).values()
    assert (seen.problem or "").startswith(words)
    with pytest.raises(RestartError, match=f"^{UNIT} was not {'reloaded' if reload else 'restarted'}: ") as refused:
        restart(UNIT, reload=reload, alive=lambda: None, bus=bus, limit=DEADLINE)
    assert words in str(refused.value)


def test_an_invalid_address_is_a_problem() -> None:
    """An address that is no D-Bus address raises nothing in a probe."""
    (seen,) = unit_states([UNIT], "nowhere").values()
    assert seen.running is None


def test_nothing_is_asked_for_no_units(tmp_path: Path) -> None:
    assert unit_states([], f"unix:path={tmp_path}/none") == {}


class Enough(BaseException):
    """`alive` was called often enough."""


def test_who_waits_is_alive(tmp_path: Path) -> None:
    """While it is waited for an answer `alive` is called, again and again."""
    called: list[None] = []

    def alive() -> None:
        called.append(None)
        if len(called) > 2:
            raise Enough

    with listening(tmp_path / "bus", silent) as bus, pytest.raises(Enough):
        restart(UNIT, reload=False, alive=alive, bus=bus, limit=DEADLINE)


# --- A real bus, and a stand-in for systemd that answers as the test requires -----------------------------------------


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """A bus of the test's own."""
    address = f"unix:path={tmp_path}/bus"
    command = [real_part("dbus-daemon"), "--session", "--nofork", "--print-address", f"--address={address}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        try:
            assert daemon.stdout.readline()
            yield address
        finally:
            daemon.terminate()


Act = Callable[["Manager", Message], None]


class Manager:
    """A stand-in for systemd. `restarting` is its reaction to a restart; `asked` has the received calls."""

    def __init__(self, address: str, restarting: Act) -> None:
        self.address = address
        self.asked: list[str] = []
        self.invocation = b"\1" * 16
        self._restarting = restarting
        self.connection = self.connected()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def connected(self) -> DBusConnection:
        """Another connection, which is systemd to all from now on."""
        connection = open_dbus_connection(self.address)
        Proxy(message_bus, connection).RequestName(SYSTEMD, 2 | 1)  # replaces the present owner, and allows another one
        return connection

    def removed(self, job: str, result: str, to: str | None = None, by: DBusConnection | None = None) -> None:
        signal = new_signal(MANAGER, "JobRemoved", "uoss", (1, job, UNIT, result))
        if to is not None:
            signal.header.fields[HeaderFields.destination] = to
        (by or self.connection).send(signal)

    def reply(self, call: Message, signature: str | None = None, *values: object) -> None:
        self.connection.send(new_method_return(call, signature, values))

    def _serve(self) -> None:
        with suppress(OSError), closing(self.connection):
            while True:
                self._answer(self.connection.receive())

    def _answer(self, call: Message) -> None:
        if call.header.message_type is not MessageType.method_call:
            return
        method = call.header.fields[HeaderFields.member]
        self.asked.append(method)
        match method:
            case "LoadUnit" | "GetUnit":
                self.reply(call, "o", "/unit")
            case "GetAll":
                self.reply(call, "a{sv}", self._properties())
            case "TryRestartUnit" | "ReloadUnit":
                self._restarting(self, call)
            case _:
                self.reply(call)

    def _properties(self) -> dict[str, tuple[str, Any]]:
        return {
            "ActiveState": ("s", "active"), "SubState": ("s", "running"), "LoadState": ("s", "loaded"),
            "InvocationID": ("ay", self.invocation), "ConditionResult": ("b", True), "Result": ("s", "success"),
            "MainPID": ("u", 1), "ExecMainStartTimestamp": ("t", 1), "InactiveExitTimestamp": ("t", 1),
        }  # fmt: skip


@contextmanager
def systemd(address: str, act: Act) -> Iterator[Manager]:
    manager = Manager(address, act)
    try:
        yield manager
    finally:
        with suppress(OSError):
            manager.connection.sock.shutdown(socket.SHUT_RDWR)
        manager._thread.join()


def restarted(manager: Manager, limit: float = DEADLINE) -> UnitResult:
    return restart(UNIT, reload=False, alive=lambda: None, bus=manager.address, limit=limit)


def sender(call: Message) -> str:
    name: str = call.header.fields[HeaderFields.sender]
    return name


@pytest.mark.real("dbus-daemon")
def test_a_job_that_ends_before_it_is_named_is_heard(bus: str) -> None:
    """The end of the job may arrive before the answer that says which job it is, and after that of another."""

    def act(manager: Manager, call: Message) -> None:
        manager.invocation = b"\2" * 16
        manager.removed(ANOTHER, "failed")
        manager.removed(OWN_UNITS, "done")
        manager.reply(call, "o", OWN_UNITS)

    with systemd(bus, act) as manager:
        assert restarted(manager) == UnitResult("done", f"{UNIT} was restarted (ActiveState active)")


@pytest.mark.real("dbus-daemon")
def test_only_systemd_can_report_the_end_of_a_job(bus: str) -> None:
    """The signal of another sender is ignored, whether sent to all or to certmond alone."""

    def act(manager: Manager, call: Message) -> None:
        with open_dbus_connection(manager.address) as liar:
            manager.removed(OWN_UNITS, "done", by=liar)
            manager.removed(OWN_UNITS, "done", to=sender(call), by=liar)
            Proxy(message_bus, liar).GetId()  # the bus has passed both on
        manager.reply(call, "o", OWN_UNITS)
        manager.removed(OWN_UNITS, "dependency")

    with systemd(bus, act) as manager:
        result = restarted(manager)
    assert result.result == "dependency"
    assert result.message.startswith(f"{UNIT}: the restart ended as dependency (ActiveState active, Result success)")


@pytest.mark.real("dbus-daemon")
def test_a_missing_answer_is_no_refusal(bus: str) -> None:
    """If systemd received the call and has not answered, the result is unknown: "timeout", and not a refusal."""
    result: UnitResult | None = None
    with systemd(bus, lambda manager, call: None) as manager:
        for limit in (0.5, 5.0, 20.0):
            with suppress(RestartError):  # the limit passed before the call
                result = restarted(manager, limit)
                break
    assert result
    assert result.result == "timeout"
    assert "which might still be in progress; see: systemctl list-jobs" in result.message


@pytest.mark.real("dbus-daemon")
def test_a_connection_that_ends_leaves_the_end_unknown(bus: str) -> None:
    """If systemd leaves the bus after the call, the result is unknown: "timeout", too."""

    def act(manager: Manager, call: Message) -> None:
        manager.connection.close()
        raise ConnectionAbortedError

    with systemd(bus, act) as manager:
        assert restarted(manager).result == "timeout"


@pytest.mark.real("dbus-daemon")
def test_what_helps_a_restart_is_not_needed_for_it(bus: str) -> None:
    """A refusal to clear the start limit, or to hold on to the unit, is no obstacle to the restart."""

    class Strict(Manager):
        def _answer(self, call: Message) -> None:
            if call.header.fields.get(HeaderFields.member) in ("Ref", "ResetFailedUnit"):
                self.asked.append("refused")
                self.connection.send(new_error(call, "org.freedesktop.DBus.Error.AccessDenied", "s", ("No.",)))
            else:
                super()._answer(call)

    def act(manager: Manager, call: Message) -> None:
        manager.invocation = b"\2" * 16
        manager.reply(call, "o", OWN_UNITS)
        manager.removed(OWN_UNITS, "done")

    manager = Strict(bus, act)
    try:
        assert restarted(manager).result == "done"
        assert manager.asked.count("refused") == 2
    finally:
        manager.connection.sock.shutdown(socket.SHUT_RDWR)
        manager._thread.join()


@pytest.mark.real("dbus-daemon")
def test_without_systemd_on_the_bus_nothing_is_known(bus: str) -> None:
    """On a bus without systemd each unit is unknown, and a restart is refused, with what the bus said."""
    (seen,) = unit_states([UNIT], bus, DEADLINE).values()
    assert seen.running is None
    assert re.match(rf"the state of {UNIT} is unknown \(.*{SYSTEMD}.*\); see: systemctl status", seen.problem or "")
    with pytest.raises(
        RestartError, match=rf"^{UNIT} was not restarted: systemd refused the request \(.*{SYSTEMD}.*\); see: "
    ):
        restart(UNIT, reload=False, alive=lambda: None, bus=bus, limit=DEADLINE)


@pytest.mark.real("dbus-daemon")
@pytest.mark.parametrize(
    ("job", "result", "left_active", "stopped"),
    [
        (0, "success", 5, True),
        (7, "success", 5, False),  # the second half of a restart that others asked for
        (0, "timeout", 5, False),
        (0, "success", 7, False),  # its process ended before that
    ],
)
def test_a_unit_counts_as_stopped_if_no_other_reason_exists(
    bus: str, job: int, result: str, left_active: int, stopped: bool
) -> None:
    """It is inactive without a failure, ended after it was no longer active, and has no job."""

    class Inactive(Manager):
        def _properties(self) -> dict[str, tuple[str, Any]]:
            return super()._properties() | {
                "ActiveState": ("s", "inactive"), "SubState": ("s", "dead"), "Result": ("s", result),
                "MainPID": ("u", 0), "Job": ("(uo)", (job, "/")), "ExecMainExitTimestampMonotonic": ("t", 6),
                "ActiveExitTimestampMonotonic": ("t", left_active),
            }  # fmt: skip

    manager = Inactive(bus, lambda manager, call: None)
    try:
        assert unit_states([UNIT], bus, DEADLINE) == {UNIT: ServiceSeen(running=False, stopped=stopped)}
    finally:
        manager.connection.sock.shutdown(socket.SHUT_RDWR)
        manager._thread.join()


@pytest.mark.real("dbus-daemon")
@pytest.mark.parametrize(
    ("changes", "demanded"),
    [
        ({}, True),
        ({"UnitFileState": ("s", "disabled")}, False),
        ({"UnitFileState": ("s", "static")}, False),
        ({"ActiveState": ("s", "activating"), "SubState": ("s", "auto-restart")}, True),  # it crashes
        ({"ConditionTimestamp": ("t", 5), "ConditionResult": ("b", False)}, False),
        ({"ActiveState": ("s", "active"), "SubState": ("s", "exited")}, False),  # a oneshot service
        ({"ExecMainExitTimestampMonotonic": ("t", 6), "ActiveExitTimestampMonotonic": ("t", 7)}, False),
        ({"ActiveState": ("s", "active"), "SubState": ("s", "running")}, True),
    ],
    ids=["stopped", "disabled", "static", "crash", "condition", "oneshot", "ended", "running"],
)
def test_systemd_knows_whether_the_node_should_run_a_unit(
    bus: str, changes: dict[str, tuple[str, Any]], demanded: bool
) -> None:
    """An enabled unit should run, unless its condition is false, or its program ended by itself and without an error.

    The state has the unit file, and the latest time at which the unit may have run.
    """
    ended = 4_000_000_000 * 1_000_000  # in the year 2096: later than the start of this machine

    class Stopped(Manager):
        def _properties(self) -> dict[str, tuple[str, Any]]:
            own = {
                "ActiveState": ("s", "inactive"), "SubState": ("s", "dead"), "Result": ("s", "success"),
                "MainPID": ("u", 0), "FragmentPath": ("s", "/lib/some.service"),
                "UnitFileState": ("s", "enabled"), "InactiveEnterTimestamp": ("t", ended),
                "ActiveExitTimestampMonotonic": ("t", 5), "Job": ("(uo)", (0, "/")),
                "InactiveExitTimestamp": ("t", 1), "ExecMainStartTimestamp": ("t", 1),
            }  # fmt: skip
            return super()._properties() | own | changes

    manager = Stopped(bus, lambda manager, call: None)
    try:
        (seen,) = unit_states([UNIT], bus, DEADLINE).values()
    finally:
        manager.connection.sock.shutdown(socket.SHUT_RDWR)
        manager._thread.join()
    assert seen.demanded_by == ("/lib/some.service" if demanded else "")
    at = datetime.fromtimestamp(4_000_000_000, UTC)
    assert seen.idle_since == (at if demanded and not seen.running else None)


@pytest.mark.real("dbus-daemon")
def test_a_partial_probe_counts(bus: str) -> None:
    """Units that were read before the limit are known. The others are unknown."""

    class Slow(Manager):
        def _answer(self, call: Message) -> None:
            if self.asked.count("LoadUnit") < 2:
                super()._answer(call)

    states: list[ServiceSeen] = []
    for limit in (1.0, 5.0, 20.0):  # a short limit may pass before the first unit
        manager = Slow(bus, lambda manager, call: None)
        try:
            states = list(unit_states(["a.service", "b.service", "c.service"], bus, limit).values())
        finally:
            manager.connection.sock.shutdown(socket.SHUT_RDWR)
            manager._thread.join()
        if states[0].running:
            break
    first, second, third = states
    assert first.running is True
    assert (second.running, third) == (None, second)
    assert isinstance(first, ServiceSeen)
