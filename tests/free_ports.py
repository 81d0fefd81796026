"""Ports of 127.0.0.1 that no other process takes between their choice and their use.

A port of the ephemeral range can become the source port of any connection of this host, and another worker can choose
the same port. Therefore, a port is below this range (`ip_local_port_range` in ip(7)), and the process holds a lock.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LOWEST = 10_000
_LOCKS = Path(tempfile.gettempdir()) / "certmond-test-ports"


def free_ports(count: int) -> list[int]:
    """Return ports on which no process listens, and which no other call returns while this process runs."""
    found = _locked()
    return [next(found) for _ in range(count)]


def free_port() -> int:
    """Return one port of `free_ports`."""
    return free_ports(1)[0]


def _locked() -> Iterator[int]:
    _LOCKS.mkdir(exist_ok=True)
    highest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(_LOWEST, highest), highest - _LOWEST):
        lock = os.open(_LOCKS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
            socket.create_server(("127.0.0.1", port)).close()
            yield port
            continue
        os.close(lock)
