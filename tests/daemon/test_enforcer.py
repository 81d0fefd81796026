"""The daemon in enforce mode maintains the node's certificates, despite kills, full disks, waits and concurrent
writers.
"""

from __future__ import annotations

import base64
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.loop import Daemon
from certmond.errors import BusyError
from certmond.notify.event_log import Journal
from certmond.pki.x509.serial_number import hexadecimal
from certmond.transaction.commit import Transactions
from tests.builders import DAY, YEAR, make_ca, make_leaf, make_server
from tests.conftest import real_part
from tests.daemon_harness import Running, running
from tests.deadline import DEADLINE
from tests.node import Node
from tests.test_renewal import (
    CURRENT,
    ENTRIES,
    Helper,
    Host,
    certmond,
    kubeconfig,
    mount,
    now,
    readable,
    waiting,
)
from tests.tracing import kill_at, record

__all__ = ["mount", "waiting"]  # fixtures

LEAVES = {
    "apiserver", "apiserver-kubelet-client", "front-proxy-client", "etcd-server", "etcd-peer",
    "etcd-healthcheck-client", "apiserver-etcd-client", "admin.conf", "controller-manager.conf", "scheduler.conf",
    "kubelet-client",
}  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """All of its certificates are due now, by the real clock."""
    return Host(tmp_path / "host", now=now())


@contextmanager
def enforcing(host: Host, *options: str, **terms: Any) -> Iterator[Running]:
    """The daemon on this node. `terms` are those of `running`."""
    work = host.place.parent / "work"
    work.mkdir(exist_ok=True)
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump(host.document()))
    given = ("--config", str(path), "--state-dir", str(host.state), *options)
    with running(host.root, work, *given, **terms) as daemon:
        yield daemon
        daemon.stop()  # in good order: one that is killed may leave what it was writing, for the next to replace


def renewed(daemon: Running, name: str, result: str = "done") -> float:
    """Return the number of renewals in the metrics."""
    try:
        return daemon.number(f'certmond_renewals_total{{certificate="{name}",result="{result}"}}')
    except StopIteration:
        return 0


def at_rest(daemon: Running, host: Host) -> bool:
    """Return whether everything is renewed and the plan is empty."""
    return daemon.number('certmond_planned_steps{step="issue"}') == 0 and all(
        entry["findings"] == [] for entry in daemon.status()["certificates"]
    )


def well(host: Host) -> None:
    host.now = now()
    assert host.unwell() == []


# By the daemon


class Shifted:
    """A clock that a test moves."""

    def __init__(self, instant: datetime) -> None:
        self.instant = instant

    def __call__(self) -> datetime:
        return self.instant


@contextmanager
def in_process(daemon: Daemon, script: Any) -> Iterator[None]:
    """Run the daemon here, and `script` beside it, which ends it."""
    failures: list[BaseException] = []

    def play() -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failures.append(error)
        finally:
            daemon.stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    player = threading.Thread(target=play)
    player.start()
    try:
        assert daemon.run() == 0
    finally:
        player.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise failures[0]
    yield


@pytest.mark.long
def test_a_whole_node_is_renewed_when_it_is_due(node: Node, tmp_path: Path) -> None:
    """On a real kubeadm node, a year on: nothing before the renewal point; behind it every leaf is renewed in one run,
    once, the kubelet's as well, which it should have renewed before; and the node is well.
    """
    runtime, state = tmp_path / "run", tmp_path / "state"
    clock = Shifted(datetime(2027, 10, 20, tzinfo=UTC))
    text = "{mode: enforce, hold: {unsynchronised_clock: false}, key_algorithm: ECDSA-P256}"
    daemon = Daemon(
        lambda: parse([Source("test", text)]), root=str(node.root), runtime_dir=runtime, state_dir=state,
        journal=Journal("none"), clock=clock,
    )  # fmt: skip
    seen = Running(subprocess.Popen(["sleep", "infinity"], text=True), runtime, Path(os.devnull))
    before: dict[str, str] = {}

    def serials() -> dict[str, str]:
        return {entry["name"]: entry["serial"] for entry in seen.status()["certificates"]}

    def script() -> None:
        seen.until(lambda: seen.number('certmond_planned_steps{step="issue"}') == 0, "looked")
        before.update(seen.until(serials, "reported"))
        assert not (state / "audit.log").exists()
        clock.instant = datetime(2027, 10, 26, tzinfo=UTC)
        os.utime(node.path("etc/kubernetes/admin.conf"))  # so that it looks at its clock again
        seen.until(lambda: all(renewed(seen, name) == 1 for name in LEAVES), "renewed")

    try:
        with in_process(daemon, script):
            pass
    finally:
        seen.process.kill()
        seen.process.wait()
    after = serials()
    assert {name for name in after if after[name] != before[name]} == LEAVES
    assert seen.number('certmond_planned_steps{step="issue"}') == 0
    assert {item["reason"] for entry in seen.status()["certificates"] for item in entry["findings"]} == {
        "nonpositive_serial"
    }
    assert seen.number('certmond_passes_total{cause="step"}') >= 1


def short_lived(host: Host) -> None:
    """Each leaf has lived for a while, and is due in half a minute, after the start of a daemon on busy CPUs."""
    for name, entry in host.entries.items():
        start, end = (240, 60) if name == "kubelet-client" else (30, 60)
        dates: Any = {"not_before": host.now - timedelta(seconds=start), "not_after": host.now + timedelta(seconds=end)}
        make = make_server if "server auth" in entry["usages"] else make_leaf
        leaf = make(host.ca, entry["subject"].removeprefix("CN="), extended_usages=entry["usages"], **dates)
        host.keys.append(leaf.key)
        if entry.get("kind") == "kubeconfig":
            host.put(entry["path"], kubeconfig(host.ca, leaf), 0o600)
        elif entry.get("kind") == "kubelet":
            host.put(str(host.at(CURRENT).readlink()), leaf.pem + leaf.key_pem, 0o600)
        else:
            host.put(entry["path"], leaf.pem)
            host.put(entry["key"], leaf.key_pem, 0o600)


@pytest.mark.long
def test_leaves_that_become_due_while_it_runs(host: Host) -> None:
    """Leaves with a life of minutes are renewed at their instant: it wakes the daemon, and nothing is polled for. Then
    status and metrics are right, and the trail has each step from plan to end.
    """
    host.settings["spread"] = "1s"
    host.now = now()
    short_lived(host)
    before = host.serials()
    with enforcing(host) as daemon:
        assert host.serials() == before
        daemon.until(lambda: all(renewed(daemon, name) == 1 for name in ENTRIES), "renewed")
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        daemon.until(lambda: (done := subprocess_status(daemon)).returncode == 0 and not done.stderr, "well")
        causes = {cause: daemon.number(f'certmond_passes_total{{cause="{cause}"}}')
                  for cause in ("start", "deadline", "resync", "poll", "retry", "overflow")}  # fmt: skip
        assert causes.pop("deadline") >= 1
        assert causes == {"start": 1, "resync": 0, "poll": 0, "retry": 0, "overflow": 0}
        assert all(renewed(daemon, name) == 1 for name in ENTRIES)
        assert daemon.stop() == 0
    host.now = now()
    after = host.serials()
    assert before.items().isdisjoint(after.items())
    for name in ENTRIES:
        planned, begun, ended = (entry for entry in host.audit() if entry["target"] == name)
        assert [planned["event"], begun["event"], ended["event"]] == ["step_planned", "step_begun", "step_done"]
        assert planned["by"] == begun["by"] == ended["by"] == "daemon"
        assert (begun["old_serial"], ended["old_serial"]) == (hexadecimal(before[name]),) * 2
        assert ended["new_serial"] == hexadecimal(after[name])
    well(host)


def subprocess_status(daemon: Running) -> subprocess.CompletedProcess[str]:
    import sys

    command = [sys.executable, "-m", "certmond", "status", "--runtime-dir", str(daemon.runtime)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_observing_writes_nothing(host: Host) -> None:
    """In observe mode the steps are shown as planned, and no name, byte, mode or time on the node changes."""
    host.settings["mode"] = "observe"

    def snapshot() -> dict[Path, Any]:
        seen = {path: path.lstat() for path in (host.root, *host.root.rglob("*"))}
        return {path: (s.st_ino, s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
                for path, s in seen.items()}  # fmt: skip

    before = snapshot()
    with enforcing(host) as daemon:
        assert daemon.number('certmond_planned_steps{step="issue"}') == len(ENTRIES)
        passes = daemon.passes()
        os.utime(host.at(ENTRIES["admin.conf"]["path"]))
        daemon.until(lambda: daemon.passes() > passes, "looked again")
        assert daemon.stop() == 0
    after = snapshot()
    touched = host.at(ENTRIES["admin.conf"]["path"])
    assert {path for path in before if after[path] != before[path]} == {touched}
    assert before.keys() == after.keys()
    assert not host.state.exists()


@pytest.mark.long
def test_a_reload_begins_to_enforce(host: Host) -> None:
    """A daemon whose new configuration sets enforce mode renews what is due."""
    host.settings["mode"] = "observe"
    with enforcing(host) as daemon:
        host.settings["mode"] = "enforce"
        (host.place.parent / "work/config.yaml").write_text(yaml.safe_dump(host.document()))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    well(host)


@pytest.mark.parametrize("error", [ImportError("an upgrade"), OSError(24, "Too many open files")])
def test_a_scan_goes_on_without_modules_that_it_cannot_import(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """If a scan cannot import the modules for due certificates or for repairs, it has its other findings. The next scan
    imports the modules.
    """
    host.at(host.entries["apiserver"]["path"]).write_bytes(b"damaged")
    enforcer = host.enforcer()

    def fail(name: str, *_: object) -> None:
        if name in {"certmond.renewal.certificate_origin", "certmond.renewal.repair_sources"}:
            raise error

    with monkeypatch.context() as patch:
        for name in ("certmond.renewal.certificate_origin", "certmond.renewal.repair_sources"):
            patch.delitem(sys.modules, name, raising=False)
        patch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=fail), *sys.meta_path])
        assessment, around = enforcer.see()
    reasons = {item.reason.value for status in assessment.statuses for item in status.findings}
    assert {"malformed", "nearing_expiry"} <= reasons
    assert (around.provenance, around.salvage) == ({}, {})
    _, around = enforcer.see()
    assert around.provenance
    assert around.salvage


@pytest.mark.long
def test_the_end_of_a_hold_is_detected(host: Host) -> None:
    """While the hold file exists nothing is renewed, which is reported once. When it is removed, everything is."""
    host.settings["hold"] = {"unsynchronised_clock": False, "file": "/run/upgrade"}
    host.put("/run/upgrade", b"")
    del host.entries["kubelet-client"]  # a day before its end it is critical, and does not wait
    with enforcing(host) as daemon:
        daemon.until(host.audit, "reported")
        assert {(entry["event"], entry["target"]) for entry in host.audit()} == {
            ("step_held", name) for name in host.entries
        }
        assert daemon.number('certmond_planned_steps{step="issue"}') == 0
        for _ in range(2):  # whatever the start has set in motion is over then
            passes = daemon.passes()
            os.utime(host.at(ENTRIES["apiserver"]["path"]))
            daemon.until(lambda: daemon.passes() > passes, "looked again")  # noqa: B023 - it is called at once
        host.at("/run/upgrade").unlink()
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    reported = Counter(entry["event"] for entry in host.audit())
    assert reported == dict.fromkeys(("step_held", "step_planned", "step_begun", "step_done"), len(host.entries))


# Killed, stopped, beside others


class Gate:
    """A signer that is blocked in the middle of a step until the test releases it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        place = host.place.parent / "gate"
        self.helper = Helper(place, host.ca)
        self.helper.answers(0)
        self.asked, self.pipe = place / "asked", place / "pipe"
        os.mkfifo(self.pipe)
        script = self.helper.script.read_text()
        head, _, rest = script.partition("\n")
        self.helper.script.write_text(
            f"{head}\necho $$ >> {self.asked}\nread word < {self.pipe}\n[ $word = go ] || exit 3\n{rest}"
        )
        limit = f"{4 * DEADLINE:g}s"
        host.settings["signers"] = [
            {"name": "gate", "kind": "command", "command": [str(self.helper.script)], "time_limit": limit}
        ]
        self._held = os.open(self.pipe, os.O_RDWR)

    def stand_before(self, name: str) -> None:
        """This certificate is signed here."""
        self._host.entries[name]["signer"] = "gate"

    def reached(self) -> bool:
        return self.asked.exists() and self.asked.read_text().endswith("\n")

    def open(self) -> None:
        """Release all calls, including later ones."""
        os.write(self._held, b"go\n" * 100)

    def close(self) -> None:
        """Close the gate, which ends each waiting call."""
        os.close(self._held)

    def dismiss(self) -> None:
        """End the waiting call, for which no process waits."""
        os.write(self._held, b"home\n")
        with suppress(ProcessLookupError):
            end = os.pidfd_open(int(self.asked.read_text().split()[-1]))
            select.select([end], [], [], DEADLINE)
            os.close(end)


@pytest.fixture
def gate(host: Host) -> Iterator[Gate]:
    gate = Gate(host)
    try:
        yield gate
    finally:
        gate.close()


@pytest.mark.long
@pytest.mark.real("openssl")
def test_killed_in_the_middle(host: Host, gate: Gate) -> None:
    """A daemon that is killed during a step has completed the steps before. The next daemon continues with the
    others.
    """
    gate.stand_before("etcd-server")
    before = host.serials()
    with enforcing(host) as daemon:
        daemon.until(gate.reached, "in the middle")
        daemon.stop(signal.SIGKILL)
    host.now = now()
    half = host.serials()
    assert {name for name in half if half[name] != before[name]} == {"apiserver"}
    gate.dismiss()
    gate.open()
    with enforcing(host) as daemon:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    assert host.serials()["apiserver"] == half["apiserver"]
    well(host)


class Reached(Exception):  # noqa: N818 - no error
    """The moment has come."""


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    ["state/audit.log", "state/transactions/*.intent.json", "state/archive/*/0*", "state/transactions/*.commit.json",
     "state/renewals.json", "state/renewals.log", "root/etc/kubernetes/.certmond-*"],
)  # fmt: skip
def test_killed_whenever(host: Host, moment: str) -> None:
    """Wherever a daemon is killed while it writes, the next one comes to the same end."""
    before = host.serials()

    def run() -> None:
        Daemon(
            lambda: host.config, root=str(host.root), runtime_dir=host.place / "run", state_dir=host.state,
            journal=Journal("none"),
        ).run()  # fmt: skip

    def look(stop: str) -> None:
        if any(host.place.glob(moment)):
            raise Reached(stop)

    with pytest.raises(Reached):
        record(run, look)
    assert readable(host) == []
    with enforcing(host) as daemon:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        assert daemon.stop() == 0
    shutil.rmtree(host.place / "run")
    well(host)
    assert before.items().isdisjoint(host.serials().items())


@pytest.mark.long
@pytest.mark.real("openssl")
def test_stopped_in_the_middle(host: Host, gate: Gate) -> None:
    """A daemon that is stopped completes its step, begins no other, and exits 0."""
    gate.stand_before("apiserver")
    before = host.serials()
    with enforcing(host) as daemon:
        daemon.until(gate.reached, "in the middle")
        as_found = "alive, and as it found the node"
        daemon.until(lambda: subprocess_status(daemon).returncode == 2, as_found)
        daemon.process.send_signal(signal.SIGTERM)
        gate.open()
        assert daemon.process.wait(DEADLINE) == 0
        assert '"stopped"' in daemon.log.read_text()
    host.now = now()
    assert {name for name, serial in host.serials().items() if serial != before[name]} == {"apiserver"}
    assert host.temporary() == []
    assert {entry["target"] for entry in host.audit() if entry["event"] == "step_begun"} == {"apiserver"}


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_command_waits_for_the_daemon(host: Host, gate: Gate) -> None:
    """`renew` beside a daemon that is writing is refused clearly if it may not wait, else waits until that is done:
    never are the steps of the two mixed. The daemon does not renew this certificate twice, so the plan of `renew` stays
    valid.
    """
    gate.stand_before("apiserver")
    with enforcing(host) as daemon:
        daemon.until(gate.reached, "in the middle")
        with pytest.raises(BusyError, match=rf"^the daemon \(process {daemon.process.pid}\) is writing"):
            host.start()
        results: list[subprocess.CompletedProcess[str]] = []
        command = threading.Thread(target=lambda: results.append(certmond(host, "renew", "apiserver")))
        command.start()
        gate.open()
        command.join(DEADLINE)
        assert (results[0].returncode, results[0].stderr) == (0, "")
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    steps = [entry for entry in host.audit() if entry["event"] in {"step_begun", "step_done", "step_failed"}]
    for begun, ended in zip(steps[::2], steps[1::2], strict=True):
        assert (begun["event"], ended["event"]) == ("step_begun", "step_done"), (begun, ended)
        assert (begun["target"], begun["by"]) == (ended["target"], ended["by"])
    assert {entry["by"] for entry in steps} > {"daemon"}
    well(host)


@pytest.mark.long
def test_the_daemon_waits_for_a_command(host: Host) -> None:
    """While another process writes, the daemon still observes. Then it makes the due steps."""
    with Transactions(str(host.root), host.state).lock() as _:
        manager = enforcing(host)
        daemon = manager.__enter__()
        daemon.until(lambda: daemon.number('certmond_passes_total{cause="retry"}') >= 1, "tried again")
        assert daemon.number('certmond_planned_steps{step="issue"}') == len(ENTRIES)
    try:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        assert not [entry for entry in host.audit() if entry["event"] == "step_failed"]
    finally:
        manager.__exit__(None, None, None)
    well(host)


@pytest.mark.long
def test_what_a_killed_command_left_is_finished(host: Host) -> None:
    """A command that was killed between key and certificate leaves half a pair: the running daemon makes it whole."""
    host.start()
    before = host.serials()

    def renew() -> None:
        enforcer = host.enforcer()
        enforcer.executor.execute(enforcer.plan(host.look(), frozenset({"apiserver"})))

    twin = host.copy(host.place.parent / "twin")
    host, twin = twin, host
    stops = record(renew)
    host, twin = twin, host
    half = [n for n, stop in enumerate(stops) if stop == "exit renameat"][4]  # the key
    with enforcing(host) as daemon:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        kill_at(renew, half)
        assert list(host.state.glob("transactions/*.commit.json"))
        daemon.until(lambda: not list(host.state.glob("transactions/*.json")), "finished")
        daemon.until(lambda: daemon.entry("apiserver")["serial"] != str(before["apiserver"]), "seen")  # type: ignore[index]
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    assert [entry["by"] for entry in host.audit() if entry["event"] == "recovered"] == ["daemon"]
    well(host)


# Signers that wait, states that fail


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_signer_is_asked_again_by_the_next_daemon(waiting: tuple[Host, Helper]) -> None:
    """What a signer has promised to one daemon the next one asks for, at its time, with cookie, key and request."""
    host, helper = waiting
    host.now = now()
    helper.answers(5, "3\ncookie\n")
    with enforcing(host) as daemon:
        daemon.until(lambda: renewed(daemon, "apiserver", "waiting") >= 1, "waiting")
        assert daemon.stop() == 0
    helper.answers(0)
    with enforcing(host) as daemon:
        daemon.until(lambda: renewed(daemon, "apiserver") == 1, "renewed")
        daemon.until(lambda: at_rest(daemon, host), "at rest")
    first, *polls = helper.calls()
    assert first["CERTMONGER_OPERATION"] == "SUBMIT"
    assert polls
    assert {(call["CERTMONGER_OPERATION"], call["CERTMONGER_CA_COOKIE"], call["csr"]) for call in polls} == {
        ("POLL", "cookie", first["csr"])
    }
    well(host)


@pytest.mark.long
@pytest.mark.parametrize("obstacle", ["full", "read-only"])
def test_an_unwritable_state_does_not_stop_observation(host: Host, mount: Any, obstacle: str) -> None:
    """If its state directory is full or read-only, the daemon reports it, writes nothing on the node, and still
    observes. When it is writable again, the next pass renews.
    """
    host.enforcer().executor.recover()
    if obstacle == "full":
        mount("-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", on=host.state)
        (host.state / "transactions").mkdir(mode=0o700)
        (host.state / ".lock").touch(0o600)
        with suppress(OSError), (host.state / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        fact = "No space left on device): free space"
    else:
        mount("-o", "bind,ro", str(host.state), on=host.state)
        fact = "Read-only file system): mount its file system writable"
    before = host.serials()
    with enforcing(host) as daemon:
        daemon.until(lambda: "step_failed" in daemon.log.read_text(), "reported")
        assert fact in daemon.log.read_text()
        if obstacle == "full":  # the result of a step is reported also if it cannot be recorded
            daemon.until(lambda: '"result": "failed"' in daemon.log.read_text(), "reported")
        assert "Traceback" not in daemon.log.read_text()
        host.at(ENTRIES["apiserver"]["key"]).chmod(0o644)
        daemon.until(lambda: "too_open" in daemon.reasons("apiserver"), "observed")
        assert host.serials() == before
        if obstacle == "full":
            (host.state / "filler").unlink()
        else:
            daemon.unmount(host.state)
        host.at(ENTRIES["apiserver"]["key"]).chmod(0o600)
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        daemon.until(lambda: host.temporary() == [], "the next write has removed the rest of the failed one")
        host.now = now()
    assert [problem for problem in host.unwell() if "filler" not in problem] == []  # no daemon writes now


# Derived files


@pytest.mark.long
def test_bundles_follow_replaced_certificates(host: Host) -> None:
    """When another process replaces a certificate, its bundle follows. A foreign file at the path of a bundle stays,
    which is reported once.
    """
    host.settings["derived"] = [
        {"name": "front", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/front.pem"},
        {"name": "back", "kind": "pem-bundle", "source": "admin.conf", "path": "/etc/haproxy/back.pem"},
    ]
    unrelated = make_server(make_ca(), "unrelated")
    foreign = unrelated.pem + unrelated.key_pem
    host.put("/etc/haproxy/back.pem", foreign, 0o600)
    with enforcing(host) as daemon:
        daemon.until(lambda: at_rest(daemon, host), "at rest")
        daemon.until(lambda: host.at("/etc/haproxy/front.pem").exists(), "made")
        theirs = make_server(host.ca, "kube-apiserver", not_before=now() - DAY, not_after=now() + YEAR)
        host.put(ENTRIES["apiserver"]["key"], theirs.key_pem, 0o600)
        host.put(ENTRIES["apiserver"]["path"], theirs.pem)
        daemon.until(lambda: host.at("/etc/haproxy/front.pem").read_bytes().startswith(theirs.pem), "made again")
        daemon.until(lambda: daemon.number('certmond_planned_steps{step="derive"}') == 0, "at rest")
        host.at("/etc/haproxy/front.pem").unlink()
        daemon.until(lambda: host.at("/etc/haproxy/front.pem").exists(), "made again")
    assert host.at("/etc/haproxy/back.pem").read_bytes() == foreign
    held = [entry for entry in host.audit() if entry["target"] == "back"]
    assert [entry["event"] for entry in held] == ["step_held"]
    assert "so certmond does not replace it" in held[0]["message"]


# Secrets


class Leaks:
    """Searches output and files for private keys: as PEM, as base64 of it, and as the numbers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[bytes, str] = {}
        for key in host.keys:
            self._learn(key)

    def look_again(self) -> None:
        """Learn every key that is on the node, in the archive, or waiting, now."""
        for path in self._host.files():
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # the daemon's, which has another name by now
                continue
            for encoded in re.findall(rb"client-key-data: (\S+)", content):
                content += base64.b64decode(encoded)
            for block in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*-----", content, re.DOTALL):
                self._learn(serialization.load_pem_private_key(block, None))

    def _learn(self, key: Any) -> None:
        numbers = key.private_numbers()
        secret = [numbers.p, numbers.q, numbers.d] if isinstance(key, rsa.RSAPrivateKey) else [numbers.private_value]
        texts = [form(number) for number in secret for form in ("{:x}".format, "{:X}".format, str)]
        for encoding in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            pem = key.private_bytes(Encoding.PEM, encoding, serialization.NoEncryption())
            texts += [line for line in pem.decode().splitlines() if len(line) > 8 and "-----" not in line]
            whole = base64.b64encode(pem).decode()
            texts += [whole[start : start + 48] for start in range(60, len(whole) - 60, 48)]
        self._known |= {text.encode(): f"{text[:4]}…" for text in texts}

    def __len__(self) -> int:
        return len(self._known)

    def found_in(self, content: bytes) -> list[str]:
        seen = ["PRIVATE KEY"] if b"PRIVATE KEY" in content else []
        return seen + [name for text, name in self._known.items() if text in content]


def reported(host: Host, work: Path) -> dict[str, bytes]:
    """Return everything that certmond wrote except certificates and keys: its state, its metrics, the input of child
    processes.
    """
    secret = re.compile(r"archive/[^/]+/[^/]+/\d+-.*|pending/.*\.key")
    kept = {str(path.relative_to(host.state)): path for path in host.state.rglob("*") if path.is_file()}
    kept = {name: path for name, path in kept.items() if not secret.fullmatch(name)}
    for directory in (work / "run", work / "helper"):
        kept |= {str(path): path for path in directory.glob("*") if path.name not in {"ca.key", "pipe"}}
    said = dict[str, bytes]()
    for name, path in kept.items():
        with suppress(FileNotFoundError):  # what the daemon is writing has another name when it is there
            said[name] = path.read_bytes()
    return said


@pytest.mark.long
@pytest.mark.real("openssl")
def test_no_output_contains_a_key(tmp_path: Path) -> None:
    """No private key, old or new, is in the output, the log, the metrics, or the input of a child process: not with -v,
    not in a failure, not of the daemon, and not if the disk fails at any moment. Only root can read the state.
    """
    host = Host(tmp_path / "host", now=now())
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host.at("/etc/haproxy").mkdir()
    helper = Helper(tmp_path / "helper", host.ca)
    script = helper.script.read_text().partition("\n")
    helper.script.write_text(f"{script[0]}\ntr '\\0' '\\n' < /proc/$$/cmdline >> {helper.place}/arguments\n"
                             f"tr '\\0' '\\n' < /proc/$$/environ >> {helper.place}/environ\n{script[2]}")  # fmt: skip
    host.settings |= {
        "derived": [bundle], "archive": 100,
        "hold": {"unsynchronised_clock": False, "command": [str(helper.script)]},
        "signers": [{"name": "site", "kind": "command", "command": [str(helper.script)]}],
    }  # fmt: skip
    host.entries["apiserver"] |= {"signer": "site"}
    leaks = Leaks(host)
    said: list[bytes] = []

    def by_hand(*arguments: str, command: tuple[str, ...] = ()) -> int:
        done = certmond(host, *arguments, before=command)
        said.extend((done.stdout.encode(), done.stderr.encode()))
        leaks.look_again()
        return done.returncode

    helper.answers(2, "no")
    assert by_hand("-v", "renew", "--all") == 2
    helper.answers(5, "1\ncookie\n")
    assert by_hand("-v", "renew", "--all", "-o", "json") == 1
    helper.answers(0)
    assert by_hand("-v", "renew", "--all", "-o", "yaml") == 0
    helper.script.chmod(0o600)
    assert by_hand("-v", "renew", "apiserver") == 2
    helper.script.chmod(0o700)
    damaged = host.at(ENTRIES["etcd-server"]["key"])
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    by_hand("-v", "renew", "etcd-server")
    damaged.write_bytes(content)
    assert by_hand("archive", "list") == 0
    assert by_hand("-v", "archive", "restore", "apiserver") == 0
    assert by_hand("-v", "plan", "-o", "json") == 1
    strace = real_part("strace")
    results = set()
    for call, calls in (("fsync", range(1, 24, 6)), ("renameat", range(1, 6, 3)), ("write", range(1, 13, 2))):
        for n in calls:  # some of the writes are output; which ones, differs from host to host
            inject = (strace, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={n}")
            results.add(by_hand("-v", "renew", "admin.conf", command=inject))
    assert results == {0, 2, 3}
    host.now = now()
    for name in host.entries:
        host.install(name)  # all are due again
    leaks.look_again()
    (host.state / "renewals.json").unlink()
    helper.answers(1, "cookie")
    with enforcing(host, "-v", before=("env",)) as daemon:  # a process with its own command line and environment
        daemon.until(lambda: renewed(daemon, "apiserver", "waiting") or renewed(daemon, "kubelet-client"), "renewed")
        daemon.until(lambda: "step_done" in daemon.log.read_text(), "reported")
        leaks.look_again()
        work = daemon.runtime.parent
        said.append(daemon.log.read_bytes())
        said += [Path(f"/proc/{daemon.process.pid}/{place}").read_bytes() for place in ("cmdline", "environ")]
        pieces = reported(host, work) | reported(host, tmp_path)
        daemon.stop()
    said.append(daemon.log.read_bytes())
    pieces |= reported(host, tmp_path) | {f"output {number}": text for number, text in enumerate(said)}
    assert {name for name in ("audit.log", "renewals.json") if name in pieces} == {"audit.log", "renewals.json"}
    assert any(name.endswith("description.json") for name in pieces)
    assert any(name.endswith("metrics.prom") for name in pieces)
    assert len(leaks) > 300
    assert all(leaks.found_in(path.read_bytes()) for path in host.state.glob("archive/*/*/0-*"))  # it can find them
    assert {name: found for name, text in pieces.items() if (found := leaks.found_in(text))} == {}
    assert not [name for name, text in pieces.items() if b"Traceback" in text]
    assert readable(host) == []
