"""The units as they are shipped, under a real systemd: they start, reload, stop and survive as their comments say."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from certmond.notify.event_log import MESSAGE_IDS, Event
from certmond.pki.catalog.service_spec import ServiceSpec
from tests.builders import make_ca
from tests.formats.test_isolated_pkcs12_decryption import concealing
from tests.node import PKI, Node, key_pem, pem
from tests.system.machine import PREFIX, PYTHON, SERVICES, TARGET, UNITS, Machine, booted, install
from tests.web_config_files import PAIR, USERS, WebFiles, server_pair

BOTH = DAEMON, WEB = SERVICES
STATUS = "/run/certmond/status.json"
CONFIG = "/etc/certmond/config.yaml"
PROBE = "/usr/lib/certmond-probe.py"
REPORT = "/run/certmond-probe.json"
API = f"{PKI}/apiserver.crt"

RAISED, CLEARED = (f"MESSAGE_ID={MESSAGE_IDS[kind]}" for kind in (Event.FINDING_RAISED, Event.FINDING_CLEARED))
RELOADED, REFUSED = (f"MESSAGE_ID={MESSAGE_IDS[kind]}" for kind in (Event.RELOADED, Event.RELOAD_REFUSED))
PROCESS_EXITED = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15"  # systemd's own, as are EXIT_STATUS and UNIT_RESULT
UNIT_FAILED = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c"
PRIORITIES = {"info": "6", "warning": "4", "critical": "2"}

DAC_READ_SEARCH = 1 << 2

pytestmark = pytest.mark.real("systemd")


@pytest.fixture(scope="module")
def booted_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        install(machine)
        Node(machine.root)
        machine.run("rm", "-rf", "/root/.kube")
        machine.path(PROBE).write_bytes(Path(__file__).with_name("probe.py").read_bytes())
        yield machine


@pytest.fixture
def machine(booted_machine: Machine) -> Machine:
    """Both units are active, each as it is shipped."""
    booted_machine.systemctl("reset-failed")
    booted_machine.systemctl("start", TARGET, *BOTH)
    return booted_machine


@pytest.fixture
def node(machine: Machine) -> Node:
    """The tree of the machine, which is the same for all tests: who breaks it puts it back."""
    there = Node.__new__(Node)
    there.root = machine.root
    return there


def status(machine: Machine) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(machine.path(STATUS).read_text())
    return document


def passes(machine: Machine) -> float:
    lines = machine.path("/run/certmond/metrics.prom").read_text().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("certmond_passes_total"))


def another_pass(machine: Machine) -> None:
    before = passes(machine)
    machine.systemctl("reload", DAEMON)
    machine.until(lambda: passes(machine) > before, "another pass")


def main_pid(machine: Machine, unit: str) -> int:
    return int(machine.property(unit, "MainPID"))


# --- Life -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_daemon_is_ready_when_it_has_rendered(machine: Machine) -> None:
    """READY comes after the first rendered pass: who starts the unit finds status.json as soon as it has started."""
    machine.systemctl("stop", DAEMON)
    assert not machine.path(STATUS).exists()
    document = json.loads(machine.run("sh", "-c", f"systemctl start {DAEMON} && cat {STATUS}"))
    assert len(document["certificates"]) + len(document["trust_anchors"]) >= 14
    assert machine.show(DAEMON, "Type", "ActiveState", "NRestarts") == ["notify", "active", "0"]


@pytest.mark.long
def test_the_status_has_one_line(machine: Machine) -> None:
    """`systemctl status` shows the number of certificates, and the next one that is due, also before the first check of
    the services.
    """
    text = machine.property(DAEMON, "StatusText")
    assert re.fullmatch(r"14 certificates( in files)?, .*; next due \S+ on \d{4}-\d\d-\d\d", text)


@pytest.mark.long
def test_the_daemon_exports_its_own_memory(machine: Machine) -> None:
    """In the sandbox of the unit, the metrics contain the memory of the daemon process."""
    text = machine.path("/run/certmond/metrics.prom").read_text()
    (resident,) = re.findall(r"(?m)^certmond_process_resident_memory_bytes (\S+)$", text)
    assert float(resident) > 1 << 20


def test_the_daemon_is_not_root(machine: Machine) -> None:
    """The daemon runs as its own user. All users can read what it renders, and no other user its state."""
    process = machine.path(f"/proc/{main_pid(machine, DAEMON)}")
    user = int(machine.run("id", "-u", "certmond"))
    assert process.stat().st_uid == user != 0
    for name, mode in (("/run/certmond", 0o40755), (STATUS, 0o100644), ("/var/lib/certmond", 0o40700)):
        found = machine.path(name).stat()
        assert (found.st_uid, found.st_mode) == (user, mode), name


def test_the_work_tree_is_not_needed(machine: Machine) -> None:
    """The installed files need no other."""
    assert not list(machine.path(str(Path(__file__).parents[2])).iterdir())
    assert machine.run("certmond", "version")


HOLDING = """
import socket, time
connection = socket.create_connection(("127.0.0.1", 9964))
connection.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
connection.recv(1)
print("connected", flush=True)
time.sleep(100_000)
"""
"""A client that keeps its connection."""


@pytest.mark.parametrize("unit", BOTH)
def test_sigterm_ends_the_process(machine: Machine, unit: str) -> None:
    """After SIGTERM, the process ends with the exit status 0, so systemd sends no SIGKILL. certmond-web does not wait
    for a client that keeps its connection.
    """
    with machine.running(PYTHON, "-I", "-c", HOLDING) as client:
        assert client.stdout
        assert client.stdout.readline() == "connected\n"
        machine.systemctl("stop", unit)
        assert client.poll() is None
    ended = machine.show(unit, "Result", "ActiveState", "ExecMainCode", "ExecMainStatus")
    assert ended == ["success", "inactive", str(os.CLD_EXITED), "0"]


# --- The journal ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_finding_is_written_once(machine: Machine) -> None:
    """Each open finding is one entry with its fields, and further passes do not repeat it."""
    since = time.time()
    machine.systemctl("restart", DAEMON)
    for _ in range(3):
        another_pass(machine)
    document = status(machine)
    expected = {
        (item["reason"], PRIORITIES[item["severity"]], item["message"])
        for owner in (*document["certificates"], *document["trust_anchors"], document)
        for item in owner["findings"]
    }
    entries = machine.entries(DAEMON, RAISED, since=since)
    assert expected  # a CA of kubeadm before 1.27 has serial number 0
    reported = Counter((entry["CERTMOND_REASON"], entry["PRIORITY"], entry["MESSAGE"]) for entry in entries)
    assert reported == Counter(expected)
    for entry in entries:
        assert entry["CERTMOND_KIND"] == Event.FINDING_RAISED
        assert entry["SYSLOG_IDENTIFIER"] == "certmond"
        assert entry["CERTMOND_CERTIFICATE"]
        is_hidden = entry["CERTMOND_REASON"] == "not_watched"  # root's kubeconfig, which the sandbox hides
        assert is_hidden or machine.path(entry["CERTMOND_PATH"]).exists()


def test_a_broken_file_is_written_once_and_so_is_its_repair(machine: Machine, node: Node) -> None:
    """A file that breaks is one raised finding. After it is restored, it is one cleared finding."""
    since, good = time.time(), node.read(API)

    def reported(kind: str) -> list[dict[str, Any]]:
        return machine.entries(DAEMON, kind, "CERTMOND_REASON=malformed", since=since)

    try:
        node.replace(API, good[:300])
        machine.until(lambda: reported(RAISED), "raised")
        another_pass(machine)
        (raised,) = reported(RAISED)
        assert (raised["CERTMOND_CERTIFICATE"], raised["CERTMOND_PATH"]) == ("apiserver", f"/{API}")
        assert raised["PRIORITY"] == PRIORITIES["critical"]
        assert not reported(CLEARED)
    finally:
        node.replace(API, good)
    machine.until(lambda: reported(CLEARED), "cleared")
    another_pass(machine)
    (cleared,) = reported(CLEARED)
    assert cleared["CERTMOND_CERTIFICATE"] == "apiserver"
    assert reported(RAISED) == [raised]


def test_a_mount_of_the_host_is_visible_inside(machine: Machine) -> None:
    """A file system that is mounted later over a watched directory is visible in the sandbox, and so is its end."""
    missing = (RAISED, "CERTMOND_REASON=missing", "CERTMOND_CERTIFICATE=etcd-server")
    since = time.time()
    machine.run("mount", "-t", "tmpfs", "-o", "mode=755", "test", f"/{PKI}/etcd")
    try:
        machine.until(lambda: machine.entries(DAEMON, *missing, since=since), "missing")
    finally:
        # The daemon may have a file of the directory open at this instant.
        machine.until(lambda: machine.attempt("umount", f"/{PKI}/etcd").returncode == 0, "unmounted")
    machine.until(lambda: machine.entries(DAEMON, CLEARED, *missing[1:], since=since), "there again")


# --- The configuration ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_reload_takes_a_good_configuration_and_refuses_a_broken_one(machine: Machine) -> None:
    """SIGHUP reads the configuration again; a broken one is refused with an entry, and the old one stays in force. The
    reload of the unit fails, and the status line of the unit names the reason. The daemon itself loads no parser.
    """
    process = main_pid(machine, DAEMON)
    since, config = time.time(), machine.path(CONFIG)

    def names() -> set[str]:
        return {entry["name"] for entry in status(machine)["certificates"]}

    try:
        config.write_text(f"certificates: [{{name: mine, path: /{API}}}]\n")
        machine.systemctl("reload", DAEMON)
        machine.until(lambda: "mine" in names(), "the new configuration in force")
        machine.until(lambda: machine.entries(DAEMON, RELOADED, since=since), "reloaded")
        config.write_text("certificates: [{name: yours, path: relative}]\nresynch: 5m\n")
        before = passes(machine)
        assert machine.attempt("systemctl", "reload", DAEMON).returncode == 1
        refusals = machine.until(lambda: machine.entries(DAEMON, REFUSED, since=since), "refused")
        machine.until(lambda: passes(machine) > before, "the pass after it")
        assert "mine" in names()
        assert "the new configuration is invalid, see: certmond config" in machine.property(DAEMON, "StatusText")
        assert {entry["PRIORITY"] for entry in refusals} == {"3"}
        assert any(CONFIG in entry["MESSAGE"] and "resynch" in entry["MESSAGE"] for entry in refusals)
        assert len(machine.entries(DAEMON, RELOADED, since=since)) == 1
        assert "pydantic" not in machine.path(f"/proc/{process}/maps").read_text()
    finally:
        config.unlink()
        machine.systemctl("reload", DAEMON)
    machine.until(lambda: "mine" not in names(), "the first configuration in force again")
    assert machine.property(DAEMON, "ActiveState") == "active"
    assert main_pid(machine, DAEMON) == process


def test_a_hook_runs_in_the_sandbox_of_the_unit(machine: Machine) -> None:
    """With the shipped unit a hook runs, once over a restart, as certmond, and writes nothing else."""
    program, log = "/usr/lib/certmond-test-hook", "/var/lib/certmond/events"
    machine.path(program).write_text(
        f'#!/bin/sh\nread -r input\necho >/etc/certmond-was-here && exit 9\necho "$(id -un) $input" >>{log}\n'
    )
    machine.path(program).chmod(0o755)
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    machine.path(CONFIG).write_text(
        f"profile: none\nhooks: [{{name: log, command: [{program}]}}]\n"
        f"certificates: [{{name: mine, path: /{API}, mode: 0644}}]\n"
    )

    def reported() -> list[tuple[str, str, str]]:
        text = machine.path(log).read_text() if machine.path(log).exists() else ""
        lines = [line.split(" ", 1) for line in text.splitlines()]
        documents = [(user, json.loads(document)) for user, document in lines]
        return [(user, each["event"], each["certificate"]) for user, each in documents]

    try:
        machine.path(f"/{API}").chmod(0o666)
        machine.systemctl("restart", DAEMON)
        machine.until(lambda: reported() == [("certmond", "raised", "mine")], "raised")
        machine.systemctl("restart", DAEMON)
        machine.path(f"/{API}").chmod(0o644)
        machine.until(lambda: reported()[1:] == [("certmond", "cleared", "mine")], "cleared")
        assert not machine.path("/etc/certmond-was-here").exists()
    finally:
        machine.path(f"/{API}").chmod(0o644)
        machine.path(CONFIG).unlink()
        machine.path(program).unlink()
        machine.path(log).unlink(missing_ok=True)
        machine.systemctl("restart", DAEMON)


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_web_unit_answers_on_loopback(machine: Machine) -> None:
    """certmond-web serves what certmond rendered, on 127.0.0.1:9964."""
    assert machine.show(WEB, "ActiveState", "SubState") == ["active", "running"]
    for path, kind, contains in (
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            'certmond_certificate_chain_valid{certificate="apiserver"',
        ),
        ("/healthz", "text/plain; charset=utf-8", "ok"),
        ("/readyz", "text/plain; charset=utf-8", "ok"),
        ("/", "text/html; charset=utf-8", "<title>"),
    ):
        code, content_type, body, _ = machine.get(path)
        assert (code, content_type) == (200, kind), path
        assert contains in body, path
    code, content_type, body, _ = machine.get("/api/v1/status")
    assert (code, content_type) == (200, "application/json")
    assert {"apiserver", "kubelet-client"} <= {entry["name"] for entry in json.loads(body)["certificates"]}


@pytest.mark.long
def test_the_web_unit_outlives_a_hang_up(machine: Machine) -> None:
    """After SIGHUP, with which operators reload other services, a process answers."""
    before = main_pid(machine, WEB)
    machine.systemctl("kill", "--kill-whom=main", "--signal=HUP", WEB)
    machine.until(lambda: main_pid(machine, WEB) not in {before, 0}, "another process")
    machine.until(lambda: machine.property(WEB, "ActiveState") == "active", "it listens")
    assert machine.get("/healthz")[0] == 200


def test_the_web_unit_with_tls_and_passwords(machine: Machine, tmp_path: Path) -> None:
    """Set up as docs/web.md says, certmond-web reads a key that no other user can, asks for a password, and serves a
    renewed certificate without a restart.
    """
    web_files = WebFiles(tmp_path)
    web_files.write(PAIR + USERS)
    documented = (Path(__file__).parents[2] / "docs/web.md").read_text()
    commands = re.findall(r"^    ((?:groupadd|install) .*)$", documented, re.MULTILINE)
    drop_in = re.findall(r"```ini\n\[Service\]\n(.*?)```", documented, re.DOTALL)[0].splitlines()
    configuration = re.findall(r"```yaml\n(.*?)```", documented, re.DOTALL)[0].replace("192.0.2.10", "127.0.0.1")
    made = machine.path("/root/made")
    made.mkdir()
    for source, name in (("web.yaml",) * 2, ("tls.crt",) * 2, ("tls.key",) * 2, ("clients.crt", "prometheus-ca.crt")):
        (made / name).write_bytes((tmp_path / source).read_bytes())
    machine.run("sh", "-euc", "\n".join(["cd /root/made", *commands]))
    web = machine.path("/etc/certmond/web")
    (web / "ca.crt").write_bytes(web_files.ca.pem)
    assert (web / "tls.key").stat().st_mode & 0o777 == 0o640

    def answer(credentials: str) -> tuple[str | None, int]:
        found = machine.get("/healthz", ca="/etc/certmond/web/ca.crt", credentials=credentials)
        return found.leaf, found.status

    listener = machine.path("/etc/certmond/conf.d/listener.yaml")
    listener.parent.mkdir(exist_ok=True)
    listener.write_text(configuration)
    with machine.drop_in(WEB, *drop_in):
        machine.systemctl("restart", WEB)
        process = main_pid(machine, WEB)
        first, status = answer("alice:secret")
        assert status == 200
        assert answer("alice:wrong") == (first, 401)
        pair = server_pair(web_files.ca)
        for name, content in (("tls.crt", pair.pem), ("tls.key", pair.key_pem)):
            beside = web / f"{name}.new"
            beside.write_bytes(content)
            beside.chmod(0o640)
            machine.run("chgrp", "certmond-tls", f"/etc/certmond/web/{name}.new")
            beside.rename(web / name)
        assert answer("alice:secret") == (hashlib.sha256(pair.der).hexdigest(), 200)
        assert main_pid(machine, WEB) == process
        assert machine.entries(WEB, f"_PID={process}", "PRIORITY=4") == []
    listener.unlink()
    machine.systemctl("restart", WEB)


@pytest.mark.long
def test_a_daemon_that_is_stopped_is_reported(machine: Machine) -> None:
    """While the daemon is stopped /healthz is 503 and says what to do; once it is started again, 200."""
    process = main_pid(machine, WEB)
    assert machine.get("/healthz")[0] == 200
    machine.systemctl("stop", DAEMON)
    for path in ("/healthz", "/readyz", "/metrics"):
        code, _, body, _ = machine.get(path)
        assert code == 503, path
        assert "systemctl start certmond" in body
    machine.systemctl("start", DAEMON)
    machine.until(lambda: machine.get("/healthz")[0] == machine.get("/readyz")[0] == 200, "healthy again")
    assert machine.get("/metrics")[0] == 200
    assert main_pid(machine, WEB) == process


# --- The watchdog -----------------------------------------------------------------------------------------------------

WATCHED = 3
"""Seconds. The units have 30, which is long to wait for: WatchdogSec= is all that these tests change."""


@contextmanager
def watched(machine: Machine) -> Iterator[None]:
    with ExitStack() as stack:
        for unit in BOTH:
            stack.enter_context(machine.drop_in(unit, f"WatchdogSec={WATCHED}"))
        machine.systemctl("restart", *BOTH)
        yield
    machine.systemctl("restart", *BOTH)


def instances(machine: Machine) -> dict[str, str]:
    """Return the ID of the present instance of each unit."""
    return {unit: machine.property(unit, "InvocationID") for unit in BOTH}


def end(machine: Machine, unit: str, instance: str, kind: str) -> list[dict[str, Any]]:
    """Return the entries of systemd of this kind about the end of an instance."""
    return machine.entries(unit, kind, f"INVOCATION_ID={instance}")


def timeouts(machine: Machine, unit: str, instance: str) -> list[dict[str, Any]]:
    start = f"{unit}: Watchdog timeout (limit {WATCHED}s)"
    found = end(machine, unit, instance, "_PID=1")
    return [entry for entry in found if entry["MESSAGE"].startswith(start)]


def restarted(machine: Machine, unit: str, instance: str) -> bool:
    return machine.property(unit, "ActiveState") == "active" and machine.property(unit, "InvocationID") != instance


def killed_by_watchdog(machine: Machine, before: Mapping[str, str]) -> None:
    for unit, instance in before.items():
        machine.until(partial(restarted, machine, unit, instance), f"{unit} started again")
        (exited,) = end(machine, unit, instance, PROCESS_EXITED)
        assert (exited["EXIT_CODE"], exited["EXIT_STATUS"]) == ("killed", str(int(signal.SIGABRT)))
        (failure,) = end(machine, unit, instance, UNIT_FAILED)
        assert failure["UNIT_RESULT"] == "watchdog"
        assert len(timeouts(machine, unit, instance)) == 1


@pytest.mark.long
def test_a_healthy_process_is_left_alone_by_the_watchdog(machine: Machine) -> None:
    """Over three timeouts without work, the loops notify the watchdog and are not killed. If a slow host stops a
    process for a whole timeout, the three timeouts begin again.
    """

    def last_pings() -> list[int]:
        return [int(machine.property(unit, "WatchdogTimestampMonotonic")) for unit in BOTH]

    def undisturbed() -> bool:
        before = instances(machine)
        over = max(last_pings()) + 3 * WATCHED * 1_000_000
        machine.until(lambda: min(last_pings()) > over or instances(machine) != before, "signs of life")
        return instances(machine) == before

    with watched(machine):
        machine.until(undisturbed, "three timeouts without an end of a process")


COSTLY, LIMIT = 14, 12
"""Number of files that each take at least one second, and limits of the unit in seconds. A file takes at most ten."""


@pytest.mark.long
def test_a_long_pass_exceeds_the_limits_of_the_unit(machine: Machine) -> None:
    """A start and a reload with many costly files take longer than TimeoutStartSec= and WatchdogSec=, and the unit
    stays active.
    """
    directory, config = machine.path("/etc/kubernetes/costly"), machine.path(CONFIG)
    limits = f"TimeoutStartSec={LIMIT}", f"WatchdogSec={LIMIT}"
    directory.mkdir()
    for number in range(COSTLY):
        (directory / f"{number}.p12").write_bytes(concealing((1 << 31) - 1, b""))
    try:
        config.write_text("certificates: [{name: costly, path: /etc/kubernetes/costly/*.p12}]\n")
        with machine.drop_in(DAEMON, *limits):
            machine.systemctl("restart", DAEMON)
            process, before = main_pid(machine, DAEMON), passes(machine)
            machine.systemctl("reload", DAEMON)
            machine.until(lambda: passes(machine) > before, "the pass after the reload", 30 * COSTLY)
            assert machine.show(DAEMON, "ActiveState", "NRestarts") == ["active", "0"]
            assert main_pid(machine, DAEMON) == process
        found = [each["findings"] for each in status(machine)["certificates"] if each["name"].startswith("costly")]
        texts = " ".join(item["message"] for findings in found for item in findings)
        slow = texts.count("more than 1 second of processor time") + texts.count("no result after 10 seconds")
        assert len(found) == slow == COSTLY
    finally:
        config.unlink()
        shutil.rmtree(directory)
        machine.systemctl("restart", DAEMON)


@pytest.mark.long
def test_a_stopped_process_is_killed_and_restarted(machine: Machine) -> None:
    """A stopped process is killed with SIGABRT after WatchdogSec, and restarted."""
    with watched(machine):
        before = instances(machine)
        for unit in BOTH:
            machine.attempt("systemctl", "kill", "--signal=STOP", "--kill-whom=main", unit)
        killed_by_watchdog(machine, before)


def hold(machine: Machine, unit: str, stack: ExitStack) -> str:
    """Hold the loop's thread of the present instance, and return the ID of the instance. Return "" if the watchdog has
    ended the instance before, because of a slow host.
    """
    instance, process = machine.property(unit, "InvocationID"), main_pid(machine, unit)
    stack.enter_context(machine.held(process))
    with suppress(FileNotFoundError):
        machine.until(lambda: machine.threads(process)[process] == "t", f"{unit} held")
        others = [state for thread, state in machine.threads(process).items() if thread != process]
        assert not {"t", "T"} & {*others}
        assert others or unit == WEB  # which has a thread for each connection, and now none
    return instance if machine.show(unit, "InvocationID", "MainPID") == [instance, str(process)] else ""


@pytest.mark.long
def test_it_is_the_loop_that_gives_the_signs_of_life(machine: Machine) -> None:
    """While only the loop's thread is held in a system call, no other gives its signs of life: the watchdog acts."""
    with watched(machine):
        with ExitStack() as stack:
            before = {unit: machine.until(partial(hold, machine, unit, stack), f"{unit} held") for unit in BOTH}
            for unit, instance in before.items():
                machine.until(partial(timeouts, machine, unit, instance), f"{unit} missed")
        killed_by_watchdog(machine, before)  # what is let go takes the signal that has been waiting for it


# --- The sandbox ------------------------------------------------------------------------------------------------------

OWN = {"/tmp", "/var/tmp", "/dev/mqueue"}
"""Directories that the unit can write but does not share: no other process sees their files, and they end with the
process.
"""

NEVER = {
    "netlink socket": "EAFNOSUPPORT",
    "packet socket": "EAFNOSUPPORT",
    "trace process 1": "EPERM",
    "mount": "EPERM",
    "make a mount namespace": "EPERM",
    "make a user namespace": "EPERM",
    "change the root": "EPERM",
    "set the clock": "EPERM",
    "load a module": "EPERM",
    "make a device": "EPERM",
    "give a file away": "EPERM",
    "become another user": "EPERM",
    "set-user-ID on a file": "EPERM",
    "real-time priority": "EPERM",
    "change the personality": "EPERM",
    "write a key of root's": "EACCES",
}
"""What neither unit can do, and the error that it is refused with."""

LISTENING = {
    "listen on TCP", "listen on TCP over IPv6", "listen on TCP, on whatever port", "listen on a UNIX socket",
    "accept a connection",
}  # fmt: skip
CONNECTING = {"connect over TCP", "connect to the system bus"}
OTHERS = {
    "see process 1", "signal process 1", "read the command line of process 1", "read the program of process 1",
    "read the memory of process 1",
}  # fmt: skip
"""The actions on a process of another user."""


def probe(machine: Machine, unit: str) -> dict[str, Any]:
    """What the probe reports from within the sandbox of a unit, of which nothing else is changed than what it runs."""
    machine.systemctl("stop", unit)
    instead = (
        "Type=oneshot", "ExecStart=", f"ExecStart={PREFIX}/bin/python3 -B {PROBE}", "Restart=no", "WatchdogSec=0",
        f"StandardOutput=truncate:{REPORT}",
    )  # fmt: skip
    with machine.drop_in(unit, *instead):
        machine.systemctl("start", unit)
    report: dict[str, Any] = json.loads(machine.path(REPORT).read_text())
    return report


def refused(report: dict[str, Any]) -> dict[str, str]:
    """What came of everything that neither unit can do."""
    # EACCES is the kernel's answer; the systemd of Debian 12 leaves it to the filter of calls, whose answer is EPERM.
    assert report["attempts"]["memory that is written and executed"] in {"EACCES", "EPERM"}
    return outcomes(report, NEVER)


def outcomes(report: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: report["attempts"][name] for name in names}


def can_listen_though_denied(machine: Machine) -> bool:
    """This kernel and systemd have not the BPF that holds a unit to its ports: a plain one is not held either."""
    listen = "import socket; socket.create_server(('127.0.0.1', 0))"
    command = ("systemd-run", "--wait", "--quiet", "-p", "SocketBindDeny=any", PYTHON, "-I", "-c", listen)
    return machine.attempt(*command).returncode == 0


def own_namespaces(machine: Machine, report: dict[str, Any]) -> set[str]:
    return {
        name
        for name, found in report["namespaces"].items()
        if found != machine.run("readlink", f"/proc/1/ns/{name}").strip()
    }


def writable(machine: Machine, report: dict[str, Any]) -> set[str]:
    """Return where the unit can write, except for its own directories."""
    found: dict[str, list[int]] = report["writable"]
    for place in OWN:
        there = machine.path(place).stat()
        assert found.pop(place) != [there.st_dev, there.st_ino], place
    return set(found)


def test_the_probe_can_do_all_that_where_nothing_forbids_it(machine: Machine) -> None:
    """Without a sandbox nothing is refused to the probe: what is refused in one is refused by it."""
    command = ("systemd-run", "--wait", "--pipe", "--quiet", f"{PREFIX}/bin/python3", "-B", PROBE)
    report = json.loads(machine.run(*command))
    failed = {name: outcome for name, outcome in report["attempts"].items() if outcome != "done"}
    # The clock is set to what is no time, which the kernel refuses; our port is in use; the machine itself, being a
    # container, may load no module.
    # What is accepted from does not listen.
    assert failed == {
        "set the clock": "EINVAL", "listen on our port": "EADDRINUSE", "load a module": "EPERM",
        "accept a connection": "EINVAL",
    }  # fmt: skip
    assert {"/", "/dev/shm", "/etc/kubernetes/pki", "/run", "/run/lock", "/usr/bin", "/var/log"} <= report[
        "writable"
    ].keys()
    assert "1" in report["processes"]
    assert not own_namespaces(machine, report)


def test_what_the_daemon_can_do(machine: Machine) -> None:
    """The daemon reads every key, connects to what is served and sees what runs: it writes to two directories, has one
    capability, cannot listen, and touches no process.
    """
    report = probe(machine, DAEMON)
    assert writable(machine, report) == {"/run/certmond", "/var/lib/certmond"}
    assert set(report["capabilities"].values()) == {DAC_READ_SEARCH}
    assert report["user"] == int(machine.run("id", "-u", "certmond"))
    assert report["no_new_privileges"]
    assert report["homes"] == ["ENOENT", "ENOENT"]  # empty
    assert own_namespaces(machine, report) == {"ipc", "mnt"}
    assert refused(report) == NEVER
    assert outcomes(report, LISTENING) == dict.fromkeys(LISTENING, "EPERM")
    assert outcomes(report, CONNECTING) == dict.fromkeys(CONNECTING, "done")
    assert outcomes(report, OTHERS) == {
        "see process 1": "done", "read the command line of process 1": "done", "signal process 1": "EPERM",
        "read the program of process 1": "EACCES", "read the memory of process 1": "EACCES",
    }  # fmt: skip
    readable = (
        "read a key of root's",
        "read the kubelet's key",
        "look into /etc/kubernetes",
        "look into /var/lib/kubelet",
        "have a second process",
    )
    assert outcomes(report, readable) == dict.fromkeys(readable, "done")


def test_what_the_web_unit_can_do(machine: Machine) -> None:
    """certmond-web listens and reads what was rendered, and that is all: it writes nowhere and can reach no key."""
    report = probe(machine, WEB)
    assert writable(machine, report) == set()
    assert set(report["capabilities"].values()) == {0}
    assert report["user"] not in (0, int(machine.run("id", "-u", "certmond")))
    assert report["no_new_privileges"]
    assert report["processes"] == []
    assert outcomes(report, OTHERS) == dict.fromkeys(OTHERS, "ENOENT") | {"signal process 1": "EPERM"}
    assert report["homes"] == ["EACCES", "EACCES"]
    assert own_namespaces(machine, report) == {"ipc", "mnt", "user"}
    assert refused(report) == NEVER
    possible = ("listen on our port", "read what was rendered")
    assert outcomes(report, possible) == dict.fromkeys(possible, "done")
    hidden = (
        "read a key of root's", "read the kubelet's key", "look into /etc/kubernetes", "look into /var/lib/kubelet",
        "look into /var/lib/certmond",
    )  # fmt: skip
    assert outcomes(report, hidden) == dict.fromkeys(hidden, "EACCES")
    if not can_listen_though_denied(machine):
        ports = ("listen on TCP", "listen on TCP over IPv6")
        assert outcomes(report, ports) == dict.fromkeys(ports, "EPERM")


# --- Enforce mode -----------------------------------------------------------------------------------------------------

ENFORCE = Path(__file__).parents[2] / "systemd/certmond-enforce.conf"
FIVE = sum(1 << number for number in (0, 1, 3, 5, 19))
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL and CAP_SYS_PTRACE."""


@contextmanager
def enforcing(machine: Machine, *, keep: bool = False) -> Iterator[None]:
    """The daemon with the drop-in as it is shipped, stopped; at the end it is as it was, and so is its state, unless it
    is kept.
    """
    file = machine.path(f"/run/systemd/system/{DAEMON}.d/enforce.conf")
    machine.systemctl("stop", DAEMON)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(ENFORCE.read_text())
    machine.systemctl("daemon-reload")
    try:
        yield
    finally:
        machine.systemctl("stop", DAEMON)
        file.unlink()
        if not keep:
            machine.run("rm", "-rf", "/var/lib/certmond")
        machine.systemctl("daemon-reload")


def test_in_enforce_mode_all_that_is_due_is_renewed(machine: Machine, node: Node) -> None:
    """With the shipped drop-in the daemon renews every leaf that is due by itself; owners and modes stay root's."""
    machine.run("cp", "-a", "/etc/kubernetes", "/etc/kubernetes.before")
    start, end = (datetime.now(UTC) + timedelta(days=days) for days in (-345, 20))
    for name, ca in ((f"{PKI}/apiserver", f"{PKI}/ca"), (f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")):
        node.reissue(name, ca, start=start, end=end)
    files = [f"/{PKI}/{name}" for name in ("apiserver.crt", "apiserver.key", "front-proxy-client.crt")]
    before = {name: machine.path(name).read_bytes() for name in files}
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    machine.path(CONFIG).write_text("mode: enforce\nhold: {unsynchronised_clock: false}\n")
    try:
        with enforcing(machine):
            since = time.time()
            machine.systemctl("start", DAEMON)
            kind = f"MESSAGE_ID={MESSAGE_IDS[Event.STEP_DONE]}"
            done = machine.until(lambda: machine.entries(DAEMON, kind, since=since)[1:], "both are renewed")
            machine.until(lambda: 'certmond_planned_steps{step="issue"} 0.0' in metrics(machine), "nothing is planned")
            assert {entry["CERTMOND_BY"] for entry in done} == {"daemon"}
            trail = machine.path("/var/lib/certmond/audit.log").read_text().splitlines()
        found = {json.loads(line)["target"] for line in trail if "step_done" in line}
        assert found == {"apiserver", "front-proxy-client"}
        for name in files:
            assert machine.path(name).read_bytes() != before[name], name
            status = machine.path(name).stat()
            assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600 if name.endswith("key") else 0o644), name
        assert not list(machine.path("/etc/kubernetes").rglob(".certmond-*"))
    finally:
        machine.path(CONFIG).unlink()
        machine.run("sh", "-c", "cp -a /etc/kubernetes.before/. /etc/kubernetes/ && rm -r /etc/kubernetes.before")


COPY = "root/.kube/config"


@contextmanager
def roots_copy(machine: Machine, node: Node) -> Iterator[bytes]:
    """An old copy of admin.conf that belongs to root. Yields the content of admin.conf, which a renewal has changed."""
    conf = "etc/kubernetes/admin.conf"
    before = node.read(conf)
    machine.run("sh", "-c", "install -D -m 0600 /etc/kubernetes/admin.conf /root/.kube/config")
    data = base64.b64decode(node.kubeconfig(conf)["users"][0]["user"]["client-certificate-data"])
    old = x509.load_pem_x509_certificate(data)
    leaf, key = node.mint(old, end=old.not_valid_after_utc + timedelta(days=1))
    node.edit_kubeconfig(conf, client_certificate_data=pem(leaf), client_key_data=key_pem(key))
    try:
        yield node.read(conf)
    finally:
        node.write(conf, before)
        machine.run("rm", "-r", "/root/.kube")


@contextmanager
def component(machine: Machine, *settings: str) -> Iterator[str]:
    """Run a stand-in for an API server whose command line names a CA. Yield the name of its unit, which is disabled."""
    ca = make_ca("oidc", not_after=datetime.now(UTC) + timedelta(days=5))
    file, unit = machine.path("/etc/oidc.crt"), "controller.service"
    file.write_bytes(ca.pem)
    lines = [
        f"ExecStart=@{PYTHON} /opt/kube-apiserver -I -S -c 'import time; time.sleep(3600)' --oidc-ca-file=/etc/oidc.crt"
    ]
    (path := machine.path(f"/run/systemd/system/{unit}")).write_text("\n".join(["[Service]", *settings, *lines, ""]))
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    try:
        yield unit
    finally:
        machine.systemctl("stop", unit)
        path.unlink()
        file.unlink()
        machine.systemctl("daemon-reload")


def oidc(machine: Machine) -> list[str]:
    """The flags that name the CA of the stand-in, in the status of the daemon."""
    return [each["named_by"] for each in status(machine)["certificates"] if each["path"] == "/etc/oidc.crt"]


@pytest.mark.long
def test_the_daemon_follows_the_flags_of_a_process(machine: Machine) -> None:
    """The daemon reads the command line of a service with a separate mount namespace. A check does, too."""
    with component(machine, "PrivateTmp=yes", "ProtectSystem=full") as unit:
        named = [f"--oidc-ca-file of the process kube-apiserver in {unit}"]
        machine.systemctl("restart", DAEMON)
        assert oidc(machine) == named
        found = json.loads(machine.attempt("certmond", "check", "-o", "json").stdout)
        assert [each["named_by"] for each in found["certificates"] if each["path"] == "/etc/oidc.crt"] == named
        machine.systemctl("stop", unit)
        machine.systemctl("restart", DAEMON)
        assert oidc(machine) == []


@pytest.mark.long
def test_a_process_with_another_root_or_user_is_not_followed(machine: Machine) -> None:
    """A process in another root directory has other files, and a user can change an own command line."""
    machine.run("mkdir", "-p", "/run/another")
    other_root = ("RootDirectory=/run/another", "BindReadOnlyPaths=/usr /lib /lib64", "MountAPIVFS=yes")
    with component(machine, *other_root) as unit:
        machine.systemctl("restart", DAEMON)
        assert oidc(machine) == []
        assert machine.property(unit, "SubState") == "running"
    with component(machine, "User=daemon"):
        machine.systemctl("restart", DAEMON)
        assert oidc(machine) == []
        (message,) = [each["message"] for each in status(machine)["findings"] if "oidc" in each["message"]]
        assert "user 1 runs this process" in message


def copy_reasons(machine: Machine) -> list[str]:
    """The findings of root's copy in the status of the daemon."""
    return [each["reason"] for each in status(machine)["findings"] if f"/{COPY} " in each["message"]]


def test_the_daemon_reads_the_copy_of_root_and_no_other_file_there(machine: Machine, node: Node) -> None:
    """An old copy is a finding of the daemon, which cannot write it. The rest of /root stays hidden."""
    with roots_copy(machine, node):
        before = node.read(COPY)
        machine.systemctl("restart", DAEMON)
        machine.until(lambda: copy_reasons(machine) == ["stale_copy"], "the old copy is reported")
        inside = machine.path(f"/proc/{main_pid(machine, DAEMON)}/root")
        assert [each.name for each in (inside / "root").iterdir()] == [".kube"]
        assert "/root/.kube" not in probe(machine, DAEMON)["writable"]
        assert node.read(COPY) == before
        machine.systemctl("stop", DAEMON)


@pytest.mark.long
def test_a_copy_of_root_from_after_the_start_is_named_until_a_restart(machine: Machine, node: Node) -> None:
    """systemd mounts /root/.kube only at the start of the unit. Until then, the daemon says that it cannot compare."""
    machine.systemctl("restart", DAEMON)
    with roots_copy(machine, node):
        another_pass(machine)
        assert copy_reasons(machine) == ["not_watched"]
        machine.systemctl("restart", DAEMON)
        assert copy_reasons(machine) == ["stale_copy"]


@pytest.mark.long
def test_in_enforce_mode_a_copy_of_root_that_does_not_exist_is_no_finding(machine: Machine, node: Node) -> None:
    """In enforce mode, the daemon may look outside its sandbox. It names only a copy that exists, also one from after
    its start. In observe mode, it cannot know this, so it names the directory that the sandbox hides.
    """
    machine.systemctl("restart", DAEMON)
    machine.until(lambda: copy_reasons(machine) == ["not_watched"], "unknown")
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    machine.path(CONFIG).write_text("mode: enforce\nhold: {unsynchronised_clock: false}\n")
    try:
        with enforcing(machine):
            machine.systemctl("start", DAEMON)
            assert copy_reasons(machine) == []
            with roots_copy(machine, node):
                another_pass(machine)
                assert copy_reasons(machine) == ["not_watched"]
            another_pass(machine)
            assert copy_reasons(machine) == []
    finally:
        machine.path(CONFIG).unlink()


@pytest.mark.long
def test_in_enforce_mode_the_copy_of_root_is_replaced(machine: Machine, node: Node) -> None:
    """With the shipped drop-in the daemon replaces an old copy, which keeps its owner and mode."""
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    machine.path(CONFIG).write_text("mode: enforce\nhold: {unsynchronised_clock: false}\n")
    try:
        with roots_copy(machine, node) as content, enforcing(machine):
            machine.systemctl("start", DAEMON)
            machine.until(lambda: node.read(COPY) == content, "the copy is replaced")
            machine.until(lambda: not copy_reasons(machine), "the finding is cleared")
            status = machine.path(COPY).stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o600)
            assert [each.name for each in machine.path("root/.kube").iterdir()] == ["config"]
    finally:
        machine.path(CONFIG).unlink()


@pytest.mark.long
def test_a_stop_waits_for_the_restart_that_is_under_way(machine: Machine, node: Node) -> None:
    """Its program gets no signal, and the daemon records that the act was made. The default of its time limit leaves
    time for the longest act.
    """
    program, log, flag = (machine.path(f"/var/lib/certmond-test-{name}") for name in ("act", "log", "flag"))
    inside = {path: f"/var/lib/{path.name}" for path in (program, log, flag)}
    program.write_text(
        f"#!/bin/sh\necho begun >>{inside[log]}\nwhile test -e {inside[flag]}; do sleep .1; done\n"
        f"echo done >>{inside[log]}\n"
    )
    program.chmod(0o755)
    flag.touch()
    record = machine.path("/var/lib/certmond/restarts.json")
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    machine.path(CONFIG).write_text(
        "mode: enforce\nhold: {unsynchronised_clock: false}\n"
        f"services: [{{name: hook, kind: command, command: [{inside[program]}]}}]\n"
        "certificates: [{name: front-proxy-client, consumers: hook}]\n"
    )
    before = {name: node.read(name) for name in (f"{PKI}/front-proxy-client.crt", f"{PKI}/front-proxy-client.key")}
    try:
        with enforcing(machine):
            (allowed,) = re.findall(r"^TimeoutStopSec=(\d+)$", ENFORCE.read_text(), re.MULTILINE)
            assert timedelta(seconds=int(allowed)) > ServiceSpec.time_limit
            machine.systemctl("start", DAEMON)
            machine.until(record.exists, "it has met the service")
            node.reissue(f"{PKI}/front-proxy-client", f"{PKI}/front-proxy-ca")
            machine.until(log.exists, "the act has begun")
            machine.systemctl("stop", "--no-block", DAEMON)
            machine.until(lambda: machine.property(DAEMON, "ActiveState") == "deactivating", "it is stopping")
            flag.unlink()
            machine.until(lambda: machine.property(DAEMON, "ActiveState") == "inactive", "it has stopped")
            assert log.read_text().split() == ["begun", "done"]
            assert json.loads(record.read_text())["content"]["hook"]["episode"]["stage"] == "prove"
    finally:
        machine.path(CONFIG).unlink()
        for name, content in before.items():
            node.write(name, content)
        for path in (program, log, flag):
            path.unlink(missing_ok=True)


def metrics(machine: Machine) -> str:
    return machine.path("/run/certmond/metrics.prom").read_text()


@pytest.mark.long
def test_what_the_daemon_can_do_in_enforce_mode(machine: Machine) -> None:
    """In enforce mode the daemon is root with five capabilities: it writes below /etc and /var/lib, too, may signal any
    process, knows since which start the machine runs, and still cannot listen.
    """
    with enforcing(machine):
        report = probe(machine, DAEMON)
        expected = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd"), FIVE) | {"CapAmb": 0}
        assert (report["user"], report["capabilities"]) == (0, expected)
        assert writable(machine, report) >= {"/run/certmond", "/var/lib/certmond", "/etc/kubernetes/pki"}
        assert not any(
            place.startswith(("/usr", "/boot", "/root", "/home", "/var/log")) for place in report["writable"]
        )
        permitted = {"give a file away": "done", "write a key of root's": "done"}
        assert refused(report) == NEVER | permitted
        assert outcomes(report, LISTENING) == dict.fromkeys(LISTENING, "EPERM")
        possible = CONNECTING | OTHERS | {"read the boot ID", "have a second process"}
        assert outcomes(report, possible) == dict.fromkeys(possible, "done")


@pytest.mark.long
def test_the_state_directory_goes_with_the_mode(machine: Machine) -> None:
    """What one mode has kept is the other's to read, archive included, as often as the drop-in comes and goes."""

    def owners() -> set[int]:
        state = machine.path("/var/lib/certmond")
        return {each.lstat().st_uid for each in (state, *state.rglob("*"))}

    def generations(user: str) -> str:
        inside = "import os, sys; os.execv('/usr/bin/certmond', ['certmond', 'archive', 'list'])"
        return machine.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", PYTHON, "-c", inside)

    user = int(machine.run("id", "-u", "certmond"))
    machine.path(CONFIG).parent.mkdir(exist_ok=True)
    try:
        for _ in range(2):
            machine.path(CONFIG).write_text("mode: enforce\nhold: {unsynchronised_clock: false}\n")
            with enforcing(machine, keep=True):
                machine.systemctl("start", DAEMON)
                machine.until(lambda: list(machine.path("/var/lib/certmond/archive").glob("*/*")), "good ones are kept")
                assert owners() == {0}
            machine.path(CONFIG).unlink()
            machine.systemctl("start", DAEMON)
            assert owners() == {user}
            assert "apiserver" in generations("certmond")
            assert status(machine)["mode"] == "observe"
    finally:
        machine.path(CONFIG).unlink(missing_ok=True)
        machine.systemctl("stop", DAEMON)
        machine.run("rm", "-rf", "/var/lib/certmond")


# --- What systemd itself says -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("unit", "exposure"), [(DAEMON, 20), (WEB, 15)])
def test_systemd_finds_nothing_to_say_about_a_unit(machine: Machine, unit: str, exposure: int) -> None:
    """`systemd-analyze verify` has no remark, and the exposure that it computes is at most 2.0 or 1.5 of 10."""
    done = machine.attempt("systemd-analyze", "verify", f"{UNITS}/{unit}")
    assert done.returncode == 0
    assert "certmond" not in done.stdout + done.stderr
    machine.run("systemd-analyze", "security", "--offline=yes", f"--threshold={exposure}", f"{UNITS}/{unit}")
