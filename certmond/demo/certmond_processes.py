"""Processes of the demo: the daemon and the HTTP server, started with the commands that an operator uses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

from certmond.errors import CertmondError
from certmond.immutable_class import immutable

PATIENCE = 30.0
"""Maximum number of seconds from a change until the server shows the change."""
INTERVAL = 0.01
STOP_SECONDS = 5.0

_END = "certmond_certificate_not_after_timestamp_seconds"
_NOT_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

Document = dict[str, Any]
T = TypeVar("T")


class StageError(CertmondError):
    """Unexpected result of a stage of the demo."""


@immutable
class Expected:
    """Expected state of one certificate: the serial number, and each finding with its severity."""

    name: str
    serial: str
    findings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        findings = ", ".join(f"{reason} ({severity})" for reason, severity in self.findings)
        return f"{self.name} with serial {self.serial} and {findings or 'no finding'}"

    def in_metrics(self, text: str) -> bool:
        lines = [line for line in text.splitlines() if f'{{certificate="{self.name}",' in line]
        findings = re.findall(r'reason="(\w+)",severity="(\w+)"} 1$', "\n".join(lines), re.MULTILINE)
        return any(f'serial="{self.serial}"' in line for line in lines) and tuple(findings) == self.findings

    def in_status(self, document: Document) -> bool:
        entry = entry_of(document, self.name)
        findings = tuple((item["reason"], item["severity"]) for item in entry["findings"])
        return bool(entry["serial"] == self.serial and findings == self.findings)


class Running:
    """The running processes of the demo, and the loopback address of the server."""

    def __init__(self, place: Path, interrupted: Callable[[], bool] = bool) -> None:
        self._place = place
        self._interrupted = interrupted
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        # Bind without listening: this reserves the port until the server listens on it.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start `certmond` with `arguments` as the process `name`. Write the output of the process to a log file."""
        # A separate session: Ctrl-C in the terminal reaches only the demo.
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_OURS}
        with self._log(name).open("wb") as log:
            self._programs[name] = subprocess.Popen(
                [sys.executable, "-m", "certmond", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._place, env=environment, start_new_session=True,
            )  # fmt: skip

    def reload(self, name: str) -> None:
        """Send SIGHUP to the process `name`, so that this process reads its configuration again."""
        self._programs[name].send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop every process, and kill a process that does not end in time. Keep the log files."""
        for program in self._programs.values():
            program.terminate()
        for program in self._programs.values():
            try:
                program.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self._port.close()

    def logs(self) -> Iterator[str]:
        """Yield the output of each process, under a line with the name of the process."""
        for name in self._programs:
            text = self._log(name).read_text(errors="replace").rstrip()
            yield f"--- output of the {name}:\n{text or '(nothing)'}"

    def metrics(self) -> str:
        """Return the content of /metrics, or "" if the server does not answer with status 200."""
        return self._get("/metrics") or ""

    def end_of(self, name: str) -> str:
        """Return the line of /metrics that contains the expiration of the certificate `name`.

        Raises StageError if the line is missing.
        """
        found = re.search(rf'^{_END}\{{certificate="{re.escape(name)}",.*', self.metrics(), re.MULTILINE)
        if not found:
            raise StageError(f"/metrics has no {_END} for {name}")
        return found[0]

    def document(self, good: Callable[[Document], bool] = bool) -> Document:
        """Wait until `good` accepts the document of /api/v1/status, and return this document.

        Raises the errors of `wait`.
        """

        def look() -> Document | None:
            document: Document = json.loads(self._get("/api/v1/status") or "{}")
            return document if document and good(document) else None

        return self.wait("/api/v1/status that agrees with /metrics", look)

    def wait_all_well(self) -> Document:
        """Wait until the server reports no warning and no critical finding. Return the status document."""

        def look() -> bool:
            text = self.metrics()
            return all(f'\ncertmond_findings{{severity="{worse}"}} 0\n' in text for worse in ("warning", "critical"))

        self.wait("/metrics with no warning and no critical finding", look)
        return self.document(lambda document: not any(item["severity"] != "info" for item in _findings(document)))

    def wait(self, what: str, look: Callable[[], T | None]) -> T:
        """Call `look` until the result is true, and return this result.

        Raises StageError after the deadline or the end of a process, and KeyboardInterrupt after a signal.
        """
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            # A signal interrupts the demo only here, so that no started process is lost.
            if self._interrupted():
                raise KeyboardInterrupt
            for name, program in self._programs.items():
                if program.poll() is not None:
                    raise StageError(f"the {name} ended unexpectedly, with exit code {program.returncode}")
            if time.monotonic() > deadline:
                stand = re.findall(r"^certmond_finding\{.*", self.metrics(), re.MULTILINE)
                raise StageError("\n".join((f"the server did not show within {PATIENCE:g} s: {what}", *stand)))
            time.sleep(INTERVAL)
        return found

    def _get(self, path: str) -> str | None:
        """Return the body of the response, or None if there is no response with the status 200."""
        connection = HTTPConnection(self.address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def _log(self, name: str) -> Path:
        return self._place / f"{name}.log"


def entry_of(document: Document, name: str) -> Document:
    """Return the entry of the certificate `name` in a status document. Raises StageError if the entry is missing."""
    entry: Document | None = next((entry for entry in document["certificates"] if entry["name"] == name), None)
    if entry is None:
        raise StageError(f"/api/v1/status has no entry {name}")
    return entry


def _findings(document: Document) -> Iterator[Document]:
    for entry in document["certificates"]:
        yield from entry["findings"]
    yield from document["findings"]
