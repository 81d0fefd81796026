"""A cluster of a few nodes on this machine, in which every component connects to its peers all the time.

    with Bed(tmp_path, programs, control_planes=2, workers=1) as bed:
        bed.start()
        mark = bed.settled()
        bed.node("node-1").replace("/etc/kubernetes/pki/ca.crt", both)
        bed.node("node-1").restart("kube-scheduler")
        bed.settled()
        assert bed.failures(mark) == []

Each node has mount and network namespaces, its tree at "/", kubeadm's manifests, and stand-ins that reload their files,
or read them once, like the real components (components/main.go). Each stand-in is the same client as the real one, with
the credentials in its memory: it opens a new connection every `interval` milliseconds in each direction, and all are
recorded. The bed has the processes and the verdict whether all connections succeed.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Self

from tests.control_plane import ELECTING, namespaces
from tests.daemon_harness import Running
from tests.deadline import DEADLINE
from tests.rotation import node_files
from tests.rotation.backend import Backend
from tests.rotation.network import link, switch
from tests.rotation.node import BedNode
from tests.rotation.record import Direction, Failure, Record, Tally, summary
from tests.static_pods import kubelet

ENOUGH = 5
"""Good connections in each direction, after which the bed is settled."""
DENSE = 10.0
"""Milliseconds between two connections of a component with the highest rate."""


class Bed:
    """Use it with `with`; `start` runs it. `factor` scales the kubelet's times. With `verified`, API servers verify the
    kubelets. With `tokens`, a Pod on each node connects to all API servers, with tokens that last so many seconds.
    `settings` change certmond's configuration on each node. Its files are cached among the `programs`.
    """

    def __init__(
        self,
        work: Path,
        programs: Path,
        *,
        control_planes: int = 2,
        workers: int = 0,
        interval: float = DENSE,
        dense: Collection[str] = (),
        factor: float = 0.01,
        verified: bool = False,
        tokens: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._programs = programs
        self._interval, self._factor, self._tokens = interval, factor, tokens
        self._dense = dense
        self.work = work
        self.nodes = [
            BedNode(
                work / f"node-{number}", f"node-{number}", f"192.0.2.{10 + number}",
                worker=number > control_planes, verified=verified,
            )
            for number in range(1, control_planes + workers + 1)
        ]  # fmt: skip
        for node in self.nodes:
            node.settings = {**node.settings, **(settings or {})}
        self.control_planes = [node for node in self.nodes if not node.worker]
        self.record = Record(work / "record")
        self.backend: Backend
        self._open = ExitStack()
        self._running = dict[str, ExitStack]()
        self._gone = set[str]()

    def __enter__(self) -> Self:
        (self.work / "bin").symlink_to(self._programs)
        node_files.make(self.nodes, self._programs)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def node(self, name: str) -> BedNode:
        return next(node for node in self.nodes if node.name == name)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes, and wait until each component has reached its peers."""
        enter = self._open.enter_context
        signers = [node.signer for node in self.control_planes]
        self.backend = enter(Backend(self.work, [node.name for node in self.nodes], lambda: signers))
        hub = enter(switch())
        for number, node in enumerate(self.nodes):
            node.inside = enter(namespaces(node.work, node.address))
            link(hub, node.inside, number)
        for node in self.control_planes:
            environments = {name: self._environment(node, name) for name in node.components}
            node_files.put_manifests(node, self.control_planes, environments)
        for node in self.nodes:
            self._running[node.name] = enter(ExitStack())
            self._begin(node)
        for node in self.nodes:
            self._ready(node)
        self.settled()

    def _begin(self, node: BedNode) -> None:
        enter = self._running[node.name].enter_context
        if not node.worker:
            started = kubelet(
                node.work, self._factor, ("kube-apiserver",), ELECTING, before=node.inside, node=node.name, mounts=True,
                manifests=str(node.at("/etc/kubernetes/manifests")), logs=str(node.at("/var/log/pods")),
            )  # fmt: skip
            node.pods = enter(started)
        command = ("--config=/var/lib/kubelet/config.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf")
        enter(node.unit(self._environment(node, "kubelet"), str(self.work / "bin/kubelet"), *command))

    def _ready(self, node: BedNode) -> None:
        """Wait until the node and its clients are ready."""
        enter = self._running[node.name].enter_context
        for name in node.components:
            node.pods.ready(name)
        if not node.worker:
            enter(self._user(node, "kubectl", "/etc/kubernetes/admin.conf"))
        if self._tokens:
            enter(self._user(node, "pod", "/etc/kubernetes/kubelet.conf"))

    def lose(self, node: BedNode) -> None:
        """Kill all processes of the node. No connection from or to it is expected."""
        self._gone.add(node.name)
        for name in (*node.components, "kubelet"):
            self.record.note(f"{node.name}/{name}", "ends")
        self._running[node.name].close()

    def is_there(self, node: BedNode) -> bool:
        return node.name not in self._gone

    def find(self, node: BedNode) -> None:
        """Start the node with the files that it had. Connections to it are expected only after `belongs`."""
        self._begin(node)
        self._ready(node)

    def belongs(self, node: BedNode) -> None:
        """The node is part of the cluster again."""
        self._gone.discard(node.name)

    def _environment(self, node: BedNode, component: str) -> dict[str, str]:
        """Return the environment of a stand-in: its identity and its peers."""
        parties, servers = self.nodes, self.control_planes
        return {
            "STAND_IN_NAME": f"{node.name}/{component}",
            "STAND_IN_RECORD": str(self.record.path),
            "STAND_IN_INTERVAL": str(DENSE if component in self._dense else self._interval),
            "STAND_IN_SIGNER": str(node.signer),
            "STAND_IN_BACKEND": str(self.backend.socket),
            "STAND_IN_SERVER": f"{node.name}/kube-apiserver",
            "STAND_IN_ETCDS": ",".join(f"{each.name}/etcd={each.address}:2379" for each in servers),
            "STAND_IN_APISERVERS": ",".join(f"{each.name}/kube-apiserver={each.address}:6443" for each in servers),
            "STAND_IN_EXTENSIONS": ",".join(f"{each.name}/kube-apiserver={each.address}:6443" for each in servers),
            "STAND_IN_TOKEN": str(self._tokens or 0),
            "STAND_IN_KUBELETS": ",".join(f"{each.name}/kubelet={each.address}:10250" for each in parties),
            "GOGC": "400",
            "GOMAXPROCS": "1",
        }

    @contextmanager
    def _user(self, node: BedNode, program: str, kubeconfig: str) -> Iterator[None]:
        """A person with admin.conf, or a pod to which the kubelet gives a token."""
        command = [*node.inside, str(self.work / "bin" / program), f"--kubeconfig={kubeconfig}"]
        environment = os.environ | self._environment(node, program)
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()

    @contextmanager
    def daemons(self) -> Iterator[dict[str, Running]]:
        """Run `certmond run` on every node, by the node's name, until each has rendered. The configuration is
        `settings`, or that of the last `configure` of a node.
        """
        with ExitStack() as running:
            yield {node.name: running.enter_context(node.daemon()) for node in self.nodes}

    # --- how it goes --------------------------------------------------------------------------------------------------

    def directions(self) -> set[Direction]:
        """All that there are, between those that are there."""
        servers = [node.name for node in self.control_planes if node.name not in self._gone]
        nodes = [node.name for node in self.nodes if node.name not in self._gone]
        api, own = "kube-apiserver", (*ELECTING, "kubectl")
        pairs = [(one, two) for one in servers for two in servers]
        found = {Direction(f"{one}/{api}", f"{two}/{name}") for one, two in pairs for name in ("etcd", api)}
        found |= {Direction(f"{one}/etcd", f"{two}/etcd") for one, two in pairs if one != two}
        for node in nodes:
            found |= {Direction(f"{one}/{api}", f"{node}/kubelet") for one in servers}
            users = ("kubelet", "pod") if self._tokens else ("kubelet",)
            found |= {Direction(f"{node}/{name}", f"{one}/{api}") for one in servers for name in users}
        return found | {Direction(f"{one}/{name}", f"{one}/{api}") for one in servers for name in own}

    def tallies(self, since: float = 0.0) -> dict[Direction, Tally]:
        return self.record.tallies(since)

    def failures(self, since: float = 0.0, by: str = "", to: str = "") -> list[Failure]:
        """Return the failures since then, in the directions with these ends of client and server names: "" for any."""
        found = self.record.failures(since)
        return [each for each in found if each.direction.by.endswith(by) and each.direction.to.endswith(to)]

    def failing(self, since: float) -> set[tuple[str, str]]:
        """The components, client and server, between which there were failures since then."""
        return {(by.partition("/")[2], to.partition("/")[2]) for _, (by, to), _, _ in self.record.failures(since)}

    def settled(self) -> float:
        """Wait until each component has tried to reach its peers some times more. Return the time at which that
        began.
        """
        mark = time.time()

        def tried(tally: Tally | None) -> bool:
            return tally is not None and tally.good + len(tally.failures) >= ENOUGH

        def all_tried() -> bool:
            found = self.tallies(mark)
            return all(tried(found.get(direction)) for direction in self.directions())

        self.until(all_tried, "all connections are tried")
        return mark

    @contextmanager
    def no_outage(self) -> Iterator[None]:
        """Assert that the block causes no failed connection."""
        mark = self.settled()
        yield
        self.settled()
        failures = self.failures(mark)
        assert not failures, summary(failures)

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + DEADLINE
        while not (found := holds()):
            assert time.monotonic() < end, f"{what}: never so\n{self._reported()}"
            select.select([], [], [], 0.05)
        return found

    def _reported(self) -> str:
        """Return all failures, and the directions without a connection, for the message of a failed test."""
        missing = sorted(map(str, self.directions() - self.tallies().keys()))
        return f"{summary(self.failures())}\nnever tried: {missing}"

    def figures(self, since: float = 0.0) -> str:
        """Return the number and results of connections since then, as text."""
        all_of_them = self.tallies(since)
        tallies = all_of_them.values()
        counted = {each: tally for each, tally in all_of_them.items() if each.by.partition("/")[2] in self._dense}
        rates = sorted(tally.rate for tally in (counted or all_of_them).values())
        good, down, failed = (sum(each) for each in zip(*map(_counts, tallies), strict=True))
        asked = 1000 / (DENSE if counted else self._interval)
        return (
            f"{good + down + failed} connections in {time.time() - since:.0f} s, in each of {len(rates)} directions "
            f"{rates[0]:.1f} to {rates[-1]:.1f} a second (half of them at least {median(rates):.1f}; asked for are "
            f"{asked:.0f}): {good} good, {down} while the server was down, {failed} failed"
        )


Make = Callable[..., Bed]
"""How tests create one, with the parameters of a bed."""


def _counts(tally: Tally) -> tuple[int, int, int]:
    return tally.good, tally.down, len(tally.failures)
