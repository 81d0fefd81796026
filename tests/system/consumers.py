"""A machine with services that use certificates, and certmond in enforce mode with its units, for tests.

nginx, HAProxy and etcd are Debian's, with their own units; the others are `reader.py`, which reads once.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.builders import DAY, Issued, Modifiers, make_ca, make_server
from tests.conftest import real_part
from tests.deadline import AMPLE, DEADLINE
from tests.system.machine import PYTHON, REPOSITORY, Machine

DAEMON = "certmond.service"
TLS = "/etc/tls"
RECORD = "/var/lib/certmond/restarts.json"
NEEDED = "needed.example"
READER, CLIENT, INTRUDER = (f"/usr/lib/certmond-{name}.py" for name in ("reader", "client", "intruder"))

STARTED = "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"  # systemd's own: a unit was started, failed, was reloaded
FAILED = "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d"
RELOADED = "MESSAGE_ID=7b05ebc668384222baa8881179cfda54"

PORTS = {"web": 9443, "lb": 9444, "app": 9445, "fussy": 9446, "pushed": 9447, "etcd-server": 2379}
UNITS = {"web": "nginx.service", "lb": "haproxy.service", "app": "reader.service", "fussy": "fussy.service",
         "pushed": "pushed.service", "etcd-server": "etcd.service"}  # fmt: skip

CONFIG = f"""
mode: enforce
profile: none
node_name: n1
poll: 1s
hold: {{unsynchronised_clock: false}}
restart: {{stable: 1s, ready_within: {AMPLE}, reload_within: 2s, spacing: 1s}}
certificates:
  - {{name: ca, path: {TLS}/ca.crt, key: {TLS}/ca.key, authority: true}}
  - {{name: etcd-ca, path: {TLS}/etcd-ca.crt, authority: true}}
  - {{name: web, path: {TLS}/web.crt, key: {TLS}/web.key, ca: ca, usages: [server auth], consumers: nginx}}
  - {{name: lb, path: {TLS}/lb.crt, key: {TLS}/lb.key, ca: ca, usages: [server auth], consumers: haproxy}}
  - {{name: app, path: {TLS}/app.crt, key: {TLS}/app.key, ca: ca, usages: [server auth], consumers: [reader, idle]}}
  - {{name: fussy, path: {TLS}/fussy.crt, key: {TLS}/fussy.key, ca: ca, usages: [server auth], consumers: fussy}}
  - {{name: pushed, path: {TLS}/pushed.crt, key: {TLS}/pushed.key, ca: ca, usages: [server auth], consumers: pushed}}
  - {{name: etcd-server, path: {TLS}/etcd-server.crt, key: {TLS}/etcd-server.key, ca: ca, usages: [server auth]}}
services:
  - {{name: nginx, kind: systemd, unit: nginx.service, means: reload, serves: {{web: 127.0.0.1:9443}},
     health: https://127.0.0.1:9443/}}
  - {{name: haproxy, kind: systemd, unit: haproxy.service, serves: {{lb: 127.0.0.1:9444}}, health: tcp://127.0.0.1:9444}}
  - {{name: reader, kind: systemd, unit: reader.service, serves: {{app: 127.0.0.1:9445}},
     health: https://127.0.0.1:9445/}}
  - {{name: idle, kind: systemd, unit: idle.service, serves: {{app: 127.0.0.1:9450}}}}
  - {{name: fussy, kind: systemd, unit: fussy.service, serves: {{fussy: 127.0.0.1:9446}},
     health: https://127.0.0.1:9446/}}
  - {{name: pushed, kind: systemd, unit: pushed.service, serves: {{pushed: 127.0.0.1:9447}},
     health: https://127.0.0.1:9447/}}
  - {{name: etcd, kind: systemd, unit: etcd.service, health: http://127.0.0.1:2381/health}}
derived:
  - {{name: haproxy.pem, kind: pem-bundle, source: lb, path: /etc/haproxy/lb.pem}}
"""
NGINX = f"""
events {{}}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:9443 ssl;
    ssl_certificate {TLS}/web.crt;
    ssl_certificate_key {TLS}/web.key;
    location / {{ return 200 "well"; }}
  }}
}}
"""
HAPROXY = f"""
global
  maxconn 100
defaults
  mode http
  timeout connect {DEADLINE:.0f}s
  timeout client {DEADLINE:.0f}s
  timeout server {DEADLINE:.0f}s
frontend lb
  bind 127.0.0.1:9444 ssl crt /etc/haproxy/lb.pem
  http-request return status 200
"""
ETCD = f"""
ETCD_NAME=n1
ETCD_DATA_DIR=/var/lib/etcd/certmond-test
DAEMON_ARGS="--cert-file={TLS}/etcd-server.crt --key-file={TLS}/etcd-server.key --trusted-ca-file={TLS}/etcd-ca.crt \
--listen-client-urls=https://127.0.0.1:2379 --advertise-client-urls=https://127.0.0.1:2379 \
--listen-metrics-urls=http://127.0.0.1:2381 --unsafe-no-fsync --logger=zap"
"""


@dataclass(frozen=True)
class Change:
    """An installed certificate, and the start of its installation."""

    name: str
    at: datetime
    instance: str


class Consumers:
    """The machine's services and their certificates, by the name of the certificate."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._ca = make_ca("node", **ending_in(3650))
        self._etcd_ca = make_ca("etcd", **ending_in(3650))

    def install(self) -> None:
        """Install and start everything, except idle.service and certmond itself."""
        machine = self.machine
        for name in (TLS, "/etc/certmond", "/etc/systemd/system"):
            machine.path(name).mkdir(parents=True, exist_ok=True)
        self._write("ca.crt", self._ca.pem)
        self._write("ca.key", self._ca.key_pem)
        self._write("etcd-ca.crt", self._etcd_ca.pem)
        for name in PORTS:
            self.rename(name, self.mint(name))
        machine.run("chown", "etcd:etcd", f"{TLS}/etcd-server.key")
        bundle = machine.path("/etc/haproxy/lb.pem")
        bundle.write_bytes(machine.path(f"{TLS}/lb.crt").read_bytes() + machine.path(f"{TLS}/lb.key").read_bytes())
        bundle.chmod(0o600)
        machine.path("/etc/nginx/nginx.conf").write_text(NGINX)
        machine.path("/etc/haproxy/haproxy.cfg").write_text(HAPROXY)
        machine.path("/etc/default/etcd").write_text(ETCD)
        machine.path("/etc/certmond/config.yaml").write_text(CONFIG)
        for target in (READER, CLIENT, INTRUDER):
            source = Path(target).name.removeprefix("certmond-")
            machine.path(target).write_bytes(Path(__file__).with_name(source).read_bytes())
        for unit, words in (("reader", "9445 app"), ("idle", "9450 app"), ("fussy", f"9446 fussy {NEEDED}"),
                            ("pushed", "9447 pushed")):  # fmt: skip
            port, name, *more = words.split()
            command = f"{PYTHON} -I {READER} {port} {TLS}/{name}.crt {TLS}/{name}.key {' '.join(more)}"
            machine.path(f"/etc/systemd/system/{unit}.service").write_text(
                f"[Service]\nType=notify\nExecStart={command}\n"
                f"ExecStopPost=/bin/sh -c 'echo ended >>/run/{unit}.ended'\n"
            )
        drop_in = machine.path(f"/etc/systemd/system/{DAEMON}.d/enforce.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_bytes((REPOSITORY / "systemd/certmond-enforce.conf").read_bytes())
        drop_in.with_name("kills.conf").write_text("[Service]\nRestartSec=500ms\n")  # for those that kill it
        state = machine.path("/var/lib/certmond")
        machine.run("rm", "-rf", "/var/lib/certmond")  # whatever this machine has there
        state.mkdir(0o700)
        (state / "audit.log").write_text("{}\n")  # the first line of a log takes a call more than any other
        machine.systemctl("daemon-reload")
        machine.systemctl("start", *UNITS.values())

    def mint(self, name: str, days: float = 365, needed: bool = True) -> Issued:
        names = ["IP:127.0.0.1", f"DNS:{name}.example", *([f"DNS:{NEEDED}"] if needed else [])]
        modifiers: Modifiers = {**ending_in(days), "names": names}
        return make_server(self._ca, name, **modifiers)

    # Ways to install a certificate:

    def in_place(self, name: str, issued: Issued) -> Change:
        """Write like kubeadm: each file is truncated and written, the key first."""
        change = self._change(name)
        self._path(f"{name}.key").write_bytes(issued.key_pem)
        self._path(f"{name}.crt").write_bytes(issued.pem)
        return change

    def rename(self, name: str, issued: Issued) -> Change:
        """Write like a careful program: to a draft that is renamed, the key first; the owner stays."""
        change = self._change(name)
        for file, content in ((f"{name}.key", issued.key_pem), (f"{name}.crt", issued.pem)):
            self._write(f".staged-{file}", content)
            if self._path(file).exists():
                self.machine.run("chown", f"--reference={TLS}/{file}", f"{TLS}/.staged-{file}")
        for file in (f"{name}.key", f"{name}.crt"):
            self._path(f".staged-{file}").rename(self._path(file))
        return change

    def trust(self, *more: Issued) -> Change:
        """etcd's clients may have certificates of its CA, and of these."""
        change = self._change("etcd-server")
        self._write("etcd-ca.crt", b"".join(ca.pem for ca in (self._etcd_ca, *more)))
        return change

    def _change(self, name: str) -> Change:
        return Change(name, datetime.now(UTC), self.instance(name))

    def _path(self, file: str) -> Path:
        return self.machine.path(f"{TLS}/{file}")

    def _write(self, file: str, content: bytes) -> None:
        self._path(file).write_bytes(content)
        self._path(file).chmod(0o600 if file.endswith("key") else 0o644)

    @contextmanager
    def endless_proof(self) -> Iterator[None]:
        """Let no proof of a restart end before the block does, however late the test acts in it."""
        config = self.machine.path("/etc/certmond/config.yaml")
        try:
            config.write_text(CONFIG.replace("stable: 1s", f"stable: {AMPLE}"))
            self.machine.systemctl("reload", DAEMON)
            self.passes(1)
            yield
        finally:
            config.write_text(CONFIG)
            self.machine.systemctl("reload", DAEMON)

    # The observable state:

    def instance(self, name: str) -> str:
        return self.machine.property(UNITS[name], "InvocationID")

    def on_disk(self, name: str) -> str:
        text = self._path(f"{name}.crt").read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()

    def served(self, name: str) -> str:
        """Return the digest of the served certificate, or the error of the probe."""
        code = (
            "import hashlib, ssl, sys\n"
            f"try: text = ssl.get_server_certificate(('127.0.0.1', int(sys.argv[1])), timeout={DEADLINE})\n"
            "except OSError as error: print(error)\n"
            "else: print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest())"
        )
        return self.machine.run(PYTHON, "-I", "-c", code, str(PORTS[name])).strip()

    def trail(self, target: str, since: datetime, step: str | None = "restart") -> list[dict[str, Any]]:
        """The lines of audit.log about such steps of one target; without a step, about what was planned or held."""
        lines = map(json.loads, self.machine.path("/var/lib/certmond/audit.log").read_text().splitlines())
        return [
            line
            for line in lines
            if line.get("target") == target and line.get("step") == step and datetime.fromisoformat(line["at"]) > since
        ]

    def is_archived(self, name: str) -> bool:
        """Return whether a generation of the archive contains the certificate file."""
        content = self._path(f"{name}.crt").read_bytes()
        archive = self.machine.path(f"/var/lib/certmond/archive/{name}")
        return any(file.is_file() and file.read_bytes() == content for file in archive.glob("*/*"))

    def history(self) -> str:
        """Return the last lines of audit.log and the generations of the archive, for the message of a failed test."""
        audit = self.machine.path("/var/lib/certmond/audit.log").read_text().splitlines()[-30:]
        return "\n".join([*audit, self.machine.run("certmond", "archive", "list")])

    def ended(self, target: str, since: datetime) -> dict[str, Any]:
        """Wait for the end of a service's restart, and return it."""

        def result() -> list[dict[str, Any]]:
            return [line for line in self.trail(target, since) if "result" in line]

        last: dict[str, Any] = self.machine.until(result, f"the restart of {target} has ended")[-1]
        return last

    def is_served(self, name: str) -> bool:
        """Return whether the served certificate equals the file."""
        return self.served(name) == self.on_disk(name)

    def count(self, name: str, kind: str, since: datetime) -> int:
        """How often a unit was started, failed or was reloaded."""
        return len(self.machine.entries(UNITS[name], kind, since=since.timestamp()))

    def findings(self, name: str) -> dict[str, str]:
        """Severity of each finding that stands, by its reason."""
        document = json.loads(self.machine.path("/run/certmond/status.json").read_text())
        (entry,) = [each for each in document["certificates"] if each["name"] == name]
        return {finding["reason"]: finding["severity"] for finding in entry["findings"]}

    def metric(self, line: str) -> float:
        lines = self.machine.path("/run/certmond/metrics.prom").read_text().splitlines()
        return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(line))

    def episode(self, service: str) -> dict[str, Any]:
        """Return the record of an unfinished restart, or an empty one."""
        record = self.machine.path(RECORD)
        known: dict[str, Any] = json.loads(record.read_text())["content"] if record.exists() else {}
        found: dict[str, Any] = known.get(service, {}).get("episode") or {}
        return found

    def passes(self, number: int) -> None:
        """Wait for this number of further complete passes."""
        for _ in range(number):
            enough = self.metric("certmond_passes_total") + 2
            self.machine.systemctl("reload", DAEMON)
            self.machine.until(partial(self._passed, enough), "two passes")

    def _passed(self, number: float) -> bool:
        return self.metric("certmond_passes_total") >= number

    @contextmanager
    def daemon_dies(self, call: str, path: str, when: int) -> Iterator[None]:
        """Kill the daemon when it begins this system call on `path` for the `when`-th time, before the block ends.

        `path` is an open directory of the call, or the name in its arguments. Afterwards systemd starts the daemon
        again.
        """
        process = self.machine.property(DAEMON, "MainPID")
        tracer = subprocess.Popen(
            self.machine.command(
                "setpriv", "--pdeathsig", "KILL", real_part("strace"), "-f", "-qq", "-o", "/dev/null", "-p", process,
                "-P", path, f"--trace={call}", f"--inject={call}:signal=KILL:when={when}",
            ),
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        status = self.machine.path(f"/proc/{process}/status")
        self.machine.until(lambda: "TracerPid:\t0\n" not in status.read_text(), "it is traced")
        try:
            yield
            self.machine.until(lambda: tracer.poll() is not None, "the daemon has died")
        finally:
            tracer.kill()
            tracer.wait()

    @contextmanager
    def intruder(self, name: str, ends: int) -> Iterator[None]:
        """Let a program take the port as soon as the service is down, and hold it until the service has ended so
        often.
        """
        port, file = PORTS[name], self.machine.path(f"/run/{name}.ended")
        file.unlink(missing_ok=True)
        command = self.machine.command(PYTHON, "-I", INTRUDER, str(port), f"/run/{name}.ended", str(ends))
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                yield
            finally:
                process.communicate()

    @contextmanager
    def client(self, name: str) -> Iterator[list[tuple[float, str]]]:
        """A client that connects every 20 ms; when it did and how it went is there once the block has ended."""
        seen = list[tuple[float, str]]()
        command = self.machine.command(PYTHON, "-I", CLIENT, str(PORTS[name]))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first = process.stdout.readline()
            try:
                yield seen
            finally:
                lines = (first + process.communicate()[0]).splitlines()
                seen += [(float(at), outcome) for at, outcome in (line.split() for line in lines)]


def outage(seen: Sequence[tuple[float, str]]) -> float:
    """Seconds between the last connection that was served before the longest failure and the first one after it."""
    served = [at for at, outcome in seen if outcome == "served"]
    failed = [at for at, outcome in seen if outcome != "served"]
    gaps = [(after - before) for before, after in pairwise(served)
            if any(before < at < after for at in failed)]  # fmt: skip
    return max(gaps, default=0.0)


def ending_in(days: float) -> Modifiers:
    """A year's validity, or a CA's ten and two more, of which so many days are left."""
    now = datetime.now(UTC).replace(microsecond=0)
    end = now + timedelta(days=days)
    return {"not_before": end - 366 * DAY if days <= 365 else now - 2 * 365 * DAY, "not_after": end}
