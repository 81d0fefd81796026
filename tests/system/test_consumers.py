"""Services that hold an old certificate, under a real systemd: each takes up the new one, once, and is proven to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

from tests.builders import Issued, make_ca
from tests.conftest import real_part
from tests.system.consumers import DAEMON, FAILED, RELOADED, STARTED, UNITS, Change, Consumers, ending_in, outage
from tests.system.machine import booted, install

pytestmark = [pytest.mark.real(name) for name in ("systemd", "nginx", "haproxy", "etcd")]

SERVICES = {"web": "nginx", "lb": "haproxy", "app": "reader"}
"""Those that read once, by their certificate."""
ACTS = {"web": (0, 1), "lb": (1, 0), "app": (1, 0), "etcd-server": (0, 0)}
"""How often each is restarted and reloaded for a new certificate."""


@pytest.fixture(scope="module")
def booted_consumers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumers]:
    for part in ("nginx", "haproxy", "etcd"):
        real_part(part)
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        install(machine)
        consumers = Consumers(machine)
        consumers.install()
        machine.systemctl("start", DAEMON)
        yield consumers


@pytest.fixture
def consumers(booted_consumers: Consumers) -> Consumers:
    """All of them run, on the certificates that are on disk, and the daemon has nothing to do. The archive contains the
    files of the service that refuses new files, because a rollback restores the last archived ones.
    """
    machine = booted_consumers.machine
    machine.systemctl("start", DAEMON, *UNITS.values())
    for name in UNITS:
        machine.until(partial(booted_consumers.is_served, name), f"{name} served")
    machine.until(lambda: not booted_consumers.metric('certmond_planned_steps{step="restart"}'), "nothing is planned")
    machine.until(partial(booted_consumers.is_archived, "fussy"), "the files of fussy are archived")
    return booted_consumers


# --- A new certificate, in any way ------------------------------------------------------------------------------------


def assert_taken_up(consumers: Consumers, changes: list[Change]) -> None:
    """Each of the certificates is served, for each service was restarted or reloaded exactly once, with a proof."""
    for change in changes:
        if change.name in SERVICES:
            ended = consumers.ended(SERVICES[change.name], change.at)
            assert ended["result"] == "proven", ended
            seconds = (datetime.fromisoformat(ended["at"]) - change.at).total_seconds()
            print(f"{change.name}: proven {seconds:.1f} s after the change")  # noqa: T201 - a figure, with -rP
    consumers.passes(2)
    for change in changes:
        acts = [line["event"] for line in consumers.trail(SERVICES.get(change.name, "etcd"), change.at)]
        started, reloaded = (consumers.count(change.name, kind, change.at) for kind in (STARTED, RELOADED))
        assert consumers.is_served(change.name), change.name
        assert (started, reloaded) == ACTS[change.name], change.name
        assert (consumers.instance(change.name) == change.instance) == (started == 0), change.name
        assert acts == (["step_begun", "step_done"] if change.name in SERVICES else []), change.name
        assert not consumers.findings(change.name).keys() & {"served_differs", "restart_pending", "restart_failed"}
    assert consumers.machine.property("idle.service", "ActiveState") == "inactive"
    assert not consumers.trail("idle", changes[0].at)


@pytest.mark.long
@pytest.mark.parametrize("way", [Consumers.in_place, Consumers.rename])
def test_a_new_certificate_is_used_by_each_service_after_one_restart(
    consumers: Consumers,
    way: Callable[[Consumers, str, Issued], Change],
) -> None:
    """The way of the write does not matter. A service that reads once is restarted once, or reloaded if configured.
    etcd reloads its pair and is left alone, and so is a stopped service.
    """
    names = ("web", "lb", "app", "etcd-server")
    minted = {name: consumers.mint(name) for name in names}
    changes = [way(consumers, name, issued) for name, issued in minted.items()]
    assert_taken_up(consumers, changes)


@pytest.mark.long
def test_a_renewal_of_the_daemon_restarts_each_service_once(consumers: Consumers) -> None:
    """A due certificate is renewed first, and then each service is restarted once for the new one."""
    # Before anything is renewed by hand: the daemon renews nothing twice within an hour.
    minted = {name: consumers.mint(name, days=20) for name in ("web", "lb", "app", "etcd-server")}
    changes = [consumers.rename(name, issued) for name, issued in minted.items()]
    assert_taken_up(consumers, changes)
    for name, issued in minted.items():
        assert consumers.on_disk(name) != issued.facts.sha256
        assert len(consumers.trail(name, changes[0].at, step="issue")) >= 2


@pytest.mark.long
def test_what_is_renewed_by_hand_is_taken_up_once(consumers: Consumers) -> None:
    """`certmond renew` brings what it renews into use, and the daemon that looks on does not do so again."""
    before = {name: consumers.on_disk(name) for name in ("web", "lb", "app", "etcd-server")}
    at, instances = datetime.now(UTC), {name: consumers.instance(name) for name in before}
    said = consumers.machine.run("certmond", "renew", *before)
    assert all(consumers.on_disk(name) != old for name, old in before.items()), said
    assert_taken_up(consumers, [Change(name, at, instances[name]) for name in before])


@pytest.mark.long
def test_another_trusted_ca_restarts_nothing(consumers: Consumers) -> None:
    """etcd reads the CA that it trusts once. A new one is reported, but all nodes must have it first: no restart."""
    change = consumers.trust(make_ca("another", **ending_in(3650)))
    try:
        consumers.machine.until(lambda: "restart_pending" in consumers.findings("etcd-ca"), "reported")
        consumers.passes(2)
        assert consumers.instance("etcd-server") == change.instance
        held = [line for line in consumers.trail("etcd", change.at, step=None) if line["event"] == "step_held"]
        assert "a rotation instead of a restart" in held[0]["message"]
    finally:
        consumers.trust()
    # As it was, but to whom knows no digests it looks new.
    consumers.machine.systemctl("restart", UNITS["etcd-server"])


# --- A certificate that does not do -----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_certificate_that_a_service_refuses_is_rolled_back(consumers: Consumers) -> None:
    """A service that does not start with a new certificate is tried again, then gets the old files back and runs with
    them. The finding is critical, and nothing more is done until a good certificate is there.
    """
    before, good = consumers.on_disk("fussy"), consumers.mint("fussy")
    taken_back = 'certmond_restarts_total{result="taken_back",service="fussy"}'
    with consumers.client("fussy") as seen:
        change = consumers.rename("fussy", consumers.mint("fussy", needed=False))
        ended = consumers.ended("fussy", change.at)
        assert ended["result"] == "taken_back", ended
    print(f"fussy: no client was served for {outage(seen):.2f} s")  # noqa: T201 - a figure, with -rP
    assert consumers.on_disk("fussy") == consumers.served("fussy") == before
    consumers.machine.until(lambda: "restart_failed" in consumers.findings("fussy"), "reported")
    assert consumers.findings("fussy") == {"restart_failed": "critical"}
    assert consumers.metric(taken_back) == 1
    consumers.passes(5)
    assert (consumers.count("fussy", STARTED, change.at), consumers.count("fussy", FAILED, change.at)) == (1, 2)
    assert consumers.findings("fussy") == {"restart_failed": "critical"}

    change = consumers.rename("fussy", good)
    assert consumers.ended("fussy", change.at)["result"] == "proven"
    consumers.machine.until(lambda: not consumers.findings("fussy"), "over")
    assert consumers.served("fussy") == good.facts.sha256


@pytest.mark.long
def test_a_port_that_is_taken_for_a_while_costs_one_more_try(consumers: Consumers) -> None:
    """What kept a service down and is over at the second try is no reason to take anything back."""
    with consumers.intruder("pushed", ends=2):
        change = consumers.rename("pushed", consumers.mint("pushed"))
        assert consumers.ended("pushed", change.at)["result"] == "proven"
    assert (consumers.count("pushed", STARTED, change.at), consumers.count("pushed", FAILED, change.at)) == (1, 1)
    assert consumers.is_served("pushed")


@pytest.mark.long
def test_a_port_that_stays_in_use_is_left_to_the_operator(consumers: Consumers) -> None:
    """A service that starts with neither certificate is critical, has the old files, and is not tried again. After the
    operator has repaired it, another certificate is a new attempt.
    """
    before, good = consumers.on_disk("pushed"), consumers.mint("pushed")
    with consumers.intruder("pushed", ends=99):
        change = consumers.rename("pushed", consumers.mint("pushed"))
        ended = consumers.ended("pushed", change.at)
        assert ended["result"] == "failed", ended
        consumers.machine.until(lambda: "restart_failed" in consumers.findings("pushed"), "reported")
        consumers.passes(3)
        assert consumers.findings("pushed") == {"restart_failed": "critical"}
        assert (consumers.count("pushed", STARTED, change.at), consumers.count("pushed", FAILED, change.at)) == (0, 3)
        assert consumers.on_disk("pushed") == before
    consumers.machine.systemctl("start", UNITS["pushed"])
    change = consumers.rename("pushed", good)
    assert consumers.ended("pushed", change.at)["result"] == "proven"
    consumers.machine.until(lambda: not consumers.findings("pushed"), "over")


# --- A daemon that is killed ------------------------------------------------------------------------------------------

STATE, RESTARTS, FILES = "/var/lib/certmond", "restarts.json", "/etc/tls"


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "when", "stage", "acts"),
    [
        (("fsync", STATE), 2, "act", 0),  # of the directory, after the record that it is about to be restarted
        (("renameat", RESTARTS), 2, "act", 1),  # of the record that it was restarted
        (("renameat", RESTARTS), 4, "prove", 1),  # of a record while it is proven
    ],
)
def test_a_daemon_that_is_killed_in_a_restart_goes_on_with_it(
    consumers: Consumers, at: tuple[str, str], when: int, stage: str, acts: int
) -> None:
    """The daemon is killed before the restart, after it, or before its proof. The next daemon completes the restart,
    and the service is restarted once.
    """
    with consumers.daemon_dies(*at, when):
        change = consumers.rename("app", consumers.mint("app"))
    assert consumers.episode("reader")["stage"] == stage
    assert consumers.count("app", STARTED, change.at) == acts
    assert consumers.ended("reader", change.at)["result"] == "proven"
    consumers.passes(2)
    assert consumers.is_served("app")
    assert consumers.count("app", STARTED, change.at) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "when", "stage"),
    [
        (RESTARTS, 2, "act"),  # of the record of the restart without an effect
        (FILES, 2, "put_back"),  # the old key is in its place, the certificate is not
        (RESTARTS, 6, "put_back"),  # of the record that both are
    ],
)
def test_a_daemon_that_is_killed_during_a_rollback_continues_it(
    consumers: Consumers, path: str, when: int, stage: str
) -> None:
    """The daemon is killed while a service that refuses the new certificate is down, or while the old one is restored:
    the next daemon restores both files, and restarts the service with them once.
    """
    before = consumers.on_disk("fussy")
    with consumers.daemon_dies("renameat", path, when):
        change = consumers.rename("fussy", consumers.mint("fussy", needed=False))
    assert consumers.episode("fussy")["stage"] == stage
    assert consumers.ended("fussy", change.at)["result"] == "taken_back"
    consumers.passes(2)
    found = consumers.served("fussy"), consumers.on_disk("fussy")
    assert found == (before, before), consumers.history()
    assert (consumers.count("fussy", STARTED, change.at), consumers.count("fussy", FAILED, change.at)) == (1, 2)


@pytest.mark.long
def test_a_service_that_is_stopped_before_its_restart_stays_stopped(consumers: Consumers) -> None:
    """An operator stops the service between decision and act: it stays stopped, also at the end."""
    machine = consumers.machine
    with machine.drop_in(DAEMON, "Restart=no"):
        with consumers.daemon_dies("fsync", STATE, 2):
            change = consumers.rename("app", consumers.mint("app"))
        assert consumers.episode("reader")["stage"] == "act"
        machine.systemctl("stop", UNITS["app"])
    machine.systemctl("start", DAEMON)
    ended = consumers.ended("reader", change.at)
    assert ended["result"] == "refused"
    assert "is not running" in ended["message"]
    consumers.passes(2)
    assert machine.property(UNITS["app"], "ActiveState") == "inactive"
    assert consumers.count("app", STARTED, change.at) == 0


@pytest.mark.long
def test_a_service_that_is_stopped_during_its_proof_stays_stopped(consumers: Consumers) -> None:
    """It is not restarted as if its new certificate were the cause. The message reports it, and leaves it to the
    operator.
    """
    machine = consumers.machine
    with consumers.endless_proof():
        change = consumers.rename("app", consumers.mint("app"))
        machine.until(lambda: consumers.episode("reader").get("instances"), "it runs again")
        machine.systemctl("stop", UNITS["app"])
        ended = consumers.ended("reader", change.at)
    assert (ended["result"], "was stopped by another program or user" in ended["message"]) == ("refused", True)
    consumers.passes(2)
    assert machine.property(UNITS["app"], "ActiveState") == "inactive"
    assert consumers.count("app", STARTED, change.at) == 1
    assert "restart_failed" not in consumers.findings("app")
