"""A container is found by the facts of the kubelet and the kernel, with any runtime. Nothing else counts as one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certmond.errors import RestartError
from certmond.pki.services.service_observation import ServiceSeen
from certmond.services.containers import RunningContainer, running_containers, service_state, still_runs
from certmond.services.observed_subjects import Pod
from tests.static_pods import compiled, kubelet

STATIC = "0d1f9d1e2b3c4d5e6f708192a3b4c5d6"  # the uid of a static pod is a hash
UUID = "7a9f5d0c-31b2-4b8e-9d57-2f6d8a0b1c2d"
ID, OTHER = "ab" * 32, "cd" * 32
APISERVER = Pod(container="kube-apiserver", name="kube-apiserver-node-1", executable="kube-apiserver")
COMMAND = ("/usr/local/bin/kube-apiserver", "--secure-port=6443", "")
PLACE = f"/kubepods/burstable/pod{STATIC}/{ID}"


class Tree:
    """A /proc and a /var/log/pods."""

    def __init__(self, root: Path, *uids: str) -> None:
        self.proc, self.logs = root / "proc", root / "logs"
        self.proc.mkdir()
        self.logs.mkdir()
        for uid in uids or (STATIC,):
            self.log(uid)

    def log(self, uid: str, pod: Pod = APISERVER) -> None:
        (self.logs / f"{pod.namespace}_{pod.name}_{uid}" / pod.container).mkdir(parents=True)

    def process(
        self,
        pid: int,
        path: str = PLACE,
        *,
        command: Sequence[str] = COMMAND,
        parent: int = 1,
        ticks: int = 5000,
        lines: Sequence[str] = ("0::",),
        name: str = "kube-apiserver",
        uid: int = 0,
    ) -> None:
        directory = self.proc / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "cgroup").write_text("".join(f"{line}{path}\n" for line in lines))
        (directory / "cmdline").write_text("".join(f"{word}\0" for word in command))
        (directory / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        numbers = ["S", parent, *[0] * 17, ticks, *[0] * 30]
        (directory / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, numbers))}\n")

    def running_containers(self, pod: Pod = APISERVER) -> list[RunningContainer]:
        return running_containers([pod], str(self.proc), str(self.logs))[pod]

    def pids(self, pod: Pod = APISERVER) -> list[int]:
        return sorted(found.pid for found in self.running_containers(pod))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# --- the control group ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [STATIC, UUID])
@pytest.mark.parametrize(
    "path",
    [
        "/kubepods/burstable/pod{uid}/{id}",
        "/kubepods/besteffort/pod{uid}/{id}",
        "/kubepods/pod{uid}/{id}",
        "/kubepods/burstable/pod{uid}/crio-{id}",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{id}.scope",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/crio-{id}.scope",
        "/kubepods.slice/kubepods-pod{slice}.slice/docker-{id}.scope",
        "/kubepods.slice/kubepods-pod{slice}.slice/cri-o-{id}.scope",
        "/kubepods.slice/kubepods-pod{slice}.slice/crio-{id}.scope/container",
        "/system.slice/containerd.service/kubepods-burstable-pod{slice}.slice:cri-containerd:{id}",
        "/system.slice/k3s.service/kubepods/burstable/pod{uid}/{id}",
        "/../../burstable/pod{uid}/{id}",
    ],
)
def test_every_runtimes_way_of_writing_is_read(tmp_path: Path, path: str, uid: str) -> None:
    """cgroupfs and systemd, guaranteed pods or not, containerd, CRI-O and Docker, k3s, a namespace: all name both."""
    tree = Tree(tmp_path, uid)
    tree.process(40, path.format(uid=uid, slice=uid.replace("-", "_"), id=ID))
    (found,) = tree.running_containers()
    assert (found.pid, found.container_id, found.pod_uid) == (40, ID, uid)
    assert found.command == ("/usr/local/bin/kube-apiserver", "--secure-port=6443", "")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"/kubepods/burstable/pod{STATIC}",
        f"/kubepods/burstable/pod{STATIC}/{ID[:-1]}",
        f"/kubepods/burstable/pod{STATIC}/{ID}0",
        f"/kubepods/burstable/pod{STATIC}/{ID}/kubelet",
        f"/kubepods/burstable/pod{STATIC}/{ID}/kubepods/pod{UUID}/{OTHER}",
        f"/kubepods/burstable/pod{UUID}/{ID}",
        f"/kubepods/burstable/apod{STATIC}/{ID}",
        f"/kubepods.slice/kubepods-pod{STATIC}.slice/crio-conmon-{ID}.scope",
        f"/system.slice/docker-{ID}.scope",
        f"/user.slice/kube-apiserver/{ID}",
    ],
)
def test_what_is_not_in_the_pods_container_is_not_found(tree: Tree, path: str) -> None:
    """Processes of the host, of another pod, of a monitor, or of a node within the container, whatever they run."""
    tree.process(40, path)
    assert tree.running_containers() == []


def test_version_1_names_the_container_in_each_hierarchy(tree: Tree) -> None:
    lines = ("12:pids:", "4:memory:", "3:cpu,cpuacct:", "1:name=systemd:")
    tree.process(40, lines=lines)
    with (tree.proc / "40/cgroup").open("a") as file:
        file.write("0::/system.slice/containerd.service\n")
    assert tree.pids() == [40]


def test_a_process_in_two_containers_is_in_none(tree: Tree) -> None:
    """A process that has joined another container in one hierarchy is assigned to neither."""
    tree.process(40, lines=("4:memory:",))
    with (tree.proc / "40/cgroup").open("a") as file:
        file.write(f"1:name=systemd:/kubepods/pod{STATIC}/{OTHER}\n")
    assert tree.running_containers() == []


# --- the kubelet's directory ------------------------------------------------------------------------------------------


def test_a_uid_that_is_left_over_hides_nothing(tmp_path: Path) -> None:
    """The directories of earlier uids stay: the container is found under whichever uid it runs."""
    tree = Tree(tmp_path, STATIC, UUID)
    tree.process(40)
    assert tree.pids() == [40]
    tree.process(41, f"/kubepods/pod{UUID}/{OTHER}")
    assert tree.pids() == [40, 41]


@pytest.mark.parametrize(
    "directory",
    [
        f"kube-system_kube-apiserver-node-10_{STATIC}/kube-apiserver",
        f"default_kube-apiserver-node-1_{STATIC}/kube-apiserver",
        f"kube-system_kube-apiserver-node-1_{STATIC}/sidecar",
        f"kube-system_kube-apiserver-node-1{STATIC}/kube-apiserver",
    ],
)
def test_a_directory_of_another_container_tells_nothing(tmp_path: Path, directory: str) -> None:
    """Name, namespace and container have to be the same, not only to begin so."""
    tree = Tree(tmp_path, UUID)
    tree.process(40)
    (tree.logs / directory).mkdir(parents=True)
    assert tree.running_containers() == []


def test_without_a_kubelet_nothing_runs(tree: Tree) -> None:
    tree.process(40)
    assert running_containers([APISERVER], str(tree.proc), str(tree.logs / "gone")) == {APISERVER: []}


def test_a_directory_that_cannot_be_read_is_not_taken_for_an_empty_one(tree: Tree) -> None:
    loop = tree.logs / "loop"
    loop.symlink_to(loop)
    with pytest.raises(RestartError, match="so it cannot identify the containers"):
        running_containers([APISERVER], str(tree.proc), str(loop))


# --- the process ------------------------------------------------------------------------------------------------------


def test_the_main_process_of_a_container_has_its_parent_outside(tree: Tree) -> None:
    """Its children do not count, also with the same age and a lower number, and neither does a process that was
    executed in the container later.
    """
    tree.process(40, parent=7, ticks=5000)
    tree.process(30, parent=40, ticks=5000)
    tree.process(20, parent=7, ticks=6000)
    assert tree.pids() == [40]


def test_where_all_are_children_it_is_the_oldest(tree: Tree) -> None:
    """That may be seen where processes come and go between two reads."""
    tree.process(40, parent=41, ticks=6000)
    tree.process(41, parent=40, ticks=5000)
    assert tree.pids() == [41]


@pytest.mark.parametrize("command", [("/pause",), ("kube-apiserver-proxy",), ("sh", "kube-apiserver"), (), ("",)])
def test_another_program_is_another_container(tree: Tree, command: tuple[str, ...]) -> None:
    """The Pod's sandbox and its other containers are distinguished by the last part of their first word."""
    tree.process(40, command=command)
    assert tree.running_containers() == []
    tree.process(41, f"/kubepods/burstable/pod{STATIC}/{OTHER}", command=("kube-apiserver", "-v"))
    assert tree.pids() == [41]


def test_two_containers_of_one_pod_are_found_in_one_look(tree: Tree) -> None:
    proxy = replace(APISERVER, container="proxy", executable="proxy")
    tree.log(STATIC, proxy)
    tree.process(40)
    tree.process(50, f"/kubepods/burstable/pod{STATIC}/{OTHER}", command=("/proxy",))
    found = running_containers([APISERVER, proxy], str(tree.proc), str(tree.logs))
    assert {pod.container: [each.pid for each in those] for pod, those in found.items()} == {
        "kube-apiserver": [40],
        "proxy": [50],
    }


@pytest.mark.parametrize("name", ["a) S 1 (b", "x y", ")", ""])
def test_a_process_may_be_called_anything(tree: Tree, name: str) -> None:
    """The name in /proc/PID/stat has parentheses around it, and may have more of them inside, and spaces."""
    tree.process(40, name=name)
    (found,) = tree.running_containers()
    assert found.ticks == 5000


def test_the_start_is_by_the_hosts_clock(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that started N ticks after boot started at that time of day, in UTC, whatever the time since."""
    booted = datetime(2026, 11, 24, 12, tzinfo=UTC)
    clocks = {time.CLOCK_REALTIME: booted.timestamp() + 5000, time.CLOCK_BOOTTIME: 5000.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    tree.process(40, ticks=90 * os.sysconf("SC_CLK_TCK"))
    (found,) = tree.running_containers()
    assert found.started_at == booted + timedelta(seconds=90)
    assert found.started_at.tzinfo is UTC


def test_a_process_that_ends_meanwhile_is_skipped(tree: Tree) -> None:
    """Any of its files may disappear before it is read."""
    tree.process(40)
    for pid, missing in ((50, "cgroup"), (51, "stat"), (52, "cmdline")):
        tree.process(pid, f"/kubepods/burstable/pod{STATIC}/{pid:064x}")
        (tree.proc / str(pid) / missing).unlink()
    (tree.proc / "self").mkdir()
    assert tree.pids() == [40]


_CGROUP = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [b"0::", b"/", b":", b"pod", STATIC.encode(), ID.encode(), b".slice", b"kubepods-", b"\n", b"\xff"]
        )
    ).map(b"".join),
    st.just(f"0::{PLACE}\n".encode()),
)
_STAT = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(st.integers().map(lambda number: str(number).encode()), st.binary(max_size=5))).map(
        lambda fields: b"1 (x) S " + b" ".join(fields)
    ),
)


@pytest.mark.long
@settings(max_examples=60)
@given(cgroup=_CGROUP, stat=_STAT, cmdline=st.binary(max_size=100))
@example(cgroup=f"0::{PLACE}".encode(), stat=b"1 (x) S 1" + b" 0" * 17 + b" " + b"9" * 30, cmdline=b"kube-apiserver")
@example(cgroup=f"0::{PLACE}".encode(), stat=b"1 (x) S 1" + b" 0" * 17 + b" 5000", cmdline=b"")
@example(cgroup=f"0::{PLACE}".encode(), stat=b"1 (x) S 1" + b" 0" * 17 + b" 5000", cmdline=b"\xff/kube-apiserver\0\xfe")
def test_nothing_in_proc_breaks_the_look(cgroup: bytes, stat: bytes, cmdline: bytes) -> None:
    """Arbitrary bytes are a process that is not found, or one that is; never an exception, and they hide no other."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Tree(Path(directory))
        tree.process(40, f"/kubepods/burstable/pod{STATIC}/{OTHER}")
        tree.process(41)
        for name, content in (("cgroup", cgroup), ("stat", stat), ("cmdline", cmdline)):
            (tree.proc / "41" / name).write_bytes(content)
        assert {40} <= set(tree.pids()) <= {40, 41}
        still_runs(RunningContainer(41, ID, STATIC, datetime.now(UTC), (), 5000), str(tree.proc))


def test_a_process_is_still_the_same_while_container_and_start_are(tree: Tree) -> None:
    """A later process with its number is another one, whatever its container and start."""
    tree.process(40)
    (found,) = tree.running_containers()
    proc = str(tree.proc)
    assert still_runs(found, proc)
    tree.process(40, ticks=5001)
    assert not still_runs(found, proc)
    tree.process(40, f"/kubepods/burstable/pod{STATIC}/{OTHER}")
    assert not still_runs(found, proc)
    tree.process(40, "/")
    assert not still_runs(found, proc)
    (tree.proc / "40/cgroup").unlink()
    assert not still_runs(found, proc)


# --- as a service -----------------------------------------------------------------------------------------------------


def test_one_container_is_a_service_that_runs(tree: Tree) -> None:
    """Its instance is the id of the container."""
    tree.process(40)
    (found,) = tree.running_containers()
    assert service_state([found]) == ServiceSeen(True, ID, found.started_at, command=COMMAND)


def test_no_container_is_a_service_that_does_not_run() -> None:
    assert service_state([]) == ServiceSeen(running=False)


def test_several_containers_are_reported_by_their_ids_only(tree: Tree) -> None:
    tree.process(40)
    tree.process(41, f"/kubepods/burstable/pod{STATIC}/{OTHER}")
    service = service_state(tree.running_containers())
    assert (service.running, service.instance) == (None, "")
    assert service.problem is not None
    assert f"{ID[:13]} (PID 40)" in service.problem
    assert f"{OTHER[:13]} (PID 41)" in service.problem


# --- on real control groups -------------------------------------------------------------------------------------------


@pytest.mark.real("cgroup")
def test_a_real_container_is_found_and_a_restarted_one_is_another(tmp_path: Path) -> None:
    """The match uses pid, id, uid and start, among processes of the same name and children of the container, also after
    a restart.
    """
    program = compiled(tmp_path).rename(tmp_path / "kube-apiserver")
    with kubelet(tmp_path, factor=0.1) as pods:
        before = time.time()
        pods.apply("kube-apiserver", {"kube-apiserver": [str(program), "--fork"], "proxy": ["sleep", "infinity"]})
        pods.apply("another", {"kube-apiserver": [str(program)]})
        reported = pods.ready("kube-apiserver", pod="kube-apiserver-node-1")
        pods.ready("kube-apiserver", pod="another-node-1")
        (found,) = running_containers([APISERVER], logs=pods.logs)[APISERVER]
        assert (found.pid, found.container_id, found.pod_uid) == (reported["pid"], reported["id"], reported["uid"])
        assert found.command == (str(program), "--fork")
        # A tick is 10 ms, by which the reported start is too early at most.
        assert before - 0.02 < found.started_at.timestamp() < datetime.fromtimestamp(reported["time"], UTC).timestamp()
        os.kill(reported["pid"], 9)
        again = pods.ready("kube-apiserver", pod="kube-apiserver-node-1", attempt=1)
        (new,) = running_containers([APISERVER], logs=pods.logs)[APISERVER]
        assert (new.container_id, new.pod_uid) == (again["id"], found.pod_uid)
        assert new.container_id != found.container_id
        assert not still_runs(found)
