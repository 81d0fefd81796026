"""`certmond demo`, the first contact of a new user. It runs the real daemon and the real server end to end."""

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path

import pytest

from certmond.demo import certmond_processes as running
from certmond.demo import walkthrough as scenario
from certmond.demo.certmond_processes import Expected, Running, StageError, entry_of
from certmond.demo.node import AUTHORITIES, LEAVES, Node
from certmond.errors import CertmondError
from tests import ordinary_user
from tests.conftest import real_part
from tests.deadline import DEADLINE

PROGRAM = f"""
from certmond.cli.main import main
from certmond.demo import certmond_processes

certmond_processes.PATIENCE = {DEADLINE}
"""
DEMO = ["-c", f"{PROGRAM}main()", "demo"]
"""The arguments of the interpreter that run `certmond demo`, with the time that it needs on a slow host."""
ENDLESS = ["-c", f"{PROGRAM}certmond_processes.Expected.in_metrics = lambda *_: False\nmain()", "demo"]
"""The same for a demo that waits for its first change."""
USERS = ("the user of the tests", "nobody") if ordinary_user.IS_POSSIBLE else ("the user of the tests",)
BROKEN = "/etc/kubernetes/pki/apiserver-kubelet-client.crt"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a directory for temporary files that every user can reach: pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(prefix="certmond-test-", dir="/tmp") as name:
        yield Path(name)


def environment(scratch: Path) -> dict[str, str]:
    """Return an environment without HOME and without the settings of the user who runs the tests, except those of
    coverage.
    """
    kept = {key: value for key, value in os.environ.items() if key == "PATH" or key.startswith("COVERAGE_")}
    return {**kept, "TMPDIR": str(scratch)}


def demo_as(user: str, scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *DEMO, *options], environment(scratch)
    if user == "nobody":
        ordinary_user.give(scratch, user)
        env = {**ordinary_user.environment(), "TMPDIR": str(scratch)}  # coverage's file is closed
        command = ordinary_user.command_of(user, [ordinary_user.python(), *DEMO, *options])
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=2 * DEADLINE, check=False)


def processes(mentioning: Path) -> list[str]:
    """Return the command lines of the processes that use a directory."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return [line for line in lines if str(mentioning) in line]


def await_the_end(scratch: Path) -> None:
    """Wait until no process uses the directory, and until it is empty."""
    deadline = time.monotonic() + DEADLINE
    while (list(scratch.iterdir()) or processes(scratch)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(scratch.iterdir()) == []
    assert processes(scratch) == []


def stages(output: str) -> Mapping[int, str]:
    parts = re.split(r"^(\d)\. ", output, flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.long
@pytest.mark.parametrize("user", USERS)
def test_demo_shows_every_stage_and_leaves_nothing_behind(user: str, scratch: Path) -> None:
    """As root and as an ordinary user without a home, the demo shows each change in the metrics and in the table, exits
    0, and leaves neither a file nor a process.
    """
    ended = demo_as(user, scratch)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert list(scratch.iterdir()) == []
    assert processes(scratch) == []

    reported = stages(ended.stdout)
    assert sorted(reported) == list(range(1, 10))
    assert "3 CAs, 11 certificates" in reported[1]
    assert "certmond run --config" in reported[2]
    assert "certmond serve --runtime-dir" in reported[2]
    rows = re.findall(r"^(\S+) +\w{3} \d\d, \d{4} \d\d:\d\d UTC .* ok *$", reported[3], re.MULTILINE)
    assert {*AUTHORITIES, *LEAVES, "kubelet-client", "kubelet-server-self"} == set(rows)

    series = "certmond_certificate_not_after_timestamp_seconds"
    before, after = re.findall(
        rf'^(?:before|after) +{series}{{certificate="apiserver",.*}} (\d+)$', reported[4], re.MULTILINE
    )
    assert int(after) - int(before) == pytest.approx(100 * 86400, abs=600)
    serials = re.search(r"serial ([0-9a-f]+) -> ([0-9a-f]+)$", reported[4], re.MULTILINE)
    assert serials
    assert serials[1] != serials[2]
    assert re.search(r"^apiserver, before .* 264d ", reported[4], re.MULTILINE)
    assert re.search(r"^apiserver, after .* 364d ", reported[4], re.MULTILINE)

    assert re.search(r"^apiserver-kubelet-client .* 264d .* malformed *$", reported[5], re.MULTILINE)
    assert f"critical {BROKEN}" in reported[5]
    assert re.search(rf'^{series}{{.*"{BROKEN}"}} {before}$', reported[5], re.MULTILINE)
    assert re.search(r"^front-proxy-client .* 3d .* nearing_expiry *$", reported[6], re.MULTILINE)
    assert re.search(r"^critical .*\[nearing_expiry\]$", reported[6], re.MULTILINE)
    assert re.search(r"^apiserver-etcd-client .* differs +key_mismatch *$", reported[7], re.MULTILINE)
    assert re.search(r"^front-proxy-client .* 364d .* ok *$", reported[8], re.MULTILINE)
    trail = re.findall(
        r"^  step_(\w+) +by daemon: /etc/kubernetes/pki/front-proxy-client\.crt", reported[8], re.MULTILINE
    )
    assert trail == ["planned", "begun", "done"]
    assert "no findings" in reported[9]
    assert not re.search("critical|warning", reported[9])
    assert len(re.findall(r"^visible in /metrics \d+ ms after the write began$", ended.stdout, re.MULTILINE)) == 5


@pytest.mark.long
def test_demo_that_is_piped_prints_plain_text_and_no_key(scratch: Path) -> None:
    """Into a pipe the demo prints plain text without control characters, and never a private key."""
    output = demo_as("the user of the tests", scratch).stdout
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "PRIVATE KEY" not in output


@pytest.mark.long
def test_kept_demo_can_be_inspected_with_the_printed_commands(scratch: Path) -> None:
    """--keep leaves the directory, closed to others, and prints commands that work on it. The processes are ended."""
    ended = demo_as("the user of the tests", scratch, "--keep")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert processes(scratch) == []
    [kept] = scratch.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert f"{kept} remains. No cluster trusts" in " ".join(ended.stdout.split())
    commands = dict(re.findall(r"^  (\S[^:]+): +(.+)$", ended.stdout, re.MULTILINE))
    command = shlex.split(commands["check the node again"])
    looked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert re.search(r"^apiserver .* ok *$", looked.stdout, re.MULTILINE)
    subprocess.run(shlex.split(commands["remove the directory"]), check=True)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_cleans_up(number: signal.Signals, scratch: Path) -> None:
    """Ctrl-C, SIGTERM or a closed terminal ends both processes and removes the directory; the exit code is 130."""
    own = signal.signal(number, signal.SIG_DFL)  # under nohup, or in the background, the signal would be ignored
    try:
        command = [sys.executable, *ENDLESS]
        demo = subprocess.Popen(command, env=environment(scratch), stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(number, own)
    with demo:
        assert demo.stdout
        seen = iter(demo.stdout)
        while not next(seen).startswith("$ certmond serve"):
            pass
        demo.send_signal(number)
        rest = "".join(seen)
    assert demo.returncode == 130
    assert "Interrupted." in rest
    assert list(scratch.iterdir()) == []
    await_the_end(scratch)  # the kernel ends a child process of `certmond run` after this process


@pytest.mark.long
def test_demo_under_nohup_outlives_its_terminal(scratch: Path) -> None:
    """A signal that the demo was started to ignore, as SIGHUP under nohup, does not end it."""
    line = f'trap "" HUP; exec {shlex.join([sys.executable, *DEMO])}'
    with subprocess.Popen(["/bin/sh", "-c", line], env=environment(scratch), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        seen = iter(demo.stdout)
        while not next(seen).startswith("$ certmond serve"):
            pass
        demo.send_signal(signal.SIGHUP)
        rest = "".join(seen)
    assert demo.returncode == 0
    assert "5 changes" in rest


def test_a_closed_pipe_leaves_nothing(scratch: Path) -> None:
    """`certmond demo | head -1` cleans up as well."""
    line = f"{shlex.join([sys.executable, *DEMO])} | head -1"
    subprocess.run(["/bin/sh", "-c", line], env=environment(scratch), capture_output=True, check=True, timeout=DEADLINE)
    await_the_end(scratch)


@pytest.fixture
def here(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the demo in this process. Return the directory for its temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(running, "PATIENCE", DEADLINE)
    monkeypatch.setattr(running, "HTTPConnection", lambda address, timeout: HTTPConnection(address, timeout=DEADLINE))
    return scratch


def truncate_otherwise(monkeypatch: pytest.MonkeyPatch, change: Callable[[Running, Path], None]) -> None:
    """Let the stage that truncates a file call `change` instead, and then wait for less than a second."""
    demos, start = list[Running](), Running.start

    def note(self: Running, name: str, arguments: list[str]) -> None:
        demos.append(self)
        start(self, name, arguments)

    def truncate(self: Node, path: str) -> None:
        change(demos[0], self.place(path))
        monkeypatch.setattr(running, "PATIENCE", 0.3)

    monkeypatch.setattr(Running, "start", note)
    monkeypatch.setattr(Node, "truncate", truncate)


@pytest.mark.long
def test_a_stage_without_its_result_fails_the_demo(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a change does not appear in time, the demo exits 1 with the expected result and the logs of its processes."""
    truncate_otherwise(monkeypatch, lambda *_: None)
    assert scenario.run(keep=False) == 1
    output = capsys.readouterr().out
    assert "The demo failed: the server did not show within 0.3 s: /metrics that has apiserver-kubelet-client" in output
    assert "malformed (critical)" in output
    assert "--- output of the daemon:" in output
    assert "certmond watches this node: 16 certificates, all well" in output
    assert "--- output of the server:\n(nothing)" in output
    assert list(here.iterdir()) == []


@pytest.mark.long
@pytest.mark.usefixtures("here")
def test_open_findings_are_printed_when_a_stage_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A demo that fails prints the findings in /metrics."""
    finding = f'certmond_finding{{certificate="apiserver-kubelet-client",path="{BROKEN}",reason="missing"'

    def remove(demo: Running, path: Path) -> None:
        path.unlink()
        demo.wait("the finding", lambda: finding in demo.metrics())

    truncate_otherwise(monkeypatch, remove)
    assert scenario.run(keep=False) == 1
    assert finding in capsys.readouterr().out.partition("The demo failed: the server did not show within 0.3 s: ")[2]


def test_process_that_ends_fails_the_demo_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo does not wait for a daemon that has ended: it names it, prints its output, and cleans up."""
    monkeypatch.setattr(Node, "make", lambda self: self.put({}))
    monkeypatch.setattr(scenario, "_options", lambda place, **_: ["--root", f"{place}/nowhere"])
    assert scenario.run(keep=False) == 1
    output = capsys.readouterr().out
    assert "The demo failed: the daemon ended unexpectedly, with exit code 3" in output
    assert "nowhere" in output.partition("--- output of the daemon:")[2]
    assert list(here.iterdir()) == []


def test_a_missing_temporary_directory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no temporary directory can be made, the demo reports that and how to name another."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(
        CertmondError, match=r"cannot create a temporary directory .* set TMPDIR to a writable directory"
    ):
        scenario.run(keep=False)


def test_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo ends although a process ignores SIGTERM."""
    stubborn = tmp_path / "python"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    stubborn.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stubborn))
    monkeypatch.setattr(running, "PATIENCE", DEADLINE)
    monkeypatch.setattr(running, "STOP_SECONDS", 0.2)
    started = Running(tmp_path)
    started.start("daemon", [str(tmp_path)])
    started.wait("the trap", lambda: "ready" in "".join(started.logs()))
    started.stop()
    end = time.monotonic() + DEADLINE
    while left := processes(tmp_path):  # a child of the killed shell has its name until it runs `sleep`, and then ends
        assert time.monotonic() < end, left
        time.sleep(0.02)


def test_a_certificate_that_is_not_served_is_a_failed_stage(tmp_path: Path) -> None:
    """A certificate that the server does not show is a failed stage, not a crash."""
    with pytest.raises(StageError, match="has no entry apiserver"):
        entry_of({"certificates": []}, "apiserver")
    started = Running(tmp_path)
    with pytest.raises(StageError, match="timestamp_seconds for apiserver"):
        started.end_of("apiserver")
    started.stop()


def test_expectation_names_what_is_missing() -> None:
    """A failed stage describes what it was waiting for."""
    assert str(Expected("apiserver", "1")) == "apiserver with serial 1 and no finding"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    Node(tmp_path, datetime.now(UTC)).make()
    return tmp_path


def test_node_is_as_closed_as_kubeadm_makes_it(tree: Path) -> None:
    """In the demo's node, certificates are for all to read, and keys, kubeconfigs and manifests for their owner."""
    public = {"config.yaml", "hostname"}
    for path in (path for path in tree.rglob("*") if path.is_file()):
        expected = 0o644 if path.suffix == ".crt" or path.name in public else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_kubelet_link_is_absolute(tree: Path) -> None:
    """Like the kubelet's, the link to its current certificate names a path of the node, not of the demo."""
    target = os.readlink(tree / "var/lib/kubelet/pki/kubelet-client-current.pem")
    assert re.fullmatch(r"/var/lib/kubelet/pki/kubelet-client-\d{4}(-\d\d){5}\.pem", target)


@pytest.mark.real("openssl")
@pytest.mark.parametrize(
    ("anchor", "leaf", "purpose"),
    [
        ("ca", "apiserver", "sslserver"),
        ("ca", "apiserver-kubelet-client", "sslclient"),
        ("etcd/ca", "etcd/peer", "sslserver"),
        ("etcd/ca", "etcd/peer", "sslclient"),
        ("front-proxy-ca", "front-proxy-client", "sslclient"),
    ],
)
def test_chains_of_the_node_satisfy_openssl(tree: Path, anchor: str, leaf: str, purpose: str) -> None:
    """openssl accepts the certificates of the demo's CAs for their purpose."""
    pki = tree / "etc/kubernetes/pki"
    command = [
        real_part("openssl"),
        "verify",
        "-purpose",
        purpose,
        "-CAfile",
        f"{pki}/{anchor}.crt",
        f"{pki}/{leaf}.crt",
    ]
    subprocess.run(command, check=True, capture_output=True)
