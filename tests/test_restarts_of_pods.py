"""Services with an older certificate than its file are restarted, on a running node of kubeadm."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import component_stand_in
from tests.builders import make_ca
from tests.conftest import real_part
from tests.control_plane import (
    COMPONENTS,
    ELECTING,
    KUBECONFIGS,
    MANAGER_CONF,
    PAIRS,
    PKI,
    SCHEDULER_CONF,
    SETTINGS,
    ControlPlane,
    control_plane,
    made,
)
from tests.daemon_harness import Running
from tests.deadline import AMPLE, DEADLINE
from tests.node import ca_like, pem
from tests.static_pods import interpreter

PATIENT = {
    "certmond.pki.assessment.key_mismatch_delay:WAIT": 10 * DEADLINE,
    "certmond.pki.services.staleness:_SETTLED": 10 * DEADLINE,
}
"""The daemon gives a writer of a certificate and its key so many seconds, however slow the host is."""

pytestmark = [pytest.mark.real("cgroup"), pytest.mark.real("unshare")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def due(template: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    """All of its certificates are due."""
    with control_plane(template, tmp_path, due=True) as node:
        yield node


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(template, tmp_path) as node:
        yield node


@pytest.fixture(params=[False, True], ids=["signal", "crictl"])
def crictl(request: pytest.FixtureRequest) -> bool:
    """Return whether a client of the container runtime exists."""
    return bool(request.param)


@pytest.fixture
def either(crictl: bool, template: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(template, tmp_path, crictl=crictl) as node:
        yield node


def restarts(daemon: Running, service: str, result: str = "proven") -> float:
    """Return the number of restarts in the metrics."""
    try:
        return daemon.number(f'certmond_restarts_total{{result="{result}",service="{service}"}}')
    except StopIteration:
        return 0


def settled(daemon: Running) -> None:
    """Wait for a complete scan and the pass after it, which leave nothing to do.

    A scan whose answer arrives together with a change of files has no pass. The function then requests another one.
    """
    looks, asked = number_of_looks(daemon), 0.0

    def looked_again() -> bool:
        nonlocal asked
        if time.monotonic() > asked + 5:
            asked = time.monotonic()
            daemon.process.send_signal(signal.SIGHUP)
        return number_of_looks(daemon) >= looks + 1

    daemon.until(looked_again, "it looks again")
    daemon.until(lambda: daemon.number('certmond_planned_steps{step="restart"}') == 0, "nothing is planned")


def number_of_looks(daemon: Running) -> float:
    return daemon.number('certmond_passes_total{cause="look"}')


def matches(daemon: Running, name: str) -> set[tuple[str, bool]]:
    """Return the served certificates, and whether each equals its file."""
    entry = daemon.entry(name)
    return {(at["sha256"], at["matches"]) for at in entry["served"]} if entry else set()


def sha256(certificate: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest()


@pytest.mark.long
def test_renewed_by_a_command(either: ControlPlane) -> None:
    """`renew --all` first writes every file, and then restarts each service that does not reload its files, once: the
    controller-manager and the scheduler. The API server and etcd continue.
    """
    node = either
    done = node.certmond("renew", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines.index("12 of 12 done") < lines.index(
        "kube-controller-manager: kube-controller-manager uses the new controller-manager.conf"
    )
    assert [line for line in lines if "uses the old" in line] == [
        # which cannot be detected here
        "kubelet uses the old kubelet-client until a restart; run: certmond restart kubelet"
    ]
    whole_node_is_proven(node)
    assert sorted(each["target"] for each in node.trail() if each.get("step") == "restart") == sorted(ELECTING * 2)
    assert node.certmond("check").returncode == 0


@pytest.mark.long
def test_renewed_by_the_daemon(due: ControlPlane) -> None:
    """The daemon does the same when everything is due, and the metrics have each restart."""
    with due.daemon() as daemon:
        daemon.until(lambda: restarts(daemon, "kube-scheduler") == 1, "the scheduler is restarted")
        daemon.until(due.is_up_to_date, "all hold what is on disk")
        settled(daemon)
        whole_node_is_proven(due)
        assert [restarts(daemon, name) for name in COMPONENTS] == [0, 0, 1, 1]
        done = [each["target"] for each in due.trail() if each["event"] == "step_done"]
        assert done[len(PAIRS) + len(KUBECONFIGS) :] == [*ELECTING]
        assert due.certmond("status", "--runtime-dir", str(daemon.runtime)).returncode == 0


def whole_node_is_proven(node: ControlPlane) -> None:
    assert node.attempts() == {"etcd": 0, "kube-apiserver": 0, "kube-controller-manager": 1, "kube-scheduler": 1}
    are_proven(node)


def are_proven(node: ControlPlane) -> None:
    assert {start["why"] for start in node.pods.events(event="started", attempt=1)} == {"restart after 0.7 s"}
    assert node.is_up_to_date()
    assert node.served("127.0.0.1:6443") == node.at(f"{PKI}/apiserver.crt").read_bytes()
    assert node.served("127.0.0.1:2379") == node.at(f"{PKI}/etcd/server.crt").read_bytes()


def mounted_alone(manifest: dict[str, Any]) -> None:
    """The API server has its pair for etcd as two single-file mounts, and therefore never reads it again."""
    if manifest["metadata"]["name"] == "kube-apiserver":
        for end in ("crt", "key"):
            path = f"{PKI}/apiserver-etcd-client.{end}"
            manifest["spec"]["volumes"].append({"name": end, "hostPath": {"path": path}})
            manifest["spec"]["containers"][0]["volumeMounts"].append({"name": end, "mountPath": path})


@pytest.mark.long
def test_who_ends_with_the_api_server(template: Path, tmp_path: Path, crictl: bool) -> None:
    """The controller-manager and the scheduler end with an API server that has to be restarted. They start again with
    the new files, and certmond does not restart them.
    """
    with control_plane(template, tmp_path, crictl=crictl, edit=mounted_alone) as node:
        done = node.certmond("renew", "--all")
        assert (done.returncode, done.stderr) == (0, "")
        assert "kube-apiserver: kube-apiserver uses the new apiserver-etcd-client" in done.stdout.splitlines()
        assert node.attempts() == {"etcd": 0, "kube-apiserver": 1, "kube-controller-manager": 1, "kube-scheduler": 1}
        are_proven(node)
        proven = ["kube-apiserver", *ELECTING]  # certmond restarted neither of the two
        assert sorted(each["target"] for each in node.trail() if each.get("step") == "restart") == sorted(proven * 2)


@pytest.mark.long
def test_an_api_server_with_open_watches(template: Path, tmp_path: Path, crictl: bool) -> None:
    """An API server with open watches closes its listener and would run for a minute. certmond kills it at the end of
    its `drain`, before the end of its `grace`. During its shutdown delay it still serves, and certmond waits.
    """

    def delayed(manifest: dict[str, Any]) -> None:
        if manifest["metadata"]["name"] == "kube-apiserver":
            manifest["spec"]["containers"][0]["command"].append("--shutdown-delay-duration=3s")

    settings = {"services": [{"name": "kube-apiserver", "grace": "10m"}]}
    with control_plane(template, tmp_path, crictl=crictl, factor=1, edit=delayed, settings=settings) as node:
        done = node.certmond("restart", "kube-apiserver")
        assert (done.returncode, done.stderr) == (0, "")
        first = node.starts("kube-apiserver")[0]
        assert node.log(first).split("ready\n")[1].split() == ["draining", "closed"]
        assert node.pods.event("ended", container="kube-apiserver")["why"].endswith("SIGKILL")


@pytest.mark.long
def test_renewed_by_a_command_beside_the_daemon(node: ControlPlane) -> None:
    """The daemon and a command complete the same restart: nothing is restarted twice."""
    with node.daemon() as daemon:
        done = node.certmond("renew", "--all")
        assert (done.returncode, done.stderr) == (0, "")
        daemon.until(node.is_up_to_date, "all hold what is on disk")
        settled(daemon)
    whole_node_is_proven(node)


@pytest.mark.long
def test_restarted_by_rote(node: ControlPlane) -> None:
    """The control: a program that restarts the three one after another causes the kubelet's backoff."""
    for name, attempt in (("kube-apiserver", 1), ("kube-controller-manager", 2), ("kube-scheduler", 2)):
        os.kill(node.starts(name)[-1]["pid"], signal.SIGTERM)
        node.pods.ready(name, attempt=attempt)
        for electing in ELECTING if name == "kube-apiserver" else ():
            node.pods.ready(electing, attempt=1)
    assert [node.starts(name)[-1]["why"] for name in ELECTING] == ["restart after 20 s"] * 2


@pytest.mark.long
@pytest.mark.parametrize(("by", "crictl"), [("write", True), ("replace", False)])
def test_one_kubeconfig(either: ControlPlane, by: str) -> None:
    """A kubeconfig that is rewritten, in place like kubeadm or by a rename, has its only reader restarted once. No
    other component restarts.
    """
    node = either
    with node.daemon() as daemon:
        getattr(node, by)(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
        daemon.until(lambda: restarts(daemon, "kube-scheduler") == 1, "the scheduler is restarted")
        assert node.held("kube-scheduler") == {SCHEDULER_CONF: node.sha256(SCHEDULER_CONF)}
        settled(daemon)
    assert node.attempts() == {name: int(name == "kube-scheduler") for name in COMPONENTS}


@pytest.mark.long
@pytest.mark.parametrize("by", ["write", "replace"])
def test_what_is_reloaded(node: ControlPlane, by: str) -> None:
    """A pair that is read for each handshake takes effect without a restart. The moment in which its two files do not
    match is no finding.
    """
    certificate, key = node.pair("apiserver")
    with node.daemon(HURRY=json.dumps(PATIENT)) as daemon:
        passes = daemon.passes()
        getattr(node, by)(f"{PKI}/apiserver.key", key)
        daemon.until(lambda: daemon.passes() > passes, "a pass ran after the change of the key")
        getattr(node, by)(f"{PKI}/apiserver.crt", certificate)
        daemon.until(lambda: matches(daemon, "apiserver") == {(sha256(certificate), True)}, "it is served")
        settled(daemon)
        assert "finding_raised" not in daemon.log.read_text()
    assert set(node.attempts().values()) == {0}
    assert node.trail() == []


@pytest.mark.long
def test_decoys(template: Path, tmp_path: Path, crictl: bool) -> None:
    """A process of the same name on the host, the same container in another pod, and another container in the same pod
    live on.
    """
    idle = ["-S", "-c", "import signal; print('ready', flush=True); signal.pause()"]
    environment = interpreter(tmp_path / "sidecar")
    program = str(template / "bin/kube-scheduler")

    def add_sidecar(manifest: dict[str, Any]) -> None:
        (first,) = manifest["spec"]["containers"]
        if first["name"] == "kube-scheduler":
            command = [str(tmp_path / "sidecar"), *idle]
            manifest["spec"]["containers"].append({"name": "sidecar", "command": command, "env": first["env"]})

    with (
        control_plane(template, tmp_path, crictl=crictl, edit=add_sidecar) as node,
        subprocess.Popen([program, *idle], env=environment, stdout=subprocess.PIPE) as unrelated,
    ):
        try:
            node.pods.apply("another", {"kube-scheduler": [program, *idle]}, environment)
            for name, pod in (("sidecar", "kube-scheduler-node-1"), ("kube-scheduler", "another-node-1")):
                node.pods.ready(name, pod=pod)
            node.replace(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
            done = node.certmond("restart", "--stale")
            assert done.returncode == 0, done.stdout + done.stderr
            (ended,) = node.pods.events(event="ended")
            assert (ended["pod"], ended["container"]) == ("kube-scheduler-node-1", "kube-scheduler")
            assert unrelated.poll() is None
        finally:
            unrelated.kill()


@pytest.mark.long
def test_a_component_that_fails_gets_the_previous_kubeconfig_back(template: Path, tmp_path: Path) -> None:
    """A component that does not start with its new kubeconfig gets the previous one back, once. The finding stays
    critical, without another attempt until the file changes.
    """
    terms = {**SETTINGS["restart"], "spacing": "1s"}
    # With a shorter back-off than this, the kubelet would often start it while certmond restores the file.
    with control_plane(template, tmp_path, settings={"restart": terms}) as node:
        former = node.sha256(MANAGER_CONF)
        with node.daemon() as daemon:
            daemon.until(lambda: node.keeps("controller-manager.conf"), "the old file is kept")
            node.replace(MANAGER_CONF, node.kubeconfig(MANAGER_CONF, component_stand_in.UNUSABLE))
            daemon.until(lambda: restarts(daemon, "kube-controller-manager", "taken_back") == 1, "it is taken back")
            assert node.sha256(MANAGER_CONF) == node.held("kube-controller-manager")[MANAGER_CONF] == former
            daemon.until(lambda: "restart_failed" in daemon.reasons("controller-manager.conf"), "it is reported")
            findings = node.findings(daemon, "controller-manager.conf")
            assert findings["restart_failed"][0] == "critical"
            settled(daemon)
            attempts = node.attempts()
            node.replace(MANAGER_CONF, node.kubeconfig(MANAGER_CONF))
            daemon.until(lambda: restarts(daemon, "kube-controller-manager", "proven") == 1, "a good one is taken up")
            daemon.until(lambda: not daemon.reasons("controller-manager.conf"), "nothing is left of it")
            assert node.attempts() == {**attempts, "kube-controller-manager": attempts["kube-controller-manager"] + 1}
        assert stops(node, "kube-controller-manager") == 2


def stops(node: ControlPlane, name: str) -> int:
    """Return how often certmond has stopped a component that ran with a usable file."""
    return sum(each["why"] == "exit status 0" for each in node.pods.events(event="ended", container=name))


@pytest.mark.long
def test_what_does_not_reload(template: Path, tmp_path: Path) -> None:
    """A component that still serves the old certificate, although it reloads files, is restarted after a delay. The
    certificate that it serves then is the proof.
    """
    with control_plane(template, tmp_path, edit=keep_the_pair) as node, node.daemon() as daemon:
        certificate, key = node.pair("etcd/server")
        node.replace(f"{PKI}/etcd/server.key", key)
        node.replace(f"{PKI}/etcd/server.crt", certificate)
        daemon.until(lambda: restarts(daemon, "etcd") == 1, "etcd is restarted")
        settled(daemon)
        assert node.attempts() == {name: int(name == "etcd") for name in COMPONENTS}
        assert node.served("127.0.0.1:2379") == certificate
        (begun,) = (each for each in node.trail() if each["event"] == "step_begun")
        assert begun["cause"] == "served_differs"


def keep_the_pair(manifest: dict[str, Any]) -> None:
    """The component does not read its pair again."""
    manifest["spec"]["containers"][0]["env"].append({"name": "STAND_IN_KEEPS", "value": "1"})


@pytest.mark.long
def test_without_a_kubelet(node: ControlPlane) -> None:
    """While the kubelet is not healthy, certmond stops nothing, because only the kubelet restarts it."""
    config = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "healthzPort": 10248}
    node.at("/var/lib/kubelet/config.yaml").write_text(yaml.safe_dump(config))
    node.replace(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
    with node.started("restart", "--stale") as command:
        assert command.stdout
        assert any("kube-scheduler: waits for the kubelet" in line for line in iter(command.stdout.readline, ""))
        assert node.pods.events(event="ended") == []
        server = [*node.inside, sys.executable, "-m", "http.server", "--directory", str(node.work), "10248"]
        (node.work / "healthz").touch()
        with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as healthz:
            try:
                assert "kube-scheduler uses the new scheduler.conf" in command.communicate(timeout=DEADLINE)[0]
            finally:
                healthz.kill()


@pytest.mark.long
def test_another_root_ca(template: Path, tmp_path: Path) -> None:
    """With `on_change: alarm`, another Root CA restarts no component. A finding reports that it is not in use."""
    settings = {"root_ca": {"on_change": "alarm"}}
    with control_plane(template, tmp_path, settings=settings) as node, node.daemon() as daemon:
        old = node.tree.certificate(f"{PKI[1:]}/ca.crt")
        node.replace(f"{PKI}/ca.crt", pem(ca_like(old, node.tree.key(f"{PKI[1:]}/ca.key"))))
        daemon.until(lambda: "restart_pending" in daemon.reasons("ca"), "it is reported")
        settled(daemon)
        held = [each for each in node.json("plan")["held"] if each["target"] == "kube-controller-manager"]
        assert "start a rotation instead of a restart" in held[0]["because"]
        assert set(node.attempts().values()) == {0}


@pytest.mark.long
def test_the_same_cas_in_other_bytes(node: ControlPlane) -> None:
    """A CA file that is rewritten with the same set of certificates makes no component stale. One certificate more
    does.
    """
    path = f"{PKI}/etcd/ca.crt"
    own, other = node.at(path).read_bytes(), make_ca("etcd-ca").pem
    with node.daemon() as daemon:
        daemon.until(lambda: knows(node, path), "the content is stored")
        node.replace(path, b"# the same\n" + own + own)
        settled(daemon)
        assert "restart_pending" not in daemon.reasons("etcd-ca")
        node.replace(path, own + other)
        daemon.until(lambda: "restart_pending" in daemon.reasons("etcd-ca"), "it is reported")
    assert set(node.attempts().values()) == {0}


def knows(node: ControlPlane, path: str) -> bool:
    """The daemon has noted since when the file has its content."""
    with suppress(FileNotFoundError, ValueError):
        return path in (node.state / "changes.json").read_text()
    return False


MOMENTS = [
    ("signal", "before the stop"), ("signal", "while it drains"), ("crictl", "while it drains"),
    ("crictl", "in the proof"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("means", "moment"), MOMENTS)
def test_killed_in_a_restart(template: Path, tmp_path: Path, means: str, moment: str) -> None:
    """A daemon that is killed during a restart continues it after its next start, and stops no process twice."""
    name = "kube-apiserver"

    def edit(manifest: dict[str, Any]) -> None:
        mounted_alone(manifest)
        if moment == "while it drains" and manifest["metadata"]["name"] == name:
            (container,) = manifest["spec"]["containers"]
            container["env"].append({"name": "STAND_IN_DRAIN", "value": "3600"})

    endless: dict[str, dict[str, Any]] = {  # so that the moment lasts until the daemon is killed
        "while it drains": {"services": [{"name": name, "drain": AMPLE, "grace": AMPLE}]},
        "in the proof": {"restart": {**SETTINGS["restart"], "stable": AMPLE}},
    }
    with control_plane(
        template, tmp_path, crictl=means == "crictl", edit=edit, settings=endless.get(moment, {})
    ) as node:
        certificate, key = node.pair("apiserver-etcd-client")
        with ExitStack() as traced, node.daemon() as daemon:
            daemon.until(lambda: node.keeps("apiserver-etcd-client"), "the old files are kept")
            if moment == "before the stop":
                traced.enter_context(killing(daemon, "pidfd_send_signal"))
            node.replace(f"{PKI}/apiserver-etcd-client.key", key)
            node.replace(f"{PKI}/apiserver-etcd-client.crt", certificate)
            if moment == "while it drains":
                daemon.until(lambda: "draining" in node.log(node.starts(name)[0]), "it has received SIGTERM")
                daemon.process.kill()
            elif moment == "in the proof":
                node.pods.ready(name, attempt=1)
                daemon.until(lambda: stage(node, name) == "prove", "it is being proven")
                daemon.process.kill()
            assert daemon.process.wait(DEADLINE) == -signal.SIGKILL
        assert stage(node, name) == ("prove" if moment == "in the proof" else "act")
        assert ("draining" in node.log(node.starts(name)[0])) == (moment != "before the stop")
        node.configure(services=[{"name": name, "grace": "2s"}], restart=SETTINGS["restart"])
        with node.daemon() as daemon:
            daemon.until(lambda: restarts(daemon, name) == 1, "the restart is brought to its end")
            daemon.until(node.is_up_to_date, "all hold what is on disk")
            settled(daemon)
        assert node.attempts() == {"etcd": 0, name: 1, "kube-controller-manager": 1, "kube-scheduler": 1}


RECOVERY = """
import sys
from pathlib import Path
from certmond.transaction.commit import Transactions
with Transactions("/", Path(sys.argv[1])).lock() as writer:
    writer.recover()
"""


@pytest.mark.long
@pytest.mark.parametrize("started", [False, True], ids=["then", "before"])
def test_killed_in_a_rollback(template: Path, tmp_path: Path, started: bool) -> None:
    """A daemon that is killed between the decision to restore a file and its presence restores it after its restart,
    and ends the episode in the same way. It does not stop a component that the kubelet has started with this file.
    """
    name, conf = "kube-controller-manager", os.path.basename(MANAGER_CONF)
    with control_plane(template, tmp_path) as node:
        former = node.sha256(MANAGER_CONF)
        with node.daemon() as daemon:
            daemon.until(lambda: node.keeps(conf), "the old file is kept")
            with killing(daemon, "rename", "renameat", "renameat2", path=conf):
                node.replace(MANAGER_CONF, node.kubeconfig(MANAGER_CONF, component_stand_in.UNUSABLE))
                assert daemon.process.wait(DEADLINE) == -signal.SIGKILL
        assert stage(node, name) == "put_back"
        assert node.sha256(MANAGER_CONF) != former
        if started:
            subprocess.run([*node.inside, sys.executable, "-c", RECOVERY, node.state], check=True)
            assert node.sha256(MANAGER_CONF) == former
            node.pods.until(lambda: node.held(name).get(MANAGER_CONF) == former, "the kubelet starts it")
        with node.daemon() as daemon:
            daemon.until(lambda: restarts(daemon, name, "taken_back") == 1, "it is taken back", within=2 * DEADLINE)
            assert node.sha256(MANAGER_CONF) == node.held(name)[MANAGER_CONF] == former
            settled(daemon)
        assert stops(node, name) == 1


@contextmanager
def killing(daemon: Running, *calls: str, path: str = "") -> Iterator[None]:
    """Kill the daemon as it makes the first of these system calls, with `path` in it: the call itself is not made."""
    named = ",".join(calls)
    only = ("-P", path) if path else ()
    words = (real_part("strace"), "-f", "-p", str(daemon.process.pid), *only, "-e", f"trace={named}")
    with subprocess.Popen((*words, "-e", f"inject={named}:signal=KILL:when=1"), stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr
        try:
            said = tracer.stderr.readline()
            assert b"attached" in said, said
            yield
        finally:
            tracer.kill()


def stage(node: ControlPlane, service: str) -> str:
    """Return the stage in the record of the running restart."""
    episode = node.past(service).get("episode")
    return str(episode["stage"]) if episode else ""


@pytest.mark.long
def test_what_does_not_run(template: Path, tmp_path: Path) -> None:
    """A component that has no manifest is left alone, whatever becomes of its files; so is all of a worker's."""
    with control_plane(template, tmp_path, components=COMPONENTS[:3]) as node:
        node.replace(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
        assert node.json("plan")["steps"] == []
        done = node.certmond("restart", "--stale")
        assert (done.returncode, done.stdout) == (0, "nothing to restart\n")
        assert node.json("restart", "--stale") == {"schema": 1, "restarts": {}, "held": []}
        for name in ("etcd", "kube-apiserver", "kube-controller-manager"):
            node.pods.remove(name)
        for path in (*KUBECONFIGS, *(f"{PKI}/{name}.crt" for name in PAIRS)):
            node.at(path).unlink()
        node.pods.until(lambda: len(node.pods.events(event="ended")) == 3, "all have ended")
        assert node.json("plan")["steps"] == []
        assert node.certmond("restart", "--stale").returncode == 0
        assert len(node.pods.events(event="started")) == 3


@pytest.mark.long
def test_observe_mode(template: Path, tmp_path: Path) -> None:
    """In observe mode certmond reports stale components as findings and metrics. It restarts nothing and writes only to
    its own directories.
    """
    settings = {"mode": "observe"}
    with control_plane(template, tmp_path, edit=keep_the_pair, settings=settings) as node, node.daemon() as daemon:
        certificate, key = node.pair("apiserver")
        node.replace(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
        node.replace(f"{PKI}/apiserver.key", key)
        node.replace(f"{PKI}/apiserver.crt", certificate)
        before = tree(node.root)
        daemon.until(lambda: "restart_pending" in daemon.reasons("scheduler.conf"), "one is older than its file")
        daemon.until(lambda: "served_differs" in daemon.reasons("apiserver"), "another certificate is served")
        assert daemon.series("certmond_certificate_served_matches", "apiserver") == [0]
        assert daemon.series("certmond_certificate_served_matches", "etcd-server") == [1]
        assert "kube-scheduler" in node.findings(daemon, "scheduler.conf")["restart_pending"][1]
        daemon.until(lambda: daemon.number('certmond_planned_steps{step="restart"}') == 2, "they are planned")
        looks = number_of_looks(daemon)
        daemon.until(lambda: number_of_looks(daemon) >= looks + 2, "it looks again and again")
        assert tree(node.root) == before
        assert {file.name for file in node.state.iterdir()} == {"changes.json", "subjects.json"}
        assert set(node.attempts().values()) == {0}


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file that is not a log: which one it is, and when it was changed."""
    found = (Path(top, name) for top, _, names in os.walk(root) for name in names if "log" not in top)
    return {str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in found}


@pytest.mark.long
def test_the_verbs(node: ControlPlane) -> None:
    """`plan` has each restart with its reason, `check -o wide` the served certificate and its users, and `restart` uses
    the daemon's procedure, with a line for each step. An unknown or stopped service is refused.
    """
    node.replace(SCHEDULER_CONF, node.kubeconfig(SCHEDULER_CONF))
    (step,) = node.json("plan")["steps"]
    assert (step["step"], step["target"], step["reason"]) == ("restart", "kube-scheduler", "restart_pending")
    assert f"has not read {SCHEDULER_CONF}, which changed at" in step["detail"]
    wide = node.certmond("check", "-o", "wide").stdout
    assert "127.0.0.1:6443 matches" in wide
    assert "192.0.2.10:2380 matches" in wide
    assert "kube-scheduler (restart, since" in wide
    done = node.certmond("restart", "kube-scheduler")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.partition(" (since ")[0] for line in done.stdout.splitlines() if "to stop changing" not in line]
    assert "was ended by SIGTERM" in lines[0]
    not_ready = "waiting: kube-scheduler: is not verified yet: https://127.0.0.1:10259/healthz does not"
    assert [line for line in lines[1:] if not_ready not in line] == [
        "waiting: kube-scheduler: is healthy in 1 of 3 checks", "waiting: kube-scheduler: is healthy in 2 of 3 checks",
        "kube-scheduler: kube-scheduler uses the new scheduler.conf",
    ]  # fmt: skip
    assert node.attempts() == {name: int(name == "kube-scheduler") for name in COMPONENTS}
    unknown = node.certmond("restart", "nonsense")
    assert unknown.returncode == 3
    assert "there is no service nonsense; the services are: etcd, kube-apiserver" in unknown.stderr
    node.pods.remove("kube-scheduler")
    node.pods.event("ended", container="kube-scheduler", attempt=1)
    stopped = node.certmond("restart", "kube-scheduler")
    assert (stopped.returncode, stopped.stdout) == (3, "")
    assert "kube-scheduler is not a static Pod of this node" in stopped.stderr
