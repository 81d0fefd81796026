"""The units of systemd, over D-Bus: what runs, and the one restart or reload that was asked for, with its outcome.

Owns what systemd's words mean: which unit has processes that hold a certificate, which job was ours, and how it ended.
Never starts what is not running, and decides nothing: which unit, and when, is the plan's.

*Only what runs, by systemd's own doing*: TryRestartUnit of a unit that stopped a moment before queues a job that does
nothing, and ReloadUnit one that is invalid. There is no instant between our look and its act. That "done" was nothing
is told by the InvocationID, which is another one after each start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from jeepney import DBusAddress, DBusErrorResponse, HeaderFields

from certmond.errors import RestartError
from certmond.pki.findings import printable
from certmond.pki.services.model import ServiceSeen
from certmond.services.dbus import BUS_ITSELF, Bus, said

BUS = "unix:path=/run/dbus/system_bus_socket"

_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _NAME, f"{_NAME}.Manager")
_REMOVED = f"type='signal',sender='{_NAME}',path='{_MANAGER.object_path}',member='JobRemoved'"
_ANSWER = 25.0  # seconds for systemd to take a job on; it is the limit of its own tools, too
_DOWN = frozenset({"inactive", "failed", "deactivating"})  # what TryRestartUnit leaves alone
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
_NO_RIGHT = (
    "run certmond as root (certmond-enforce.conf), or let a polkit rule give its user"
    " org.freedesktop.systemd1.manage-units"
)
_REMEDIES = {
    "org.freedesktop.DBus.Error.AccessDenied": _NO_RIGHT,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": _NO_RIGHT,
    f"{_NAME}.NoSuchUnit": "correct its name in the configuration",
    f"{_NAME}.UnitMasked": "unmask it with systemctl unmask, or take it out of the configuration",
    f"{_NAME}.JobTypeNotApplicable": "have it restarted instead, or give it an ExecReload=",
}

_Properties = dict[str, Any]


@dataclass(frozen=True, slots=True)
class UnitResult:
    """How a restart or reload ended, in one word and in one sentence.

    "done"; "not running", and nothing was done; "stopping", which it was before already, and nothing was done;
    "skipped", and it was stopped, but its conditions forbade the start; "timeout", and it may still be under way; or
    what else systemd says of a job: "failed", "canceled", "dependency".
    """

    result: str
    message: str


def look(units: Collection[str], bus: str = BUS, limit: float = 2.0) -> dict[str, ServiceSeen]:
    """Each of the units as it is now, seen within `limit` seconds for all of them. Raises nothing.

    A unit runs where it has a main process, or others of its own: a oneshot that is over, a target or a socket holds no
    certificate.
    """
    seen: dict[str, ServiceSeen] = {}
    try:
        with Bus(bus, time.monotonic() + limit, lambda: None) as connection:
            for unit in units:
                seen[unit] = _look_at(connection, unit)
    except (OSError, DBusErrorResponse) as error:
        unknown = ServiceSeen(None, problem=f"systemd {_unreachable(bus, error)}")
        return {unit: seen.get(unit, unknown) for unit in units}
    return seen


def restart(
    unit: str, *, reload: bool, alive: Callable[[], None], revive: bool = False, bus: str = BUS, limit: float = 120.0
) -> UnitResult:
    """Restart a unit that runs, or reload it, and wait up to `limit` seconds for the end, calling `alive` each second.

    `revive` has it started even where it does not run: for who has ended it before. That the unit was started too
    often of late is no obstacle. Raises RestartError where systemd cannot be asked or refuses: then nothing was done.
    """
    started = time.monotonic()
    asked = queued = False
    try:
        with Bus(bus, started + min(limit, _ANSWER), alive) as connection:
            connection.call(BUS_ITSELF, "AddMatch", "s", _REMOVED)
            connection.call(_MANAGER, "Subscribe")
            before = _properties(connection, unit)
            reload = reload and not (revive and before["ActiveState"] in _DOWN)
            _ease(connection, unit, before, reload=reload, revive=revive)
            asked = True
            method = "ReloadUnit" if reload else "RestartUnit" if revive else "TryRestartUnit"
            (job,) = connection.call(_MANAGER, method, "ss", unit, "replace")
            queued = True
            connection.deadline = started + limit
            result = _outcome(connection, job)
            return _told(unit, result, reload, before, _properties(connection, unit))
    except DBusErrorResponse as error:
        if not queued and error.name != _NO_REPLY:
            remedy = _REMEDIES.get(error.name, f"see systemctl status {unit}")
            raise RestartError(f"{unit} was not {_done(reload)}: it was refused ({_words(error)}); {remedy}") from error
        lost = _words(error)
    except OSError as error:
        if not asked:
            raise RestartError(f"{unit} was not {_done(reload)}: systemd {_unreachable(bus, error)}") from error
        lost = f"{limit:g} s" if isinstance(error, TimeoutError) else _words(error)
    detail = f"how its {_noun(reload)} ended was not heard ({lost}), and it may still be under way"
    return UnitResult("timeout", f"{unit}: {detail}; see systemctl list-jobs and systemctl status {unit}")


def _look_at(connection: Bus, unit: str) -> ServiceSeen:
    try:
        found = _properties(connection, unit)
    except DBusErrorResponse as error:
        return ServiceSeen(None, problem=f"{unit} cannot be looked at ({_words(error)}); see systemctl status {unit}")
    failed = found["ActiveState"] == "failed"
    if not _runs(found):
        if found["LoadState"] == "not-found" and not failed:
            problem = f"there is no unit {unit}: correct its name in the configuration"
            return ServiceSeen(None, problem=problem, absent=True)
        return ServiceSeen(running=False, failed=failed, stopped=_was_stopped(found))
    since = found["ExecMainStartTimestamp"] or found["InactiveExitTimestamp"]
    started_at = _EPOCH + timedelta(microseconds=since)
    return ServiceSeen(True, bytes(found["InvocationID"]).hex(), started_at, failed, _command(found["MainPID"]))


def _properties(connection: Bus, unit: str) -> _Properties:
    """All that systemd says of a unit, whatever its kind; it need not be loaded, nor exist."""
    (path,) = connection.call(_MANAGER, "LoadUnit", "s", unit)
    whole = DBusAddress(path, _NAME, "org.freedesktop.DBus.Properties")
    (found,) = connection.call(whole, "GetAll", "s", "")
    return {name: value for name, (_, value) in found.items()}


def _runs(found: _Properties) -> bool:
    """Whether there are processes that may hold a certificate: also those of a service that is on its way up or down.

    A service that forks and has no PID file may be without a main process; it is then "running" for as long as its
    control group has others. Only services have the property.
    """
    return "MainPID" in found and (found["MainPID"] > 0 or found["SubState"] == "running")


def _was_stopped(found: _Properties) -> bool:
    """Whether it was told to stop, did, and nothing more is to come. What ends by itself has ended before systemd has
    it leave the state "active". Of a unit that systemd has forgotten since, only that it has not failed is known.
    """
    by_itself = 0 < found.get("ExecMainExitTimestampMonotonic", 0) <= found["ActiveExitTimestampMonotonic"]
    (job, _) = found["Job"]
    return found["ActiveState"] == "inactive" and found.get("Result") == "success" and not job and not by_itself


def _command(process: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            line = file.read()
    except OSError:  # it has ended, or a sandbox hides it: no word of it is a value, too
        return ()
    return tuple(map(os.fsdecode, line.removesuffix(b"\0").split(b"\0"))) if line else ()


def _ease(connection: Bus, unit: str, before: _Properties, *, reload: bool, revive: bool) -> None:
    """What makes for a better restart, but is not needed for one: a refusal is none of the restart."""
    with suppress(DBusErrorResponse):
        # Until we disconnect the unit is not forgotten when it stops, and its InvocationID not with it.
        (path,) = connection.call(_MANAGER, "GetUnit", "s", unit)
        connection.call(DBusAddress(path, _NAME, f"{_NAME}.Unit"), "Ref")
    if revive or (not reload and before["ActiveState"] not in _DOWN):  # what has failed stays seen as failed
        with suppress(DBusErrorResponse):
            # Past its StartLimitBurst it would be stopped, and refused the start.
            connection.call(_MANAGER, "ResetFailedUnit", "s", unit)


def _outcome(connection: Bus, job: str) -> str:
    """The result of this very job. Anybody may send us a signal: only systemd's own counts.

    Its owner is asked for each time, because systemd comes back to the bus under another name after a daemon-reexec.
    """
    while True:
        signal = connection.signal()
        fields = signal.header.fields
        if fields.get(HeaderFields.member) == "JobRemoved" and (
            (fields.get(HeaderFields.sender),) == connection.call(BUS_ITSELF, "GetNameOwner", "s", _NAME)
        ):
            _, path, _, result = signal.body
            if path == job:
                return str(result)


def _told(unit: str, result: str, reload: bool, before: _Properties, after: _Properties) -> UnitResult:
    """The result of a job as the unit's own state bears it out."""
    see = f"see journalctl -u {unit}"
    state = f"ActiveState {after['ActiveState']}"
    stopping = after["ActiveState"] == "deactivating"  # it may be the first half of a restart that others asked for
    idle = UnitResult(
        "stopping" if stopping else "not running", f"{unit} is not running ({state}), and was left as it is"
    )
    if reload and result == "invalid":
        return idle
    if result != "done":
        reason = after.get("ReloadResult" if reload else "Result", "unknown")
        return UnitResult(result, f"{unit}: the {_noun(reload)} ended as {result} ({state}, Result {reason}); {see}")
    if not reload and after["InvocationID"] in (before["InvocationID"], b""):
        if before["ConditionResult"] and not after["ConditionResult"] and after["InvocationID"]:
            detail = f"was stopped, and not started again: a condition of its unit does not hold ({state})"
            return UnitResult("skipped", f"{unit} {detail}; see systemctl status {unit}")
        return idle
    return UnitResult("done", f"{unit} was {_done(reload)} ({state})")


def _done(reload: bool) -> str:
    return "reloaded" if reload else "restarted"


def _noun(reload: bool) -> str:
    return "reload" if reload else "restart"


def _unreachable(bus: str, error: OSError | DBusErrorResponse) -> str:
    return f"cannot be asked over {bus} ({_words(error)}); see systemctl status dbus.socket dbus.service"


def _words(error: OSError | DBusErrorResponse) -> str:
    return printable(error.strerror or str(error) if isinstance(error, OSError) else said(error))
