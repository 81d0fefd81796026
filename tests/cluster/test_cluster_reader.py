"""The reader of the cluster: one node by a Lease, in a thread, with the rights of config/rbac.yaml."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.cluster.api_access import Access
from certmond.cluster.certificate_listing import listing
from certmond.controllers.cluster_objects.cluster_certificate_reader import (
    LEASE,
    ClusterReader,
    ListingSchedule,
    ReaderTerms,
    ReadingRounds,
)
from certmond.pki.assessment.cluster_rules import cluster_state
from certmond.pki.services.cluster_objects import ClusterReading, ClusterState, Listing, Place
from tests.builders import DAY, NOW, make_leaf
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.leaks import leaks
from tests.cluster.rbac import Rbac
from tests.cluster.test_certificate_listing import CA, LEAF, add_secret
from tests.daemon_harness import running as running_daemon
from tests.deadline import DEADLINE

MINUTE = timedelta(minutes=1)


class Node:
    """The rounds of one node. `pass_by` moves the clocks of all nodes of a test."""

    seconds = 1000.0

    def __init__(self, access: Access, name: str, **terms: Any) -> None:
        self.terms = replace(
            ReaderTerms(access.kubeconfig, name, (), 5 * MINUTE, 4 * MINUTE, 30 * DAY),
            **terms,
        )
        self.rounds = ReadingRounds(
            self.terms, alive=access.alive, clock=lambda: NOW + timedelta(seconds=Node.seconds),
            monotonic=lambda: Node.seconds,
        )  # fmt: skip

    def round(self) -> ClusterReading:
        self.rounds.round()
        return self.rounds.published.reading

    @staticmethod
    def pass_by(span: timedelta) -> None:
        Node.seconds += span.total_seconds()


@pytest.fixture(autouse=True)
def _clock() -> None:
    Node.seconds = 1000.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time limit pass on a busy machine."""
    monkeypatch.setattr("certmond.controllers.cluster_objects.cluster_certificate_reader._ANSWER", MINUTE)


@pytest.fixture
def reader(cluster: ApiServer, access: Access) -> Access:
    """The access of a reader with the permission to list Secrets, in a cluster with one Secret."""
    assert cluster.rbac
    cluster.rbac.bind_reader()
    cluster.rbac.bind("certmond-reader-secrets", "certmond")
    add_secret(cluster, "web")
    return access


def listed(cluster: ApiServer) -> int:
    return sum("/secrets" in each for each in cluster.calls)


def test_one_node_reads_for_the_cluster(cluster: ApiServer, reader: Access) -> None:
    """Of two nodes, only the holder of the Lease lists the objects. The other node reads the Lease only."""
    one, two = Node(reader, "node-1"), Node(reader, "node-2")
    reading = one.round()
    assert (reading.leads, [each.place.where for each in reading.data]) == (
        True, ["tls.crt in the Secret default/web"],
    )  # fmt: skip
    cluster.calls.clear()
    assert two.round() == ClusterReading()
    assert [each for each in cluster.calls if "leases" not in each] == []


@pytest.mark.long
def test_another_node_takes_over_after_the_duration_of_the_lease(reader: Access) -> None:
    """The former holder no longer exports anything, even if it does not learn of the new holder."""
    one, two = Node(reader, "node-1"), Node(reader, "node-2")
    assert (one.round().leads, two.round().leads) == (True, False)
    Node.pass_by(3 * MINUTE)
    assert not two.round().leads
    Node.pass_by(2 * MINUTE)
    assert one.rounds.published.until < Node.seconds
    assert two.round().leads
    assert one.round() == ClusterReading()


@pytest.mark.long
def test_the_holder_reads_at_its_interval(cluster: ApiServer, reader: Access) -> None:
    """Between two readings, the holder renews the Lease, and the reading stays the same object."""
    node = Node(reader, "node-1", interval=10 * MINUTE)
    first = node.round()
    for count in range(15):
        Node.pass_by(timedelta(seconds=39))
        assert node.round() is first, count
    Node.pass_by(timedelta(seconds=39))
    add_secret(cluster, "new")
    assert [each.place.name for each in node.round().data] == ["new", "web"]
    assert 0 < node.rounds.round() <= 40


@pytest.mark.long
def test_a_failed_list_is_repeated_soon(cluster: ApiServer, reader: Access) -> None:
    """The first repetition is after one minute, and the pauses double up to the interval. The lists of other kinds are
    not repeated.
    """
    node = Node(reader, "node-1", interval=24 * 60 * MINUTE, lease_duration=6 * MINUTE)
    failing = True

    def fail(method: str, path: str) -> None:
        if path.endswith("/secrets") and failing:
            cluster.faults.append(Fault(503))

    cluster.before = fail
    node.round()
    counts, others = list[int](), sum("apiservices" in each for each in cluster.calls)
    for _ in range(16):
        Node.pass_by(MINUTE)
        node.round()
        counts.append(listed(cluster))
    assert counts == [2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5]
    failing = False
    cluster.faults.clear()
    Node.pass_by(16 * MINUTE)
    reading = node.round()
    assert list(reading.unread) == []
    assert [each.place.name for each in reading.data] == ["web"]
    assert others == sum("apiservices" in each for each in cluster.calls) == 1
    for _ in range(16):
        Node.pass_by(MINUTE)
        assert node.round() is reading


def test_the_pauses_of_repetitions_are_at_most_the_interval() -> None:
    """After a success, the first repetition is after a minute again."""
    schedule, source = ListingSchedule(3 * MINUTE), Place("Secret")
    assert schedule.next == schedule.due(source) == 0
    dues = list[float]()
    for failed in (True, True, True, True, False, True):
        schedule.listed(source, 0.0, failed=failed)
        dues.append(schedule.next)
    assert dues == [60, 120, 180, 180, 180, 60]


def test_a_node_without_the_lease_of_its_kubeconfig_has_a_finding(cluster: ApiServer, reader: Access) -> None:
    """The message names the missing permission."""
    cluster.rbac = Rbac("")
    reading = Node(reader, "node-1").round()
    assert not reading.leads
    assert reading.lease
    assert "may not read the Lease kube-system/certmond-reader" in reading.lease.fact
    assert reading.lease.remedy.endswith("resources [leases], verbs [get, create, update]")
    assert reading.lease.lasting


def test_a_silent_api_server_does_not_end_the_leadership_at_once(cluster: ApiServer, reader: Access) -> None:
    """The holder keeps the objects until its Lease ends, and the failure keeps its first time."""
    node = Node(reader, "node-1")
    known = node.round()
    Node.pass_by(MINUTE)
    cluster.faults += [Fault(503)]
    failed = node.round()
    assert (failed.leads, failed.listings) == (True, known.listings)
    assert failed.lease
    Node.pass_by(MINUTE)
    cluster.faults += [Fault(503)]
    again = node.round()
    assert again.lease
    assert (again.lease.since, again.lease.lasting) == (failed.lease.since, False)
    Node.pass_by(MINUTE)
    assert node.round().lease is None


@pytest.mark.long
def test_an_outage_longer_than_the_lease_keeps_the_known_objects(cluster: ApiServer, reader: Access) -> None:
    """The finding about the Lease begins when the node stops reading. No finding about an object ends, until the node
    reads again or learns that another node reads.
    """
    late = make_leaf(CA, "late", not_before=NOW - 80 * DAY, not_after=NOW - DAY)
    add_secret(cluster, "late", leaf=late)
    node, other = Node(reader, "node-1"), Node(reader, "node-2")
    known = node.round()

    def names(reading: ClusterReading) -> list[str]:
        now = NOW + timedelta(seconds=Node.seconds)
        return [each.name for each in cluster_state(reading, now, 30 * DAY).observations]

    cluster.before = lambda method, path: cluster.faults.append(Fault(503))
    for _ in range(3):
        Node.pass_by(MINUTE)
        assert node.round().leads
    assert names(node.rounds.published.reading) == ["Secret default/late"]
    Node.pass_by(MINUTE)
    stopped = node.round()
    assert (stopped.leads, stopped.listings) == (False, known.listings)
    assert names(stopped) == ["Secret default/late", LEASE.called]
    Node.pass_by(MINUTE)
    assert node.round() is stopped
    cluster.before = lambda method, path: None
    cluster.faults.clear()
    again = node.round()
    assert (again.leads, again.lease, names(again)) == (True, None, ["Secret default/late"])
    cluster.before = lambda method, path: cluster.faults.append(Fault(503))
    Node.pass_by(4 * MINUTE)
    assert names(node.round()) == ["Secret default/late", LEASE.called]
    cluster.before = lambda method, path: None
    cluster.faults.clear()
    other.round()
    Node.pass_by(4 * MINUTE)
    assert other.round().leads
    assert node.round() == ClusterReading()


@pytest.mark.long
def test_a_node_that_loses_the_lease_during_a_reading_exports_nothing(cluster: ApiServer, reader: Access) -> None:
    """A slow API server can delay a reading for longer than the Lease."""
    one, two = Node(reader, "node-1"), Node(reader, "node-2")

    def slow(method: str, path: str) -> None:
        if path.endswith("/secrets"):
            cluster.before = lambda method, path: None
            two.round()
            Node.pass_by(4 * MINUTE)
            two.round()

    assert one.round().leads
    Node.pass_by(5 * MINUTE)
    cluster.before = slow
    assert one.round() == ClusterReading()
    assert two.rounds.published.reading.leads
    assert one.round() == ClusterReading()


@pytest.mark.long
def test_a_slow_list_does_not_lose_the_lease(cluster: ApiServer, reader: Access) -> None:
    """The node renews the Lease before each list, and a list takes less time than the Lease."""
    one, two = Node(reader, "node-1"), Node(reader, "node-2")
    longest = one.rounds._access.time_limit * 12
    assert longest < 4 * MINUTE * 5 / 6

    def slow(method: str, path: str) -> None:
        if "leases" not in path:
            Node.pass_by(longest)

    assert not (one.round().leads and two.round().leads)
    for _ in range(3):
        Node.pass_by(5 * MINUTE)
        cluster.before = slow
        assert one.round().leads
        assert Node.seconds < one.rounds.published.until
        cluster.before = lambda method, path: None
        assert two.round() == ClusterReading()


def test_a_node_pauses_after_the_loss_of_the_lease(cluster: ApiServer, reader: Access) -> None:
    """Two nodes whose lists take too long do not send requests without a pause."""
    one, two = Node(reader, "node-1"), Node(reader, "node-2")

    def suspended(method: str, path: str) -> None:
        if path.endswith("/secrets"):
            cluster.before = lambda method, path: None
            two.round()
            Node.pass_by(4 * MINUTE)
            two.round()

    cluster.before = suspended
    assert one.rounds.round() == 40
    assert one.rounds.published.reading == ClusterReading()


# --- The thread -------------------------------------------------------------------------------------------------------


class Running:
    """A reader with its thread, with the clock of the machine."""

    def __init__(self, access: Access, **terms: Any) -> None:
        self.woken = threading.Event()
        self.terms = replace(ReaderTerms(access.kubeconfig, "node-1", (), 5 * MINUTE, 4 * MINUTE, 30 * DAY), **terms)
        self.reader = self.made(self.terms)

    def made(self, terms: ReaderTerms) -> ClusterReader:
        return ClusterReader(terms, wake=self.woken.set, clock=lambda: NOW, monotonic=time.monotonic)

    def state(self) -> ClusterState:
        """The state after the next change that the thread reports."""
        self.reader.state(NOW)
        assert self.woken.wait(DEADLINE)
        self.woken.clear()
        return self.reader.state(NOW)


@pytest.fixture
def running(reader: Access) -> Iterator[Running]:
    made = Running(reader)
    yield made
    made.reader.close()


def test_a_pass_does_not_wait_for_the_api_server(cluster: ApiServer, running: Running) -> None:
    """While the API server does not answer, the state is that of the last reading. The end of the daemon ends the
    request.
    """
    answer = threading.Event()

    def wait(method: str, path: str) -> None:
        answer.wait(2 * DEADLINE)

    cluster.before = wait
    assert running.reader.state(NOW) == ClusterState(ClusterReading())
    assert running.reader.until is None
    running.reader.close()
    for thread in [each for each in threading.enumerate() if each.name == "cluster-reader"]:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    answer.set()


def test_the_thread_wakes_the_daemon_after_a_reading(cluster: ApiServer, running: Running) -> None:
    """The next pass has the findings, and the same objects as long as nothing changes."""
    leaf = make_leaf(CA, "late", not_before=NOW - 80 * DAY, not_after=NOW + DAY)
    add_secret(cluster, "late", leaf=leaf)
    state = running.state()
    assert [each.name for each in state.observations] == ["Secret default/late"]
    assert running.reader.state(NOW) is state
    later = running.reader.state(NOW + 2 * DAY)
    assert "expired on" in later.observations[0].faults[0].detail
    assert running.reader.until


def test_the_reading_of_a_thread_that_hangs_ends_with_the_lease(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node may read the objects from then on. The daemon wakes at this time, and keeps the known objects."""
    known = running.state().reading
    assert known
    until = running.reader.until
    assert until
    assert timedelta() < until - NOW <= 4 * MINUTE
    real = time.monotonic
    monkeypatch.setattr(running.reader, "_monotonic", lambda: real() + 240)
    assert running.reader.until == NOW
    state = running.reader.state(NOW)
    assert state.reading
    assert (state.reading.leads, state.reading.listings) == (False, known.listings)
    assert [each.faults[0].detail for each in state.observations] == [
        "not watched: certmond has not renewed the Lease kube-system/certmond-reader in time"
    ]
    assert running.reader.state(NOW) is state
    monkeypatch.undo()
    assert running.reader.state(NOW).reading is known


def test_a_reload_keeps_the_reading(running: Running, reader: Access) -> None:
    """A reader with another configuration continues with the known objects: no finding ends and begins again."""
    known = running.state()
    running.reader.close()
    following = running.made(running.terms)
    following.continue_from(running.reader)
    assert following.state(NOW) is known
    following.close()


@pytest.mark.parametrize(
    ("broken", "fact"),
    [("import", "the package lightkube is missing"), ("thread", "certmond cannot start a thread")],
)
def test_a_reader_that_cannot_start_has_a_finding(
    running: Running, monkeypatch: pytest.MonkeyPatch, broken: str, fact: str
) -> None:
    """The finding names the remedy, and the daemon continues."""

    def start(thread: object) -> None:
        raise RuntimeError

    if broken == "import":
        monkeypatch.setitem(sys.modules, "certmond.cluster.certificate_listing", None)
    else:
        monkeypatch.setattr("threading.Thread.start", start)
    state = running.reader.state(NOW)
    assert [each.faults[0].detail for each in state.observations] == [f"not watched: {fact}"]
    assert state.observations[0].path == LEASE.path


@pytest.mark.long
def test_a_defect_in_the_list_of_one_kind_keeps_the_other_kinds(
    reader: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finding is about this kind only. Its known objects stay."""
    node = Node(reader, "node-1")
    known = node.round()

    def broken(access: Access, source: Place, before: Listing | None, now: datetime) -> Listing:
        if source.kind == "Secret":
            raise KeyError("secret")
        return listing(access, source, before, now)

    monkeypatch.setattr("certmond.cluster.certificate_listing.listing", broken)
    Node.pass_by(5 * MINUTE)
    reading = node.round()
    (unread,) = reading.unread
    assert (unread.place, unread.lasting, reading.leads) == (Place("Secret"), True, True)
    assert "an unexpected KeyError in test_cluster_reader.py:" in unread.fact
    assert list(reading.data) == list(known.data)
    assert [each.read_at == known.read_at for each in reading.listings] == [True] + [False] * 5


def test_a_defect_in_a_round_is_a_finding(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread continues later."""

    def broken(*_: object) -> Callable[[], None]:
        raise KeyError("secret")

    monkeypatch.setattr("certmond.cluster.certificate_listing.sources", broken)
    (observation,) = running.state().observations
    assert "an unexpected KeyError" in observation.faults[0].detail
    assert "secret" not in str(observation)


def test_a_defect_of_the_rules_is_a_finding(
    cluster: ApiServer, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass continues with the known findings. The finding names the place of the defect, not its text."""
    add_secret(cluster, "late", leaf=make_leaf(CA, "late", not_before=NOW - 80 * DAY, not_after=NOW + DAY))
    assert [each.name for each in running.state().observations] == ["Secret default/late"]

    def broken(*_: object) -> ClusterState:
        raise OverflowError("secret")

    with monkeypatch.context() as context:
        context.setattr("certmond.controllers.cluster_objects.cluster_certificate_reader.cluster_state", broken)
        later = NOW + 30 * DAY
        failed = running.reader.state(later)
        assert running.reader.state(later).observations is failed.observations
    late, observation = failed.observations
    assert (late.name, observation.path) == ("Secret default/late", LEASE.path)
    assert "an unexpected OverflowError in test_cluster_reader.py:" in observation.faults[0].detail
    assert "secret" not in str(observation)


# --- The daemon -------------------------------------------------------------------------------------------------------


def daemon_tree(directory: Path, cluster: ApiServer, node: str, **settings: Any) -> tuple[Path, Path]:
    """Return the root of a node with the reader, and its configuration file."""
    conf = directory / "root/etc/kubernetes/certmond.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(Path(cluster.user("certmond", "certmond")).read_text())
    conf.chmod(0o600)
    settings = {
        "kubeconfig": "/etc/kubernetes/certmond.conf", "reader": True, "lease_duration": "20s", **settings,
    }  # fmt: skip
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({"profile": "none", "node_name": node, "cluster": settings}))
    return directory / "root", path


@pytest.mark.long
def test_two_daemons_read_one_cluster(cluster: ApiServer, reader: Access, tmp_path: Path) -> None:
    """One daemon exports the certificates and the findings, and the other one takes over after its end. No output of
    the daemons contains a private key of a Secret.
    """
    leaf = make_leaf(CA, "late", not_before=NOW - 80 * DAY, not_after=NOW - DAY)
    add_secret(cluster, "late", leaf=leaf)
    directories = [tmp_path / "one", tmp_path / "two"]
    (root, config), (other, second) = (
        daemon_tree(each, cluster, f"node-{number}") for number, each in enumerate(directories)
    )
    with running_daemon(root, directories[0], "--config", str(config)) as one:
        one.until(lambda: "cluster" in one.status(), "the reading")
        with running_daemon(other, directories[1], "--config", str(second)) as two:
            two.until(lambda: "certmond_cluster_reader 0" in two.metrics(), "the second daemon")
            assert "cluster" not in two.status()
            assert one.number("certmond_cluster_reader") == 1
            (finding,) = one.status()["findings"]
            assert finding["message"].startswith("tls.crt in the Secret default/late: CN=late (serial ")
            label = 'certificate="Secret default/late",path="/api/v1/namespaces/default/secrets/late#tls.crt"'
            assert f'certmond_finding{{{label},reason="cluster_expiry",severity="critical"}} 1' in one.metrics()
            names = [each["name"] for each in one.status()["cluster"]["certificates"]]
            assert names == ["late", "web"]
            assert one.stop() == 0
            two.until(lambda: "cluster" in two.status(), "the takeover")
            assert two.number("certmond_cluster_reader") == 1
    outputs = [
        path for each in directories for path in each.rglob("*") if path.is_file() and "kubernetes" not in str(path)
    ]
    assert len(outputs) > 6
    content = b"".join(path.read_bytes() for path in outputs)
    assert leaf.facts.sha256.encode() in content
    assert not leaks(content, LEAF, leaf)


def test_a_command_does_not_read_the_cluster(cluster: ApiServer, reader: Access, tmp_path: Path) -> None:
    """Only the daemon takes the Lease: a command would take it away from the node that reads."""
    root, config = daemon_tree(tmp_path, cluster, "node-1")
    done = CliRunner().invoke(cli, ["check", "--root", str(root), "--config", str(config), "-o", "json"])
    assert "cluster" not in json.loads(done.output)
    assert [each for each in cluster.calls if "leases/certmond-reader" in each or "secrets" in each] == []
