"""etcd as a unit on a node of kubespray: a real etcd, a stand-in for systemd, and the daemon in enforce mode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from certmond.files.owner_names import owner_name
from tests.builders import DAY, make_ca, make_leaf
from tests.conftest import real_part
from tests.control_plane import namespaces
from tests.daemon_harness import Running, running
from tests.deadline import AMPLE, DEADLINE
from tests.distributions import NODE, Tree, key_of, kubespray, member_entry
from tests.rotation import unit_stand_in

SSL = "/etc/ssl/etcd/ssl"
CA, MEMBER, ADMIN, CLIENT = (f"{SSL}/{name}.pem" for name in ("ca", f"member-{NODE}", f"admin-{NODE}", f"node-{NODE}"))
CONFIG = {
    "profile": "kubespray", "mode": "enforce", "hold": {"unsynchronised_clock": False}, "poll": "1s",
    "restart": {"reload_within": "3s", "ready_within": AMPLE, "stable": "1s"},
}  # fmt: skip
ENVIRONMENT = """
ETCD_DATA_DIR=/var/lib/etcd
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=https://127.0.0.1:2379
ETCD_LISTEN_PEER_URLS=https://127.0.0.1:2380
ETCD_CLIENT_CERT_AUTH=true
"""
START = "(until (: </dev/tcp/127.0.0.1/2379) 2>/dev/null; do sleep 0.1; done; echo ready) & exec /usr/bin/etcd"


class Machine:
    """A node of kubespray whose etcd certificates end in ten days. `inside` is the prefix of a command on the node."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.tree: Tree = kubespray(work / "node")
        self.now = datetime.now(UTC)
        for path in self.tree.leaves:
            if path.startswith(SSL):
                self.tree.leaf(path, not_before=self.now - 355 * DAY, not_after=self.now + 10 * DAY)
        environment = self.tree.at("/etc/etcd.env")
        environment.write_text(environment.read_text() + ENVIRONMENT)
        self.tree.write("/etc/certmond/config.yaml", yaml.safe_dump(CONFIG))
        self.inside: list[str] = []

    def certificate(self, path: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.tree.at(path).read_bytes())

    def served(self) -> int:
        """Return the serial number of the certificate that etcd serves to a new client."""
        script = "import ssl; print(ssl.get_server_certificate(('127.0.0.1', 2379)), end='')"
        return x509.load_pem_x509_certificate(self.run(sys.executable, "-c", script).encode()).serial_number

    def etcdctl(self, *words: str, client: str = ADMIN) -> str:
        files = ("--cacert", CA, "--cert", client, "--key", key_of(client))
        return self.run("etcdctl", "--endpoints=https://127.0.0.1:2379", *files, *words)

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    def starts(self) -> int:
        return (self.work / "unit.out").read_text().count("started\n")

    @contextmanager
    def etcd(self) -> Iterator[None]:
        """Run etcd as the unit etcd.service, until the end of the block."""
        lines = self.tree.at("/etc/etcd.env").read_text().splitlines()
        environment = dict(line.split("=", 1) for line in lines if line.startswith("ETCD_"))
        log = self.work / "unit.out"
        words = [sys.executable, unit_stand_in.__file__, "etcd.service", str(self.work / "bus"), str(log)]
        with (self.work / "unit.err").open("wb") as output:
            process = subprocess.Popen(
                [*self.inside, *words, "bash", "-c", START],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=os.environ | environment,
            )  # fmt: skip
        try:
            end = time.monotonic() + DEADLINE
            while not (log.exists() and b"ready\n" in log.read_bytes()):
                assert process.poll() is None, (self.work / "unit.err").read_text()
                assert time.monotonic() < end, (self.work / "unit.err").read_text()
                signal.sigtimedwait([], 0.05)
            yield
        finally:
            process.communicate(timeout=DEADLINE)

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        state = self.work / "state"
        with running(Path("/"), self.work, "--state-dir", str(state), before=self.inside) as daemon:
            yield daemon


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    for program in ("etcd", "etcdctl", "bash"):
        real_part(program)
    found = Machine(tmp_path)
    with namespaces(tmp_path) as found.inside, found.etcd():
        yield found


def test_etcd_serves_its_renewed_certificate_without_a_restart(machine: Machine) -> None:
    """With an entry of the operator for the member of this host, the daemon renews its certificate. etcd serves the new
    certificate without a restart, because etcd reads its pair for each handshake. The daemon renews no other file.
    """
    machine.etcdctl("put", "key", "before")
    old = {path: machine.certificate(path) for path in (MEMBER, ADMIN, CLIENT)}
    assert machine.served() == old[MEMBER].serial_number
    owner = owner_name(machine.tree.at(SSL).stat().st_uid, 0, by_name=True).partition(":")[0]
    config = CONFIG | {"certificates": [member_entry(machine.tree) | {"owner": owner}]}
    machine.tree.write("/etc/certmond/config.yaml", yaml.safe_dump(config))
    with machine.daemon() as daemon:
        daemon.until(
            lambda: machine.certificate(MEMBER).serial_number != old[MEMBER].serial_number, "a new certificate"
        )
        daemon.until(lambda: machine.served() == machine.certificate(MEMBER).serial_number, "the new certificate")
        assert machine.etcdctl("get", "key") == "key\nbefore\n"
        daemon.until(lambda: not daemon.reasons("etcd-member"), "no finding")
    assert machine.certificate(MEMBER).not_valid_after_utc > machine.now + 300 * DAY
    assert all(machine.certificate(path) == old[path] for path in (ADMIN, CLIENT))
    assert machine.starts() == 1


@pytest.mark.long
def test_etcd_is_restarted_for_a_change_of_its_ca_on_request(machine: Machine) -> None:
    """After a second CA in ca.pem, the daemon reports that etcd has not read the file, and holds the restart until the
    operator requests it. The command restarts etcd.service, and etcd accepts clients of the second CA.
    """
    second = make_ca("etcd-ca-2", not_before=machine.now - DAY, not_after=machine.now + 3650 * DAY)
    client = f"{SSL}/second.pem"
    made = make_leaf(second, "root", extended_usages=["client auth"], not_before=machine.now - DAY,
                     not_after=machine.now + 300 * DAY)  # fmt: skip
    machine.tree.write(client, made.pem, 0o640)
    machine.tree.write(key_of(client), made.key_pem, 0o640)
    ca = machine.tree.at(CA)
    ca.write_bytes(ca.read_bytes() + second.pem)
    with machine.daemon() as daemon:
        daemon.until(lambda: "restart_pending" in daemon.reasons("etcd-unit-ca"), "the finding")
        command = ("--state-dir", str(machine.work / "state"))
        plan = machine.run(sys.executable, "-m", "certmond", *command, "plan", code=1)  # kubespray renews what is due
        assert "run: certmond restart etcd-unit" in plan
        assert machine.starts() == 1
        machine.run(sys.executable, "-m", "certmond", *command, "restart", "etcd-unit")
        assert machine.starts() == 2
        daemon.until(lambda: "restart_pending" not in daemon.reasons("etcd-unit-ca"), "no finding")
    assert machine.etcdctl("endpoint", "health", client=client)
