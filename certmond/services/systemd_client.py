"""Client of systemd over D-Bus: the states of units, and the restart or reload of a unit.

TryRestartUnit restarts a unit only if the unit runs. systemd makes this check, because the unit can stop after a check
by certmond. The InvocationID, which changes at each start, shows whether the job had an effect.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from jeepney import DBusAddress, DBusErrorResponse, HeaderFields

from certmond.errors import RestartError
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.services.service_observation import ServiceSeen
from certmond.services.dbus import BUS_ITSELF, Bus, error_message
from certmond.services.last_run_time import unit_idle_since

BUS = "unix:path=/run/dbus/system_bus_socket"

_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _NAME, f"{_NAME}.Manager")
_REMOVED = f"type='signal',sender='{_NAME}',path='{_MANAGER.object_path}',member='JobRemoved'"
_ANSWER = 25.0  # seconds for systemd to accept a job; the tools of systemd use the same limit
_DOWN = frozenset({"inactive", "failed", "deactivating"})  # states in which TryRestartUnit has no effect
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
_NO_RIGHT = (
    "run certmond as root with certmond-enforce.conf, or grant the user of certmond"
    " org.freedesktop.systemd1.manage-units in a polkit rule"
)
_REMEDIES = {
    "org.freedesktop.DBus.Error.AccessDenied": _NO_RIGHT,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": _NO_RIGHT,
    f"{_NAME}.NoSuchUnit": "correct the name of the unit in the configuration",
    f"{_NAME}.UnitMasked": "unmask the unit with systemctl unmask, or remove the unit from the configuration",
    f"{_NAME}.JobTypeNotApplicable": "configure a restart instead, or add ExecReload= to the unit",
}

_Properties = dict[str, Any]


@immutable
class UnitResult:
    """The result of a restart or reload, as the word `result` and the sentence `message`.

    The word is "done", "not running", "stopping", "skipped" (a condition of the unit is false), "timeout", or a job
    result of systemd, such as "failed".
    """

    result: str
    message: str


def unit_states(units: Collection[str], bus: str = BUS, limit: float = 2.0) -> dict[str, ServiceSeen]:
    """Return the state of each unit, within `limit` seconds for all units. Never raises an exception."""
    seen: dict[str, ServiceSeen] = {}
    try:
        with Bus(bus, time.monotonic() + limit, lambda: None) as connection:
            for unit in units:
                seen[unit] = _unit_state(connection, unit)
    except (OSError, DBusErrorResponse) as error:
        unknown = ServiceSeen(None, problem=f"certmond {_unreachable(bus, error)}")
        return {unit: seen.get(unit, unknown) for unit in units}
    return seen


def user_of(unit: str, bus: str = BUS, limit: float = 2.0) -> str | None:
    """Return the user that systemd runs `unit` as, or "" for root.

    Return None if the unit does not exist, or if certmond cannot reach systemd.
    """
    try:
        with Bus(bus, time.monotonic() + limit, lambda: None) as connection:
            found = _properties(connection, unit)
    except (OSError, DBusErrorResponse):
        return None
    return found.get("User") if found["LoadState"] == "loaded" else None


def restart(
    unit: str, *, reload: bool, alive: Callable[[], None], revive: bool = False, bus: str = BUS, limit: float = 120.0
) -> UnitResult:
    """Restart or reload a running unit, and wait at most `limit` seconds for the end. Call `alive` each second.

    If `revive` is True, start a unit that does not run. If systemd does not report the end, the result is "timeout".
    Raises RestartError if certmond cannot reach systemd to request the job, or if systemd refuses the job.
    """
    started = time.monotonic()
    requested = queued = False
    try:
        with Bus(bus, started + min(limit, _ANSWER), alive) as connection:
            connection.call(BUS_ITSELF, "AddMatch", "s", _REMOVED)
            connection.call(_MANAGER, "Subscribe")
            before = _properties(connection, unit)
            reload = reload and not (revive and before["ActiveState"] in _DOWN)
            _prepare(connection, unit, before, reload=reload, revive=revive)
            requested = True
            method = "ReloadUnit" if reload else "RestartUnit" if revive else "TryRestartUnit"
            (job,) = connection.call(_MANAGER, method, "ss", unit, "replace")
            queued = True
            connection.deadline = started + limit
            result = _outcome(connection, job)
            return _checked_result(unit, result, reload, before, _properties(connection, unit))
    except DBusErrorResponse as error:
        if not queued and error.name != _NO_REPLY:
            remedy = _REMEDIES.get(error.name, f"see: systemctl status {unit}")
            raise RestartError(
                f"{unit} was not {_done(reload)}: systemd refused the request ({_error_text(error)}); {remedy}"
            ) from error
        cause = _error_text(error)
    except OSError as error:
        if not requested:
            raise RestartError(f"{unit} was not {_done(reload)}: certmond {_unreachable(bus, error)}") from error
        cause = f"{limit:g} s" if isinstance(error, TimeoutError) else _error_text(error)
    detail = f"systemd did not report the end of the {_noun(reload)} ({cause}), which might still be in progress"
    return UnitResult("timeout", f"{unit}: {detail}; see: systemctl list-jobs, systemctl status {unit}")


def _unit_state(connection: Bus, unit: str) -> ServiceSeen:
    try:
        found = _properties(connection, unit)
    except DBusErrorResponse as error:
        return ServiceSeen(
            None, problem=f"the state of {unit} is unknown ({_error_text(error)}); see: systemctl status {unit}"
        )
    failed = found["ActiveState"] == "failed"
    if not _runs(found):
        if found["LoadState"] == "not-found" and not failed:
            problem = f"the unit {unit} does not exist; correct the name of the unit in the configuration"
            return ServiceSeen(None, problem=problem, absent=True)
        unit_file = _demanding_file(found)
        idle_since = unit_idle_since(unit_file, _exit_times(found)) if unit_file else None
        stopped = _was_stopped(found)
        return ServiceSeen(False, failed=failed, stopped=stopped, demanded_by=unit_file, idle_since=idle_since)
    since = found["ExecMainStartTimestamp"] or found["InactiveExitTimestamp"]
    started_at = _EPOCH + timedelta(microseconds=since)
    return ServiceSeen(
        True, bytes(found["InvocationID"]).hex(), started_at, failed, _command(found["MainPID"]),
        demanded_by=_demanding_file(found),
    )  # fmt: skip


def _properties(connection: Bus, unit: str) -> _Properties:
    """Return all properties of a unit. The unit can be missing or not loaded."""
    (path,) = connection.call(_MANAGER, "LoadUnit", "s", unit)
    whole = DBusAddress(path, _NAME, "org.freedesktop.DBus.Properties")
    (found,) = connection.call(whole, "GetAll", "s", "")
    return {name: value for name, (_, value) in found.items()}


def _runs(found: _Properties) -> bool:
    """Return whether the unit has processes that might use a certificate.

    A service of type forking without a PID file might have no main process.
    """
    return "MainPID" in found and (found["MainPID"] > 0 or found["SubState"] == "running")


def _was_stopped(found: _Properties) -> bool:
    """Return whether systemd stopped the unit on request, and no job of the unit is pending."""
    (job, _) = found["Job"]
    return _is_dead(found) and not job and not _ended_by_itself(found)


def _is_dead(found: _Properties) -> bool:
    return found["ActiveState"] == "inactive" and found.get("Result") == "success"


def _ended_by_itself(found: _Properties) -> bool:
    """Return whether the main process ended without a stop request: before the unit left the state "active"."""
    # A unit that systemd has unloaded has no timestamps. Then certmond can only detect that the unit has not failed.
    return bool(0 < found.get("ExecMainExitTimestampMonotonic", 0) <= found["ActiveExitTimestampMonotonic"])


def _demanding_file(found: _Properties) -> str:
    """Return the path of the unit file if the unit is enabled and should be active, otherwise ""."""
    skipped = found.get("ConditionTimestamp", 0) > 0 and not found["ConditionResult"]
    complete = found["ActiveState"] == "active" and not _runs(found)  # such as a oneshot service
    finished = _is_dead(found) and _ended_by_itself(found)
    enabled = found.get("UnitFileState") in {"enabled", "enabled-runtime"}
    return str(found["FragmentPath"]) if enabled and not (skipped or complete or finished) else ""


def _exit_times(found: _Properties) -> list[datetime]:
    """Return the times at which the unit and its main process ended, if systemd has recorded these times."""
    names = "InactiveEnterTimestamp", "ExecMainExitTimestamp"
    return [_EPOCH + timedelta(microseconds=each) for name in names if (each := found.get(name, 0))]


def _command(process: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            line = file.read()
    except OSError:  # the process has ended, or a sandbox hides the process
        return ()
    return tuple(map(os.fsdecode, line.removesuffix(b"\0").split(b"\0"))) if line else ()


def _prepare(connection: Bus, unit: str, before: _Properties, *, reload: bool, revive: bool) -> None:
    """Keep the unit loaded during the restart.

    Before the restart of a running unit, and with `revive`, also reset the start limit of the unit. Ignore errors,
    because these calls are optional.
    """
    with suppress(DBusErrorResponse):
        # This reference prevents systemd from unloading the stopped unit, so the unit keeps its InvocationID.
        (path,) = connection.call(_MANAGER, "GetUnit", "s", unit)
        connection.call(DBusAddress(path, _NAME, f"{_NAME}.Unit"), "Ref")
    if revive or (not reload and before["ActiveState"] not in _DOWN):  # a failed unit keeps its state "failed"
        with suppress(DBusErrorResponse):
            # After StartLimitBurst starts, systemd would stop the unit, but refuse to start the unit again.
            connection.call(_MANAGER, "ResetFailedUnit", "s", unit)


def _outcome(connection: Bus, job: str) -> str:
    """Wait for the end of this job and return its result. Ignore signals of processes other than systemd."""
    while True:
        signal = connection.signal()
        fields = signal.header.fields
        # Look up the owner of the name for each signal, because a daemon-reexec changes the owner.
        if fields.get(HeaderFields.member) == "JobRemoved" and (
            (fields.get(HeaderFields.sender),) == connection.call(BUS_ITSELF, "GetNameOwner", "s", _NAME)
        ):
            _, path, _, result = signal.body
            if path == job:
                return str(result)


def _checked_result(unit: str, result: str, reload: bool, before: _Properties, after: _Properties) -> UnitResult:
    """Return the result of a job. Compare the states before and after the job to detect a job without an effect."""
    see = f"see: journalctl -u {unit}"
    state = f"ActiveState {after['ActiveState']}"
    stopping = after["ActiveState"] == "deactivating"  # or another process restarts the unit
    untouched = UnitResult(
        "stopping" if stopping else "not running", f"{unit} is not running ({state}), and certmond did not start it"
    )
    if reload and result == "invalid":
        return untouched
    if result != "done":
        reason = after.get("ReloadResult" if reload else "Result", "unknown")
        return UnitResult(result, f"{unit}: the {_noun(reload)} ended as {result} ({state}, Result {reason}); {see}")
    if not reload and after["InvocationID"] in (before["InvocationID"], b""):
        if before["ConditionResult"] and not after["ConditionResult"] and after["InvocationID"]:
            detail = f"is stopped: systemd did not start it again, because a condition of the unit is false ({state})"
            return UnitResult("skipped", f"{unit} {detail}; see: systemctl status {unit}")
        return untouched
    return UnitResult("done", f"{unit} was {_done(reload)} ({state})")


def _done(reload: bool) -> str:
    return "reloaded" if reload else "restarted"


def _noun(reload: bool) -> str:
    return "reload" if reload else "restart"


def _unreachable(bus: str, error: OSError | DBusErrorResponse) -> str:
    return f"cannot reach systemd over {bus} ({_error_text(error)}); see: systemctl status dbus.socket dbus.service"


def _error_text(error: OSError | DBusErrorResponse) -> str:
    return printable(error.strerror or str(error) if isinstance(error, OSError) else error_message(error))
