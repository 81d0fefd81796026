"""The image of the DaemonSet: built without a network from the package, and run as the base of Kustomize says."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import real_part
from tests.deadline import DEADLINE
from tests.node import PKI, Node
from tests.packaging.conftest import BUILD_DEADLINE, REPOSITORY
from tests.packaging.test_kustomize import rendered

BASE, IMAGE = "localhost/certmond-test-base", "localhost/certmond-test"
PYTHON = "/usr/lib/certmond/bin/python3"
GET = "import sys, urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9964' + sys.argv[1]).read().decode())"

pytestmark = [
    pytest.mark.long,
    pytest.mark.sampled("package"),
    pytest.mark.real("podman"),
    pytest.mark.timeout(2 * BUILD_DEADLINE),
]


class Podman:
    """podman with a separate store, without changes to this machine."""

    def __init__(self, work: Path) -> None:
        self._command = [
            real_part("podman"), "--runtime", real_part("runc"), "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "none",
            "--root", str(work / "store"), "--runroot", str(work / "run"), "--tmpdir", str(work / "tmp"),
        ]  # fmt: skip

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
            env={**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
        )  # fmt: skip

    def run(self, *arguments: str | Path) -> str:
        done = self.attempt(*arguments)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done.stdout

    def limits(self) -> list[str]:
        """The limits of this process: podman would raise them."""
        pairs = (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        return [f"--ulimit={name}={min(resource.getrlimit(limit)[0], 4096)}" for name, limit in pairs]


NEEDED = ("base-files", "bash", "coreutils", "dash", "dpkg", "libsystemd0", "python3", "tar")


def base_files() -> list[str]:
    """Return the files of this machine's packages that a base with python3 has: the release that the package is for."""
    less = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    depends = ["apt-cache", "depends", "--recurse", "--installed", *less, *NEEDED]
    lines = subprocess.run(depends, check=True, capture_output=True, text=True).stdout.splitlines()
    packages = [line for line in lines if line[:1].isalnum()]
    listed = subprocess.run(["dpkg", "-L", *packages], check=False, capture_output=True, text=True).stdout
    files = {Path(name) for name in listed.splitlines() if name.startswith("/") and os.path.lexists(name)}
    found = {str(file.parent.resolve() / file.name) for file in files}  # /lib is a symlink
    made = ["/bin", "/lib", "/lib64", "/sbin", "/etc/passwd", "/etc/group"]  # at the installation of a machine
    return [*made, *sorted(found - {"/", "/.", *made})]


@pytest.fixture(scope="module")
def image(built: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """The image, in a store that has nothing else."""
    work = tmp_path_factory.mktemp("image")
    podman = Podman(work)
    names, base, context = work / "names", work / "base.tar", work / "context"
    names.write_text("\n".join(base_files()))
    subprocess.run(["tar", "--no-recursion", "-C", "/", "-cf", base, "-T", names], check=True, capture_output=True)
    podman.run("import", base, BASE)
    context.mkdir()
    shutil.copy(built[".deb"], context)
    podman.run(
        "build", *podman.limits(), "--network", "none", "--pull=never", "--build-arg", f"BASE={BASE}",
        "--file", REPOSITORY / "packaging/Containerfile", "--tag", IMAGE, context,
    )  # fmt: skip
    yield podman
    podman.run("rmi", "--all", "--force")


class Pod:
    """The containers of the DaemonSet, whose paths of the host are below `tree`."""

    def __init__(self, podman: Podman, tree: Path, work: Path) -> None:
        objects = rendered("observe")
        self._podman, self.tree = podman, tree
        self._spec = objects["DaemonSet"]["spec"]["template"]["spec"]
        self._places = {"config": work / "config", "run": work / "run"}
        for place in self._places.values():
            place.mkdir()
        self._places["run"].chmod(0o777)  # as the kubelet makes an emptyDir
        for name, text in objects["ConfigMap"]["data"].items():
            (self._places["config"] / name).write_text(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for container in self._spec["containers"]:
                name = f"certmond-test-{container['name']}"
                self._podman.run(
                    "run", "--detach", "--name", name, *self._options(container), IMAGE, *container["args"]
                )
                stack.callback(self._podman.run, "rm", "--force", name)
            yield

    def _options(self, container: dict[str, Any]) -> list[str]:
        context = self._spec["securityContext"]
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        volumes = {each["name"]: each for each in self._spec["volumes"]}
        options = [
            *self._podman.limits(), "--network", "none", "--pull", "never", "--user", user, "--cap-drop", "all",
            "--read-only", "--read-only-tmpfs=false", "--security-opt", "no-new-privileges",
        ]  # fmt: skip
        for mount in container["volumeMounts"]:
            host = volumes[mount["name"]].get("hostPath")
            place = self.tree / host["path"].lstrip("/") if host else self._places[mount["name"]]
            options += ["--volume", f"{place}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"]
        return options

    def attempt(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, as the user of the container."""
        return self._podman.attempt("exec", f"certmond-test-{container}", *command)

    def get(self, path: str) -> str:
        """Return the answer of the container that listens, or the empty string while the container does not answer."""
        return self.attempt("web", PYTHON, "-I", "-c", GET, path).stdout


@pytest.fixture
def pod(image: Podman, tmp_path: Path) -> Iterator[Pod]:
    tree = tmp_path / "node"
    tree.mkdir()
    pod = Pod(image, tree, tmp_path)
    Node(tree)
    with pod.running():
        yield pod


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until `holds`; fail after the deadline."""
    end = time.monotonic() + DEADLINE
    while not (found := holds()):
        assert time.monotonic() < end, f"{what}: never so"
        time.sleep(0.05)
    return found


def test_the_pods_of_the_base_observe_a_node(pod: Pod) -> None:
    """The daemon checks each readable certificate of the node, reads no key, and changes nothing. The other container
    serves the metrics, and has no file of the node.
    """
    until(lambda: pod.get("/readyz"), "ready")
    metrics = pod.get("/metrics")
    assert metrics.count("\ncertmond_certificate_not_after_timestamp_seconds{") == 10
    assert f'certmond_certificate_chain_valid{{certificate="apiserver",path="/{PKI}/apiserver.crt"}} 1' in metrics
    assert 'certmond_mode{mode="observe"} 1' in metrics
    status = json.loads(pod.get("/api/v1/status"))
    found = [each for entry in status["certificates"] for each in entry["findings"]]
    assert not [each["message"] for each in found if each["severity"] != "info"]

    assert pod.attempt("certmond", "cat", f"/{PKI}/apiserver.crt").returncode == 0
    for command in (["cat", f"/{PKI}/ca.key"], ["cat", f"/{PKI}/sa.pub"], ["touch", f"/{PKI}/new"], ["touch", "/new"]):
        assert pod.attempt("certmond", *command).returncode != 0, command
    assert pod.attempt("web", "ls", "/etc/kubernetes").returncode != 0
    assert pod.attempt("web", "touch", "/run/certmond/new").returncode != 0


def test_a_change_of_the_node_is_seen(pod: Pod) -> None:
    """The daemon sees a broken certificate on the host, although it sees the host through a mount."""
    until(lambda: pod.get("/readyz"), "ready")
    broken = pod.tree / f"{PKI}/apiserver.crt"
    broken.write_text("no certificate")
    until(lambda: 'path="/etc/kubernetes/pki/apiserver.crt",reason="' in pod.get("/metrics"), "the finding")
