"""The packages: built twice, checked by the rules of their distributions, and used on a machine with a real systemd."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from certmond import __version__
from certmond.cli.main import cli
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from tests.conftest import real_part
from tests.node import Node
from tests.packaging.altered_package import altered
from tests.packaging.conftest import BUILD_DEADLINE, Built
from tests.system.machine import HIDDEN, PREFIX, UNITS, Machine, booted

REPOSITORY = Path(__file__).parents[2]
DAEMON, WEB, SOCKET, CHECK, TIMER = (
    "certmond.service", "certmond-web.service", "certmond-web.socket", "certmond-check.service", "certmond-check.timer",
)  # fmt: skip
UNIT_FILES = (DAEMON, WEB, SOCKET, CHECK, TIMER)
CONFIG, MINE = "/etc/certmond/config.yaml", "/etc/certmond/conf.d/mine.yaml"
SHIPPED = REPOSITORY / "packaging/config.yaml"
NEVER_CHANGES = "ce1af6231722635105683435cd63a7ff86fc6703e40af2b9b3b56bfa0dad3ecb"

long = pytest.mark.long
pytestmark = pytest.mark.timeout(3 * BUILD_DEADLINE)


@pytest.fixture
def package(built: Built) -> Path:
    return built[".deb"]


@cache
def contents(package: Path) -> str:
    """What `dpkg-deb --contents` prints of a package."""
    return subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout


# --- Content ----------------------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """The versions in a lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / name).read_text(), re.MULTILINE))


def test_a_package_has_the_versions_that_are_tested() -> None:
    """What packages are filled with is, to the version, what tests run with, and what certmond runs with."""
    packaged, tested = pins("requirements-kubernetes.txt"), pins("requirements-dev.txt")
    assert pins("requirements.txt").items() <= packaged.items()
    assert packaged.items() <= tested.items()


def test_no_upgrade_asks_about_the_configuration() -> None:
    """The configuration file of a package is the same in every version, to the byte: dpkg then keeps the operator's own
    and asks nothing. It is valid, and sets nothing.
    """
    text = SHIPPED.read_bytes()
    assert hashlib.sha256(text).hexdigest() == NEVER_CHANGES
    assert parse([Source(CONFIG, text.decode())]) == parse([])


@pytest.mark.sampled("package")
@long
@pytest.mark.real("dpkg")
def test_two_builds_of_one_commit_are_the_same_bytes(built: Built, commit: str, tmp_path: Path) -> None:
    """Built from a checkout at another path, at another time, with another umask and zone: the same bytes, of package,
    wheel, sdist and lists. No path of the build is in them.
    """
    elsewhere = tmp_path / "a-longer-name" / "of-it"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, elsewhere], check=True)
    subprocess.run(["git", "fetch", "--quiet", REPOSITORY, commit], cwd=elsewhere, check=True)
    umask = os.umask(0o077)
    try:
        again = Built(tmp_path / "again", elsewhere, commit if commit != "HEAD" else "FETCH_HEAD")
    finally:
        os.umask(umask)
    assert [(each.name, each.read_bytes()) for each in again.files] == [
        (each.name, each.read_bytes()) for each in built.files
    ]
    subprocess.run(["dpkg-deb", "--raw-extract", built[".deb"], tmp_path / "content"], check=True)
    found = subprocess.run(
        ["grep", "-rlaE", f"{re.escape(str(REPOSITORY))}|/tmp/tmp\\.", tmp_path / "content"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (1, "")


@long
@pytest.mark.real("dpkg")
def test_the_list_of_contents_is_that_of_the_lock_file(built: Built) -> None:
    """Each component is in the lock file, with its version and a hash that is there for it; whatever is installed is a
    component.
    """
    document = json.loads(built[".deb"].with_suffix(".cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["version"] == __version__
    lock, locked = (REPOSITORY / "requirements-kubernetes.txt").read_text(), pins("requirements-kubernetes.txt")
    for component in document["components"]:
        assert locked[normal(component["name"])] == component["version"]
        (digest,) = component["hashes"]
        assert f"sha256:{digest['content']}" in lock, component["name"]
    found = re.findall(r"site-packages/([^/]+)-[^/-]+\.dist-info/\n", contents(built[".deb"]))
    installed = {normal(name) for name in found}
    assert installed - {"certmond"} == {normal(each["name"]) for each in document["components"]}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.sampled("package")
@long
@pytest.mark.real("lintian")
def test_lintian_finds_no_error(built: Built) -> None:
    """lintian has neither an error nor a warning; what is overridden has its reason beside it."""
    done = subprocess.run(
        [real_part("lintian"), "--allow-root", "--fail-on", "error,warning", built[".deb"]],
        capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


@long
@pytest.mark.real("rpm")
def test_the_rpm_has_what_the_deb_has(built: Built) -> None:
    """The .rpm has the same files as the .deb, except those of each distribution."""

    def ask(*query: str) -> list[str]:
        done = subprocess.run(["rpm", "-qp", *query, built[".rpm"]], check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    lines = contents(built[".deb"]).splitlines()
    files = {line.split(maxsplit=5)[5].partition(" -> ")[0].removeprefix(".") for line in lines}
    in_deb = {name for name in files if not name.endswith("/")}
    in_rpm = set(ask("--list"))
    assert in_deb - in_rpm == {
        "/usr/share/doc/certmond/changelog.Debian.gz", "/usr/share/doc/certmond/copyright",
        "/usr/share/lintian/overrides/certmond", "/usr/share/zsh/vendor-completions/_certmond",
    }  # fmt: skip
    directories = {name.rstrip("/") for name in files if name.endswith("/")}
    assert in_rpm - in_deb - directories == {"/usr/share/zsh/site-functions/_certmond"}
    assert ask("--configfiles") == [CONFIG, "/etc/logrotate.d/certmond"]
    (python,) = {Path(name).parts[5] for name in in_rpm if name.endswith("/site-packages/certmond")}
    assert f"/usr/bin/{python}" in ask("--requires")


@long
@pytest.mark.real("dpkg")
def test_a_package_has_a_manual_page_for_each_verb(built: Built) -> None:
    """`man certmond-renew` shows a page where the package is installed, and so for every verb; besides them there are
    the program's and the configuration's.
    """
    pages = {f"man8/certmond-{name}.8" for name in cli.every_command()} | {"man8/certmond.8", "man5/certmond.yaml.5"}
    assert set(re.findall(r"/usr/share/man/(\S+)\.gz$", contents(built[".deb"]), re.MULTILINE)) == pages


@long
def test_a_wheel_has_what_the_package_has(built: Built) -> None:
    """The wheel, the sdist and the package have the same modules of certmond, profiles and runbook included."""
    listed = [
        subprocess.run(
            ["python3", "-m", "zipfile", "-l", built[".whl"]], check=True, capture_output=True, text=True
        ).stdout,
        subprocess.run(["tar", "-tf", built[".tar.gz"]], check=True, capture_output=True, text=True).stdout,
        contents(built[".deb"]),
    ]
    wheel = set(re.findall(r"^(certmond/\S+\.(?:py|md|yaml)) ", listed[0], re.MULTILINE))
    assert {"certmond/cli/main.py", "certmond/runbook.md", "certmond/profiles/kubeadm.yaml"} <= wheel
    assert set(re.findall(r"^[^/]+/(certmond/\S+\.(?:py|md|yaml))$", listed[1], re.MULTILINE)) == wheel
    assert set(re.findall(r"site-packages/(certmond/\S+\.(?:py|md|yaml))$", listed[2], re.MULTILINE)) == wheel


# --- On a machine -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a node's certificates, on which certmond never was."""
    hidden = tuple(path for path in HIDDEN if path not in (PREFIX, "/etc/certmond"))
    with booted(tmp_path_factory.mktemp("machine"), hidden) as machine:
        machine.run("rm", "-rf", "/usr/sbin/policy-rc.d", PREFIX, "/etc/certmond", "/var/lib/certmond")
        Node(machine.root)
        yield machine


def dpkg(machine: Machine, *arguments: str) -> str:
    """Run dpkg to its end, without a terminal, and without a sync for each file, because it unpacks into memory."""
    done = subprocess.run(
        machine.command("dpkg", "--force-unsafe-io", *arguments),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}\n{machine.tail()}"
    return done.stdout + done.stderr


def section(title: str) -> list[list[str]]:
    """The blocks of commands in a section of docs/installation.md, each as its lines."""
    text = (REPOSITORY / "docs/installation.md").read_text()
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"(?m)^    ", "", block).strip().splitlines() for block in re.findall(r"(?m)(?:^    .*\n)+", found)]


def carry_out(machine: Machine, commands: list[str]) -> None:
    machine.run("sh", "-ec", "\n".join(commands))


def enabled(machine: Machine, unit: str) -> str:
    return machine.attempt("systemctl", "is-enabled", unit).stdout.strip()


def active(machine: Machine, unit: str) -> str:
    return machine.property(unit, "ActiveState")


@long
@pytest.mark.real("systemd")
def test_a_package_from_its_installation_to_its_purge(machine: Machine, package: Path, tmp_path: Path) -> None:
    """An installed package observes. An upgrade keeps what the operator has set and stopped. The documented ways to run
    work as written. A removed package leaves configuration and state, and a purged one nothing.
    """
    for name, file in (("former.deb", altered(package, tmp_path, "0.0.9-1")), ("new.deb", package)):
        shutil.copy(file, machine.path(f"/opt/{name}"))
    users = machine.run("getent", "passwd")
    before = files_of(machine)

    # Installed: both services run and start with the machine, and the node is only looked at.
    dpkg(machine, "--install", "/opt/former.deb")
    assert [(enabled(machine, unit), active(machine, unit)) for unit in (DAEMON, WEB)] == [("enabled", "active")] * 2
    assert [enabled(machine, unit) for unit in (SOCKET, TIMER)] == ["disabled"] * 2
    assert machine.attempt("systemctl", "status", "certmond", "certmond-web").returncode == 0
    assert json.loads(machine.run("certmond", "status", "-o", "json"))["mode"] == "observe"
    assert machine.path(CONFIG).read_bytes() == SHIPPED.read_bytes()
    for named in re.findall(r"/usr/share/\S+", SHIPPED.read_text()):
        assert machine.path(named).exists(), named
    assert re.fullmatch(rf"certmond {__version__} \(commit [0-9a-f]{{12}}\)\n", machine.run("certmond", "version"))
    assert machine.get("/readyz")[0] == 200
    assert "certmond" in machine.run(
        "bash", "-c", ". /usr/share/bash-completion/completions/certmond; complete -p certmond"
    )
    assert dpkg(machine, "--verify", "certmond") == ""
    for unit in UNIT_FILES:
        assert "certmond" not in machine.attempt("systemd-analyze", "verify", f"{UNITS}/{unit}").stderr
    machine.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", f"{UNITS}/{CHECK}")

    # Upgraded: the operator's configuration is in force, the new version runs, and the old one's files are removed.
    machine.path(CONFIG).write_text("resync: 7m\n")
    machine.path(MINE).write_text("renew_before: 20d\n")
    first = machine.property(DAEMON, "InvocationID")
    dpkg(machine, "--install", "/opt/new.deb")
    shown = machine.run("certmond", "config", "show")
    assert ("resync: 7m" in shown, "renew_before: 20d" in shown) == (True, True), shown
    assert machine.path(CONFIG).read_text() == "resync: 7m\n"
    assert {file.name for file in machine.path(CONFIG).parent.iterdir()} == {"config.yaml", "conf.d"}
    assert not machine.path(f"{PREFIX}/bin/gone").exists()
    assert machine.property(DAEMON, "InvocationID") != first
    assert [active(machine, unit) for unit in (DAEMON, WEB)] == ["active"] * 2

    # A socket in place of a service, which an upgrade respects.
    carry_out(machine, section("Socket activation")[0])
    assert active(machine, WEB) == "inactive"
    assert machine.get("/readyz")[0] == 200
    assert active(machine, WEB) == "active"
    dpkg(machine, "--install", "/opt/new.deb")
    assert (enabled(machine, WEB), enabled(machine, SOCKET), active(machine, SOCKET)) == (
        "disabled",
        "enabled",
        "active",
    )
    assert machine.get("/metrics")[0] == 200

    # Enforce mode, and back.
    on, off = section("Enforce mode")
    carry_out(machine, on)
    assert json.loads(machine.run("certmond", "status", "-o", "json"))["mode"] == "enforce"
    assert machine.path(f"/proc/{machine.property(DAEMON, 'MainPID')}").stat().st_uid == 0
    dpkg(machine, "--install", "/opt/new.deb")
    assert json.loads(machine.run("certmond", "status", "-o", "json"))["mode"] == "enforce"
    carry_out(machine, off)
    assert json.loads(machine.run("certmond", "status", "-o", "json"))["mode"] == "observe"

    # A timer in place of the daemon, which an upgrade respects as well.
    carry_out(machine, section("A timer in place of the daemon")[0])
    dpkg(machine, "--install", "/opt/new.deb")
    assert (active(machine, DAEMON), active(machine, TIMER)) == ("inactive", "active")
    assert not machine.path("/run/certmond").exists()
    machine.systemctl("start", CHECK)
    textfile = machine.path("/run/certmond-check/certmond.prom")
    assert textfile.read_text().count("certmond_certificate_chain_valid{") == 14
    assert (textfile.stat().st_mode & 0o777, textfile.parent.stat().st_mode & 0o777) == (0o644, 0o755)

    # Removed, it can come back as it was: with its configuration, and what was disabled stays so.
    carry_out(machine, ["systemctl enable --now certmond.service"])
    dpkg(machine, "--remove", "certmond")
    assert machine.attempt("pgrep", "-u", "certmond").stdout == ""
    left = {CONFIG, MINE, "/var/lib/certmond"}
    assert left <= files_of(machine)
    assert not machine.path(PREFIX).exists()
    assert not machine.path("/run/certmond-check").exists()
    dpkg(machine, "--install", "/opt/new.deb")
    assert machine.path(CONFIG).read_text() == "resync: 7m\n"
    assert (active(machine, DAEMON), enabled(machine, WEB)) == ("active", "disabled")

    # Purged, only its user is left.
    carry_out(machine, on)
    dpkg(machine, "--purge", "certmond")
    assert files_of(machine) - before == set()
    assert set(machine.run("getent", "passwd").splitlines()) - set(users.splitlines()) == {
        line for line in machine.run("getent", "passwd").splitlines() if line.startswith("certmond:")
    }
    assert machine.attempt("systemctl", "is-enabled", DAEMON).stdout.strip() == "not-found"


def files_of(machine: Machine) -> set[str]:
    """Return every file of the machine with certmond in its path, except those of other packages and of these tests."""
    places = ("/etc", "/etc/systemd/system", "/usr", "/run", "/var")  # the second is a separate file system
    but = ("(", "-path", "/var/lib/dpkg", "-o", "-path", "/var/log", ")", "-prune")
    found = machine.run("find", *places, "-xdev", *but, "-o", "-path", "*certmond*", "-print")
    return {line for line in found.splitlines() if "certmond-test" not in line}
