"""Processes of certmond that begin after the imports.

The imports of certmond take most of the CPU time of a short command. A parent process, one for each worker of pytest,
imports all modules once, and forks a process for each command. The process is a real one: it has its own descriptors,
directory, namespaces and environment, a test can kill it, and it ends like `python -m certmond`. Only the interpreter
and the imports are not its own, so a test of those runs `python -m certmond`: with another user, another interpreter
option, a prefix such as strace, or a variable that the interpreter reads at its start.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import IO, Any

from tests import hurried_certmond

ROOT = Path(__file__).parents[1]
CERTMOND = ("-m", "certmond")
PROGRAMS = (CERTMOND, hurried_certmond.PROGRAM)
"""The arguments of the interpreter for which the parent can fork a process."""
_LONGEST = 1 << 20
"""Bytes of a request."""


class Process:
    """A process of certmond, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, command: Sequence[str], pid: int, status: socket.socket) -> None:
        self.args, self.pid = command, pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, the negative number of the signal that ended the process, or None if it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the result of `poll` after the end. Raises TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            with self._status:
                self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(64)))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    output: IO[Any],
    errors: IO[Any],
    environment: Mapping[str, str],
    program: Sequence[str] = CERTMOND,
    *,
    namespaces: Sequence[str] = (),
) -> Process:
    """Start certmond with these arguments, without an input, and with the working directory of the caller. It joins
    the `namespaces`, which are files of /proc/PID/ns.
    """
    request = {
        "namespaces": [*namespaces],
        "arguments": [*arguments],
        "hurried": tuple(program) == hurried_certmond.PROGRAM,
        "directory": os.getcwd(),
        "environment": dict(environment),
        "umask": _umask(),
    }
    status, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # two messages: the PID, and the status
    with end:
        descriptors = [output.fileno(), errors.fileno(), end.fileno()]
        socket.send_fds(_parent(), [json.dumps(request).encode()], descriptors)
    return Process([*program, *arguments], int(status.recv(64)), status)


def run(
    arguments: Sequence[str],
    timeout: float,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = CERTMOND,
    *,
    namespaces: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Return the result of certmond with these arguments. Raises TimeoutExpired after `timeout` seconds."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        variables = os.environ if environment is None else environment
        process = start(arguments, output, errors, variables, program, namespaces=namespaces)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (output, errors)]
        return subprocess.CompletedProcess(process.args, code, *texts)


def namespaces_of(prefix: Sequence[str]) -> list[str] | None:
    """Return the namespaces that a prefix of `tests.control_plane.namespaces` joins, none for an empty prefix, or None
    if the prefix is another command.
    """
    program, *words = prefix or ["nsenter"]
    options = [word.partition("=") for word in words]
    if Path(program).name != "nsenter" or not {name for name, _, _ in options} <= {"--mount", "--net", "--wd"}:
        return None
    return [path for name, _, path in options if name != "--wd"]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@cache
def _parent() -> socket.socket:
    """Start the parent of all processes of this worker, which ends with the worker. Return the socket for requests."""
    channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
    with other:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded_certmond", str(other.fileno())],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
    atexit.register(process.wait)
    atexit.register(channel.close)
    return channel


# --- the parent -------------------------------------------------------------------------------------------------------


def _import_all() -> None:
    """Import each module of certmond that can be imported here."""
    import certmond

    for module in walk_packages(certmond.__path__, "certmond."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # an extra that is not installed
                import_module(module.name)


def _next_process(channel: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request. Return its request in the forked process, and None when the worker has ended."""
    ends = dict[int, tuple[int, socket.socket]]()
    while True:
        for ready in select.select([channel.fileno(), *ends], [], [])[0]:
            if ready in ends:
                pid, end = ends.pop(ready)
                os.close(ready)
                with end, suppress(BrokenPipeError):
                    end.send(str(os.waitpid(pid, 0)[1]).encode())
                continue
            content, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 3)
            if not content:
                for pid, _ in ends.values():  # the worker was killed before it could end them
                    os.kill(pid, signal.SIGKILL)
                return None
            end = socket.socket(fileno=descriptors.pop())
            if not (pid := os.fork()):
                for descriptor, standard in zip(descriptors, (1, 2), strict=True):
                    os.dup2(descriptor, standard)
                end.detach()
                channel.detach()
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                request: dict[str, Any] = json.loads(content)
                return request
            end.send(str(pid).encode())
            for descriptor in descriptors:
                os.close(descriptor)
            ends[os.pidfd_open(pid)] = pid, end


def _become(request: Mapping[str, Any]) -> None:
    """Take namespaces, directory, environment and arguments of the request."""
    os.environ.clear()
    os.environ.update(request["environment"])
    directory = os.open(request["directory"], os.O_PATH)  # the mounts of the node may cover its path
    for namespace in [os.open(path, os.O_RDONLY) for path in request["namespaces"]]:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):  # os.setns exists since Python 3.12
            raise OSError(ctypes.get_errno(), "setns")
        os.close(namespace)
    os.fchdir(directory)
    os.close(directory)
    os.umask(request["umask"])
    sys.path[0] = request["directory"]
    sys.argv = [str(ROOT / "certmond/__main__.py"), *request["arguments"]]
    if os.environ.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.modules["__main__"].__package__ = "certmond"  # click names the program after it
    if request["hurried"]:
        hurried_certmond.hurry()


def main() -> None:
    """Fork processes until the worker ends; be certmond in each of them."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    from certmond.cli.main import main as certmond

    _import_all()
    gc.collect()
    gc.freeze()
    if request := _next_process(channel):
        _become(request)
        certmond()


if __name__ == "__main__":
    main()
