"""Tries everything that a service has no business to do, and prints as JSON what came of it.

It is run in the place of certmond, inside the sandbox of its unit, and once without any: what is refused inside has to
be possible outside, or the refusal proves nothing. It needs the standard library, and certmond only where it tries what
that does. Where a call could do harm, it is made with arguments that the kernel refuses with another error than EPERM,
so that EPERM is the sandbox's own answer.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

NEWNS, NEWUSER = 0x20000, 0x10000000
PTRACE_SEIZE = 0x4206
DIRECTORIES = (
    "/", "/boot", "/dev", "/dev/shm", "/etc", "/etc/certmond", "/etc/kubernetes", "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki", "/home", "/opt", "/proc/self", "/root", "/run", "/run/certmond", "/run/lock",
    "/run/systemd/system", "/srv", "/sys", "/sys/fs/cgroup", "/tmp", "/usr/bin", "/usr/lib/certmond", "/var/lib",
    "/var/lib/certmond", "/var/lib/kubelet", "/var/lib/kubelet/pki", "/var/log", "/var/tmp",
)  # fmt: skip
libc = ctypes.CDLL(None, use_errno=True)


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def write_into(directory: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=directory)
    os.close(descriptor)
    os.unlink(name)


def mounted() -> set[str]:
    """Every directory that something is mounted on."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {each for each in (line.split()[4] for line in lines) if Path(each).is_dir()}


def listen(family: socket.AddressFamily, address: tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()


def listen_unbound(family: socket.AddressFamily) -> None:
    """The kernel chooses the port, or for AF_UNIX none: no bind(2) is needed for that."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.listen()


def listen_unix() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0certmond-probe")
        listener.listen()


def accept() -> None:
    """Of a socket that does not listen: the kernel's own answer is EINVAL."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.accept()


def connect() -> None:
    """To where certmond-web listens, while that runs."""
    socket.create_connection(("127.0.0.1", 9964), 5).close()


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)


def in_child(action: Callable[[], None]) -> None:
    """What cannot be undone is done by a child."""
    child = os.fork()
    if not child:
        try:
            action()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, "in a child")


def mount() -> None:
    place = tempfile.mkdtemp().encode()
    call("mount", b"none", place, b"tmpfs", 0, None)
    call("umount", place)


def set_suid() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4700)


def write_and_execute() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def look(name: str) -> None:
    """Into a directory, where something has to be seen."""
    if not os.listdir(name):
        raise FileNotFoundError(errno.ENOENT, "empty", name)


def read(name: str) -> None:
    Path(name).read_bytes()


def have_a_second() -> None:
    """As certmond has one at its start; all that can be done there is done there."""
    from certmond.files import forked_worker as second

    second.MIN_ITEMS = second._MIN_PIECE = 1
    second._Worker.claims_piece = lambda _: False  # type: ignore[assignment,method-assign]
    os.sched_getaffinity = lambda _: {0, 1}
    if os.getpid() in second.in_two_processes([0, 1], lambda _: os.getpid()):
        raise OSError(errno.EPERM, "it did nothing")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "listen on TCP": lambda: listen(socket.AF_INET, ("127.0.0.1", 0)),
    "listen on TCP over IPv6": lambda: listen(socket.AF_INET6, ("::1", 0)),
    "listen on our port": lambda: listen(socket.AF_INET, ("127.0.0.1", 9964)),
    "listen on TCP, on whatever port": lambda: listen_unbound(socket.AF_INET),
    "listen on a UNIX socket": listen_unix,
    "accept a connection": accept,
    "connect over TCP": connect,
    "connect to the system bus": lambda: connect_unix("/run/dbus/system_bus_socket"),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "see process 1": lambda: os.stat("/proc/1"),
    "signal process 1": lambda: os.kill(1, 0),
    "trace process 1": lambda: in_child(lambda: call("ptrace", PTRACE_SEIZE, 1, None, None)),
    "read the memory of process 1": lambda: read("/proc/1/auxv"),
    "read the command line of process 1": lambda: read("/proc/1/cmdline"),
    "read the program of process 1": lambda: os.readlink("/proc/1/exe"),
    "mount": mount,
    "make a mount namespace": lambda: in_child(lambda: call("unshare", NEWNS)),
    "make a user namespace": lambda: in_child(lambda: call("unshare", NEWUSER)),
    "change the root": lambda: in_child(lambda: os.chroot("/usr")),
    "set the clock": lambda: call("clock_settime", 0, (ctypes.c_long * 2)(-1, 0)),
    "load a module": lambda: call("init_module", None, 0, None),
    "make a device": lambda: os.mknod(f"{tempfile.gettempdir()}/probe-device", 0o20600, os.makedev(1, 3)),
    "give a file away": lambda: os.chown(tempfile.mkdtemp(), 1, 1),
    "become another user": lambda: in_child(lambda: os.setuid(1)),
    "set-user-ID on a file": set_suid,
    "real-time priority": lambda: in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "memory that is written and executed": write_and_execute,
    "change the personality": lambda: in_child(lambda: call("personality", 8)),
    "read a key of root's": lambda: read("/etc/kubernetes/pki/ca.key"),
    "read the kubelet's key": lambda: read("/var/lib/kubelet/pki/kubelet-client-current.pem"),
    "write a key of root's": lambda: Path("/etc/kubernetes/pki/ca.key").open("ab").close(),
    "read the boot ID": lambda: read("/proc/sys/kernel/random/boot_id"),
    "read what was rendered": lambda: read("/run/certmond/status.json"),
    "have a second process": have_a_second,
    "look into /etc/kubernetes": lambda: look("/etc/kubernetes"),
    "look into /var/lib/kubelet": lambda: look("/var/lib/kubelet"),
    "look into /var/lib/certmond": lambda: os.listdir("/var/lib/certmond"),
}


def main() -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    report = {
        "user": os.getuid(),
        "capabilities": {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "no_new_privileges": status["NoNewPrivs"] == "1",
        "processes": sorted(each for each in os.listdir("/proc") if each.isdecimal() and int(each) != os.getpid()),
        "homes": [attempt(partial(look, each)) for each in ("/home", "/root")],
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "mnt", "net", "user")},
        "writable": {
            each: [os.stat(each).st_dev, os.stat(each).st_ino]
            for each in sorted({*DIRECTORIES, *mounted()})
            if attempt(partial(write_into, each)) == "done"
        },
        "attempts": {name: attempt(action) for name, action in ATTEMPTS.items()},
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    signal.alarm(30)
    main()
