"""Imitates a process that dies at any instruction that changes a file, without a second process.

From the call at which the fuse blows, every call of this thread that would change a file fails. So the code that
unwinds changes no file. `tracing` kills a real process, which takes much longer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_CHANGING = (
    "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink", "fsync", "fdatasync", "chmod",
    "fchmod", "chown", "fchown", "truncate", "ftruncate", "utime", "write",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """Raised to unwind a process that is dead."""


@contextmanager
def fuse(calls: int | None) -> Iterator[None]:
    """Allow so many changing calls within the block, and none after them; None allows all."""
    if calls is None:
        yield
        return
    thread, left = threading.get_ident(), [calls]

    def counted(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if threading.get_ident() == thread and counts(*args, **named):
                if left[0] <= 0:
                    raise Killed
                left[0] -= 1
            return function(*args, **named)

        return call

    def writes(_path: Any, flags: int, *_: Any, **__: Any) -> bool:
        return bool(flags & _WRITING)

    changed = {name: counted(getattr(os, name), lambda *_, **__: True) for name in _CHANGING}
    changed["open"] = counted(os.open, writes)
    with mock.patch.multiple("os", **changed):  # type: ignore[call-overload]  # a name may be one of its arguments
        yield
