"""While the daemon executes a long plan, it still observes the node and publishes the state."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certmond.daemon import reconciler as acting
from certmond.daemon.enforcer import Enforcer
from certmond.daemon.loop import Daemon
from certmond.daemon.reconciler import Reconciler
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event, Journal
from certmond.state.archive import Archive
from certmond.state.renewals import Ledger
from certmond.transaction.commit import Transactions
from tests.builders import DAY, YEAR, make_ca, make_leaf
from tests.daemon.test_enforcer import Gate, enforcing, in_process, renewed
from tests.deadline import DEADLINE
from tests.test_renewal import ENTRIES, Helper, Host, now

DAMAGED = 'certmond_finding{certificate="apiserver",path="/etc/kubernetes/pki/apiserver.crt",reason="malformed"'


class Steps:
    """A clock on which each reading is a second later than the last: a slice has time for one step."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += acting.SLICE
        return self.seconds


def hand(host: Host, **more: Any) -> tuple[Reconciler, Any]:
    """Return the object that acts for the daemon in slices of one step, and its enforcer."""
    enforcer = host.enforcer()
    made = Reconciler(
        enforcer, Journal("none"), Telemetry("enforce"), enforcing=True, stopping=lambda: False,
        **{"monotonic": Steps(), **more},
    )  # fmt: skip
    return made, enforcer


def test_the_retention_of_the_archive_notifies_the_watchdog(tmp_path: Path) -> None:
    """An archive can have thousands of names, so the executor reports its progress at each name."""
    host = Host(tmp_path / "host", "apiserver", "kubelet-client")
    host.start()
    calls = list[None]()
    enforcer = Enforcer(
        host.config, root=str(host.root), state_dir=host.state, audit=Audit(Journal("none"), host.state, "daemon"),
        clock=lambda: host.now, alive=lambda: calls.append(None),
    )  # fmt: skip
    names = len([*Archive(host.state).names()])
    assert names > 1
    enforcer.executor.tidy()
    assert len(calls) >= names


class Damaging(Journal):
    """Damages a file after the first renewal, and records at each start of a step whether the metrics show that."""

    def __init__(self, host: Host, metrics: Path) -> None:
        super().__init__("none")
        self._host, self._metrics = host, metrics
        self.shown: list[bool] = []
        self.damaged = False

    def tell(self, event: Event, message: str, level: str = "info", **fields: object) -> None:
        super().tell(event, message, level, **fields)
        if event is Event.STEP_DONE and not self.damaged:
            self.damaged = True
            self._host.put(ENTRIES["apiserver"]["path"], b"damaged")
        if event is Event.STEP_BEGUN:
            self.shown.append(DAMAGED in self._metrics.read_text())


def test_damage_is_published_before_the_last_renewal_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that breaks after the first of many renewals is in the metrics before the last one begins, and all
    are made.
    """
    monkeypatch.setattr(acting, "SLICE", 0.0)
    host = Host(tmp_path / "host", now=now())
    journal = Damaging(host, host.place / "run" / "metrics.prom")
    daemon = Daemon(
        lambda: host.config, root=str(host.root), runtime_dir=host.place / "run", state_dir=host.state, journal=journal
    )

    def script() -> None:
        for _ in range(int(DEADLINE / 0.02)):
            metrics = host.place / "run" / "metrics.prom"
            if journal.damaged and metrics.exists() and 'planned_steps{step="issue"} 0.0' in metrics.read_text():
                return
            pause.wait(0.02)
        raise AssertionError("never done")

    pause = threading.Event()
    with in_process(daemon, script):
        pass
    assert len(journal.shown) == len(ENTRIES)
    assert journal.shown[0] is False
    assert journal.shown[-1] is True


@pytest.mark.long
def test_damage_is_published_while_a_command_writes(tmp_path: Path) -> None:
    """While another process holds the lock, such as `certmond renew --all`, the daemon observes and publishes."""
    host = Host(tmp_path / "host", now=now())
    with enforcing(host) as daemon:
        daemon.until(lambda: daemon.number('certmond_planned_steps{step="issue"}') == 0, "at rest")
        with Transactions(str(host.root), host.state).lock(DEADLINE):
            host.put(ENTRIES["apiserver"]["path"], b"damaged")
            daemon.until(lambda: daemon.reasons("apiserver"), "seen")


def test_files_read_beside_their_writers_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a scan has no time to wait for the writer of a file, another scan of it follows without an event."""
    monkeypatch.setattr("certmond.files.cache._MAX_PAUSES", 0)
    for module in ("consistent_read", "cache_entry"):
        monkeypatch.setattr(f"certmond.files.{module}.TICK", 10**15)
    host = Host(tmp_path / "host", "apiserver", now=now())
    metrics = host.place / "run" / "metrics.prom"
    daemon = Daemon(
        lambda: host.config, root=str(host.root), runtime_dir=host.place / "run", state_dir=host.state,
        journal=Journal("none"),
    )  # fmt: skip

    def passes() -> int:
        text = metrics.read_text() if metrics.exists() else ""
        found = re.search(r'certmond_passes_total{cause="inotify"} (\d+)', text)
        return int(found[1]) if found else 0

    def script() -> None:
        pause = threading.Event()
        for _ in range(int(DEADLINE / 0.02)):
            if 'planned_steps{step="issue"} 0.0' in (metrics.read_text() if metrics.exists() else ""):
                break
            pause.wait(0.02)
        before = passes()
        host.put(ENTRIES["apiserver"]["path"], b"damaged")
        for _ in range(int(DEADLINE / 0.02)):
            if passes() > before + 4:
                return
            pause.wait(0.02)
        raise AssertionError("no look followed")

    with in_process(daemon, script):
        pass


@pytest.mark.long
@pytest.mark.real("openssl")
def test_damage_is_published_while_a_signer_waits(tmp_path: Path) -> None:
    """While the daemon waits for a signer, it scans and publishes changes elsewhere on the node. It acts on them after
    the step, also if the step failed.
    """
    host = Host(tmp_path / "host", "apiserver", now=now())
    host.entries["etcd-server"] = dict(ENTRIES["etcd-server"])
    gate = Gate(host)
    gate.stand_before("apiserver")
    gate.helper.answers(2, "no")
    try:
        with enforcing(host) as daemon:
            daemon.until(gate.reached, "in the middle of a step")
            assert daemon.reasons("etcd-server") == {"missing"}
            host.put(ENTRIES["etcd-server"]["path"], b"damaged")
            daemon.until(lambda: "malformed" in daemon.reasons("etcd-server"), "the daemon reports the damage")
            host.install("etcd-server")
            daemon.until(lambda: "malformed" not in daemon.reasons("etcd-server"), "the daemon reports the new file")
            assert gate.asked.read_text().count("\n") == 1
            assert renewed(daemon, "etcd-server") == 0
            gate.open()
            daemon.until(lambda: renewed(daemon, "etcd-server"), "what came is renewed")
            assert renewed(daemon, "apiserver", "failed") == 1
    finally:
        gate.close()


def test_a_slice_is_bounded_and_the_next_pass_continues(tmp_path: Path) -> None:
    """When its time is over, no further step begins, and another scan follows at once. Each step is made once."""
    host = Host(tmp_path / "host")
    before = host.serials()
    made, enforcer = hand(host)
    for number in range(1, len(ENTRIES) + 1):
        made.make_plan(*enforcer.see())
        assert made.execute()
        assert sum(before[name] != serial for name, serial in host.serials().items()) == number
    made.make_plan(*enforcer.see())
    assert made.plan.steps == ()
    assert host.unwell() == []


def test_nothing_is_restarted_before_the_last_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts and the next phase of a rotation wait until no write of the plan is left, over all of its slices."""
    host = Host(tmp_path / "host")
    made, enforcer = hand(host)
    left: list[int] = []
    monkeypatch.setattr(enforcer, "restart", lambda plan, *_: left.append(len(plan.writes)))
    monkeypatch.setattr(enforcer, "rotate", lambda *_: left.append(len(_[-1].writes)))
    for _ in range(len(ENTRIES) + 1):
        made.make_plan(*enforcer.see())
        made.execute()
    assert left == [0, 0]


def flooded(host: Host) -> Callable[[], None]:
    """Give the host a pattern before its other entries; each call puts a due certificate there under a new name."""
    pattern = {"path": "/srv/apps/*.pem", "key": "/srv/apps/*.pem", "subject": "CN=app", "usages": ["client auth"]}
    host.entries = {"apps": pattern, **host.entries}
    leaf, numbers = make_leaf(host.ca, "app", not_before=host.now - YEAR, not_after=host.now + DAY), itertools.count()

    def add() -> None:
        for _ in range(2):
            host.put(f"/srv/apps/{next(numbers):04d}.pem", leaf.pem + leaf.key_pem, 0o600)

    return add


def test_ever_new_names_in_a_pattern_keep_no_other_entry_waiting(tmp_path: Path) -> None:
    """While a pattern has new certificates to renew in each pass, every other entry still gets its step."""
    host = Host(tmp_path / "host", "apiserver", "etcd-server")
    before, add = host.serials(), flooded(host)
    made, enforcer = hand(host)
    for _ in range(3):
        add()
        made.make_plan(*enforcer.see())
        assert made.execute()
    after = host.serials()
    assert all(after[name] != before[name] for name in before)


@pytest.mark.long
def test_ever_new_names_in_a_pattern_keep_no_restart_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a pattern has new certificates to renew in each pass, restarts and a rotation still run after every other
    entry has had its step.
    """
    host = Host(tmp_path / "host", "apiserver", "etcd-server")
    add = flooded(host)
    made, enforcer = hand(host)
    turns: list[tuple[str, set[str]]] = []
    for name in ("restart", "rotate"):
        monkeypatch.setattr(enforcer, name, lambda *_, name=name: turns.append((name, planned())))

    def planned() -> set[str]:
        return {step.target for step in made.plan.writes}

    for _ in range(2 * int(acting.FILE_STEP_TIME)):
        add()
        made.make_plan(*enforcer.see())
        made.execute()
    assert turns[:2] == [("restart", {"apps"}), ("rotate", {"apps"})]


@pytest.mark.real("openssl")
def test_a_step_that_fails_keeps_no_other_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a step failed and the failure was not even recorded, the next slice follows at once. The failed step is tried
    again after the round.
    """
    helper = Helper(tmp_path / "helper", make_ca())
    signer = {"name": "site", "kind": "command", "command": [str(helper.script)], "time_limit": "10m"}
    host = Host(tmp_path / "host", "apiserver", "etcd-server", "admin.conf", signers=[signer])
    host.entries["apiserver"] |= {"signer": "site"}
    helper.answers(2, "no")
    made, enforcer = hand(host)
    monkeypatch.setattr(enforcer.executor, "_record_failure", lambda *_: None)
    assert [step.target for step in host.plan().steps] == ["apiserver", "etcd-server", "admin.conf"]
    for _ in range(2):
        made.make_plan(*enforcer.see())
        assert made.execute()
        assert made.retry_at is None
    made.make_plan(*enforcer.see())
    assert made.execute()
    assert made.retry_at is not None
    assert len(helper.calls()) == 1
    assert [step.target for step in host.plan().steps] == ["apiserver"]


def test_what_a_killed_slice_has_renewed_is_not_renewed_again(tmp_path: Path) -> None:
    """A process that is killed in the middle of a slice has noted each renewal before: also those that are due again at
    once, as where the CA ends soon, are not made again.
    """
    host = Host(tmp_path / "host", "apiserver", "etcd-server", "admin.conf", validity="20d")
    before = host.serials()
    begun = 0

    def killed() -> bool:
        nonlocal begun
        begun += 1
        if begun == 3:
            os._exit(9)
        return False

    if (child := os.fork()) == 0:
        enforcer = host.enforcer()
        enforcer.executor.execute(enforcer.plan(host.look()), stopping=killed)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    half = host.serials()
    renewed = {name for name in half if half[name] != before[name]}
    assert len(renewed) == 2
    assert {name for name, attempt in host.attempts().items() if attempt.sha256} == renewed
    host.now += timedelta(seconds=2)
    assert {outcome.step.target for outcome in host.start()} == half.keys() - renewed
    assert (host.state / "renewals.json").exists()
    assert not (host.state / "renewals.log").exists()
    assert Ledger(host.state).attempts().keys() >= {(name, ENTRIES[name]["path"]) for name in half}
