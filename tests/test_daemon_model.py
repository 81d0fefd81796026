"""The whole daemon against a model: any events on a node, in any order, with the daemon killed at any point.

After each step the files, metrics, status, journal and audit log agree, and only due certificates have changed. The
daemon is the real one, in this process, one pass at a time and with the clock of the test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.loop import Daemon
from certmond.daemon.pass_schedule import Cause
from certmond.notify.event_log import Event, Journal
from certmond.pki.assessment.key_mismatch_delay import REPAIR_WAIT, WAIT
from certmond.pki.x509.serial_number import hexadecimal
from tests.builders import DAY, HOUR, YEAR, Issued, make_ca, make_leaf, make_server
from tests.fuse import Killed, fuse
from tests.node_model import REPORTED, Leaf, ca_of, read
from tests.sampling import LONG
from tests.test_renewal import CA, ENTRIES, Host, kubeconfig

LEAVES = ("apiserver", "etcd-server", "admin.conf")
NAMES, EARLIER = st.sampled_from(LEAVES), st.sampled_from([timedelta(0), 30 * DAY, 300 * DAY, 2 * YEAR])
JUNK = st.sampled_from([b"", b"\0" * 40, b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
SERIES = re.compile(
    r'^certmond_(\w+)\{certificate="([^"]*)",path="[^"]*"(?:,reason="(\w+)",severity="(\w+)")?\} (\S+)$'
)
RESTS = 8
"""After so many passes in a row a daemon is at rest; else it is in a loop."""

Standing = set[tuple[str, str, str]]


class Reported(Journal):
    """A journal that derives the open findings from raised and cleared events."""

    def __init__(self) -> None:
        super().__init__("none")
        self.rotation_state: Standing = set()
        self.serials: dict[str, str] = {}

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        super().tell(event, message, level, **fields)
        kind = tuple(str(fields.get(name)) for name in ("certificate", "reason", "severity"))
        match event:
            case Event.FINDING_RAISED:
                assert kind not in self.rotation_state, "it is raised, although it is open already"
                self.rotation_state.add((kind[0], kind[1], kind[2]))
            case Event.FINDING_CLEARED:
                self.rotation_state.remove((kind[0], kind[1], kind[2]))
            case Event.CERTIFICATE_CHANGED:
                self.serials[str(fields["certificate"])] = str(fields["new_serial"])
            case _:
                pass


class Process:
    """A daemon from its start to its end: each `wake` is a pass, and all the passes that follow from it, until a writer
    that has replaced one half of a pair has had its time.
    """

    def __init__(self, host: Host, runtime: Path) -> None:
        self._host, self.journal = host, Reported()
        text, hours = yaml.safe_dump(host.document()), count()  # so that no event is omitted for its frequency
        self._daemon = Daemon(
            lambda: parse([Source("test", text)]), root=str(host.root), runtime_dir=runtime, state_dir=host.state,
            journal=self.journal, clock=lambda: host.now, monotonic=lambda: next(hours) * 3600.0,
        )  # fmt: skip

    def start(self) -> None:
        self._daemon._reconciler.recover()
        self._wake("start")
        self._wait_for_writers()

    def wake(self) -> None:
        self._wake("resync")
        self._wait_for_writers()

    def _wait_for_writers(self) -> None:
        acted = False
        for wait in (2 * WAIT, 2 * REPAIR_WAIT):
            self._host.now += wait
            acted = self._wake("deadline")
        while acted:  # a repaired file matches for a while before its finding is cleared
            self._host.now += 2 * WAIT
            acted = self._wake("deadline")

    def _wake(self, cause: str) -> bool:
        """Return whether a step was made."""
        for number in range(RESTS):
            self._daemon._pass(Cause(cause, None))
            self._daemon._execute()
            if not self._daemon._scan_again:
                return number > 0
            cause = "step"
        raise AssertionError("it does not become idle")

    def changes_at(self) -> datetime | None:
        """Return when its plan changes by time alone: a repeated repair, a failed attempt."""
        return self._daemon._reconciler.plan.changes_at

    def end(self) -> None:
        self._daemon._watcher.close()
        self._daemon._hooks.close()
        self._daemon._enforcer.surroundings_observer.close()
        self._daemon._acting_lock.release()  # like the kernel


class Node(RuleBasedStateMachine):
    """A CA and three leaves, and whatever operators, time and crashes do to them."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.host = Host(self.place, *LEAVES, key_algorithm="ECDSA-P256", root_ca={"on_change": "alarm"})
        self.runtime = self.place / "run"
        self.runtime.mkdir()
        self.signs = True
        self.archive_works = True
        self.aside: dict[str, Path] = {}
        self.process = Process(self.host, self.runtime)
        self.last_read: dict[str, x509.Certificate] = {}

    def teardown(self) -> None:
        self.process.end()
        shutil.rmtree(self.place)

    # Events

    @initialize()
    def begins(self) -> None:
        self._live(self.process.start)

    @rule(name=NAMES, age=EARLIER, life=st.sampled_from([HOUR, 90 * DAY, YEAR]), own_side=st.booleans())
    def operator_installs_a_leaf(self, name: str, age: timedelta, life: timedelta, own_side: bool) -> None:
        self._install(name, self.host.ca if own_side else make_ca(), self.host.now - age, life)
        self._live(self.process.wake)

    @rule(name=NAMES)
    def operator_removes_a_leaf(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self._live(self.process.wake)

    @rule(name=NAMES, junk=JUNK)
    def operator_breaks_a_leaf(self, name: str, junk: bytes) -> None:
        self._path(name).write_bytes(junk)
        self._live(self.process.wake)

    @rule(name=NAMES)
    def operator_moves_a_leaf_away_or_back(self, name: str) -> None:
        path, aside = self._path(name), self._path(name).with_name(f"{name}.aside")
        if aside.exists():
            aside.rename(path)
        elif path.exists():
            path.rename(aside)
        self._live(self.process.wake)

    @rule(name=st.sampled_from(["apiserver", "etcd-server"]), there=st.booleans())
    def operator_changes_a_key(self, name: str, there: bool) -> None:
        path = self.host.at(ENTRIES[name]["key"])
        path.unlink(missing_ok=True)
        if there:
            self.host.put(ENTRIES[name]["key"], make_leaf(self.host.ca).key_pem, 0o600)
        self._live(self.process.wake)

    @rule(passed=st.sampled_from([timedelta(minutes=1), HOUR, 20 * DAY, 150 * DAY, 400 * DAY]))
    def time_passes(self, passed: timedelta) -> None:
        self.host.now += passed
        self._live(self.process.wake)

    @rule()
    def operator_replaces_the_ca(self) -> None:
        self.host.ca = make_ca(not_before=self.host.now - DAY, not_after=self.host.now + 9 * YEAR)
        self.host.put(CA["path"], self.host.ca.pem)
        self.host.put(CA["key"], self.host.ca.key_pem, 0o600)
        self.signs = True
        self._live(self.process.wake)

    @rule()
    def the_ca_loses_its_key_or_has_it_again(self) -> None:
        self.signs = not self.signs
        self.host.put(CA["key"], self.host.ca.key_pem if self.signs else b"junk", 0o600)
        self._live(self.process.wake)

    @rule()
    def nothing_can_be_kept_or_it_can_again(self) -> None:
        self.archive_works = not self.archive_works
        archive, kept = self.host.state / "archive", self.host.state / "archive.kept"
        if self.archive_works:
            archive.unlink()
            if kept.exists():
                kept.rename(archive)
        else:
            if archive.exists():
                archive.rename(kept)
            self.host.state.mkdir(mode=0o700, exist_ok=True)
            archive.touch(mode=0o600)
        self._live(self.process.wake)

    @rule(calls=st.integers(0, 120), passed=st.sampled_from([timedelta(0), 300 * DAY]))
    def the_daemon_is_killed_and_started(self, calls: int, passed: timedelta) -> None:
        self.host.now += passed
        before = self._leaves(), self._others()
        try:
            with fuse(calls):
                self.process.wake()
        except Killed:
            pass
        self.process.end()
        self.process = Process(self.host, self.runtime)
        self.last_read = {}
        self._live(self.process.start, before)

    @rule()
    def nothing_happens(self) -> None:
        files, waits = self._files(), self.process.changes_at()
        self._live(self.process.wake)
        assert self._files() == files or (waits and waits <= self.host.now), "nothing was waited for"

    # Invariants

    def _live(self, step: Any, before: tuple[dict[str, Leaf], dict[str, bytes]] | None = None) -> None:
        """A step of the daemon; whatever it has changed, it may have changed."""
        found, others = before or (self._leaves(), self._others())
        step()
        assert self._others() == others, "it has changed a file that it did not issue"
        begun, done = self._trail("step_begun", "old_serial"), self._trail("step_done", "new_serial")
        leaves = self._leaves()
        self.last_read |= {name: leaf.certificate for name, leaf in leaves.items() if leaf.certificate}
        for name, leaf in leaves.items():
            old = found[name]
            if leaf.certificate == old.certificate:
                continue
            assert leaf.certificate, f"{name} was replaced by what cannot be read"
            if not (old.certificate and old.key_there and old.key_fits):
                assert leaf.key_there, f"{name} was damaged, and was restored without its key"
                assert leaf.key_fits, f"{name} was damaged, and was restored with another key"
                continue
            assert self._renewable(old), f"{name} was renewed before its time"
            assert self.archive_works, f"{name} was replaced, and what was there is not kept"
            assert leaf.wrong(ca_of(self.host.root, CA), self.host.now) == set()
            assert leaf.certificate.subject == old.certificate.subject
            replaced = hexadecimal(old.certificate.serial_number)
            made = hexadecimal(leaf.certificate.serial_number)
            assert (name, replaced) in begun, f"{name} was replaced, and that was not begun"
            if before is None:  # a killed process may not have recorded its result
                assert (name, made) in done, f"{name} was replaced, without a report"

    def _renewable(self, leaf: Leaf) -> bool:
        """Return whether the certificate is due or outside its dates."""
        assert leaf.certificate
        start, end = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
        earliest = end - min(30 * DAY, (end - start) / 3) - min(3 * DAY, (end - start) / 20)
        return self.host.now >= earliest or self.host.now < start

    @invariant()
    def metrics_status_and_journal_say_what_is_on_the_disk(self) -> None:
        ca = ca_of(self.host.root, CA)
        metrics, status = list(self._series()), self._status()
        stands = {(name, reason, severity) for family, name, reason, severity, _ in metrics if family == "finding"}
        assert stands == {
            (each["name"], item["reason"], item["severity"]) for each in status.values() for item in each["findings"]
        }
        assert stands == self.process.journal.rotation_state
        for name, leaf in self._leaves().items():
            ends = [value for family, which, *_, value in metrics if (family, which) == (NOT_AFTER, name)]
            certificate = leaf.certificate or self.last_read.get(name)
            assert ends == ([certificate.not_valid_after_utc.timestamp()] if certificate else [])
            assert status[name]["serial"] == (str(certificate.serial_number) if certificate else None)
            reported = {item["reason"] for item in status[name]["findings"]}
            assert reported & REPORTED == leaf.wrong(ca, self.host.now), name

    @invariant()
    def what_can_be_renewed_is(self) -> None:
        if not (self.signs and self.archive_works):
            return
        for name, leaf in self._leaves().items():
            if leaf.certificate and self.host.now > leaf.certificate.not_valid_after_utc:
                held = {
                    each["target"] for each in json.loads((self.runtime / "activity.json").read_text())["plan"]["held"]
                }
                assert name in held, f"{name} has expired, and nothing is done about it"

    @invariant()
    def nothing_is_left_behind(self) -> None:
        assert self.host.temporary() == []

    # Access to the state

    def _path(self, name: str) -> Path:
        return self.host.at(ENTRIES[name]["path"])

    def _install(self, name: str, ca: Issued, start: datetime, life: timedelta) -> None:
        entry = ENTRIES[name]
        make = make_server if "server auth" in entry["usages"] else make_leaf
        subject = entry["subject"].removeprefix("CN=")
        leaf = make(ca, subject, not_before=start, not_after=start + life, extended_usages=entry["usages"])
        if entry.get("kind") == "kubeconfig":
            self.host.put(entry["path"], kubeconfig(self.host.ca, leaf), 0o600)
        else:
            self.host.put(entry["path"], leaf.pem)
            self.host.put(entry["key"], leaf.key_pem, 0o600)

    def _leaves(self) -> dict[str, Leaf]:
        return {name: read(self.host.root, ENTRIES[name]) for name in LEAVES}

    def _files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.host.root.rglob("*") if path.is_file()}

    def _others(self) -> dict[str, bytes]:
        own = {
            str(self.host.at(ENTRIES[name][field]))
            for name in LEAVES
            for field in ("path", "key")
            if field in ENTRIES[name]
        }
        return {path: content for path, content in self._files().items() if path not in own}

    def _trail(self, event: str, serial: str) -> set[tuple[str, str]]:
        """(entry, serial number) of the trail's lines of this kind."""
        log = self.host.state / "audit.log"
        lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
        return {(each["target"], each[serial]) for each in lines if each["event"] == event and serial in each}

    def _series(self) -> Iterator[tuple[str, str, str, str, float]]:
        for line in (self.runtime / "metrics.prom").read_text().splitlines():
            if found := SERIES.match(line):
                yield found[1], found[2], found[3], found[4], float(found[5])

    def _status(self) -> dict[str, dict[str, Any]]:
        return {
            entry["name"]: entry for entry in json.loads((self.runtime / "status.json").read_text())["certificates"]
        }


NOT_AFTER = "certificate_not_after_timestamp_seconds"

THOROUGH = settings.get_current_profile_name() == "thorough"

TestNode = Node.TestCase
TestNode.settings = settings(
    max_examples=settings().max_examples if THOROUGH else 12 if LONG else 3,
    stateful_step_count=40 if THOROUGH else 15,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
