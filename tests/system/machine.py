"""A machine of the tests' own: a real systemd as PID 1, over this machine's own root, of which it changes nothing.

Nothing has to be downloaded, and nothing is left behind. `systemd-nspawn --volatile=overlay` lays a tmpfs over `/`; it
runs in mount and process namespaces that end with this process, even when that is killed. Services that happen to be
installed here do not start: the machine goes no further than basic.target, and its /etc/systemd/system is empty.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from tests.conftest import real_part, unavailable
from tests.control_group import control_group
from tests.deadline import DEADLINE

REPOSITORY = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
PREFIX = "/usr/lib/certmond"
UNITS = "/usr/lib/systemd/system"
SERVICES = ("certmond.service", "certmond-web.service")
TARGET = "certmond-test.target"

HIDDEN = (str(REPOSITORY), "/etc/systemd/system", "/etc/certmond", "/etc/kubernetes", "/var/lib/kubelet", PREFIX)
"""Empty in the machine, whatever they are on this one: it needs no work tree, and gets the tree of a node."""

ASK = """
import base64, hashlib, http.client, json, ssl, sys, time

def connection():
    if asked["ca"] is None:
        return http.client.HTTPConnection("127.0.0.1", 9964, timeout=asked["seconds"])
    context = ssl.create_default_context(cafile=asked["ca"])
    return http.client.HTTPSConnection("127.0.0.1", 9964, context=context, timeout=asked["seconds"])

def answer():
    client = connection()
    client.connect()
    leaf = hashlib.sha256(client.sock.getpeercert(binary_form=True)).hexdigest() if asked["ca"] else None
    token = base64.b64encode(asked["credentials"].encode()).decode()
    client.request("GET", asked["path"], headers={"Authorization": f"Basic {token}"} if token else {})
    found = client.getresponse()
    return [found.status, found.headers["Content-Type"], found.read().decode(), leaf]

asked = json.loads(sys.argv[1])
end = time.monotonic() + asked["seconds"]
while True:
    try:
        print(json.dumps(answer()))
        break
    except (ConnectionRefusedError, ssl.SSLCertVerificationError):
        raise
    except (OSError, http.client.HTTPException):  # a slow host: the server ends a connection after 10 s
        if time.monotonic() > end:
            raise
"""


class Answer(NamedTuple):
    """The answer of certmond-web. `leaf` is the SHA-256 of its certificate, or None without TLS."""

    status: int
    content_type: str
    body: str
    leaf: str | None


class Machine:
    """A machine that runs. `leader` is its PID 1 as this machine numbers it; below `root` are its files."""

    def __init__(self, leader: str) -> None:
        self._leader = leader
        self.root = Path(f"/proc/{leader}/root")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def command(self, *command: str) -> list[str]:
        """What runs a command in there, as root and outside of every unit."""
        return ["nsenter", "-t", self._leader, "-m", "-u", "-i", "-n", "-p", "-C", "--", *command]

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in there to its end."""
        return subprocess.run(
            self.command(*command),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command in there until the block ends."""
        guarded = self.command("setpriv", "--pdeathsig", "KILL", *command)
        with subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *command: str) -> str:
        """The output of a command, which has to succeed."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.tail()}"
        return done.stdout

    def systemctl(self, *command: str) -> str:
        return self.run("systemctl", *command)

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, in the order asked for."""
        lines = self.systemctl("show", "-p", ",".join(names), unit).splitlines()
        properties = dict(line.split("=", 1) for line in lines)
        return [properties[name] for name in names]

    def property(self, unit: str, name: str) -> str:
        return self.show(unit, name)[0]

    def entries(self, unit: str, *fields: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Journal entries of and about a unit: those with all of the fields, later than an instant of time.time()."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--unit", unit, "--output", "json").splitlines()
        wanted = dict(field.split("=", 1) for field in fields)
        return [
            entry
            for entry in map(json.loads, lines)
            if wanted.items() <= entry.items() and int(entry["__REALTIME_TIMESTAMP"]) > since * 1e6
        ]

    def get(self, path: str, *, ca: str | None = None, credentials: str = "") -> Answer:
        """Return the answer of certmond-web to a client on the machine. With the path of a CA, the client uses TLS. It
        sends the user and the password in `credentials`, and asks again if the server ends the connection.
        """
        asked = {"path": path, "ca": ca, "credentials": credentials, "seconds": DEADLINE}
        return Answer(*json.loads(self.run(PYTHON, "-I", "-c", ASK, json.dumps(asked))))

    def until(self, holds: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
        """Wait until `holds`; fail after the deadline."""
        end = time.monotonic() + deadline
        while not (found := holds()):
            assert time.monotonic() < end, f"{what}: never so\n{self.tail()}"
            time.sleep(0.05)
        return found

    def tail(self) -> str:
        """For a failure: the last of what the machine had to say."""
        return self.attempt("journalctl", "--lines", "40", "--no-hostname").stdout

    @contextmanager
    def drop_in(self, unit: str, *settings: str) -> Iterator[None]:
        """A unit with settings of the test's own until the block ends. Neither end of the block restarts anything."""
        file = self.path(f"/run/systemd/system/{unit}.d/test.conf")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["[Service]", *settings, ""]))
        self.systemctl("daemon-reload")
        try:
            yield
        finally:
            file.unlink()
            self.systemctl("daemon-reload")

    @contextmanager
    def held(self, process: int) -> Iterator[None]:
        """Stop the first thread of a process in its next system call. The others continue."""
        command = ["nsenter", "-t", self._leader, "-m", "-p", "setpriv", "--pdeathsig", "KILL", real_part("strace")]
        options = ["-qq", "-o", "/dev/null", "-p", str(process), "--inject=all:delay_enter=1000s"]
        tracer = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            tracer.kill()
            tracer.wait()

    def threads(self, process: int) -> dict[int, str]:
        """The state of each thread of a process (proc_pid_stat(5)), by its number in there."""
        tasks = self.path(f"/proc/{process}/task").iterdir()
        return {int(task.name): (task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}


@contextmanager
def booted(work: Path, hidden: tuple[str, ...] = HIDDEN, tree: str = "/") -> Iterator[Machine]:
    """A machine from its boot to its end, over this machine's root or over the root of another release in `tree`. On a
    host that cannot boot a machine, the test is skipped, or fails in CI.
    """
    setpriv, unshare, nspawn = map(real_part, ("setpriv", "unshare", "systemd-nspawn"))
    if os.geteuid() != 0:
        unavailable("only root can boot a machine with systemd-nspawn")
    if subprocess.run([unshare, "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        unavailable("no namespaces can be made here")
    lower = work / "lower"
    lower.mkdir()
    command = [
        # The process namespace, and with it everything in the machine, ends when `unshare` ends, and that when we do.
        setpriv, "--pdeathsig", "KILL", unshare, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        # nspawn will not have "/" itself.
        "sh", "-euc", 'echo 0 >"$GROUP/cgroup.procs"; mount --bind "$1" "$0"; shift; exec "$@"', str(lower), tree,
        nspawn, f"--directory={lower}", "--volatile=overlay", "--boot", "--machine=certmond-test", "--register=no",
        "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--private-network", "--quiet",
        "--console=passive", "--notify-ready=yes",
        # Calls that set the clock reach the kernel, which finds no privilege: so a refusal by the unit is
        # distinguishable.
        "--system-call-filter=@clock",
        *(f"--tmpfs={path}" for path in hidden),
        "systemd.unit=basic.target",
    ]  # fmt: skip
    console, address = work / "console", f"certmond-test-{os.getpid()}"
    with ExitStack() as stack:
        stack.enter_context(_one_at_a_time())
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(f"\0{address}")
        environment = {
            **os.environ,
            "GROUP": str(stack.enter_context(control_group("machine"))),
            "NOTIFY_SOCKET": f"@{address}",
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }
        output = stack.enter_context(console.open("wb"))
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _await_boot(ready, console)
            ready.close()  # nspawn still writes to it, and would otherwise block when it is full
            machine = Machine(_only_child(_only_child(process.pid)))
            yield machine
            machine.attempt("systemctl", "poweroff", "--no-block")
            with suppress(subprocess.TimeoutExpired):  # an orderly end is no test's matter
                process.wait(DEADLINE)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """nspawn will not boot two machines from the same directory, and "/" is the same under every name."""
    with Path("/tmp/certmond-test-machine.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _await_boot(ready: socket.socket, console: Path) -> None:
    """Wait until systemd has notified nspawn, and nspawn this process, that it has reached its target
    (sd_notify(3)).
    """
    ready.settimeout(DEADLINE)
    lines: list[str] = []
    try:
        while "READY=1" not in lines:
            lines = ready.recv(4096).decode().splitlines()
            assert not any(line.startswith("EXIT_STATUS=") for line in lines), console.read_text(errors="replace")
    except TimeoutError:
        raise AssertionError(f"the machine did not come up\n{console.read_text(errors='replace')}") from None


def _only_child(process: int | str) -> str:
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return child


def install(machine: Machine) -> None:
    """As a package would: an environment under /usr/lib, a command, a user, and the units as they are shipped."""
    tag = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    if tag != sysconfig.get_config_var("SOABI"):
        unavailable(f"{PYTHON} is not the interpreter of these tests, whose packages it is to run with")
    machine.run(PYTHON, "-m", "venv", "--without-pip", PREFIX)
    (site,) = machine.path(PREFIX).glob("lib/python3*/site-packages")
    for package in _needed():
        if package.files is None:  # a package of Debian has no list of its files
            for name in {line.partition("/")[0] for line in (package.read_text("top_level.txt") or "").split()}:
                shutil.copytree(str(package.locate_file(name)), site / name)
        for file in package.files or ():
            source, target = Path(str(package.locate_file(file))), site / file
            if ".." not in file.parts and not file.name.startswith("__editable__") and source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    shutil.copytree(REPOSITORY / "certmond", site / "certmond", ignore=shutil.ignore_patterns("__pycache__"))
    machine.run(
        f"{PREFIX}/bin/python3",
        "-m",
        "compileall",
        "-q",
        f"{PREFIX}/{(site / 'certmond').relative_to(machine.path(PREFIX))}",
    )
    (entry,) = distribution("certmond").entry_points.select(group="console_scripts", name="certmond")
    command = machine.path(f"{PREFIX}/bin/certmond")
    command.write_text(f"#!{PREFIX}/bin/python3\nfrom {entry.module} import {entry.attr}\n\n{entry.attr}()\n")
    command.chmod(0o755)
    machine.path("/usr/bin/certmond").unlink(missing_ok=True)
    machine.path("/usr/bin/certmond").symlink_to(f"{PREFIX}/bin/certmond")
    for name in SERVICES:
        shutil.copy(REPOSITORY / "systemd" / name, machine.path(UNITS))
    shutil.copy(REPOSITORY / "systemd/certmond.sysusers", machine.path("/usr/lib/sysusers.d/certmond.conf"))
    machine.run("systemd-sysusers", "certmond.conf")
    # It represents multi-user.target. systemd unloads a unit without a dependent when it stops, with its results.
    machine.path(f"{UNITS}/{TARGET}").write_text(f"[Unit]\nWants={' '.join(SERVICES)}\n")
    machine.systemctl("daemon-reload")


def _needed() -> list[Distribution]:
    """Return certmond and its requirements: those that each package declares, except for extras."""
    found = {"certmond": distribution("certmond")}
    waiting = list(found.values())
    while waiting:
        for requirement in map(Requirement, waiting.pop().requires or ()):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                waiting.append(found[requirement.name])
    return list(found.values())
