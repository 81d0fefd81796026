"""Complete renewals on real files, killed at any system call: planned, executed, and restarted until nothing is due."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.cli.options import assess_node
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.controllers.executor import Executor, Outcome
from certmond.daemon.enforcer import Enforcer
from certmond.daemon.reconciler import Reconciler
from certmond.errors import WriteError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import Assessment
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.steps import Plan
from certmond.pki.x509.certificate import load_request
from certmond.pki.x509.serial_number import hexadecimal
from certmond.renewal.restoration import Restoration
from certmond.state.renewals import Ledger
from certmond.transaction.commit import Transactions
from tests import preloaded_certmond
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf, make_server
from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE
from tests.sampling import EVERY_STOP, chosen, sample
from tests.tracing import changes, distinct, kill_at, record

PKI = "/etc/kubernetes/pki"
KUBELET = "/var/lib/kubelet/pki"
CURRENT = f"{KUBELET}/kubelet-client-current.pem"
DATED = f"{KUBELET}/kubelet-client-2025-12-09-12-00-00.pem"

CA: dict[str, Any] = {"name": "ca", "path": f"{PKI}/ca.crt", "key": f"{PKI}/ca.key", "authority": True}
ENTRIES: dict[str, dict[str, Any]] = {
    "apiserver": {"path": f"{PKI}/apiserver.crt", "key": f"{PKI}/apiserver.key", "subject": "CN=kube-apiserver",
                  "usages": ["server auth"], "names": ["DNS:kube-apiserver", "IP:10.96.0.1"], "mode": "0644"},
    "etcd-server": {"path": f"{PKI}/etcd/server.crt", "key": f"{PKI}/etcd/server.key", "keep_key": True,
                    "subject": "CN=etcd", "usages": ["server auth", "client auth"], "mode": "0644"},
    "admin.conf": {"kind": "kubeconfig", "path": "/etc/kubernetes/admin.conf", "embedded_ca": "ca", "mode": "0600",
                   "subject": "CN=kubernetes-admin", "usages": ["client auth"]},
    "kubelet-client": {"kind": "kubelet", "path": CURRENT, "key": CURRENT, "subject": "CN=system:node:controller-0",
                       "usages": ["client auth"], "mode": "0600"},
}  # fmt: skip
"""The catalogue of the small node."""


def kubeconfig(ca: Issued, user: Issued, key_pem: bytes | None = None) -> bytes:
    """Return a kubeconfig like kubeadm's: everything is embedded."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster = {"server": "https://10.0.0.1:6443", "certificate-authority-data": text(ca.pem)}
    credentials = {"client-certificate-data": text(user.pem), "client-key-data": text(key_pem or user.key_pem)}
    document = {
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "admin@kubernetes",
        "clusters": [{"name": "kubernetes", "cluster": cluster}],
        "contexts": [{"name": "admin@kubernetes", "context": {"cluster": "kubernetes", "user": "admin"}}],
        "users": [{"name": "admin", "user": credentials}],
    }  # fmt: skip
    return yaml.safe_dump(document).encode()


def kubelet_conf(ca: Issued) -> bytes:
    """Return a kubelet.conf like kubeadm's: it refers to the rotating PEM."""
    document = yaml.safe_load(kubeconfig(ca, ca))
    document["users"][0]["user"] = {"client-certificate": CURRENT, "client-key": CURRENT}
    return yaml.safe_dump(document).encode()


class Host:
    """A small node below `place` with the state directory of certmond. Each certificate is due at `now`, with a fast
    key type.
    """

    def __init__(
        self, place: Path, *names: str, plain: bool = False, key: str = "ec", now: datetime = NOW, **more: Any
    ) -> None:
        self.place, self.now = place, now
        self.root, self.state = place / "root", place / "state"
        self.entries = {name: dict(ENTRIES[name]) for name in names or ENTRIES}
        self.settings = more
        self.ca = make_ca(key=key, not_before=now - 2 * YEAR, not_after=now + 9 * YEAR)
        self.keys: list[Any] = [self.ca.key]
        self.put(CA["path"], self.ca.pem)
        self.put(CA["key"], self.ca.key_pem, 0o600)
        for name in self.entries:
            self.install(name, plain=plain, key=key)

    def install(self, name: str, *, plain: bool = False, key: str = "ec") -> None:
        """A certificate that is due, by its entry."""
        entry = ENTRIES[name]
        subject = entry["subject"].removeprefix("CN=")
        dates: Any = {"not_before": self.now - YEAR, "not_after": self.now + 10 * DAY, "key": key}
        if name == "kubelet-client":
            dates |= {"not_after": self.now + DAY}  # the kubelet itself renews before
        make = make_server if "server auth" in entry["usages"] else make_leaf
        extended = {"extended_usages": entry["usages"]}
        leaf = make(self.ca, subject, **dates, **extended)
        self.keys.append(leaf.key)
        match entry.get("kind"):
            case "kubeconfig":
                self.put(entry["path"], kubeconfig(self.ca, leaf), 0o600)
            case "kubelet" if plain:
                self.put(CURRENT, leaf.pem + leaf.key_pem, 0o600)
            case "kubelet":
                self.put(DATED, leaf.pem + leaf.key_pem, 0o600)
                self.at(CURRENT).unlink(missing_ok=True)
                self.at(CURRENT).symlink_to(DATED)
            case _:
                self.put(entry["path"], leaf.pem)
                self.put(entry["key"], leaf.key_pem, 0o600)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_bytes(content)
        self.at(path).chmod(mode)

    def real(self, path: str) -> Path:
        """Return the file to which a path of the node resolves."""
        return Transactions(str(self.root), self.state).real(path)

    def copy(self, place: Path) -> Host:
        """The same node, elsewhere."""
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__ | {"place": place, "root": place / "root", "state": place / "state"}
        shutil.copytree(self.place, place, symlinks=True)
        return twin

    def document(self) -> dict[str, Any]:
        """The configuration file."""
        entries = [{"name": name, "ca": "ca", **entry} for name, entry in self.entries.items()]
        settings = {"mode": "enforce", "hold": {"unsynchronised_clock": False}, **self.settings}
        return {"profile": "none", "certificates": [CA, *entries], **settings}

    @property
    def config(self) -> Config:
        return parse([Source("test", yaml.dump(self.document(), Dumper=yaml.CSafeDumper))])

    def enforcer(self) -> Enforcer:
        audit = Audit(Journal("none"), self.state, "daemon")
        return Enforcer(self.config, root=str(self.root), state_dir=self.state, audit=audit, clock=lambda: self.now)

    def restoration(self) -> Restoration:
        enforcer = self.enforcer()
        return Restoration(
            self.config, root=str(self.root), state_dir=self.state, audit=enforcer.audit, clock=lambda: self.now,
            writing=enforcer.executor.writing,
        )  # fmt: skip

    def look(self) -> Assessment:
        return assess_node(self.config, str(self.root), self.now, state_dir=self.state)

    def plan(self) -> Plan:
        return self.enforcer().plan(self.look())

    def start(self) -> list[Outcome]:
        """Run like a start of certmond: recover, then plan and execute until the plan is empty."""
        outcomes: list[Outcome] = []
        enforcer = self.enforcer()
        enforcer.executor.recover()
        for _ in range(5):
            plan = enforcer.plan(self.look())
            if not plan.steps:
                return outcomes
            outcomes += enforcer.executor.execute(plan)
        raise AssertionError(f"it does not become idle: {outcomes}")

    def start_once(self) -> tuple[Outcome, ...]:
        """Run like one pass."""
        enforcer = self.enforcer()
        return enforcer.executor.execute(enforcer.plan(self.look()))

    def audit(self) -> list[dict[str, Any]]:
        """The trail."""
        return [json.loads(line) for line in (self.state / "audit.log").read_text().splitlines()]

    def attempts(self) -> dict[str, Attempt]:
        """Return the attempts that the ledger records, by name."""
        return {name: attempt for (name, _), attempt in Ledger(self.state).attempts().items()}

    def files(self) -> Iterator[Path]:
        """Every file of the node and of certmond's state."""
        return (path for path in self.place.rglob("*") if path.is_file() and not path.is_symlink())

    def serials(self) -> dict[str, int]:
        """Return the serial number of the installed certificate of each entry."""
        found = {each.seen.name: each.certificate for each in self.look().statuses}
        return {name: certificate.serial for name, certificate in found.items() if certificate and name != "ca"}

    def temporary(self) -> list[str]:
        """Return the leftovers of an interrupted process."""
        odd = [path for path in self.place.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
        for directory in ("transactions", "pending"):
            odd += (self.state / directory).glob("*")
        return [str(path.relative_to(self.place)) for path in odd]

    def unwell(self) -> list[str]:
        """Return all deviations from the final state: findings, steps, leftovers, modes."""
        seen = self.look()
        problems = [f"{item.reason}: {item.message}" for status in seen.statuses for item in status.findings]
        problems += [f"{status.seen.name} has no path" for status in seen.statuses if not status.chain_valid]
        problems += [f"{status.seen.name}: key" for status in seen.certificates if status.key_matches is False]
        problems += [f"{step.target} is still to be done" for step in self.enforcer().plan(seen).steps]
        return problems + self.temporary() + readable(self)


def readable(host: Host) -> list[str]:
    """Return the files with a private key that other users can read, and the parts of the state directory that they can
    enter.
    """
    problems = []
    for path in host.files():
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            content = path.read_bytes()
            problems += [f"{path} can be read"] * (b"PRIVATE KEY" in content or b"client-key-data" in content)
    for path in (host.state, *host.state.rglob("*")):
        if path.exists() and stat.S_IMODE(path.lstat().st_mode) != (0o700 if path.is_dir() else 0o600):
            problems.append(f"{path} has mode {path.stat().st_mode:o}")
    return problems


# Killed


def copies(host: Host, place: Path) -> Iterator[Host]:
    """Yield copies of the host. Each is deleted when the next is requested."""
    for number in itertools.count():
        twin = host.copy(place / str(number))
        yield twin
        shutil.rmtree(twin.place)


KILLS = 16
"""Approximate number of kills in a sample."""
FORMS = {
    "pair": ["apiserver"],
    "keep_key": ["etcd-server"],
    "kubeconfig": ["admin.conf"],
    "kubelet": ["kubelet-client"],
    "plain": ["kubelet-client"],
}


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere(quick: Path, form: str) -> None:
    """After a kill before or after any changing system call, a renewal is complete after the next start: one new
    certificate, no leftover, and never a private key that others could read.
    """
    host = Host(quick / "original", *FORMS[form], plain=form == "plain")
    before = host.serials()
    twins = copies(host, quick)
    twin = next(twins)
    problems: list[str] = []
    stops = record(twin.start, lambda stop: problems.extend(f"{stop}: {p}" for p in readable(twin)))
    assert problems == []
    assert twin.unwell() == []
    assert before.items().isdisjoint(twin.serials().items())
    found_new = 0
    chosen = sample(distinct(stops), KILLS, f"a renewal, {form}", kind=lambda n: stops[n])
    for n in chosen:
        twin = next(twins)
        stop = kill_at(twin.start, n)
        where = f"killed at {n}, {stop}"
        assert readable(twin) == [], where
        outcomes = twin.start()
        assert [outcome.result for outcome in outcomes] in ([], ["done"]), f"{where}: {outcomes}"
        found_new += not outcomes
        assert twin.unwell() == [], where
        assert before.items().isdisjoint(twin.serials().items()), where
    assert 0 < found_new < len(chosen)


@pytest.mark.long
def test_killed_with_everything_on_rsa(quick: Path) -> None:
    """The same holds for all forms at once with RSA keys, at a sample of the calls. openssl accepts the resulting
    files.
    """
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(quick / "original", key="rsa", derived=[bundle])
    host.at("/etc/haproxy").mkdir()
    before = host.serials()
    twins = copies(host, quick)
    stops = record(next(twins).start)
    for n in sample(range(len(stops)), 6, "everything on RSA"):
        twin = next(twins)
        where = f"killed at {n}, {kill_at(twin.start, n)}"
        twin.start()
        assert twin.unwell() == [], where
        assert before.items().isdisjoint(twin.serials().items()), where
        accepted_by_openssl(twin)


def accepted_by_openssl(host: Host) -> None:
    """Return whether each certificate verifies up to the CA, and matches the key beside it."""
    ca, openssl = host.at(CA["path"]), real_part("openssl")

    def output(*arguments: object) -> bytes:
        return subprocess.run([openssl, *map(str, arguments)], capture_output=True, check=True).stdout

    user = yaml.safe_load(host.at("/etc/kubernetes/admin.conf").read_bytes())["users"][0]["user"]
    real = Transactions(str(host.root), host.state).real
    pairs = [(real(ENTRIES[name]["path"]), real(ENTRIES[name]["key"]))
             for name in ("apiserver", "etcd-server", "kubelet-client")]  # fmt: skip
    pairs.append((host.at("/etc/haproxy/apiserver.pem"),) * 2)
    pairs.append((host.place / "crt", host.place / "key"))
    for path, field in zip(pairs[-1], ("client-certificate-data", "client-key-data"), strict=True):
        path.write_bytes(base64.b64decode(user[field]))
    for certificate, key in pairs:
        output("verify", "-attime", int(NOW.timestamp()), "-CAfile", ca, certificate)
        assert output("x509", "-in", certificate, "-noout", "-pubkey") == output("pkey", "-in", key, "-pubout")


class Scenario:
    """A renewal that is killed repeatedly and then runs to its end, with the problems observed on the way."""

    def __init__(self, host: Host, kills: Sequence[int]) -> None:
        self.kills = 0
        self.problems: list[str] = []
        seen = {name: {serial} for name, serial in host.serials().items()}
        for n in kills:
            if self._killed(host, n):
                self.kills += 1
                self.problems += readable(host)
            for name, serial in host.serials().items():
                seen[name].add(serial)
        outcomes = host.start()
        for name, serial in host.serials().items():
            seen[name].add(serial)
        self.problems += [f"{outcome.step.target} {outcome.result}" for outcome in outcomes if outcome.result != "done"]
        self.problems += [f"{name} was there as {serials}" for name, serials in seen.items() if len(serials) != 2]
        self.problems += host.unwell()
        ended = Counter((entry["event"], entry["target"]) for entry in host.audit() if entry.get("step") == "issue")
        self.problems += [f"{name} was renewed {ended['step_done', name]} times" for name in seen
                          if ended["step_done", name] > 1 or ended["step_failed", name]]  # fmt: skip

    def _killed(self, host: Host, n: int) -> bool:
        """Return whether the process reached the call."""
        failed = host.place / "failed"

        def run() -> None:
            failed.touch()
            host.start()
            failed.unlink()

        try:
            kill_at(run, n + 1, counted=changes)  # after the call that marks it as failed
        except AssertionError:  # it has ended before
            self.problems += ["a start failed by itself"] * failed.exists()
            return False
        finally:
            failed.unlink(missing_ok=True)
        return True


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4 if EVERY_STOP else 2))
def test_killed_again_and_again(quick: Path, seed: int) -> None:
    """A renewal that is killed at random, also during recovery, always ends in the same state: each due certificate is
    renewed once.
    """
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(quick / "original", "apiserver", derived=[bundle])
    host.at("/etc/haproxy").mkdir()
    twins = copies(host, quick)
    last = sum(map(changes, record(next(twins).start)))
    random = chosen(f"again and again {seed}")
    kills = 0
    while kills < (250 if EVERY_STOP else KILLS):  # with every stop, there are three times as many as changes
        plan = [random.randrange(last >> turn // 2) for turn in range(random.randint(1, 6))]
        scenario = Scenario(next(twins), plan)
        if scenario.problems:
            plan, scenario = smallest(plan, scenario, twins)
            pytest.fail(f"killed at {plan}: {scenario.problems}")
        kills += scenario.kills


def smallest(plan: list[int], scenario: Scenario, twins: Iterator[Host]) -> tuple[list[int], Scenario]:
    """The same failure with fewer kills, if it can be had."""
    for number in range(len(plan)):
        shorter = plan[:number] + plan[number + 1 :]
        if (again := Scenario(next(twins), shorter)).problems:
            return smallest(shorter, again, twins)
    return plan, scenario


# A signer that waits


class Helper:
    """A helper of a CA as a shell script. It stores the input of each call and gives the answer that the test sets."""

    def __init__(self, place: Path, ca: Issued) -> None:
        self.place = place
        place.mkdir()
        (place / "ca.crt").write_bytes(ca.pem)
        (place / "ca.key").write_bytes(ca.key_pem)
        self.script = place / "helper"
        self.script.write_text(
            f"#!/bin/sh -eu\ncd {place}\nenv > new\nprintf '%s\\n' \"$CERTMONGER_CSR\" > csr\n"
            "mv new call.$(ls | grep -c call)\n"
            "head -c -0 answer\nread status < status\n[ $status = 0 ] || exit $status\n"
            f"{real_part('openssl')} x509 -req -in csr -CA ca.crt -CAkey ca.key -copy_extensions copy -days 90\n"
        )
        self.script.chmod(0o700)

    def answers(self, status: int, said: str = "") -> None:
        (self.place / "status").write_text(f"{status}\n")
        (self.place / "answer").write_text(said)

    def calls(self) -> list[dict[str, str]]:
        """The environment of each call, multi-line values by their first line but the request, in their order."""
        paths = sorted(self.place.glob("call.*"), key=lambda path: int(path.suffix[1:]))
        return [dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CERTMONGER_"))
                | {"csr": text.partition("-----BEGIN CERTIFICATE REQUEST-----")[2].partition("-----END")[0]}
                for text in (path.read_text() for path in paths)]  # fmt: skip


@pytest.fixture
def waiting(tmp_path: Path) -> tuple[Host, Helper]:
    """Return a node whose only certificate is signed by a helper."""
    command = [str(tmp_path / "helper" / "helper")]
    signer = {"name": "site", "kind": "command", "command": command, "time_limit": "10m"}
    soon = now() + timedelta(minutes=10)  # this node's clock does not run, and openssl's does
    host = Host(tmp_path / "host", "apiserver", now=soon, signers=[signer])
    host.entries["apiserver"] |= {"signer": "site"}
    return host, Helper(tmp_path / "helper", host.ca)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.mark.real("openssl")
def test_a_request_that_no_longer_matches_its_entry_is_replaced(waiting: tuple[Host, Helper]) -> None:
    """If the entry changes while the signer decides, certmond sends a new request without the old cookie. The new
    request has what the entry fixes now.
    """
    host, helper = waiting
    helper.answers(5, "1\ncookie\n")
    assert [outcome.result for outcome in host.start_once()] == ["waiting"]
    host.entries["apiserver"] |= {"subject": "CN=api", "names": ["DNS:api"]}
    host.now += timedelta(minutes=1)
    assert [outcome.result for outcome in host.start_once()] == ["waiting"]
    first, second = helper.calls()
    assert (first["CERTMONGER_REQ_SUBJECT"], second["CERTMONGER_REQ_SUBJECT"]) == ("CN=kube-apiserver", "CN=api")
    assert (second["CERTMONGER_OPERATION"], "CERTMONGER_CA_COOKIE" in second) == ("SUBMIT", False)
    pem = f"-----BEGIN CERTIFICATE REQUEST-----{second['csr']}-----END CERTIFICATE REQUEST-----\n"
    assert load_request(pem.encode()).subject.rfc4514_string() == "CN=api"


@pytest.mark.real("openssl")
@pytest.mark.parametrize("damage", [b"", b"\0", b"\xff\xfe", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_a_damaged_request_is_replaced_by_a_new_one(waiting: tuple[Host, Helper], damage: bytes) -> None:
    """If a pending request of a signer is unreadable, certmond sends a new request and renews the certificate."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    assert [outcome.result for outcome in host.start()] == ["waiting"]
    [request] = (host.state / "pending").glob("*.csr")
    request.write_bytes(damage)
    host.now += timedelta(seconds=61)
    helper.answers(0)
    assert [(outcome.result, outcome.message[-3:]) for outcome in host.start()] == [("done", "UTC")]
    assert [call["CERTMONGER_OPERATION"] for call in helper.calls()] == ["SUBMIT", "SUBMIT"]
    assert host.unwell() == []


@pytest.mark.real("openssl")
def test_text_beside_a_request_is_not_sent(waiting: tuple[Host, Helper]) -> None:
    """Of a damaged file only the request itself goes to the signer, as before."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    [request] = (host.state / "pending").glob("*.csr")
    request.write_bytes(b"\0\xff\n" + request.read_bytes() + b"\0")
    host.now += timedelta(seconds=61)
    helper.answers(0)
    assert [outcome.result for outcome in host.start()] == ["done"]
    first, second = helper.calls()
    assert second["CERTMONGER_OPERATION"] == "POLL"
    assert first["csr"] == second["csr"]


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_signer_that_waits_is_asked_again(waiting: tuple[Host, Helper]) -> None:
    """Any process asks an undecided signer again at the time that it named, and not before, with its cookie, the same
    key and the same request. Only root can read the key, which is deleted when the certificate is in place.
    """
    host, helper = waiting
    before = host.serials()
    helper.answers(5, "600\ncookie-1\n")
    assert [outcome.result for outcome in host.start()] == ["waiting"]
    assert host.start() == []
    assert host.plan().changes_at == host.now + timedelta(seconds=600)
    assert len(list((host.state / "pending").iterdir())) == 3
    assert readable(host) == []
    host.now += timedelta(seconds=601)
    helper.answers(1, "cookie-2\n")
    assert [outcome.result for outcome in host.start()] == ["waiting"]
    assert host.serials() == before
    host.now += timedelta(seconds=301)
    helper.answers(0)
    assert [outcome.result for outcome in host.start()] == ["done"]
    calls = helper.calls()
    assert [call["CERTMONGER_OPERATION"] for call in calls] == ["SUBMIT", "POLL", "POLL"]
    assert [call.get("CERTMONGER_CA_COOKIE") for call in calls] == [None, "cookie-1", "cookie-2"]
    assert len({call["csr"] for call in calls}) == 1
    assert host.unwell() == []
    assert host.attempts()["apiserver"].cookie is None
    assert host.serials() != before


def test_the_daemon_asks_a_waiting_signer_again_without_an_event(waiting: tuple[Host, Helper]) -> None:
    """If a signer has not decided and no other step ran, the daemon soon plans again without reading any file. The new
    plan has the time of the next question.
    """
    host, helper = waiting
    helper.answers(5, "600\ncookie-1\n")
    enforcer = host.enforcer()
    acting = Reconciler(enforcer, Journal("none"), Telemetry("enforce"), enforcing=True, stopping=lambda: False)
    acting.make_plan(*enforcer.see())
    acting.execute()
    assert acting.retry_at is not None
    assert helper.calls()
    acting.make_plan(*enforcer.see())
    assert (acting.plan.steps, acting.plan.changes_at) == ((), host.now + timedelta(seconds=600))
    acting.execute()
    assert acting.retry_at is None


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_promise_outlives_a_failure(waiting: tuple[Host, Helper]) -> None:
    """If the signer is unreachable or its answer cannot be written, the next question is for the same request."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    host.now += timedelta(seconds=61)
    helper.answers(3, "the CA is away")
    assert [outcome.result for outcome in host.start()] == ["failed"]
    host.now += timedelta(seconds=61)
    helper.answers(0)
    manifests = host.at("/etc/kubernetes/manifests")
    manifests.symlink_to("manifests")  # a loop: certmond cannot prove that it is outside
    assert [outcome.result for outcome in host.start()] == ["failed"]
    manifests.unlink()
    host.now += timedelta(hours=1)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert [call["CERTMONGER_OPERATION"] for call in helper.calls()] == ["SUBMIT", "POLL", "POLL", "POLL"]
    assert len({call["csr"] for call in helper.calls()}) == 1
    assert host.unwell() == []


@pytest.mark.real("openssl")
def test_a_refusal_ends_a_promise(waiting: tuple[Host, Helper]) -> None:
    """After a signer refuses, certmond deletes the refused request and sends a new one with a new key."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    host.now += timedelta(seconds=61)
    helper.answers(2, "no")
    assert [outcome.result for outcome in host.start()] == ["failed"]
    assert host.temporary() == []
    host.now += timedelta(seconds=61)
    helper.answers(0)
    assert [outcome.result for outcome in host.start()] == ["done"]
    calls = helper.calls()
    assert [call["CERTMONGER_OPERATION"] for call in calls] == ["SUBMIT", "POLL", "SUBMIT"]
    assert calls[2]["csr"] != calls[0]["csr"]


@pytest.mark.real("openssl")
def test_a_renewal_by_another_process_ends_the_wait(waiting: tuple[Host, Helper]) -> None:
    """When another process renews the certificate, certmond deletes the key of its pending request."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    leaf = make_server(host.ca, "kube-apiserver", not_before=host.now - DAY, not_after=host.now + YEAR)
    host.put(ENTRIES["apiserver"]["path"], leaf.pem)
    host.put(ENTRIES["apiserver"]["key"], leaf.key_pem, 0o600)
    host.start()
    assert host.unwell() == []
    assert host.attempts() == {}


@pytest.mark.long
@pytest.mark.real("openssl")
def test_killed_while_a_signer_waits(waiting: tuple[Host, Helper], quick: Path) -> None:
    """A kill at any call between the first and the last question leaves only files that the next start uses."""
    host, helper = waiting

    def ask(status: int, said: str = "") -> None:
        helper.answers(status, said)
        twin.start()

    twins = copies(host, quick)
    twin = next(twins)
    first = len(record(lambda: ask(5, "60\ncookie\n")))
    twin.now += timedelta(seconds=61)
    stops = first + len(record(lambda: ask(0)))
    for n in sample(range(stops), 8, "a signer that waits"):
        twin = next(twins)
        twin.now = now() + timedelta(minutes=10)  # openssl's certificates begin when they are made
        if n < first:
            kill_at(lambda: ask(5, "60\ncookie\n"), n)
            assert readable(twin) == []
        ask(5, "60\ncookie\n")
        twin.now += timedelta(seconds=61)
        if n >= first:
            kill_at(lambda: ask(0), n - first)
            assert readable(twin) == []
        ask(0)
        assert twin.unwell() == [], f"killed at {n} of {stops}"
        assert {attempt.cookie for attempt in twin.attempts().values()} <= {None}, f"killed at {n} of {stops}"


# Obstacles


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount file systems until the end of the test."""
    if os.geteuid() != 0:
        unavailable("only root can mount")
    with ExitStack() as mounted:

        def make(*arguments: str, on: Path) -> None:
            done = subprocess.run(["mount", *arguments, on], capture_output=True, text=True, check=False)
            if done.returncode:
                unavailable(f"nothing can be mounted here: {done.stderr}")
            mounted.callback(lambda: subprocess.run(["umount", on], check=False))

        yield make


Mount = Callable[..., None]


def full(host: Host, mount: Mount, path: str) -> None:
    """Put the directory on its own file system of 64 KiB, with its content."""
    content = {file.name: file.read_bytes() for file in host.at(path).iterdir() if file.is_file()}
    mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", on=host.at(path))
    for name, data in content.items():
        host.put(f"{path}/{name}", data, 0o600 if name.endswith(".key") else 0o644)


def read_only(host: Host, mount: Mount, path: str) -> None:
    mount("-o", "bind,ro", str(host.at(path)), on=host.at(path))


@pytest.mark.long
@pytest.mark.parametrize(
    ("obstacle", "fact"),
    [(full, r"less than \d+ bytes are free.*free space"), (read_only, r"Read-only file system.*mount its file system")],
)
def test_what_cannot_be_written_is_tried_again(tmp_path: Path, mount: Mount, obstacle: Any, fact: str) -> None:
    """A full disk or a read-only directory leaves the old pair. The outcome, the trail and the ledger have a clear
    message. The next attempts follow after one, two and four minutes, not earlier; the last succeeds.
    """
    host = Host(tmp_path / "host", "apiserver")
    before = host.serials()
    obstacle(host, mount, PKI)
    for failures in (1, 2, 3):
        [outcome] = host.start()
        assert outcome.result == "failed"
        assert re.search(fact, outcome.message), outcome.message
        assert "/etc/kubernetes/pki/apiserver" in outcome.message
        assert host.serials() == before
        assert host.temporary() == []
        assert host.audit()[-1]["event"] == "step_failed"
        assert re.search(fact, host.audit()[-1]["message"])
        attempt = host.attempts()["apiserver"]
        assert attempt.failures == failures
        assert re.search(fact, attempt.message)
        retry = host.now + timedelta(minutes=2 ** (failures - 1))
        assert [held.until for held in host.plan().held] == [retry]
        assert host.plan().changes_at == retry
        assert host.start() == []
        host.now = retry
    subprocess.run(["umount", host.at(PKI)], check=True)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert host.unwell() == []
    assert host.attempts()["apiserver"].failures == 0


def test_other_steps_continue(tmp_path: Path, mount: Mount) -> None:
    """A step that cannot write does not stop the others."""
    host = Host(tmp_path / "host")
    read_only(host, mount, PKI)
    results = {outcome.step.target: outcome.result for outcome in host.start()}
    assert results == {"apiserver": "failed", "etcd-server": "failed", "admin.conf": "done", "kubelet-client": "done"}


@pytest.mark.parametrize("obstacle", [full, read_only])
def test_state_that_cannot_be_written(tmp_path: Path, mount: Mount, obstacle: Any) -> None:
    """If certmond cannot write its audit log or state, it changes no file of the node, reports the error, and leaves no
    temporary file.
    """
    host = Host(tmp_path / "host", "apiserver")
    before = host.serials()
    host.enforcer().executor.recover()  # the state directory is there
    if obstacle is full:
        mount("-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", on=host.state)
        (host.state / "transactions").mkdir(mode=0o700)
        (host.state / ".lock").touch(0o600)
        with suppress(OSError), (host.state / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        [outcome] = host.start_once()
        assert outcome.result == "failed"
        assert re.search(r"audit.log could not be written \(No space left on device\): free space", outcome.message)
    else:
        mount("-o", "bind,ro", str(host.state), on=host.state)
        with pytest.raises(WriteError, match=r"\(Read-only file system\): mount its file system writable"):
            host.start()
    assert host.serials() == before
    assert not [path for path in host.at(PKI).rglob("*") if path.name.startswith(".")]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """A derived file whose directory is missing is reported with the remedy, retried after growing delays, and made
    when the directory exists.
    """
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    issued, derived = host.start_once()
    assert issued.result == "done"
    assert derived.result == "failed"
    assert re.search(r"/etc/haproxy: No such file or directory\): create the directory", derived.message)
    [held] = host.plan().held
    assert (held.target, held.until) == ("haproxy", host.now + timedelta(minutes=1))
    assert "create the directory" in held.because
    assert host.start() == []
    assert host.plan().changes_at == held.until
    host.at("/etc/haproxy").mkdir()
    host.now += timedelta(minutes=1)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert set(host.attempts()) == {"apiserver"}
    assert host.unwell() == []


def test_a_renewal_by_another_process_before_the_step_is_no_failure(tmp_path: Path) -> None:
    """A certificate that another process renewed after the scan stays. The ledger records no failure."""
    host = Host(tmp_path / "host", "apiserver", "admin.conf")
    enforcer = host.enforcer()
    plan = enforcer.plan(host.look())
    leaf = make_server(host.ca, "kube-apiserver")
    host.put(ENTRIES["apiserver"]["path"], leaf.pem)
    host.put(ENTRIES["apiserver"]["key"], leaf.key_pem, 0o600)
    overtaken, other = enforcer.executor.execute(plan)
    assert overtaken.message.endswith("apiserver.crt since the plan; plan again: certmond plan")
    assert other.result == "done"
    assert set(host.attempts()) == {"admin.conf"}
    assert host.unwell() == []
    assert host.serials()["apiserver"] == leaf.facts.serial


def test_a_key_that_another_process_has_just_written_stays(tmp_path: Path) -> None:
    """If only the key was replaced after the scan, certmond leaves the pair to the process that writes it."""
    host = Host(tmp_path / "host", "apiserver")
    plan = host.plan()
    theirs = make_server(host.ca, "kube-apiserver")
    host.put(ENTRIES["apiserver"]["key"], theirs.key_pem, 0o600)
    [outcome] = host.enforcer().executor.execute(plan)
    assert outcome.message.startswith("another process has changed /etc/kubernetes/pki/apiserver.key since the plan")
    host.put(ENTRIES["apiserver"]["path"], theirs.pem)
    assert host.start() == []
    assert host.unwell() == []


@pytest.mark.real("openssl")
def test_a_renewal_by_another_process_while_the_signer_signs_stays(waiting: tuple[Host, Helper]) -> None:
    """A certificate that another process renewed while the signer signs stays. certmond discards the signed one."""
    host, helper = waiting
    theirs = make_server(host.ca, "kube-apiserver", not_before=host.now - DAY, not_after=host.now + YEAR)
    (helper.place / "theirs.crt").write_bytes(theirs.pem)
    (helper.place / "theirs.key").write_bytes(theirs.key_pem)
    helper.answers(0)
    copying = [f"cp {helper.place}/theirs.{suffix} {host.at(ENTRIES['apiserver'][field])}"
               for field, suffix in (("key", "key"), ("path", "crt"))]  # fmt: skip
    helper.script.write_text(helper.script.read_text() + "\n".join(copying) + "\n")
    [outcome] = host.start()
    assert "another process has changed " in outcome.message
    assert host.serials()["apiserver"] == theirs.facts.serial
    assert host.unwell() == []


# Derived files


def test_bundles_and_copies_follow_their_source(tmp_path: Path) -> None:
    """Bundles for HAProxy from a pair and from admin.conf, and a copy of a kubeconfig for another user, follow each
    renewal of their source with the configured mode and owner. openssl accepts them.
    """
    derived = [
        {"name": "front", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/front.pem"},
        {"name": "back", "kind": "pem-bundle", "source": "admin.conf", "path": "/etc/haproxy/back.pem"},
        {"name": "copy", "kind": "kubeconfig", "source": "admin.conf", "path": "/home/op/config", "mode": "0640",
         "owner": "daemon:mail"},
    ]  # fmt: skip
    host = Host(tmp_path / "host", "apiserver", "admin.conf", derived=derived)
    host.at("/etc/haproxy").mkdir()
    host.at("/home/op").mkdir(parents=True)
    assert {outcome.step.target: outcome.result for outcome in host.start()} == dict.fromkeys(
        ("apiserver", "admin.conf", "front", "back", "copy"), "done"
    )
    for turn in range(2):
        pem = host.at("/etc/haproxy/front.pem").read_bytes()
        pair = [host.at(ENTRIES["apiserver"][field]).read_bytes() for field in ("path", "key")]
        assert pem == b"".join(pair)
        user = yaml.safe_load(host.at("/etc/kubernetes/admin.conf").read_bytes())["users"][0]["user"]
        embedded = [base64.b64decode(user[field]) for field in ("client-certificate-data", "client-key-data")]
        assert host.at("/etc/haproxy/back.pem").read_bytes() == b"".join(embedded)
        assert host.at("/home/op/config").read_bytes() == host.at("/etc/kubernetes/admin.conf").read_bytes()
        status = host.at("/home/op/config").stat()
        assert (stat.S_IMODE(status.st_mode), pwd.getpwuid(status.st_uid).pw_name) == (0o640, "daemon")
        assert stat.S_IMODE(host.at("/etc/haproxy/front.pem").stat().st_mode) == 0o600
        assert host.plan().steps == ()
        if turn == 0:
            enforcer = host.enforcer()
            plan = enforcer.plan(host.look(), frozenset({"apiserver", "admin.conf"}))
            assert [outcome.result for outcome in enforcer.executor.execute(plan)] == ["done"] * 5


def test_a_foreign_file_at_the_path_of_a_derived_file_stays(tmp_path: Path) -> None:
    """If the path of a derived file has the file of another program, certmond leaves it. The plan reports it, and other
    steps run.
    """
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    theirs = make_server(make_ca(), "another")
    host.put("/etc/haproxy/apiserver.pem", theirs.pem + theirs.key_pem, 0o600)
    for _ in range(2):
        [held] = host.plan().held
        assert held.target == "haproxy"
        assert re.search(
            "/etc/haproxy/apiserver.pem contains a certificate of CN=another.* does not replace", held.because
        )
        assert {outcome.result for outcome in host.start()} <= {"done"}
    assert host.at("/etc/haproxy/apiserver.pem").read_bytes() == theirs.pem + theirs.key_pem
    host.at("/etc/haproxy/apiserver.pem").unlink()
    assert [outcome.step.target for outcome in host.start()] == ["haproxy"]
    assert host.unwell() == []


# When to wait


def test_the_hold_command_runs_only_if_a_step_is_due(tmp_path: Path) -> None:
    """certmond runs the hold command only in passes in which a step is due. Until the critical point, no certificate is
    renewed while the command holds.
    """
    asked = tmp_path / "asked"
    host = Host(tmp_path / "host", "apiserver")
    host.settings["hold"] = {"unsynchronised_clock": False, "command": ["sh", "-c", f"echo >> {asked}"]}
    host.now -= 100 * DAY
    assert host.plan().steps == ()
    assert not asked.exists()
    host.now = NOW
    [held] = host.plan().held
    assert (held.target, held.because) == ("apiserver", "held while sh exits with status 0")
    assert asked.read_text() == "\n"
    host.now = NOW + 4 * DAY
    assert [outcome.result for outcome in host.start()] == ["done"]


# Reports


def test_the_kubelets_pem_is_linked_again_right_after_a_renewal(tmp_path: Path) -> None:
    """A PEM that becomes a plain file a minute after its renewal is linked at once, and also the second time. The third
    time the step is held, and reports the repetition.
    """
    host = Host(tmp_path, "kubelet-client")
    host.entries["kubelet-client"] |= {"kubeconfig": "/etc/kubernetes/kubelet.conf"}
    host.put("/etc/kubernetes/kubelet.conf", kubelet_conf(host.ca))
    host.start()
    for number in (1, 2):
        host.now += timedelta(minutes=3)
        content = host.real(CURRENT).read_bytes()
        host.at(CURRENT).unlink()
        host.put(CURRENT, content, 0o600)
        assert [outcome.step.cause for outcome in host.start_once()] == ["not_a_symlink"]
        assert host.at(CURRENT).is_symlink()
        assert host.attempts()["kubelet-client"].repairs == number
    host.now += timedelta(minutes=1)
    content = host.real(CURRENT).read_bytes()
    host.at(CURRENT).unlink()
    host.put(CURRENT, content, 0o600)
    made = host.plan()
    assert made.steps == ()
    assert "repaired the file 2 times" in made.held[0].because
    assert made.held[0].until == host.now + timedelta(minutes=1)


def test_every_step_is_in_the_audit_log(tmp_path: Path) -> None:
    """For each certificate the log has the start and the result: the cause, the actor, and the old and the new serial
    number.
    """
    host = Host(tmp_path / "host")
    before = host.serials()
    host.start()
    after = host.serials()
    for name in ENTRIES:
        begun, done = (entry for entry in host.audit() if entry["target"] == name)
        assert (begun["event"], done["event"], done["result"]) == ("step_begun", "step_done", "done")
        assert begun["by"] == done["by"] == "daemon"
        assert begun["cause"] == "due"
        assert begun["old_serial"] == done["old_serial"] == hexadecimal(before[name])
        assert done["new_serial"] == hexadecimal(after[name])
        assert datetime.fromisoformat(done["at"]) == NOW


def test_a_replaced_pair_can_be_restored(tmp_path: Path, mount: Mount) -> None:
    """A restored generation is equal byte for byte. What it replaced is archived as a new one. A failure is in the
    audit log.
    """
    host = Host(tmp_path / "host", "apiserver")
    files = [host.at(ENTRIES["apiserver"][field]) for field in ("path", "key")]
    old = [file.read_bytes() for file in files]
    host.start()
    new = [file.read_bytes() for file in files]
    restoration = host.restoration()
    said = restoration.restore("apiserver", None, dry_run=True)
    assert len(said) == 2
    assert [file.read_bytes() for file in files] == new
    read_only(host, mount, PKI)
    with pytest.raises(WriteError, match="Read-only file system"):
        restoration.restore("apiserver", None, dry_run=False)
    assert [entry["event"] for entry in host.audit()][-2:] == ["step_begun", "step_failed"]
    subprocess.run(["umount", host.at(PKI)], check=True)
    assert restoration.restore("apiserver", None, dry_run=False) == said
    assert [file.read_bytes() for file in files] == old
    assert [entry["event"] for entry in host.audit()][-2:] == ["step_begun", "step_done"]
    restoration.restore("apiserver", None, dry_run=False)
    assert [file.read_bytes() for file in files] == new
    assert readable(host) == []


# Commands


def certmond(
    host: Host, *arguments: str, before: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line on this node, by the real clock; `before` is a prefix such as strace."""
    path = host.place / "config.yaml"
    path.write_text(yaml.safe_dump(host.document()))
    options = ["--config", path, "--root", host.root, "--state-dir", host.state]
    words, variables = [*map(str, options), *arguments], {**os.environ, **environment}
    if not before:
        return preloaded_certmond.run(words, DEADLINE, variables)
    command = [*before, sys.executable, "-m", "certmond", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=variables)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """All of its certificates are due now, by the real clock."""
    return Host(tmp_path / "host", now=now())


@pytest.mark.parametrize(("times", "status"), [(1, 0), (3, 0), (4, 2)])
def test_renew_plans_again_if_another_process_was_faster(
    host: Host, monkeypatch: pytest.MonkeyPatch, times: int, status: int
) -> None:
    """If another process replaces a certificate between the plan and the execution, `renew` plans again, at most three
    times. A certificate that is replaced more often stays, and is a failure.
    """
    execute, theirs = Executor.execute, list[int]()

    def overtaken(executor: Executor, plan: Plan, *arguments: Any, **terms: Any) -> tuple[Outcome, ...]:
        if len(theirs) < times:
            leaf = make_server(host.ca, "kube-apiserver", not_before=now() - DAY, not_after=now() + YEAR)
            host.put(ENTRIES["apiserver"]["path"], leaf.pem)
            host.put(ENTRIES["apiserver"]["key"], leaf.key_pem, 0o600)
            theirs.append(leaf.facts.serial)
        return execute(executor, plan, *arguments, **terms)

    monkeypatch.setattr(Executor, "execute", overtaken)
    path = host.place / "config.yaml"
    path.write_text(yaml.safe_dump(host.document()))
    options = ["--config", path, "--root", host.root, "--state-dir", host.state]
    done = CliRunner().invoke(cli, [*map(str, options), "renew", "apiserver"])
    assert done.exit_code == status, done.output
    assert f"{1 - bool(status)} of 1 done" in done.output
    assert ("since the plan; plan again: " in done.output) == bool(status)
    assert len(theirs) == times
    assert (host.serials()["apiserver"] in theirs) == bool(status)


@pytest.mark.long
def test_plan_shows_what_renew_does(host: Host) -> None:
    """`plan` exits 1 with the steps in the promised form, writes nothing, and exits 0 when there is nothing to do."""
    before = host.serials()
    done = certmond(host, "plan", "-o", "json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert document["schema"] == 1
    assert datetime.fromisoformat(document["taken_at"]) >= host.now
    assert [step["target"] for step in document["steps"]] == list(ENTRIES)
    for step in document["steps"]:
        assert {"step", "target", "reason", "detail"} <= step.keys()
        assert (step["step"], step["reason"]) == ("issue", "due")
    assert yaml.safe_load(certmond(host, "plan", "-o", "yaml").stdout)["steps"] == document["steps"]
    table = certmond(host, "plan")
    assert table.returncode == 1
    assert all(name in table.stdout for name in ENTRIES)
    assert host.serials() == before
    assert not host.state.exists()
    host.start()
    done = certmond(host, "plan", "-o", "json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["steps"], document["waiting"], document["unresolved"]) == (0, [], [], [])
    event = document["next_event"]
    assert event["what"] == "renew"
    shown = certmond(host, "plan").stdout
    assert shown.startswith("nothing to do now; the plan changes on ")
    assert f"next due: {event['target']} on {datetime.fromisoformat(event['at']):%Y-%m-%d %H:%M} UTC\n" in shown


@pytest.mark.long
def test_plan_at_another_time(host: Host) -> None:
    """`--at` shows the plan of that time."""
    early = (host.now - 300 * DAY).isoformat()
    assert certmond(host, "plan", "--at", early).returncode == 0
    late = certmond(host, "plan", "--at", (host.now + 11 * DAY).isoformat(), "-o", "json")
    assert {step["reason"] for step in json.loads(late.stdout)["steps"]} == {"expired"}
    assert certmond(host, "plan", "--at", "tomorrow").returncode == 3


@pytest.mark.long
def test_renew_by_name(host: Host) -> None:
    """`renew NAME` renews the named certificates, regardless of their dates, and no other. It prints each step and its
    end.
    """
    host.start()
    before = host.serials()
    done = certmond(host, "renew", "apiserver", "admin.conf")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/2] apiserver: is requested" in done.stdout
    assert done.stdout.endswith("2 of 2 done\n")
    changed = {name for name, serial in host.serials().items() if serial != before[name]}
    assert changed == {"apiserver", "admin.conf"}
    host.now = now()
    assert host.unwell() == []


@pytest.mark.long
def test_nothing_is_restarted_where_that_is_asked_for(host: Host) -> None:
    """`renew --no-restart` renews, and that is all."""
    host.start()
    done = certmond(host, "renew", "admin.conf", "--no-restart")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 of 1 done\n")


@pytest.mark.long
def test_renew_everything(host: Host) -> None:
    """`renew --all` renews every certificate that can be renewed, and prints JSON on request. Certificates, keys and
    modes are right afterwards.
    """
    before = host.serials()
    done = certmond(host, "renew", "--all", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = json.loads(done.stdout)["outcomes"]
    host.now = now()
    assert {outcome["target"]: int(outcome["serial"]) for outcome in outcomes} == host.serials()
    assert {outcome["result"] for outcome in outcomes} == {"done"}
    assert before.items().isdisjoint(host.serials().items())
    assert host.unwell() == []
    assert all(entry["by"] != "daemon" for entry in host.audit())


@pytest.mark.long
def test_dry_run_writes_nothing(host: Host) -> None:
    """`renew --dry-run` shows the steps and leaves every byte as it is."""
    content = {path: path.read_bytes() for path in host.files()}
    done = certmond(host, "renew", "--all", "--dry-run", "-o", "json")
    assert done.returncode == 0
    assert [step["target"] for step in json.loads(done.stdout)["steps"]] == list(ENTRIES)
    content[host.place / "config.yaml"] = (host.place / "config.yaml").read_bytes()
    assert {path: path.read_bytes() for path in host.files()} == content


@pytest.mark.long
def test_renew_reports_every_unknown_name_and_renews_nothing(host: Host) -> None:
    """`renew` reports each unknown name with the most similar known one, and renews nothing."""
    before = host.serials()
    done = certmond(host, "renew", "apiservr", "admin.conf", "nonsense")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "certmond: there is no certificate apiservr on this node; did you mean apiserver?",
        (
            "there is no certificate nonsense on this node; to list the certificates, run: "
            f"certmond --root {host.root} check"
        ),
    ]
    assert host.serials() == before


@pytest.mark.long
def test_renew_reports_every_name_that_it_cannot_renew(host: Host) -> None:
    """`renew` reports each certificate that it cannot renew with the reason, and renews none of the others. `--all`
    omits them.
    """
    before = host.serials()
    host.entries["etcd-server"]["signer"] = "none"
    done = certmond(host, "renew", "ca", "apiserver", "etcd-server")
    command = f"certmond --root {host.root} root-ca"
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        (
            "certmond: certmond cannot renew ca: this certificate is a CA; rotate it: "
            f"{command} stage --generate, then: {command} rotate"
        ),
        (
            "certmond cannot renew etcd-server: its entry has `signer: none`; to renew the certificate with certmond, "
            "set another `signer`"
        ),
    ]
    assert host.serials() == before
    done = certmond(host, "renew", "--all")
    assert done.returncode == 1  # etcd-server expires
    assert "not renewed: etcd-server: its entry has `signer: none`" in done.stdout
    assert {name for name, serial in host.serials().items() if serial == before[name]} == {"etcd-server"}


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("renew",), ("renew", "--all", "apiserver"), ("renew", "--al")])
def test_renew_refuses_an_incomplete_selection(host: Host, arguments: tuple[str, ...]) -> None:
    """Without a name, with names and `--all`, or with a wrong option, `renew` changes nothing and exits 3."""
    assert certmond(host, *arguments).returncode == 3
    assert not host.state.exists()


@pytest.mark.long
def test_renew_exits_1_if_it_leaves_a_broken_certificate(host: Host) -> None:
    """`renew --all` that leaves a certificate with a finding exits 1, and reports the obstacle: here the CA file that
    the entry names, which has no CA.
    """
    host.put(CA["path"], b"junk")
    done = certmond(host, "renew", "--all")
    assert done.returncode == 1
    assert "not renewed: apiserver: the CA file of the entry ca contains no certificate; restore" in done.stdout


@pytest.mark.long
def test_renew_continues_after_its_reader_closes_the_pipe(host: Host) -> None:
    """If the reader of the output has closed the pipe, as `| head -1` does, `renew --all` still renews each
    certificate.
    """
    before = host.serials()
    through = ("bash", "-c", 'exec > >(exec <&-; sleep 0.2); "$@"', "bash")
    certmond(host, "renew", "--all", before=through)
    after = host.serials()
    assert {name for name in before if before[name] != after[name]} == before.keys()


@pytest.mark.long
@pytest.mark.real("openssl")
def test_renew_exits_by_what_became_of_it(waiting: tuple[Host, Helper]) -> None:
    """Exit 2 where something failed, 1 where a signer is waited for, 0 when all is done: with the reason on stderr."""
    host, helper = waiting
    helper.answers(2, "you are not known here")
    done = certmond(host, "renew", "apiserver")
    assert done.returncode == 2
    assert re.search("^failed: apiserver: .*you are not known here", done.stderr)
    helper.answers(5, "1\ncookie\n")
    done = certmond(host, "renew", "apiserver", "--timeout", "0s")
    assert done.returncode == 1
    assert done.stderr.startswith("waiting: apiserver: the helper")
    helper.answers(0)
    assert certmond(host, "renew", "apiserver").returncode == 0
    assert [call["CERTMONGER_OPERATION"] for call in helper.calls()] == ["SUBMIT", "SUBMIT", "POLL"]


@pytest.mark.long
def test_sudo_is_named(host: Host) -> None:
    """The trail names the user who ran the command, also behind sudo."""
    if Path("/proc/self/loginuid").read_text() != str(2**32 - 1):
        pytest.skip("a login UID is set here, which precedes sudo's variable")
    certmond(host, "renew", "apiserver", SUDO_USER="alice")
    assert {entry["by"] for entry in host.audit()} == {"alice as root"}


@pytest.mark.long
def test_what_was_interrupted_is_finished_first(host: Host, quick: Path) -> None:
    """A renewal that was killed between key and certificate is completed before the next is planned. The trail records
    it.
    """
    twins = copies(host, quick)
    stops = record(next(twins).start)
    renames = [n for n, stop in enumerate(stops) if stop == "exit renameat"]
    twin = next(twins)
    kill_at(twin.start, renames[4])  # after memory, intent, archive and decision: the key
    [key] = (status.key_matches for status in twin.look().certificates if status.seen.name == "apiserver")
    assert key is False
    done = certmond(twin, "renew", "apiserver")
    assert (done.returncode, done.stderr) == (0, "")
    assert "recovered" in {entry["event"] for entry in twin.audit()}
    assert twin.temporary() == []


@pytest.mark.long
def test_forecast(host: Host) -> None:
    """`forecast` shows the renewals until a time, as JSON, and as a table with a chart. A shorter time has fewer."""
    done = certmond(host, "forecast", "--for", "3y", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["schema"], document["complete"], document["mode"]) == (1, True, "enforce")
    renewed = Counter(event["target"] for event in document["events"] if event["what"] == "renew")
    assert set(renewed) == set(ENTRIES)
    assert min(renewed.values()) >= 3
    instants = [event["at"] for event in document["events"]]
    assert instants == sorted(instants)
    table = certmond(host, "forecast", "--for", "3y")
    assert table.returncode == 0
    assert "● renew  ! due  ✗ expire" in table.stdout
    assert any(line.startswith("apiserver ") and "●" in line for line in table.stdout.splitlines())
    shorter = json.loads(certmond(host, "forecast", "--for", "30d", "-o", "json").stdout)
    assert {event["target"] for event in shorter["events"] if event["what"] == "renew"} == set(ENTRIES)
    assert len(shorter["events"]) < len(document["events"])
    assert certmond(host, "forecast", "--for", "nonsense").returncode == 3
    assert "observe" not in table.stdout
    host.settings["mode"] = "observe"
    assert "certmond is in observe mode and executes none of them" in certmond(host, "forecast").stdout
    assert not host.state.exists()


@pytest.mark.long
def test_archive_is_listed_and_restored(host: Host) -> None:
    """`archive list` shows each generation. `archive restore` restores one and archives what it replaces; `--dry-run`
    only prints it. The trail has the user who ran it.
    """
    pair = [host.at(ENTRIES["apiserver"][field]) for field in ("path", "key")]
    old = [path.read_bytes() for path in pair]
    assert certmond(host, "archive", "list").stdout == ""
    certmond(host, "renew", "--all")
    new = [path.read_bytes() for path in pair]
    lines = certmond(host, "archive", "list").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(ENTRIES)
    [line] = certmond(host, "archive", "list", "apiserver").stdout.splitlines()
    generation = line.split()[1]
    assert all(ENTRIES["apiserver"][field] in line for field in ("path", "key"))
    dry = certmond(host, "archive", "restore", "apiserver", generation, "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.count("is restored to its state before") == 2
    assert [path.read_bytes() for path in pair] == new
    done = certmond(host, "archive", "restore", "apiserver", generation)
    assert (done.returncode, done.stdout) == (0, dry.stdout)
    assert [path.read_bytes() for path in pair] == old
    assert f"replaced by {generation}" in certmond(host, "archive", "list", "apiserver").stdout
    assert host.audit()[-1]["event"] == "step_done"
    assert host.audit()[-1]["by"] != "daemon"
    again = certmond(host, "archive", "restore", "apiserver", generation)
    assert (again.returncode, again.stdout) == (0, f"apiserver is already identical to {generation}\n")
    unknown = certmond(host, "archive", "restore", "apiserver", "000009-20260101T000000Z")
    assert unknown.returncode == 3
    assert generation in unknown.stderr
    assert certmond(host, "archive", "restore", "nonsense").returncode == 3
    assert readable(host) == []


@pytest.mark.long
def test_archive_list_exits_3_for_a_name_without_generations(tmp_path: Path) -> None:
    """`archive list NAME` exits 3 if the archive has no generation of NAME, and names the entries that it has. It lists
    the generations of the other names.
    """
    host = Host(tmp_path / "host", "apiserver")
    empty = certmond(host, "archive", "list", "apiserver")
    assert (empty.returncode, empty.stdout) == (3, "")
    assert "the archive has no generation of apiserver; the archive is empty" in empty.stderr
    assert certmond(host, "renew", "apiserver").returncode == 0
    listed = certmond(host, "archive", "list", "apisever", "apiserver")
    assert listed.returncode == 3
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["apiserver"]
    assert "the archive has no generation of apisever; the archive has generations of apiserver" in listed.stderr


@pytest.mark.long
def test_a_damaged_generation_is_reported_and_blocks_no_other(tmp_path: Path) -> None:
    """`archive list` reports a damaged generation on standard error, continues, and exits 2. `archive restore` restores
    the requested one.
    """
    host = Host(tmp_path / "host", "apiserver")
    for name in ("first", "second"):
        assert certmond(host, "renew", "apiserver").returncode == 0, name
    damaged, good = sorted(os.listdir(host.state / "archive/apiserver"))
    (host.state / "archive/apiserver" / damaged / "description.json").write_text("{}")
    listed = certmond(host, "archive", "list")
    assert listed.returncode == 2
    assert [line.split()[1] for line in listed.stdout.splitlines()] == [good]
    assert f"{damaged}/description.json is damaged" in listed.stderr
    refused = certmond(host, "archive", "restore", "apiserver", damaged)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{damaged}/description.json is damaged" in refused.stderr
    assert certmond(host, "archive", "restore", "apiserver", good).returncode == 0


@pytest.mark.long
@pytest.mark.real("strace")
@pytest.mark.parametrize("call", ["fsync", "renameat", "mkdir", "write"])
def test_any_call_fails_once(quick: Path, call: str) -> None:
    """Whichever call fails with an error of the disk, `renew` reports the true result: 0 with a new certificate,
    otherwise the old one and a reason. The next start ends in the same state.
    """
    host = Host(quick / "original", "apiserver", now=now())
    before = host.serials()
    twins = copies(host, quick)
    count = record(next(twins).start).count(f"entry {call}")
    codes = Counter[int]()
    numbers = range(1, count + 1)
    for n in sample(numbers, 6, f"any call, {call}", kind=lambda n: n == count):  # the last one writes a memory only
        twin = next(twins)
        quickly = (real_part("strace"), "-f", "--seccomp-bpf", "-o", "/dev/null")  # it ignores the other calls
        inject = (*quickly, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={n}")
        done = certmond(twin, "renew", "apiserver", before=inject, PYTHONDONTWRITEBYTECODE="1")
        where = f"{call} {n}: {done}"
        codes[done.returncode] += 1
        assert "Traceback" not in done.stderr, where
        assert (done.returncode == 0) == (twin.serials() != before), where
        assert (done.returncode == 0) == (done.stderr == ""), where
        assert done.returncode == 0 or "Input/output error" in done.stderr, where
        assert readable(twin) == [], where
        twin.now = now() + timedelta(minutes=2)
        twin.start()
        assert twin.unwell() == [], where
        assert before.items().isdisjoint(twin.serials().items()), where
    assert {0, 2} <= codes.keys() or call == "mkdir"
