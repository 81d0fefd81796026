"""Whole renewals on real files, killed anywhere: planned, carried out, and begun again until nothing is to be done."""

from __future__ import annotations

import base64
import itertools
import json
import os
import pwd
import random
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

from certmond.acting import Acting
from certmond.config import Config, Source, parse
from certmond.enforce import Enforcer
from certmond.errors import WriteError
from certmond.expose.telemetry import Telemetry
from certmond.host.audit import Audit
from certmond.host.execute import Outcome
from certmond.host.journal import Journal
from certmond.host.ledger import Ledger
from certmond.host.restoration import Restoration
from certmond.host.transaction import Transactions
from certmond.options import look
from certmond.pki.assess import Assessment
from certmond.pki.attempt import Attempt
from certmond.pki.certificate import load_request
from certmond.pki.steps import Plan
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf, make_server
from tests.conftest import real_part, unavailable
from tests.tracing import EVERY_STOP, changes, distinct, kill_at, record

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
    """As kubeadm writes it: everything embedded."""

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
    """As kubeadm leaves it: it refers to the rotating PEM."""
    document = yaml.safe_load(kubeconfig(ca, ca))
    document["users"][0]["user"] = {"client-certificate": CURRENT, "client-key": CURRENT}
    return yaml.safe_dump(document).encode()


class Host:
    """A small node below `place`, and certmond's state: every certificate is due at `now`, and quick to sign anew."""

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
            dates |= {"not_after": self.now + DAY}  # the kubelet's own turn comes before
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
        """The file that a path of the node leads to."""
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
        return parse([Source("test", yaml.safe_dump(self.document()))])

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
        return look(self.config, str(self.root), self.now, state_dir=self.state)

    def plan(self) -> Plan:
        return self.enforcer().plan(self.look())

    def start(self) -> list[Outcome]:
        """As a start of certmond: recover, then plan and carry out until nothing is to be done."""
        outcomes: list[Outcome] = []
        enforcer = self.enforcer()
        enforcer.executor.recover()
        for _ in range(5):
            plan = enforcer.plan(self.look())
            if not plan.steps:
                return outcomes
            outcomes += enforcer.executor.execute(plan)
        raise AssertionError(f"it does not come to rest: {outcomes}")

    def start_once(self) -> tuple[Outcome, ...]:
        """As one pass."""
        enforcer = self.enforcer()
        return enforcer.executor.execute(enforcer.plan(self.look()))

    def audit(self) -> list[dict[str, Any]]:
        """The trail."""
        return [json.loads(line) for line in (self.state / "audit.log").read_text().splitlines()]

    def attempts(self) -> dict[str, Attempt]:
        """What is remembered, by name."""
        return {name: attempt for (name, _), attempt in Ledger(self.state).attempts().items()}

    def files(self) -> Iterator[Path]:
        """Every file of the node and of certmond's state."""
        return (path for path in self.place.rglob("*") if path.is_file() and not path.is_symlink())

    def serials(self) -> dict[str, int]:
        """The certificate that is in place, of each entry."""
        found = {each.seen.name: each.certificate for each in self.look().statuses}
        return {name: certificate.serial for name, certificate in found.items() if certificate and name != "ca"}

    def temporary(self) -> list[str]:
        """Whatever a process left that was interrupted."""
        odd = [path for path in self.place.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
        for directory in ("transactions", "pending"):
            odd += (self.state / directory).glob("*")
        return [str(path.relative_to(self.place)) for path in odd]

    def unwell(self) -> list[str]:
        """Everything that is not as it has to be when all is done: findings, steps, leftovers, modes."""
        seen = self.look()
        problems = [f"{item.reason}: {item.message}" for status in seen.statuses for item in status.findings]
        problems += [f"{status.seen.name} has no path" for status in seen.statuses if not status.chain_valid]
        problems += [f"{status.seen.name}: key" for status in seen.certificates if status.key_matches is False]
        problems += [f"{step.target} is still to be done" for step in self.enforcer().plan(seen).steps]
        return problems + self.temporary() + readable(self)


def readable(host: Host) -> list[str]:
    """What others could read that holds a private key, and what they could enter or read of the state directory."""
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
    """Any number of twins, each gone when the next is asked for."""
    for number in itertools.count():
        twin = host.copy(place / str(number))
        yield twin
        shutil.rmtree(twin.place)


FORMS = {
    "pair": ["apiserver"],
    "keep_key": ["etcd-server"],
    "kubeconfig": ["admin.conf"],
    "kubelet": ["kubelet-client"],
    "plain": ["kubelet-client"],
}


@pytest.mark.parametrize("form", FORMS)
def test_killed_anywhere(quick: Path, form: str) -> None:
    """Killed before or after any system call that changes something, a renewal is whole after the next start: one new
    certificate, nothing left beside it, and never a private key that others could read.
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
    chosen = distinct(stops)
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
    assert 10 < found_new < len(chosen) - 10


def test_killed_with_everything_on_rsa(quick: Path) -> None:
    """So it is with all forms at once and RSA keys, at a sample of the calls; openssl accepts what is there then."""
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(quick / "original", key="rsa", derived=[bundle])
    host.at("/etc/haproxy").mkdir()
    before = host.serials()
    twins = copies(host, quick)
    stops = record(next(twins).start)
    for n in range(7, len(stops), len(stops) // 12):
        twin = next(twins)
        where = f"killed at {n}, {kill_at(twin.start, n)}"
        twin.start()
        assert twin.unwell() == [], where
        assert before.items().isdisjoint(twin.serials().items()), where
        accepted_by_openssl(twin)


def accepted_by_openssl(host: Host) -> None:
    """Each certificate verifies up to the CA, and belongs to the key beside it."""
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


class Story:
    """A renewal that is killed again and again, and at last left alone; what was seen on the way."""

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
        """Whether it came so far."""
        failed = host.place / "failed"

        def run() -> None:
            failed.touch()
            host.start()
            failed.unlink()

        try:
            kill_at(run, n + 1, counted=changes)  # after what marks it as failed
        except AssertionError:  # it has come to its end before
            self.problems += ["a start failed by itself"] * failed.exists()
            return False
        finally:
            failed.unlink(missing_ok=True)
        return True


@pytest.mark.slow
@pytest.mark.timeout(400)  # hundreds of kills, where every stop counts
@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again(quick: Path, seed: int) -> None:
    """Killed at random, and again while it recovers, as often as it happens: the end is always the same, with every
    due certificate renewed once.
    """
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(quick / "original", "apiserver", derived=[bundle])
    host.at("/etc/haproxy").mkdir()
    twins = copies(host, quick)
    last = sum(map(changes, record(next(twins).start)))
    chosen = random.Random(seed)  # noqa: S311 - which of the stops is no secret
    kills = 0
    while kills < (250 if EVERY_STOP else 80):  # there are three times as many stops as changes
        plan = [chosen.randrange(last >> turn // 2) for turn in range(chosen.randint(1, 6))]
        story = Story(next(twins), plan)
        if story.problems:
            plan, story = smallest(plan, story, twins)
            pytest.fail(f"killed at {plan}: {story.problems}")
        kills += story.kills


def smallest(plan: list[int], story: Story, twins: Iterator[Host]) -> tuple[list[int], Story]:
    """The same failure with fewer kills, if it can be had."""
    for number in range(len(plan)):
        shorter = plan[:number] + plan[number + 1 :]
        if (again := Story(next(twins), shorter)).problems:
            return smallest(shorter, again, twins)
    return plan, story


# A signer that waits


class Helper:
    """A CA's helper in shell: for each call what it was told is kept, and it answers as the test says."""

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
    """A node whose one certificate is signed by a helper: by the real clock, which openssl has."""
    signer = {"name": "site", "kind": "command", "command": [str(tmp_path / "helper" / "helper")]}
    host = Host(tmp_path / "host", "apiserver", now=now(), signers=[signer])
    host.entries["apiserver"] |= {"signer": "site"}
    return host, Helper(tmp_path / "helper", host.ca)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.mark.real("openssl")
def test_a_request_that_no_longer_asks_for_what_is_granted_is_filed_anew(waiting: tuple[Host, Helper]) -> None:
    """Where the entry changed while the signer decided, the kept request is not sent again: a new one is, without the
    cookie of the former, and it asks for what the entry fixes now.
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
def test_a_request_that_was_damaged_is_lost(waiting: tuple[Host, Helper], damage: bytes) -> None:
    """Where what was sent to a signer cannot be read any more, the certificate is asked for anew, and renewed."""
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
def test_what_stands_beside_a_request_is_not_sent(waiting: tuple[Host, Helper]) -> None:
    """Of a damaged file only the request itself goes to the signer, as it was sent before."""
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


@pytest.mark.real("openssl")
def test_a_signer_that_waits_is_asked_again(waiting: tuple[Host, Helper]) -> None:
    """A signer that has not decided is asked again at its time and not before, by whatever process, with its cookie,
    the same key and the same request; the key is nobody's to read, and gone when the certificate is in place.
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


def test_a_daemon_asks_a_signer_that_waits_by_itself(waiting: tuple[Host, Helper]) -> None:
    """Where a signer has not decided, and nothing else was done, the plan is made again soon, without a look at any
    file; from then on it says when the signer is due.
    """
    host, helper = waiting
    helper.answers(5, "600\ncookie-1\n")
    enforcer = host.enforcer()
    acting = Acting(enforcer, Journal("none"), Telemetry("enforce"), enforcing=True, stopping=lambda: False)
    acting.decide(*enforcer.see())
    acting.act()
    assert acting.retry_at is not None
    assert helper.calls()
    acting.decide(*enforcer.see())
    assert (acting.plan.steps, acting.plan.changes_at) == ((), host.now + timedelta(seconds=600))
    acting.act()
    assert acting.retry_at is None


@pytest.mark.real("openssl")
def test_a_promise_outlives_a_failure(waiting: tuple[Host, Helper]) -> None:
    """Where the signer cannot be reached meanwhile, or its answer not be written, it is asked again for the same."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    host.now += timedelta(seconds=61)
    helper.answers(3, "the CA is away")
    assert [outcome.result for outcome in host.start()] == ["failed"]
    host.now += timedelta(seconds=61)
    helper.answers(0)
    manifests = host.at("/etc/kubernetes/manifests")
    manifests.symlink_to("manifests")  # a loop: nothing can be told to be outside of it
    assert [outcome.result for outcome in host.start()] == ["failed"]
    manifests.unlink()
    host.now += timedelta(hours=1)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert [call["CERTMONGER_OPERATION"] for call in helper.calls()] == ["SUBMIT", "POLL", "POLL", "POLL"]
    assert len({call["csr"] for call in helper.calls()}) == 1
    assert host.unwell() == []


@pytest.mark.real("openssl")
def test_a_refusal_ends_a_promise(waiting: tuple[Host, Helper]) -> None:
    """What a signer has refused is asked for anew, with a new key; the refused one is gone."""
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
def test_what_somebody_else_renewed_is_not_waited_for(waiting: tuple[Host, Helper]) -> None:
    """When somebody else has renewed the certificate, the key that waited for its own is forgotten."""
    host, helper = waiting
    helper.answers(5, "60\ncookie\n")
    host.start()
    leaf = make_server(host.ca, "kube-apiserver", not_before=host.now - DAY, not_after=host.now + YEAR)
    host.put(ENTRIES["apiserver"]["path"], leaf.pem)
    host.put(ENTRIES["apiserver"]["key"], leaf.key_pem, 0o600)
    host.start()
    assert host.unwell() == []
    assert host.attempts() == {}


@pytest.mark.real("openssl")
def test_killed_while_a_signer_waits(waiting: tuple[Host, Helper], quick: Path) -> None:
    """Killed anywhere between the first question and the last, nothing is left but what the next start goes on with."""
    host, helper = waiting

    def ask(status: int, said: str = "") -> None:
        helper.answers(status, said)
        twin.start()

    twins = copies(host, quick)
    twin = next(twins)
    first = len(record(lambda: ask(5, "60\ncookie\n")))
    twin.now += timedelta(seconds=61)
    stops = first + len(record(lambda: ask(0)))
    for n in range(0, stops, 5):
        twin = next(twins)
        twin.now = now()  # openssl's certificates begin when they are made: a slow machine must not come behind that
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


# What stands in the way


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts what is asked for, until the end of the test."""
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
    """The directory is on a file system of 64 KiB of its own, with what was in it."""
    content = {file.name: file.read_bytes() for file in host.at(path).iterdir() if file.is_file()}
    mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", on=host.at(path))
    for name, data in content.items():
        host.put(f"{path}/{name}", data, 0o600 if name.endswith(".key") else 0o644)


def read_only(host: Host, mount: Mount, path: str) -> None:
    mount("-o", "bind,ro", str(host.at(path)), on=host.at(path))


@pytest.mark.parametrize(
    ("obstacle", "fact"),
    [(full, r"less than \d+ bytes are free.*make room"), (read_only, r"Read-only file system.*mount its file system")],
)
def test_what_cannot_be_written_is_tried_again(tmp_path: Path, mount: Mount, obstacle: Any, fact: str) -> None:
    """A full disk or a read-only directory leaves the old pair; a clear message is in the outcome, in the trail and
    remembered; the next attempts come after one, two, four minutes, and none before; the last succeeds.
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


def test_other_steps_go_on(tmp_path: Path, mount: Mount) -> None:
    """What cannot be written does not stop the rest."""
    host = Host(tmp_path / "host")
    read_only(host, mount, PKI)
    results = {outcome.step.target: outcome.result for outcome in host.start()}
    assert results == {"apiserver": "failed", "etcd-server": "failed", "admin.conf": "done", "kubelet-client": "done"}


@pytest.mark.parametrize("obstacle", [full, read_only])
def test_state_that_cannot_be_written(tmp_path: Path, mount: Mount, obstacle: Any) -> None:
    """Where certmond cannot note what it does, it does nothing, says so, and leaves nothing behind."""
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
        assert re.search(r"audit.log could not be written \(No space left on device\): make room", outcome.message)
    else:
        mount("-o", "bind,ro", str(host.state), on=host.state)
        with pytest.raises(WriteError, match=r"\(Read-only file system\): mount its file system writable"):
            host.start()
    assert host.serials() == before
    assert not [path for path in host.at(PKI).rglob("*") if path.name.startswith(".")]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """A derived file whose directory is missing is told with the remedy, tried again later and later, and made when the
    directory is there.
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


def test_overtaken_between_look_and_step(tmp_path: Path) -> None:
    """What somebody else renewed after the look is left as it is, and is no failure to be remembered."""
    host = Host(tmp_path / "host", "apiserver", "admin.conf")
    enforcer = host.enforcer()
    plan = enforcer.plan(host.look())
    leaf = make_server(host.ca, "kube-apiserver")
    host.put(ENTRIES["apiserver"]["path"], leaf.pem)
    host.put(ENTRIES["apiserver"]["key"], leaf.key_pem, 0o600)
    overtaken, other = enforcer.executor.execute(plan)
    assert overtaken.message.endswith(
        "apiserver.crt was changed by someone else since it was looked at; look at it again"
    )
    assert other.result == "done"
    assert set(host.attempts()) == {"admin.conf"}
    assert host.unwell() == []
    assert host.serials()["apiserver"] == leaf.facts.serial


def test_a_key_that_somebody_else_has_just_written(tmp_path: Path) -> None:
    """A key that was replaced after the look, its certificate not yet, is left to whoever is at it."""
    host = Host(tmp_path / "host", "apiserver")
    plan = host.plan()
    theirs = make_server(host.ca, "kube-apiserver")
    host.put(ENTRIES["apiserver"]["key"], theirs.key_pem, 0o600)
    [outcome] = host.enforcer().executor.execute(plan)
    assert outcome.message.startswith("/etc/kubernetes/pki/apiserver.key was changed by someone else")
    host.put(ENTRIES["apiserver"]["path"], theirs.pem)
    assert host.start() == []
    assert host.unwell() == []


@pytest.mark.real("openssl")
def test_overtaken_while_the_signer_signs(waiting: tuple[Host, Helper]) -> None:
    """What somebody else renewed while the signer was at it stays; what was signed is not put there."""
    host, helper = waiting
    theirs = make_server(host.ca, "kube-apiserver", not_before=host.now - DAY, not_after=host.now + YEAR)
    (helper.place / "theirs.crt").write_bytes(theirs.pem)
    (helper.place / "theirs.key").write_bytes(theirs.key_pem)
    helper.answers(0)
    copying = [f"cp {helper.place}/theirs.{suffix} {host.at(ENTRIES['apiserver'][field])}"
               for field, suffix in (("key", "key"), ("path", "crt"))]  # fmt: skip
    helper.script.write_text(helper.script.read_text() + "\n".join(copying) + "\n")
    [outcome] = host.start()
    assert "was changed by someone else" in outcome.message
    assert host.serials()["apiserver"] == theirs.facts.serial
    assert host.unwell() == []


# Derived files


def test_bundles_and_copies_follow_their_source(tmp_path: Path) -> None:
    """A bundle for HAProxy from a pair and one from admin.conf, and a copy of a kubeconfig for somebody else, are made
    and made again with their source, with the mode and owner that they were given; openssl accepts them.
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


def test_a_foreign_file_is_left_alone_and_told(tmp_path: Path) -> None:
    """Where a derived file should be, somebody else's is left as it is; the plan says so, and it stops nothing."""
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/haproxy/apiserver.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    theirs = make_server(make_ca(), "another")
    host.put("/etc/haproxy/apiserver.pem", theirs.pem + theirs.key_pem, 0o600)
    for _ in range(2):
        [held] = host.plan().held
        assert held.target == "haproxy"
        assert re.search("/etc/haproxy/apiserver.pem holds a certificate of CN=another.* is not replaced", held.because)
        assert {outcome.result for outcome in host.start()} <= {"done"}
    assert host.at("/etc/haproxy/apiserver.pem").read_bytes() == theirs.pem + theirs.key_pem
    host.at("/etc/haproxy/apiserver.pem").unlink()
    assert [outcome.step.target for outcome in host.start()] == ["haproxy"]
    assert host.unwell() == []


# When to wait


def test_the_host_is_asked_only_where_something_is_due(tmp_path: Path) -> None:
    """The program that says whether to wait is run where something is due, and at no other look; while it says so,
    nothing is renewed, up to the critical point.
    """
    asked = tmp_path / "asked"
    host = Host(tmp_path / "host", "apiserver")
    host.settings["hold"] = {"unsynchronised_clock": False, "command": ["sh", "-c", f"echo >> {asked}"]}
    host.now -= 100 * DAY
    assert host.plan().steps == ()
    assert not asked.exists()
    host.now = NOW
    [held] = host.plan().held
    assert (held.target, held.because) == ("apiserver", "held while sh says so")
    assert asked.read_text() == "\n"
    host.now = NOW + 4 * DAY
    assert [outcome.result for outcome in host.start()] == ["done"]


# What is told


def test_the_kubelets_pem_is_linked_again_right_after_a_renewal(tmp_path: Path) -> None:
    """A PEM that becomes a plain file a minute after certmond has renewed it is linked at once; the second time too,
    but the third waits, and says that this comes back.
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
    assert "was put right 2 times" in made.held[0].because
    assert made.held[0].until == host.now + timedelta(minutes=1)


def test_every_step_is_in_the_trail(tmp_path: Path) -> None:
    """For each certificate the trail has what was begun and what became of it: why, by whom, from which serial number
    to which.
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
        assert begun["old_serial"] == done["old_serial"] == f"{before[name]:x}"
        assert done["new_serial"] == f"{after[name]:x}"
        assert datetime.fromisoformat(done["at"]) == NOW


def test_what_was_replaced_can_be_put_back(tmp_path: Path, mount: Mount) -> None:
    """A restored generation is what it was, byte for byte; what it replaced is kept as a new one; a failure is in the
    trail.
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


# By hand


def certmond(
    host: Host, *arguments: str, before: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line on this node, by the real clock; `before` is what runs it, such as strace."""
    path = host.place / "config.yaml"
    path.write_text(yaml.safe_dump(host.document()))
    options = ["--config", path, "--root", host.root, "--state-dir", host.state]
    command = [*before, sys.executable, "-m", "certmond", *map(str, options), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """All of its certificates are due now, by the real clock."""
    return Host(tmp_path / "host", now=now())


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
    assert (done.returncode, json.loads(done.stdout)["steps"]) == (0, [])
    assert certmond(host, "plan").stdout.startswith("nothing to do now; time alone changes that on ")


def test_plan_at_another_time(host: Host) -> None:
    """`--at` shows the plan of that time."""
    early = (host.now - 300 * DAY).isoformat()
    assert certmond(host, "plan", "--at", early).returncode == 0
    late = certmond(host, "plan", "--at", (host.now + 11 * DAY).isoformat(), "-o", "json")
    assert {step["reason"] for step in json.loads(late.stdout)["steps"]} == {"expired"}
    assert certmond(host, "plan", "--at", "tomorrow").returncode == 3


def test_renew_by_name(host: Host) -> None:
    """`renew NAME` renews that one, whatever its dates, and the others stay; each step is told, and its end."""
    host.start()
    before = host.serials()
    done = certmond(host, "renew", "apiserver", "admin.conf")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/2] apiserver: asked for" in done.stdout
    assert done.stdout.endswith("2 of 2 done\n")
    changed = {name for name, serial in host.serials().items() if serial != before[name]}
    assert changed == {"apiserver", "admin.conf"}
    host.now = now()
    assert host.unwell() == []


def test_nothing_is_restarted_where_that_is_asked_for(host: Host) -> None:
    """`renew --no-restart` renews, and that is all."""
    host.start()
    done = certmond(host, "renew", "admin.conf", "--no-restart")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 of 1 done\n")


def test_renew_everything(host: Host) -> None:
    """`renew --all` renews what can be renewed, as JSON if asked for; certificates, keys and modes are right then."""
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


def test_dry_run_writes_nothing(host: Host) -> None:
    """`renew --dry-run` shows the steps and leaves every byte as it is."""
    content = {path: path.read_bytes() for path in host.files()}
    done = certmond(host, "renew", "--all", "--dry-run", "-o", "json")
    assert done.returncode == 0
    assert [step["target"] for step in json.loads(done.stdout)["steps"]] == list(ENTRIES)
    content[host.place / "config.yaml"] = (host.place / "config.yaml").read_bytes()
    assert {path: path.read_bytes() for path in host.files()} == content


def test_unknown_names_are_told_at_once(host: Host) -> None:
    """Every unknown name is told, with the one that was meant, and nothing is renewed."""
    before = host.serials()
    done = certmond(host, "renew", "apiservr", "admin.conf", "nonsense")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "certmond: there is no certificate apiservr on this node; did you mean apiserver?",
        "there is no certificate nonsense on this node; `certmond check` shows those that there are",
    ]
    assert host.serials() == before


def test_those_that_cannot_be_renewed_are_told_at_once(host: Host) -> None:
    """Every one that cannot be renewed is told with the reason, and none of the others is; `--all` leaves them out."""
    before = host.serials()
    host.entries["etcd-server"]["signer"] = "none"
    done = certmond(host, "renew", "ca", "apiserver", "etcd-server")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "certmond: ca cannot be renewed: it is a CA, which is rotated, not renewed",
        "etcd-server cannot be renewed: its entry says that nobody signs it",
    ]
    assert host.serials() == before
    done = certmond(host, "renew", "--all")
    assert done.returncode == 1  # it expires
    assert "left alone: etcd-server: its entry says that nobody signs it" in done.stdout
    assert {name for name, serial in host.serials().items() if serial == before[name]} == {"etcd-server"}


@pytest.mark.parametrize("arguments", [("renew",), ("renew", "--all", "apiserver"), ("renew", "--al")])
def test_renew_has_to_be_told_what(host: Host, arguments: tuple[str, ...]) -> None:
    """Without a name, with both, or with a wrong option nothing is done, and it exits 3."""
    assert certmond(host, *arguments).returncode == 3
    assert not host.state.exists()


def test_renew_does_not_exit_with_0_where_something_broken_is_left_alone(host: Host) -> None:
    """`renew --all` that leaves a certificate alone which has a finding exits 1, and says what is in the way: here the
    file of the CA that the entry names, which holds none.
    """
    host.put(CA["path"], b"junk")
    done = certmond(host, "renew", "--all")
    assert done.returncode == 1
    assert "left alone: apiserver: the file of its CA, the entry ca, holds no certificate: put the CA" in done.stdout


def test_renew_goes_on_where_its_reader_has_gone(host: Host) -> None:
    """Where the output is a pipe that nobody reads any more, as that of `| head -1`, every certificate is renewed."""
    before = host.serials()
    through = ("bash", "-c", 'exec > >(exec <&-; sleep 0.2); "$@"', "bash")
    certmond(host, "renew", "--all", before=through)
    after = host.serials()
    assert {name for name in before if before[name] != after[name]} == before.keys()


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


def test_sudo_is_named(host: Host) -> None:
    """Who gave the command is in the trail: the user behind sudo, too."""
    if Path("/proc/self/loginuid").read_text() != str(2**32 - 1):
        pytest.skip("somebody logged in here, and the kernel's word goes before sudo's")
    certmond(host, "renew", "apiserver", SUDO_USER="alice")
    assert {entry["by"] for entry in host.audit()} == {"alice as root"}


def test_what_was_interrupted_is_finished_first(host: Host, quick: Path) -> None:
    """A renewal that was killed between key and certificate is finished before the next is planned, and that is told
    in the trail.
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


def test_forecast(host: Host) -> None:
    """`forecast` tells what is renewed when until then, as JSON, as a table with a chart; a shorter time tells less."""
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
    assert "In observe mode, as here, nothing of it is done" in certmond(host, "forecast").stdout
    assert not host.state.exists()


def test_archive_is_listed_and_restored(host: Host) -> None:
    """`archive list` shows every generation, `archive restore` puts one back and keeps what it replaced; `--dry-run`
    only says so; who did it is in the trail.
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
    assert dry.stdout.count("is put back as it was before") == 2
    assert [path.read_bytes() for path in pair] == new
    done = certmond(host, "archive", "restore", "apiserver", generation)
    assert (done.returncode, done.stdout) == (0, dry.stdout)
    assert [path.read_bytes() for path in pair] == old
    assert f"replaced by {generation}" in certmond(host, "archive", "list", "apiserver").stdout
    assert host.audit()[-1]["event"] == "step_done"
    assert host.audit()[-1]["by"] != "daemon"
    again = certmond(host, "archive", "restore", "apiserver", generation)
    assert (again.returncode, again.stdout) == (0, f"apiserver is as in {generation} already\n")
    unknown = certmond(host, "archive", "restore", "apiserver", "000009-20260101T000000Z")
    assert unknown.returncode == 3
    assert generation in unknown.stderr
    assert certmond(host, "archive", "restore", "nonsense").returncode == 3
    assert readable(host) == []


def test_a_name_of_which_nothing_is_kept_is_told(tmp_path: Path) -> None:
    """`archive list NAME` of which the archive has nothing says so, and what it has; the exit code is 3, and what there
    is of the other names is listed.
    """
    host = Host(tmp_path / "host", "apiserver")
    empty = certmond(host, "archive", "list", "apiserver")
    assert (empty.returncode, empty.stdout) == (3, "")
    assert "nothing is kept of apiserver; nothing was replaced yet" in empty.stderr
    assert certmond(host, "renew", "apiserver").returncode == 0
    listed = certmond(host, "archive", "list", "apisever", "apiserver")
    assert listed.returncode == 3
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["apiserver"]
    assert "nothing is kept of apisever; the archive has apiserver" in listed.stderr


def test_a_damaged_generation_is_told_and_blocks_no_other(tmp_path: Path) -> None:
    """`archive list` tells it on standard error, goes on, and exits with 2; `archive restore` puts back the one that is
    asked for.
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


@pytest.mark.real("strace")
@pytest.mark.parametrize("call", ["fsync", "renameat", "mkdir", "write"])
def test_any_call_fails_once(quick: Path, call: str) -> None:
    """Whichever call fails with an error of the disk, `renew` says truly what became of it: 0 with a new certificate,
    else the old one and a sentence why; and the next start ends in the same place.
    """
    host = Host(quick / "original", "apiserver", now=now())
    before = host.serials()
    twins = copies(host, quick)
    count = record(next(twins).start).count(f"entry {call}")
    codes = Counter[int]()
    for n in sorted({*range(1, count + 1, 2), *range(max(1, count - 5), count + 1)}):  # the last ones are memories only
        twin = next(twins)
        quickly = (real_part("strace"), "-f", "--seccomp-bpf", "-o", "/dev/null")  # of the other calls it hears nothing
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
