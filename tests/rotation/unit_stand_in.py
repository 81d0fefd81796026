"""A stand-in for systemd and its bus: run as `unit_stand_in.py UNIT SOCKET LOG COMMAND…`, until stdin ends.

There is one unit. The stand-in runs the command, treats it as started after `ready`, and restarts it when it ends. Over
D-Bus it answers the calls of certmond/services/systemd_client.py like org.freedesktop.systemd1 (systemd,
src/core/dbus-unit.c and dbus-manager.c): a restart is a job that is removed when the new process is ready, and makes
another InvocationID. /run/dbus is a link to the socket. Other calls are not implemented.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, Message, Parser, new_error, new_method_return, new_signal

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", SYSTEMD, f"{SYSTEMD}.Manager")
OWNER, PATH = ":1.0", "/org/freedesktop/systemd1/unit/only"
AGAIN = 0.2
"""Seconds until an ended process is restarted: RestartSec=, which kubeadm sets to ten."""


class Unit:
    """The process, and its state in systemd's terms."""

    def __init__(self, name: str, log: str, command: list[str]) -> None:
        self.name, self._command = name, command
        self._log = Path(log)
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self._changed = asyncio.Condition()
        self.since = 0
        self.invocation = b""

    async def run(self) -> None:
        while True:
            self.since, self.invocation = int(time.time() * 1e6), uuid.uuid4().bytes
            self.process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
            assert self.process.stdout
            with self._log.open("ab", 0) as log:
                log.write(b"started\n")
                async for line in self.process.stdout:
                    log.write(line)
                    if line == b"ready\n":
                        await self._become(ready=True)
            status = await self.process.wait()
            await self._become(ready=False)
            self.process = None
            if status:
                await asyncio.sleep(AGAIN)

    async def restart(self) -> None:
        before = self.invocation
        if self.process:
            self.process.terminate()
        async with self._changed:
            await self._changed.wait_for(lambda: self.ready and self.invocation != before)

    async def _become(self, *, ready: bool) -> None:
        async with self._changed:
            self.ready = ready
            self._changed.notify_all()

    def properties(self, name: str) -> dict[str, tuple[str, Any]]:
        known = name == self.name
        runs = known and self.process is not None
        state = ("active", "running") if runs else ("activating", "auto-restart") if known else ("inactive", "dead")
        return {
            "LoadState": ("s", "loaded" if known else "not-found"),
            "ActiveState": ("s", state[0]),
            "SubState": ("s", state[1]),
            "MainPID": ("u", self.process.pid if runs and self.process else 0),
            "InvocationID": ("ay", self.invocation if runs else b""),
            "ExecMainStartTimestamp": ("t", self.since if runs else 0),
            "InactiveExitTimestamp": ("t", self.since if runs else 0),
            "ConditionResult": ("b", True),
            "Job": ("(uo)", (0 if runs else 1, "/")),
            "Result": ("s", "success"),
        }


class Caller:
    """One connection to the bus."""

    def __init__(self, unit: Unit, writer: asyncio.StreamWriter, serials: count[int]) -> None:
        self._unit, self._writer, self._serials = unit, writer, serials
        self._asked = ""  # the unit that was loaded last: all of them have one path
        self.jobs: set[asyncio.Task[None]] = set()

    def send(self, message: Message) -> None:
        message.header.fields[HeaderFields.sender] = OWNER
        self._writer.write(message.serialise(serial=next(self._serials)))

    def answer(self, call: Message) -> None:
        method = call.header.fields[HeaderFields.member]
        match method:
            case "Hello":
                self.send(new_method_return(call, "s", (":1.1",)))
            case "GetNameOwner":
                self.send(new_method_return(call, "s", (OWNER,)))
            case "LoadUnit" | "GetUnit":
                self._asked = call.body[0]
                self.send(new_method_return(call, "o", (PATH,)))
            case "GetAll":
                self.send(new_method_return(call, "a{sv}", (self._unit.properties(self._asked),)))
            case "RestartUnit" | "TryRestartUnit" if call.body[0] == self._unit.name:
                job = next(self._serials)
                path = f"/org/freedesktop/systemd1/job/{job}"
                self.send(new_method_return(call, "o", (path,)))
                task = asyncio.get_running_loop().create_task(self._restart(job, path))
                self.jobs.add(task)
                task.add_done_callback(self.jobs.discard)
            case "AddMatch" | "Subscribe" | "Ref" | "ResetFailedUnit":
                self.send(new_method_return(call))
            case _:
                said = f"{method} is not known to this stand-in"
                self.send(new_error(call, "org.freedesktop.DBus.Error.UnknownMethod", "s", (said,)))

    async def _restart(self, job: int, path: str) -> None:
        await self._unit.restart()
        self.send(new_signal(MANAGER, "JobRemoved", "uoss", (job, path, self._unit.name, "done")))


async def main(name: str, socket: str, log: str, *command: str) -> None:
    unit, serials, over = Unit(name, log, list(command)), count(1), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller, parser = Caller(unit, writer, serials), Parser()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while (line := await reader.readuntil(b"\r\n")) != b"BEGIN\r\n":
                writer.write(b"OK 0123456789abcdef0123456789abcdef\r\n" if b"AUTH" in line else b"ERROR\r\n")
            while data := await reader.read(1 << 16):
                parser.add_data(data)
                while message := parser.get_next_message():
                    caller.answer(message)
        writer.close()

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), over.set)
    loop.add_signal_handler(signal.SIGTERM, over.set)
    async with await asyncio.start_unix_server(talk, socket):
        bus = Path("/run/dbus/system_bus_socket")
        bus.parent.mkdir(parents=True, exist_ok=True)
        bus.unlink(missing_ok=True)  # from before the machine was lost
        bus.symlink_to(socket)
        runs = loop.create_task(unit.run())
        await over.wait()
        runs.cancel()
        if unit.process:
            with suppress(ProcessLookupError):
                os.kill(unit.process.pid, signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
