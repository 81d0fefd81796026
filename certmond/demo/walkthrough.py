"""Stages of `certmond demo`, which renew, break and repair certificates, and show what the daemon reports.

The demo writes only below a temporary directory, and connects only to the loopback address.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import yaml
from rich.console import Console, RenderableType
from rich.text import Text

from certmond.demo.certmond_processes import Document, Expected, Running, StageError, entry_of
from certmond.demo.node import AUTHORITIES, DAY, LEAVES, NODE, Node
from certmond.errors import CertmondError
from certmond.expose.documents.status_table import status_table

WIDTH = 400
"""Width of the output in columns. No line is longer, so that only the terminal wraps lines."""


def run(keep: bool) -> int:
    """Run the demo. Return 0 for success, 1 if a stage failed, or 130 after a signal.

    With `keep`, do not remove the directory of the demo. Raises CertmondError if the demo cannot create this directory.
    """
    console = Console(soft_wrap=True, width=WIDTH, highlight=False)
    code = 0
    with _interruptible() as interrupted:
        try:
            place = Path(tempfile.mkdtemp(prefix="certmond-demo-")).resolve()
        except OSError as error:
            raise CertmondError(
                f"cannot create a temporary directory ({error.strerror}); set TMPDIR to a writable directory"
            ) from error
        running = Running(place, interrupted.is_set)
        try:
            Demo(place, running, console).play()
        except (StageError, OSError) as error:
            code = 1
            console.print(Text("\n".join((f"\nThe demo failed: {error}", *running.logs()))))
        except KeyboardInterrupt:
            code = 130
            console.print(Text("\nInterrupted."))
        finally:
            running.stop()
            if not keep:
                shutil.rmtree(place)
    if keep:
        console.print(
            Text(
                f"\nThe daemon and the server have stopped. {place} remains. "
                "No cluster trusts the keys in this directory."
            )
        )
        console.print(Text("\n".join(_advice(place))))
    else:
        console.print(Text(f"\nThe daemon and the server have stopped. certmond has removed {place}."))
    return code


class Demo:
    """The stages of the demo in the directory `place`, and their output."""

    def __init__(self, place: Path, running: Running, console: Console) -> None:
        self._place = place
        self._running = running
        self._console = console
        self._node = Node(place / "node", datetime.now(UTC))
        self._stage = 0
        self._waits: list[float] = []
        self._settings: dict[str, Any] = {}

    def play(self) -> None:
        """Run all stages in order. Raises StageError if a stage does not show the expected result."""
        began = time.monotonic()
        self._make()
        self._start()
        self._renew("apiserver")
        self._truncate("apiserver-kubelet-client")
        self._let_age("front-proxy-client")
        self._swap_key("apiserver-etcd-client")
        self._enforce("front-proxy-client")
        self._repair("apiserver-kubelet-client", "apiserver-etcd-client")
        least, most = (f"{1000 * wait:.0f}" for wait in (min(self._waits), max(self._waits)))
        self._say(
            f"\n/metrics showed each of the {len(self._waits)} changes {least} to {most} ms after the write began. "
            f"The demo took {time.monotonic() - began:.1f} s."
        )

    def _make(self) -> None:
        self._heading("The certificates of a control-plane node, as kubeadm creates them")
        began = time.monotonic()
        self._node.make()
        # Polling covers file systems without inotify events. The clock of this host does not matter in the demo.
        hold = {"unsynchronised_clock": False}
        self._settings = {"profile": "kubeadm", "poll": "1s", "hold": hold}
        self._configure("observe")
        self._say(
            f"{NODE}, below {self._place}/node, has {len(AUTHORITIES)} CAs, {len(LEAVES)} certificates from these CAs, "
            f"and two certificates of the kubelet. The demo created them in {time.monotonic() - began:.2f} s."
        )

    def _start(self) -> None:
        self._heading("The daemon, and the server for its output")
        began = time.monotonic()
        self._run("daemon", ["run", *_options(self._place), "--log", "plain"])
        self._run("server", [*_serve(self._place), "--listen", self._running.address])
        document = self._running.wait_all_well()
        self._say(f"http://{self._running.address}/metrics answered {time.monotonic() - began:.1f} s after the start")
        self._heading("The assessment, as `certmond status` prints it: no findings")
        self._show(status_table(document))

    def _renew(self, name: str) -> None:
        self._heading(f"A renewal of {name} replaces the key, and then the certificate")
        before, end = entry_of(self._running.document(), name), self._running.end_of(name)
        renewal = self._node.issue(name)
        document = self._change(lambda: self._node.put(renewal.files), Expected(name, renewal.serial))
        after = entry_of(document, name)
        self._say(f"serial {before['serial_hex']} -> {after['serial_hex']}")
        both = [{**before, "name": f"{name}, before"}, {**after, "name": f"{name}, after"}]
        self._show(status_table({**document, "certificates": both, "findings": []}))
        self._say(f"before {end}\nafter  {self._running.end_of(name)}")

    def _truncate(self, name: str) -> None:
        self._heading(f"{name} breaks: its file is truncated")
        entry = entry_of(self._running.document(), name)
        expected = Expected(name, entry["serial"], (("malformed", "critical"),))
        self._show_one(self._change(lambda: self._node.truncate(entry["path"]), expected), name)
        self._say("The expiry metric keeps the date of the last valid certificate, so the alert does not resolve.")
        self._say(self._running.end_of(name))

    def _let_age(self, name: str) -> None:
        self._heading(f"{name} expires soon: 3 of its 365 days remain")
        renewal = self._node.issue(name, age=362 * DAY - timedelta(hours=1))
        expected = Expected(name, renewal.serial, (("nearing_expiry", "critical"),))
        self._show_one(self._change(lambda: self._node.put(renewal.files), expected), name)

    def _swap_key(self, name: str) -> None:
        self._heading(f"{name} gets a private key that does not match")
        key = self._node.other_key(name)
        serial = entry_of(self._running.document(), name)["serial"]
        expected = Expected(name, serial, (("key_mismatch", "critical"),))
        self._say(
            "A program that renews a certificate replaces two files, one after the other. Therefore, certmond reports "
            "a key that does not match only after 2 s."
        )
        self._show_one(self._change(lambda: self._node.put(key), expected), name)

    def _enforce(self, name: str) -> None:
        self._heading("The daemon changes to enforce mode, and renews the certificate that is due")
        before = entry_of(self._running.document(), name)
        began = time.monotonic()
        self._configure("enforce")
        self._running.reload("daemon")
        self._say("$ systemctl reload certmond    # with `mode: enforce` in its configuration")

        def renewed(document: Document) -> bool:
            entry = entry_of(document, name)
            return bool(entry["serial"] != before["serial"] and not entry["findings"])

        document = self._running.document(renewed)
        self._say(
            f"the daemon reported the renewal of {name} {1000 * (time.monotonic() - began):.0f} ms after the reload"
        )
        self._show_one(document, name)
        self._say(f"The audit trail of {name}:")
        trail = (self._place / "state/audit.log").read_text().splitlines()
        for entry in (entry for entry in map(json.loads, trail) if entry.get("target") == name):
            self._say(f"  {entry['event']:<13} by {entry['by']}: {entry['message']}")
        self._say("The archive keeps the replaced files. To restore them: certmond archive restore front-proxy-client")

    def _configure(self, mode: str) -> None:
        text = yaml.safe_dump({"mode": mode, **self._settings}, sort_keys=False)
        file = self._place / "config.yaml"
        file.write_text(text)
        file.chmod(0o600)  # independent of the umask: certmond refuses a configuration that others can write

    def _repair(self, *names: str) -> None:
        self._heading(f"Repair: {', '.join(names)} are issued again")
        renewals = {name: self._node.issue(name) for name in names}
        files = {path: file for renewal in renewals.values() for path, file in renewal.files.items()}
        self._change(lambda: self._node.put(files), *(Expected(name, each.serial) for name, each in renewals.items()))
        document = self._running.wait_all_well()
        self._say("no findings")
        self._show(status_table(document))

    def _change(self, change: Callable[[], None], *expected: Expected) -> Document:
        """Call `change`, wait until the server shows the `expected` certificates, and return the status document."""

        def look() -> bool:
            text = self._running.metrics()
            return all(each.in_metrics(text) for each in expected)

        began = time.monotonic()
        change()
        self._running.wait("/metrics that has " + "; ".join(map(str, expected)), look)
        self._waits.append(time.monotonic() - began)
        self._say(f"visible in /metrics {1000 * self._waits[-1]:.0f} ms after the write began")
        return self._running.document(lambda document: all(each.in_status(document) for each in expected))

    def _run(self, name: str, arguments: list[str]) -> None:
        self._say(f"$ certmond {shlex.join(arguments)}")
        self._running.start(name, arguments)

    def _heading(self, text: str) -> None:
        self._stage += 1
        self._show(Text(f"\n{self._stage}. {text}", style="bold"))

    def _say(self, text: str) -> None:
        self._show(Text(text))

    def _show(self, what: RenderableType) -> None:
        self._console.print(what)

    def _show_one(self, document: Document, name: str) -> None:
        self._show(status_table({**document, "certificates": [entry_of(document, name)], "findings": []}))


def _options(place: Path, *, rendering: bool = True) -> list[str]:
    """Return the command-line options that select the node of the demo. `rendering` adds --runtime-dir."""
    options = ["--config", f"{place}/config.yaml", "--root", f"{place}/node", "--state-dir", f"{place}/state"]
    return [*options, "--runtime-dir", f"{place}/run"] if rendering else options


def _serve(place: Path) -> list[str]:
    return ["serve", "--runtime-dir", f"{place}/run", "--config", f"{place}/config.yaml"]


def _advice(place: Path) -> Iterator[str]:
    """Yield one line for each command that an operator can run in the directory of the demo."""
    certmond = ["certmond"] if shutil.which("certmond") else [sys.executable, "-m", "certmond"]
    for purpose, command in (
        ("check the node again", [*certmond, "check", *_options(place, rendering=False)]),
        ("run the daemon again", [*certmond, "run", *_options(place)]),
        ("serve its output", [*certmond, *_serve(place)]),
        ("remove the directory", ["rm", "-r", str(place)]),
    ):
        yield f"  {purpose + ':':<26}{shlex.join(command)}"


@contextmanager
def _interruptible() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM and SIGHUP set instead of ending the process."""
    event = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # keep what nohup has set
            signal.signal(number, lambda *_: event.set())
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
