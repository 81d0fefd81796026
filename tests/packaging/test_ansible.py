"""The Ansible role, on machines with a real systemd: each playbook changes what it says, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import make_ca
from tests.conftest import real_part
from tests.node import Node
from tests.packaging.altered_package import altered
from tests.packaging.conftest import BUILD_DEADLINE, REPOSITORY
from tests.packaging.test_packages import DAEMON, MINE, WEB, active, enabled
from tests.system.machine import HIDDEN, PREFIX, Machine, booted
from tests.web_config_files import LIFE, PAIR, server_pair

ANSIBLE = REPOSITORY / "packaging/ansible"
ROLE = ANSIBLE / "roles/certmond"
ROLE_CONFIG = "/etc/certmond/conf.d/ansible.yaml"
ENFORCE = "/etc/systemd/system/certmond.service.d/enforce.conf"


def documents(pattern: str) -> dict[str, Any]:
    return {path.name: yaml.safe_load(path.read_text()) for path in ANSIBLE.glob(pattern)}


def test_every_variable_is_declared_and_documented() -> None:
    """Each variable of the role is in its argument specification and in docs/ansible.md, and each default is one."""
    options = documents("roles/certmond/meta/argument_specs.yml")["argument_specs.yml"]["argument_specs"]["main"][
        "options"
    ]
    page = (REPOSITORY / "docs/ansible.md").read_text()
    assert not [name for name in options if f"| `{name}` |" not in page]
    assert documents("roles/certmond/defaults/*.yml")["main.yml"].keys() <= options.keys()
    used = {name for path in ROLE.rglob("*.yml") for name in re.findall(r"\bcertmond_\w+", path.read_text())}
    set_here = {"certmond_installed", "certmond_query", "certmond_copy", "certmond_offered", "certmond_install",
                "certmond_group", "certmond_status", "certmond_rotation"}  # fmt: skip
    assert used - set_here == options.keys()


def test_every_playbook_is_documented() -> None:
    """docs/ansible.md names each playbook, and each playbook has the role."""
    page = (REPOSITORY / "docs/ansible.md").read_text()
    books = documents("*.yml")
    assert books.keys() == {"observe.yml", "enforce.yml", "own-certificates.yml", "upgrade.yml", "remove.yml"}
    for name, (play,) in books.items():
        assert f"packaging/ansible/{name}" in page
        assert play["roles"] == ["certmond"]


def test_a_file_with_a_secret_is_not_in_the_output() -> None:
    """The task that writes the files of the listener has neither output nor a difference."""
    tasks = documents("roles/certmond/tasks/configure.yml")["configure.yml"]
    (task,) = (task for task in tasks if "certmond_web_files" in str(task.get("loop")))
    assert (task["no_log"], task["diff"]) == (True, False)


class Controller:
    """Ansible, with one host: a machine of these tests."""

    def __init__(self, machine: Machine, leader: str, work: Path) -> None:
        self.machine, self._work, self.variables = machine, work, work / "variables.yaml"
        (work / "inventory.ini").write_text(
            f"node ansible_connection=machine machine_leader={leader} ansible_become=false "
            "ansible_python_interpreter=/usr/bin/python3\n"
        )
        self.package = Path()
        self.given: dict[str, Any] = {}
        """Variables of each run, as those of an inventory."""

    def play(self, name: str, *options: str, **variables: Any) -> tuple[int, dict[str, int], str]:
        """Run a playbook. Return its exit status, the counts of its summary, and its output.

        A run has the facts of the earlier runs, like that of an operator with a fact cache.
        """
        self.variables.write_text(yaml.safe_dump({**self.given, **variables}))
        inventory, plugins = self._work / "inventory.ini", Path(__file__).parent / "connection_plugins"
        settings = {
            "CONNECTION_PLUGINS": str(plugins), "PIPELINING": "1", "NOCOLOR": "1", "HOME": str(self._work / "ansible"),
            "CACHE_PLUGIN": "jsonfile", "CACHE_PLUGIN_CONNECTION": str(self._work / "facts"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", inventory, "-e", f"@{self.variables}", *options,
             ANSIBLE / name],
            env={**os.environ, **{f"ANSIBLE_{key}": value for key, value in settings.items()}}, cwd=self._work,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        summary = re.search(r"^node +: (.*)$", output, re.MULTILINE)
        counts = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", summary[1] if summary else "")}
        return done.returncode, counts, output

    def good(self, name: str, *options: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook that succeeds. Return the number of its changes, and its output."""
        status, counts, output = self.play(name, *options, **variables)
        assert status == 0, f"{output}\n{self.machine.tail()}"
        return counts["changed"], output

    def converges(self, name: str, *options: str, **variables: Any) -> str:
        """Run a playbook that changes something, and a second time nothing. Return the output of the first run."""
        changed, output = self.good(name, *options, **variables)
        assert changed > 0, output
        changed, again = self.good(name, **variables)
        assert changed == 0, again
        return output


def repository(package: Path, work: Path) -> tuple[Path, Path]:
    """Return the directory of a signed repository with the package, and its public key."""
    place, key, home = work / "repository", work / "repository.asc", work / "gnupg"
    place.mkdir()
    home.mkdir(0o700)
    shutil.copy(package, place)
    gpg = [real_part("gpg"), "--homedir", str(home), "--batch", "--quiet"]
    for command, output in (
        (["apt-ftparchive", "packages", "."], place / "Packages"),
        (["apt-ftparchive", "release", "."], place / "Release"),
        ([*gpg, "--passphrase", "", "--quick-generate-key", "tests", "ed25519", "sign"], None),
        ([*gpg, "--clearsign", "--output", "-", "Release"], place / "InRelease"),
        ([*gpg, "--armor", "--export"], key),
        (["gpgconf", "--homedir", str(home), "--kill", "all"], None),
    ):
        done = subprocess.run([real_part(command[0]), *command[1:]], cwd=place, capture_output=True, check=True)
        if output:
            output.write_bytes(done.stdout)
    return place, key


def releases() -> list[str]:
    """This machine's release, and that of the root directory in CERTMOND_RELEASE, whose package is beside it."""
    return ["this", *filter(None, [os.environ.get("CERTMOND_RELEASE")])]


@pytest.fixture(params=releases())
def controller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Controller]:
    """A machine with a node's certificates, on which certmond never was, and its two packages in `given`."""
    tree = "/" if request.param == "this" else request.param
    hidden = tuple(path for path in HIDDEN if path not in (PREFIX, "/etc/certmond"))
    package = (
        request.getfixturevalue("built")[".deb"] if tree == "/" else next(Path(tree).parent.glob("certmond_*.deb"))
    )
    old = altered(package, tmp_path, "0.0.9-1")
    with booted(tmp_path, hidden, tree) as machine:
        machine.run("rm", "-rf", "/usr/sbin/policy-rc.d", PREFIX, "/etc/certmond", "/var/lib/certmond")
        machine.run("sh", "-c", "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")  # no network leads to them
        Node(machine.root)
        controller = Controller(machine, machine.root.parts[2], tmp_path)
        controller.given = {"certmond_package": str(old)}
        controller.package = package
        yield controller


@pytest.mark.sampled("package")
@pytest.mark.long
@pytest.mark.real("systemd")
@pytest.mark.timeout(3 * BUILD_DEADLINE)
def test_the_playbooks_from_the_installation_to_the_removal(controller: Controller, tmp_path: Path) -> None:
    """Each playbook reaches its state in one run. A second run changes nothing. Check mode works on a machine
    without certmond. An invalid configuration does not reach the daemon, and no key reaches the output.
    """
    machine = controller.machine

    # Check mode on a fresh machine changes nothing.
    controller.good("enforce.yml", "--check")
    assert machine.attempt("dpkg-query", "--show", "certmond").returncode != 0

    # Installed, it observes. The key of the listener is on the node, and not in the output.
    pair = server_pair(make_ca("servers", **LIFE))
    web = {"web.yaml": PAIR, "tls.crt": pair.pem.decode(), "tls.key": pair.key_pem.decode()}
    listener = {"certmond_web_files": web, "certmond_web_clients": ["192.0.2.0/24", "2001:db8::/32"]}
    settings = {"certmond_config": {"web_config": "/etc/certmond/web/web.yaml"}}
    output = controller.converges("observe.yml", "--diff", "-vvv", **listener, **settings)
    assert not [line for line in web["tls.key"].splitlines() if line in output]
    installed = machine.path("/etc/certmond/web/tls.key")
    assert (installed.stat().st_mode & 0o777, installed.read_text()) == (0o640, web["tls.key"])
    assert {"192.0.2.0/24", "2001:db8::/32"} <= set(machine.property(WEB, "IPAddressAllow").split())
    assert [(enabled(machine, unit), active(machine, unit)) for unit in (DAEMON, WEB)] == [("enabled", "active")] * 2
    assert status(machine)["mode"] == "observe"

    # Entries of the operator. An invalid configuration does not replace a valid one.
    machine.path(MINE).write_text("resync: 7m\n")
    controller.good("own-certificates.yml")
    shown = machine.run("certmond", "config", "show")
    assert all(each in shown for each in ("/etc/nginx/tls/*.pem", "resync: 7m", "apiserver-etcd-client"))
    valid = machine.path(ROLE_CONFIG).read_text()
    for wrong, said in (
        ({"renew_befor": "3d"}, "unknown key"),
        ({"certificates": [{"name": "x", "path": "/x", "mode": 0o640}]}, "Quote the values"),
    ):
        code, _, output = controller.play("observe.yml", certmond_config=wrong)
        assert (code != 0, said in output, machine.path(ROLE_CONFIG).read_text() == valid) == (True, True, True), output
    assert active(machine, DAEMON) == "active"

    # Enforce mode, after the plan.
    paths = ["/srv", "/opt"]
    _, output = controller.good("enforce.yml", certmond_write_paths=paths)
    assert "plan.stdout_lines" in output
    assert status(machine)["mode"] == "enforce"
    assert machine.path(f"/proc/{machine.property(DAEMON, 'MainPID')}").stat().st_uid == 0
    assert set(paths) <= set(machine.property(DAEMON, "ReadWritePaths").split())

    # An upgrade from a signed repository keeps the mode and the configuration. Check mode reports no difference.
    first = machine.property(DAEMON, "InvocationID")
    place, key = repository(controller.package, tmp_path)
    shutil.copytree(place, machine.path("/opt/repository"))
    newer = re.findall(r"(?m)^Version: (.*)$", (place / "Packages").read_text())[0]
    controller.given = {
        "certmond_repository": {"url": "file:/opt/repository", "key": str(key)}, "certmond_version": newer,
    }  # fmt: skip
    assert controller.good("upgrade.yml")[0] > 0
    assert machine.property(DAEMON, "InvocationID") != first
    assert newer in machine.run("dpkg-query", "--show", "certmond")
    assert status(machine)["mode"] == "enforce"
    assert machine.path(ROLE_CONFIG).read_text() == valid
    assert controller.good("enforce.yml", "--check", "--diff", certmond_write_paths=paths)[0] == 0

    # Back to observe mode, by the same playbook as at first.
    controller.good("observe.yml", certmond_mode="observe")
    assert status(machine)["mode"] == "observe"
    assert not os.path.lexists(machine.path(ENFORCE))

    # Removed, the configuration and the state stay. Purged, nothing stays, but not during a rotation.
    controller.good("remove.yml")
    assert machine.path(ROLE_CONFIG).exists()
    assert machine.path("/var/lib/certmond").exists()
    assert not machine.path(PREFIX).exists()
    record = machine.path("/var/lib/certmond/rotation/record.json")
    record.parent.mkdir(exist_ok=True)
    record.touch()
    code, _, output = controller.play("remove.yml", certmond_purge="true")  # as with -e certmond_purge=true
    assert (code != 0, "certmond root-ca abort" in output, record.exists()) == (True, True, True), output
    record.unlink()
    controller.converges("remove.yml", certmond_purge="true")
    for name in ("/etc/certmond", "/var/lib/certmond", "/etc/systemd/system/certmond.service.d"):
        assert not machine.path(name).exists(), name


def status(machine: Machine) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(machine.attempt("certmond", "status", "-o", "json").stdout)
    return document
