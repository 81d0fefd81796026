"""`root-ca stage`, `rotate` and `abort` on nodes of k3s: the command of the distribution, the restarts and the checks.

The service is a stand-in for k3s (`tests/rancher_stand_in.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from certmond.cli.distribution_ca import rotate
from certmond.cli.step_handover import Handover
from certmond.discovery.join_settings import JoinSettings, JoinToken
from certmond.pki.x509.certificate import to_pem
from tests import hurried_certmond
from tests.rancher_cluster import RancherCluster, RancherNode, rancher_cluster
from tests.rancher_stand_in import CAS

PATIENT = {"certmond.services.tls_probe:LIMIT": 30.0}
"""The server of the stand-in runs in this process, and can answer late."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HURRY", json.dumps(PATIENT))
    for place, seconds in (hurried_certmond.TIMES | PATIENT).items():
        hurried_certmond.hurry_one(place, seconds, monkeypatch.setattr)
    monkeypatch.setattr(rotate, "_POLL", 0.2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RancherCluster]:
    with rancher_cluster(tmp_path) as made:
        yield made


def served_with(node: RancherNode, anchor: bytes) -> str:
    """Return the serial number of the leaf that a client with this trust anchor accepts."""
    context = ssl.create_default_context(cadata=anchor.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(("127.0.0.1", node.port)) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as tls,
    ):
        return str((tls.getpeercert() or {})["serialNumber"])


@pytest.mark.long
def test_the_servers_and_then_the_agents(tmp_path: Path) -> None:
    """The first server stores the CAs and restarts. Each other node follows with the same command. Until the servers
    have followed, an agent is refused. At each instant, a client that trusts only the old Root CA accepts each server.
    """
    with rancher_cluster(tmp_path, servers=2, agents=1) as cluster:
        first, second = cluster.servers
        (agent,) = cluster.agents
        old = first.files()["server-ca.crt"]
        before = {node.name: node.files("agent") for node in (first, second, agent)}
        assert first.run("root-ca", "stage").exit_code == 0
        assert (first.files()["server-ca.crt"], cluster.starts()) == (old, [])
        plan = json.loads(first.run("root-ca", "rotate", "--plan", "-o", "json").stdout)
        assert [each["step"] for each in plan["steps"]] == ["store", "restart", "verify", "unstage"]
        (held,) = json.loads(first.run("plan", "-o", "json").stdout)["held"]
        assert held["because"].endswith("; run: certmond root-ca rotate")

        done = first.run("root-ca", "rotate")
        assert (done.exit_code, cluster.starts()) == (0, ["server-1"]), done.output
        assert "next, on each other server, one after the other: certmond root-ca rotate" in done.stdout
        assert not first.staged.parent.exists()
        assert first.bundle()[3].subject == "CN=k3s-server-ca@1"
        assert served_with(first, old) != served_with(second, old)
        assert first.run("check").exit_code == 0

        refused = agent.run("root-ca", "rotate")
        assert refused.exit_code == 2
        assert f"the server {second.address} still publishes the old CA" in refused.stderr
        followed = second.run("root-ca", "rotate", "--server", first.address)
        assert followed.exit_code == 0, followed.output
        assert second.bundle() == first.bundle()
        served_with(second, old)
        done = agent.run("root-ca", "rotate")
        assert (done.exit_code, cluster.starts()) == (0, ["server-1", "server-2", "agent-1"]), done.output
        for node in (first, second, agent):
            assert node.bundle("agent/server-ca.crt") == first.bundle()
            assert all(content != before[node.name][name] for name, content in node.files("agent").items()
                       if name.endswith(".crt"))  # fmt: skip
            served_with(first, to_pem(first.bundle()[2]))
        (second.home / "published.crt").write_bytes(old)
        refused = agent.run("root-ca", "rotate")
        assert f"the server {second.address} still publishes the old CA" in refused.stderr
        assert first.address not in refused.stderr
        (second.home / "published.crt").write_bytes(second.files()["server-ca.crt"])
        again = agent.run("root-ca", "rotate")
        assert (again.exit_code, len(cluster.starts())) == (0, 3)
        assert "this node uses the CA that" in again.stdout


@pytest.mark.long
def test_a_server_that_does_not_come_back_stops_the_change(cluster: RancherCluster) -> None:
    """The message names the service and the command that continues. After the repair, this command completes the
    change. The CAs are not stored again, because the service does not run.
    """
    server = cluster.first
    server.run("root-ca", "stage")
    (server.home / "fails").touch()
    server.configure(ready_within="4s")
    failed = server.run("root-ca", "rotate")
    assert failed.exit_code == 2
    assert "failed: k3s has no proof of its restart; read its log, then run: certmond root-ca rotate" in failed.stderr
    assert server.staged.exists()
    steps = json.loads(server.run("root-ca", "rotate", "--plan", "-o", "json").stdout)["steps"]
    assert [each["step"] for each in steps] == ["restart", "verify", "unstage"]
    (server.home / "fails").unlink()
    server.configure()
    done = server.run("root-ca", "rotate")
    assert done.exit_code == 0, done.output
    assert len(server.bundle()) == 4
    assert not server.staged.exists()


@pytest.mark.long
def test_leaves_that_the_start_does_not_issue_stop_the_change(cluster: RancherCluster) -> None:
    """Each old leaf is named after `restart.ready_within`."""
    server = cluster.first
    server.run("root-ca", "stage")
    server.node["keeps"] = "server/tls/client-admin"
    server.write_node()
    server.configure(ready_within="15s")  # the service itself is ready as soon as its start has ended
    failed = server.run("root-ca", "rotate")
    assert failed.exit_code == 2
    path = server.home / "server/tls/client-admin.crt"
    assert f"failed: {path} has the issuer CN=k3s-client-ca@1, not a new CA" in failed.stderr
    assert "no other node may follow before" in failed.stderr
    assert server.staged.exists()


@pytest.mark.long
def test_a_wrong_directory_is_refused_with_each_problem(cluster: RancherCluster) -> None:
    """Nothing is stored, and no service restarts. `stage` does not replace the files without --force."""
    server = cluster.first
    server.run("root-ca", "stage")
    (server.staged / "client-ca.key").unlink()
    shutil.copy(server.staged / "etcd/peer-ca.key", server.staged / "server-ca.key")
    (server.staged / "etcd/server-ca.crt").write_bytes(b"x")
    for verb in (("rotate",), ("stage",)):
        refused = server.run("root-ca", *verb)
        assert refused.exit_code == 2
        problems = [line for line in refused.stderr.splitlines() if line.startswith("refused: ")]
        assert len(problems) == 4, refused.stderr
        assert problems[-1].endswith("--force")
    assert not (server.home.parent / "datastore.json").exists()
    assert cluster.starts() == []
    assert server.run("root-ca", "stage", "--force").exit_code == 0
    assert "already staged" in server.run("root-ca", "stage").stdout


def test_without_the_key_of_a_ca_nothing_is_staged(cluster: RancherCluster) -> None:
    server = cluster.first
    (server.home / "server/tls/client-ca.key").unlink()
    (server.home / "server/tls/etcd/peer-ca.key").write_bytes((server.home / "server/tls/server-ca.key").read_bytes())
    for arguments in ((), ("--dry-run",)):
        refused = server.run("root-ca", "stage", *arguments)
        assert refused.exit_code == 2
        assert "client-ca.key is missing, so certmond cannot cross-sign a new CA" in refused.stderr
        assert "peer-ca.key contains no key of CN=k3s-etcd-peer-ca@1" in refused.stderr
    assert not server.staged.exists()


def test_a_dry_run_changes_nothing(cluster: RancherCluster) -> None:
    server = cluster.first
    shown = server.run("root-ca", "stage", "--dry-run")
    assert shown.exit_code == 0
    assert [line.partition(": ")[0] for line in shown.stdout.splitlines()] == [
        str(server.staged / f"{name}.crt") for name in CAS
    ]
    assert not server.staged.parent.exists()
    assert not (server.home / "state").exists()


@pytest.mark.long
def test_an_abort_removes_the_staged_cas(cluster: RancherCluster) -> None:
    """After the command has received the CAs, the abort is refused, because the next start installs them."""
    server = cluster.first
    assert "there is nothing to abort" in str(server.run("root-ca", "abort").exception)
    server.run("root-ca", "stage")
    assert server.run("root-ca", "abort").exit_code == 0
    assert not server.staged.parent.exists()
    server.run("root-ca", "stage")
    (server.home / "running").unlink()
    failed = server.run("root-ca", "rotate")
    assert failed.exit_code == 2
    assert "ended with status 1 (connection refused); read the log of k3s, then run: certmond root-ca rotate" in (
        failed.stderr
    )
    for arguments in (("abort",), ("stage", "--force")):
        refused = server.run("root-ca", *arguments)
        assert refused.exit_code == 2
        assert "and the next start of k3s installs them; continue: certmond root-ca rotate" in refused.stderr
    assert server.staged.exists()


@pytest.mark.parametrize("arguments", [("rotate",), ("stage", "--force"), ("abort",)])
def test_a_change_of_another_command_at_the_same_time(
    cluster: RancherCluster, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The other command changes the staged CAs, or gives them to k3s, before this command has the lock."""
    server = cluster.first
    server.run("root-ca", "stage")
    wait, file = Handover.retry_while_busy, server.staged / "client-ca.crt"

    def wait_for_other(handover: Handover, act: Callable[[], object]) -> object:
        if isinstance(act, partial) and arguments == ("abort",):
            files = act.args[1]
            files.record(files.staged(), datetime.now(UTC), stored=False)
        elif isinstance(act, partial):
            file.write_bytes(file.read_bytes() * 2)
        return wait(handover, act)

    monkeypatch.setattr(Handover, "retry_while_busy", wait_for_other)
    refused = server.run("root-ca", *arguments)
    assert refused.exit_code == 2
    changed = f"another process has changed the CAs in {server.staged}; run again: certmond root-ca {arguments[0]}"
    fact = "received these CAs at" if arguments == ("abort",) else changed
    assert refused.stderr.startswith("refused: ")
    assert fact in refused.stderr
    assert len([*server.staged.rglob("*.key")]) == len(CAS)
    assert (cluster.starts(), (server.home.parent / "datastore.json").exists()) == ([], False)


@pytest.mark.long
def test_a_kill_in_each_step_can_be_continued(cluster: RancherCluster) -> None:
    """The command is killed while it runs rotate-ca, during the restart, and before the removal. The same command then
    completes the change, and stores the same CAs.
    """
    server = cluster.first
    assert server.run("root-ca", "stage").exit_code == 0
    wanted = (server.staged / "server-ca.crt").read_bytes()
    for place in ("rotate-ca", "start", "check"):
        (server.home / "stops").write_text(place)
        process = subprocess.Popen(server.words("root-ca", "rotate"), stdout=subprocess.DEVNULL)
        server.wait_for(f"stopped-{place}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        (server.home / "stops").unlink()
        assert server.staged.exists()
    done = server.run("root-ca", "rotate")
    assert done.exit_code == 0, done.output
    assert server.files()["server-ca.crt"] == wanted
    assert not server.staged.exists()
    assert server.run("check").exit_code == 0


@pytest.mark.long
def test_a_token_with_the_old_hash_is_refused_before_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the place and the new hash. With the new hash, the node follows."""
    with rancher_cluster(tmp_path, agents=1) as cluster:
        (agent,) = cluster.agents
        cluster.first.run("root-ca", "stage")
        assert cluster.first.run("root-ca", "rotate").exit_code == 0
        tokens = [JoinToken("K3S_TOKEN in /etc/systemd/system/k3s-agent.service.env", "0" * 64)]
        monkeypatch.setattr(rotate, "join_settings", lambda *_: JoinSettings(None, tuple(tokens)))
        refused = agent.run("root-ca", "rotate")
        assert (refused.exit_code, cluster.starts()) == (2, ["server-1"])
        right = cluster.first.bundle()[2].sha256
        assert f"{tokens[0].named_by}) contains the hash of another CA" in refused.stderr
        assert f"replace the part between K10 and :: with {right}" in refused.stderr
        tokens[0] = tokens[0]._replace(ca_hash=right)
        agent.node["token"] = right
        agent.write_node()
        assert agent.run("root-ca", "rotate").exit_code == 0


def test_without_a_server_to_ask_the_node_is_refused(tmp_path: Path) -> None:
    """This is a server without staged CAs, whose configuration names no server."""
    with rancher_cluster(tmp_path, servers=2) as cluster:
        refused = cluster.first.run("root-ca", "rotate")
        assert refused.exit_code == 2
        assert "names no server to join; to create new CAs, run: certmond root-ca stage; else give --server" in (
            refused.stderr
        )
        unknown = cluster.first.run("root-ca", "rotate", "--server", "127.0.0.1:1")
        assert "the server 127.0.0.1:1 does not answer" in str(unknown.exception)
        assert "must be HOST:PORT" in cluster.first.run("root-ca", "rotate", "--server", "127.0.0.1:65536").stderr
        second = cluster.servers[1]
        content = (second.home / "server/tls/server-ca.crt").read_bytes()
        (second.home / "published.crt").write_bytes(content + content[:100])
        malformed = cluster.first.run("root-ca", "rotate", "--server", second.address)
        assert malformed.exit_code == 2
        assert malformed.stderr.startswith("refused: ")
        assert malformed.stderr.endswith("; check the server, then run: certmond root-ca rotate\n")
        for name in ("server/tls/server-ca.crt", "agent/server-ca.crt"):
            (cluster.first.home / name).unlink()
        unverified = cluster.first.run("root-ca", "rotate", "--server", second.address)
        assert unverified.exit_code == 2
        assert "this node has no server-ca.crt that could verify a server; restart k3s" in unverified.stderr
        assert cluster.starts() == []


@pytest.mark.long
def test_the_new_cas_can_be_replaced_again(cluster: RancherCluster) -> None:
    """The second change begins with the intermediate CAs of the first one. Then the old Root CA can be removed: the
    operator stages shorter files without keys.
    """
    server = cluster.first
    for _ in range(2):
        server.run("root-ca", "stage")
        assert server.run("root-ca", "rotate").exit_code == 0
    assert len(server.bundle()) == 4
    for name in CAS:
        own, _, root, _ = server.bundle(f"server/tls/{name}.crt")
        file = server.staged / f"{name}.crt"
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_bytes(to_pem(own) + to_pem(root))
    assert server.run("root-ca", "rotate").exit_code == 0
    assert len(server.bundle()) == 2
    assert os.listdir(server.home / "server") == ["tls"]
