"""Servers whose service issues its certificates again at its start: daemons restart them one after the other, prove the
renewal, and stop when a server does not come back.

The service is a stand-in for k3s: its start issues a leaf again in the last 90 days (pkg/daemons/control/deps/deps.go).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from certmond.cluster.lease_lock import MARK
from tests import preloaded_certmond
from tests.builders import Issued, make_ca, make_leaf
from tests.cluster.api_server import ApiServer
from tests.conftest import real_part
from tests.daemon_harness import Running
from tests.deadline import AMPLE, DEADLINE

LONG = 2 * DEADLINE
"""Seconds after which a step of several daemons counts as stuck: they share the processors of this host."""
LEAVES = ("client-admin", "client-kubelet")
NOW = datetime.now(UTC)
CA = make_ca("k3s-ca", not_before=NOW - timedelta(days=400), not_after=NOW + timedelta(days=3250))

START = """#!{python}
import pathlib, shutil, sys, time
from datetime import UTC, datetime, timedelta
from cryptography import x509

home = pathlib.Path({home!r})


def note(what):
    with open({log!r}, "a") as log:
        print(what, {name!r}, time.monotonic(), file=log, flush=True)


note("begin")
for leaf in {leaves!r}:
    old = x509.load_pem_x509_certificate((home / f"{{leaf}}.crt").read_bytes())
    left = old.not_valid_after_utc - datetime.now(UTC)
    if left < timedelta(days=90) and not (home / f"keep-{{leaf}}").exists():
        for suffix in ("key", "crt"):
            (home / f"new-{{leaf}}.{{suffix}}").replace(home / f"{{leaf}}.{{suffix}}")
if not (home / "fails").exists():
    (home / "ready").touch()
else:
    (home / "ready").unlink(missing_ok=True)
note("end")
"""
READY = """
import http.server, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path(sys.argv[1], "ready").exists() else 500)
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Server:
    """A server with two leaves that end in ten days, its service, and its daemon, all of them on this host."""

    def __init__(self, name: str, directory: Path, kubeconfig: str | None, stack: ExitStack) -> None:
        self.name, self.home, self.log = name, directory / name, directory / "starts"
        for each in (self.home, self.home / "run", self.home / "conf.d"):
            each.mkdir()
        (self.home / "ca.crt").write_bytes(CA.pem)
        for leaf in LEAVES:
            self.write(leaf, _leaf(leaf, 10))
            self.write(f"new-{leaf}", _leaf(leaf, 365))
        (self.home / "ready").touch()
        start = self.home / "k3s"
        start.write_text(START.format(
            python=sys.executable, home=str(self.home), log=str(self.log), name=name, leaves=LEAVES
        ))  # fmt: skip
        start.chmod(0o755)
        command = [sys.executable, "-c", READY, str(self.home)]
        ready = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(ready.kill)
        assert ready.stdout
        self.health = f"http://127.0.0.1:{int(ready.stdout.readline())}/"
        self.kubeconfig, self.config = kubeconfig, self.home / "config.yaml"
        self.configure()

    def configure(self, ready_within: str = AMPLE) -> None:
        """Write the configuration. A service that is not ready after `ready_within` has failed."""
        self.config.write_text(yaml.safe_dump(self.document(ready_within)))

    def repair(self, daemon: Running) -> None:
        """Let the service start again, however long it takes."""
        (self.home / "fails").unlink()
        self.configure()
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: '"reloaded"' in daemon.log.read_text(), "has read its configuration again", LONG)

    namespace: tuple[str, ...] = ()
    """The command that runs certmond in a separate mount namespace."""

    def document(self, ready_within: str) -> dict[str, Any]:
        leaves = [
            {"name": leaf, "path": str(self.home / f"{leaf}.crt"), "key": str(self.home / f"{leaf}.key"), "ca": "ca",
             "usages": ["client auth"], "consumers": ["k3s"], "renewed_by": "k3s, at a start",
             "renewed_at_start": "90d"} for leaf in LEAVES
        ]  # fmt: skip
        return {
            "mode": "enforce", "profile": "none", "node_name": self.name, "poll": "1s", "spread": "1s",
            "hold": {"unsynchronised_clock": False},
            "restart": {"stable": "1s", "spacing": "1s", "ready_within": ready_within, "for_renewal": True},
            "cluster": {"kubeconfig": self.kubeconfig, "lease_duration": "30s"},
            "certificates": [
                {"name": "ca", "path": str(self.home / "ca.crt"), "authority": True, "key_optional": True}, *leaves
            ],
            "services": [{"name": "k3s", "kind": "command", "command": [str(self.home / "k3s")], "reloads": LEAVES,
                          "health": self.health}],
        }  # fmt: skip

    def write(self, name: str, made: Issued) -> None:
        for suffix, content in (("key", made.key_pem), ("crt", made.pem)):
            path = self.home / f"{name}.{suffix}"
            path.write_bytes(content)
            path.chmod(0o600)

    @property
    def renewed(self) -> set[str]:
        return {leaf for leaf in LEAVES if _end(self.home / f"{leaf}.crt") > NOW + timedelta(days=100)}

    def trail(self, event: str, *, all_steps: bool = False) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            lines = map(json.loads, (self.home / "state/audit.log").read_text().splitlines())
            found = [line for line in lines if line["event"] == event]
            return [line for line in found if all_steps or line.get("step") == "restart"]
        return []

    def ended(self) -> list[tuple[str, str]]:
        done = [*self.trail("step_done"), *self.trail("step_failed")]
        return [(line["result"], line["message"]) for line in done]

    def waits(self) -> str:
        return "\n".join(line["message"] for line in self.trail("step_held", all_steps=True))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(self.config), "--state-dir", str(self.home / "state")]
        return preloaded_certmond.run([*options, *arguments], DEADLINE)

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        log = self.home / "log"
        options = ["--config", self.config, "--state-dir", self.home / "state", "--runtime-dir", self.home / "run"]
        command = [*self.namespace, sys.executable, "-m", "certmond", "run", "--log", "json", *map(str, options)]
        with log.open("a") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        try:
            yield Running(process, self.home / "run", log)
        finally:
            process.kill()
            process.wait()


class Agent(Server):
    """An agent of k3s. Its daemon runs in a mount namespace in which /var/lib is that of an agent."""

    def __init__(self, name: str, directory: Path, kubeconfig: str, stack: ExitStack) -> None:
        super().__init__(name, directory, kubeconfig, stack)
        agent = self.home / "lib/rancher/k3s/agent/kubelet.kubeconfig"
        agent.parent.mkdir(parents=True)
        agent.touch()
        mount = 'mount --bind "$0" /var/lib && exec "$@"'
        unshare = (real_part("unshare"), "--mount", "--propagation", "private")
        self.namespace = (*unshare, "sh", "-c", mount, str(self.home / "lib"))


def _leaf(name: str, days: int) -> Issued:
    """Return a leaf that begins with its CA, as those of k3s do (rancher/dynamiclistener, cert/cert.go)."""
    return make_leaf(CA, name, not_before=NOW - timedelta(days=400), not_after=NOW + timedelta(days=days))


def _end(path: Path) -> datetime:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    tmp_path.chmod(0o755)
    with ExitStack() as made:
        yield made


def starts(log: Path) -> list[tuple[str, str, float]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [(what, name, float(at)) for what, name, at in map(str.split, lines)]


@pytest.mark.long
def test_the_plan_and_the_forecast_have_the_restart(tmp_path: Path, stack: ExitStack) -> None:
    """The hold of each certificate names the restart. `certmond restart` proves the renewal, too."""
    server = Server("server-1", tmp_path, None, stack)
    plan = json.loads(server.command("plan", "-o", "json").stdout)
    ((step,), held) = plan["steps"], {each["target"]: each["because"] for each in plan["held"]}
    assert (step["step"], step["target"], step["reason"]) == ("restart", "k3s", "renewed_at_start")
    assert set(held.values()) == {"k3s issues this certificate again when it starts; the plan contains this restart"}
    events = json.loads(server.command("forecast", "--for", "30d", "-o", "json").stdout)["events"]
    assert [(each["what"], each["target"]) for each in events] == [
        *(("renew", leaf) for leaf in LEAVES), ("restart", "k3s")
    ]  # fmt: skip
    done = server.command("restart", "k3s")
    assert done.returncode == 0, done.stderr
    assert f"k3s has issued {', '.join(LEAVES)} again, and is healthy" in done.stdout
    assert server.renewed == set(LEAVES)
    assert json.loads(server.command("plan", "-o", "json").stdout)["steps"] == []


@pytest.mark.long
def test_certificates_that_expired_while_the_node_was_off_are_renewed(tmp_path: Path, stack: ExitStack) -> None:
    """The plan has the restart, and the daemon restarts the service once. Each certificate then has a later end."""
    server = Server("server-1", tmp_path, None, stack)
    for leaf in LEAVES:
        server.write(leaf, _leaf(leaf, -2))
    plan = json.loads(server.command("plan", "-o", "json").stdout)
    assert [(step["step"], step["target"]) for step in plan["steps"]] == [("restart", "k3s")]
    with server.daemon() as daemon:
        daemon.until(server.ended, "has ended")
        assert [result for result, _ in server.ended()] == ["proven"]
        daemon.until(lambda: "expired" not in {*daemon.reasons(LEAVES[0]), *daemon.reasons(LEAVES[1])}, "is cleared")
    assert [what for what, *_ in starts(server.log)] == ["begin", "end"]
    assert server.renewed == set(LEAVES)


@pytest.mark.long
def test_a_certificate_that_the_start_does_not_renew_is_named_once(tmp_path: Path, stack: ExitStack) -> None:
    """The daemon does not restart the service again for it, and reports `restart_failed`."""
    server = Server("server-1", tmp_path, None, stack)
    (server.home / "keep-client-kubelet").touch()
    server.health = server.health.replace("http://", "tcp://").rstrip("/")  # which needs no answer in time
    server.configure(ready_within="4s")
    with server.daemon() as daemon:
        daemon.until(server.ended, "has ended")
        assert server.ended() == [("failed", "k3s was restarted, but it has not issued client-kubelet again")]
        daemon.until(lambda: "restart_failed" in daemon.reasons("client-kubelet"), "is reported")
        assert "restart_failed" not in daemon.reasons("client-admin")
        remedy = "read the log of the service, then run: certmond restart k3s"
        held = partial(_waits_for, server, f"has not issued client-kubelet again; {remedy}")
        daemon.until(held, "is held")
    assert [what for what, *_ in starts(server.log)] == ["begin", "end"]
    assert server.renewed == {"client-admin"}


@pytest.mark.long
def test_servers_restart_one_after_the_other_and_stop_at_a_failure(tmp_path: Path, stack: ExitStack) -> None:
    """The first server does not come back, so the others hold their restarts and name it. After its repair and a proven
    restart, the others follow, never two at once.
    """
    api = stack.enter_context(ApiServer(tmp_path))
    servers = [Server(f"server-{number}", tmp_path, api.kubeconfig, stack) for number in (1, 2, 3)]
    first, *others = servers
    (first.home / "fails").touch()
    first.configure(ready_within="4s")
    with first.daemon() as daemon:
        daemon.until(first.ended, "has failed", LONG)
        ((result, message),) = first.ended()
        assert result == "failed"
        assert message.startswith("k3s was restarted, but did not start (http://127.0.0.1:")
        daemon.until(lambda: _mark(api) == f"server-1: {message}", "has marked the Lease", LONG)
        running = [(other, stack.enter_context(other.daemon())) for other in others]
        for other, process in running:
            process.until(partial(_waits_for, other, "server-1 has no proof that a restart"), "waits", LONG)
        assert {name for _, name, _ in starts(first.log)} == {"server-1"}
        first.repair(daemon)
        repaired = first.command("restart", "k3s")
        assert repaired.returncode == 0, repaired.stderr
        for other, process in running:
            process.until(other.ended, f"{other.name} is renewed", LONG)
            assert ([result for result, _ in other.ended()], other.renewed) == (["proven"], set(LEAVES))
            process.until(lambda: not _mark(api), "no mark is left", LONG)
    later = [(what, name) for what, name, _ in starts(first.log)][6:]
    assert [what for what, _ in later] == ["begin", "end"] * 2
    assert [one[1] == two[1] for one, two in pairwise(later)] == [True, False, True]


@pytest.mark.long
@pytest.mark.real("unshare")
def test_agents_restart_after_the_servers(tmp_path: Path, stack: ExitStack) -> None:
    """While a server has no proof of its restart, agents hold theirs and name the server. After the proof, the agents
    restart, and take no lock.
    """
    api = stack.enter_context(ApiServer(tmp_path))
    server = Server("server-1", tmp_path, api.kubeconfig, stack)
    agents = [Agent(f"agent-{number}", tmp_path, api.kubeconfig, stack) for number in (1, 2)]
    (server.home / "fails").touch()
    server.configure(ready_within="4s")
    with server.daemon() as daemon:
        daemon.until(server.ended, "has failed", LONG)
        daemon.until(lambda: _mark(api), "has marked the Lease", LONG)
        running = [(agent, stack.enter_context(agent.daemon())) for agent in agents]
        for agent, process in running:
            process.until(partial(_waits_for, agent, "server-1 has no proof that a restart"), "waits", LONG)
        assert {name for _, name, _ in starts(server.log)} == {"server-1"}
        server.repair(daemon)
        repaired = server.command("restart", "k3s")
        assert repaired.returncode == 0, repaired.stderr
        holders = set()
        for agent, process in running:
            process.until(agent.ended, f"{agent.name} is renewed", LONG)
            holders.add(api.leases.only["spec"].get("holderIdentity"))
            assert ([result for result, _ in agent.ended()], agent.renewed) == (["proven"], set(LEAVES))
    assert holders <= {"", "server-1", None}


def _mark(api: ApiServer) -> str:
    return str((api.leases.only["metadata"].get("annotations") or {}).get(MARK, ""))


def _waits_for(server: Server, reason: str) -> bool:
    return reason in server.waits()
