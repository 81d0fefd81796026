"""certmond stops exactly the observed container, and no other process of the host."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certmond.errors import RestartError
from certmond.pki.catalog.endpoint import Endpoint
from certmond.restart.static_pod_stop import stop
from certmond.services.containers import running_containers, service_state
from certmond.services.crictl import Crictl, client
from certmond.services.listener_shutdown_probe import Draining
from certmond.services.observed_subjects import Pod
from tests.conftest import real_part, unavailable
from tests.deadline import DEADLINE
from tests.free_ports import free_port
from tests.static_pods import Pods, compiled, installed_crictl, kubelet

pytestmark = pytest.mark.real("cgroup")

APISERVER = Pod(container="kube-apiserver", name="kube-apiserver-node-1", executable="kube-apiserver")
REPOSITORY = Path(__file__).parents[2]
SLOW = 1000.0  # a factor with which no container is started again while a test runs
Reported = dict[str, Any]


def quiet() -> None:
    """Do nothing."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return compiled(tmp_path).rename(tmp_path / "kube-apiserver")


@pytest.fixture(params=["crictl", "signal"])
def crictl(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Pods], Crictl | None]:
    """The client of a kubelet's runtime, and on other hosts none."""
    if request.param == "signal":
        return lambda pods: None
    installed = installed_crictl(tmp_path)
    return lambda pods: Crictl((str(installed), "--runtime-endpoint", pods.endpoint))


Client = Callable[[Pods], Crictl | None]


@contextmanager
def apiserver(tmp_path: Path, program: Path, *arguments: str, factor: float = SLOW) -> Iterator[tuple[Pods, Reported]]:
    """Run a kubelet with one API server. Yield it with its start event."""
    with kubelet(tmp_path, factor) as pods:
        pods.apply("kube-apiserver", {"kube-apiserver": [str(program), *arguments]})
        yield pods, pods.ready("kube-apiserver", pod="kube-apiserver-node-1")


def instance(pods: Pods, pod: Pod = APISERVER) -> str:
    """Return the instance that was observed before the stop."""
    return service_state(running_containers([pod], logs=pods.logs)[pod]).instance


@contextmanager
def decoy(program: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same program on the host, of the same name and in no container. It is still there when the block ends."""
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
            assert process.poll() is None
        finally:
            process.kill()


def ended(pods: Pods) -> list[tuple[str, str]]:
    return [(event["id"], event["why"]) for event in pods.events(event="ended")]


# --- exactly one ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_observed_container_is_stopped(tmp_path: Path, program: Path, crictl: Client) -> None:
    """It ends by SIGTERM, the message names it, and the kubelet starts the next container of the same Pod."""
    with apiserver(tmp_path, program, factor=0.1) as (pods, reported):
        manifests = sorted(os.scandir(pods.settings.manifests), key=lambda entry: entry.name)
        before = [(entry.name, entry.stat().st_mtime_ns, entry.inode()) for entry in manifests]
        assert instance(pods) == reported["id"]
        done = stop(APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs)
        assert f"the container {reported['id'][:13]} (kube-apiserver of kube-apiserver-node-1)" in done
        assert pods.event("ended")["why"].endswith("exit status 0")
        again = pods.event("started", attempt=1)
        assert (again["container"], again["uid"]) == ("kube-apiserver", reported["uid"])
        pods.until(lambda: instance(pods) == again["id"], "the new container runs")
        manifests = sorted(os.scandir(pods.settings.manifests), key=lambda entry: entry.name)
        assert before == [(entry.name, entry.stat().st_mtime_ns, entry.inode()) for entry in manifests]


@pytest.mark.long
def test_no_other_process_is_touched(tmp_path: Path, program: Path, crictl: Client) -> None:
    """The cases are the same program on the host, the same name in another Pod, and the Pod's other containers."""
    with apiserver(tmp_path, program) as (pods, _), decoy(program):
        pods.apply("another", {"kube-apiserver": [str(program)]})
        pods.apply("kube-apiserver-node", {"kube-apiserver": [str(program)]})
        proxy = shutil.copy(program, tmp_path / "kube-apiserver-proxy")
        pods.apply("kube-apiserver", {"proxy": [str(proxy)], "kube-apiserver": [str(program)], "z": [str(proxy)]})
        pods.event("ended")  # another text, another pod
        for pod in ("another-node-1", "kube-apiserver-node-node-1"):
            pods.ready("kube-apiserver", pod=pod)
        pods.ready("proxy")
        uid = pods.ready("z")["uid"]
        wanted = pods.ready("kube-apiserver", uid=uid)
        stop(APISERVER, wanted["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs)
        pods.event("ended", id=wanted["id"])
        assert len(ended(pods)) == 2


@pytest.mark.long
def test_the_next_container_is_not_stopped(tmp_path: Path, program: Path, crictl: Client) -> None:
    """If the kubelet has restarted the container meanwhile, the error reports it, and nothing is stopped."""
    with apiserver(tmp_path, program, factor=0.01) as (pods, reported):
        os.kill(reported["pid"], signal.SIGKILL)
        again = pods.ready("kube-apiserver", attempt=1)
        with pytest.raises(RestartError) as raised:
            stop(APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs)
        said = f"{again['id'][:13]}, instead of only with the observed ID {reported['id'][:13]}"
        assert f"now runs with the container ID {said}" in str(raised.value)
        assert "certmond stopped no container" in str(raised.value)
        assert ended(pods) == [(reported["id"], "SIGKILL")]
        assert instance(pods) == again["id"]


@pytest.mark.long
def test_where_none_runs_nothing_is_done(tmp_path: Path, program: Path, crictl: Client) -> None:
    """A container that waits for its next start needs no stop."""
    with apiserver(tmp_path, program) as (pods, reported), decoy(program):
        os.kill(reported["pid"], signal.SIGKILL)
        pods.event("ended")
        done = stop(APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs)
        assert done.startswith("no container kube-apiserver of kube-apiserver-node-1 runs; the kubelet starts it")


@pytest.mark.long
def test_a_deaf_container_is_killed_after_its_grace(tmp_path: Path, program: Path, crictl: Client) -> None:
    """SIGTERM alone does not end it, and SIGKILL does. The watchdog is notified all the while."""
    calls: list[None] = []
    with apiserver(tmp_path, program, "--deaf") as (pods, reported):
        client = crictl(pods)
        done = stop(
            APISERVER, reported["id"], crictl=client, alive=lambda: calls.append(None), grace=1.5, logs=pods.logs
        )
        assert pods.event("ended")["why"].endswith("SIGKILL")
        assert calls
        assert client or done.endswith("was ended by SIGKILL")


@pytest.mark.long
def test_a_container_that_drains_is_waited_for(tmp_path: Path, program: Path, crictl: Client) -> None:
    """A container that ends within its grace is not killed. The components that lose their lease with it end on their
    own.
    """
    manager = shutil.copy(program, tmp_path / "kube-controller-manager")
    with kubelet(tmp_path, 0.05, ("kube-apiserver",), ("kube-controller-manager",)) as pods:
        pods.apply("kube-apiserver", {"kube-apiserver": [str(program)]})
        pods.apply("kube-controller-manager", {"kube-controller-manager": [str(manager)]})
        pods.ready("kube-controller-manager")
        reported = pods.ready("kube-apiserver")
        stop(APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs, grace=DEADLINE)
        assert pods.event("ended", container="kube-apiserver")["why"].endswith("exit status 0")
        assert pods.event("ended", container="kube-controller-manager")["why"] == "leaderelection lost: SIGKILL"
        assert pods.event("started", container="kube-controller-manager", attempt=1)["why"] == "restart after 0.7 s"


@pytest.mark.long
def test_a_server_that_closed_its_listener_is_not_waited_for(tmp_path: Path, program: Path, crictl: Client) -> None:
    """An API server closes its listener and continues for open watches: it is killed when its drain time is over, not
    at the end of its grace.
    """
    port = free_port()
    with apiserver(tmp_path, program, f"--listening={port}") as (pods, reported):
        draining = Draining([Endpoint("127.0.0.1", port)], 0.1)
        terms: Any = {"grace": 4 * DEADLINE, "draining": draining}
        stop(APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, logs=pods.logs, **terms)
        assert pods.event("ended")["why"].endswith("SIGKILL")
        assert draining.over()


@pytest.mark.long
def test_who_still_listens_has_its_whole_grace(tmp_path: Path, program: Path, crictl: Client) -> None:
    """As in its shutdown delay, in which an API server serves on. Where nothing is known to listen, or nothing did
    before SIGTERM, the grace is all that counts.
    """
    with socket.create_server(("127.0.0.1", 0)) as other, apiserver(tmp_path, program, "--deaf") as (pods, reported):
        address = Endpoint("127.0.0.1", other.getsockname()[1])
        turns = list[bool]()

        class Watched(Draining):
            def over(self) -> bool:
                turns.append(super().over())
                return turns[-1]

        stop(
            APISERVER, reported["id"], crictl=crictl(pods), alive=quiet, grace=1.5,
            draining=Watched([address, Endpoint("127.0.0.1", free_port())], 0.01), logs=pods.logs,
        )  # fmt: skip
        assert pods.event("ended")["why"].endswith("SIGKILL")
    assert turns
    assert not any(turns)
    for endpoints in ((), (Endpoint("127.0.0.1", free_port()),)):
        assert not Draining(endpoints, 0).over()


# --- by the client ----------------------------------------------------------------------------------------------------


def fake(directory: Path, line: str, seconds: float = DEADLINE) -> Crictl:
    path = directory / "fake-crictl"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return Crictl((str(path),), timedelta(seconds=seconds))


def listed(*identifiers: str) -> str:
    labels = {
        "io.kubernetes.container.name": APISERVER.container,
        "io.kubernetes.pod.namespace": APISERVER.namespace,
        "io.kubernetes.pod.name": APISERVER.name,
    }
    containers = [{"id": each, "state": "CONTAINER_RUNNING", "labels": labels} for each in identifiers]
    return f"echo '{json.dumps({'containers': containers})}'"


@pytest.mark.parametrize(
    ("line", "seconds"), [("echo unreachable >&2; exit 1", DEADLINE), ("sleep 60", 0.2), ("echo garbage", DEADLINE)]
)
def test_a_client_that_fails_is_not_needed(tmp_path: Path, program: Path, line: str, seconds: float) -> None:
    """If it fails, hangs or answers garbage, the container is stopped without it, and the message reports that."""
    with apiserver(tmp_path, program) as (pods, reported):
        client = fake(tmp_path, line, seconds)
        done = stop(APISERVER, reported["id"], crictl=client, alive=quiet, grace=DEADLINE, logs=pods.logs)
        assert f"PID {reported['pid']}, was ended by SIGTERM (certmond could not use the container runtime: " in done
        assert "crictl" in done
        assert pods.event("ended")["why"] == "exit status 0"


def test_without_its_client_the_next_container_is_not_stopped_either(tmp_path: Path, program: Path) -> None:
    """A restart that never stopped the observed container does not count as done."""
    with apiserver(tmp_path, program, factor=0.01) as (pods, reported):
        os.kill(reported["pid"], signal.SIGKILL)
        pods.ready("kube-apiserver", attempt=1)
        with pytest.raises(RestartError, match="certmond stopped no container"):
            stop(APISERVER, reported["id"], crictl=fake(tmp_path, "exit 1"), alive=quiet, logs=pods.logs)
        assert len(ended(pods)) == 1


def test_a_client_that_stops_nothing_is_not_believed(tmp_path: Path, program: Path) -> None:
    """Where it knows the container and cannot stop it, its process is ended."""
    with apiserver(tmp_path, program) as (pods, reported):
        line = f'case "$*" in *ps*) {listed(reported["id"])} ;; *) exit 1 ;; esac'
        client = fake(tmp_path, line)
        done = stop(APISERVER, reported["id"], crictl=client, alive=quiet, grace=DEADLINE, logs=pods.logs)
        assert "was ended by SIGTERM (certmond could not use the container runtime: " in done
        assert pods.event("ended")["why"] == "exit status 0"


def test_a_client_that_fails_after_the_end_has_done_it(tmp_path: Path, program: Path) -> None:
    """The container that runs by then is the next one, and is left alone."""
    with apiserver(tmp_path, program, factor=0.01) as (pods, reported):
        events = pods.settings.events
        kill = f'kill {reported["pid"]}; until grep -q \'"started".*"attempt": 1\' {events}; do :; done; exit 1'
        line = f'case "$*" in *ps*) {listed(reported["id"])} ;; *) {kill} ;; esac'
        done = stop(APISERVER, reported["id"], crictl=fake(tmp_path, line), alive=quiet, logs=pods.logs)
        assert "has ended, but the container runtime reported an error" in done
        assert ended(pods) == [(reported["id"], "exit status 0")]


def test_of_two_containers_none_is_stopped(tmp_path: Path, program: Path) -> None:
    """The observed container may be either of them."""
    with apiserver(tmp_path, program) as (pods, reported):
        both = fake(tmp_path, listed(reported["id"], "cd" * 32))
        with pytest.raises(RestartError, match="certmond stopped no container"):
            stop(APISERVER, reported["id"], crictl=both, alive=quiet, logs=pods.logs)
        assert not ended(pods)


def test_a_client_of_another_runtime_stops_nothing(tmp_path: Path, program: Path) -> None:
    """Where it knows of no such container and one runs, the two do not speak of the same runtime."""
    with apiserver(tmp_path, program) as (pods, reported):
        with pytest.raises(RestartError, match="set the runtime endpoint of the kubelet"):
            stop(APISERVER, reported["id"], crictl=fake(tmp_path, listed()), alive=quiet, logs=pods.logs)
        assert not ended(pods)


@pytest.mark.long
def test_the_client_of_the_host_is_found_and_used(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the endpoint that the kubelet has to the end of the container."""
    monkeypatch.setenv("PATH", str(installed_crictl(tmp_path).parent), prepend=":")
    with apiserver(tmp_path, program) as (pods, reported):
        found = client(pods.endpoint, str(tmp_path))
        done = stop(APISERVER, reported["id"], crictl=found, alive=quiet, logs=pods.logs)
        assert done.startswith("the container runtime stopped ")
        assert ended(pods) == [(reported["id"], "stopped through the runtime: exit status 0")]


# --- by a signal ------------------------------------------------------------------------------------------------------


def reused(pid: int, program: Path) -> subprocess.Popen[bytes]:
    """Another process with the number of one that has ended."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            unavailable("the kernel does not let a process choose its number")
        process = subprocess.Popen([program])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    raise AssertionError("another process has the number")


def test_another_process_with_its_number_is_left_alone(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the container ends after it was found, and another process is given its number before it is opened."""
    with apiserver(tmp_path, program) as (pods, reported):
        innocent: list[subprocess.Popen[bytes]] = []
        real = os.pidfd_open

        def late(pid: int) -> int:
            monkeypatch.undo()
            os.kill(pid, signal.SIGKILL)
            pods.event("ended")
            innocent.append(reused(pid, program))
            return real(pid)

        monkeypatch.setattr("certmond.restart.static_pod_stop.os.pidfd_open", late)
        try:
            with pytest.raises(RestartError, match="because the PID belongs to another process now"):
                stop(APISERVER, reported["id"], crictl=None, alive=quiet, logs=pods.logs)
            assert innocent[0].poll() is None
        finally:
            for process in innocent:
                process.kill()
                process.wait()


@pytest.mark.parametrize("opened", [False, True])
def test_one_that_ends_by_itself_is_fine(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    """Whether it ends before its process is opened or after."""
    with apiserver(tmp_path, program) as (pods, reported):
        real = os.pidfd_open

        def late(pid: int) -> int:
            monkeypatch.undo()
            descriptor = real(pid)
            os.kill(pid, signal.SIGKILL)
            pods.event("ended")
            if opened:
                return descriptor
            os.close(descriptor)
            return real(pid)

        monkeypatch.setattr("certmond.restart.static_pod_stop.os.pidfd_open", late)
        done = stop(APISERVER, reported["id"], crictl=None, alive=quiet, logs=pods.logs)
        assert done.endswith(f"PID {reported['pid']}, ended before the stop")


def test_another_program_of_the_same_name_is_left_alone(tmp_path: Path, program: Path) -> None:
    """A command line may say anything: the file that runs has to have the name as well."""
    other = program.rename(tmp_path / "imposter")
    program.symlink_to(other)
    with apiserver(tmp_path, program) as (pods, reported):
        assert instance(pods) == reported["id"]
        with pytest.raises(RestartError, match="imposter instead of kube-apiserver"):
            stop(APISERVER, reported["id"], crictl=None, alive=quiet, logs=pods.logs)
        assert not ended(pods)


def test_a_program_that_was_replaced_is_recognized(tmp_path: Path, program: Path) -> None:
    """Its file is deleted, and the kernel appends that to its name."""
    with apiserver(tmp_path, program) as (pods, reported):
        program.unlink()
        assert "SIGTERM" in stop(APISERVER, reported["id"], crictl=None, alive=quiet, logs=pods.logs)


SCRIPT = """
import sys
from certmond.errors import RestartError
from certmond.services.observed_subjects import Pod
from certmond.restart.static_pod_stop import stop

container, name, executable, instance, logs = sys.argv[1:]
try:
    stop(Pod(container=container, name=name, executable=executable), instance, crictl=None, alive=int, logs=logs)
except RestartError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("privilege", "said"),
    [
        ("sys_ptrace", "because certmond cannot read the program; grant certmond CAP_SYS_PTRACE"),
        ("kill", "on this node; grant certmond CAP_KILL"),
    ],
)
def test_without_a_privilege_nothing_is_stopped(tmp_path: Path, program: Path, privilege: str, said: str) -> None:
    """The error has the missing privilege, to read the program of a process or to signal it."""
    with apiserver(tmp_path, program, "--drop-root") as (pods, reported):
        command = [real_part("setpriv"), "--bounding-set", f"-{privilege}", sys.executable, "-c", SCRIPT]
        pod = (APISERVER.container, APISERVER.name, APISERVER.executable)
        done = subprocess.run(
            [*command, *pod, reported["id"], pods.logs], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert said in done.stdout
        assert not ended(pods)


def test_a_failure_to_open_the_process_is_reported(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is not signaled by its number instead."""
    with apiserver(tmp_path, program) as (pods, reported):

        def full(pid: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr("certmond.restart.static_pod_stop.os.pidfd_open", full)
        with pytest.raises(RestartError, match=r"cannot open \(Too many open files\); raise LimitNOFILE="):
            stop(APISERVER, reported["id"], crictl=None, alive=quiet, logs=pods.logs)
        assert not ended(pods)
