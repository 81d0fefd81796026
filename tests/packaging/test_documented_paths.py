"""The quick start and the three tutorials, typed as they are written, on a machine with a real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from tests.conftest import real_part
from tests.documents import DOCS, blocks
from tests.node import Node
from tests.ordinary_user import USER
from tests.packaging.conftest import BUILD_DEADLINE
from tests.packaging.test_ansible import releases
from tests.system.machine import HIDDEN, PREFIX, PYTHON, UNITS, Machine, booted

QUICK_START, DATES, ENFORCE, ROOT_CA = (
    DOCS / name for name in ("quickstart.md", "paths/expiry-dates.md", "paths/enforce-mode.md", "paths/new-root-ca.md")
)
SCHEDULER = "kube-scheduler"
API = "refusing_api.py"
UNIT_COMMANDS = {
    SCHEDULER: "/usr/bin/sleep infinity",
    "api": f"{PYTHON} -I /srv/{API} /etc/kubernetes/pki/apiserver.crt /etc/kubernetes/pki/apiserver.key",
}
"""The services of the machine. Without an answer of the API server, a rotation waits for two minutes."""
SHORTENED = f"""
hold: {{unsynchronised_clock: false}}
root_ca: {{overlap: 3s}}
restart: {{spacing: 1s, stable: 1s, reload_within: 1s}}
services:
  - {{name: {SCHEDULER}, kind: systemd, unit: {SCHEDULER}.service, serves: {{}}, listens: [], health: []}}
"""
"""Documented settings that shorten each wait, and the stand-in for kube-scheduler. The machine has no NTP client."""
SETTINGS = """
init: {advertise_address: 192.0.2.10}
key_algorithm: ECDSA-P256
"""
NEEDS_A_CLUSTER = re.compile(r"^kubectl |^echo 'cluster: ")
"""Commands that need an API server, or etcd, of which the tutorial saves a snapshot. The machine has neither."""


def steps(page: Path) -> dict[str, list[str]]:
    """Return the commands of each section of a page, by the title of the section."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for block in filter(lambda block: block.is_commands, blocks(page)):
        title = next(line for line in reversed(lines[: block.line]) if line.startswith("## "))
        found.setdefault(title.removeprefix("## "), []).extend(block.commands())
    return found


class Reader:
    """A reader of the pages, who types their commands as root in one directory of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def attempt(self, command: str, *before: str) -> subprocess.CompletedProcess[str]:
        words = [*before, "bash", "-o", "pipefail", "-c", f"cd /srv/reader && {command}"]
        return subprocess.run(
            self.machine.command(*words),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
        )  # fmt: skip

    def types(self, *commands: str) -> dict[str, str]:
        """Type commands, each of which exits with 0. Return their outputs by the command."""
        said = {}
        for command in commands:
            done = self.attempt(command)
            assert done.returncode == 0, (
                f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.machine.tail()}"
            )
            said[command] = done.stdout + done.stderr
        return said

    def content(self, name: str) -> bytes:
        return self.machine.path(name).read_bytes()


def control_plane(work: Path) -> Path:
    """Return a directory with the files of a control-plane node, as `certmond init` creates them."""
    (work / "tree").mkdir()
    (work / "init.yaml").write_text(SETTINGS)
    words = ["init", "--root", str(work / "tree"), "--config", str(work / "init.yaml")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    return work / "tree"


@pytest.fixture(params=releases())
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reader]:
    """A machine with a node's certificates, and a directory with the package for this release of Debian."""
    tree = "/" if request.param == "this" else request.param
    hidden = tuple(path for path in HIDDEN if path not in (PREFIX, "/etc/certmond"))
    package = (
        request.getfixturevalue("built")[".deb"] if tree == "/" else next(Path(tree).parent.glob("certmond_*.deb"))
    )
    made = control_plane(tmp_path)
    with booted(tmp_path, hidden, tree) as machine:
        machine.run("rm", "-rf", "/usr/sbin/policy-rc.d", PREFIX, "/etc/certmond", "/var/lib/certmond", "/root/.kube")
        machine.run("sh", "-c", "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")  # no network leads to them
        for name in ("etc/kubernetes", "var/lib/kubelet"):
            shutil.copytree(made / name, machine.path(name), symlinks=True, dirs_exist_ok=True)
        shutil.copy(Path(__file__).with_name(API), machine.path("/srv"))
        for name, command in UNIT_COMMANDS.items():
            machine.path(f"{UNITS}/{name}.service").write_text(f"[Service]\nExecStart={command}\n")
        own = ["nsenter", "-t", machine.root.parts[2], "-n", real_part("ip")]  # the machine may have no such command
        subprocess.run([*own, "address", "add", "192.0.2.10/32", "dev", "lo"], check=True)
        machine.systemctl("daemon-reload")
        machine.systemctl("start", *UNIT_COMMANDS)
        machine.path("/srv/reader").mkdir()
        shutil.copy(package, machine.path("/srv/reader"))
        yield Reader(machine)


def test_the_backup_of_etcd_uses_files_of_a_control_plane_node(tmp_path: Path) -> None:
    """The tutorial saves a snapshot of etcd before the rotation. kubeadm has created the certificates that the command
    names, and mounts the directories of the command in the Pod of etcd (cmd/kubeadm/app/phases/etcd/local.go).
    """
    (command,) = (each for each in next(iter(steps(ROOT_CA).values())) if "etcdctl" in each)
    named = re.findall(r"--(?:cacert|cert|key)=(\S+)", command)
    node = Node(tmp_path)
    assert [path for path in named if node.path(path.removeprefix("/")).is_file()] == named
    assert len(named) == 3
    mounted = re.findall(r"mountPath: (\S+)", node.path("etc/kubernetes/manifests/etcd.yaml").read_text())
    used = {str(Path(path).parent) for path in (*named, re.findall(r"snapshot save (\S+)", command)[0])}
    assert used == set(mounted)


@pytest.mark.sampled("package")
@pytest.mark.long
@pytest.mark.real("systemd")
@pytest.mark.timeout(3 * BUILD_DEADLINE)
def test_the_pages_for_the_first_steps_hold(reader: Reader) -> None:
    """On a node with the package of its release, each command of the quick start exits with the status on the page, and
    each command of the tutorials exits with 0. The test omits the commands that need a cluster. The outputs, files and
    modes that the test compares are as the pages say.
    """
    machine = reader.machine

    # See when your certificates expire.
    said = reader.types(*(command for commands in steps(DATES).values() for command in commands))
    assert "profile: kubeadm" in said["certmond discover"]
    assert "next due: " in said["certmond check"]
    assert "<title>" in said["curl -sS http://127.0.0.1:9964/"]

    # The quick start: the first part as an ordinary user, the others as root.
    parts = steps(QUICK_START)
    machine.run("install", "-d", "-o", USER, "-m", "755", "/srv/reader/home")
    typed = "; ".join(f"{command}; echo CODE $?" for command in parts.pop("A node in a directory"))
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    done = reader.attempt(f"cd home; umask 0002; {typed}", *user)
    assert re.findall(r"(?m)^CODE (\d+)$", done.stdout) == list("000002020000"), done.stdout + done.stderr
    said = reader.types(*(command for commands in parts.values() for command in commands))
    assert "certmond_certificate_" in said["curl -sS http://127.0.0.1:9964/metrics"]

    # Let certmond renew the certificates.
    machine.path("/etc/certmond/conf.d/shortened.yaml").write_text(SHORTENED)
    enforce = list(steps(ENFORCE).values())
    enable, renew, back = enforce[1:]
    before = reader.content("/etc/kubernetes/scheduler.conf")
    said = reader.types(*enforce[0], *enable, *renew)
    assert f"{SCHEDULER} uses the new scheduler.conf" in said["certmond renew scheduler.conf"]
    assert reader.content("/etc/kubernetes/scheduler.conf") != before
    reader.types(*back)
    assert reader.content("/etc/kubernetes/scheduler.conf") == before
    assert "restart_pending" not in reader.attempt("certmond check").stdout
    assert '"mode": "observe"' in reader.types("certmond status -o json")["certmond status -o json"]

    # Replace the Root CA of a cluster, in enforce mode.
    reader.types(*enable)
    old = reader.content("/etc/kubernetes/pki/ca.crt")
    commands = [command for commands in steps(ROOT_CA).values() for command in commands]
    said = reader.types(*(command for command in commands if not NEEDS_A_CLUSTER.search(command)))
    assert said["certmond root-ca rotate"].endswith("\ndone\n")
    assert "no rotation is in progress" in said["certmond root-ca show"]
    assert reader.content("/etc/kubernetes/pki/ca.crt") != old
    assert reader.content("/srv/reader/trust.pem") == reader.content("/etc/kubernetes/pki/ca.crt")
