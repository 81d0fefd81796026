"""A stand-in for StarlingX's Service Manager (SM): run as `service_manager_stand_in.py SOCKET RECORD PID_FILE NAME
COMMAND…`, until stdin ends.

There is one service, HAProxy. Like SM, the stand-in restarts it by a stop and a start (starlingx/ha,
service-mgmt/sm-db/database/create_sm_db.sql, SERVICE_ACTIONS), and has no error for a service that it does not have
(service-mgmt-tools/sm-tools/sm_tools/sm_action.py). A request on SOCKET ends when the restart has ended. SM does not
wait, but its terms on a node are longer than those of a test.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.deadline import DEADLINE
from tests.rotation.record import Record

PROGRAM = """#!{python} -I
import socket, sys
with socket.socket(socket.AF_UNIX) as manager:
    manager.connect({address!r})
    manager.sendall(sys.argv[2].encode())
    manager.shutdown(socket.SHUT_WR)
    manager.recv(1)
"""
"""`sm-restart-safe`, with the arguments `service NAME`."""


class HAProxy:
    """The process. `record` has the times at which it begins to serve and at which it ends."""

    def __init__(self, record: Path, pid_file: Path, name: str, command: list[str]) -> None:
        self._record, self._pid_file, self._name, self._command = Record(record), pid_file, name, command
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and wait until it listens: then the master notifies systemd (haproxy, src/haproxy.c)."""
        path = f"{self._record.path}.{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(path)
            notified.settimeout(DEADLINE)
            environment = {**os.environ, "NOTIFY_SOCKET": path}
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self._command], env=environment)
            self._pid_file.write_text(f"{self._process.pid}\n")
            while b"READY=1" not in notified.recv(4096):
                pass
        os.unlink(path)
        self._record.note(self._name, "ready")

    def stop(self) -> None:
        self._record.note(self._name, "ends")
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(DEADLINE)
        self._pid_file.unlink()


def main(address: str, record: str, pid_file: str, name: str, *command: str) -> None:
    haproxy = HAProxy(Path(record), Path(pid_file), name, list(command))
    haproxy.start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)  # noqa: T201 - the test waits for this line
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            request, _ = listener.accept()
            with request, request.makefile("rb") as words:
                if words.read() == b"haproxy":
                    haproxy.stop()
                    haproxy.start()
    haproxy.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
