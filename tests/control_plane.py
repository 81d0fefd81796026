"""A running control-plane node: the tree of `certmond init`, the manifests of kubeadm, and stand-ins for its programs.

The node has its own mount and network namespaces. There its tree is at "/", and it has the addresses and ports of
kubeadm. On this machine it leaves only processes that end with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

from tests import component_stand_in, hurried_certmond, preloaded_certmond
from tests.builders import DAY, make_ca, make_server
from tests.conftest import real_part, unavailable
from tests.daemon_harness import Running, running
from tests.deadline import AMPLE, DEADLINE
from tests.node import DATA, Node, key_pem, pem
from tests.static_pods import Pods, installed_crictl, interpreter, kubelet

NODE, ADDRESS = "node-1", "192.0.2.10"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ELECTING = ("kube-controller-manager", "kube-scheduler")
MANAGER_CONF, SCHEDULER_CONF = "/etc/kubernetes/controller-manager.conf", "/etc/kubernetes/scheduler.conf"
KUBECONFIGS = (MANAGER_CONF, SCHEDULER_CONF, "/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf")
PKI = "/etc/kubernetes/pki"
PAIRS = {
    "apiserver": "ca", "apiserver-kubelet-client": "ca", "front-proxy-client": "front-proxy-ca",
    "apiserver-etcd-client": "etcd/ca", "etcd/server": "etcd/ca", "etcd/peer": "etcd/ca",
    "etcd/healthcheck-client": "etcd/ca",
}  # fmt: skip
"""Below pki/, each with its CA."""

Dates = tuple[datetime | None, datetime | None]
AS_BEFORE: Dates = (None, None)
"""The start and end of the validity; None keeps the present dates."""

SETTINGS: dict[str, Any] = {
    "mode": "enforce",
    "node_name": NODE,
    "key_algorithm": "ECDSA-P256",
    "init": {"advertise_address": ADDRESS},
    "hold": {"unsynchronised_clock": False},
    "poll": "1s",
    "restart": {"reload_within": "3s", "ready_within": AMPLE, "stable": "1s"},
}

_INSIDE = """
set -e
ip link set lo up
ip address add "$2" dev lo
mkdir "$1/of-the-host"
mount --bind /etc "$1/of-the-host"
mount --bind "$1/node/etc" /etc
mount --bind "$1/node/var/lib" /var/lib
mount --bind "$1/node/var/log" /var/log
mount -t tmpfs tmpfs /run
echo ready
exec cat
"""


class Tree(Node):
    """The tree that certmond has made in place of kubeadm's."""

    def __init__(self, root: Path) -> None:
        self.root = root


class ControlPlane:
    """A node below `work`, stopped or running."""

    def __init__(self, work: Path, components: Sequence[str] = COMPONENTS) -> None:
        self.work = work
        self.root = work / "node"
        self.tree = Tree(self.root)
        self.components = tuple(components)
        self.settings = SETTINGS
        self.inside: list[str] = []
        """The prefix of a command that runs it on this node."""
        self.pods: Pods  # once it runs
        self.program = hurried_certmond.PROGRAM
        """The command of a certmond that acts for longer than a moment, after the interpreter."""
        self.path = "/usr/sbin:/usr/bin:/sbin:/bin"

    @property
    def state(self) -> Path:
        return self.work / "state"

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def configure(self, **settings: Any) -> None:
        """Write certmond's configuration, changed by these."""
        self.settings = {**self.settings, **settings}
        path = self.at("/etc/certmond/config.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.settings))

    # --- its files, as other programs write them ----------------------------------------------------------------------

    def pair(self, name: str, dates: Dates = AS_BEFORE) -> tuple[bytes, bytes]:
        """A new certificate like that of pki/`name`.crt, and its key."""
        return self._mint(self.tree.certificate(f"{PKI[1:]}/{name}.crt"), PAIRS[name], dates)

    def kubeconfig(self, path: str, more: bytes = b"", dates: Dates = AS_BEFORE) -> bytes:
        """Return the kubeconfig at `path` with a new certificate, followed by `more`."""
        document = yaml.safe_load(self.at(path).read_bytes())
        user = document["users"][0]["user"]
        old = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))
        certificate, key = map(base64.b64encode, self._mint(old, "ca", dates))
        user |= {"client-certificate-data": certificate.decode(), "client-key-data": key.decode()}
        return yaml.safe_dump(document).encode() + more

    def _mint(self, old: x509.Certificate, ca: str, dates: Dates) -> tuple[bytes, bytes]:
        certificate, key = self.tree.mint(old, f"{PKI[1:]}/{ca}", start=dates[0], end=dates[1])
        return pem(certificate), key_pem(key)

    def age(self) -> None:
        """Every certificate but those of CAs and kubelet is due."""
        now = datetime.now(UTC)
        dates = now - 355 * DAY, now + 10 * DAY
        for name in PAIRS:
            for path, content in zip((f"{PKI}/{name}.crt", f"{PKI}/{name}.key"), self.pair(name, dates), strict=True):
                self.write(path, content)
        for path in KUBECONFIGS:
            self.write(path, self.kubeconfig(path, dates=dates))

    def write(self, path: str, content: bytes) -> None:
        """Write in place, like kubeadm."""
        self.at(path).write_bytes(content)

    def replace(self, path: str, content: bytes) -> None:
        """Replace the file by a rename from outside the watched directories."""
        staged = self.work / "staged"
        staged.write_bytes(content)
        staged.chmod(self.at(path).stat().st_mode & 0o777)
        staged.rename(self.at(path))

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.at(path).read_bytes()).hexdigest()

    # --- its processes ------------------------------------------------------------------------------------------------

    def starts(self, container: str) -> list[dict[str, Any]]:
        return self.pods.events(event="started", container=container)

    def attempts(self) -> dict[str, int]:
        """Return the number of restarts of each component."""
        return {name: len(self.starts(name)) - 1 for name in self.components}

    def log(self, start: dict[str, Any]) -> str:
        pod = f"kube-system_{start['pod']}_{start['uid']}"
        path = Path(self.pods.logs, pod, start["container"], f"{start['attempt']}.log")
        with suppress(FileNotFoundError):
            return path.read_text()
        return ""

    def held(self, container: str) -> dict[str, str]:
        """Return what the newest process of the container has read at its start: path -> SHA-256."""
        lines = map(str.split, self.log(self.starts(container)[-1]).splitlines())
        return {words[1]: words[2] for words in lines if words[0] == "holds"}

    def is_up_to_date(self) -> bool:
        """Return whether every component runs and has read the files on disk, by its own report."""
        newest = [self.starts(name)[-1] for name in self.components]
        return all("ready" in self.log(start) and "draining" not in self.log(start) for start in newest) and all(
            self.sha256(path) == held for name in self.components for path, held in self.held(name).items()
        )

    def served(self, endpoint: str) -> bytes:
        """The certificate that is served there (PEM), by another client than certmond's."""
        host, _, port = endpoint.rpartition(":")
        script = f"import ssl; print(ssl.get_server_certificate(({host!r}, {port})), end='')"
        return self.run(sys.executable, "-c", script, check=True).stdout.encode()

    # --- certmond on it -----------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=check,
            env=self.environment,
        )

    def certmond(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = ["--state-dir", str(self.state), *arguments]
        namespaces = preloaded_certmond.namespaces_of(self.inside) or ()
        return preloaded_certmond.run(words, DEADLINE, self.environment, namespaces=namespaces)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of certmond that runs meanwhile."""
        command = [*self.inside, sys.executable, "-u", *self.program, "--state-dir", str(self.state), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)

    def json(self, *arguments: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.certmond(*arguments, "-o", "json").stdout)
        return document

    def daemon(self, *before: str, **environment: str) -> AbstractContextManager[Running]:
        """Run `certmond run`; `before` is the prefix of the command. It has these variables in its environment."""
        options = ("--state-dir", str(self.state))
        terms: Any = {"before": (*self.inside, *before), "program": self.program, "PATH": self.path, **environment}
        return running(Path("/"), self.work, *options, **terms)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": self.path, "PYTHONWARNINGS": "error"}

    def past(self, service: str) -> dict[str, Any]:
        """Return what certmond recorded of its restarts of the service."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.state / "restarts.json").read_text())["content"].get(service, {})
            return found
        return {}

    def trail(self) -> list[dict[str, Any]]:
        """Return the entries of the audit log."""
        with suppress(FileNotFoundError):
            return list(map(json.loads, (self.state / "audit.log").read_text().splitlines()))
        return []

    def keeps(self, name: str) -> bool:
        """The archive has a generation of the certificate."""
        return name in self.certmond("archive", "list").stdout

    def findings(self, daemon: Running, name: str) -> dict[str, tuple[str, str]]:
        """Return the findings of a certificate: reason -> severity, message."""
        entry = daemon.entry(name)
        found = entry["findings"] if entry else ()
        return {each["reason"]: (each["severity"], each["message"]) for each in found}


def made(work: Path) -> Path:
    """A node that was set up and has never run, to be copied by `control_plane`."""
    node = ControlPlane(work)
    node.root.mkdir()
    with tarfile.open(DATA / "kubeadm-1.24.tar") as archive:
        for name in COMPONENTS:
            path = node.at(f"/etc/kubernetes/manifests/{name}.yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            manifest = archive.extractfile(path.relative_to(node.root).as_posix())
            assert manifest
            path.write_bytes(manifest.read().replace(b"controller-0", NODE.encode()))
    node.configure()
    options = ("--root", str(node.root), "--config", str(node.at("/etc/certmond/config.yaml")))
    command = [sys.executable, "-m", "certmond", "init", *options, "--state-dir", str(node.state)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(node.state)
    programs = work / "bin"
    programs.mkdir()
    for name in COMPONENTS:
        interpreter(programs / name)
    own = make_server(make_ca())
    (work / "own.pem").write_bytes(own.pem + own.key_pem)
    return work


@contextmanager
def control_plane(
    made: Path,
    work: Path,
    *,
    crictl: bool = False,
    factor: float = 0.05,
    components: Sequence[str] = COMPONENTS,
    edit: Callable[[dict[str, Any]], None] = lambda _: None,
    due: bool = False,
    settings: Any = (),
) -> Iterator[ControlPlane]:
    """Run such a node until the block ends. `factor` scales the kubelet's times; `edit` changes each manifest."""
    node = ControlPlane(work, components)
    shutil.copytree(made / "node", node.root, symlinks=True)
    node.configure(**dict(settings))
    if due:
        node.age()
    manifests = node.at("/etc/kubernetes/manifests")
    environment = {**interpreter(work / "python"), "STAND_IN_PAIR": str(made)}
    for path in manifests.iterdir():
        manifest = yaml.safe_load(path.read_bytes())
        path.unlink()
        if path.stem not in components:
            continue
        (container,) = manifest["spec"]["containers"]
        program = [str(made / "bin" / path.stem), "-S", component_stand_in.__file__]
        container["command"] = [*program, *container["command"][1:]]
        container["env"] = [{"name": key, "value": value} for key, value in environment.items()]
        edit(manifest)
        path.write_text(yaml.safe_dump(manifest))
    with namespaces(work) as node.inside:
        logs = str(node.at("/var/log/pods"))
        started = kubelet(
            work, factor, ("kube-apiserver",), ELECTING, before=node.inside, manifests=str(manifests), logs=logs
        )
        with started as node.pods:
            if crictl:
                node.path = f"{work}:{node.path}"
                installed_crictl(work)
                flags = f'KUBELET_KUBEADM_ARGS="--container-runtime-endpoint={node.pods.endpoint}"\n'
                node.at("/var/lib/kubelet/kubeadm-flags.env").write_text(flags)
            for name in components:
                node.pods.ready(name)
            yield node


@contextmanager
def namespaces(work: Path, address: str = ADDRESS) -> Iterator[list[str]]:
    """Make namespaces in which the files below `work`/node are those of the machine. Return the prefix of a command
    there.
    """
    for directory in ("etc", "var/lib", "var/log/pods"):
        (work / "node" / directory).mkdir(parents=True, exist_ok=True)
    for name in os.listdir("/etc"):
        if name not in {"kubernetes", "certmond", "crictl.yaml"} and not (work / "node/etc" / name).exists():
            (work / "node/etc" / name).symlink_to(work / "of-the-host" / name)
    unshare, nsenter, _ = map(real_part, ("unshare", "nsenter", "ip"))
    command = [unshare, "--mount", "--net", "--propagation", "private", "sh", "-c", _INSIDE, "sh", work, address]
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        try:
            if holder.stdout.readline() != b"ready\n":
                unavailable(f"no namespaces can be had here: {holder.communicate()[1].decode()}")
            of = f"/proc/{holder.pid}/ns"
            yield [nsenter, f"--mount={of}/mnt", f"--net={of}/net", f"--wd={os.getcwd()}"]
        finally:
            holder.communicate(timeout=DEADLINE)
