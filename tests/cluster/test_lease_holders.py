"""No two nodes hold the restart lock at once: in any interleaving, and as real processes that are killed."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certmond.cluster.lease_lock import RESTART, ClusterLease, Leases, Record
from certmond.errors import LostError, UnreachableError
from tests.cluster.api_server import ApiServer
from tests.deadline import DEADLINE
from tests.sampling import examples

# --- any interleaving, simulated --------------------------------------------------------------------------------------


@types.coroutine
def pause() -> Generator[None, None, None]:
    yield


class World:
    """The API's one Lease, changed by compare-and-swap; and the true time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.record: Record | None = None
        self.version = 0
        self.flying: list[Callable[[], object]] = []  # requests whose senders canceled them or ended

    def put(self, record: Record) -> Record | None:
        if record.version != (self.record.version if self.record else ""):
            return None
        self.version += 1
        self.record = replace(record, version=str(self.version))
        return self.record


class Wire:
    """The API as one node uses it: request and answer have a delay."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sending: Callable[[], object] | None = None

    async def read(self) -> Record | None:
        await pause()
        found = self.world.record
        await pause()
        return found

    async def replace(self, record: Record) -> Record | None:
        self.sending = partial(self.world.put, record)
        await pause()
        self.sending = None
        written = self.world.put(record)
        await pause()
        return written

    create = replace


class Holder(ClusterLease):
    """The real code runs, but a call waits at each step until the test releases it."""

    def __init__(self, world: World, identity: str, rate: float, offset: float) -> None:
        super().__init__(
            lambda: "", identity=identity, name=RESTART, duration=timedelta(seconds=10), alive=lambda: None,
            monotonic=lambda: offset + rate * world.now,
        )  # fmt: skip
        self.wire = Wire(world)
        self.pending: Coroutine[Any, Any, Any] | None = None

    def _run(self, work: Callable[[Leases], Awaitable[Any]]) -> Any:
        made = work(self.wire)
        assert isinstance(made, Coroutine)
        self.pending = made

    def begin(self, act: str) -> None:
        with suppress(LostError):
            acts: dict[str, Callable[[], Any]] = {"take": self.take, "keep": self.keep, "give_back": self.give_back}
            acts[act]()

    def step(self, error: Exception | None = None) -> None:
        if self.pending is None:
            return
        if error and self.wire.sending:
            self.wire.world.flying.append(self.wire.sending)
            self.wire.sending = None
        try:
            self.pending.send(None) if error is None else self.pending.throw(error)
        except (StopIteration, LostError, UnreachableError):
            self.pending = None


class Nodes:
    """Nodes that take, renew, give back, pause, fail and die at any moment, each with its own clock."""

    def __init__(self, rates: list[float]) -> None:
        self.world = World()
        self.rates = rates
        self.nodes = [self.holder(number) for number in range(len(rates))]

    def holder(self, number: int) -> Holder:
        return Holder(self.world, f"node-{number}", self.rates[number], offset=1e4 * number)

    def happen(self, event: str, number: int, seconds: int) -> None:
        number %= len(self.nodes)
        node = self.nodes[number]
        match event.split():
            case ["time"]:
                self.world.now += seconds
            case ["begin", act] if node.pending is None:
                node.begin(act)
            case ["go-on"]:
                node.step()
            case ["whole", act]:
                if node.pending is None:
                    node.begin(act)
                while node.pending:
                    node.step()
            case ["waits"]:
                for act in ("whole take", "time", "whole take"):
                    self.happen(act, number, seconds)
            case ["no-answer"]:
                node.step(UnreachableError("no answer"))
            case ["dies"]:
                node.step(UnreachableError("what was sent may arrive nevertheless"))
                self.nodes[number] = self.holder(number)
            case ["late"] if self.world.flying:
                self.world.flying.pop(0)()
            case ["label"] if self.world.record:
                self.world.put(self.world.record)

    def close(self) -> None:
        for node in self.nodes:
            if node.pending:
                node.pending.close()


EVENTS = (
    *["time"] * 6, *["whole take"] * 6, *["waits"] * 3, *["begin take"] * 3, *["go-on"] * 12,
    *["whole keep", "begin keep"] * 2, "whole give_back", "begin give_back", "no-answer", "dies", "late", "label",
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=examples(1500), suppress_health_check=list(HealthCheck))
@given(
    rates=st.lists(st.sampled_from([1.0, 1.19]), min_size=2, max_size=3),
    events=st.lists(
        st.tuples(st.sampled_from(EVENTS), st.integers(0, 2), st.integers(1, 10)), min_size=20, max_size=60
    ),
)
def test_no_two_nodes_ever_hold_it_at_once(rates: list[float], events: list[tuple[str, int, int]]) -> None:
    """Whatever the nodes do, and wherever they pause, fail or die: with compare-and-swap on the Lease, and clocks that
    differ in speed by less than a fifth, no two nodes hold the Lease at once.
    """
    nodes = Nodes(rates)
    try:
        for event in events:
            nodes.happen(*event)
            assert sum(node.held for node in nodes.nodes) <= 1
    finally:
        nodes.close()


# --- real processes, killed and stopped -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A line of `lease_holder`."""

    what: str
    identity: str
    pid: int
    at: float

    @classmethod
    def parse(cls, line: str) -> Self:
        what, identity, pid, at = line.split()
        return cls(what, identity, int(pid), float(at))


class Processes:
    """Three holders, their output as it appears, and their journal."""

    def __init__(self, api: ApiServer, directory: Path, seconds: float) -> None:
        self.kubeconfig, self.seconds = api.kubeconfig, seconds
        self.journal = directory / "journal"
        self.journal.touch()
        self.ear, self.mouth = os.pipe()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for identity in list(self.running):
            self.kill(identity)
        os.close(self.ear)
        os.close(self.mouth)

    def start(self, identity: str, *program: str) -> subprocess.Popen[bytes]:
        arguments = (self.kubeconfig, identity, str(self.journal), str(self.seconds), str(self.mouth))
        command = [sys.executable, *(program or ("-m", "tests.cluster.lease_holder")), *arguments]
        self.running[identity] = subprocess.Popen(command, pass_fds=(self.mouth,))
        return self.running[identity]

    def kill(self, identity: str) -> None:
        process = self.running.pop(identity)
        process.kill()
        process.wait()

    def moments(self) -> Iterator[Moment]:
        rest = ""
        while select.select([self.ear], [], [], DEADLINE)[0]:
            *lines, rest = (rest + os.read(self.ear, 4096).decode()).split("\n")
            yield from map(Moment.parse, lines)
        pytest.fail(f"no node held the Lease for {DEADLINE} s")


def turns(journal: Path) -> dict[tuple[str, int, float], list[Moment]]:
    """Return the groups of moments: those of one process from a begin to the next."""
    found: dict[tuple[str, int, float], list[Moment]] = {}
    begun: dict[int, float] = {}
    for moment in map(Moment.parse, journal.read_text().splitlines()):
        if moment.what == "begin":
            begun[moment.pid] = moment.at
        found.setdefault((moment.identity, moment.pid, begun[moment.pid]), []).append(moment)
    return found


ACTS_WHILE_HELD = """
import sys
from contextlib import suppress
from certmond.errors import LostError, UnreachableError
from tests.cluster.lease_holder import Process, pause
process = Process(*sys.argv[1:])
while not process.does("act"):  # the Lease may expire before the first act
    with suppress(LostError, UnreachableError):
        process.lease.take()
while process.does("act"):
    pause(0.002)
"""


def test_a_stopped_process_finds_its_lease_expired_before_it_acts(tmp_path: Path) -> None:
    """A process that was stopped while its Lease expired and another node took it does nothing after it continues."""
    with ApiServer(tmp_path) as api, Processes(api, tmp_path, seconds=1) as processes:
        process = processes.start("node-1", "-c", ACTS_WHILE_HELD)
        next(processes.moments())
        process.send_signal(signal.SIGSTOP)
        other = ClusterLease(
            lambda: api.kubeconfig,
            identity="node-2",
            name=RESTART,
            duration=timedelta(seconds=1),
            alive=lambda: None,
        )
        while other.take():
            api.closing.wait(0.05)
        woken = time.clock_gettime(time.CLOCK_MONOTONIC)
        process.send_signal(signal.SIGCONT)
        assert process.wait(DEADLINE) == 0
    assert all(Moment.parse(line).at < woken for line in processes.journal.read_text().splitlines())


@pytest.mark.long
def test_real_processes_hold_the_lease_one_after_the_other(tmp_path: Path) -> None:
    """Three processes run, and the present holder is killed and restarted, or stopped for longer than its Lease may
    last. Of 500 completed terms no two of different holders overlap, and each node has held the Lease.
    """
    chance = random.Random(7)  # noqa: S311 - a test's dice
    nodes = ("node-1", "node-2", "node-3")
    finished = 0
    stopped: Moment | None = None
    with ApiServer(tmp_path) as api, Processes(api, tmp_path, seconds=1) as processes:
        for node in nodes:
            processes.start(node)
        for moment in processes.moments():
            finished += moment.what == "end"
            if finished >= 500:
                break
            if stopped and stopped.identity != moment.identity:  # another node waited for it until its end
                os.kill(stopped.pid, signal.SIGCONT)
                stopped = None
            process = processes.running[moment.identity]
            if moment.what == "end" or stopped or process.pid != moment.pid:
                continue
            fate = chance.random()
            if fate < 0.004:
                processes.kill(moment.identity)
                processes.start(moment.identity)
            elif fate < 0.006:
                process.send_signal(signal.SIGSTOP)
                stopped = moment
    had = turns(processes.journal)
    spans = sorted((moments[0].at, moments[-1].at, identity) for (identity, *_), moments in had.items())
    overlaps = [(one, two) for one, two in pairwise(spans) if one[1] >= two[0] and one[2] != two[2]]
    assert not overlaps
    whole = Counter(identity for (identity, *_), moments in had.items() if moments[-1].what == "end")
    assert whole.total() >= 500
    assert set(whole) == set(nodes)
