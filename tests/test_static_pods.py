"""The stand-ins for a kubelet and for crictl behave as measured with the real ones and as their sources define."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from certmond.restart.static_pod_stop import stop
from certmond.services.containers import running_containers
from certmond.services.observed_subjects import Pod
from tests.builders import make_ca, make_server
from tests.static_pods import Pods, compiled, installed_crictl, interpreter, kubelet

pytestmark = pytest.mark.real("cgroup")

SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
while True:
    context.wrap_socket(listener.accept()[0], server_side=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return compiled(tmp_path).rename(tmp_path / "kube-scheduler")


def ended(pods: Pods, attempt: int) -> None:
    os.kill(pods.ready("kube-scheduler", attempt=attempt)["pid"], signal.SIGTERM)


@pytest.mark.long
def test_restarts_are_backed_off(tmp_path: Path, program: Path) -> None:
    """The first restart comes at once, the next ones later and later, of one Pod. Another manifest is a new Pod."""
    with kubelet(tmp_path, factor=0.02) as pods:
        pods.apply("kube-scheduler", {"kube-scheduler": [str(program)]})
        for attempt in range(5):
            ended(pods, attempt)
        last = pods.ready("kube-scheduler", attempt=5)
        started = pods.events(event="started")
        assert [event["why"] for event in started] == [
            "the pod is new", *(f"restart after {delay} s" for delay in (0.7, 20, 20, 45, 80)),
        ]  # fmt: skip
        assert len({event["uid"] for event in started}) == 1
        assert len({event["id"] for event in started}) == 6
        pods.apply("kube-scheduler", {"kube-scheduler": [str(program), "--v=2"]})
        assert pods.event("ended", id=last["id"])["why"] == "the pod was removed: exit status 0"
        new = pods.until(lambda: pods.events(event="started")[6:], "the new pod is there")[0]
        assert (new["attempt"], new["why"]) == (0, "the pod is new")
        assert new["uid"] != last["uid"]


def test_a_container_is_in_the_files_of_the_runtime(tmp_path: Path, program: Path) -> None:
    """Its pid and its names are there while it runs, and not afterwards."""
    with kubelet(tmp_path, factor=1000) as pods:
        pods.apply("kube-scheduler", {"kube-scheduler": [str(program)]})
        reported = pods.ready("kube-scheduler")
        directory = Path(pods.settings.tasks, reported["id"])
        config = json.loads((directory / "config.json").read_text())
        assert (directory / "init.pid").read_text() == str(reported["pid"])
        assert config["annotations"]["io.kubernetes.cri.container-name"] == "kube-scheduler"
        assert config["annotations"]["io.kubernetes.cri.sandbox-uid"] == reported["uid"]
        ended(pods, 0)
        pods.event("ended")
        assert not directory.exists()


@pytest.mark.long
def test_crictl_knows_its_flags(tmp_path: Path, program: Path) -> None:
    """Flags that it does not know, or with a value of another kind, are errors; without a timeout there is no grace."""

    def crictl(*words: str) -> tuple[int, str]:
        command = [str(installed_crictl(tmp_path)), "--runtime-endpoint", pods.endpoint, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout or done.stderr

    with kubelet(tmp_path, factor=1000) as pods:
        pods.apply("kube-scheduler", {"kube-scheduler": [str(program)]})
        reported = pods.ready("kube-scheduler")
        for words in (("--limit", "2s", "ps"), ("ps", "--format=json"), ("stop", "--signal", "TERM", reported["id"])):
            status, said = crictl(*words)
            assert (status, "flag provided but not defined" in said) == (1, True)
        for words in (("--timeout", "40", "ps"), ("stop", "--timeout", "30s", reported["id"])):
            status, said = crictl(*words)
            assert (status, "invalid value" in said) == (1, True)
        assert crictl("ps", "--name", "kube-sched", "-q") == (0, f"{reported['id']}\n")
        assert not pods.events(event="ended")
        assert crictl("stop", reported["id"]) == (0, f"{reported['id']}\n")
        assert pods.event("ended")["why"] == "stopped through the runtime: SIGKILL"
        assert crictl("ps", "-q") == (0, "")
        assert crictl("ps", "-a", "--state", "Exited", "-q") == (0, f"{reported['id']}\n")


def test_a_container_may_be_a_python_of_another_name(tmp_path: Path) -> None:
    """The container serves TLS as kube-apiserver, is detected as such, and after its restart serves the current
    files.
    """
    name = "kube-apiserver"
    environment = interpreter(tmp_path / name)
    pod = Pod(container=name, name=f"{name}-node-1", executable=name)
    address, pair, ca = tmp_path / "address", tmp_path / "pair.pem", make_ca()
    with kubelet(tmp_path, factor=0.01) as pods:

        def write() -> bytes:
            issued = make_server(ca)
            pair.write_bytes(issued.pem + issued.key_pem)
            return issued.der

        def seen_and_served(attempt: int) -> tuple[str, bytes | None]:
            reported = pods.ready(name, attempt=attempt)
            (found,) = running_containers([pod], logs=pods.logs)[pod]
            assert found.container_id == reported["id"]
            return found.container_id, served(address)

        first = write()
        command = [str(tmp_path / name), "-S", "-c", SERVER, str(pair), str(address)]
        pods.apply(name, {name: command}, environment)
        instance, der = seen_and_served(0)
        assert der == first
        second = write()
        assert served(address) == first
        address.unlink()
        stop(pod, instance, crictl=None, alive=lambda: None, logs=pods.logs)
        assert seen_and_served(1)[1] == second


def served(address: Path) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address))
        with context.wrap_socket(connection) as tls:
            return tls.getpeercert(binary_form=True)
