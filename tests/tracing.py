"""A process that is stopped at every system call that changes something, for inspection or to kill it, or a call that
fails.

Traces one Python callable in a forked child by ptrace(2); the child itself is not modified. From one stop to the next
at most one system call changes the state: what holds at each stop always holds. Threads and children of the callable
are not traced. The numbers of the calls are from this machine's headers; the rest is the same on every architecture
(Linux 5.3; to let a call fail, 6.16). With CERTMOND_EVERY_STOP=1 no stop is treated as equal to another.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from ctypes import Structure, c_int64, c_uint8, c_uint32, c_uint64
from typing import NoReturn

from tests.conftest import real_part, unavailable
from tests.sampling import EVERY_STOP

Observer = Callable[[str], object]
"""Called at each stop with its name, such as "entry renameat" or "exit renameat", while the child is stopped."""

_CHANGING = re.compile(
    r"open(at2?)?|creat|p?writev?(64|2)?|sendfile(64)?|copy_file_range|rename(at2?)?|link(at)?|symlink(at)?|unlink(at)?"
    r"|mkdir(at)?|rmdir|mknod(at)?|fsync|fdatasync|f?chmod(at2?)?|[fl]?chown(32)?|fchownat|l?f?(set|remove)xattr"
    r"|f?truncate(64)?|fallocate|exit_group"
)
READING = re.compile(r"open(at2?)?|p?read(v2?|64)?|readlink(at)?|[fl]?stat(x|64)?|newfstatat|getdents(64)?|f?statfs")
"""The calls that only read, and the opening for reading."""
_FLAGS_AT = {"open": 1, "openat": 2}  # the argument with the mode of an open; openat2 hides its own
_WRITING = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC

# linux/ptrace.h
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO, _SET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E, 0x4212
_TRACESYSGOOD, _EXITKILL = 1, 1 << 20
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000

_NO_CALL = (1 << 64) - 1  # as the number of a call: no call is made
SHORT = 0
"""In place of an errno: the call is made with half of its bytes, as write(2) may do."""
_LENGTH_AT = 2  # the argument of write(2) that tells how many

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_libc.sched_getcpu.restype = ctypes.c_int


class _SyscallInfo(Structure):
    """The head of struct ptrace_syscall_info, with its content at an entry."""

    _fields_ = [
        ("op", c_uint8), ("pad", c_uint8 * 3), ("arch", c_uint32), ("ip", c_uint64), ("sp", c_uint64),
        ("number", c_uint64), ("arguments", c_uint64 * 6), ("more", c_int64 * 4),
    ]  # fmt: skip

    def fail(self, error: int) -> None:
        """Set the result of the call at its exit: the value, and the error flag."""
        self.number, self.arguments[0] = -error & _NO_CALL, 1


def changes(stop: str) -> bool:
    """Return whether a kill at this stop may leave a state that no earlier one leaves: at the exit of a call, except
    fsync.

    At the entry of a call the state is that of the exit of the last one, unless another thread changed it meanwhile.
    What has reached the disk matters only if the machine fails, too.
    """
    return EVERY_STOP or (stop.startswith("exit ") and stop.removeprefix("exit ") not in {"fsync", "fdatasync"})


def distinct(stops: Sequence[str]) -> list[int]:
    """The first stop, where nothing is done yet, and each that `changes`."""
    return [n for n, stop in enumerate(stops) if n == 0 or changes(stop)]


def record(
    function: Callable[[], object], observer: Observer = lambda _: None, *, calls: re.Pattern[str] = _CHANGING
) -> list[str]:
    """Run `function` to its end in a child. The names of all stops, in their order."""
    stops: list[str] = []

    def note(stop: str) -> bool:
        stops.append(stop)
        observer(stop)
        return True

    status = _run(function, note, calls)
    assert os.WIFEXITED(status), f"the child was ended by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) == 0, "the child failed; its traceback is on standard error"
    return stops


def kill_at(
    function: Callable[[], object],
    n: int,
    observer: Observer = lambda _: None,
    counted: Callable[[str], bool] = lambda _: True,
    *,
    ends: bool = False,
) -> str:
    """Run `function` in a child up to the n-th (from 0) of its `counted` stops, and kill it there. Return the name of
    that stop.

    With `ends`, the child may end before this stop, because its number of stops depends on another process. Then return
    the name of the last stop. A call at whose entry it is killed is not made. One at whose exit it is killed was made.
    """
    stops: list[str] = []

    def note(stop: str) -> bool:
        observer(stop)
        if counted(stop):
            stops.append(stop)
        return len(stops) <= n

    status = _run(function, note)
    if ends and os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the child failed; its traceback is on standard error"
        return stops[-1]
    assert os.WIFSIGNALED(status), f"there are only {len(stops)} stops"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return stops[-1]


def fail_at(function: Callable[[], object], n: int, error: int, *, calls: re.Pattern[str] = _CHANGING) -> str | None:
    """Run `function` to its end in a child, where the n-th (from 0) of its `calls` fails with `error` without an
    effect, or is SHORT.

    Return the name of that call, or None if there are fewer. The child has to end without an error.
    """
    seen: list[str] = []

    def fault(name: str) -> int | None:
        if name != "exit_group":  # which cannot fail
            seen.append(name)
        return error if len(seen) == n + 1 and name == seen[-1] else None

    status = _run(function, lambda _: True, calls, fault)
    assert status == 0, f"with {seen[n : n + 1]} failing the child did not end well; its traceback is on standard error"
    return seen[n] if n < len(seen) else None


def _run(
    function: Callable[[], object],
    go_on: Callable[[str], bool],
    calls: re.Pattern[str] = _CHANGING,
    fault: Callable[[str], int | None] = lambda _: None,
) -> int:
    """Return the child's wait status. It is killed when `go_on` returns False or raises. Calls fail according to
    `fault`.
    """
    names = _calls(calls)
    processors = os.sched_getaffinity(0)
    # Two processes that alternate take half the time on one processor, with half of the kernel's work.
    os.sched_setaffinity(0, {_libc.sched_getcpu()})
    child = os.fork()
    if child == 0:
        _be_traced(function)
    status = None
    try:
        os.waitpid(child, _WALL)
        _ptrace(_SETOPTIONS, child, 0, _TRACESYSGOOD | _EXITKILL)
        name, pending, error = None, 0, None
        while status is None:
            _ptrace(_SYSCALL, child, 0, pending)
            seen = os.waitpid(child, _WALL)[1]
            if not os.WIFSTOPPED(seen):
                status = seen
                break
            pending = os.WSTOPSIG(seen)
            if pending == signal.SIGTRAP | 0x80:
                pending = 0
                info = _SyscallInfo()
                _ptrace(_GET_SYSCALL_INFO, child, ctypes.sizeof(info), ctypes.addressof(info))
                if info.op == _ENTRY:
                    name = _name(names, info, calls)
                    error = fault(name) if name else None
                    if error is not None:
                        _spoil(child, info, error)
                elif error:
                    info.fail(error)
                    _set(child, info)
                if name and not go_on(f"{'entry' if info.op == _ENTRY else 'exit'} {name}"):
                    break
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, _WALL)[1]
        os.sched_setaffinity(0, processors)
    return status


def _be_traced(function: Callable[[], object]) -> NoReturn:
    outcome = 1
    try:
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        function()
        outcome = 0
    except BaseException:  # noqa: BLE001 - no exception may continue into the tests of the parent
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(outcome)


def _spoil(child: int, info: _SyscallInfo, error: int) -> None:
    """Replace the call with none and set its result at its exit, or halve its length."""
    if error == SHORT:
        info.arguments[_LENGTH_AT] = max(info.arguments[_LENGTH_AT] // 2, 1)
    else:
        info.number = _NO_CALL
    _set(child, info)


def _set(child: int, info: _SyscallInfo) -> None:
    try:
        _ptrace(_SET_SYSCALL_INFO, child, ctypes.sizeof(info), ctypes.addressof(info))
    except OSError as error:
        unavailable(f"this kernel does not let a tracer change a system call ({error})")


def _name(names: dict[int, str], info: _SyscallInfo, calls: re.Pattern[str]) -> str | None:
    name = names.get(info.number)
    flags = _FLAGS_AT.get(name or "")
    if flags is None:
        return name
    return name if bool(info.arguments[flags] & _WRITING) == (calls is _CHANGING) else None


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@functools.cache
def _calls(wanted: re.Pattern[str]) -> dict[int, str]:
    command = [real_part("gcc"), "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]
    macros = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = re.findall(r"^#define __NR_(\w+) (\d+)$", macros, re.MULTILINE)
    return {int(number): name for name, number in numbers if wanted.fullmatch(name)}
