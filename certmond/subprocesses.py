"""Execution of a child process with limits on its run time and its output. The child ends before the call returns.

No message quotes arguments, input or output, because this data might contain secrets.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from datetime import timedelta
from io import RawIOBase
from typing import Self

from certmond.errors import RefusedError, UnreachableError, UntrustedError
from certmond.immutable_class import immutable
from certmond.path_trust import distrust
from certmond.pki.findings import printable
from certmond.redaction import redacted

MAX_OUTPUT = 1 << 20
"""Maximum number of bytes of standard output. No certificate with its chain is larger."""

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_TURN = 0.5  # seconds; `run` must call `alive` every second
_FIRST_VICTIM = """
from contextlib import suppress
with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
"""
"""Start of a Python program that the kernel kills before this process if the memory is not sufficient (proc(5))."""
_CHUNK, _PIPE = 1 << 16, 1 << 20  # bytes; the second is the default maximum capacity of a pipe (pipe(7))


@immutable
class Ended:
    """Result of a program: its exit status, its standard output (`output`), and its standard error (`said`).

    If a signal ended the program, `status` is the negated number of the signal.
    """

    status: int
    output: bytes = field(repr=False)
    said: bytes = field(repr=False)


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    time_limit: timedelta,
    alive: Callable[[], None],
    given: bytes = b"",
) -> Ended:
    """Run `command` with `given` on standard input, and return the result. Call `alive` at least every second.

    Raises UntrustedError if an untrusted user can change the program. Raises UnreachableError if the program cannot run
    or exceeds `time_limit`. Raises RefusedError if the program writes more than `MAX_OUTPUT` bytes to standard output.
    """
    program = command[0]
    try:
        executable = resolved(program)
        if why := distrust((executable, *command[1:])):
            raise UntrustedError(f"{why}; until then, certmond does not run {program}")
        # A file in memory instead of a pipe: a write does not block if the program does not read.
        with open(os.memfd_create("given"), "r+b", buffering=0) as given_file:
            given_file.write(given)
            given_file.seek(0)
            child = subprocess.Popen(
                command, executable=executable, stdin=given_file, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                bufsize=0, cwd="/", env={**_surroundings(), **environment}, umask=0o077, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        remedy = "install the program, and make it executable"
        raise UnreachableError(f"certmond cannot run {program} ({error.strerror}); {remedy}") from error
    except ValueError:
        raise UnreachableError(
            f"certmond cannot run {program}: an argument or a variable contains a NUL character, or the name of a "
            "variable contains '='; correct the configuration of the program"
        ) from None
    with child:
        try:
            with _Ear(child, program, alive) as ear:
                ended = ear.listen(time_limit.total_seconds())
                if not ended:
                    os.killpg(child.pid, signal.SIGTERM)
                    ear.listen(_GRACE)
        finally:
            # The child's pid is reserved until wait(2), so the signal reaches only processes that the child started.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if not ended:
        detail = f"{program} did not end within {time_limit.total_seconds():g} s"
        raise UnreachableError(f"{detail}; find what the program waits for, or set a longer time_limit")
    return Ended(child.returncode, bytes(ear.output), bytes(ear.said))


def run_python(program: str, time_limit: timedelta, given: bytes, alive: Callable[[], None] = lambda: None) -> Ended:
    """Run a Python program in a new process that can import the modules of this process.

    Raises the errors of `run`. Raises OSError if this process has no free descriptor, or ignores SIGCHLD.
    """
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYDANTIC_DISABLE_PLUGINS": os.environ.get("PYDANTIC_DISABLE_PLUGINS", ""),
    }
    command = (sys.executable, "-P", "-s", "-c", f"{_FIRST_VICTIM}{program}")
    return run(command, environment, time_limit, alive, given)


def exposures(commands: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a message for each command that certmond refuses to run.

    certmond refuses a command if an untrusted user can change a file of this command. The keys of `commands` name the
    purposes of the commands. Skip a command whose program is missing.
    """
    for what, command in commands.items():
        with suppress(OSError):
            if why := distrust((resolved(command[0]), *command[1:])):
                yield f"{what}: {why}"


def resolved(program: str) -> str:
    """Return the absolute path of a program. Search PATH for a name without a slash.

    Raises FileNotFoundError if PATH contains no such program.
    """
    if "/" in program:
        return os.path.join("/", program)  # a child starts in /
    import shutil  # noqa: PLC0415 - only to search PATH

    if found := shutil.which(program, path=_surroundings()["PATH"]):
        return os.path.abspath(found)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def first_line(text: bytes) -> str:
    """Return the first non-empty line as printable text of at most 200 characters, without private keys."""
    lines = redacted(text.decode("utf-8", "replace")).splitlines()
    return printable(next(filter(None, map(str.strip, lines)), ""))[:200]


class _Ear:
    """Reader of the output of a child process until the process ends."""

    def __init__(self, child: subprocess.Popen[bytes], program: str, alive: Callable[[], None]) -> None:
        self.output, self.said = bytearray(), bytearray()
        self._program = program
        self._alive = alive
        self._end = os.pidfd_open(child.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._end, selectors.EVENT_READ)
        for stream, heard in ((child.stdout, self.output), (child.stderr, self.said)):
            if stream is not None:  # never: both are pipes
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, heard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        os.close(self._end)

    def listen(self, seconds: float) -> bool:
        """Read until the child ends, but at most for `seconds`. Return whether the child has ended.

        Raises RefusedError if the child writes more than MAX_OUTPUT bytes to standard output.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready = [key for key, _ in self._selector.select(min(left, _TURN))]
            self._alive()
            for key in ready:
                if key.data is not None:
                    self._take(key.fileobj, key.data)  # type: ignore[arg-type]  # only pipes are registered with data
            if any(key.data is None for key in ready):
                return True
        return False

    def _take(self, stream: RawIOBase, heard: bytearray) -> None:
        """Read the available output, but limit the number of chunks, because the child might write without a pause.

        Raises RefusedError if the child has written more than MAX_OUTPUT bytes to standard output.
        """
        for _ in range(_PIPE // _CHUNK + 1):
            chunk: bytes | None = stream.read(_CHUNK)
            if chunk is None:  # no more data for now
                return
            if not chunk:  # end of file: the selector would always report the stream as ready
                self._selector.unregister(stream)
                return
            heard += chunk[: MAX_OUTPUT + 1 - len(heard)]
            if len(self.output) > MAX_OUTPUT:
                raise RefusedError(
                    f"{self._program} wrote more than {MAX_OUTPUT} bytes to standard output; reduce this output"
                )


def _surroundings() -> dict[str, str]:
    """Return the environment variables that certmond sets for every program."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": os.path.expanduser("~"), "LANG": "C.UTF-8"}
